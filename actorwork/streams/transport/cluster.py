"""A client of Redis Cluster on Trio: one shared connection to each primary, and what is where.

Commands go to the primary that has their keys: `routing.py`. Each primary has a client (`RedisClient`), which this one
owns.

The layout is asked for again when a primary says MOVED, when a connection is lost, as long as it is, and every now and
then; requests that come together are answered by one. What a connection to a primary that is no primary any more still
owes is what is owed by any connection that is lost (`client.py`), and what has not been sent goes to its successor.

Subscriptions are at one primary: what is published at any of them arrives there, too. If it goes, or cannot be reached
while another one can, they move on, and so do commands without a key, which go there.

Reads that block have connections of their own, to the primary of the key that they name. When that changes, they are
ended, and opened again elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from random import SystemRandom
from typing import Any, ClassVar, Final

import attrs
import trio

from actorwork.errors import BrokerError
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.client import (
    ClientStatistics,
    Connected,
    ConnectionEvent,
    ConnectionLost,
    RedisClient,
    RedisClientClosed,
)
from actorwork.streams.transport.cluster_layout import Cluster, Layout, Place, target_of
from actorwork.streams.transport.commands import Script
from actorwork.streams.transport.exclusive import Exclusive
from actorwork.streams.transport.redis_py import MovedError, RedisError
from actorwork.streams.transport.routing import (
    ANSWERS_WITHIN,
    LOST,
    R,
    SubscribedRouting,
    address_at,
    guarded,
    pause_before,
)

_chance: Final = SystemRandom()
_LOOK_EVERY: Final = (10.0, 20.0)
_LOOK_SOON: Final = (0.2, 0.5)
"""Seconds between two looks at the layout while a primary cannot be reached."""
_SPREAD: Final = 0.02
"""Seconds by which a look waits for other reasons to look."""


def cluster_client(make: Callable[..., RedisClient] = RedisClient) -> Callable[..., RedisClient]:
    """Return what makes a client of a cluster, whose clients of the primaries are made by `make`."""

    def cluster(*arguments: Any) -> ClusterClient:
        client = ClusterClient(*arguments)
        client.make = make
        return client

    return cluster


class ClusterClient(SubscribedRouting, RedisClient):
    """Made by `open_client` with `make=cluster_client()`."""

    GONE: ClassVar[tuple[type[Exception], ...]] = (RedisClientClosed,)
    make: Callable[..., RedisClient] = RedisClient
    """Makes the client of one primary."""

    def __init__(
        self,
        address: Address,
        name: str,
        scripts: Sequence[Script],
        on_push: Callable[[list[Any]], None],
        on_event: Callable[[ConnectionEvent], None],
        silence: float,
    ) -> None:
        super().__init__(address, name, scripts, on_push, on_event, silence)
        assert address.cluster is not None  # noqa: S101 - it is the address of a cluster
        self._cluster: Cluster = address.cluster
        self._guarded = {script.sha: guarded(script) for script in scripts}
        self._layout: Layout | None = None
        self._clients: dict[Place, RedisClient] = {}
        self._carriers = self._clients
        self._home: Place | None = None
        """The primary where the subscriptions are, and commands without a key go."""
        self._parked: dict[Exclusive, Place] = {}
        self._is_stale = trio.Event()
        self._known = trio.Event()
        """Set once a layout is known, or the client is closed."""
        self._changed = trio.Event()
        """Set and replaced when a connection is made, and set when the client is closed."""
        self._tasks: trio.Nursery | None = None
        self._homing: set[trio.CancelScope] = set()
        """Those of tasks that wait for the primary where the subscriptions are."""

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "no layout" if self._layout is None else f"{len(self._clients)} nodes"
        return f"<ClusterClient of {self._address.url}, {state}>"

    # --------------------------------------------------------------------------------------------------------- commands

    async def _pause(self, times: int) -> None:
        await trio.sleep(pause_before(times))

    async def _all(self, jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        async with open_unwrapping_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(job)

    async def _in_time(self, job: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        with trio.move_on_after(ANSWERS_WITHIN) as scope:
            await job()
        return not scope.cancelled_caught

    # ----------------------------------------------------------------------------------------------------------- pushes

    async def _at_home(self, channel: bytes, *, is_wanted: bool) -> None:
        while True:
            await self._wait_layout()
            client = None if self._home is None else self._clients.get(self._home)
            if client is None:
                await self._pause(1)
                continue
            if not client.is_connected:  # Nor is any other one.
                await self._changed.wait()
                continue
            try:
                with self._until_home_moves():
                    await (client.subscribe(channel) if is_wanted else client.unsubscribe(channel))
                    return
            except RedisClientClosed:
                await trio.lowlevel.checkpoint()

    def _pushed(self, place: Place, push: list[Any]) -> None:
        if push[0] == b"sunsubscribe":
            client = self._clients.get(place)
            if client is not None:
                client.forget_near(push[1])
            self._look_now()
            return
        self._on_push(push)

    @contextmanager
    def _until_home_moves(self) -> Generator[None]:
        with trio.CancelScope() as scope:
            self._homing.add(scope)
            try:
                yield
            finally:
                self._homing.discard(scope)

    async def _while_home_stays(self, ask: Callable[[], Coroutine[Any, Any, R]]) -> R:
        while True:
            with self._until_home_moves():
                return await ask()

    def is_near(self, channel: bytes) -> bool:
        place = self._place_of((channel,))
        client = None if place is None else self._clients.get(place)
        return client is not None and client.is_near(channel)

    async def subscribe_near(self, channel: bytes) -> None:
        """Subscribe to a channel at the primary that has its slot now. When the slot moves, that has an end."""
        while True:
            await self._wait_layout()
            place = self._place_of((channel,))
            client = None if place is None else self._clients.get(place)
            if place is None or client is None:
                await self._pause(1)
                continue
            try:
                return await client.subscribe_near(channel)
            except RedisClientClosed:
                await trio.lowlevel.checkpoint()
            except MovedError as error:
                self._note_moved((channel,), target_of(error, place))
                await self._pause(2)

    async def _subscribe_again(self, client: RedisClient) -> None:
        with self._until_home_moves():
            for channel in tuple(self._channels):
                try:
                    await client.subscribe(channel)
                except RedisClientClosed:
                    return
                except RedisError:
                    continue  # Its right was taken away; those who wait look now and then.
            self._look_once_more(client)

    def _look_once_more(self, client: RedisClient) -> None:
        """Report a connection: what was published before the subscriptions has not arrived, and is looked for."""
        servers, away = self.servers()
        self._on_event(Connected(client.address.url, self.generation, away, servers))

    def _move_home(self) -> None:
        """Have another primary for the subscriptions if theirs cannot be reached, and one can."""
        old = None if self._home is None else self._clients.get(self._home)
        if old is not None and old.is_connected:
            return
        there = [place for place, client in self._clients.items() if client.is_connected]
        if not there and old is None:
            there = list(self._clients)[:1]
        if not there or self._tasks is None:
            return
        found = self._home = self.choose(there)
        for scope in self._homing:
            scope.cancel()
        if old is not None:
            old.forget_subscriptions()
        if self._channels:
            self._tasks.start_soon(self._subscribe_again, self._clients[found])

    # ------------------------------------------------------------------------------------------------------ connections

    @property
    def is_connected(self) -> bool:
        return any(client.is_connected for client in self._clients.values())

    async def wait_connected(self) -> None:
        """Wait until the layout is known, and there is a connection to one primary."""
        while True:
            await self._wait_layout()
            if self.is_connected:
                return
            await self._changed.wait()

    async def _wait_layout(self) -> None:
        """Wait until the layout is known; return at once if it is."""
        while self._layout is None:
            if self._is_closed:
                break
            await self._known.wait()
        if self._is_closed:
            raise RedisClientClosed(f"this client of {self._address.url} is closed")

    @asynccontextmanager
    async def open_exclusive(
        self, name: str | None = None, *, patience: float = math.inf, key: str = ""
    ) -> AsyncGenerator[Exclusive]:
        keys = (key,) if key else ()
        async with AsyncExitStack() as stack:
            while True:
                await self._wait_layout()
                place = self._place_of(keys)
                client = None if place is None else self._clients.get(place)
                if place is None or client is None:
                    await self._pause(1)
                    continue
                try:
                    exclusive = await stack.enter_async_context(client.open_exclusive(name, patience=patience))
                    break
                except RedisClientClosed:
                    await trio.lowlevel.checkpoint()
            self._parked[exclusive] = place
            try:
                yield exclusive
            finally:
                del self._parked[exclusive]

    def reaches(self, key: Any) -> bool:
        place = self._place_of((key,))
        client = None if place is None else self._clients.get(place)
        return client is not None and client.is_connected

    def servers(self) -> tuple[int, int]:
        clients = list(self._clients.values())
        return max(1, len(clients)), sum(not client.is_connected for client in clients) if clients else 1

    def has_moved(self, error: RedisError) -> bool:
        if not self._is_elsewhere(error):
            return False
        if isinstance(error, MovedError) and self._layout is not None:
            old = self._layout.of_slot[error.slot_id]
            if old is not None:
                self._note_slot(error.slot_id, target_of(error, old))
        self._look_now()
        return True

    def statistics(self) -> ClientStatistics:
        each = [client.statistics() for client in self._clients.values()]
        return ClientStatistics(
            is_connected=bool(each) and all(one.is_connected for one in each),
            generation=self.generation,
            in_flight=sum(one.in_flight for one in each),
            bytes_sent=self._bytes[0] + sum(one.bytes_sent for one in each),
            bytes_received=self._bytes[1] + sum(one.bytes_received for one in each),
            subscriptions=len(self._channels),
            last_error=next((one.last_error for one in each if one.last_error is not None), self._last_error),
        )

    # ------------------------------------------------------------------------------------------------------ the layout

    async def attempt(self) -> Any:
        """Return the layout, or why it is not known."""
        try:
            return await self._find()
        except LOST as error:
            self._last_error = error
            return error

    async def _find(self) -> Layout:
        away = frozenset(place for place, client in self._clients.items() if not client.is_connected)
        return await trio.to_thread.run_sync(
            self._cluster.find, self._layout, away, abandon_on_cancel=True, limiter=self._threads
        )

    @trio.lowlevel.enable_ki_protection
    async def keep_connected(self, first: Any) -> None:
        """Own the clients of the primaries, and keep the layout, until the client is closed. Shielded, as in
        `RedisClient`.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._tasks = nursery
                result: Layout | Exception = first
                while True:
                    if isinstance(result, Layout):
                        self._adopt(result, nursery)
                    else:
                        self._last_error = result
                        if self._layout is None:
                            self._on_event(ConnectionLost(self._address.url, result, _LOOK_SOON[1]))
                    await self._wait_stale()
                    try:
                        result = await self._find()
                    except (*LOST, BrokerError) as error:
                        result = error

    async def _wait_stale(self) -> None:
        """Wait until the layout may be another one."""
        is_whole = self._layout is not None and all(one.is_connected for one in self._clients.values())
        with trio.move_on_after(_chance.uniform(*(_LOOK_EVERY if is_whole else _LOOK_SOON))):
            await self._is_stale.wait()
        await trio.sleep(_chance.uniform(0, _SPREAD))
        self._is_stale = trio.Event()

    def _look_now(self) -> None:
        self._is_stale.set()

    def _adopt(self, layout: Layout, nursery: trio.Nursery) -> None:
        self._layout = layout
        away = self.servers()[1]
        for place in tuple(self._clients):
            if place not in layout.primaries:
                client = self._clients.pop(place)
                statistics = client.statistics()
                self._bytes = (
                    self._bytes[0] + statistics.bytes_sent,
                    self._bytes[1] + statistics.bytes_received,
                )
                client.close()
                for exclusive, where in self._parked.items():
                    if where == place:
                        exclusive.interrupt()
        # The one that has a connection first is where subscriptions are.
        first = self.choose(layout.primaries)
        for place in (first, *layout.primaries):
            if place not in self._clients:
                client = self._clients[place] = self.make(
                    address_at(self._address, place),
                    self._name,
                    tuple(self._guarded.values()),
                    partial(self._pushed, place),
                    self._on_change,
                    self._silence,
                )
                nursery.start_soon(self._keep, client)
        self._move_home()
        self._known.set()
        if away and not self.servers()[1]:
            # The last one that was away has left the cluster, and no other one has taken its place.
            self._on_event(Connected(self._address.url, self.generation, servers=self.servers()[0]))

    async def _keep(self, client: RedisClient) -> None:
        try:
            first = await client.attempt()
        except BrokerError as error:  # The other primaries accept what this one refuses: it may pass.
            first = error
        await client.keep_connected(first)

    def _on_change(self, event: ConnectionEvent) -> None:
        """Pass on what happens to the connections of the primaries."""
        servers, away = self.servers()
        if isinstance(event, Connected):
            self.generation += 1
            event = attrs.evolve(event, generation=self.generation, away=away, servers=servers)
            self._changed.set()
            self._changed = trio.Event()
        else:
            self._look_now()
            event = attrs.evolve(event, away=max(1, away), servers=servers)
        self._move_home()
        self._on_event(event)

    def close(self) -> None:
        super().close()
        for client in self._clients.values():
            client.close()
        self._known.set()
        self._changed.set()
