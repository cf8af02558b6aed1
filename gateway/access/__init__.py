"""Who may come in: keys against the ring, wrong ones slowed down, revoked ones ended."""
