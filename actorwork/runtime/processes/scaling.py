"""Keeps as many replicas of a process as its `Scale` wants: every two seconds it may add or end some.

The broker reports the backlog, the trees of the replicas show how busy they are, and `policy.scaling` decides. While
the broker does not answer, the number stays. A replica that is ended finishes what it has in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import trio

from actorwork import events
from actorwork.actors.supervision.child_table import ChildRecord, State
from actorwork.actors.tree.spec import Replicas
from actorwork.actors.tree.walking import actors_of
from actorwork.errors import ChildError, StartError
from actorwork.policy.scaling import Load, wanted

if TYPE_CHECKING:
    from actorwork.abc import Broker, EventSink
    from actorwork.actors.supervision.supervisor import RunningSupervisor
    from actorwork.runtime.outline import Branch, RemotePart

LOOK_EVERY: Final = 2.0
PATIENCE: Final = 5.0
"""Seconds for the broker to answer."""
MEMORY: Final = 0.2
"""The weight of the latest measurement in the utilisation: with one every two seconds, it covers the last ten."""
TRY_AGAIN: Final = 30.0
"""Seconds until another replica is started, when the last one did not start."""


class Scaler:
    """Scales one group of replicas; `run` is its task."""

    def __init__(
        self, group: RunningSupervisor, broker: Callable[[], Broker], emit: EventSink, is_ending: Callable[[], bool]
    ) -> None:
        self._group = group
        self._process = cast("Replicas", group.spec).process
        self._broker = broker
        self._emit = emit
        self._is_ending = is_ending
        actors = [child.settings for child in actors_of(self._process, everywhere=True)]
        self._groups: dict[str, set[str]] = {}
        """For each source the actors that read it."""
        for settings in actors:
            for source in settings.all_sources:
                self._groups.setdefault(source, set()).add(settings.id)
        self._at_once = {settings.title: settings.concurrency for settings in actors}
        self._utilisation = 0.0
        self._changed = trio.current_time()
        self._grow_at = 0.0
        self._is_troubled = False
        self._starting: set[int] = set()

    def __repr__(self) -> str:
        return f"<scaler of {self._process.title!r}: {len(self._running)} replicas>"

    @property
    def _running(self) -> list[ChildRecord]:
        return [record for record in self._group.records if record.state not in (State.STOPPING, State.EMPTY)]

    async def run(self) -> None:
        """Measure and decide, until the system ends."""
        async with trio.open_nursery() as nursery:
            while not self._is_ending():
                await trio.sleep(LOOK_EVERY)
                running = self._running
                load = await self._measured(running)
                if load is None or not running or self._starting or self._is_ending():
                    continue  # Replicas that are starting have not shown yet whether they suffice.
                now = trio.current_time()
                decision = wanted(self._process.scale, load, len(running), quiet=now - self._changed)
                more = decision.replicas - len(running)
                if more < 0 or (more > 0 and now >= self._grow_at):
                    self._changed = now
                    self._emit(events.Scaled(self._process.title, len(running), decision.replicas, decision.reason))
                    for number in self._free_numbers(more):
                        self._starting.add(number)
                        nursery.start_soon(self._add, number)
                    for record in running[decision.replicas :]:
                        nursery.start_soon(self._remove, record)

    # ---- measuring ----

    async def _measured(self, running: Iterable[ChildRecord]) -> Load | None:
        self._utilisation += (self._busy_part(list(running)) - self._utilisation) * MEMORY
        broker, backlog = self._broker(), 0
        oldest: float | None = None
        try:
            with trio.move_on_after(PATIENCE) as patience:
                for source, groups in sorted(self._groups.items()):
                    # Of these actors alone: what an actor elsewhere has not settled is not for them.
                    backlog += max([await broker.backlog(source, group) for group in groups])
                    for group in groups:
                        age = await broker.oldest(source, group)
                        oldest = age if oldest is None else max(oldest, age or 0.0)
        except Exception as error:  # noqa: BLE001 - whatever a broker raises, it is asked again
            self._trouble(f"{type(error).__name__}: {error}")
            return None
        if patience.cancelled_caught:
            self._trouble(f"it did not answer within {PATIENCE:g} s")
            return None
        self._is_troubled = False
        return Load(backlog, oldest, self._utilisation)

    def _trouble(self, error: str) -> None:
        if not self._is_troubled:
            self._is_troubled = True
            what = f"asking for the backlog of {self._process.title}"
            what_next = f"the number of replicas stays; asked again every {LOOK_EVERY:g} s"
            self._emit(events.BrokerTrouble(what, error, what_next))

    def _busy_part(self, running: list[ChildRecord]) -> float:
        """Return the share of its concurrency that the busiest actor uses, over all replicas."""
        in_hand: Counter[str] = Counter()
        for record in running:
            for branch in cast("RemotePart", record.member).branches():
                _count(branch, in_hand)
        parts = [in_hand[title] / (most * max(1, len(running))) for title, most in self._at_once.items()]
        return min(1.0, max(parts, default=0.0))

    # ---- changing ----

    def _free_numbers(self, count: int) -> list[int]:
        """Return `count` numbers for new replicas, none of which is in use."""
        used = {record.spec.title for record in self._group.records}
        numbers: list[int] = []
        number = 0
        while len(numbers) < count:
            number += 1
            if self._process.member(number).title not in used:
                numbers.append(number)
        return numbers

    async def _add(self, number: int) -> None:
        try:
            await self._group.handle.start_child(self._process.member(number))
        except (StartError, ChildError):  # Its own events carry the reason; a group that is ending takes no more.
            self._grow_at = trio.current_time() + TRY_AGAIN
        finally:
            self._starting.discard(number)
            self._changed = trio.current_time()

    async def _remove(self, record: ChildRecord) -> None:
        with suppress(ChildError):  # It has just ended by itself, or the group is ending.
            await self._group.handle.terminate_child(record.key)


def _count(branch: Branch, in_hand: Counter[str]) -> None:
    if branch.kind == "actor":
        in_hand[branch.title] += len(branch.in_hand)
    for child in branch.children:
        _count(child, in_hand)
