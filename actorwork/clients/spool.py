"""The spool: while the broker is unreachable, messages that a client tells, submits and publishes wait in a local file.

    tell ──▶ broker                                   "when_down", as long as the broker answers
         └─▶ file (fsynced) ──replay, same ids──▶ broker      when it does not; with "always" for every message

The promises:

- When `tell` returns, the message is at the broker or on this machine's disk. It arrives even after the end of this
  process: the next client that opens the same file replays it.
- Once by id: a message is replayed under its own id, and a broker stores an id once within a day. A message that was
  tried without an answer and then waits for more than a day may arrive twice; one that went straight to the file
  cannot.
- In order per source: as long as messages of a source wait in the file, new ones of that source go behind them. Several
  clients may share a file; one of them replays at a time, the oldest message first.
- No silent loss: a file that is full or cannot be written raises. A message that the broker refuses for good (its
  source is not a stream) is set aside, reported, and listed by `actorwork spool ls`; the messages behind it proceed.

The broker counts as down when it has not accepted a message within `patience` seconds, or answers that it cannot at the
moment; from then on messages go straight to the file, until a replay has succeeded. Of a broker of several servers,
each counts by itself: while a primary of a cluster is away, what is for the others goes there, also from the file.
"""

from __future__ import annotations

import hashlib
import math
import shlex
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence, Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

import attrs
import trio

from actorwork.abc import Broker, EventSink, HasServers, Meter
from actorwork.brokers import state_directory
from actorwork.clients.lazy_broker import LazyBroker
from actorwork.clients.spooled import SpooledMessages, SpoolTicket
from actorwork.durations import as_seconds
from actorwork.errors import BrokerError, SettingsError, SpoolError, SpoolFull
from actorwork.events import BrokerTrouble
from actorwork.message import Envelope
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.policy.bounds import FINITE, one_of, seconds, whole

if TYPE_CHECKING:
    from actorwork.embedded.spool import Spooled
    from actorwork.telemetry.metrics.registry import Registry

T = TypeVar("T")

SpoolMode: TypeAlias = Literal["when_down", "always"]
"""When a client's messages go to its spool: only while the broker is down, or always first."""
SPOOL_MODES: Final[tuple[SpoolMode, ...]] = ("when_down", "always")

BATCH: Final = 200
BATCH_BYTES: Final = 4 * 1024 * 1024
LOOK_EVERY: Final = 0.5
"""Seconds between two looks for changes that other processes have made to the file."""
CLAIM_AGAIN: Final = 0.1
HOLD: Final = 5.0
"""Seconds for which a replay waits for the broker before another process may try: its connection may be better."""
LONGEST_HOLD: Final = 60.0
"""The limit of that after several failures: on a slow line a large message takes its time."""
PAUSE: Final = 1.0
"""Seconds until a failed operation is tried again."""
LINGER: Final = 1.0
"""Seconds for which a client that closes continues to replay, as long as the broker accepts the messages."""


_NOT_OPEN: Final = frozenset[object]({"not open"})
_THE_ONE: Final = frozenset[object]({"the one"})
_REFUSALS: Final = (BrokerError, TypeError, ValueError)
"""The errors with which a broker refuses a message: the latter two if it cannot encode it."""


def may_pass(error: Exception) -> bool:
    return isinstance(error, BrokerError) and error.may_pass


def _as_path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


@attrs.frozen(kw_only=True)
class Spool:
    """Where a client's messages wait while the broker is unreachable, and how many may wait.

    `path` is a file on a local disk, for one broker; by default each broker has a file of its own in the user's
    state directory. Any number of processes may share it. With `mode` "when_down" messages go to the file if the
    broker has not accepted one within `patience` seconds; with "always" they go there first, so that `tell` waits only
    for the disk. The bounds count everything in the file; beyond them `SpoolFull` is raised.
    """

    path: Path | None = attrs.field(default=None, converter=_as_path)
    mode: SpoolMode = attrs.field(default="when_down", validator=one_of(SPOOL_MODES))
    max_messages: int = attrs.field(default=100_000, validator=whole(1))
    max_bytes: int = attrs.field(default=256 * 1024 * 1024, validator=whole(1))
    patience: float = attrs.field(default=1.0, converter=as_seconds, validator=seconds(0.001, FINITE))


