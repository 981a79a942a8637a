"""Refs to actors behind a broker.

    tell      returns when the broker has stored the message; its outcome is not known
    ask       waits for the reply
    submit    like `tell`, but the outcome is kept: the receipt finds it, in this process or (by its id) in another
    prepare   `submit` in two steps: the id is known before anything is sent

Every message is checked against the handlers of the actor before it is sent. A message's id makes sending it twice
harmless: the broker stores it once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, cast, overload

import attrs

from actorwork.abc import FunctionActor
from actorwork.actors.handlers.table import HandlerTable, handlers_of
from actorwork.clients.receipts import Receipt, check_id
from actorwork.clients.sender import Sender, reply
from actorwork.durations import Duration, timeout_of
from actorwork.errors import WouldWaitForItself
from actorwork.message import CHAIN, NO_HEADERS, RESULT_TTL, Envelope, Json, Message, Untyped, declared_reply
from actorwork.policy.sending import PLAIN, Sending, SendOptions, SubmitOptions, results_ttl_of
from actorwork.settings import Settings

if TYPE_CHECKING:
    from actorwork.message import Delivery

A_co = TypeVar("A_co", covariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class StreamRef(Generic[A_co]):
    """An actor behind a broker, wherever it runs; made by `client.ref`."""

    __slots__ = ("_handlers", "_priority", "_sender", "results_ttl", "source", "title")

    def __init__(self, sender: Sender, settings: Settings, handlers: HandlerTable | None) -> None:
        self.title = settings.title
        self.source = settings.default_source
        self.results_ttl = settings.results_ttl
        self._sender = sender
        self._priority = settings.priority
        self._handlers = handlers

    def __repr__(self) -> str:
        return f"<StreamRef to {self.title!r} by {self.source!r} at {self._sender.url}>"

    async def tell(self, message: Message[A_co, Any] | Untyped, **options: Unpack[SendOptions]) -> None:
        """Send a message; the broker has stored it when this returns. The options are those of `SendOptions`.

        Raises `MessageRefused` if the actor has no handler for it, and `NotUnique`. While the broker is unreachable
        this waits; with a spool, the message waits instead. If cancelled, the message may have been stored; sending it
        again with the same `id` stores it once.
        """
        self._check(message)
        await self._sender.send_one(self._envelope(message, options))

    async def tell_many(self, messages: Iterable[Message[A_co, Any] | Untyped], **options: Unpack[SendOptions]) -> None:
        """Send messages as one batch, in their order. All are checked before the first is sent.

        The options apply to each of them, so `id` and `unique` are not allowed.
        """
        for name in ("id", "unique"):
            if options.get(name) is not None:
                raise ValueError(f"tell_many takes no {name}=…: it would be the same for all; tell them one by one")
        sending = Sending.of(options) if options else PLAIN
        envelopes: list[Envelope] = []
        for message in messages:
            self._check(message)
            envelopes.append(self._sender.envelope(self.source, message, sending, priority=self._priority))
        if envelopes:
            await self._sender.send(envelopes)

    @overload
    async def ask(self, message: Message[A_co, R], *, timeout: Duration = 30, **options: Unpack[SendOptions]) -> R: ...
    @overload
    async def ask(self, message: Untyped, *, timeout: Duration = 30, **options: Unpack[SendOptions]) -> Any: ...
    async def ask(self, message: Any, *, timeout: Duration = 30, **options: Unpack[SendOptions]) -> Any:
        """Send a message and return the reply to it.

        Raises `MessageRefused` (nothing was sent), `MessageFailed` (with the handler's error), `AskTimeout`,
        `NotUnique`, and, within a handler of a key, `WouldWaitForItself` (the message is not handled). After a timeout
        or a cancellation the message may still be handled.
        """
        self._check(message)
        sending, timeout = Sending.of(options) if options else PLAIN, timeout_of(timeout)
        chain, asking = asking_for(self.source, sending.key)
        message_id, outcome = await self._sender.ask(
            repr(self.title), self.source, message, timeout, sending, self._priority, chain, asking
        )
        return reply(outcome, self._reply_type(message), whom=repr(self.title), message_id=message_id)

    @overload
    async def submit(self, message: Message[A_co, R], **options: Unpack[SubmitOptions]) -> Receipt[R]: ...
    @overload
    async def submit(self, message: Untyped, **options: Unpack[SubmitOptions]) -> Receipt[Any]: ...
    async def submit(self, message: Any, **options: Unpack[SubmitOptions]) -> Receipt[Any]:
        """Send a message like `tell`; the broker keeps its outcome for `results_ttl`, by default that of the actor.

        That is a day if the actor is named by its title, not its class. Its options: `SubmitOptions`. With a
        `unique` whose `on_conflict` is "first" or "replace", the receipt may be that of the earlier message.
        """
        envelope = self._submitted(message, options)
        return self._receipt(message, await self._sender.send_one(envelope))

    @overload
    def prepare(self, message: Message[A_co, R], **options: Unpack[SubmitOptions]) -> Prepared[R]: ...
    @overload
    def prepare(self, message: Untyped, **options: Unpack[SubmitOptions]) -> Prepared[Any]: ...
    def prepare(self, message: Any, **options: Unpack[SubmitOptions]) -> Prepared[Any]:
        """Do all of `submit` but the sending: the id of what this returns is known, and its `send` sends the message.

        For a message that is to be sent only after the commit of a transaction, and whose id is stored in it. The
        message is checked, encoded and processed by middleware now. Raises `MessageRefused`.
        """
        envelope = self._submitted(message, options)
        self._sender.may_send_again()
        return Prepared(envelope.id, self.source, envelope, self._sender, partial(self._receipt, message))

    @overload
    def receipt(self, id: str, of: type[Message[A_co, R]]) -> Receipt[R]: ...
    @overload
    def receipt(self, id: str, of: FunctionActor[..., R]) -> Receipt[R]: ...
    @overload
    def receipt(self, id: str) -> Receipt[Any]: ...
    def receipt(self, id: str, of: Any = None) -> Receipt[Any]:
        """Return the receipt for a message that was submitted before, perhaps by another process.

        `of` is the class of the message, or the function that it calls: then the result has the type that these
        declare. Without it, the result is the JSON value that is stored.
        """
        check_id(id)
        return Receipt(id, self.source, self._sender, repr(self.title), Any if of is None else declared_result(of))

    def _submitted(self, message: object, options: SubmitOptions) -> Envelope:
        self._check(message)
        sending, ttl = results_ttl_of(options, self.results_ttl) if options else (options, self.results_ttl)
        return self._envelope(message, sending, ours={RESULT_TTL: ttl})

    def _receipt(self, message: object, id: str) -> Receipt[Any]:
        return Receipt(id, self.source, self._sender, repr(self.title), self._reply_type(message))

    def _envelope(self, message: object, options: SendOptions, *, ours: Mapping[str, Json] = NO_HEADERS) -> Envelope:
        sending = Sending.of(options) if options else PLAIN
        return self._sender.envelope(self.source, message, sending, ours=ours, priority=self._priority)

    def _check(self, message: object) -> None:
        if self._handlers is not None:
            self._handlers.check(message)

    def _reply_type(self, message: object) -> Any:
        if self._handlers is not None:
            return self._handlers.reply_type(message)
        return declared_reply(type(message))


def declared_result(of: Any) -> Any:
    """Return the type of the reply that a class of messages declares, or what a function that is an actor returns."""
    message_class: Any = getattr(of, "message_class", of)
    if not (isinstance(message_class, type) and issubclass(message_class, Message)):
        raise TypeError(
            f"of: wanted the class of the message, derived from Message[Actor, Reply], or a function that is an actor;"
            f" got {of!r}"
        )
    if message_class is of:
        return declared_reply(cast("type[Any]", message_class))
    return handlers_of(of).by_class[message_class].returns


def asking_for(source: str, key: str | None) -> tuple[list[Json], Delivery | None]:
    """Return the keys that wait for the reply to an ask from within the handler that runs here, if one does.

    With them comes the delivery that is handled, if that has a key as well as what is asked: handlers that ask at the
    same time may wait for it. Raises `WouldWaitForItself` if the ask is of one of the keys: messages of one key are
    handled one after another.
    """
    # A program that runs no actors has not imported it, and need not.
    module = sys.modules.get("actorwork.actors.context.in_flight")
    current: Any = None if module is None else module.in_flight.get()
    delivery: Delivery | None = None if current is None else current.delivery
    if delivery is None:
        return [], None
    waiting = delivery.headers.get(CHAIN)
    chain: list[Json] = list(waiting) if isinstance(waiting, list) else []
    if delivery.key is not None:
        chain.append(f"{delivery.source}/{delivery.key}")
    if key is not None and f"{source}/{key}" in chain:
        texts = [str(one) for one in chain]
        raise WouldWaitForItself(
            f"an ask of the key {key!r} of {source!r} would wait for the handler that asks: messages of one key are"
            f" handled one after another, and these wait for the reply: {' → '.join(texts)}. Tell it, and do not wait",
            chain=texts,
        )
    return chain, delivery if key is not None and delivery.key is not None else None


@attrs.frozen(eq=False)
class Prepared(Generic[R_co]):
    """A message that was checked and encoded, with its id, for `send` to send; made by `StreamRef.prepare`.

    In Django: `transaction.on_commit(client.ref(Mailer).prepare(Welcome(name)).send)`.
    """

    id: str
    source: str
    _envelope: Envelope = attrs.field(repr=False)
    _sender: Sender = attrs.field(repr=False)
    _receipt: Callable[[str], Receipt[R_co]] = attrs.field(repr=False)

    async def send(self) -> Receipt[R_co]:
        """Send the message like `submit`, and return its receipt. Sent again, within a day, it is stored once.

        A `delay`, and an `expires` in seconds, count from now. Raises `NotUnique`. If cancelled, the message may have
        been stored.
        """
        return self._receipt(await self._sender.send_one(self._envelope))
