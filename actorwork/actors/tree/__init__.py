"""Trees: frozen descriptions of what runs under which supervisor.

selection.py   the part of a tree that one node runs
walking.py     the root, and the actors and processes in a tree
pool.py        `Pool`
spec.py        `Child`, `Supervisor`, `DynamicSupervisor`, `Process`
checks.py      their validators
hooks.py       what the runtime calls on an actor
"""
