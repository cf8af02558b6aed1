"""The public port: who gets in, in which order, and how bytes flow."""
