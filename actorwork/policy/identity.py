"""The identity of an actor or of a trigger: derived from its title alone, so the same on every host and forever."""

import hashlib


def identity(title: str) -> str:
    """Return the id for a title: the first 16 hexadecimal characters of its SHA-256."""
    return hashlib.sha256(title.encode()).hexdigest()[:16]


def default_source(actor_id: str) -> str:
    """Return the name of the actor's own stream."""
    return f"worker:{actor_id}:source"
