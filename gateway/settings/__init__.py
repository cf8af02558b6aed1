"""Every setting, what it may be, and what follows from it. `gateway.config` reads them."""
