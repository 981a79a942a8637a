"""What a client asks of the world around it: time, waiting, and places where replies arrive and changes are heard of.

Everything else in this room is written once. `on_trio` is the driver of Trio programs; `asynchronous` and `blocking`
have those of asyncio programs and of programs without an event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from actorwork.abc import Broker, Changes, Replies
    from actorwork.state.lock import Waiting

T = TypeVar("T")


class OutOfTime(Exception):
    """What was to be done within a time was not."""


class Driver(Protocol):
    """Time, waiting and replies, in one kind of program."""

    def now(self) -> float:
        """Return a monotonic time in seconds."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def within(self, seconds: float, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of some work; raise `OutOfTime` if it takes longer, and end it."""
        ...

    async def aclose(self, updates: Any) -> None:
        """Close an async generator, even in a task that is being cancelled."""
        ...

    @property
    def waiting(self) -> Waiting:
        """What locks ask for."""
        ...

    async def replies(self) -> Replies:
        """Return the place where replies arrive, opened when it is first asked for."""
        ...

    async def changes(self) -> Changes:
        """Return the place where changes of messages and runs are heard of, opened in the same way."""
        ...


class Reached(Protocol):
    """A broker that is open, or will be."""

    @property
    def url(self) -> str: ...
    @property
    def broker(self) -> Broker | None: ...
    async def wait(self) -> Broker: ...


class OpenBroker:
    """A broker that is open."""

    def __init__(self, broker: Broker) -> None:
        self.broker: Broker | None = broker
        self.url = broker.url

    def __repr__(self) -> str:
        return f"<OpenBroker {self.url}>"

    async def wait(self) -> Broker:
        assert self.broker is not None  # noqa: S101 - from the beginning
        return self.broker
