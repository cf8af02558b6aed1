"""Who goes next, and when: the queue in front of the engine's slots."""
