"""What a client's refs share: ids, envelopes, and one place where replies arrive.

The place for replies is opened when somebody asks for the first time, by a task of the client's own nursery: it
outlives the ask, and most clients only tell.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import attrs
import trio

from actorwork import codec
from actorwork.abc import Broker, Replies
from actorwork.errors import AskTimeout, CodecError, MessageFailed
from actorwork.message import NO_HEADERS, REPLY_TO, RESULT_TTL, Envelope, Json, MessageIds, Outcome
from actorwork.settings import SOURCE

OURS: Final = "actorwork-"
"""Headers that begin like this are the runtime's own."""

LONGEST_NAME: Final = 300


@attrs.frozen(kw_only=True)
class Sending:
    """How one message is to be sent, as the sender said it."""

    delay: float = 0.0
    at: datetime | float | None = None
    headers: Mapping[str, Json] | None = None
    id: str | None = None

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.delay < math.inf:
            raise ValueError(f"delay wants finite seconds >= 0, got {self.delay!r}")
        if self.at is not None and self.delay:
            raise ValueError(f"a message takes delay or at, not both; got delay={self.delay!r}, at={self.at!r}")
        if isinstance(self.at, datetime):
            if self.at.tzinfo is None:
                raise ValueError(f"at wants a time with a timezone, got {self.at!r}")
        elif self.at is not None and not 0 <= self.at < math.inf:
            raise ValueError(f"at wants seconds since the epoch, or a datetime, got {self.at!r}")
        for name in self.headers or ():
            if name.startswith(OURS):
                raise ValueError(f"headers that begin with {OURS!r} are the runtime's own, got {name!r}")
        if self.id is not None and not 1 <= len(self.id) <= LONGEST_NAME:
            raise ValueError(f"id wants 1 to {LONGEST_NAME} characters, got {len(self.id)}")

    @property
    def epoch(self) -> float | None:
        return self.at.timestamp() if isinstance(self.at, datetime) else self.at


PLAIN: Final = Sending()


class Outbox:
    """The sending half of a client, used by its refs."""

    def __init__(self, broker: Broker, nursery: trio.Nursery) -> None:
        self.broker = broker
        self.publisher = secrets.token_hex(8)
        self.sent = 0
        self.asked = 0
        self._nursery = nursery
        self._ids = MessageIds(self.publisher)
        self._replies: Replies | None = None
        self._opening = trio.Lock()

    def envelope(
        self, source: str, message: object, sending: Sending = PLAIN, *, ours: Mapping[str, Json] = NO_HEADERS
    ) -> Envelope:
        """Put a message into an envelope; raises `CodecError` for what JSON cannot hold."""
        data, wire = codec.encode(message)
        headers = {**sending.headers, **ours} if sending.headers else ours
        return Envelope(
            source=source,
            id=next(self._ids) if sending.id is None else sending.id,
            data=data,
            type=wire,
            headers=headers,
            delay=sending.delay,
            at=sending.epoch,
        )

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        """Publish, and count. Cancelled: any part of it may have been kept."""
        await self.broker.publish(envelopes)
        self.sent += len(envelopes)

    async def ask(self, whom: str, source: str, message: object, timeout: float) -> tuple[str, Outcome]:
        """Send a message, wait for its outcome, return its id and that. Cancelled: the message may still be handled."""
        with trio.move_on_after(timeout):
            replies = self._replies or await self._open_replies()
            envelope = self.envelope(source, message, ours={REPLY_TO: replies.address})
            # Before it is sent: the reply may be faster than the broker's own answer.
            waiting = replies.expect(source, envelope.id)
            try:
                await self.send([envelope])
                self.asked += 1
                return envelope.id, await waiting.outcome()
            finally:
                waiting.close()
        raise AskTimeout(
            f"no reply from {whom} within {timeout:g} s; the message may still be handled."
            f" Does a node run that reads {source!r}?"
        )

    async def submit(self, source: str, message: object, sending: Sending, *, results_ttl: float) -> Envelope:
        """Send a message whose outcome is kept for `results_ttl` seconds."""
        envelope = self.envelope(source, message, sending, ours={RESULT_TTL: results_ttl})
        await self.send([envelope])
        return envelope

    async def _open_replies(self) -> Replies:
        # Cancelled while opening: what was opened is closed again, and the next ask tries anew.
        async with self._opening:
            replies = self._replies
            if replies is None:
                replies = self._replies = await self._start_replies()
            return replies

    async def _start_replies(self) -> Replies:
        replies: Replies = await self._nursery.start(self._keep_replies_open)
        return replies

    async def _keep_replies_open(self, *, task_status: trio.TaskStatus[Replies]) -> None:
        async with self.broker.open_replies() as replies:
            task_status.started(replies)
            try:
                await trio.sleep_forever()
            finally:
                self._replies = None


def source_name(name: str) -> str:
    """Return the name of a source; raises `ValueError` where it is none."""
    if not SOURCE.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ValueError(f"a source wants 1 to {LONGEST_NAME} characters out of a-z A-Z 0-9 _ - :, got {name!r}")
    return name


def reply(outcome: Outcome, annotation: object, *, whom: str, message_id: str) -> object:
    """Return the reply in an outcome; raises `MessageFailed` with the far side's error.

    Raises `CodecError` where the reply is not what the handler's annotation says.
    """
    if outcome.status == "done":
        try:
            return codec.decode_value(outcome.value, annotation)
        except CodecError as error:
            raise CodecError(f"the reply of {whom} to message {message_id}: {error}", error.problems) from error
    failure = outcome.failure
    did = "rejected" if outcome.status == "rejected" else "failed"
    if failure is None:
        raise MessageFailed(f"{whom} {did} message {message_id}", type=did, reason="")
    why = f"{failure.type}: {failure.reason}" if failure.reason else failure.type
    raise MessageFailed(
        f"{whom} {did} message {message_id} ({why})",
        type=failure.type,
        reason=failure.reason,
        traceback=failure.traceback,
    )
