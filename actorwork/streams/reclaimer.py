"""Maintains the sources of a set: promotes due messages, takes over released entries and those of dead nodes.

One script (lua/maintain.lua) does all of it, once a second and at the moment at which the next message is due. No
decision depends on idle times: an entry is taken over when it was released, or when the lease of its owner is gone.

Entries that are taken over reach the sink as those that are read. The script call is shielded for two seconds: if the
task stopped waiting for the reply, the entries would be pending under our name without our knowledge. If the reply is
lost all the same, `recover` looks for them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NoReturn

import trio

from actorwork.events import BrokerAdvice, BrokerTrouble, DeadLettered, Reclaimed
from actorwork.failpoints import failpoint
from actorwork.message import Priority
from actorwork.policy.crashes import LEFT_TO_OTHERS, alone_from, limit_of
from actorwork.streams import keys, scripts
from actorwork.streams.entries import bounds_of
from actorwork.streams.in_flight import InFlightEntries
from actorwork.streams.keys import RELEASED
from actorwork.streams.source_set import SourceSet
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import InvalidResponse, RedisError, ResponseError
from actorwork.streams.transport.wire import is_list_of

_EVERY: Final = 1.0
_SPACING: Final = 0.01
"""Seconds between two calls of the script, at least: messages that become due in between are promoted together."""
_PATIENCE: Final = 2.0
_LARGEST_CLAIM: Final = 500
_SHORT_TOO_OFTEN: Final = 3
_REPORTED: Final = 14
"""How many values lua/maintain.lua returns for each stream."""
_BEFORE: Final = failpoint("take_over.before")
_AFTER: Final = failpoint("take_over.after")


class Reclaimer:
    """Maintains one source set until cancelled. Cancelled: a run in progress is finished, within two seconds."""

    def __init__(
        self,
        client: RedisClient,
        sources: SourceSet,
        *,
        on_no_lease: Callable[[], None],
        on_lost: Callable[[InFlightEntries, Iterable[tuple[bytes, bytes]]], None],
    ) -> None:
        self._client = client
        self._sources = sources
        self._on_lost = on_lost
        self._on_no_lease = on_no_lease
        self._next = math.inf
        self._looked_at = -math.inf
        self._heal_at = 0.0
        self._pause: trio.CancelScope | None = None
        self._turn = 0
        self._dead_from = limit_of(sources.subscription.max_crashes)
        self._alone_from = alone_from(sources.subscription.max_crashes)
        self._held_since: float | None = None
        """Since when suspects wait that this node may not take."""
        self._keepers: set[tuple[str, str]] = set()
        """Foreign groups that were reported, with their sources."""
        sources.maintain_within = self.maintain_within

    def __repr__(self) -> str:
        return f"<Reclaimer of {self._sources!r}>"

    def maintain_within(self, seconds: float) -> None:
        """Request maintenance of all sources of this set within `seconds`. Never waits."""
        at = max(trio.current_time() + seconds, self._looked_at + _SPACING)
        if at < self._next:
            self._next = at
            if self._pause is not None:
                self._pause.deadline = min(self._pause.deadline, at)

    async def run(self) -> NoReturn:
        while True:
            try:
                await self.maintain()
            except RedisError as error:
                doing = f"maintaining {', '.join(self._sources.names[:3])}"
                self._sources.emit(BrokerTrouble(doing, str(error), f"again in {_EVERY:g} s"))
            until = min(trio.current_time() + _EVERY, self._next)
            with trio.CancelScope(deadline=until) as self._pause:
                await trio.sleep_forever()
            self._pause = None

    async def maintain(self) -> None:
        """Run the script once for all sources, and note when the next message is due."""
        sources = self._sources
        async with sources.lock:
            await self._client.wait_connected()
            self._next = math.inf
            incarnation = sources.incarnation
            self._looked_at = now = trio.current_time()
            self._turn += 1
            streams = sources.streams_in_turn(self._turn)
            isolation = sources.isolation
            if not streams:
                isolation.open(self)
                return  # All of them are paused.
            in_flights = [sources.by_stream[stream.encode()] for stream in streams]
            room = min(_LARGEST_CLAIM, sources.room_at(Priority.NORMAL))
            urgent_room = min(_LARGEST_CLAIM, sources.room_at(Priority.CRITICAL)) if sources.urgent else room
            isolation.open_in_time()
            suspects = int(isolation.may_take(self))
            if suspects and room <= 0:
                # Not while something is in flight here: that may be all there is room for.
                suspects = 0
                isolation.open(self)
            if isolation.is_closed:
                room = urgent_room = 0
            is_healing = now >= self._heal_at
            if is_healing:
                self._heal_at = now + _EVERY
            args: list[Any] = [
                sources.group,
                incarnation,
                keys.LEASES,
                RELEASED,
                room,
                urgent_room,
                self._dead_from,
                self._alone_from,
                sources.subscription.actor,
                suspects,
            ]
            for in_flight in in_flights:
                args += (in_flight.keys.prefix, in_flight.cursor if is_healing else b"")
            args += (*bounds_of(sources.subscription.dead_letters), int(sources.subscription.is_told_failures))
            report: Sequence[Any] | None = None
            has_answer = False
            if _BEFORE is not None:
                _BEFORE()
            isolation.begin_reading()
            try:
                with trio.move_on_after(_PATIENCE, shield=True):
                    try:
                        lease = keys.lease(incarnation)
                        report = await self._client.run_script(scripts.MAINTAIN, (lease, *streams), args)
                        has_answer = True
                    except ResponseError:
                        raise
                    except RedisError:
                        pass  # The reply was lost: the script may have run.
                if _AFTER is not None:
                    _AFTER()
                if not has_answer:
                    self._ask_for_recovery()
                elif report is None:
                    self._on_no_lease()
                elif in_flights[0].is_over:
                    # The lease was lost meanwhile. The next run finds what was taken over under the old name.
                    self.maintain_within(0)
                else:
                    if not is_list_of(_REPORTED, report) or len(report) != len(in_flights):
                        raise InvalidResponse(f"maintenance got {report!r:.100} as its reply")
                    self._accept(in_flights, report)
            finally:
                isolation.end_reading()

    def _accept(self, in_flights: Sequence[InFlightEntries], report: Sequence[Any]) -> None:
        sources = self._sources
        due_in = math.inf
        sources.has_more = False
        is_short = are_held = is_taken = False
        levels: dict[str, Sequence[bytes]] = {}
        for in_flight, (
            due,
            more,
            is_missing,
            taken,
            dead_lettered,
            pending,
            used,
            cursor,
            trouble,
            held,
            given_back,
            keepers,
            lost,
            cancelled,
        ) in zip(in_flights, report, strict=True):
            self._tell_of_others(in_flight.source, given_back, keepers)
            if lost:
                self._on_lost(in_flight, zip(lost[::2], lost[1::2], strict=True))
            self._cancel(in_flight.source, cancelled)
            if used:
                levels[in_flight.source] = used
            if cursor:
                in_flight.cursor = cursor
            if trouble:
                doing = f"maintaining {in_flight.source}"
                sources.emit(BrokerTrouble(doing, trouble.decode(errors="replace"), f"again in {_EVERY:g} s"))
            if due >= 0:
                due_in = min(due_in, due / 1000)
            if more:
                sources.has_more = True
            if held:
                are_held = True
            if is_missing:
                sources.interrupt_reader()  # Its next read finds the group missing, and creates it.
            previous: Counter[bytes] = Counter()
            for entry, count, owner, fields in taken:
                crashes = count - 1
                if crashes >= self._alone_from:
                    is_taken = True
                sources.offer(in_flight, ((entry, fields),), count=count, crashes=crashes)
                previous[owner] += 1
            for owner, count in previous.items():
                sources.counters.reclaimed += count
                sources.emit(Reclaimed(in_flight.source, sources.group, owner.decode(), count))
            for message_id, crashes in dead_lettered:
                sources.counters.dead_lettered += 1
                sources.emit(
                    DeadLettered(in_flight.source, sources.group, message_id.decode(errors="replace"), crashes)
                )
            # More entries pending under our name than in flight: once, a reply may be on its way; several times in a
            # row, a reply was lost.
            in_flight.short = in_flight.short + 1 if pending > len(in_flight.deliveries) else 0
            if in_flight.short >= _SHORT_TOO_OFTEN:
                in_flight.short = 0
                is_short = True
        if levels:
            sources.learn(levels)
        if is_short:
            self._ask_for_recovery()
        self._isolate(is_taken=is_taken, are_held=are_held)
        self.maintain_within(due_in)

    def _isolate(self, *, is_taken: bool, are_held: bool) -> None:
        """Close the node for the suspects that wait, and open it when there are none."""
        isolation, now = self._sources.isolation, trio.current_time()
        if is_taken:
            isolation.has_taken()
        elif not are_held and not isolation.is_running:
            isolation.open(self)
        if not are_held:
            self._held_since = None
        elif not isolation.is_closed_for(self):
            self._held_since = now if self._held_since is None else self._held_since
            # A node that is busy leaves them for a moment to one that is not.
            if isolation.is_idle or now - self._held_since >= LEFT_TO_OTHERS:
                isolation.close(self)

    def _cancel(self, source: str, cancelled: Sequence[bytes]) -> None:
        for message_id, note in zip(cancelled[::2], cancelled[1::2], strict=True):
            reason, is_forced = note[1:].decode(errors="replace"), note[:1] == b"1"
            self._sources.subscription.sink.cancel(source, message_id.decode(errors="replace"), reason, force=is_forced)

    def _tell_of_others(self, source: str, given_back: int, keepers: Sequence[bytes]) -> None:
        """Report what others than actors did to the group, and to the stream."""
        emit = self._sources.emit
        if given_back:
            reason = (
                f"{given_back} messages of the group {self._sources.group} were taken from it unsettled: by hand, with "
                "XGROUP DELCONSUMER, XACK or XGROUP SETID"
            )
            emit(BrokerTrouble(f"keeping {source}", reason, "they are delivered again"))
        for name in {keeper.decode(errors="replace") for keeper in keepers}:
            if (source, name) not in self._keepers:
                self._keepers.add((source, name))
                text = f"the group {name!r} of {source!r} is no actor's, and keeps entries that all actors have settled"
                advice = f"let it acknowledge them, or, if it is not used any more, XGROUP DESTROY {source} {name}"
                emit(BrokerAdvice(text, advice, "groups"))

    def _ask_for_recovery(self) -> None:
        self._sources.must_recover = True
        self._sources.interrupt_reader()
        self._sources.isolation.wake()

    async def recover(self) -> None:
        """Offer entries that are pending under our name and never arrived here.

        Only the reader may call this, while it does not read: it would take entries of a reply on its way for lost
        ones.
        """
        sources = self._sources
        async with sources.lock:
            await self._client.wait_connected()
            sources.must_recover = False
            for in_flight in tuple(sources.by_stream.values()):
                room = sources.room_at(in_flight.level)
                args = (sources.group, in_flight.incarnation, room, *in_flight.deliveries)
                has_answer = False
                with trio.move_on_after(_PATIENCE, shield=True):
                    try:
                        more, found, lost = await self._client.run_script(scripts.RECOVER, (in_flight.stream,), args)
                        has_answer = True
                        if lost:
                            self._on_lost(in_flight, [(entry, in_flight.incarnation.encode()) for entry in lost])
                        if in_flight.is_over:
                            return
                        for entry, count, fields in found:
                            if count - 1 >= self._alone_from and sources.isolation.is_closed_for(self):
                                sources.isolation.has_taken()
                            sources.offer(in_flight, ((entry, fields),), count=count, crashes=count - 1)
                        if more:
                            sources.must_recover = True
                    except ResponseError:
                        sources.must_recover = True
                        raise
                    except RedisError:
                        pass
                if not has_answer:
                    sources.must_recover = True
                    return
