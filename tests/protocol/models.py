"""The two brokers as the protocol model drives them: step by step, with nothing in the background.

    RedisWorld       the parts of a node (publisher, reclaimer, reader, settler, release) and runs of workflows, over
                     the real scripts on a real server; no lease thread, no loops: a lease is a key that is set, deleted
    ClusterWorld     the same at a cluster, where what a run does and what an ack publishes go from slot to slot; a
                     slot may move between two steps
    EmbeddedWorld    the store, one transaction a step, on a database in memory

A world does what it is told and says what it sees (`look`). What should be seen is the model's affair.

Time is moved by the model, not waited for: at Redis by setting the due times back, in the store by the clock it is
handed. No lease runs out by itself.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar, cast
from unittest.mock import patch

import attrs
import redis
import trio

from actorwork.abc import Subscription
from actorwork.blocking.driver import run
from actorwork.embedded.entities import EmbeddedEntities
from actorwork.embedded.location import connect, parse
from actorwork.embedded.rows import GroupChannel, SettleOrder, channel_numbers, is_plain, row_of
from actorwork.embedded.store import Store
from actorwork.embedded.transaction import Stale
from actorwork.events import Event, Fenced, Released, StaleState
from actorwork.message import Delivery, Envelope, Priority
from actorwork.policy.entities import FoundState
from actorwork.policy.runs.values import Plan, RunInfo, StepInfo
from actorwork.policy.settlement import Settlement
from actorwork.streams import keys, lease, reader as reading, reclaimer as reclaiming, scripts, survey
from actorwork.streams.delayed import RedisDelayed
from actorwork.streams.entities import RedisEntities
from actorwork.streams.formats import FORMAT
from actorwork.streams.node import RedisNode
from actorwork.streams.publisher import Publisher
from actorwork.streams.runs import RedisRuns
from actorwork.streams.shards import Layouts
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.client import RedisClient, open_client
from actorwork.streams.transport.cluster import cluster_client
from actorwork.streams.transport.commands import Script
from actorwork.streams.transport.redis_py import ConnectionError, ResponseError  # noqa: A004
from actorwork.streams.transport.urls import is_of_cluster
from actorwork.streams.values import RedisValues
from actorwork.testing.redis_cluster import RedisCluster
from actorwork.testing.redis_server import RedisServer
from tests.patience import PATIENCE

SOURCE = "work"
EFFECTS = "effects"
GROUP = "group"
MAX_CRASHES = 3
LEVELS = (Priority.NORMAL, Priority.HIGH)
RELEASED = "released"
LEASE: Final = f"here {FORMAT}"

T = TypeVar("T")
Ending: TypeAlias = "tuple[Delivery, Settlement, Sequence[Envelope]]"
Steering: TypeAlias = Literal["cancel", "pause", "resume"]


@attrs.frozen
class Ready:
    """In the source, not delivered yet."""


@attrs.frozen
class Delayed:
    """Not due for some more seconds."""

    left: float = attrs.field(eq=False)


@attrs.frozen
class Behind:
    """Behind others of its key."""


@attrs.frozen
class Pending:
    """Delivered to `owner`, for the `count`-th time; if the owner is `RELEASED`, it was released."""

    owner: str
    count: int


@attrs.frozen
class Dead:
    """A dead letter."""


Place: TypeAlias = Ready | Delayed | Behind | Pending | Dead


@attrs.frozen
class Sight:
    """What a broker has, by message ids. What is nowhere has ended, or never was."""

    places: Mapping[str, Place]
    effects: Sequence[str]


@attrs.frozen
class RunSight:
    """What a broker says of a run: its status, its result, and how its steps have ended."""

    status: str
    result: str | None
    ends: Sequence[tuple[str, str] | None]
    """Of each step its kind, and its value if it is done."""

    @classmethod
    def of(cls, info: RunInfo, steps: Sequence[StepInfo]) -> RunSight:
        ends = [one.end and (one.end.kind, one.end.value if one.end.kind == "done" else "") for one in steps]
        return cls(info.status, info.result, ends)


class Hand:
    """A node as the model holds it: what it was given and did not let go of, also when it is not its own any more."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.held: list[Delivery] = []
        self.is_short = False
        """A reply was lost that may have brought it something."""

    def __repr__(self) -> str:
        return f"<{self.owner[:6]} with {[delivery.id for delivery in self.held]}>"


