"""Has a node obey what is paused at its broker.

    the broker tells ──▶ look ──▶ feeds are told which sources to leave alone ──▶ readers stop, what waits is handed
    back
                                 └▶ the scheduler looks again

A pause is known before the node reads for the first time. Later ones are told by the broker; where it may fail to
tell, the node looks again at the `status_check_interval` of its actors, and every second where it cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

import trio

from actorwork.abc import EventSink, Pauses
from actorwork.actors.life.consumer import Consumer
from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble, PausesChanged
from actorwork.message import Pause
from actorwork.policy.pauses import is_off, withheld

AGAIN: Final = 1.0
"""Seconds until a look that failed is tried again; also between two looks of a node that cannot be told."""


class Pausing:
    """What is paused, as one node knows it. Implements `actorwork.triggers.scheduler.Status`."""

    def __init__(self, pauses: Pauses, consumers: Iterable[Consumer], emit: EventSink, interval: float) -> None:
        self._pauses = pauses
        self._consumers = tuple(consumers)
        self._emit = emit
        self._interval = math.inf if pauses.is_certain else interval
        self._known: tuple[Pause, ...] = ()
        self._looked_at = -math.inf
        self._news = trio.Event()
        self.changed: Callable[[], object] = _nobody_is_told
        """Called when something else is paused than before."""

    def __repr__(self) -> str:
        return f"<Pausing: {', '.join(map(str, self._known)) or 'nothing'}>"

    @property
    def age(self) -> float:
        return trio.current_time() - self._looked_at if self._interval < math.inf else 0.0

    def is_off(self, actor: str, trigger: str) -> bool:
        return bool(self._known) and is_off(self._known, actor=actor, trigger=trigger)

    async def look(self) -> None:
        """Ask the broker what is paused, and obey; raises `BrokerError`."""
        began = trio.current_time()
        found = tuple(await self._pauses.list())
        self._looked_at = began
        before, self._known = self._known, found
        old, new = {(one.kind, one.name) for one in before}, {(one.kind, one.name) for one in found}
        if old == new:
            return
        for consumer in self._consumers:
            subscription = consumer.subscription
            consumer.pause_sources(withheld(found, actor=subscription.actor, sources=subscription.sources))
        self._emit(
            PausesChanged(
                tuple(one for one in found if (one.kind, one.name) not in old),
                tuple(one for one in before if (one.kind, one.name) not in new),
            )
        )
        self.changed()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Obey until cancelled; started once what is paused already is obeyed."""
        async with self._pauses.watch(self._tell) as is_told:
            if not is_told:
                self._interval = AGAIN
            while True:
                pause = self._interval
                self._news = trio.Event()
                try:
                    await self.look()
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                except BrokerError as error:
                    self._emit(BrokerTrouble("looking what is paused", str(error), f"again in {AGAIN:g} s"))
                    pause = AGAIN
                with trio.move_on_after(pause):
                    await self._news.wait()

    def _tell(self) -> None:
        self._news.set()


def _nobody_is_told() -> None:
    pass
