"""Keeps as many replicas of a process as its `Scale` wants: every two seconds it may add or end some.

The broker reports the backlog, and how many replicas all programs have together; the trees of the replicas show how
busy they are, and `policy.scaling` decides how many there should be. A program adds up to its share of them at once,
and takes what the others leave after `OTHERS_FIRST` looks; it ends replicas only above its share. While the broker does
not answer, the number stays. A replica that is ended finishes what it has in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, cast

import trio

from actorwork import events
from actorwork.actors.supervision.child_table import ChildRecord, State
from actorwork.actors.tree.spec import Replicas
from actorwork.actors.tree.walking import actors_of
from actorwork.errors import ChildError, StartError
from actorwork.policy.scaling import Load, Wanted, wanted
from actorwork.runtime.processes.seats import Seats

if TYPE_CHECKING:
    from actorwork.abc import Broker, EventSink
    from actorwork.actors.supervision.supervisor import RunningSupervisor
    from actorwork.runtime.outline import Branch, RemotePart

T = TypeVar("T")

LOOK_EVERY: Final = 2.0
PATIENCE: Final = 5.0
"""Seconds for the broker to answer."""
MEMORY: Final = 0.2
"""The weight of the latest measurement in the utilisation: with one every two seconds, it covers the last ten."""
TRY_AGAIN: Final = 30.0
"""Seconds until another replica is started, when the last one did not start."""
OTHERS_FIRST: Final = 3
"""Looks in which other programs may take up their share, before this one has more than its own."""
_LAST: Final = 0.5
"""Seconds for giving the seats up at the end."""


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
        self._seats = Seats(broker, self._process.title, self._groups, self._process.scale.min)
        self._total = 0
        """The replicas of all programs, as seen last."""
        self._short = 0
        """Looks in a row in which there were fewer replicas than there should be."""

    def __repr__(self) -> str:
        return f"<scaler of {self._process.title!r}: {len(self._running)} replicas>"

    @property
    def _running(self) -> list[ChildRecord]:
        return [record for record in self._group.records if record.state not in (State.STOPPING, State.EMPTY)]

    async def run(self) -> None:
        """Measure and decide, until the system ends."""
        try:
            async with trio.open_nursery() as nursery:
                while not self._is_ending():
                    await trio.sleep(LOOK_EVERY)
                    running = self._running
                    load = await self._measured(running)
                    if load is None or not running or self._starting or self._is_ending():
                        continue  # Replicas that are starting have not shown yet whether they suffice.
                    change = await self._asked("sharing replicas of", partial(self._change, len(running), load))
                    if change is None or change.replicas == len(running):
                        continue
                    self._changed = trio.current_time()
                    self._emit(events.Scaled(self._process.title, len(running), change.replicas, change.reason))
                    for number in self._free_numbers(change.replicas - len(running)):
                        self._starting.add(number)
                        nursery.start_soon(self._add, number)
                    for record in running[change.replicas :]:
                        nursery.start_soon(self._remove, record)
        finally:
            with trio.move_on_after(_LAST, shield=True), suppress(Exception):  # They run out by themselves.
                await self._seats.release()

    # ---- deciding ----

    async def _change(self, replicas: int, load: Load) -> Wanted:
        """Return how many replicas this program should have, whose seats are taken if these are more."""
        scale, now, seats = self._process.scale, trio.current_time(), self._seats
        seated = await seats.keep(replicas, scale.max)
        total = await seats.total()
        if seated < replicas:
            return Wanted(max(seated, scale.min), f"other programs have taken the place of {replicas - seated}")
        if replicas < scale.min:
            return Wanted(replicas + await seats.add(scale.min - replicas, scale.max), f"at least {scale.min}")
        if total != self._total:
            # Whichever program it was: what has just been added has not shown yet whether it suffices.
            if self._total:
                self._changed = max(self._changed, now)
            self._total = total
        decision = wanted(scale, load, total, quiet=now - self._changed)
        here = "" if total == replicas else f"; {total} replicas in all programs"
        if decision.replicas < total:
            self._short = 0
            if replicas == scale.min:
                return Wanted(replicas, "")
            least = max(scale.min, await seats.share(decision.replicas), replicas - (total - decision.replicas))
            fewer = min(replicas, least)
            await seats.keep(fewer, scale.max)
            return Wanted(fewer, f"{decision.reason}{here}")
        if decision.replicas == total:
            self._short = 0
        elif now >= self._grow_at:
            self._short += 1
            more = decision.replicas - total
            if self._short <= OTHERS_FIRST:
                more = min(more, await seats.share(decision.replicas) - replicas)
            return Wanted(replicas + await seats.add(max(0, more), decision.replicas), f"{decision.reason}{here}")
        return Wanted(replicas, "")

    # ---- measuring ----

    async def _measured(self, running: Iterable[ChildRecord]) -> Load | None:
        self._utilisation += (self._busy_part(list(running)) - self._utilisation) * MEMORY
        if self._starting:
            # Their seats must not run out however long they take to start.
            await self._asked(
                "keeping replicas of", partial(self._seats.keep, self._seats.held, self._process.scale.max)
            )
            return None
        return await self._asked("asking for the backlog of", self._load)

    async def _load(self) -> Load:
        broker, backlog = self._broker(), 0
        oldest: float | None = None
        for source, groups in sorted(self._groups.items()):
            # Of these actors alone: what an actor elsewhere has not settled is not for them.
            backlog += max([await broker.backlog(source, group) for group in groups])
            for group in groups:
                age = await broker.oldest(source, group)
                oldest = age if oldest is None else max(oldest, age or 0.0)
        return Load(backlog, oldest, self._utilisation)

    async def _asked(self, doing: str, ask: Callable[[], Awaitable[T]]) -> T | None:
        """Ask the broker for something; None if it does not answer, which is reported once."""
        result: T | None = None
        try:
            with trio.move_on_after(PATIENCE) as patience:
                result = await ask()
        except Exception as error:  # noqa: BLE001 - whatever a broker raises, it is asked again
            self._trouble(doing, f"{type(error).__name__}: {error}")
            return None
        if patience.cancelled_caught:
            self._trouble(doing, f"it did not answer within {PATIENCE:g} s")
            return None
        self._is_troubled = False
        return result

    def _trouble(self, doing: str, error: str) -> None:
        if not self._is_troubled:
            self._is_troubled = True
            what = f"{doing} {self._process.title}"
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
