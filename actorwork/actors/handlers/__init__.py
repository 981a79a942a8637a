"""Which handler takes a message.

table        the handlers of a class, by type and by name on the wire
behaviour    which table an actor uses now: its class's, or that of `become`
rules        what decorators note on a handler
"""
