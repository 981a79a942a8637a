"""Which faults happen and when, drawn from one seed: the same seed gives the same plan.

The plan does not depend on the run: a victim is a number, which the act takes modulo the processes that it has. So a
plan can be printed, read, and repeated.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Set as AbstractSet
from typing import Final

import attrs

WEIGHTS: Final[Mapping[str, int]] = {
    # processes
    "kill a node": 6,
    "kill a child process": 4,
    "freeze a node": 5,
    "freeze a child process": 3,
    "stop a node": 4,
    "stop a node by force": 2,
    "crash at a point": 8,
    "send poison": 2,
    "kill a producer": 3,
    "send many at once": 3,
    # the network
    "cut": 4,
    "cut in mid reply": 4,
    "cut after a request": 4,
    "half-close": 2,
    "black hole": 3,
    "late replies": 2,
    "replies in pieces": 2,
    "refuse connections": 2,
    # the server
    "pause the server": 3,
    "kill the server": 3,
    "restart the server": 2,
    "forget scripts": 1,
    "kill all clients": 2,
    "destroy the group": 1,
    # what it forgets
    "flush everything": 4,
    "delete the source": 2,
    # where things are in a cluster
    "move a slot": 5,
    "fail over": 4,
    # what its members say to each other
    "part two primaries": 3,
    "late gossip": 2,
    "cut a primary off": 2,
}

PROCESSES: Final = frozenset(list(WEIGHTS)[:10])
NODES: Final = frozenset(list(WEIGHTS)[:7])
WIPES: Final = frozenset({"flush everything", "delete the source"})
NETWORK: Final = frozenset(list(WEIGHTS)[10:18])
MEMBERS: Final = frozenset(list(WEIGHTS)[-5:])
"""The faults that only a cluster has."""
OF_CHAOS: Final = frozenset({"send poison", "kill a producer", "send many at once", "destroy the group"})
"""The faults that concern the messages of `workers`."""
KINDS: Final[Mapping[str, AbstractSet[str]]] = {
    "kept": WEIGHTS.keys() - WIPES - MEMBERS,
    "forgetful": WEIGHTS.keys() - MEMBERS,
    "embedded": PROCESSES,
    "cluster": WEIGHTS.keys() - WIPES,
    "chords": NODES,
    "embedded chords": NODES,
    "cluster chords": WEIGHTS.keys() - WIPES - OF_CHAOS,
    "entities": NODES,
    "embedded entities": NODES,
    "cluster entities": WEIGHTS.keys() - WIPES - OF_CHAOS,
}
"""The faults of each act."""

CRASH_AT_REDIS: Final = (
    "handler.begun",
    "handler.returned",
    "read.replied",
    "settle.before",
    "settle.after",
    "take_over.before",
    "take_over.after",
    "lease.renew",
    "wire.sent",
)
CRASH_BETWEEN_SLOTS: Final = ("outbox.before", "outbox.sent", "outbox.after")
CRASH_WITH_STATES: Final = ("state.before", "state.after")
CRASH_EMBEDDED: Final = ("handler.begun", "handler.returned", "commit.before", "commit.after")


@attrs.frozen
class Fault:
    """One fault, `pause` seconds after the one before."""

    name: str
    pause: float
    victim: int
    seconds: float
    """How long the fault lasts, for kinds that last."""
    size: int
    """Number of bytes, for kinds that cut or split."""
    point: str
    """The failpoint, for "crash at a point"."""

    def __str__(self) -> str:
        return f"+{self.pause:.2f} {self.name} (victim {self.victim}, {self.seconds:.2f} s, {self.size}, {self.point})"


def faults(seed: int, *, act: str) -> Iterator[Fault]:
    """Yield faults without end.

    `act` is one of "kept" (the server forgets nothing), "forgetful", "embedded" (faults of processes only), "cluster",
    or "chords" and "entities", which have nothing but faults of nodes at one server and at the embedded broker, and all
    but wipes on a cluster.
    """
    dice = random.Random(f"{seed}/{act}")
    names = [name for name in WEIGHTS if name in KINDS[act]]
    weights = [WEIGHTS[name] for name in names]
    points = CRASH_EMBEDDED if act.startswith("embedded") else CRASH_AT_REDIS
    if act.startswith("cluster"):
        points = (*points, *CRASH_BETWEEN_SLOTS)
    if act.endswith("entities"):
        points = (*points, *CRASH_WITH_STATES)
    while True:
        (name,) = dice.choices(names, weights)
        yield Fault(
            name,
            pause=dice.uniform(0.05, 0.8),
            victim=dice.randrange(1000),
            # Mostly short, at times longer than a lease.
            seconds=dice.choice((0.1, 0.3, 0.8, 1.5, 2.5)),
            size=dice.choice((1, 7, 100, 1000, 10_000)),
            point=f"{dice.choice(points)}:{dice.choice((1, 2, 3, 5, 10, 30, 100))}",
        )
