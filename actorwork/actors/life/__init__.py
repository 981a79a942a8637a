"""An actor's life: the top of the house of actors, where its parts are put together.

cell           what survives restarts: identity, mailbox, ref, behaviour, place at the broker
incarnation    what does not: an instance, its executors, its helper tasks
hook_runner    `startup` and `shutdown`, and what `startup` has opened
leftovers      closes the nurseries that an incarnation would leave open
consumer       where an actor meets the broker
open_replies   replies that an incarnation still owes when it ends
stash          messages that it has set aside with `context.stash`
spawned        the actors that an incarnation has spawned
services       what all actors of a system share
"""
