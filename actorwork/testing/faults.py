"""Faults to be injected: what goes wrong in production once a year happens now, as often as the test wants.

    crash_at_start    `startup` raises
    lose_settlement   a settlement is lost on its way, or its reply on the way back
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
from actorwork.actors.tree.hooks import settings_of


class InjectedCrash(Exception):
    """What `crash_at_start` raises."""


class Loss(enum.Enum):
    """Which part of a settlement is lost."""

    ORDER = "order"
    REPLY = "reply"


class Faults:
    """The faults that are to happen. Pass it to `open_test_system`, or use that of a system: `system.faults`."""

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
        """Let the next starts of an actor raise `InjectedCrash` instead of running its `startup`.

        Before the system is opened, this means its first start. The class itself is patched while a system is open, so
        spawned actors fail too.
        """
        self._starts[actor] += times
        if self._systems:
            self._patch(actor)

    def lose_settlement(self, actor: type[Actor], *, times: int = 1, applied: bool = False) -> None:
        """Lose the next settlements of an actor.

        By default the order is lost, since the node was taken for dead: nothing takes effect (nor what was
        published), and the message is delivered again, its crash counted. With `applied` it is the reply that is lost:
        everything takes effect, once, and the node tries again in vain. Either way the node reports `Fenced`.
        """
        self._losses.setdefault(actor.settings.id, []).extend([Loss.REPLY if applied else Loss.ORDER] * times)

    def deliver_twice(self, actor: type[Actor], *, times: int = 1) -> None:
        """Deliver the next messages of an actor twice; each delivery is settled by itself."""
        self._doubles[actor.settings.id] += times

    # ---- for the broker and the system ----

    def next_loss(self, group: str) -> Loss | None:
        """Return which part of a settlement is to be lost, and count it as happened."""
        losses = self._losses.get(group)
        return losses.pop(0) if losses else None

    def next_double(self, group: str) -> bool:
        """Return whether a message is to be delivered twice, and count it as happened."""
        if not self._doubles[group]:
            return False
        self._doubles[group] -= 1
        return True

    @contextmanager
    def installed(self) -> Generator[None]:
        """Patch the classes whose starts are to crash, until the last system with these faults is closed."""
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
                raise InjectedCrash(f"{settings_of(actor).title!r} was told to crash at its start")
            await startup(self)

        self._patched[actor] = vars(actor).get("startup")
        actor.startup = crash_or_start
