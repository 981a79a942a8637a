"""Channels: how a node subscribes to one, and who watches which; the same for all programs, whatever their loop is.

On a cluster, what is published at one primary is passed on to all of them, so that a message which goes through four
states would cost each primary four times, whether it is watched or not. A client that watches a message therefore keeps
a note in the slot of its source, and nothing is published of messages without one (lua/state.lua).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from actorwork.abc import EventSink
from actorwork.events import BrokerTrouble
from actorwork.settings import is_own_source
from actorwork.streams import keys
from actorwork.streams.transport.commands import Subscriptions
from actorwork.streams.transport.redis_py import RedisError

LOOK_EVERY: Final = 3.0
LOOKS_AT_ONCE: Final = 100
"""How many watches look again every few seconds, in turn: a thousand that wait must not keep the server busy."""
_NOTED_FOR: Final = 30
NOTED_EVERY: Final = 10.0
"""Seconds for which a note is kept, and after which it is written anew."""


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
        self._notes: dict[bytes, Sequence[Any]] = {}

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
        self._notes.pop(watch.channel, None)
        return True

    def keep_note(self, channel: bytes, note: Sequence[Any]) -> None:
        if channel in self._by_channel:
            self._notes[channel] = note

    def notes(self) -> list[Sequence[Any]]:
        """Return the commands that keep the notes of what is watched."""
        return list(self._notes.values())

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


def note_of(source: str, id: str) -> Sequence[Any] | None:
    """Return the command that notes, on a cluster, that a message is watched; None if that is not needed.

    Of an actor's own source only: any other may be divided, and a client does not know in which shard a message is.
    """
    return ("SET", keys.SourceKeys.of(source).watched(id), "", "EX", _NOTED_FOR) if is_own_source(source) else None


def channel_of(source: str, id: str) -> bytes:
    """Return the channel of changes of a message; with the source "", of a run."""
    return (keys.SourceKeys.of(source).watch(id) if source else keys.watch_of_run(id)).encode()
