"""A broker in memory, by Trio's clock alone: for tests in virtual time, where hours pass in a moment.

It is the embedded broker on a store in memory, whose turns run on the Trio loop. Each order is carried out at once,
so that what a test sees does not depend on when it looks. No task ticks while nothing is due, so a clock that jumps
reaches the next deadline in one step.

    broker    what the runtime and tests see of it
    node      one incarnation of a process, which a test can pause and kill, and in which faults happen
    writer    runs turns without a thread, by Trio's clock, and wakes when something is due
    store     the embedded store, which also records what is kept, settled and released

A lease needs no renewing here: a node loses it when a test says so (`die`, `pause`, `lose_lease`).
"""

from __future__ import annotations

from actorwork.testing.memory.broker import MemoryBroker as MemoryBroker
from actorwork.testing.memory.node import MemoryNode as MemoryNode
from actorwork.testing.memory.store import Settled as Settled
from actorwork.testing.memory.writer import EPOCH as EPOCH
