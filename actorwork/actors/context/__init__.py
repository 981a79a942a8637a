"""What an actor uses while it runs.

context       `self.context`, and what it needs of the actor above it (Protocols)
current       `current_context()`, for functions without a `self`
in_flight     the message that the current task handles
runs          the runs of workflows that a delivery starts, until it is settled
soft_limits   how much of `soft_timeout` is left to a handler
progress      what handlers report of how far they are
publishing    what a delivery publishes, until it is settled
sending       what `context.client` offers (Protocols)
timers        messages to the actor itself later; timeouts of asks
nursery       an incarnation's helper tasks
logger        the actor's own logger
"""
