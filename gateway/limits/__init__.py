"""What a key may spend: requests and tokens per minute, tokens per day, requests at a time."""
