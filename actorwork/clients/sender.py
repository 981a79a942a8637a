"""What a client's refs share: ids, envelopes, and one place where replies arrive.

The place for replies is opened when somebody asks for the first time, by a task of the client's own nursery: it
outlives the ask, and most clients only tell.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol

import trio

from actorwork import codec
from actorwork.abc import Broker, PublishMiddleware, Replies
from actorwork.actors.context.publishing import passed_through
from actorwork.clients.lazy_broker import LazyBroker
from actorwork.clients.spool import Spooler
from actorwork.errors import AskTimeout, BrokerError, CodecError, MessageFailed, NotUnique
from actorwork.message import NO_HEADERS, REPLY_TO, Envelope, Json, MessageIds, Outcome, Priority
from actorwork.policy.sending import PLAIN, Sending
from actorwork.settings import SOURCE, SOURCE_IN_WORDS


class PublishRoute(Protocol):
    """What takes a client's messages: the broker, or the spool before it."""

    async def publish(self, envelopes: Sequence[Envelope]) -> int: ...

    async def publish_new(self, envelope: Envelope) -> None: ...

    async def publish_unique(self, envelope: Envelope) -> str: ...


class Sender:
    """The sending half of a client, used by its refs. Without a spooler, the broker is there from the beginning."""

    def __init__(
        self,
        late: LazyBroker,
        nursery: trio.Nursery,
        spooler: Spooler | None = None,
        layers: Sequence[PublishMiddleware] = (),
    ) -> None:
        self.spooler = spooler
        self._layers = layers
        self._late = late
        self._way: PublishRoute = self.broker if spooler is None else spooler
        self.publisher = secrets.token_hex(8)
        self.sent = 0
        self.asked = 0
        self._nursery = nursery
        self._ids = MessageIds(self.publisher)
        self._unsent_id: str | None = None
        """The id that was drawn last, until its message is sent: the broker cannot have seen it."""
        self._replies: Replies | None = None
        self._opening = trio.Lock()

    @property
    def url(self) -> str:
        return self._late.url

    @property
    def broker(self) -> Broker:
        """The broker; raises `BrokerError` before it is there."""
        if self._late.broker is None:
            raise BrokerError(f"{self._late.url} has not been reached yet; messages wait in the spool", may_pass=True)
        return self._late.broker

    async def reached(self) -> Broker:
        """Return the broker, once it is there."""
        return self._late.broker or await self._late.wait()

    def next_id(self) -> str:
        """Return an id that no other message has."""
        return next(self._ids)

    def envelope(
        self,
        source: str,
        message: object,
        sending: Sending = PLAIN,
        *,
        ours: Mapping[str, Json] = NO_HEADERS,
        priority: Priority = Priority.NORMAL,
    ) -> Envelope:
        """Put a message into an envelope; raises `CodecError` for what JSON cannot hold."""
        data, wire = codec.encode(message)
        message_id = self._unsent_id = next(self._ids)
        if sending is PLAIN:
            envelope = Envelope(source, message_id, data, wire, ours, priority=priority)
        else:
            if sending.headers:
                codec.encode_value(dict(sending.headers))  # What no broker can carry is the error of this sender alone.
            envelope = sending.envelope(source, message_id, data, wire, ours=ours, priority=priority)
        return passed_through(self._layers, envelope) if self._layers else envelope

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        """Publish, and count. Cancelled: any part of it may have been kept."""
        await self._way.publish(envelopes)
        self.sent += len(envelopes)

    async def send_one(self, envelope: Envelope, way: PublishRoute | None = None) -> str:
        """Publish a message, and return the id under which it is kept: its own, or that of the one it is the same as.

        Raises `NotUnique` where there is such a one, and the sender wanted to be told.
        """
        way = way or self._way
        unique = envelope.unique
        if unique is None:
            if envelope.id is self._unsent_id:
                # From here on the broker may have the message, so whoever sends this envelope again makes it look.
                self._unsent_id = None
                await way.publish_new(envelope)
            else:
                await way.publish([envelope])
            self.sent += 1
            return envelope.id
        kept = await way.publish_unique(envelope)
        if kept == envelope.id:
            self.sent += 1
        elif unique.on_conflict == "reject":
            raise NotUnique(
                f"message {kept} has the unique key {unique.key!r} of {envelope.source!r}, so this one was not kept;"
                " with on_conflict='first' its sender is given the other's receipt",
                id=kept,
            )
        return kept

    async def ask(
        self, whom: str, source: str, message: object, timeout: float, sending: Sending, priority: Priority
    ) -> tuple[str, Outcome]:
        """Send a message, wait for its outcome, return its id and that. Cancelled: the message may still be handled.

        It never waits in a spool, where it could outlive whoever asks, but for those of its source that do.
        """
        with trio.move_on_after(timeout):
            if self.spooler is not None:
                await self.spooler.wait_turn(source)
            replies = self._replies or await self._open_replies()
            envelope = self.envelope(source, message, sending, ours={REPLY_TO: replies.address}, priority=priority)
            # Before it is sent: the reply may be faster than the broker's own answer.
            waiting = replies.expect(source, envelope.id)
            try:
                await self.send_one(envelope, self.broker)
                self.asked += 1
                return envelope.id, await waiting.outcome()
            finally:
                waiting.close()
        raise AskTimeout(
            f"no reply from {whom} within {timeout:g} s; the message may still be handled."
            f" Does a node run that reads {source!r}?"
        )

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
        async with (await self.reached()).open_replies() as replies:
            task_status.started(replies)
            try:
                await trio.sleep_forever()
            finally:
                self._replies = None


def source_name(name: str) -> str:
    """Return the name of a source; raises `ValueError` where it is none."""
    if not SOURCE.fullmatch(name):
        raise ValueError(f"a source wants {SOURCE_IN_WORDS}, got {name!r}")
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
