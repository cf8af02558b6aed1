"""Events on their way from the engine to the client."""
