"""Shared by a client's refs: ids, envelopes, and one place where replies arrive.

The place for replies is opened by the first `ask`: it outlives that call, and most clients never ask.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, Protocol

import attrs

from actorwork import codec
from actorwork.abc import Broker, Meter, PendingOutcome, PublishMiddleware, SendMiddleware
from actorwork.actors.context.publishing import headers_of, passed_through
from actorwork.clients.driver import Driver, OutOfTime, Reached
from actorwork.clients.routes import MeteredRoute, PublishRoute
from actorwork.errors import AskTimeout, BrokerError, CodecError, MessageFailed, NotUnique, SettingsError
from actorwork.message import (
    CHAIN,
    NO_HEADERS,
    REPLY_TO,
    Delivery,
    Durability,
    Envelope,
    Json,
    MessageIds,
    Outcome,
    Priority,
)
from actorwork.policy.bounds import takes
from actorwork.policy.sending import PLAIN, Sending
from actorwork.settings import SOURCE, SOURCE_IN_WORDS, Source


class Spool(PublishRoute, Protocol):
    """A local file in which messages wait while the broker is away."""

    def statistics(self) -> Mapping[str, float]: ...

    async def wait_replayed(self) -> None: ...

    async def wait_turn(self, source: str) -> None: ...


FIRST_LOOK: Final = 0.1
"""Seconds after which an ask of one key by a handler of another looks whether the two wait for each other."""
_SPOOLED: Final = (
    "durability and spool exclude each other: with a spool, a message counts as sent before the broker has it"
)


def checked_layers(middleware: Sequence[PublishMiddleware]) -> tuple[PublishMiddleware, ...]:
    """Return a client's middleware; raises `SettingsError` for what cannot be called with an envelope."""
    layers: tuple[object, ...] = tuple(middleware)
    if not all(takes(layer, 1) for layer in layers):
        raise SettingsError(f"middleware wants a list of callables of (envelope), got {layers!r}")
    return layers


