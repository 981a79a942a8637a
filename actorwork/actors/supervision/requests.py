"""The queue of a supervisor's loop, in order of arrival.

ExitNotice    a child has ended by itself, or could not be restarted
ChildRecord   its backoff is over
Request       an action for the loop; its caller waits for the reply
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast

import attrs
import trio

from actorwork.actors.supervision.child_table import ChildRecord
from actorwork.actors.wakeups import Reply
from actorwork.errors import ChildError
from actorwork.policy.exits import Exit
from actorwork.shown import Shown

T = TypeVar("T")


class Stopped(Exception):
    """The supervisor was asked to stop while it waited."""


@attrs.frozen(eq=False, repr=False)
class ExitNotice(Shown):
    """A child has ended by itself, or could not be restarted."""

    record: ChildRecord
    exit: Exit


if TYPE_CHECKING:

    class Loop(Protocol):
        """A supervisor's loop: whether it waits for work (`idle`) or for children to end (`held_up`)."""

        @property
        def idle(self) -> bool: ...
        @property
        def held_up(self) -> bool: ...
        def wake(self) -> None: ...


class Request:
    """An action for a supervisor's loop, and the reply that its caller waits for."""

    __slots__ = ("action", "reply")

    def __init__(self, action: Callable[[], Awaitable[Any]]) -> None:
        self.action = action
        self.reply = Reply()


Item: TypeAlias = ExitNotice | ChildRecord | Request


class RequestQueue:
    """Items for a supervisor's loop. Requests are taken only while it is open."""

    def __init__(self, supervisor: str, loop: Loop) -> None:
        self._supervisor = supervisor
        self._loop = loop
        self._items: deque[Item] = deque()
        self._refuses = "does not run"

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, item: Item) -> None:
        """Append an item, and wake the loop."""
        self._items.append(item)
        self._loop.wake()

    def take(self) -> Item:
        return self._items.popleft()

    def open(self) -> None:
        """Take requests from now on."""
        self._refuses = ""

    def close(self, why: str) -> None:
        """Refuse requests from now on, also those that wait; drop the rest."""
        self._refuses = why
        while self._items:
            item = self._items.popleft()
            if isinstance(item, Request):
                item.reply.fail(self._refusal())

    async def request(self, action: Callable[[], Awaitable[T]]) -> T:
        """Run an action in the loop; return its result, or raise its error.

        Raises `ChildError` while the supervisor does not run. Cancelled: the answer is lost, not the action.
        """
        if self._refuses:
            raise self._refusal()
        request = Request(action)
        self.put(request)
        return cast("T", await request.reply.wait())

    async def request_brief(self, action: Callable[[], T]) -> T:
        """As `request`, for an action that never waits; a checkpoint only if the loop is busy.

        While the loop is idle, nothing is half-changed: then the caller runs the action by itself, without a wake-up.
        """
        if self._refuses:
            raise self._refusal()
        return action() if self._loop.idle else await self._in_turn(action)

    async def read(self, action: Callable[[], T]) -> T:
        """As `request`, for an action that changes nothing: a child that does not end cannot put it off."""
        if self._refuses:
            raise self._refusal()
        if not self._loop.held_up:
            return await self._in_turn(action)
        await trio.lowlevel.checkpoint()
        return action()

    async def _in_turn(self, action: Callable[[], T]) -> T:
        async def act() -> T:
            return action()

        return await self.request(act)

    async def carry_out(self, request: Request) -> None:
        """Run a request in the loop; its errors go to its caller."""
        try:
            request.reply.give(await request.action())
        except Stopped:
            request.reply.fail(self._refusal())
            raise
        except Exception as error:  # noqa: BLE001 - raised by the caller; a request never ends its supervisor
            request.reply.fail(error)
        except BaseException:
            request.reply.fail(self._refusal())
            raise

    def _refusal(self) -> ChildError:
        return ChildError(f"supervisor {self._supervisor!r} {self._refuses or 'is shutting down'}", problem="stopped")
