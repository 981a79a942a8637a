"""The classes of `clients` without `await`: each method runs the coroutine of the same name to its end."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from actorwork.actors.tree.hooks import Hooks
from actorwork.blocking.driver import run
from actorwork.clients import client as clients

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from actorwork.abc import Broker, FunctionActor
    from actorwork.actors.actor import Actor
    from actorwork.blocking.triggers import Triggers
    from actorwork.clients.entities import EntityRef as AsyncEntityRef, EntityState
    from actorwork.clients.messages import Messages
    from actorwork.clients.purging import Purge
    from actorwork.clients.receipts import Receipt as AsyncReceipt
    from actorwork.clients.refs import Prepared as AsyncPrepared, StreamRef
    from actorwork.clients.runs import Run as AsyncRun
    from actorwork.durations import Duration
    from actorwork.message import Message, Status, Untyped
    from actorwork.policy.entities import EntityInfo
    from actorwork.policy.runs.values import RunInfo, StepInfo
    from actorwork.policy.sending import SendOptions, SubmitOptions
    from actorwork.records import MessageInfo, MessageState, Pause
    from actorwork.state.lock import Held as AsyncHeld, Lock as AsyncLock
    from actorwork.state.shared import Shared as AsyncShared
    from actorwork.workflows.flow import Flow
    from actorwork.workflows.steps import Group, Step

A = TypeVar("A", bound=Hooks)
A_co = TypeVar("A_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class Client:
    """Sends messages to actors behind a broker; made by `actorwork.sync.open_client`, for any number of threads.

    Every method blocks the calling thread, and is as that of `actorwork.Client`. May be closed, by `close` or at the
    end of a `with` block, but need not be: whatever has returned is at the broker.
    """

    def __init__(self, client: clients.Client, close: Callable[[], None]) -> None:
        self._client = client
        self._close = close

    def __repr__(self) -> str:
        return f"<sync {self._client!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; later calls raise `BrokerError`."""
        self._close()

    @property
    def broker(self) -> Broker:
        """The broker, whose methods are coroutines; for calls that this class does not offer."""
        return self._client.broker

    def statistics(self) -> Mapping[str, float]:
        """Return counters: messages sent, and how many of them with `ask`."""
        return self._client.statistics()

    # ---- sending ----

    @overload
    def ref(self, actor: type[A], *, key: str) -> EntityRef[A]: ...
    @overload
    def ref(self, actor: str, *, key: str) -> EntityRef[Any]: ...
    @overload
    def ref(self, actor: type[A]) -> Ref[A]: ...
    @overload
    def ref(self, actor: FunctionActor[..., Any] | str) -> Ref[Any]: ...
    def ref(self, actor: Any, *, key: str | None = None) -> Ref[Any]:
        """Return a ref to an actor by its class, or by its title if the class is in another program.

        With a `key` it is a ref to that key of an entity.
        """
        if key is None:
            return Ref(self._client.ref(actor))
        return EntityRef(self._client.ref(actor, key=key))

    def entities(
        self, actor: type[Hooks] | str, *, changed_since: datetime | float | None = None
    ) -> Iterator[EntityInfo]:
        """Yield the keys of an entity that have a state, those whose last change is longest ago first."""
        return _each(self._client.entities(actor, changed_since=changed_since))

    def call(self, function: FunctionActor[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Have a function called that `@actor` made an actor, wherever it runs, and return what it returns."""
        return run(self._client.call(function, *args, **kwargs))

    def submit(self, function: FunctionActor[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R]:
        """Have a function called later; the receipt has its end."""
        return Receipt(run(self._client.submit(function, *args, **kwargs)))

    def tell(self, function: FunctionActor[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have a function called later."""
        run(self._client.tell(function, *args, **kwargs))

    def publish(self, source: str, message: object, **options: Unpack[SendOptions]) -> str:
        """Send a message to a source, for every actor that reads it; return the id under which it is stored."""
        return run(self._client.publish(source, message, **options))

    @overload
    def receipt(self, id: str, of: type[Message[Any, R]]) -> Receipt[R]: ...
    @overload
    def receipt(self, id: str, of: FunctionActor[..., R]) -> Receipt[R]: ...
    @overload
    def receipt(self, id: str) -> Receipt[Any]: ...
    def receipt(self, id: str, of: Any = None) -> Receipt[Any]:
        """Return the receipt for a message that was submitted before, perhaps by another process.

        With `of`, the class of the message or the function that it calls, its result has the type that these declare.
        """
        return Receipt(self._client.receipt(id, of))

    # ---- workflows ----

    @overload
    def start(self, flow: Flow[R] | Step[R], *, id: str | None = None) -> Run[R]: ...
    @overload
    def start(self, flow: Group[R], *, id: str | None = None) -> Run[list[R]]: ...
    def start(self, flow: Any, *, id: str | None = None) -> Run[Any]:
        """Start a workflow; the broker has stored it, and sent its first steps, when this returns."""
        return Run(run(self._client.start(flow, id=id)))

    def run(self, id: str) -> Run[Any]:
        """Return a run that was started before, perhaps by another process."""
        return Run(self._client.run(id))

    def runs(self, *statuses: Status, limit: int = 100) -> Sequence[RunInfo]:
        """Return runs, latest first: those of some statuses, or all."""
        return run(self._client.runs(*statuses, limit=limit))

    # ---- pauses and triggers ----

    def pause(
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
        """Pause an actor, a source, or everything; one trigger of an actor, or all of them; a node, or a process."""
        run(
            self._client.pause(
                actor=actor,
                source=source,
                trigger=trigger,
                triggers=triggers,
                node=node,
                process=process,
                reason=reason,
            )
        )

    def resume(
        self,
        *,
        actor: type[Actor] | str | None = None,
        source: str | None = None,
        trigger: str | None = None,
        triggers: bool = False,
        node: str | None = None,
        process: str | None = None,
    ) -> bool:
        """End a pause, with the same arguments as `pause`; return whether there was one."""
        return run(
            self._client.resume(
                actor=actor, source=source, trigger=trigger, triggers=triggers, node=node, process=process
            )
        )

    def paused(self) -> Sequence[Pause]:
        """Return what is paused, oldest first."""
        return run(self._client.paused())

    @property
    def triggers(self) -> Triggers:
        """The triggers at the broker: `client.triggers()` lists them, and its methods put and change them."""
        from actorwork.blocking.triggers import Triggers  # noqa: PLC0415 - rare

        return Triggers(self._client.triggers)

    def run_trigger(self, actor: type[Actor] | str, trigger: str) -> str:
        """Send the message of a trigger now, whatever its schedule says; return the message's id."""
        return run(self._client.run_trigger(actor, trigger))

    def messages(
        self,
        *states: MessageState,
        actor: type[Actor] | str | None = None,
        source: str | None = None,
        limit: int = 100,
        search: int = 1000,
    ) -> Messages:
        """Return tracked messages, latest first: submitted ones and steps of runs, of some states or of all."""
        return run(self._client.messages(*states, actor=actor, source=source, limit=limit, search=search))

    def purge(self, source: str, *, dry_run: bool = False, reason: str = "") -> Purge:
        """Drop the messages of a source that no node has been given: ready, delayed, or behind others with their key.

        With `dry_run` they are counted only.
        """
        return run(self._client.purge(source, dry_run=dry_run, reason=reason))

    # ---- shared by all nodes ----

    @overload
    def shared(self, name: str, type: type[T], *, default: T, ttl: Duration | None = None) -> Shared[T]: ...
    @overload
    def shared(self, name: str, type: type[T], *, ttl: Duration | None = None) -> Shared[T | None]: ...
    def shared(self, name: str, type: Any, *, default: Any = None, ttl: Duration | None = None) -> Shared[Any]:
        """Return a value shared by all nodes, by its name."""
        return Shared(self._client.shared(name, type, default=default, ttl=ttl))

    def lock(self, name: str, *, ttl: Duration = 10.0) -> Lock:
        """Return a lock shared by all nodes. Nothing renews it: it is held for `ttl` seconds, and for as long again
        after each `held.extend()`.
        """
        return Lock(self._client.lock(name, ttl=ttl))


class Ref(Generic[A_co]):
    """An actor behind a broker, wherever it runs; made by `client.ref`."""

    __slots__ = ("_ref",)

    def __init__(self, ref: StreamRef[A_co]) -> None:
        self._ref = ref

    def __repr__(self) -> str:
        return f"<sync {self._ref!r}>"

    @property
    def title(self) -> str:
        return self._ref.title

    @property
    def source(self) -> str:
        return self._ref.source

    def tell(self, message: Message[A_co, Any] | Untyped, **options: Unpack[SendOptions]) -> None:
        """Send a message; the broker has stored it when this returns. Raises `MessageRefused`, `NotUnique`."""
        run(self._ref.tell(message, **options))

    def tell_many(self, messages: Iterable[Message[A_co, Any] | Untyped], **options: Unpack[SendOptions]) -> None:
        """Send messages as one batch, in their order. All are checked before the first is sent."""
        run(self._ref.tell_many(messages, **options))

    @overload
    def ask(self, message: Message[A_co, R], *, timeout: Duration = 30, **options: Unpack[SendOptions]) -> R: ...
    @overload
    def ask(self, message: Untyped, *, timeout: Duration = 30, **options: Unpack[SendOptions]) -> Any: ...
    def ask(self, message: Any, *, timeout: Duration = 30, **options: Unpack[SendOptions]) -> Any:
        """Send a message and return the reply to it; raises `MessageFailed`, `AskTimeout`."""
        return run(self._ref.ask(message, timeout=timeout, **options))

    @overload
    def submit(self, message: Message[A_co, R], **options: Unpack[SubmitOptions]) -> Receipt[R]: ...
    @overload
    def submit(self, message: Untyped, **options: Unpack[SubmitOptions]) -> Receipt[Any]: ...
    def submit(self, message: Any, **options: Unpack[SubmitOptions]) -> Receipt[Any]:
        """Send a message like `tell`; the broker keeps its outcome for `results_ttl`, by default that of the actor.

        That is a day if the actor is named by its title, not its class.
        """
        return Receipt(run(self._ref.submit(message, **options)))

    @overload
    def prepare(self, message: Message[A_co, R], **options: Unpack[SubmitOptions]) -> Prepared[R]: ...
    @overload
    def prepare(self, message: Untyped, **options: Unpack[SubmitOptions]) -> Prepared[Any]: ...
    def prepare(self, message: Any, **options: Unpack[SubmitOptions]) -> Prepared[Any]:
        """Do all of `submit` but the sending; `send` of what this returns does that."""
        return Prepared(self._ref.prepare(message, **options))

    @overload
    def receipt(self, id: str, of: type[Message[A_co, R]]) -> Receipt[R]: ...
    @overload
    def receipt(self, id: str, of: FunctionActor[..., R]) -> Receipt[R]: ...
    @overload
    def receipt(self, id: str) -> Receipt[Any]: ...
    def receipt(self, id: str, of: Any = None) -> Receipt[Any]:
        """Return the receipt for a message that was submitted before, perhaps by another process.

        With `of`, the class of the message or the function that it calls, its result has the type that these declare.
        """
        return Receipt(self._ref.receipt(id, of))


class EntityRef(Ref[A_co]):
    """One key of an entity, wherever it is active; made by `client.ref(Account, key="ann")`."""

    __slots__ = ("_entity",)

    def __init__(self, entity: AsyncEntityRef[A_co]) -> None:
        super().__init__(entity)
        self._entity = entity

    @property
    def key(self) -> str | None:
        return self._entity.key

    def state(self) -> EntityState:
        """Return the committed state; one of the version 0 is that of a key that has none."""
        return run(self._entity.state())

    def history(self, *, limit: int = 20) -> Sequence[EntityState]:
        """Return the last changes that are kept (`Entities.history`), newest first."""
        return run(self._entity.history(limit=limit))

    def put(self, value: object, *, version: int | None = None, force: bool = False, reason: str = "") -> int:
        """Replace the state, if it has this version; return its new one. Raises `StateConflict`."""
        return run(self._entity.put(value, version=version, force=force, reason=reason))

    def forget(self, *, timeout: Duration = 30) -> bool:
        """Delete the state and its history, in its turn, as a message of this key; return whether there was one."""
        return run(self._entity.forget(timeout=timeout))

    def forget_now(self, *, version: int | None = None, force: bool = False, reason: str = "") -> bool:
        """Delete the state and its history without a node; return whether there was one. Raises `StateConflict`."""
        return run(self._entity.forget_now(version=version, force=force, reason=reason))


def _each(found: AsyncGenerator[EntityInfo]) -> Iterator[EntityInfo]:
    """Yield what an asynchronous generator does."""
    while True:
        try:
            one: EntityInfo = run(_next(found))
        except StopAsyncIteration:
            return
        yield one


class Prepared(Generic[R_co]):
    """A message that was checked and encoded, with its id, for `send` to send."""

    __slots__ = ("_prepared",)

    def __init__(self, prepared: AsyncPrepared[R_co]) -> None:
        self._prepared = prepared

    def __repr__(self) -> str:
        return f"<sync {self._prepared!r}>"

    @property
    def id(self) -> str:
        return self._prepared.id

    @property
    def source(self) -> str:
        return self._prepared.source

    def send(self) -> Receipt[R_co]:
        """Send the message like `submit`, and return its receipt. Sent again, within a day, it is stored once."""
        return Receipt(run(self._prepared.send()))


class Receipt(Generic[R_co]):
    """The receipt for one submitted message; store its `id` to find the outcome later."""

    __slots__ = ("_receipt",)

    def __init__(self, receipt: AsyncReceipt[R_co]) -> None:
        self._receipt = receipt

    def __repr__(self) -> str:
        return f"<sync {self._receipt!r}>"

    @property
    def id(self) -> str:
        return self._receipt.id

    @property
    def source(self) -> str:
        return self._receipt.source

    def info(self, *, timeout: Duration = 30) -> MessageInfo:
        """Return all that is known of the message now; raises `AskTimeout` if the broker does not answer."""
        return run(self._receipt.info(timeout=timeout))

    def status(self, *, timeout: Duration = 30) -> Status:
        """Return the status of the message; raises `AskTimeout` if the broker does not answer."""
        return run(self._receipt.status(timeout=timeout))

    @contextmanager
    def watch(self) -> Generator[Iterator[MessageInfo]]:
        """Follow the message: `with receipt.watch() as updates: for info in updates`."""
        with _following(self._receipt.watch()) as updates:
            yield updates

    def forget(self) -> bool:
        """Delete the result and all that is known of the message; return False if it is not over, or not known."""
        return run(self._receipt.forget())

    def cancel(self, reason: str = "", *, force: bool = False) -> bool:
        """Cancel the message, wherever it is; return False if it is over, or was cancelled before.

        With `force`, the `Process` of a handler that does not end for it is replaced.
        """
        return run(self._receipt.cancel(reason, force=force))

    def result(self, *, timeout: Duration = 30) -> R_co:
        """Wait for the message's outcome and return the reply; raises `MessageFailed`, `AskTimeout`."""
        return run(self._receipt.result(timeout=timeout))


class Run(Generic[R_co]):
    """One run of a workflow; store its `id` to find it later."""

    __slots__ = ("_run",)

    def __init__(self, started: AsyncRun[R_co]) -> None:
        self._run = started

    def __repr__(self) -> str:
        return f"<sync {self._run!r}>"

    @property
    def id(self) -> str:
        return self._run.id

    def info(self) -> RunInfo:
        """Return the run as it is now; its status is UNKNOWN if there is none, or if it is kept no longer."""
        return run(self._run.info())

    def status(self) -> Status:
        """Return the status of the run."""
        return run(self._run.status())

    def steps(self) -> Sequence[StepInfo]:
        """Return its steps; raise `LookupError` if there is no such run."""
        return run(self._run.steps())

    def result(self, *, timeout: Duration = 30) -> R_co:
        """Wait for the end of the run and return its result; raises `MessageFailed`, `AskTimeout`, `LookupError`."""
        return run(self._run.result(timeout=timeout))

    @contextmanager
    def watch(self) -> Generator[Iterator[RunInfo]]:
        """Follow the run: `with run.watch() as updates: for update in updates`."""
        with _following(self._run.watch()) as updates:
            yield updates

    def cancel(self, reason: str = "") -> bool:
        """End the run; return whether it was open."""
        return run(self._run.cancel(reason))

    def pause(self) -> bool:
        """Send no further steps; return whether this changed anything."""
        return run(self._run.pause())

    def resume(self) -> bool:
        """Continue after `pause`; return whether the run was paused."""
        return run(self._run.resume())

    def retry(self, *, steps: Iterable[str | int] | None = None) -> bool:
        """Run again what has not succeeded, or of it only these steps and what was cancelled because of them.

        Return whether the run was held or had failed. Steps are given by their names, numbers, or messages' ids; raises
        `LookupError` for one that the run does not have, `ValueError` for one that cannot be run again by itself.
        """
        return run(self._run.retry(steps=steps))

    def signal(self, name: str, value: object = None) -> bool:
        """Give the run the value of a signal; it may come before the run waits for it.

        Raises `CodecError` for a value that is not of the signal's type.
        """
        return run(self._run.signal(name, value))

    def forget(self) -> bool:
        """Delete the run with its results, now and not after its `results_ttl`; return whether it was over."""
        return run(self._run.forget())

    def to_mermaid(self) -> str:
        """Return the graph of the run as it is now, in the language of Mermaid."""
        return run(self._run.to_mermaid())

    def to_svg(self) -> str:
        """Return the graph of the run as it is now, as a picture: SVG that needs nothing else, in light and dark."""
        return run(self._run.to_svg())


@contextmanager
def _following(watch: AbstractAsyncContextManager[AsyncIterator[T]]) -> Generator[Iterator[T]]:
    updates = run(_entered(watch))

    def each() -> Iterator[T]:
        while True:
            try:
                yield run(_next(updates))
            except StopAsyncIteration:
                return

    try:
        yield each()
    finally:
        run(_left(watch))


async def _entered(manager: AbstractAsyncContextManager[T]) -> T:
    return await manager.__aenter__()


async def _left(manager: AbstractAsyncContextManager[Any]) -> None:
    await manager.__aexit__(None, None, None)


async def _next(updates: Any) -> Any:
    return await anext(updates)


class Lock:
    """A lock shared by all nodes, by its name: `with lock as held`, or `with lock.acquire(timeout=3) as held`.

    No task renews it: the block ends within the `ttl`, or calls `held.extend()` on its way; otherwise it raises
    `LockLost` at its end. Writes with `fence=held` are refused once a later owner has written.
    """

    __slots__ = ("_lock", "_process")

    def __init__(self, lock: AsyncLock) -> None:
        self._lock = lock
        self._process = 0

    def __repr__(self) -> str:
        return f"<sync {self._lock!r}>"

    @property
    def name(self) -> str:
        return self._lock.name

    def __enter__(self) -> Held:
        held = Held(run(self._lock.__aenter__()))
        self._process = os.getpid()
        return held

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        # A child process that was forked in the block leaves the lock to its parent.
        return run(self._lock.__aexit__(kind, error, traceback)) if os.getpid() == self._process else None

    @contextmanager
    def acquire(self, *, timeout: Duration = float("inf")) -> Generator[Held]:
        """Take the lock, and release it when the block ends; raises `LockTimeout`, and `LockLost` at the end."""
        manager = self._lock.acquire(timeout=timeout)
        held = Held(run(manager.__aenter__()))
        process = os.getpid()
        error: BaseException | None = None
        try:
            yield held
        except BaseException as raised:
            error = raised
            raise
        finally:
            if os.getpid() == process:
                run(manager.__aexit__(None if error is None else type(error), error, None))


class Held:
    """A lock that was taken: the `token` of this owner, and whether it is `lost` by now."""

    __slots__ = ("held",)

    def __init__(self, held: AsyncHeld) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f"<sync {self.held!r}>"

    @property
    def name(self) -> str:
        return self.held.name

    @property
    def token(self) -> int:
        return self.held.token

    @property
    def lost(self) -> bool:
        """Whether another owner may have it: its `ttl` is over."""
        return self.held.lost

    def extend(self) -> None:
        """Hold the lock for its `ttl` from now; raise `LockLost` if that is too late."""
        run(self.held.extend())


class Shared(Generic[T]):
    """A value shared by all nodes, by its name; `get` returns `default` if there is none."""

    __slots__ = ("_shared",)

    def __init__(self, shared: AsyncShared[T]) -> None:
        self._shared = shared

    def __repr__(self) -> str:
        return f"<sync {self._shared!r}>"

    @property
    def name(self) -> str:
        return self._shared.name

    def get(self) -> T:
        """Return the value; raise `CodecError` if it is of another type."""
        return run(self._shared.get())

    def set(self, value: T, *, fence: Held | None = None) -> None:
        """Set the value, whatever it was before."""
        run(self._shared.set(value, fence=_held(fence)))

    def update(self, function: Callable[[T], T], *, fence: Held | None = None) -> T:
        """Replace the value by the result of a function of it; return the result."""
        return run(self._shared.update(function, fence=_held(fence)))

    def increment(self, by: float = 1, *, fence: Held | None = None) -> T:
        """Add to a number, in one step; return the sum."""
        return run(self._shared.increment(by, fence=_held(fence)))

    def delete(self, *, fence: Held | None = None) -> bool:
        """Delete the value; return whether there was one."""
        return run(self._shared.delete(fence=_held(fence)))


def _held(fence: Held | None) -> AsyncHeld | None:
    return None if fence is None else fence.held
