"""What a body may hold: bytes to JSON, fields, messages, tools, media, schemas."""
