"""Commands to Redis Cluster on asyncio's loop: each at the primary that has its keys.

Each primary has a client of its own (`AsyncioRedis`). One task asks for the layout when a primary says that a slot has
moved, as long as one cannot be reached, and every now and then. What waits for a primary that is one no more goes to
its successor.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from random import SystemRandom
from typing import Any, ClassVar, Final

import attrs

from actorwork.asynchronous.link import Outgoing
from actorwork.asynchronous.redis import LOST, AsyncioRedis
from actorwork.errors import BrokerError
from actorwork.events import BrokerBack, BrokerLost
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.cluster_layout import Cluster, Layout, Place, target_of
from actorwork.streams.transport.redis_py import ConnectionError, MovedError, RedisError  # noqa: A004
from actorwork.streams.transport.routing import ANSWERS_WITHIN, R, SubscribedRouting, address_at, pause_before

_chance: Final = SystemRandom()
_LOOK_EVERY: Final = (10.0, 20.0)
_LOOK_SOON: Final = (0.2, 0.5)


class _Closed(Exception):
    """The client of a primary was closed: the primary is one no more."""


class _Primary(AsyncioRedis):
    """The client of one primary, which connects by itself."""

    def start(self) -> None:
        self._connecting = self._loop.create_task(self._reconnect())

    def issue(self, request: Outgoing) -> None:
        if self._is_closed:
            raise _Closed
        super().issue(request)

    def abandon(self) -> None:
        """End the connection; what has not been sent, or may be sent again, gets `_Closed`."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            self._link.fail(ConnectionError(f"{self.address.url} is no primary any more"))
        for request in self._queued.take():
            request.refuse(_Closed())


