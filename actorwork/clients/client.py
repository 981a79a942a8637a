"""A client: the way in for programs that run no actors themselves.

async with open_client("redis://localhost:6379/0") as client:
    greeter = client.ref(Greeter)
    await greeter.tell(Greet("Ann"))
    print(await greeter.ask(Greet("Ben")))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import Any, TypeVar, Unpack, overload

import trio

from actorwork import settings
from actorwork.abc import Broker, PublishMiddleware
from actorwork.actors.actor import Actor
from actorwork.actors.handlers.table import handlers_of
from actorwork.brokers import open_broker
from actorwork.clients.identity import whoami
from actorwork.clients.lazy_broker import LazyBroker, open_lazy_broker, place_of
from actorwork.clients.refs import StreamRef
from actorwork.clients.sender import Sender, source_name
from actorwork.clients.spool import Spool, Spooler, SpoolMode, file_for, open_spooler, spool_of
from actorwork.errors import SettingsError
from actorwork.message import Pause, PauseKind, TriggerRecord
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.policy.bounds import takes
from actorwork.policy.pauses import trigger_name
from actorwork.policy.schedule import milliseconds
from actorwork.policy.sending import PLAIN, Sending, SendOptions
from actorwork.state.lock import Lock
from actorwork.state.shared import Shared
from actorwork.telemetry.logs import LogSink
from actorwork.triggers.declared import find_trigger, message_now

A = TypeVar("A", bound=Actor)
T = TypeVar("T")


class Client:
    """Sends messages to actors behind a broker; made by `open_client`, for any number of tasks."""

    def __init__(self, outbox: Sender) -> None:
        self._outbox = outbox
        self._random = Random()

    def __repr__(self) -> str:
        return f"<Client {self._outbox.publisher} of {self._outbox.url}>"

    @property
    def broker(self) -> Broker:
        """The broker; raises `BrokerError` while it has not been reached yet, which happens with a spool only."""
        return self._outbox.broker

    def statistics(self) -> Mapping[str, float]:
        """Return counters: messages sent, and those among them that were asked; with a spool, also how that stands.

        That is: `spooled` and `replayed` (what went into the file and left it here), `spool_messages`, `spool_bytes`
        and `spool_set_aside` (what is in the file), `spool_age` (seconds that the oldest one has waited).
        """
        spooler = self._outbox.spooler
        counts = {"sent": self._outbox.sent, "asked": self._outbox.asked}
        return counts if spooler is None else {**counts, **spooler.statistics()}

    async def wait_replayed(self) -> None:
        """Wait until the broker has everything that waits in the spool; what was set aside stays there."""
        await trio.lowlevel.checkpoint()
        if self._outbox.spooler is not None:
            await self._outbox.spooler.wait_replayed()

    # ---- pauses and triggers ----

    async def pause(
        self,
        *,
        actor: type[Actor] | str | None = None,
        source: str | None = None,
        trigger: str | None = None,
        triggers: bool = False,
        reason: str = "",
    ) -> None:
        """Pause an actor, a source, or everything; one trigger of an actor, or all of them.

            pause()                                     everything
            pause(actor=Greeter)                        the actor: all of its sources
            pause(source="orders")                      the source, for all actors
            pause(actor=Greeter, trigger="nightly")     this trigger
            pause(actor=Greeter, triggers=True)         all triggers of the actor

        All nodes obey within a second: what waits stays where it is, what is in hand finishes. Triggers fire into what
        is paused, unless they are paused themselves. While the broker is away this waits.
        """
        kind, name = _what(actor, source, trigger, triggers=triggers)
        await (await self._outbox.reached()).pauses.pause(kind, name, reason=reason, by=whoami())

    async def resume(
        self,
        *,
        actor: type[Actor] | str | None = None,
        source: str | None = None,
        trigger: str | None = None,
        triggers: bool = False,
    ) -> bool:
        """End a pause, as `pause` began it; return whether there was one.

        A trigger goes on with its next time: those it has passed over do not fire.
        """
        kind, name = _what(actor, source, trigger, triggers=triggers)
        return await (await self._outbox.reached()).pauses.resume(kind, name)

    async def paused(self) -> Sequence[Pause]:
        """Return what is paused, oldest first."""
        return await (await self._outbox.reached()).pauses.list()

    async def triggers(self) -> Sequence[TriggerRecord]:
        """Return all triggers that the broker knows, by actor and title."""
        return await (await self._outbox.reached()).triggers.list()

    async def run_trigger(self, actor: type[Actor] | str, trigger: str) -> str:
        """Send the message of a trigger now, whatever its schedule says; return the message's id.

        Its `time_point` is now. Raises `LookupError` for a trigger that the broker does not know.
        """
        broker = await self._outbox.reached()
        record = find_trigger(await broker.triggers.list(), title_of(actor), trigger)
        envelope = message_now(record, self._outbox.next_id(), milliseconds(datetime.now(UTC)))
        await broker.publish([envelope])
        return envelope.id

    @overload
    def ref(self, actor: type[A]) -> StreamRef[A]: ...
    @overload
    def ref(self, actor: str) -> StreamRef[Any]: ...
    def ref(self, actor: type[Actor] | str) -> StreamRef[Any]:
        """Return a ref to an actor by its class, or by its title where its class is in another program.

        By class, messages are checked against its handlers before they are sent.
        """
        title = title_of(actor)
        if isinstance(actor, str):
            return StreamRef(self._outbox, settings.Settings(title=title), None)
        return StreamRef(self._outbox, actor.settings, handlers_of(actor))

    async def publish(self, source: str, message: object, **options: Unpack[SendOptions]) -> str:
        """Send a message to a source, for every actor that reads it; return the id under which it is kept.

        Nothing is checked here: who reads a source is known where they run. The options are those of `SendOptions`.
        Raises `NotUnique`. Cancelled: the message may have been kept; sending it again with the same `id` keeps it
        once.
        """
        sending = Sending.of(options) if options else PLAIN
        return await self._outbox.send_one(self._outbox.envelope(source_name(source), message, sending))

    @overload
    def shared(self, name: str, type: type[T], *, default: T, ttl: float | None = None) -> Shared[T]: ...
    @overload
    def shared(self, name: str, type: type[T], *, ttl: float | None = None) -> Shared[T | None]: ...
    def shared(self, name: str, type: Any, *, default: Any = None, ttl: float | None = None) -> Shared[Any]:
        """Return a value that all nodes see, by its name, as `Context.shared` does."""
        return Shared(self.broker.values, name, type, default=default, ttl=ttl)

    def lock(self, name: str, *, ttl: float = 10.0) -> Lock:
        """Return a lock among all nodes, as `Context.lock` does."""
        return Lock(self.broker.values, name, ttl=ttl, random=self._random)


@asynccontextmanager
async def open_client(
    broker: str | Broker | None = None,
    *,
    spool: Spool | SpoolMode | None = None,
    middleware: Sequence[PublishMiddleware] = (),
) -> AsyncGenerator[Client]:
    """Open a client of a broker, named by its url; without one, of the embedded broker.

    A broker that is open already is used, and left open. While the broker is away this waits, and so does whatever
    is sent; with a `spool` ("when_down", "always", or a `Spool` that says more) messages wait in a local file instead.
    `middleware` looks at every message before it is sent, in that order. On the way out, asks that still wait are
    cancelled.
    """
    layers: Sequence[object] = tuple(middleware)
    if not all(takes(layer, 1) for layer in layers):
        raise SettingsError(f"middleware wants a list of callables of (envelope), got {layers!r}")
    async with AsyncExitStack() as stack:
        emit = LogSink("client")
        chosen = spool_of(spool)
        spooler: Spooler | None = None
        if chosen is None:
            late = LazyBroker("")
            late.arrived(await stack.enter_async_context(open_broker(broker, emit=emit)))
        else:
            late = await stack.enter_async_context(open_lazy_broker(broker, patience=chosen.patience, emit=emit))
            path = file_for(chosen, place_of(broker))
            spooler = await stack.enter_async_context(open_spooler(chosen, path, late, emit))
        # Opened last, so that it ends first: its tasks use the broker to their end.
        async with open_unwrapping_nursery() as nursery:
            if spooler is not None:
                nursery.start_soon(spooler.run)
            yield Client(Sender(late, nursery, spooler, tuple(middleware)))
            if spooler is not None:
                await spooler.linger()
            nursery.cancel_scope.cancel()


def _what(
    actor: type[Actor] | str | None, source: str | None, trigger: str | None, *, triggers: bool
) -> tuple[PauseKind, str]:
    """Return what a pause is of; raises `ValueError` for what does not go together."""
    if source is not None:
        if actor is not None or trigger is not None or triggers:
            raise ValueError("a pause is of a source, or of an actor or its triggers, not both")
        return "source", source_name(source)
    if actor is None:
        if trigger is not None or triggers:
            raise ValueError("whose triggers? name the actor, too")
        return "everything", ""
    title = title_of(actor)
    if trigger is not None:
        return "trigger", trigger_name(title, trigger)
    return ("triggers" if triggers else "actor"), title


def title_of(actor: type[Actor] | str) -> str:
    """Return the title of an actor, by which other programs know it; raises `TypeError` for what is none."""
    title = actor if isinstance(actor, str) else getattr(getattr(actor, "settings", None), "title", None)
    if not title:
        raise TypeError(f"an actor is named by its class or its title, got {actor!r}")
    return title
