"""What `context.client` offers: sending at once, through the broker, instead of with a settlement.

Clients are above this room, and the system that runs the actor makes this one. So these are Protocols of what an
actor's code uses; `clients` has the classes, and their docstrings say the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from actorwork.actors.tree.hooks import Hooks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actorwork.abc import FunctionActor
    from actorwork.durations import Duration
    from actorwork.message import Message, Untyped
    from actorwork.policy.runs.values import RunInfo, Status
    from actorwork.policy.sending import SendOptions
    from actorwork.workflows.flow import Flow
    from actorwork.workflows.steps import Group, Step

A = TypeVar("A", bound=Hooks)
A_co = TypeVar("A_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class SentMessage(Protocol[R_co]):
    """The receipt for a submitted message: `clients.refs.Receipt`."""

    @property
    def id(self) -> str: ...
    async def status(self, *, timeout: Duration = 30) -> str: ...
    async def cancel(self) -> bool: ...
    async def result(self, *, timeout: Duration = 30) -> R_co: ...


class DurableRef(Protocol[A_co]):
    """An actor behind the broker: `clients.refs.StreamRef`."""

    title: str
    source: str

    async def tell(self, message: Message[A_co, Any] | Untyped, **options: Unpack[SendOptions]) -> None: ...
    async def tell_many(
        self, messages: Iterable[Message[A_co, Any] | Untyped], **options: Unpack[SendOptions]
    ) -> None: ...
    @overload
    async def ask(self, message: Message[A_co, R], *, timeout: Duration = 30, **options: Unpack[SendOptions]) -> R: ...
    @overload
    async def ask(self, message: Untyped, *, timeout: Duration = 30, **options: Unpack[SendOptions]) -> Any: ...
    @overload
    async def submit(self, message: Message[A_co, R], **options: Unpack[SendOptions]) -> SentMessage[R]: ...
    @overload
    async def submit(self, message: Untyped, **options: Unpack[SendOptions]) -> SentMessage[Any]: ...
    def receipt(self, id: str) -> SentMessage[Any]: ...


class StartedRun(Protocol[R_co]):
    """A run of a workflow: `clients.runs.Run`."""

    @property
    def id(self) -> str: ...
    async def status(self) -> Status: ...
    async def info(self) -> RunInfo: ...
    async def cancel(self, reason: str = "") -> bool: ...
    async def signal(self, name: str, value: object = None) -> bool: ...
    async def result(self, *, timeout: Duration = 30) -> R_co: ...


class SendingClient(Protocol):
    """A client of the system's broker: `clients.client.Client`."""

    @overload
    def ref(self, actor: type[A]) -> DurableRef[A]: ...
    @overload
    def ref(self, actor: FunctionActor[..., Any] | str) -> DurableRef[Any]: ...
    async def call(self, function: FunctionActor[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def submit(self, function: FunctionActor[P, R], /, *args: P.args, **kwargs: P.kwargs) -> SentMessage[R]: ...
    async def tell(self, function: FunctionActor[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None: ...
    @overload
    async def start(self, flow: Flow[R] | Step[R], *, id: str | None = None) -> StartedRun[R]: ...
    @overload
    async def start(self, flow: Group[R], *, id: str | None = None) -> StartedRun[list[R]]: ...
    def run(self, id: str) -> StartedRun[Any]: ...
    async def publish(self, source: str, message: object, **options: Unpack[SendOptions]) -> str: ...
