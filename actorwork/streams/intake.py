"""What a node reads: the source sets of its subscriptions, each with a reader and a reclaimer.

A source that is divided is read in sets of its own, so that they can be replaced by those of another layout, while the
node runs, without touching what is in flight elsewhere. Nothing is in flight in the shards that are replaced: that is
waited for before a layout changes (dividing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import attrs
import trio

from actorwork.abc import Subscription
from actorwork.shown import Shown
from actorwork.streams.entries import Moments
from actorwork.streams.reader import Reader
from actorwork.streams.reclaimer import Reclaimer
from actorwork.streams.shards import Layouts
from actorwork.streams.source_set import SOURCES, SharedRoom, SourceSet
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import RedisError


@attrs.frozen(eq=False, repr=False)
class Part(Shown):
    """One source set, and the tasks that read and maintain it."""

    subscription: Subscription
    source_set: SourceSet
    reader: Reader
    reclaimer: Reclaimer
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def run(self) -> None:
        """Maintain the sources once, then read and maintain them until cancelled."""
        with self.scope:
            try:
                await self.reclaimer.maintain()
            except RedisError:
                self.reclaimer.maintain_within(0)  # It meets the error again, and reports it.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.reclaimer.run)
                await self.reader.run()


class Intake:
    """The parts of one node.

    `make(subscription, sources, room)` makes one of them; those of one subscription share the room of its sink.
    """

    def __init__(
        self,
        client: RedisClient,
        layouts: Layouts,
        subscriptions: Sequence[Subscription],
        make: Callable[[Subscription, Sequence[str], SharedRoom], Part],
    ) -> None:
        self._client = client
        self._layouts = layouts
        self._make = make
        self._paused: dict[Subscription, Collection[str]] = {}
        self._replacing = trio.Lock()
        self._tasks: trio.Nursery | None = None
        self.added = Moments()
        """When the server has added what is read."""
        self._rooms = {subscription: SharedRoom() for subscription in subscriptions}
        self.parts: list[Part] = []
        for subscription in subscriptions:
            groups = self._groups(subscription)
            room = self._room(subscription, len(groups))
            self.parts += [make(subscription, names, room) for names in groups]

    def __repr__(self) -> str:
        return f"<Intake of {len(self.parts)} source sets>"

    @property
    def source_sets(self) -> list[SourceSet]:
        return [part.source_set for part in self.parts]

    def of(self, subscription: Subscription) -> list[SourceSet]:
        return [part.source_set for part in self.parts if part.subscription is subscription]

    def reclaimers(self, subscription: Subscription) -> list[Reclaimer]:
        return [part.reclaimer for part in self.parts if part.subscription is subscription]

    def look_soon(self) -> None:
        """Look at all sources within a second."""
        for part in self.parts:
            part.reclaimer.look_soon()

    def run(self, nursery: trio.Nursery) -> None:
        """Begin to read, in a nursery whose cancellation ends it. Never waits."""
        self._tasks = nursery
        for part in self.parts:
            nursery.start_soon(part.run)

    def pause_sources(self, subscription: Subscription, sources: Collection[str]) -> None:
        self._paused[subscription] = sources
        for source_set in self.of(subscription):
            source_set.pause_sources(sources)

    async def replace(self, subscription: Subscription, source_set: SourceSet) -> bool:
        """Read the shards that a subscription has by now; return whether this set has none of its old ones any more,
        or fewer.

        Called after a read was refused, because something is no stream. Raises `BrokerError` and `RedisError`.
        """
        async with self._replacing:
            before = source_set.names
            await self._layouts.refresh()
            wanted = [name for names in self._groups(subscription) for name in names]
            if not before or set(wanted).issuperset(before):
                return not before  # Another reader may have been here first.
            have = {name for one in self.of(subscription) for name in one.names}
            groups = [names for names in self._groups(subscription) if not have.issuperset(names)]
            room = self._room(subscription, len(self._groups(subscription)))
            new: list[Part] = []
            for names in groups:
                part = self._make(subscription, [name for name in names if name not in have], room)
                part.source_set.pause_sources(self._paused.get(subscription, ()))
                try:
                    await part.source_set.make_groups(are_restored=False)
                except BaseException:
                    part.source_set.isolation.remove(part.source_set)
                    raise
                new.append(part)
            for part in [part for part in self.parts if part.subscription is subscription]:
                part.source_set.drop([name for name in part.source_set.names if name not in wanted])
                if not part.source_set.names:
                    self.parts.remove(part)
                    part.source_set.isolation.remove(part.source_set)
                    part.scope.cancel()
            self.parts += new
            if self._tasks is not None:
                for part in new:
                    self._tasks.start_soon(part.run)
            return True

    def _groups(self, subscription: Subscription) -> list[Sequence[str]]:
        """Return the streams that a subscription reads, those that are read together in one tuple."""
        whole: list[str] = []
        divided: list[Sequence[str]] = []
        for source in subscription.sources:
            names = self._layouts.names(source)
            if names == (source,):
                whole.append(source)
            else:
                divided += self._client.at_one_place(names, SOURCES)
        return [*self._client.at_one_place(whole, SOURCES), *divided]

    def _room(self, subscription: Subscription, readers: int) -> SharedRoom:
        room = self._rooms[subscription]
        room.readers = readers if self._client.is_of_cluster else 1
        return room
