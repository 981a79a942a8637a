"""Reads: one blocked XREADGROUP over the sources of a set, on a connection of its own.

    recover ──▶ wait for room ──▶ read ──▶ offer ──▶ (again)
                   └── or read urgent messages only, for which some room is reserved

- A reply becomes deliveries in the sink without a checkpoint in between, also while the read is being cancelled: there
  is no moment at which a message can be lost.
- COUNT is the room divided by the number of sources, so a busy source cannot take the room of the others. With less
  room than sources, a script reads as much as there is room for, and each read begins with another source. On a
  cluster, where sources of other slots have readers of their own, busy ones take the room in turn (`SharedRoom`).
- Priorities have streams of their own, which are read once they have been used; until then they cost nothing. From then
  on a script reads first, the most urgent level first, as much as there is room for. So that no level starves, an
  eighth of the room goes to each level that has messages waiting; with room for less than eight, another level begins
  after eight reads.
- A node that handles messages faster than the server applies their settlements reads no more than that: what is read
  ahead of the server is of no use to others, and what waits for the last settlement of a group would wait for the rest.
- With a read for an entity goes the question which states its messages meet (stamps.py).
- When a connection breaks, the entries of its last reply stay pending under our name. Before the next read `recover`
  looks for them, while no other reply is on its way.
- A reader that gets no connection of its own, since the process may open no more files or the server takes no more
  clients, reads over the shared one, twice a second, and tries again every five seconds.
- Where the url limits the connections of readers, those without one read the same way (`ReaderConnections`).
- A group that is gone (restart without persistence, FLUSHALL, XGROUP DESTROY) is created again, at the beginning.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import trio

from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble
from actorwork.failpoints import failpoint
from actorwork.policy.turns import FAVOURS
from actorwork.streams import scripts
from actorwork.streams.in_flight import InFlightEntries
from actorwork.streams.reclaimer import Reclaimer
from actorwork.streams.settler import OTHERS_AT_ONCE
from actorwork.streams.source_set import SharedRoom, SourceSet
from actorwork.streams.transport.client import NoFurtherConnection, RedisClient
from actorwork.streams.transport.exclusive import Exclusive
from actorwork.streams.transport.redis_py import (
    AskError,
    ConnectionError,  # noqa: A004
    InvalidResponse,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004
    is_wrong_type,
)
from actorwork.streams.transport.wire import is_list_of

if TYPE_CHECKING:
    from actorwork.streams.reader_connections import ReaderConnections
    from actorwork.streams.stamps import StampsOfReads

_BLOCK: Final = 5.0
_MOST: Final = 1000
_MOST_BEHIND: Final = 2 * OTHERS_AT_ONCE
"""How many settlements may wait for the server while more is read, and how much is read then. Of entities twice as many
may wait: before their handlers begin, their states are loaded, after what the server settles meanwhile.
"""
_FEW: Final = 64
"""In a room for fewer a reader always asks for its share: turns end with a read that finds nothing."""
_REPLIES_WITHIN: Final = 1.0
"""Seconds that a read which is cancelled, or whose server is silent, is waited for."""
_GROUP_PAUSES: Final = (0.0, 0.05, 0.2, 1.0)
_PATIENCE: Final = 1.0
"""Seconds for which a server that is there may refuse a connection before the shared one is used."""
_SHARED_FOR: Final = 5.0
_SHARED_EVERY: Final = 0.5
_ELSEWHERE_AFTER: Final = 0.05
_MOVING_FOR: Final = 1.0
"""Seconds between two checks whether a slot that is being moved has arrived."""
_QUIET: Final = 5.0
"""Seconds without a missing group after which the pauses start over."""
_REPLIED: Final = failpoint("read.replied")


class Reader:
    """Reads for one source set until cancelled. Cancelled: entries that the server still hands out are offered."""

    def __init__(
        self,
        client: RedisClient,
        sources: SourceSet,
        reclaimer: Reclaimer,
        *,
        on_no_connection: Callable[[SourceSet, Exception], None],
        on_no_stream: Callable[[], Awaitable[bool]],
        room: SharedRoom,
        connections: ReaderConnections | None = None,
    ) -> None:
        self._client = client
        self._connections = connections
        """Those that all readers of the node may have, if they are limited."""
        self._on_no_stream = on_no_stream
        """Called when something is no stream: returns whether it was a shard, and is not read here any more."""
        self._on_no_connection = on_no_connection
        self._sources = sources
        self._key = sources.names[0]
        """Its slot is that of all of them."""
        self._reclaimer = reclaimer
        self._room = room
        self._turn = 0
        self._count = 0
        """How many entries of each stream are asked for."""
        self._is_full = False
        """A stream had as many."""
        self._has_left = False
        """The last read found as many entries as it asked for, in a room for many."""
        self._waiting: trio.CancelScope | None = None
        """Of the wait for the turn to take all the room."""
        self._exclusive: Exclusive | None = None
        self._is_sharing = False
        """It had to read over the shared connection last."""
        self._first_level = _FirstLevel()
        self._reading: Mapping[bytes, InFlightEntries] = {}
        self._stamps: StampsOfReads | None = None
        if sources.subscription.states_known is not None:
            from actorwork.streams.stamps import StampsOfReads  # noqa: PLC0415 - most nodes have no entities

            self._stamps = StampsOfReads(client, sources)
        self._restored = 0
        self._restored_at = 0.0

    def __repr__(self) -> str:
        return f"<Reader of {self._sources!r}>"

    @property
    def _most_behind(self) -> int:
        return _MOST_BEHIND if self._stamps is None else 2 * _MOST_BEHIND

    def interrupt(self) -> None:
        """End the read in progress, so that a change of the source set takes effect."""
        if self._exclusive is not None:
            self._exclusive.interrupt()
        if self._waiting is not None:
            self._waiting.cancel()

    async def run(self) -> NoReturn:
        try:
            await self._run()
        finally:
            if self._connections is not None:
                self._connections.forget(self)

    async def _run(self) -> NoReturn:
        connections = self._connections
        while True:
            try:
                if connections is not None and not connections.take(self):
                    await self._read_on(None, trio.current_time() + _SHARED_FOR)
                    continue
                try:
                    patience = 0.0 if self._is_sharing else _PATIENCE  # Meanwhile nothing is read.
                    async with self._client.open_exclusive(
                        "actorwork-reader", patience=patience, key=self._key
                    ) as exclusive:
                        self._exclusive = exclusive
                        self._is_sharing = False
                        await self._read_on(exclusive)
                except NoFurtherConnection as error:
                    self._is_sharing = True
                    self._on_no_connection(self._sources, error)
                    await self._read_on(None, trio.current_time() + _SHARED_FOR)
            except _HasMoved as moved:
                # No trouble: what was there before is pending wherever the sources are now.
                self._sources.must_recover = True
                self._exclusive = None
                await trio.sleep(_ELSEWHERE_AFTER)
                if moved.is_on_its_way:
                    await self._read_shared_for(_MOVING_FOR)
            except (ConnectionError, TimeoutError, OSError) as error:
                self._sources.must_recover = True
                self._trouble(error, "again on the next connection, beginning with what is pending", is_cut=True)
                await trio.sleep(0.02)
            except BrokerError as error:
                # Credentials or rights were refused. They were valid at the start, so they may be again.
                self._trouble(error, "again in 1 s")
                await trio.sleep(1)
            finally:
                self._exclusive = None
                if connections is not None:
                    connections.leave(self)

    def _must_change(self, exclusive: Exclusive | None) -> bool:
        """Return whether this reader is to leave its connection, or may have one."""
        if self._connections is None:
            return False
        return self._connections.may_take(self) if exclusive is None else self._connections.is_wanted(self)

    async def _read_shared_for(self, seconds: float) -> None:
        """Read over the shared connection, which finds a stream also while its slot is moved."""
        try:
            await self._read_on(None, trio.current_time() + seconds)
        except (_HasMoved, ConnectionError, TimeoutError, OSError):
            self._sources.must_recover = True

    async def _read_on(self, exclusive: Exclusive | None, until: float = math.inf) -> None:
        """Read, over the shared connection if there is no other one, until it is lost or the time is over."""
        sources = self._sources
        isolation = sources.isolation
        while trio.current_time() < until and not self._must_change(exclusive):
            try:
                if isolation.is_closed and not sources.must_recover:
                    await isolation.wait_changed()
                    continue
                # No checkpoint since the node was open: a task that closes it now waits for the end of this read.
                isolation.begin_reading()
                try:
                    may_have_more = await self._read_once(exclusive)
                finally:
                    isolation.end_reading()
                if not may_have_more:
                    await trio.sleep(_SHARED_EVERY)
            except (ConnectionError, TimeoutError):
                raise
            except RedisError as error:
                if self._client.has_moved(error):
                    raise _HasMoved(is_on_its_way=type(error) is AskError) from error
                await self._heal(error)

    async def _read_once(self, exclusive: Exclusive | None) -> bool:
        """Wait for room, and read; return whether to read again at once."""
        sources = self._sources
        if self._stamps is not None and self._stamps.is_unknown:
            await self._stamps.load()
        if sources.backlog() > self._most_behind:
            await sources.wait_settled()
            return True
        if self._has_left and exclusive is not None and sources.streams and not sources.urgent:
            if (turn := await self._wait_turn()) is not None:
                try:
                    await self._read_into_room(exclusive, takes_all=True)
                finally:
                    turn.set()
            return True
        if not sources.streams or sources.credit() <= 0:
            if sources.urgent and not sources.isolation.is_closed and (room := sources.credit(urgent=True)) > 0:
                if exclusive is None:
                    return False  # Urgent messages wait for room, as all others do.
                await self._read_urgent(exclusive, room)
                return True
            await sources.wait_room()
        return await self._read_into_room(exclusive)

    async def _wait_turn(self) -> trio.Event | None:
        """Wait until this reader may take all the room; return what it sets when it has, None if it was interrupted."""
        with trio.CancelScope() as scope:
            self._waiting = scope
            try:
                return await self._room.wait_turn(self._sources)
            finally:
                self._waiting = None
        return None

    async def _read_into_room(self, exclusive: Exclusive | None, *, takes_all: bool = False) -> bool:
        """Read what comes first into the room there is; return whether to read again at once."""
        sources = self._sources
        if sources.must_recover:
            await self._reclaimer.recover()
        if sources.isolation.is_closed:
            return True
        if sources.has_more:
            # Entries that were read before, by a node that died or released them, come before new ones: all of
            # them, even if the sink has room for both by now. Otherwise order within a source would be lost.
            await self._reclaimer.maintain()
            return True
        credit = room = sources.credit()
        if sources.backlog():
            room = min(room, self._most_behind)
        if not takes_all:
            room = self._room.share(room)
        if room <= 0 or not sources.streams:
            await trio.lowlevel.checkpoint()
            return True
        self._turn += 1
        streams = sources.streams_in_turn(self._turn)
        if exclusive is None:
            return await self._take(room)
        if (room < len(streams) or len(sources.streams) > 1) and await self._take(room):
            return True
        if sources.isolation.is_closed:
            return True
        self._has_left = False
        await self._read(exclusive, streams, room, waits=not takes_all)
        self._has_left = self._is_full and self._room.readers > 1 and credit >= _FEW
        # Let handlers run before the next read, whose system call they would wait for. Two turns, because
        # within one turn Trio's order is random: after the second, every woken handler has had its turn.
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return True

    async def _read(self, exclusive: Exclusive, streams: Sequence[str], room: int, *, waits: bool = True) -> None:
        """Read entries of each stream up to its part of the room; unless it `waits`, those that are there."""
        sources = self._sources
        self._reading = sources.by_stream
        self._is_full = False
        self._count = min(_MOST, max(1, room // len(streams)))
        then = () if self._stamps is None else self._stamps.command(streams)
        await exclusive.read(
            "XREADGROUP",
            "GROUP",
            sources.group,
            sources.incarnation,
            "COUNT",
            self._count,
            *(("BLOCK", round(_BLOCK * 1000)) if waits else ()),
            "STREAMS",
            *streams,
            *((">",) * len(streams)),
            block=_BLOCK,
            deliver=self._deliver,
            then=then,
        )

    async def _read_urgent(self, exclusive: Exclusive, room: int) -> None:
        """Read urgent messages only, until there is room for others (`SourceSet.resume` interrupts the read)."""
        sources = self._sources
        if sources.must_recover:
            await self._reclaimer.recover()
        sources.reads_urgent_only = True
        try:
            await self._read(exclusive, sources.urgent, room)
        finally:
            sources.reads_urgent_only = False
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    def _deliver(self, reply: Mapping[bytes, Sequence[Any]], told: object = None) -> None:
        """Offer what a read has brought, and what was told of the states that it meets."""
        if _REPLIED is not None:
            _REPLIED()
        if not isinstance(reply, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - a proxy may send anything
            raise ConnectionError(f"a read got {type(reply).__name__} as its reply: this connection cannot be trusted")
        stamps = None if self._stamps is None else self._stamps.told(told)
        try:
            for stream, found in reply.items():
                in_flight = self._reading.get(stream)
                if in_flight is None:
                    raise InvalidResponse(f"a read got entries of {stream!r}, which it did not ask for")
                # If the lease of the name it was read under is lost, another node finds the entry pending there.
                if not in_flight.is_over:
                    self._sources.offer(in_flight, found, stamps=stamps)
                    if self._connections is not None and found:
                        self._connections.note_found(self)
                    self._is_full = self._is_full or len(found) >= self._count
                if self._stamps is not None:
                    self._stamps.read(stream, found)
        except InvalidResponse as error:
            raise ConnectionError(f"{error}: this connection cannot be trusted") from error

    async def _take(self, room: int) -> bool:
        """Read at most as many entries as there is room for, from any source; return whether there were any.

        Shielded for a while: if the task stopped waiting for the reply, `recover` would have to look for its entries.
        """
        sources = self._sources
        levels, order = sources.levels_in_turn(self._turn), list(sources.streams)
        streams = [stream for level in levels for stream in level]
        beginner = self._first_level.beginner(len(levels))
        share = room // FAVOURS or int(beginner > 0)
        args = (sources.group, sources.incarnation, room, share, beginner, *map(len, levels))
        self._reading = sources.by_stream
        sources.must_recover = True
        with trio.move_on_after(_REPLIES_WITHIN, shield=True):
            found = await self._client.run_script(scripts.TAKE, streams, args)
            sources.must_recover = False
            if not is_list_of(2, found):
                raise ConnectionError(f"a read got {found!r:.100} as its reply: this connection cannot be trusted")
            self._deliver(dict(found))
            if found:
                # The reply has the order of `streams`, so its first stream is of the level that was served first.
                self._first_level.went_first(order.index(self._reading[found[0][0]].level))
            return bool(found)
        return False

    async def _heal(self, error: RedisError) -> None:
        """Create missing groups if the error says so; the caller reads again in any case."""
        text = str(error)
        if is_wrong_type(error) and await self._is_divided():
            return
        if not isinstance(error, ResponseError) or not any(sign in text for sign in ("NOGROUP", "UNBLOCKED")):
            self._trouble(error, "again in 1 s")
            await trio.sleep(1)
            return
        now = trio.current_time()
        self._restored = self._restored + 1 if now - self._restored_at < _QUIET else 0
        self._restored_at = now
        await trio.sleep(_GROUP_PAUSES[min(self._restored, len(_GROUP_PAUSES) - 1)])
        try:
            await self._sources.make_groups()
        except RedisError as refusal:
            if is_wrong_type(refusal) and await self._is_divided():
                return
            self._trouble(refusal, "again in 1 s")
            await trio.sleep(1)

    async def _is_divided(self) -> bool:
        """Return whether a source has other shards by now, which are read elsewhere."""
        try:
            return await self._on_no_stream()
        except (BrokerError, RedisError) as error:
            self._trouble(error, "again in 1 s")
            await trio.sleep(1)
            return True

    def _trouble(self, error: Exception, next_step: str, *, is_cut: bool = False) -> None:
        doing = f"reading {', '.join(self._sources.names[:3])}"
        self._sources.emit(BrokerTrouble(doing, str(error), next_step, is_cut))


class _HasMoved(Exception):
    """What is read is at another member of the cluster, or, `is_on_its_way`, at two of them."""

    def __init__(self, *, is_on_its_way: bool) -> None:
        super().__init__()
        self.is_on_its_way = is_on_its_way


class _FirstLevel:
    """Decides which priority level begins a read by script, where there is not room for messages of all levels.

    The rule is that of `FairPriority`: the most urgent level with messages begins, and after `FAVOURS` reads in a row
    one of the levels below it, in rotation. `FairPriority` itself wants to know which levels have messages waiting
    before it decides; that is known only to lua/take.lua, after this decision.
    """

    def __init__(self) -> None:
        self._leader = 0
        self._times = 0
        self._turn = 0

    def beginner(self, levels: int) -> int:
        """Return the index of the level that begins the next read; 0 is the most urgent one."""
        below = levels - 1 - self._leader
        if self._times < FAVOURS or below <= 0:
            return 0
        self._times = -1  # `went_first` must not count this read for the level that it lets begin.
        self._turn += 1
        return self._leader + 1 + self._turn % below

    def went_first(self, level: int) -> None:
        if self._times < 0:
            self._times = 0
        elif level == self._leader:
            self._times += 1
        else:
            self._leader, self._times = level, 1
