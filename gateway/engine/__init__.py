"""The engine as requests see it: its door, its slots, its count of tokens, its failures."""