async def _publish(envelopes: Sequence[Envelope], broker: Broker) -> int:
    return await broker.publish(envelopes)


def spool_of(given: Spool | SpoolMode | None) -> Spool | None:
    """Return the spool that `open_client(spool=…)` names."""
    if given is None or isinstance(given, Spool):
        return given
    if given not in SPOOL_MODES:
        raise SettingsError(f"spool wants None, 'when_down', 'always' or a Spool, got {given!r}")
    return Spool(mode=given)


def file_for(spool: Spool, place: str) -> Path:
    """Return the file of a spool for the broker at `place`."""
    if spool.path is not None:
        return spool.path
    name = hashlib.sha256(place.encode()).hexdigest()[:16]
    return state_directory() / f"spool-{name}.sqlite3"


class Outages:
    """Which servers of a broker count as down, by what they have accepted."""

    def __init__(self, lazy: LazyBroker) -> None:
        self._lazy = lazy
        self._down: set[object] = set()

    def __repr__(self) -> str:
        return f"<Outages of {len(self._down)} servers>"

    def servers_of(self, sources: Iterable[str]) -> frozenset[object]:
        """Return the servers that messages of some sources are for; one that stands for all before it is open."""
        broker = self._lazy.broker
        if broker is None:
            return _NOT_OPEN
        if not isinstance(broker, HasServers):
            return _THE_ONE
        return frozenset[object]().union(*map(broker.servers_of, sources))

    def are_down(self, sources: Iterable[str]) -> bool:
        """Return whether a message to one of some sources would find its server down."""
        return bool(self._down) and not self._down.isdisjoint(self.servers_of(sources))

    def begin(self, servers: AbstractSet[object]) -> None:
        self._down |= servers

    def end(self, servers: AbstractSet[object]) -> None:
        self._down -= servers


