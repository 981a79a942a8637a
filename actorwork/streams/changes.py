"""Where changes of messages and runs are heard of: on a channel for each that is watched, and by looking again.

A channel is quick, but loses messages with its connection. So all that watch look again after each reconnect, and some
of them every few seconds, in turn.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NoReturn

import trio

from actorwork.abc import Changes, EventSink, Watch
from actorwork.events import BrokerTrouble
from actorwork.streams.transport.client import RedisClient, RedisClientClosed
from actorwork.streams.transport.redis_py import RedisError
from actorwork.streams.watches import LOOK_EVERY, NOTED_EVERY, Watches, channel_of, note_of


class RedisWatch(Watch):
    """One caller that watches."""

    def __init__(self, channel: bytes, changes: RedisChanges) -> None:
        self.channel = channel
        self._changes = changes
        self._told = trio.Event()

    def __repr__(self) -> str:
        return f"<RedisWatch of {self.channel.decode()}>"

    def tell(self) -> None:
        self._told.set()

    async def changed(self) -> None:
        await self._told.wait()
        self._told = trio.Event()

    async def aclose(self) -> None:
        await self._changes.end(self)


class RedisChanges(Changes):
    """Made by `RedisBroker.open_changes`."""

    def __init__(self, client: RedisClient, emit: EventSink) -> None:
        self._client = client
        self._emit = emit
        self.watches: Watches[RedisWatch] = Watches()

    def __repr__(self) -> str:
        return f"<RedisChanges: {self.watches!r}>"

    async def watch(self, source: str, id: str) -> RedisWatch:
        watch = RedisWatch(channel_of(source, id), self)
        self.watches.add(watch)
        try:
            # Also if others watch it: their subscription may not be confirmed yet.
            await self._client.subscribe(watch.channel)
            if self._client.is_of_cluster and (note := note_of(source, id)) is not None:
                self.watches.keep_note(watch.channel, note)
                await self._client.call(*note, idempotent=True)
        except RedisError as error:
            self._emit(BrokerTrouble(f"watching message {id}", str(error), f"looking every {LOOK_EVERY:g} s"))
        except BaseException:
            await self.end(watch)
            raise
        return watch

    async def end(self, watch: RedisWatch) -> None:
        """End a watch. Shielded, for half a second at most."""
        if self.watches.remove(watch):
            with trio.move_on_after(0.5, shield=True), suppress(RedisError, RedisClientClosed):
                await self._client.unsubscribe(watch.channel)

    async def run(self) -> NoReturn:
        """Have some that watch look again, every few seconds; keep the notes of what is watched."""
        noted = trio.current_time()
        while True:
            await trio.sleep(LOOK_EVERY)
            self.watches.tell_some()
            if trio.current_time() >= noted + NOTED_EVERY:
                noted = trio.current_time()
                with suppress(RedisError):  # They are written again, and all look now and then.
                    await self._client.call_many(self.watches.notes(), idempotent=True)
