"""Decisions, as pure functions: the clock and the dice come in as arguments, nothing is read or written."""
