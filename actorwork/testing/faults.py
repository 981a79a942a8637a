"""Faults to be injected: what goes wrong some day in production, now, as often as you say.

    crash_at_start    `startup` raises
    lose_settlement   a settlement gets lost on its way, or its reply on the way back
    deliver_twice     a message is delivered twice

Each names an actor, and happens the next `times` times. Delivery is at least once: a handler that is idempotent
comes through all of them with the same result.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from actorwork.actors.actor import Actor


class InjectedCrash(Exception):
    """What `crash_at_start` raises."""


class Loss(enum.Enum):
    """What gets lost of a settlement."""

    ORDER = "order"
    REPLY = "reply"


class Faults:
    """What shall go wrong. Give it to `open_test_system`, or use the one that it has: `system.faults`."""

    def __init__(self) -> None:
        self._starts: Counter[type[Actor]] = Counter()
        self._losses: dict[str, list[Loss]] = {}
        self._doubles: Counter[str] = Counter()
        self._patched: dict[type[Actor], Any] = {}
        self._systems = 0

    def __repr__(self) -> str:
        return f"<faults to come: {self.pending}>"

    @property
    def pending(self) -> int:
        """How many faults have not happened yet."""
        return self._starts.total() + self._doubles.total() + sum(map(len, self._losses.values()))

    # ---- for tests ----

    def crash_at_start(self, actor: type[Actor], *, times: int = 1) -> None:
        """Let the next starts of an actor fail with `InjectedCrash`, instead of its `startup`.

        Before the system is opened, that is its first start. The class itself is changed while a system is open, so
        actors that are spawned are reached too.
        """
        self._starts[actor] += times
        if self._systems:
            self._patch(actor)

    def lose_settlement(self, actor: type[Actor], *, times: int = 1, applied: bool = False) -> None:
        """Let the next settlements of an actor get lost.

        By default the order is lost, since the node was taken for dead: nothing takes effect (nor what was
        published), and the message is delivered again, its crash counted. With `applied` it is the reply that is lost:
        everything takes effect, once, and the node tries again in vain. Either way the node reports `Fenced`.
        """
        self._losses.setdefault(actor.settings.id, []).extend([Loss.REPLY if applied else Loss.ORDER] * times)

    def deliver_twice(self, actor: type[Actor], *, times: int = 1) -> None:
        """Let the next messages of an actor be delivered twice, each settled for itself."""
        self._doubles[actor.settings.id] += times

    # ---- for the broker and the system ----

    def next_loss(self, group: str) -> Loss | None:
        """Return what is to be lost of a settlement, and count it."""
        losses = self._losses.get(group)
        return losses.pop(0) if losses else None

    def next_double(self, group: str) -> bool:
        """Say whether a message is to be delivered twice, and count it."""
        if not self._doubles[group]:
            return False
        self._doubles[group] -= 1
        return True

    @contextmanager
    def installed(self) -> Generator[None]:
        """Change the classes whose starts shall crash, until the last system that has these faults is closed."""
        self._systems += 1
        try:
            for actor in list(self._starts):
                self._patch(actor)
            yield
        finally:
            self._systems -= 1
            if not self._systems:
                self._restore()

    def _restore(self) -> None:
        for actor, own in self._patched.items():
            if own is None:
                del actor.startup
            else:
                actor.startup = own
        self._patched.clear()

    def _patch(self, actor: type[Actor]) -> None:
        if actor in self._patched:
            return
        starts, startup = self._starts, actor.startup

        async def crash_or_start(self: Actor) -> None:
            if type(self) is actor and starts[actor]:
                starts[actor] -= 1
                raise InjectedCrash(f"{actor.settings.title!r} was told to crash at its start")
            await startup(self)

        self._patched[actor] = vars(actor).get("startup")
        actor.startup = crash_or_start
