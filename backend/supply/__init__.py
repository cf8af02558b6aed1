"""Where engine and model come from: found, built, fetched, checked."""
