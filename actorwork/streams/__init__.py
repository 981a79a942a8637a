"""Redis: the transport, and the broker on top of it."""