class World(Protocol):
    home: str
    """The source at which runs are decided."""

    def start(self) -> Hand: ...

    def publish(self, envelopes: Sequence[Envelope]) -> int: ...

    def fetch(self, hand: Hand, room: int, *, tends: bool, reads: bool, loses: bool) -> list[Delivery]:
        """Take over and read, and return what came; nothing if the reply is lost."""
        ...

    def recover(self, hand: Hand) -> list[Delivery]:
        """Find what a lost reply held."""
        ...

    def settle(self, hand: Hand, endings: Sequence[Ending], *, loses: bool) -> list[bool]:
        """Settle in one batch, and say of each whether it was accepted. A reply that is lost is asked for again."""
        ...

    def release_deliveries(self, hand: Hand, deliveries: Sequence[Delivery]) -> None: ...

    def claim(self, delivery: Delivery) -> Pending | None:
        """Return how the pending list must have a delivery for its node to settle it; None if it would not even try."""
        ...

    def end_lease(self, owner: str) -> str:
        """Return the name that what it held goes by from now on."""
        ...

    def succeed(self, hand: Hand) -> None:
        """Let a node notice that its lease is lost: it goes on under a new name, with nothing in flight."""
        ...

    def advance(self, seconds: float) -> None: ...

    def cancel(self, id: str) -> bool: ...

    def deliver_again(self, id: str) -> None:
        """Write the entry of a message that was looked at before, and is gone, a second time."""
        ...

    def start_run(self, plan: Plan) -> bool: ...

    def steer(self, how: Steering, run: str) -> bool: ...

    def look_at(self, run: str) -> RunSight: ...

    def look(self) -> Sight: ...

    def close(self) -> None: ...


class Sink:
    """As much room as the model says."""

    def __init__(self) -> None:
        self.space = 0
        self.offered: list[Delivery] = []

    def credit(self, *, urgent: bool = False) -> int:
        return max(0, self.space - len(self.offered))

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        self.offered += deliveries

    def cancel(self, source: str, message_id: str, reason: str, *, force: bool = False) -> None:
        pass

    def revoke(self) -> None:
        self.offered.clear()


# --------------------------------------------------------------------------------------------------------------- redis


class Loop:
    """A Trio loop in a thread, for one synchronous caller."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,), daemon=True)
        self._thread.start()
        self._ready.wait(PATIENCE)

    async def _run(self) -> None:
        make = cluster_client() if is_of_cluster(self._url) else None
        async with (
            open_client(self._url, scripts=scripts.ALL, make=make) as self.client,
            trio.open_nursery() as self.nursery,
        ):
            await self.client.wait_connected()
            self._token = trio.lowlevel.current_trio_token()
            self._end = trio.Event()
            self._ready.set()
            await self._end.wait()
            self.nursery.cancel_scope.cancel()

    def do(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        return trio.from_thread.run(function, *args, trio_token=self._token)

    def close(self) -> None:
        self._token.run_sync_soon(self._end.set)
        self._thread.join(PATIENCE)


class LossyClient:
    """Loses the next reply, and does then what a client does: ask again for what is idempotent, tell of the rest."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self.loses = False
        self.dies_forwarding = False
        """Whether the node dies before it deletes from its outbox what it has forwarded, so that it is done again."""
        self.has_died_forwarding = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def call(self, *args: Any, idempotent: bool = False) -> Any:
        if self.dies_forwarding and args[0] == "XDEL":
            self.dies_forwarding, self.has_died_forwarding = False, True
            raise ConnectionError("the node is gone, and the next one forwards")
        return await self._client.call(*args, idempotent=idempotent)

    async def run_script(
        self, script: Script, keys: Sequence[Any], args: Sequence[Any], *, idempotent: bool = False
    ) -> Any:
        reply = await self._client.run_script(script, keys, args, idempotent=idempotent)
        if self.loses:
            self.loses = False
            if not idempotent:
                raise ConnectionError("the reply is lost")
            reply = await self._client.run_script(script, keys, args, idempotent=True)
        return reply