class Spooler:
    """Sends through the spool; made by `open_spooler`, for any number of tasks."""

    def __init__(
        self,
        spool: Spool,
        messages: SpooledMessages,
        lazy: LazyBroker,
        emit: EventSink,
        meter: Meter | None = None,
    ) -> None:
        self._spool = spool
        self._messages = messages
        self._lazy = lazy
        self._emit = emit
        self._meter = meter
        self._is_always = spool.mode == "always"
        self._outages = Outages(lazy)
        self._wake = trio.Event()
        self._troubled_until = 0.0
        self._replaying: dict[frozenset[object], AbstractSet[str]] = {}
        """The sources of which messages are being replayed, by the servers that these are for."""
        self._holds: dict[frozenset[object], float] = {}
        """For how long servers are waited for next, if they took nothing the last time."""
        self._claim_at = -math.inf
        self.spooled = 0
        self.replayed = 0

    def __repr__(self) -> str:
        return f"<Spooler at {self.path}, {self._messages.status.messages} messages, {self._outages!r}>"

    @property
    def path(self) -> Path:
        return self._messages.path

    @property
    def waiting(self) -> int:
        """How many messages wait, without those set aside; for other processes as of the last look."""
        return self._messages.status.waiting

    def statistics(self) -> Mapping[str, float]:
        """Return counters: messages in the file, messages written to it and replayed from it here, the oldest age."""
        status = self._messages.status
        return {
            "spooled": self.spooled,
            "replayed": self.replayed,
            "spool_messages": status.messages,
            "spool_bytes": status.bytes,
            "spool_set_aside": status.refused,
            "spool_age": 0.0 if status.oldest is None else max(0.0, time.time() - status.oldest),
        }

    def show(self, metrics: Registry) -> None:
        """Write the state of the file into gauges; callable from any thread."""
        shown = self.statistics()
        metrics.family("actorwork_spool_messages").set((), shown["spool_messages"])
        metrics.family("actorwork_spool_bytes").set((), shown["spool_bytes"])
        metrics.family("actorwork_spool_oldest_seconds").set((), shown["spool_age"])

    def _count(self, envelopes: Sequence[Envelope], outcome: str, began: float) -> None:
        if self._meter is not None:
            for source, count in Counter(envelope.source for envelope in envelopes).items():
                self._meter.sent(source, outcome, count)
            self._meter.took_to_send(outcome, trio.current_time() - began)

    # ---- sending ----

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        """Store messages at the broker or in the file; return how many are known to be new.

        Raises `SpoolFull` and `SpoolError`: then those that the broker has not accepted are not in the file either. If
        cancelled, any part may have been stored.
        """
        new = 0
        # In pieces: patience applies to a broker that accepts nothing, not to one that receives many messages.
        for first in range(0, len(envelopes), BATCH):
            some = envelopes[first : first + BATCH]
            began = trio.current_time()
            is_sent = False
            sources = {envelope.source for envelope in some}
            if self._may_go_direct(sources):
                is_sent, count = await self._try_now(sources, partial(_publish, some))
                new += count or 0
            if is_sent:
                self._count(some, "sent", began)
            else:
                rest = envelopes[first:]
                await self._keep(rest)
                return new + len(rest)
        return new

    async def publish_new(self, envelope: Envelope) -> None:
        """Store a message like `publish`: it may be sent twice, now and from the file."""
        await self.publish([envelope])

    async def publish_unique(self, envelope: Envelope) -> str:
        """Store a message that has a `unique`; return the id that is stored.

        The file knows no other messages: there it keeps its own id, and its key is checked when it is replayed. If the
        key is taken then, the message is dropped, unless its `on_conflict` is "replace".
        """
        began = trio.current_time()
        if self._may_go_direct({envelope.source}):
            _, kept = await self._try_now({envelope.source}, lambda broker: broker.publish_unique(envelope))
            if kept is not None:
                self._count((envelope,), "sent" if kept == envelope.id else "duplicate", began)
                return kept
        await self._keep([envelope])
        return envelope.id

    def _may_go_direct(self, sources: set[str]) -> bool:
        if self._is_always or not sources.isdisjoint(self._messages.behind):
            return False
        # The first successful replay shows that the broker is back; with nothing to replay, a new message has to try.
        return not self._messages.status.waiting or not self._outages.are_down(sources)

    async def _try_now(self, sources: set[str], send: Callable[[Broker], Awaitable[T]]) -> tuple[bool, T | None]:
        """Try to send, for at most `patience` seconds; return whether it succeeded, and the result."""
        try:
            with trio.move_on_after(self._spool.patience):
                return True, await send(self._lazy.broker or await self._lazy.wait())
        except BrokerError as error:
            if not error.may_pass:
                raise
            self._complain("publishing", error, "the message waits in the spool")
        self._outages.begin(self._outages.servers_of(sources))
        return False, None

    async def wait_turn(self, source: str) -> None:
        """Wait until no message of a source waits in the file."""
        while source in self._messages.behind:
            await self._messages.moved.wait()

    # ---- keeping ----

    async def _keep(self, envelopes: Sequence[Envelope]) -> None:
        from actorwork.embedded.spool import row_of  # noqa: PLC0415 - only a client with a spool imports SQLite

        now, began = time.time(), trio.current_time()
        ticket = SpoolTicket([row_of(envelope, now) for envelope in envelopes])
        sources = {envelope.source for envelope in envelopes}
        self._messages.behind.update(sources)
        until = trio.current_time() + self._spool.patience
        while True:
            moved = self._messages.moved
            await self._messages.append(ticket)
            if ticket.kept:
                self.spooled += len(envelopes)
                self._count(envelopes, "spooled", began)
                self._wake.set()
                return
            if (
                ticket.error is not None
                or self._outages.are_down(sources)
                or trio.current_time() >= until
                or not self._messages.status.waiting
            ):
                # None of it is in the file, so later messages need not go behind it.
                with suppress(SpoolError):
                    await self._messages.take_out(())
                self._count(envelopes, "refused", began)
                raise self._full(ticket) if ticket.error is None else ticket.error
            # The file is being emptied: wait for room, as with a mailbox.
            with trio.move_on_at(until):
                await moved.wait()

    def _full(self, ticket: SpoolTicket) -> SpoolFull:
        status, spool = self._messages.status, self._spool
        wanted = sum(row.size for row in ticket.rows)
        return SpoolFull(
            f"the spool {self.path} has no room for {len(ticket.rows)} messages of {wanted} bytes: it holds"
            f" {status.messages} of {spool.max_messages} messages and {status.bytes} of {spool.max_bytes} bytes. They"
            " were not stored: send them again when the broker is back, or raise Spool.max_messages and max_bytes",
            messages=status.messages,
            bytes=status.bytes,
        )

    # ---- replaying ----

    async def wait_replayed(self) -> None:
        """Wait until no message waits in the file, except those set aside."""
        while not self._messages.is_empty:
            await self._messages.moved.wait()

    async def wait_progress(self) -> None:
        """Wait until a message has left the file or was set aside."""
        await self._messages.moved.wait()

    async def run(self) -> None:
        """Replay, for as long as the client is open."""
        async with open_unwrapping_nursery() as replays:
            while True:
                try:
                    await self._turn(replays)
                except SpoolError as error:
                    await self._stand_back(error)

    async def _stand_back(self, error: SpoolError) -> None:
        # Every `tell` meets the same error and raises it. Messages in the file stay there.
        self._complain("replaying the spool", error, f"again in {PAUSE:g} s")
        await trio.sleep(PAUSE)

    async def _turn(self, replays: trio.Nursery) -> None:
        if not self._messages.status.waiting:
            if not self._replaying:
                self._messages.unclaim()
            await self._wait_news()
        elif trio.current_time() < self._claim_at or not await self._messages.claim():
            await trio.sleep(CLAIM_AGAIN)
            await self._messages.look()
        else:
            self._wake = trio.Event()
            groups = await self._groups()
            for servers, some in groups.items():
                self._replaying[servers] = {one.source for one in some}
                replays.start_soon(self._replay_group, servers, some)
            if not groups:
                await self._wait_news(self._wake)

    async def _wait_news(self, wake: trio.Event | None = None) -> None:
        """Wait until there is more to replay, or something was replayed; look at the file now and then."""
        if wake is None:
            wake = self._wake = trio.Event()
        with trio.move_on_after(LOOK_EVERY):
            await wake.wait()
        await self._messages.look()

    async def _groups(self) -> Mapping[frozenset[object], Sequence[Spooled]]:
        """Return the oldest messages, those that are for the same servers together; none for servers at which others
        are being replayed.
        """
        busy = set[object]().union(*self._replaying)
        under_way = set[str]().union(*self._replaying.values())

        def is_held(source: str) -> bool:
            return source in under_way or not busy.isdisjoint(self._outages.servers_of((source,)))

        wanted = [source for source in self._messages.behind if not is_held(source)] if busy else None
        groups: dict[frozenset[object], list[Spooled]] = {}
        if wanted == []:
            return groups
        for one in await self._messages.first(BATCH, BATCH_BYTES, wanted):
            servers = self._outages.servers_of((one.source,))
            if servers in groups:
                groups[servers].append(one)
            elif not is_held(one.source):  # Another process may have added its source meanwhile.
                groups[servers] = [one]
                busy |= servers
        return groups

    async def _replay_group(self, servers: frozenset[object], some: Sequence[Spooled]) -> None:
        try:
            await self._replay_some(servers, some)
        except SpoolError as error:
            await self._stand_back(error)
        finally:
            del self._replaying[servers]
            self._wake.set()

    async def _replay_some(self, servers: frozenset[object], some: Sequence[Spooled]) -> None:
        is_refused = False
        hold = self._holds.get(servers, HOLD)
        with trio.move_on_after(hold) as held:
            try:
                await self._replay(some)
            except _REFUSALS as error:
                is_refused = True
                if may_pass(error):
                    self._outages.begin(servers)
                    self._complain("replaying the spool", error, f"again in {PAUSE:g} s")
                    await trio.sleep(PAUSE)
                    return
        if held.cancelled_caught:
            self._holds[servers] = min(LONGEST_HOLD, 2 * hold)
            self._outages.begin(servers)
            if len(self._replaying) == 1:
                # Another process may have a connection that works.
                self._messages.unclaim()
                self._claim_at = trio.current_time() + CLAIM_AGAIN
            return
        self._holds.pop(servers, None)
        if is_refused:
            await self._sort_out(some)
        else:
            self._outages.end(servers)
            await self._take_out(some)

    async def _replay(self, some: Sequence[Spooled]) -> None:
        now = time.time()
        envelopes = [one.envelope(now) for one in some]
        await (self._lazy.broker or await self._lazy.wait()).publish(envelopes)

    async def _sort_out(self, some: Sequence[Spooled]) -> None:
        """Replay messages one by one, and set aside those that the broker refuses for good."""
        for one in some:
            try:
                await self._replay([one])
            except _REFUSALS as error:
                if may_pass(error):
                    return
                await self._set_aside(one, str(error))
            else:
                await self._take_out([one])

    async def _set_aside(self, one: Spooled, reason: str) -> None:
        await self._messages.set_aside(one, reason)
        doing = f"replaying message {one.id} of {one.source}"
        command = shlex.join(["actorwork", "spool", "ls", "--spool", str(self.path)])
        self._emit(BrokerTrouble(doing, reason, f"set aside; see: {command}"))

    async def _take_out(self, some: Sequence[Spooled]) -> None:
        await self._messages.take_out(some)
        self.replayed += len(some)

    def _complain(self, doing: str, error: Exception, what_next: str) -> None:
        """Report trouble, at most once a minute."""
        if trio.current_time() >= self._troubled_until:
            self._troubled_until = trio.current_time() + 60
            self._emit(BrokerTrouble(doing, str(error), what_next))

    async def linger(self) -> None:
        """Continue for a moment when the client closes, if the broker accepts messages."""
        is_away = all(self._outages.are_down((source,)) for source in self._messages.behind)
        if not is_away and self._lazy.broker is not None:
            with trio.move_on_after(LINGER):
                await self.wait_replayed()


@asynccontextmanager
async def open_spooler(
    spool: Spool, path: Path, lazy: LazyBroker, emit: EventSink, meter: Meter | None = None
) -> AsyncGenerator[Spooler]:
    """Open the file of a spool; the caller runs `Spooler.run`. Raises `SpoolError`."""
    from actorwork.embedded.files import make_folder  # noqa: PLC0415 - only a client with a spool imports SQLite
    from actorwork.embedded.spool import SpoolFile  # noqa: PLC0415 - as above

    if spool.path is None:
        try:
            make_folder(path.parent)
        except OSError as error:
            raise SpoolError(
                f"the spool's directory {path.parent} cannot be created ({error}); name a file with Spool(path=…)"
            ) from error
    file = await trio.to_thread.run_sync(SpoolFile, path)
    try:
        messages = SpooledMessages(file, max_messages=spool.max_messages, max_bytes=spool.max_bytes)
        await messages.begin()
        yield Spooler(spool, messages, lazy, emit, meter)
    finally:
        file.close()