class Sender:
    """The sending half of a client, used by its refs. Without a spooler, the broker is open from the beginning."""

    def __init__(
        self,
        lazy: Reached,
        driver: Driver,
        spooler: Spool | None = None,
        layers: Sequence[PublishMiddleware] = (),
        meter: Meter | None = None,
        durability: Durability | None = None,
    ) -> None:
        if durability is not None and spooler is not None:
            raise SettingsError(_SPOOLED)
        self._durability = durability
        self.spooler = spooler
        self._layers = layers
        self._observers = tuple(layer for layer in layers if isinstance(layer, SendMiddleware))
        self._lazy = lazy
        self._meter = meter
        self._route: PublishRoute = self._direct if spooler is None else spooler
        self.sent = 0
        self.asked = 0
        self.driver = driver
        self._ids = MessageIds(secrets.token_hex(8))
        self._declared: dict[str, int] = {}
        self._unsent_id: str | None = None
        """The last id, until its message is sent: the broker cannot have seen it."""

    @property
    def url(self) -> str:
        return self._lazy.url

    @property
    def broker(self) -> Broker:
        """The broker; raises `BrokerError` until it is open."""
        if self._lazy.broker is None:
            raise BrokerError(f"{self._lazy.url} has not been reached yet; messages wait in the spool", may_pass=True)
        return self._lazy.broker

    @property
    def _direct(self) -> PublishRoute:
        """The way to the broker past the spool."""
        return self.broker if self._meter is None else MeteredRoute(self.broker, self._meter)

    async def reached(self) -> Broker:
        """Wait until the broker is open, and return it."""
        return self._lazy.broker or await self._lazy.wait()

    @property
    def publisher(self) -> str:
        """What the ids of its messages begin with."""
        return self._ids.publisher

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
        """Put a message into an envelope; raise `CodecError` for values that JSON cannot express."""
        data, wire = codec.encode(message)
        message_id = self._unsent_id = next(self._ids)
        if self._durability is not None and sending.durability is None:
            sending = attrs.evolve(sending, durability=self._durability)
        elif sending.durability is not None and self.spooler is not None:
            raise SettingsError(_SPOOLED)
        if sending is PLAIN:
            envelope = Envelope(source, message_id, data, wire, ours, priority=priority)
        else:
            if sending.headers:
                codec.encode_value(
                    dict(sending.headers)
                )  # Fails here, for this sender alone, instead of in a batch at the broker.
            envelope = sending.envelope(source, message_id, data, wire, ours=ours, priority=priority)
        return passed_through(self._layers, envelope) if self._layers else envelope

    async def declare(self, source: Source) -> None:
        """Divide a source into the shards that it declares, or check that it has them; asks the broker once."""
        if source.shards is not None and self._declared.get(source) != source.shards:
            await (await self.reached()).shards.declare(str(source), source.shards)
            self._declared[source] = source.shards

    def headers(self) -> Mapping[str, Json]:
        """Return the headers that middleware gives to steps of a workflow that is started here and now."""
        return headers_of(self._layers) if self._layers else NO_HEADERS

    def may_send_again(self) -> None:
        """Note that the last envelope may be sent more than once, at any time: each time its id is checked."""
        self._unsent_id = None

    async def send(self, envelopes: Sequence[Envelope]) -> None:
        """Publish, and count. If cancelled, any part may have been stored."""
        with self._observed(envelopes) as observed:
            await self._route.publish(observed)
        self.sent += len(envelopes)

    @contextmanager
    def _observed(self, envelopes: Sequence[Envelope]) -> Generator[Sequence[Envelope]]:
        """Let the middleware see a call that sends; the block has the envelopes to be sent."""
        with ExitStack() as stack:
            for layer in self._observers:
                envelopes = stack.enter_context(layer.sending(envelopes))
            yield envelopes

    async def send_one(self, envelope: Envelope, route: PublishRoute | None = None) -> str:
        """Publish a message; return the id under which it is stored: its own, or that of the holder of its unique key.

        Raises `NotUnique` if there is such a holder and `on_conflict` is "reject".
        """
        route = route or self._route
        if self._observers:
            with self._observed([envelope]) as observed:
                envelope = observed[0]
                answer = await self._publishing(envelope, route)
        else:
            answer = await self._publishing(envelope, route)
        kept = answer if isinstance(answer, str) else envelope.id
        unique = envelope.unique
        if kept == envelope.id:
            self.sent += 1
        elif unique is not None and unique.on_conflict == "reject":
            raise NotUnique(
                f"message {kept} has the unique key {unique.key!r} of {envelope.source!r}, so this one was not stored;"
                " with on_conflict='first' the sender gets the receipt of that message",
                id=kept,
            )
        return kept

    def _publishing(self, envelope: Envelope, route: PublishRoute) -> Awaitable[int | str | None]:
        """Return what publishes a message. Its result is a text only where that is the id of a message with the key."""
        if envelope.unique is not None:
            return route.publish_unique(envelope)
        if envelope.id is self._unsent_id:
            # From here on the broker may have the message, so a second send of this envelope must check its id.
            self._unsent_id = None
            return route.publish_new(envelope)
        return route.publish([envelope])

    async def ask(
        self,
        whom: str,
        source: str,
        message: object,
        timeout: float,
        sending: Sending,
        priority: Priority,
        chain: list[Json],
        asking: Delivery | None = None,
    ) -> tuple[str, Outcome]:
        """Send a message, wait for its outcome, return its id and outcome. If cancelled, it may still be handled.

        `chain` are the keys whose handlers wait for the reply; `asking` is the delivery whose handler asks, if it has a
        key, and the message has one.

        The message never goes into a spool, where it could outlive the caller, but the call waits for messages of its
        source that are there.
        """

        async def send_and_wait() -> tuple[str, Outcome]:
            if self.spooler is not None:
                await self.spooler.wait_turn(source)
            replies = await self.driver.replies()
            ours: dict[str, Json] = {REPLY_TO: replies.address}
            if chain:
                ours[CHAIN] = chain
            envelope = self.envelope(source, message, sending, ours=ours, priority=priority)
            # Registered before it is sent: the reply may arrive before the broker's own answer.
            waiting = replies.expect(source, envelope.id)
            try:
                await self.send_one(envelope, self._direct)
                self.asked += 1
                if asking is None:
                    return envelope.id, await waiting.outcome()
                return envelope.id, await self._outcome_for(asking, envelope, waiting, timeout)
            finally:
                waiting.close()

        try:
            return await self.driver.within(timeout, send_and_wait)
        except OutOfTime:
            pass
        text = (
            f"no reply from {whom} within {timeout:g} s; the message may still be handled."
            f" Does a node run with the actor {whom}?"
        )
        if chain and sending.key is not None:
            text += f" Or does a handler of {sending.key!r} ask, too, for what waits for this one ({chain[-1]})?"
        raise AskTimeout(text)

    async def _outcome_for(
        self, asking: Delivery, envelope: Envelope, waiting: PendingOutcome, timeout: float
    ) -> Outcome:
        """Wait for an outcome on behalf of a handler of a key, which other keys may wait for."""
        try:
            return await self.driver.within(min(FIRST_LOOK, timeout), waiting.outcome)
        except OutOfTime:
            if timeout <= FIRST_LOOK:
                raise
        # Imported here: most asks are answered by now.
        from actorwork.clients.circles import WaitingKey  # noqa: PLC0415
        from actorwork.policy.waits import KeyWait  # noqa: PLC0415

        wait = KeyWait(
            source=asking.source,
            key=asking.key or "",
            asking=asking.id,
            message=envelope.id,
            to_source=envelope.source,
            to_key=envelope.key or "",
        )
        waiting_key = WaitingKey(self.broker, self.driver, asking, wait)
        return await waiting_key.outcome(waiting, FIRST_LOOK, timeout - FIRST_LOOK)


def source_name(name: str) -> str:
    """Return the name of a source; raise `ValueError` if it is not valid."""
    if not SOURCE.fullmatch(name):
        raise ValueError(f"a source wants {SOURCE_IN_WORDS}, got {name!r}")
    return name


def reply(outcome: Outcome, annotation: object, *, whom: str, message_id: str) -> object:
    """Return the reply in an outcome; raise `MessageFailed` with the handler's error.

    Raises `CodecError` if the reply is not of the type that the handler's annotation names.
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
    is_cancelled = outcome.status == "rejected" and failure.type == "Cancelled"
    raise MessageFailed(
        f"message {message_id} to {whom} was cancelled ({failure.reason})"
        if is_cancelled
        else f"{whom} {did} message {message_id} ({why})",
        type=failure.type,
        reason=failure.reason,
        traceback=failure.traceback,
    )
