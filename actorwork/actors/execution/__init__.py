"""How items are handled.

executor       the loop that takes items from the mailbox, its cancel scope
deliveries     a delivery, to its settlement
local_calls    a local call, to its reply
guarded        deliveries under limits, in batches, with a retry policy of the handler
batches        where deliveries gather for handlers that take several
threads        handlers without async
variables      keeps the context variables of one message from the next
watchdog       ends handlers that run too long
workplace      what executors use of the actor above them (Protocols)
"""
