"""Which handler takes a message.

table        the handlers of a class, by type and by name on the wire
behaviour    which table an actor uses now: its class's, or that of `become`
declared     what a message declares about its actor and its reply, compared with its handler
annotations  reads annotations, also those that name classes which only a function knows
rules        what decorators note on a handler
"""
