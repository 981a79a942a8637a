"""Actors: what they are, how a message reaches a handler, and what keeps them alive.

Read it downwards: a file imports only from lines below its own (a contract of import-linter holds that). What a file
needs of something above it, it declares as a Protocol.

    life            an actor's cell, its incarnations, its place at the broker: where the parts are put together
    functions       @actor, which makes an actor class of a function
    actor           the base class of every actor
    decorators      @retry, @timeout, @rate_limit, @circuit_breaker
    execution       how an item of the mailbox is handled, to its settlement or its reply
    context         what an actor uses while it runs: `self.context`
    limits, refs    what holds deliveries back; how actors speak to, watch and find each other
    supervision     supervisors: starting, restarting and ending children
    mailbox         where messages wait
    handlers, tree  which handler takes a message; descriptions of trees
    bridge          the asyncio loop of an actor
    wakeups, crash  where one task waits for another; how an actor's end travels to its supervisor
"""
