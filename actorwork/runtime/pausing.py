"""Applies the pauses at the broker to a node, and those of its own configuration (`paused_sources`).

    the broker notifies ──▶ refresh ─┬▶ consumers pause sources ──▶ readers stop, deliveries that wait are released
                                     └▶ the scheduler checks its triggers again

A pause is known before the node reads for the first time. Later the broker notifies the node of changes. Where a
notification may get lost, the node also asks at the `status_check_interval` of its actors; where there are none, every
second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from itertools import chain
from random import SystemRandom
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from actorwork import events
from actorwork.abc import EventSink, Pauses
from actorwork.actors.life.consumer import Consumer
from actorwork.errors import BrokerError
from actorwork.policy.pauses import is_off, named, withheld

if TYPE_CHECKING:
    from actorwork.records import Pause

_chance: Final = SystemRandom()

AGAIN: Final = 1.0
"""Seconds until a question that failed is asked again; also between two, where the broker cannot notify."""

SPREAD: Final = 0.1
"""Part of the interval by which a question may come earlier, at random: nodes that began together drift apart."""


class Pausing:
    """The pauses, as one node knows them. Implements `actorwork.triggers.scheduler.TriggerSwitches`."""

    def __init__(
        self,
        pauses: Pauses,
        consumers: Iterable[Consumer],
        emit: EventSink,
        interval: float,
        *,
        node: str = "",
        process: str = "",
        own: Collection[str] = (),
    ) -> None:
        self._node = node
        self._process = process
        self._pauses = pauses
        self._consumers = tuple(consumers)
        self._emit = emit
        self._interval = math.inf if pauses.is_certain else interval
        self._found: tuple[Pause, ...] = ()
        """What is paused at the broker."""
        self._own = own
        self._known: tuple[Pause, ...] = ()
        self._asked_at = -math.inf
        self._notified = trio.Event()
        self.changed: Callable[[], object] = _do_nothing
        """Called after each change of what is paused."""
        self.looked: Callable[[], object] = _do_nothing
        """Called each time the node has asked what is paused: triggers may have been changed as well.

        They are announced together, and looked at together where an announcement may get lost.
        """

    def __repr__(self) -> str:
        return f"<Pausing: {', '.join(map(str, self._known)) or 'nothing'}>"

    @property
    def is_certain(self) -> bool:
        return self._pauses.is_certain

    @property
    def age(self) -> float:
        return trio.current_time() - self._asked_at if self._interval < math.inf else 0.0

    @property
    def known(self) -> tuple[Pause, ...]:
        """What is paused, as of the last look, at the broker and by the node's own configuration."""
        return self._known

    def is_off(self, actor: str, trigger: str) -> bool:
        return bool(self._known) and is_off(self._known, actor=actor, trigger=trigger)

    async def refresh(self) -> None:
        """Ask the broker what is paused, and apply it; raises `BrokerError` for what may pass.

        Where pauses cannot be read for another reason (another program has written their key), what is known stays as
        it is: that must neither keep a node from starting, nor resume what is paused.
        """
        began = trio.current_time()
        try:
            found = tuple(await self._pauses.list())
        except BrokerError as error:
            if error.may_pass:
                raise
            self._emit(events.BrokerTrouble("asking what is paused", str(error), "going on with what is known"))
            self._asked_at = began
            return
        self._asked_at = began
        self.looked()
        self._found = found
        self._apply()

    def pause_own(self, own: Collection[str]) -> None:
        """Pause these sources on this node, and no others that are not paused at the broker."""
        self._own = own
        self._apply()

    def _apply(self) -> None:
        own = {
            consumer: named(self._own, actor=consumer.subscription.actor, sources=consumer.subscription.sources)
            for consumer in self._consumers
        }
        found = (*self._found, *map(_of_configuration, sorted({*chain(*own.values())})))
        before, self._known = self._known, found
        old, new = {(one.kind, one.name) for one in before}, {(one.kind, one.name) for one in found}
        if old == new:
            return
        for consumer in self._consumers:
            subscription = consumer.subscription
            consumer.pause_sources(
                own[consumer]
                | withheld(
                    self._found,
                    actor=subscription.actor,
                    sources=subscription.sources,
                    node=self._node,
                    process=self._process,
                )
            )
        self._emit(
            events.PausesChanged(
                tuple(one for one in found if (one.kind, one.name) not in old),
                tuple(one for one in before if (one.kind, one.name) not in new),
            )
        )
        self.changed()

    @trio.lowlevel.enable_ki_protection  # A part of the start, as `open_system` is.
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Apply pauses until cancelled; started once those that exist already are applied."""
        async with self._pauses.watch(self._notify) as is_notified:
            if not is_notified:
                self._interval = AGAIN
            while True:
                pause = self._interval * (1 - SPREAD * _chance.random())
                # Before the question: a change while it is asked sets the new event, and is asked for at once.
                self._notified = trio.Event()
                try:
                    await self.refresh()
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                except BrokerError as error:
                    self._emit(events.BrokerTrouble("asking what is paused", str(error), f"again in {AGAIN:g} s"))
                    pause = AGAIN
                with trio.move_on_after(pause):
                    await self._notified.wait()

    def _notify(self) -> None:
        self._notified.set()


def _do_nothing() -> None:
    pass


def _of_configuration(source: str) -> Pause:
    from actorwork.records import Pause  # noqa: PLC0415 - see records.py

    return Pause("source", source, "paused_sources", "the configuration")
