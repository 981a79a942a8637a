"""Actors: what they are, how a message reaches a handler, and who keeps them alive."""
