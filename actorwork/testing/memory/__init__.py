"""A broker in memory, by Trio's clock alone: for tests in virtual time, where hours pass in a moment.

It keeps what every broker promises (the conformance suite runs over it), within one process and as long as the object
lives. Settlements are applied at once, so that what a test sees does not depend on when it looks. No task ticks while
nothing is due, so a clock that jumps, jumps.

    broker          what the runtime and tests see, and how time passes
    node            one incarnation of a process, which a test can pause and kill
    entries         sources, the groups that read them, who has what in hand, and who waits behind whom
    dead_letters    what nobody could handle
    delayed         what is held back
    triggers        what fires, and what is paused
    values          shared values and locks
    limiter         limits that count for all nodes

A lease needs no renewing here: a node loses it when a test says so (`die`, `pause`, `lose_lease`).
"""

from __future__ import annotations

from actorwork.testing.memory.broker import EPOCH as EPOCH, MemoryBroker as MemoryBroker, Settled as Settled
from actorwork.testing.memory.node import MemoryNode as MemoryNode