class AsyncioCluster(SubscribedRouting):
    """Implements `streams.transport.commands.Commands`. Safe to use from any number of tasks of its loop."""

    GONE: ClassVar[tuple[type[Exception], ...]] = (_Closed,)

    def __init__(
        self,
        address: Address,
        on_push: Callable[[list[Any]], None],
        on_back: Callable[[], None],
        emit: Callable[[BrokerLost | BrokerBack], None],
    ) -> None:
        assert address.cluster is not None  # noqa: S101 - it is the address of a cluster
        self.address = address
        self._cluster: Cluster = address.cluster
        self._on_push = on_push
        self._on_back = on_back
        self._emit = emit
        self._guarded = {}
        self._layout = None
        self._home = None
        self._primaries: dict[Place, _Primary] = {}
        self._carriers = self._primaries
        self._ended = 0
        """The connections of clients that were closed."""
        self._channels: set[bytes] = set()
        self._is_stale = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._homing: set[asyncio.Future[Any]] = set()
        """What waits for the primary where commands without a key go."""
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<AsyncioCluster of {self.address.url}, {len(self._primaries)} nodes>"

    @property
    def generation(self) -> int:
        return self._ended + sum(one.generation for one in self._primaries.values())

    async def open(self) -> None:
        """Learn the layout. Raises `BrokerError` if trying again cannot help; waits while no member can be reached."""
        while self._layout is None:
            try:
                self._adopt(await self._find())
            except LOST as error:
                self._emit(BrokerLost(str(error), _LOOK_SOON[1]))
                await asyncio.sleep(_chance.uniform(*_LOOK_SOON))
        self._begin(self._keep_layout())

    # ---- commands ----

    async def _pause(self, times: int) -> None:
        await asyncio.sleep(pause_before(times))

    async def _all(self, jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        await asyncio.gather(*(job() for job in jobs))

    async def _in_time(self, job: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        try:
            await asyncio.wait_for(job(), ANSWERS_WITHIN)
        except TimeoutError:
            return False
        return True

    async def _at_home(self, channel: bytes, *, is_wanted: bool) -> None:
        while True:
            await self._wait_layout()
            assert self._home is not None  # noqa: S101 - there is a layout
            client = self._primaries[self._home]
            if not client.is_connected:
                self._move_home()
                await self._pause(1)
                continue
            try:
                await (client.subscribe(channel) if is_wanted else client.unsubscribe(channel))
            except _Closed:
                await self._pause(1)
            else:
                return

    async def _while_home_stays(self, ask: Callable[[], Coroutine[Any, Any, R]]) -> R:
        while True:
            asked = asyncio.ensure_future(ask())
            self._homing.add(asked)
            try:
                return await asked
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if asked in self._homing or (task is not None and task.cancelling()):
                    raise
            finally:
                self._homing.discard(asked)

    def is_near(self, channel: bytes) -> bool:
        place = self._place_of((channel,))
        return place in self._primaries and self._primaries[place].is_near(channel)

    async def subscribe_near(self, channel: bytes) -> None:
        """Subscribe to a channel at the primary that has its slot now. When the slot moves, that has an end."""
        while True:
            await self._wait_layout()
            place = self._place_of((channel,))
            client = None if place is None else self._primaries.get(place)
            if place is None or client is None:
                await self._pause(1)
                continue
            try:
                return await client.subscribe_near(channel)
            except _Closed:
                await self._pause(1)
            except MovedError as error:
                self._note_moved((channel,), target_of(error, place))
                await self._pause(2)

    def _pushed(self, place: Place, push: list[Any]) -> None:
        if push[0] != b"sunsubscribe":
            self._on_push(push)
        elif place in self._primaries:
            self._primaries[place].forget_near(push[1])
            self._look_now()

    async def _subscribe_again(self, channel: bytes) -> None:
        # If its right was taken away: those who wait look now and then.
        with contextlib.suppress(RedisError, BrokerError):
            await self._at_home(channel, is_wanted=True)

    # ---- the layout ----

    async def _wait_layout(self) -> None:
        if self._is_closed:
            raise BrokerError(f"this client of {self.address.url} is closed")

    def reaches(self, key: Any) -> bool:
        place = self._place_of((key,))
        return place in self._primaries and self._primaries[place].is_connected

    def _look_now(self) -> None:
        self._is_stale.set()

    async def _find(self) -> Layout:
        away = frozenset(place for place, client in self._primaries.items() if not client.is_connected)
        return await asyncio.to_thread(self._cluster.find, self._layout, away)

    async def _keep_layout(self) -> None:
        while not self._is_closed:
            is_whole = all(client.is_connected for client in self._primaries.values())
            # Not `wait_for`: up to Python 3.11 it loses a cancellation that comes together with the event.
            with contextlib.suppress(asyncio.TimeoutError):
                async with asyncio.timeout(_chance.uniform(*(_LOOK_EVERY if is_whole else _LOOK_SOON))):
                    await self._is_stale.wait()
            self._is_stale.clear()
            # If no member answers: the clients of the primaries report that they are lost.
            with contextlib.suppress(BrokerError, *LOST):
                self._adopt(await self._find())
            await self._pause(2)

    def _adopt(self, layout: Layout) -> None:
        self._layout = layout
        for place in tuple(self._primaries):
            if place not in layout.primaries:
                client = self._primaries.pop(place)
                self._ended += client.generation
                client.abandon()
        for place in layout.primaries:
            if place not in self._primaries:
                address = address_at(self.address, place)
                client = self._primaries[place] = _Primary(
                    address, partial(self._pushed, place), self._on_back, self._tell
                )
                client.start()
        if self._home not in self._primaries:
            self._home = self.choose(layout.primaries)
            self._settle_in()

    def _move_home(self) -> None:
        """Have another primary for the subscriptions, one that can be reached, if there is one."""
        there = [place for place, one in self._primaries.items() if one.is_connected]
        if there and self._home is not None:
            self._primaries[self._home].forget_subscriptions()
            self._home = self.choose(there)
            self._ask_elsewhere()
            self._settle_in()

    def _ask_elsewhere(self) -> None:
        """Have what waits for the primary that was left be asked of the other one."""
        asked = tuple(self._homing)
        self._homing.clear()
        for one in asked:
            one.cancel()

    def _settle_in(self) -> None:
        for channel in self._channels:
            self._begin(self._subscribe_again(channel))

    def _tell(self, event: BrokerLost | BrokerBack) -> None:
        """Report what happens to the connection of one primary, with how many are away."""
        others = [one for one in self._primaries.values() if one.address.url != event.broker]
        away = sum(not one.is_connected for one in others) + isinstance(event, BrokerLost)
        self._emit(attrs.evolve(event, away=away, servers=len(others) + 1))
        home = None if self._home is None else self._primaries.get(self._home)
        if isinstance(event, BrokerLost) and home is not None and not home.is_connected:
            self._move_home()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Close the connections; requests that wait are cancelled."""
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._primaries.values():
            await client.aclose()
