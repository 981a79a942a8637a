"""Where outcomes arrive: on one channel, and by a look at stored outcomes.

The script that settles a message publishes its outcome to the channel and stores it for as long as the caller asked.
The channel is quick, but loses messages with its connection; a stored outcome is certain. So all outcomes that are
still awaited are looked up after each reconnect, and every few seconds. Outcomes of messages that are held back until
a time are looked up every few seconds from that time on: of these there may be very many.

On a cluster, what is published on that channel costs all primaries. So outcomes of a source that has been asked before
arrive on a channel of their own, at the primary of that source only (SSUBSCRIBE). Where that is not possible, and until
it is, the other one is used: the script that settles sees whether it was heard (lua/order.lua).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NoReturn

import trio

from actorwork.abc import EventSink, PendingOutcome, Replies
from actorwork.events import BrokerTrouble
from actorwork.message import Outcome
from actorwork.streams import entries, keys
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import RedisError

_LOOK_EVERY = 3.0
_LONGEST_PAUSE = 3600.0


class RedisPendingOutcome(PendingOutcome):
    """One caller that waits for an outcome."""

    def __init__(
        self, forget: Callable[[RedisPendingOutcome], None], source: str, message_id: str, look_from: float
    ) -> None:
        self.source = source
        self.message_id = message_id
        self.look_from = look_from
        self._forget = forget
        self._outcome: Outcome | None = None
        self._told = trio.Event()

    def __repr__(self) -> str:
        return f"<PendingOutcome of {self.message_id} of {self.source}>"

    async def outcome(self) -> Outcome:
        await self._told.wait()
        if self._outcome is None:
            raise trio.ClosedResourceError("this outcome is not awaited any more")
        return self._outcome

    def tell(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self._told.set()

    def close(self) -> None:
        self._forget(self)
        self._told.set()


class RedisReplies(Replies):
    """Made by `RedisBroker.open_replies`."""

    def __init__(self, client: RedisClient, emit: EventSink) -> None:
        self.address = (keys.NEAR if client.is_of_cluster else keys.REPLIES) + os.urandom(16).hex()
        self._client = client
        self._emit = emit
        self._waiting: dict[tuple[str, str], list[RedisPendingOutcome]] = {}
        self._look: trio.CancelScope | None = None
        self._may_have_lost = False
        self._to_be_near: dict[str, None] = {}
        """The sources that are asked, and whose primaries this client does not listen at."""
        self._has_asked = trio.Event()

    def __repr__(self) -> str:
        return f"<RedisReplies at {self.address}, {len(self._waiting)} awaited>"

    def statistics(self) -> dict[str, int]:
        return {"awaited": len(self._waiting)}

    def expect(self, source: str, message_id: str, *, look_from: float = 0.0) -> RedisPendingOutcome:
        waiting = RedisPendingOutcome(self._forget, source, message_id, look_from)
        self._waiting.setdefault((source, message_id), []).append(waiting)
        if self._client.is_of_cluster and source not in self._to_be_near and not self._is_near(source):
            self._to_be_near[source] = None
            self._has_asked.set()
        if self._look is not None:
            self._look.deadline = min(self._look.deadline, trio.current_time() + _pause_before(look_from))
        return waiting

    def take(self, record: bytes) -> None:
        """Take a message of the channel. Any client may publish there, so it may be anything."""
        try:
            source, message_id, outcome = entries.outcome_from(record)
        except (ValueError, KeyError, TypeError) as error:
            self._emit(BrokerTrouble(f"reading a reply at {self.address}", repr(error), "dropped"))
            return
        self._tell(source, message_id, outcome)

    def look_now(self) -> None:
        """Look up all awaited outcomes: the channel may have lost messages."""
        self._may_have_lost = True
        if self._look is not None:
            self._look.deadline = trio.current_time()

    def _is_near(self, source: str) -> bool:
        return self._client.is_near(keys.near_replies(source, self.address).encode())

    async def come_near(self) -> None:
        """Listen at the primaries of the sources that are asked; return if this server, or this user, cannot do that.

        A source stays noted where that has failed, so that it is not tried again and again.
        """
        while True:
            await self._has_asked.wait()
            self._has_asked = trio.Event()
            for source in tuple(self._to_be_near):
                try:
                    await self._client.subscribe_near(keys.near_replies(source, self.address).encode())
                except RedisError:
                    return
                del self._to_be_near[source]

    async def run(self) -> NoReturn:
        while True:
            # No outcome is awaited: rest until one is.
            soonest = min((one.look_from for ones in self._waiting.values() for one in ones), default=math.inf)
            pause = 0.0 if self._may_have_lost else _pause_before(soonest)
            with _sleeping(trio.current_time() + pause) as self._look:
                await trio.sleep_forever()
            self._look = None
            until = math.inf if self._may_have_lost else time.time()
            self._may_have_lost = False
            awaited = [name for name, ones in self._waiting.items() if any(one.look_from <= until for one in ones)]
            if not awaited:
                continue
            commands = [("GET", keys.SourceKeys.of(source).result(message_id)) for source, message_id in awaited]
            try:
                records = await self._client.call_many(commands, idempotent=True)
            except RedisError as error:
                self._emit(BrokerTrouble("looking for outcomes", str(error), f"again in {_LOOK_EVERY:g} s"))
                self._may_have_lost |= until == math.inf
                await trio.sleep(_LOOK_EVERY)
                continue
            for record in records:
                if isinstance(record, bytes):
                    self.take(record)

    def _tell(self, source: str, message_id: str, outcome: Outcome) -> None:
        for waiting in self._waiting.pop((source, message_id), ()):
            waiting.tell(outcome)

    def _forget(self, waiting: RedisPendingOutcome) -> None:
        name = (waiting.source, waiting.message_id)
        others = [other for other in self._waiting.get(name, ()) if other is not waiting]
        if others:
            self._waiting[name] = others
        else:
            self._waiting.pop(name, None)


def _pause_before(look_from: float) -> float:
    """Return the seconds until the next look for an outcome; cut, since the clock may be set meanwhile."""
    if look_from == math.inf:
        return math.inf
    return max(_LOOK_EVERY, min(look_from - time.time(), _LONGEST_PAUSE))


def _sleeping(deadline: float) -> AbstractContextManager[trio.CancelScope]:
    return trio.CancelScope(deadline=deadline)
