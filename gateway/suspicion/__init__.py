"""Which requests may kill the engine, and what is done about them."""
