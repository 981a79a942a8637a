"""Channels: how a node subscribes to one, and who watches which; the same for all programs, whatever their loop is."""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

from actorwork.abc import EventSink
from actorwork.events import BrokerTrouble
from actorwork.streams import keys
from actorwork.streams.transport.commands import Subscriptions
from actorwork.streams.transport.redis_py import RedisError

LOOK_EVERY: Final = 3.0
LOOKS_AT_ONCE: Final = 100
"""How many watches look again every few seconds, in turn: a thousand that wait must not keep the server busy."""


async def subscribed(subscriptions: Subscriptions, channel: str, emit: EventSink, *, otherwise: str) -> bool:
    """Subscribe to a channel; return whether that succeeded. Where it is refused (by an ACL), report it.

    `otherwise` says in that report what the node does without announcements.
    """
    try:
        await subscriptions.subscribe(channel.encode())
    except RedisError as error:
        emit(BrokerTrouble(f"subscribing to {channel}", str(error), f"going on; {otherwise}"))
        return False
    return True


class Told(Protocol):
    channel: bytes

    def tell(self) -> None:
        """Something may have changed: look again."""
        ...


W = TypeVar("W", bound=Told)


class Watches(Generic[W]):
    """The watches of one connection. Its channels lose messages with it: then all look again, and some now and then."""

    def __init__(self) -> None:
        self._by_channel: dict[bytes, list[W]] = {}
        self._in_turn: dict[W, None] = {}

    def __repr__(self) -> str:
        return f"<Watches of {len(self._by_channel)} channels>"

    def __len__(self) -> int:
        return len(self._in_turn)

    def add(self, watch: W) -> None:
        self._by_channel.setdefault(watch.channel, []).append(watch)
        self._in_turn[watch] = None

    def remove(self, watch: W) -> bool:
        """Return whether it was the last one of its channel."""
        if watch not in self._in_turn:
            return False
        del self._in_turn[watch]
        others = self._by_channel[watch.channel]
        others.remove(watch)
        if others:
            return False
        del self._by_channel[watch.channel]
        return True

    def tell(self, channel: bytes) -> None:
        """Tell those who watch a channel."""
        for watch in self._by_channel.get(channel, ()):
            watch.tell()

    def tell_all(self) -> None:
        for watch in self._in_turn:
            watch.tell()

    def tell_some(self) -> None:
        """Tell those who have not been told for longest."""
        for watch in list(self._in_turn)[:LOOKS_AT_ONCE]:
            del self._in_turn[watch]
            self._in_turn[watch] = None
            watch.tell()


def channel_of(source: str, id: str) -> bytes:
    """Return the channel of changes of a message; with the source "", of a run."""
    return (keys.SourceKeys.of(source).watch(id) if source else keys.watch_of_run(id)).encode()
