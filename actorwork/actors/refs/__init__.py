"""Refs: the addresses of actors, and what connects actors with each other.

pool.py       a ref that picks a member of a pool for each message
links.py      an actor's watches, links, names and topics
registry.py   which actor has which name
topics.py     which actors subscribe to which topic
watching.py   the messages about the end of a watched actor
ref.py        a ref: `tell` and `ask`
"""
