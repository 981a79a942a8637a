"""A client, for programs that send messages to actors without running any; `opening` opens it.

async with open_client("redis://localhost:6379/0") as client:
    greeter = client.ref(Greeter)
    await greeter.tell(Greet("Ann"))
    print(await greeter.ask(Greet("Ben")))
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload

from actorwork import settings
from actorwork.abc import Broker, EventSink, FunctionActor
from actorwork.actors.handlers.table import handlers_of
from actorwork.actors.tree.hooks import Hooks
from actorwork.clients.identity import whoami
from actorwork.clients.receipts import Receipt, check_id
from actorwork.clients.refs import StreamRef, declared_result
from actorwork.clients.sender import Sender, source_name
from actorwork.clients.titles import title_of
from actorwork.durations import Duration
from actorwork.errors import BrokerError
from actorwork.events import BrokerAdvice
from actorwork.message import Message
from actorwork.policy.bounds import check_count, check_name
from actorwork.policy.pauses import trigger_name
from actorwork.policy.schedule import milliseconds
from actorwork.policy.sending import PLAIN, Sending, SendOptions
from actorwork.records import MessageState, Pause, PauseKind
from actorwork.state.shared import Shared
from actorwork.triggers.declared import find_trigger, message_now

if TYPE_CHECKING:
    from actorwork.actors.actor import Actor
    from actorwork.actors.handlers.table import HandlerTable
    from actorwork.clients.entities import EntityRef
    from actorwork.clients.messages import Messages
    from actorwork.clients.purging import Purge
    from actorwork.clients.runs import Run
    from actorwork.clients.triggers import Triggers
    from actorwork.policy.entities import EntityInfo
    from actorwork.policy.runs.values import RunInfo, Status
    from actorwork.state.lock import Lock
    from actorwork.workflows.flow import Flow
    from actorwork.workflows.steps import Group, Step

A = TypeVar("A", bound=Hooks)
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Client:
    """Sends messages to actors behind a broker; made by `open_client`, for any number of tasks."""

    def __init__(self, sender: Sender, emit: EventSink) -> None:
        self._sender = sender
        self._emit = emit
        self._random = Random()

    def __repr__(self) -> str:
        return f"<Client {self._sender.publisher} of {self._sender.url}>"

    @property
    def broker(self) -> Broker:
        """The broker; raises `BrokerError` while it has not been reached yet, which happens with a spool only."""
        return self._sender.broker

    def statistics(self) -> Mapping[str, float]:
        """Return counters: messages sent, and how many of them with `ask`; with a spool, also its state.

        The state is `spooled` and `replayed` (messages this client wrote to the file and sent from it),
        `spool_messages`, `spool_bytes` and `spool_set_aside` (the contents of the file), and `spool_age` (seconds that
        the oldest message has waited).
        """
        spooler = self._sender.spooler
        counts = {"sent": self._sender.sent, "asked": self._sender.asked}
        return counts if spooler is None else {**counts, **spooler.statistics()}

    async def wait_replayed(self) -> None:
        """Wait until the broker has every message that waits in the spool; those set aside stay there."""
        if self._sender.spooler is not None:
            await self._sender.spooler.wait_replayed()
        await self._sender.driver.sleep(0)

    # ---- pauses and triggers ----

    async def pause(
        self,
        *,
        actor: type[Actor] | str | None = None,
        source: str | None = None,
        trigger: str | None = None,
        triggers: bool = False,
        node: str | None = None,
        process: str | None = None,
        reason: str = "",
    ) -> None:
        """Pause an actor, a source, or everything; one trigger of an actor, or all of them; a node, or a process.

            pause()                                     everything
            pause(actor=Greeter)                        the actor: all of its sources
            pause(source="orders")                      the source, for all actors
            pause(actor=Greeter, trigger="nightly")     this trigger
            pause(actor=Greeter, triggers=True)         all triggers of the actor
            pause(node="box-7")                         all nodes of a host; one by "box-7:4711", its name
            pause(process="thumbnails")                 all actors in a `Process` of a tree, in all of its replicas

        All nodes obey within a second: waiting messages stay where they are, deliveries in flight finish. Triggers fire
        into paused sources, unless they are paused themselves. While the broker is unreachable this waits. An actor or
        a source that no node has had may be paused before it starts, but is reported: it may be misspelt.
        """
        kind, name = _what(actor, source, trigger, triggers=triggers, node=node, process=process)
        broker = await self._sender.reached()
        await broker.pauses.pause(kind, name, reason=reason, by=whoami())
        await self._report_unknown(broker, kind, name if actor is None else title_of(actor))

    async def _report_unknown(self, broker: Broker, kind: PauseKind, name: str) -> None:
        from actorwork.state.known_actors import known_actors, unknown_actor, unknown_source  # noqa: PLC0415 - rare

        if kind in ("everything", "node", "process"):
            return
        with suppress(BrokerError):  # Paused it is; a client with few rights may not read who has run.
            known = await known_actors(broker.values)
            problem = unknown_source(name, known) if kind == "source" else unknown_actor(name, known)
            if problem is not None:
                self._emit(BrokerAdvice(f"paused all the same: {problem}", "resume it, if the name is misspelt"))

    async def resume(
        self,
        *,
        actor: type[Actor] | str | None = None,
        source: str | None = None,
        trigger: str | None = None,
        triggers: bool = False,
        node: str | None = None,
        process: str | None = None,
    ) -> bool:
        """End a pause, with the same arguments as `pause`; return whether there was one.

        A trigger continues with its next time: times that passed meanwhile do not fire.
        """
        kind, name = _what(actor, source, trigger, triggers=triggers, node=node, process=process)
        return await (await self._sender.reached()).pauses.resume(kind, name)

    async def paused(self) -> Sequence[Pause]:
        """Return what is paused, oldest first."""
        return await (await self._sender.reached()).pauses.list()

    @property
    def triggers(self) -> Triggers:
        """The triggers at the broker: `await client.triggers()` lists them, and its methods put and change them."""
        from actorwork.clients.triggers import Triggers  # noqa: PLC0415 - rare

        return Triggers(self._sender)

    async def run_trigger(self, actor: type[Actor] | str, trigger: str) -> str:
        """Send the message of a trigger now, whatever its schedule says; return the message's id.

        Its `time_point` is now. Raises `LookupError` for a trigger that the broker does not know.
        """
        broker = await self._sender.reached()
        record = find_trigger(await broker.triggers.list(), title_of(actor), trigger)
        envelope = message_now(record, self._sender.next_id(), milliseconds(datetime.now(UTC)))
        await broker.publish([envelope])
        return envelope.id

    async def messages(
        self,
        *states: MessageState,
        actor: type[Actor] | str | None = None,
        source: str | None = None,
        limit: int = 100,
        search: int = 1000,
    ) -> Messages:
        """Return tracked messages, latest first: submitted ones and steps of runs, of some states or of all.

        The newest `search` of each source are looked at, 10,000 in all; the answer says how many that were. Messages
        that are over are known as long as their results are kept. Raises `ValueError` for a state that there is not
        and for a number below 1, and `LookupError` for an actor of which nothing is known. With both an actor and a
        source, those of the actor in this source.
        """
        from actorwork.clients import messages  # noqa: PLC0415 - rare

        title = None if actor is None else title_of(actor)
        broker = await self._sender.reached()
        return await messages.find(broker, states=states, actor=title, source=source, limit=limit, search=search)

    async def purge(self, source: str, *, dry_run: bool = False, reason: str = "") -> Purge:
        """Drop the messages of a source that no node has been given: ready, delayed, or behind others with their key.

        With `dry_run` they are counted only. Each ends as one that is cancelled: a receipt of it has the status
        CANCELLED, and a run whose step it is draws its conclusions. Messages that a node has been given stay. An
        actor's own source is `client.ref(actor).source`. If cancelled, any part of them may have been dropped.
        """
        from actorwork.clients import purging  # noqa: PLC0415 - rare

        broker = await self._sender.reached()
        if dry_run:
            return purging.Purge(source, await broker.purging.count(source_name(source)))
        return await purging.purge(broker, source_name(source), reason=reason)

    @overload
    def ref(self, actor: type[A], *, key: str) -> EntityRef[A]: ...
    @overload
    def ref(self, actor: str, *, key: str) -> EntityRef[Any]: ...
    @overload
    def ref(self, actor: type[A]) -> StreamRef[A]: ...
    @overload
    def ref(self, actor: FunctionActor[..., Any] | str) -> StreamRef[Any]: ...
    def ref(self, actor: Any, *, key: str | None = None) -> StreamRef[Any]:
        """Return a ref to an actor by its class, or by its title if the class is in another program.

        With a class, messages are checked against its handlers before they are sent. With a `key` it is a ref to that
        key of an entity; raises `TypeError` for an actor that is none.
        """
        title = title_of(actor)
        if isinstance(actor, str):
            by_title = settings.Settings(title=title)
            return StreamRef(self._sender, by_title, None) if key is None else self._entity(by_title, None, actor, key)
        table = handlers_of(actor)
        if table.is_entity:
            return self._entity(actor.settings, table, actor, key)
        if key is not None:
            raise TypeError(
                f"{title!r} is no entity: a ref to it has no key; each message may have one, tell(…, key=…)"
            )
        return StreamRef(self._sender, actor.settings, table)

    def _entity(
        self, settings: settings.Settings, table: HandlerTable | None, actor: Any, key: str | None
    ) -> EntityRef[Any]:
        from actorwork.clients.entities import EntityRef  # noqa: PLC0415 - most programs have no entities

        check_name("key", key, optional=True)
        return EntityRef(self._sender, settings, table, actor, key)

    def entities(
        self, actor: type[Hooks] | str, *, changed_since: datetime | float | None = None
    ) -> AsyncGenerator[EntityInfo]:
        """Yield the keys of an entity that have a state, those whose last change is longest ago first.

        With `changed_since` (a datetime, or seconds since the epoch) those that have changed since. One that changes
        meanwhile may come again. They are read in pages, as they are asked for.
        """
        from actorwork.clients.entities import listed  # noqa: PLC0415 - as above

        return listed(self._sender, title_of(actor), changed_since)

    # ---- functions that are actors ----

    async def call(self, function: FunctionActor[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Have a function called that `@actor` made an actor, wherever it runs, and return what it returns.

        Waits for 30 seconds. As `ref(function).ask(function.message(…))`, which takes `timeout` and the other options,
        and raises what this raises.
        """
        return await self.ref(function).ask(function.message(*args, **kwargs))

    async def submit(self, function: FunctionActor[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R]:
        """Have a function called later, as `ref(function).submit(function.message(…))`; the receipt has its end."""
        return await self.ref(function).submit(function.message(*args, **kwargs))

    async def tell(self, function: FunctionActor[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have a function called later, as `ref(function).tell(function.message(…))`."""
        await self.ref(function).tell(function.message(*args, **kwargs))

    async def publish(self, source: str, message: object, **options: Unpack[SendOptions]) -> str:
        """Send a message to a source, for every actor that reads it; return the id under which it is stored.

        The message is not checked: the client does not know which actors read a source. With `Source(name, shards=…)`
        the source is divided at its first use, and `BrokerError` raised if the broker has another number. The options
        are those of `SendOptions`. Raises `NotUnique`. If cancelled, the message may have been stored; sending it again
        with the same `id` stores it once.
        """
        sending = Sending.of(options) if options else PLAIN
        if isinstance(source, settings.Source):
            await self._sender.declare(source)
            source = str(source)
        return await self._sender.send_one(self._sender.envelope(source_name(source), message, sending))

    @overload
    def receipt(self, id: str, of: type[Message[Any, R]]) -> Receipt[R]: ...
    @overload
    def receipt(self, id: str, of: FunctionActor[..., R]) -> Receipt[R]: ...
    @overload
    def receipt(self, id: str) -> Receipt[Any]: ...
    def receipt(self, id: str, of: Any = None) -> Receipt[Any]:
        """Return the receipt for a message that was submitted before, perhaps by another process.

        `of` is the class of the message, or the function that it calls: then the result has the type that these
        declare. Without it, the result is the JSON value that is stored. Whether there is such a message is known when
        the receipt is used. Where the actor is known, `ref(actor)` has receipts that need not look for it.
        """
        check_id(id)
        return Receipt(id, "", self._sender, "its actor", Any if of is None else declared_result(of))

    # ---- workflows ----

    @overload
    async def start(self, flow: Flow[R] | Step[R], *, id: str | None = None) -> Run[R]: ...
    @overload
    async def start(self, flow: Group[R], *, id: str | None = None) -> Run[list[R]]: ...
    async def start(self, flow: Any, *, id: str | None = None) -> Run[Any]:
        """Start a workflow; the broker has stored it, and sent its first steps, when this returns.

        With the `id` of a run that exists, nothing is started, and that run is returned: so it may be called again
        after an error or a cancellation. Raises `TypeError`, `ValueError` or `CodecError` for a flow that cannot work.
        """
        from actorwork.clients import runs  # noqa: PLC0415 - a program without workflows starts without them

        return await runs.start(self._sender, flow, id)

    def run(self, id: str) -> Run[Any]:
        """Return a run that was started before, perhaps by another process; whether it exists is known when asked."""
        from actorwork.clients import runs  # noqa: PLC0415 - see above

        return runs.find(self._sender, id)

    async def runs(self, *statuses: Status, limit: int = 100) -> Sequence[RunInfo]:
        """Return runs, latest first: those of some statuses, or all; at most `limit`."""
        check_count("limit", limit)
        return await (await self._sender.reached()).runs.list(statuses=statuses, limit=limit)

    # ---- shared by all nodes ----

    @overload
    def shared(self, name: str, type: type[T], *, default: T, ttl: Duration | None = None) -> Shared[T]: ...
    @overload
    def shared(self, name: str, type: type[T], *, ttl: Duration | None = None) -> Shared[T | None]: ...
    def shared(self, name: str, type: Any, *, default: Any = None, ttl: Duration | None = None) -> Shared[Any]:
        """Return a value shared by all nodes, by its name, like `Context.shared`."""
        return Shared(self.broker.values, name, type, default=default, ttl=ttl)

    def lock(self, name: str, *, ttl: Duration = 10.0) -> Lock:
        """Return a lock shared by all nodes, like `Context.lock`."""
        from actorwork.state.lock import Lock  # noqa: PLC0415 - most clients use none

        who, waiting = f"{whoami()}, pid {os.getpid()}", self._sender.driver.waiting
        return Lock(self.broker.values, name, ttl=ttl, random=self._random, waiting=waiting, who=who)


def _what(
    actor: type[Actor] | str | None,
    source: str | None,
    trigger: str | None,
    *,
    triggers: bool,
    node: str | None,
    process: str | None,
) -> tuple[PauseKind, str]:
    """Return the kind and name of a pause; raise `ValueError` for arguments that do not fit together."""
    if node is not None or process is not None:
        others: tuple[object, ...] = (actor, source, trigger, node if process is not None else None)
        if triggers or any(other is not None for other in others):
            raise ValueError("a pause is for a node, a process, a source, or an actor or its triggers: one of them")
        kind, name = ("node", node) if process is None else ("process", process)
        if not name:
            raise ValueError(f"a pause of a {kind} wants its name, got {name!r}")
        return kind, name
    if source is not None:
        if actor is not None or trigger is not None or triggers:
            raise ValueError("a pause is for a source, or for an actor or its triggers, not both")
        return "source", source_name(source)
    if actor is None:
        if trigger is not None or triggers:
            raise ValueError("a pause of triggers needs the actor too: pause(actor=…, triggers=True)")
        return "everything", ""
    title = title_of(actor)
    if trigger is not None:
        return "trigger", trigger_name(title, trigger)
    return ("triggers" if triggers else "actor"), title
