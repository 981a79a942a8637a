"""Triggers: what sends messages by itself. A room of its own, which knows brokers by their interface only."""
