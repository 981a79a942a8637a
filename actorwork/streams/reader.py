"""Reads: one blocked XREADGROUP over the sources of a sources, on a connection of its own.

    recover ──▶ wait for room ──▶ read ──▶ offer ──▶ (again)
                   └── or read what is urgent, for which some room is kept

- A reply becomes deliveries in the inlet without a checkpoint in between, also when the read is being cancelled:
  there is no moment at which a message can be lost.
- COUNT is the room divided by the sources, so a busy source cannot take the room of the others. With less room than
  sources, a script reads what there is room for, and the order of the sources turns.
- Priorities have streams of their own, of which a sources learns when they are used; until then they cost nothing. From
  then on a script reads first what there is room for, the most urgent first. So that nothing starves, an eighth of the
  room goes to each level that has something waiting; where there is room for less than eight, another level has its
  turn after eight reads.
- When a connection breaks, what its last reply held stays pending under our name. Before the next read those entries
  are looked for (`recover`), while nothing else is on its way to us.
- A group that is gone (restart without persistence, FLUSHALL, XGROUP DESTROY) is made again, at the beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import trio

from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble
from actorwork.failpoints import failpoint
from actorwork.policy.turns import FAVOURS
from actorwork.streams import scripts
from actorwork.streams.in_flight import InFlightEntries
from actorwork.streams.reclaimer import Reclaimer
from actorwork.streams.source_set import SourceSet
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.exclusive import Exclusive
from actorwork.streams.transport.redis_py import ConnectionError, RedisError, ResponseError, TimeoutError  # noqa: A004

_BLOCK: Final = 5.0
_MOST: Final = 1000
_GROUP_PAUSES: Final = (0.0, 0.05, 0.2, 1.0)
_QUIET: Final = 5.0
"""After so many seconds without trouble the pauses begin anew."""
_REPLIED: Final = failpoint("read.replied")


class Reader:
    """Reads for one sources until cancelled. Cancelled: what the server still hands out is offered."""

    def __init__(self, client: RedisClient, sources: SourceSet, reclaimer: Reclaimer) -> None:
        self._client = client
        self._sources = sources
        self._reclaimer = reclaimer
        self._exclusive: Exclusive | None = None
        self._turn = 0
        self._favours = _Favours()
        self._reading: Mapping[bytes, InFlightEntries] = {}
        self._restored = 0
        self._restored_at = 0.0

    def __repr__(self) -> str:
        return f"<Reader of {self._sources!r}>"

    def interrupt(self) -> None:
        """End the read in progress, so that what has changed is seen."""
        if self._exclusive is not None:
            self._exclusive.interrupt()

    async def run(self) -> NoReturn:
        while True:
            try:
                async with self._client.open_exclusive("actorwork-reader") as exclusive:
                    self._exclusive = exclusive
                    await self._read_on(exclusive)
            except (ConnectionError, TimeoutError, OSError) as error:
                self._sources.must_recover = True
                self._trouble(error, "again on the next connection, beginning with what is pending")
                await trio.sleep(0.02)
            except BrokerError as error:
                # Credentials, rights: they were good once, so they may be again.
                self._trouble(error, "again in 1 s")
                await trio.sleep(1)
            finally:
                self._exclusive = None

    async def _read_on(self, exclusive: Exclusive) -> NoReturn:
        sources = self._sources
        sink = sources.sink
        while True:
            try:
                if not sources.streams or sink.credit() <= 0:
                    if sources.urgent and (room := sink.credit(urgent=True)) > 0:
                        await self._read_urgent(exclusive, room)
                        continue
                    await sources.wait_room()
                if sources.must_recover:
                    await self._reclaimer.recover()
                if sources.has_more:
                    # What was read before comes before what is new: all of it, also if room was made meanwhile.
                    await self._reclaimer.maintain()
                    continue
                room = sink.credit()
                if room <= 0 or not sources.streams:
                    await trio.lowlevel.checkpoint()
                    continue
                self._turn += 1
                streams = sources.streams_in_turn(self._turn)
                if (room < len(streams) or len(sources.streams) > 1) and await self._take(room):
                    continue
                await self._read(exclusive, streams, room)
                # Handlers first: asking for more is a system call, which they would wait for. (Two turns, since within
                # one turn Trio's order is random.)
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
            except (ConnectionError, TimeoutError):
                raise
            except RedisError as error:
                await self._heal(error)

    async def _read(self, exclusive: Exclusive, streams: Sequence[str], room: int) -> None:
        sources = self._sources
        self._reading = sources.by_stream
        await exclusive.read(
            "XREADGROUP",
            "GROUP",
            sources.group,
            sources.incarnation,
            "COUNT",
            min(_MOST, max(1, room // len(streams))),
            "BLOCK",
            round(_BLOCK * 1000),
            "STREAMS",
            *streams,
            *((">",) * len(streams)),
            block=_BLOCK,
            deliver=self._deliver,
        )

    async def _read_urgent(self, exclusive: Exclusive, room: int) -> None:
        """Read what is urgent, until there is room for the rest (`SourceSet.resume`)."""
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

    def _deliver(self, reply: Mapping[bytes, Sequence[Any]]) -> None:
        if _REPLIED is not None:
            _REPLIED()
        if not isinstance(reply, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - who knows what stands in between
            raise ConnectionError(f"a read was answered by {type(reply).__name__}: this connection is not sound")
        for stream, found in reply.items():
            in_flight = self._reading[stream]
            # Read under a name whose lease is lost: others find it pending there.
            if not in_flight.is_over:
                self._sources.offer(in_flight, found)

    async def _take(self, room: int) -> bool:
        """Read no more than there is room for, of any source; return whether there was anything.

        Shielded, for a moment: what a lost reply held would have to be looked for.
        """
        sources = self._sources
        levels, order = sources.levels_in_turn(self._turn), list(sources.streams)
        streams = [stream for level in levels for stream in level]
        beginner = self._favours.beginner(len(levels))
        share = room // FAVOURS or int(beginner > 0)
        args = (sources.group, sources.incarnation, room, share, beginner, *map(len, levels))
        self._reading = sources.by_stream
        sources.must_recover = True
        with trio.move_on_after(1, shield=True):
            found = await self._client.run_script(scripts.TAKE, streams, args)
            sources.must_recover = False
            self._deliver(dict(found))
            if found:
                # They stand in the order of `streams`, so the first one is of the most urgent level.
                self._favours.went_first(order.index(self._reading[found[0][0]].level))
            return bool(found)
        return False

    async def _heal(self, error: RedisError) -> None:
        """Make the groups again if that is what is wrong; try again in any case."""
        text = str(error)
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
            self._trouble(refusal, "again in 1 s")
            await trio.sleep(1)

    def _trouble(self, error: Exception, next_step: str) -> None:
        sources = self._sources
        self._sources.emit(BrokerTrouble(f"reading {', '.join(sources.names[:3])}", str(error), next_step))


class _Favours:
    """Which level of priority begins a read by script, where there is not room for all of them.

    As in a mailbox, the most urgent one that has something; and after it had the first word so many times in a row, one
    of those below it, each in its turn.
    """

    def __init__(self) -> None:
        self._favourite = 0
        self._times = 0
        self._turn = 0

    def beginner(self, levels: int) -> int:
        """Return the index of the level that begins; 0 is the most urgent one."""
        below = levels - 1 - self._favourite
        if self._times < FAVOURS or below <= 0:
            return 0
        self._times = -1  # So that this read is none of theirs.
        self._turn += 1
        return self._favourite + 1 + self._turn % below

    def went_first(self, level: int) -> None:
        if self._times < 0:
            self._times = 0
        elif level == self._favourite:
            self._times += 1
        else:
            self._favourite, self._times = level, 1