class RedisHand(Hand):
    def __init__(self, world: RedisWorld) -> None:
        self.sink = Sink()
        self.stamps: dict[int, str] = {}
        """Of deliveries that settlements have brought, the stamps of their states."""
        self.subscription = Subscription(
            GROUP, "actor", (SOURCE,), self.sink, MAX_CRASHES, states_known=self.note_stamps
        )
        self.client = LossyClient(world.loop.client)
        self.events: list[Event] = []
        # Redis lists consumers by their names: these are in the order in which the nodes were started, each time.
        with patch.object(lease, "new_incarnation", lambda: f"{next(world.numbers):024x}{0:08x}"):
            self.node = RedisNode(
                self.client,  # pyright: ignore[reportArgumentType] - it is one, to those who only call it
                world.address,
                [self.subscription],
                lease=3600,
                emit=self.events.append,
                begin_settling=world.loop.nursery,
                layouts=Layouts(world.loop.client, RedisValues(world.loop.client), trio.sleep),
            )
        self.node._allow_reading(is_allowed=True)
        super().__init__(self.node.incarnation)

    def note_stamps(self, deliveries: Sequence[Delivery], stamps: Sequence[str]) -> None:
        self.stamps.update(zip(map(id, deliveries), stamps, strict=True))


class RedisWorld:
    home = SOURCE

    def __init__(self, server: RedisServer | RedisCluster, loop: Loop) -> None:
        server.flush()
        self.loop = loop
        self.address = Address.parse(server.url)
        self._publisher = Publisher(loop.client)
        self._runs = RedisRuns(loop.client)
        self._entities = RedisEntities(loop.client)
        self._delayed = RedisDelayed(loop.client)
        self._keys = keys.SourceKeys.of(SOURCE)
        self._entries: dict[str, Sequence[bytes]] = {}
        self.numbers = itertools.count(1)

        self.connect(server)

    def connect(self, server: Any) -> None:
        """Open a connection of the model's own: a look over that of the nodes, in another thread, takes longer."""
        self._redis: Any = redis.Redis(unix_socket_path=str(server.socket_path), protocol=3, socket_timeout=None)
        self._redis.response_callbacks.clear()

    def do(self, *command: Any) -> Any:
        return self._redis.execute_command(*command)

    def do_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the replies, with errors among them."""
        pipeline = self._redis.pipeline(transaction=True)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute(raise_on_error=False)

    def start(self) -> RedisHand:
        hand = self.loop.do(self._start)
        self.do("SET", keys.lease(hand.owner), LEASE)
        return hand

    async def _start(self) -> RedisHand:
        hand = RedisHand(self)
        for sources in hand.node._intake.source_sets:
            await sources.make_groups(are_restored=False)
        return hand

    def publish(self, envelopes: Sequence[Envelope]) -> int:
        return self.loop.do(self._publisher.publish, envelopes)

    def fetch(self, hand: Hand, room: int, *, tends: bool, reads: bool, loses: bool) -> list[Delivery]:
        assert isinstance(hand, RedisHand)
        return self.loop.do(self._fetch, hand, room, tends, reads, loses)

    async def _fetch(self, hand: RedisHand, room: int, tends: bool, reads: bool, loses: bool) -> list[Delivery]:
        ((reclaimer, reader),) = [(part.reclaimer, part.reader) for part in hand.node._intake.parts]
        hand.sink.space = room
        hand.client.loses = loses
        # A machine that stands still for a second loses no reply, unless the model says so.
        with (
            patch.object(reading, "_REPLIES_WITHIN", PATIENCE),
            patch.object(reclaiming, "_PATIENCE", PATIENCE),
            patch.object(survey, "_PATIENCE", PATIENCE),
        ):
            if tends:
                await reclaimer.maintain()
            if reads and hand.sink.credit() > 0:
                with suppress(ConnectionError):  # As in `Reader.run`: it asks for recovery before the next read.
                    try:
                        await reader._take(hand.sink.credit())
                    except ResponseError as error:
                        # The first message of a priority has made a stream of its own, without a group yet.
                        await reader._heal(error)
                        await reader._take(hand.sink.credit())
        hand.client.loses = False
        await self.come_to_rest(hand)
        return self._offered(hand)

    async def come_to_rest(self, hand: RedisHand) -> None:
        """Wait for what the node does after a step, in the background."""

    def _offered(self, hand: RedisHand) -> list[Delivery]:
        offered, hand.sink.offered = hand.sink.offered, []
        hand.sink.space = 0
        return offered

    def recover(self, hand: Hand) -> list[Delivery]:
        assert isinstance(hand, RedisHand)
        return self.loop.do(self._recover, hand)

    async def _recover(self, hand: RedisHand) -> list[Delivery]:
        (reclaimer,) = [part.reclaimer for part in hand.node._intake.parts]
        hand.sink.space = 1000
        with patch.object(reclaiming, "_PATIENCE", PATIENCE):
            await reclaimer.recover()
        await self.come_to_rest(hand)
        return self._offered(hand)

    def settle(self, hand: Hand, endings: Sequence[Ending], *, loses: bool) -> list[bool]:
        assert isinstance(hand, RedisHand)
        return self.loop.do(self._settle, hand, endings, loses)

    async def _settle(self, hand: RedisHand, endings: Sequence[Ending], loses: bool) -> list[bool]:
        hand.events.clear()
        hand.client.loses = loses
        for delivery, settlement, published in endings:
            hand.node.settle(hand.subscription, delivery, settlement, published)
        await hand.node.wait_settled()
        hand.client.loses = False
        await self.come_to_rest(hand)
        refused = [event.delivery for event in hand.events if isinstance(event, Fenced)]
        return [not any(one is delivery for one in refused) for delivery, _, _ in endings]

    def settle_states(
        self, hand: Hand, endings: Sequence[Ending], *, room: int, loses: bool
    ) -> tuple[list[str], list[Delivery]]:
        """Settle, and say of each whether it was `done`, `fenced`, or `stale` and released; return also what came with
        the answer.
        """
        assert isinstance(hand, RedisHand)
        hand.stamps.clear()
        return self.loop.do(self._settle_states, hand, endings, room, loses)

    async def _settle_states(
        self, hand: RedisHand, endings: Sequence[Ending], room: int, loses: bool
    ) -> tuple[list[str], list[Delivery]]:
        hand.sink.space = room
        accepted = await self._settle(hand, endings, loses)
        stale = [event.delivery for event in hand.events if isinstance(event, StaleState)]
        with trio.fail_after(PATIENCE):
            while sum(event.count for event in hand.events if isinstance(event, Released)) < len(stale):  # noqa: ASYNC110
                await trio.sleep(0.001)
        hows = [
            "fenced" if not is_accepted else "stale" if any(one is delivery for one in stale) else "done"
            for (delivery, _, _), is_accepted in zip(endings, accepted, strict=True)
        ]
        return hows, self._offered(hand)

    def load(self, hand: Hand, delivery: Delivery, stamp: str) -> FoundState:
        """Load a state as a node does that knows the one with this stamp."""
        assert isinstance(hand, RedisHand)
        if hand.stamps.get(id(delivery), "?") == stamp:
            return True if stamp else None  # It came with a settlement.
        key = delivery.key
        assert key is not None
        (found,) = self.loop.do(self._entities.load, SOURCE, GROUP, [(key, stamp)])
        return found

    def state(self, key: str) -> tuple[int, bytes] | None:
        found = self.loop.do(self._entities.get, SOURCE, GROUP, key)
        return None if found is None else (found.version, found.data)

    def put(self, key: str, data: bytes, *, force: bool) -> int:
        return self.loop.do(partial(self._entities.put, SOURCE, GROUP, key, data, force=force))

    def release_deliveries(self, hand: Hand, deliveries: Sequence[Delivery]) -> None:
        assert isinstance(hand, RedisHand)
        self.loop.do(hand.node.release_deliveries, hand.subscription, deliveries)

    def claim(self, delivery: Delivery) -> Pending | None:
        _, count, in_flight, *_ = delivery.token
        return None if in_flight.is_over else Pending(in_flight.incarnation, count)

    def end_lease(self, owner: str) -> str:
        self.do("DEL", keys.lease(owner))
        return owner

    def succeed(self, hand: Hand) -> None:
        assert isinstance(hand, RedisHand)
        successor = f"{hand.owner[:24]}{int(hand.owner[24:], 16) + 1 & 0xFFFFFFFF:08x}"
        self.do("SET", keys.lease(successor), LEASE)
        self.loop.do(self._lose, hand, successor)
        hand.owner = successor

    async def _lose(self, hand: RedisHand, successor: str) -> None:
        hand.node._lease_lost(hand.owner, successor, "the model says so")

    def advance(self, seconds: float) -> None:
        for member in self.do("ZRANGE", self._keys.delayed, 0, -1):
            self.do("ZINCRBY", self._keys.delayed, -1000 * seconds, member)

    def cancel(self, id: str) -> bool:
        return self.loop.do(self._delayed.cancel, SOURCE, id)

    def deliver_again(self, id: str) -> None:
        self.do("XADD", SOURCE, "*", *self._entries[id])

    def start_run(self, plan: Plan) -> bool:
        return self.loop.do(self._runs.start, plan)

    def steer(self, how: Steering, run: str) -> bool:
        more = ("the model says so",) if how == "cancel" else ()
        return self.loop.do(getattr(self._runs, how), run, *more)

    def look_at(self, run: str) -> RunSight:
        return self.loop.do(self._look_at, run)

    async def _look_at(self, run: str) -> RunSight:
        info = await self._runs.info(run)
        assert info is not None
        return RunSight.of(info, await self._runs.steps(run))

    def look(self) -> Sight:
        streams = [self._keys.at(level) for level in LEVELS]
        commands = (
            *(("XRANGE", stream, "-", "+") for stream in streams),
            *(("XPENDING", stream, GROUP, "-", "+", 10_000) for stream in streams),
            ("ZRANGE", self._keys.delayed, 0, -1, "WITHSCORES"),
            ("HKEYS", self._keys.waiting),
            ("XRANGE", self._keys.dead, "-", "+"),
            ("XRANGE", EFFECTS, "-", "+"),
            ("TIME",),
        )
        *in_streams, delayed, waiting, dead, effects, now = self.do_all(commands)
        found: list[tuple[str, Place]] = []
        for entries, pending in zip(in_streams[: len(LEVELS)], in_streams[len(LEVELS) :], strict=True):
            ids = {entry: _named(fields)[b"id"].decode() for entry, fields in entries}
            self._entries.update((ids[entry], fields) for entry, fields in entries)
            # Of a stream without a group nothing is pending.
            given = () if isinstance(pending, Exception) else pending
            owners = {entry: Pending(owner.decode(), count) for entry, owner, _, count in given}
            assert owners.keys() <= ids.keys(), "pending, but not in the stream"
            found += [(name, owners.get(entry, Ready())) for entry, name in ids.items()]
        milliseconds = int(now[0]) * 1000
        for member, due in delayed:
            name = member.decode().removesuffix(f"/{GROUP}")  # So a retry of this group is called.
            found.append((name, Delayed((float(due) - milliseconds) / 1000)))
        found += [(member.decode(), Behind()) for member in waiting]
        found += [(_named(fields)[b"id"].decode(), Dead()) for _, fields in dead]
        return Sight(_each_once(found), [_named(fields)[b"id"].decode() for _, fields in effects])

    def close(self) -> None:
        self._redis.close()


class ClusterWorld(RedisWorld):
    """Runs are decided, and what an ack publishes arrives, in other slots than that of the messages.

    The node that leaves something to do in another slot forwards it, as always; the next step begins when it has. Where
    the reply to a settlement is lost, what it has left is forwarded twice, as it is if a node dies in between.
    """

    home = "home"

    def __init__(self, cluster: RedisCluster, loop: Loop) -> None:
        super().__init__(cluster, loop)
        self._cluster = cluster

    def connect(self, server: Any) -> None:
        """The client of the nodes knows where a key is."""

    def do(self, *command: Any) -> Any:
        return self.loop.do(self.loop.client.call, *command)

    def do_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        return self.loop.do(self.loop.client.call_many, commands)

    def close(self) -> None:
        """Nothing is open for one example alone."""

    async def come_to_rest(self, hand: RedisHand) -> None:
        outbox = hand.node._settler.calls.outbox
        assert outbox is not None
        with trio.fail_after(PATIENCE):
            await outbox.wait_forwarded()
            for source in (SOURCE, self.home):
                if await self.loop.client.call("XLEN", keys.outbox(source)):
                    assert hand.client.has_died_forwarding, f"the node has not forwarded what it left at {source}"
                    hand.client.has_died_forwarding = False
                    outbox.forward_soon(source)
                    await outbox.wait_forwarded()

    async def _settle(self, hand: RedisHand, endings: Sequence[Ending], loses: bool) -> list[bool]:
        hand.client.dies_forwarding, hand.client.has_died_forwarding = loses, False
        try:
            return await super()._settle(hand, endings, loses)
        finally:
            hand.client.dies_forwarding = False

    def move(self) -> None:
        """Move the slot of the messages to the next primary. No client is told."""
        primaries = self._cluster.primaries
        number = primaries.index(self._cluster.owner(SOURCE))
        self._cluster.move(SOURCE, primaries[(number + 1) % len(primaries)])

    def look(self) -> Sight:
        for source in (SOURCE, self.home):
            assert not self.do("XLEN", keys.outbox(source)), f"something is left in the outbox of {source}"
        return super().look()


def _named(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(fields[::2], fields[1::2], strict=True))


def _each_once(found: Sequence[tuple[str, Place]]) -> dict[str, Place]:
    twice = [name for name, count in Counter(name for name, _ in found).items() if count > 1]
    assert not twice, f"in two places at once: {twice}"
    return dict(found)


# ------------------------------------------------------------------------------------------------------------ embedded


class EmbeddedHand(Hand):
    def __init__(self, number: int, channels: Sequence[GroupChannel]) -> None:
        super().__init__(str(number))
        self.channels = channels


_COPY = "insert into entries (id, source, type, data, headers, born, addressee) values (?, ?, ?, ?, ?, ?, ?)"


class EmbeddedWorld:
    home = SOURCE

    def __init__(self) -> None:
        self._connection = connect(parse("sqlite://"))
        self._store = Store(self._connection)
        self._now = 1e9
        self._names = itertools.count()
        self._entries: dict[str, Sequence[Any]] = {}
        self._entities = EmbeddedEntities(cast("Any", self))

    def _do(self, function: Callable[[], T], *, fails: bool = False) -> T:
        """Do it in one transaction; if that fails first, do it again, as the writer does."""
        self._store.begin(self._now)
        try:
            result = function()
            self._store.join()
        except BaseException:
            self._store.rollback()
            raise
        if fails:
            self._store.rollback()
            return self._do(function)
        self._store.commit()
        self._store.transaction.replies.clear()
        return result

    def start(self) -> EmbeddedHand:
        channels = [GroupChannel(SOURCE, GROUP, "actor", MAX_CRASHES, level) for level in LEVELS]
        for channel in channels:
            self._do(lambda channel=channel: self._store.reading.open_channel(channel))
        return EmbeddedHand(self._enter(), channels)

    def _enter(self) -> int:
        return self._do(lambda: self._store.leases.take(f"node {next(self._names)}", float("inf")))

    def publish(self, envelopes: Sequence[Envelope]) -> int:
        return self._do(lambda: self._store.publish([row_of(envelope) for envelope in envelopes]), fails=True)

    def fetch(self, hand: Hand, room: int, *, tends: bool, reads: bool, loses: bool) -> list[Delivery]:
        assert isinstance(hand, EmbeddedHand)
        if tends:
            self._do(self._store.delay_queue.promote, fails=loses)
        # The writer looks at the lease in the transaction in which it reads.
        if not reads or not self._store.leases.has(int(hand.owner)):
            return []

        def take() -> list[Delivery]:
            taken: list[Delivery] = []
            for channel in hand.channels:
                if len(taken) < room:
                    taken += self._store.reading.take(channel, int(hand.owner), room - len(taken)).deliveries
            if not taken and room and self._store.reading.is_idle(int(hand.owner)):
                for channel in hand.channels:
                    taken = taken or self._store.reading.take_suspect(channel, int(hand.owner)).deliveries
            return taken

        return self._do(take, fails=loses)

    def recover(self, hand: Hand) -> list[Delivery]:
        return []

    def settle(self, hand: Hand, endings: Sequence[Ending], *, loses: bool) -> list[bool]:
        def settle() -> list[bool]:
            plain = [one for one in endings if is_plain(*one)]
            refused = self._store.settlements.settle_plain([delivery.token for delivery, _, _ in plain])
            others = {
                id(delivery): self._store.settle(
                    SettleOrder(delivery, GROUP, "actor", settlement, [row_of(one) for one in published])
                )
                for delivery, settlement, published in endings
                if not is_plain(delivery, settlement, published)
            }
            return [others.get(id(delivery), delivery.token not in refused) for delivery, _, _ in endings]

        return self._do(settle, fails=loses)

    def settle_states(
        self, hand: Hand, endings: Sequence[Ending], *, room: int, loses: bool
    ) -> tuple[list[str], list[Delivery]]:
        """Settle, and say of each whether it was `done`, `fenced`, or `stale` and released. Nothing comes with it: what
        this store gives to a node next, it gives in a step of its own.
        """

        def settle() -> list[str]:
            found: list[str] = []
            for delivery, settlement, published in endings:
                order = SettleOrder(delivery, GROUP, "actor", settlement, [row_of(one) for one in published])
                try:
                    found.append("done" if self._store.settle(order) else "fenced")
                except Stale:  # As a turn does.
                    self._store.release(delivery)
                    found.append("stale")
            return found

        return self._do(settle, fails=loses), []

    def load(self, hand: Hand, delivery: Delivery, stamp: str) -> FoundState:
        """Load a state as a node does that knows the one with this stamp."""
        assert delivery.key is not None
        (found,) = run(self._entities.load(SOURCE, GROUP, [(delivery.key, stamp)]))
        return found

    def state(self, key: str) -> tuple[int, bytes] | None:
        found = run(self._entities.get(SOURCE, GROUP, key))
        return None if found is None else (found.version, found.data)

    def put(self, key: str, data: bytes, *, force: bool) -> int:
        return run(self._entities.put(SOURCE, GROUP, key, data, force=force))

    async def ask(self, order: Callable[[Store], T], *, rows: int = 1, writes: bool = True) -> T:
        """Carry out what is ordered, as the writer does for the parts of the broker."""
        return self._do(lambda: order(self._store))

    def release_deliveries(self, hand: Hand, deliveries: Sequence[Delivery]) -> None:
        self._do(lambda: [self._store.release(delivery) for delivery in deliveries], fails=True)

    def claim(self, delivery: Delivery) -> Pending | None:
        return Pending(str(delivery.token.node), delivery.token.given)

    def end_lease(self, owner: str) -> str:
        """Orphan all of it in the same step: here a node whose lease has ended settles nothing more."""
        self._do(lambda: self._store.leases.end(int(owner)))
        return f"-{owner}"

    def succeed(self, hand: Hand) -> None:
        hand.owner = str(self._enter())

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def cancel(self, id: str) -> bool:
        return self._do(lambda: self._store.cancel(SOURCE, id), fails=False)

    def deliver_again(self, id: str) -> None:
        self._connection.execute(_COPY, self._entries[id])

    def start_run(self, plan: Plan) -> bool:
        return self._do(lambda: self._store.runs.start(plan))

    def steer(self, how: Steering, run: str) -> bool:
        more = ("the model says so",) if how == "cancel" else ()
        return self._do(lambda: getattr(self._store.runs, how)(run, *more))

    def look_at(self, run: str) -> RunSight:
        info = self._store.runs.info(run)
        assert info is not None
        return RunSight.of(info, self._store.runs.steps(run))

    def look(self) -> Sight:
        execute = self._connection.execute
        for row in execute("select id, source, type, data, headers, born, addressee from entries").fetchall():
            self._entries[row[0]] = row
        (source,) = execute("select source from sources where name = ?", (SOURCE,)).fetchone()
        found: list[tuple[str, Place]] = []
        for number, name, channel in execute("select seq, id, source from entries").fetchall():
            if channel not in channel_numbers(source):
                continue
            owned = execute("select node, count from pending where seq = ?", (number,)).fetchone()
            (cursor,) = execute("select cursor from groups where source = ?", (channel,)).fetchone()
            assert owned or number > cursor, f"{name} was delivered to no node, and is behind the cursor"
            found.append((name, Pending(str(owned[0]) if owned[0] else RELEASED, owned[1]) if owned else Ready()))
        assert not execute("select seq from pending where seq not in (select seq from entries)").fetchall()
        found += [(name, Delayed(due - self._now)) for name, due in execute("select id, due from delayed").fetchall()]
        found += [(name, Behind()) for (name,) in execute("select id from behind").fetchall()]
        found += [(name, Dead()) for (name,) in execute("select id from dead").fetchall()]
        effects = execute(
            "select id from entries where source = (select source from sources where name = ?) order by seq", (EFFECTS,)
        ).fetchall()
        return Sight(_each_once(found), [name for (name,) in effects])

    def close(self) -> None:
        self._connection.close()
