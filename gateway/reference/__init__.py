"""The API's reference page, docs/api.md: made from the tables that the code itself works with."""
