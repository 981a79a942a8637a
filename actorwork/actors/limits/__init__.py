"""Limits: hold back deliveries until they may begin.

admission.py   the deliveries of an actor that wait, and their order
registry.py    the limiters of a node, shared by name
shared.py      limiters that count over all nodes
limiters.py    limiters of this process: rate, concurrency, circuit breaker
"""
