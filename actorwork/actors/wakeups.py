"""Where one task waits for one thing, and is woken directly.

A Trio event costs an object, a set and a dictionary entry for each wait. Where exactly one task can wait, rescheduling
it directly costs nothing of that, and an ask pays for it on every message.

    Reply     an asker waits for the answer of an actor or of a supervisor
    Wakeup    a supervisor's own task waits for its children, or for requests

From these follows who waits for whom, and so whether an ask could ever be answered (`check_deadlock`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from actorwork.errors import AskTimeout, Deadlock, NotRunning

T = TypeVar("T")


if TYPE_CHECKING:

    class Working(Protocol):
        """What handles an actor's messages one after another: an executor."""

        began: float | None
        """When it began what it handles now (Trio's clock); 0 if it has not looked at the clock yet."""

        @property
        def item(self) -> object:
            """What it handles now; a local call has a `reply`."""
            ...

        @property
        def task(self) -> trio.lowlevel.Task | None: ...
        @property
        def actor(self) -> object: ...
        @property
        def concurrency(self) -> int:
            """How many there may be of one actor."""
            ...


working: ContextVar[Working | None] = ContextVar("actorwork_working", default=None)
"""The executor whose task this is, or whose handler has started it."""


if TYPE_CHECKING:

    class Looping(Protocol):
        """An asyncio loop: `bridge.AsyncioLoop`, which few programs need."""

        async def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T: ...

    class OnLoop(Protocol):
        """A call on an asyncio loop: `bridge` has the class."""

        @property
        def owner(self) -> Looping: ...
        async def on_trio(self, function: Callable[..., Any], *args: object) -> Any: ...
        def now(self) -> float: ...
        def proxy(self, client: object) -> Any: ...


on_loop: ContextVar[OnLoop | None] = ContextVar("actorwork_on_loop", default=None)
"""The call on an asyncio loop that the current code belongs to."""


def check_deadlock(actor: object, title: str) -> None:
    """Raise `Deadlock` for an ask that the current task is about to make, if all that could answer it wait for it.

    Its own handler waits for it; if that handles an ask, the handler that has asked waits too, and so on. A task that a
    handler has started is another one, for which the handler need not wait.
    """
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    busy = length = 0
    while task is not None:
        worker = task.context.get(working)
        if worker is None or worker.task is not task:
            return
        length += 1
        if worker.actor is actor:
            busy += 1
            if busy == worker.concurrency:
                how = "its own actor" if length == 1 else f"its own actor, in a chain of {length} asks,"
                raise Deadlock(
                    f"a handler of {title!r} asks {how} and would wait for ever: concurrency={busy}. Call the method,"
                    " `tell` instead, ask in a task of `context.nursery` or by `context.pipe`, or raise the concurrency"
                )
        reply = getattr(worker.item, "reply", None)
        task = reply.asker if isinstance(reply, Reply) else None


def check_loop(what: str, instead: str) -> None:
    """Raise `NotRunning`, which says what to do instead, under another event loop than Trio's, or under none."""
    if not trio.lowlevel.in_trio_run():
        raise NotRunning(f"{what} runs on Trio: use it in a function that `trio.run` runs. {instead}")


def wrong_thread(what: str) -> NotRunning:
    """Return the error of a call that a thread has made and only the thread of the loop may make."""
    if on_loop.get() is not None:
        return NotRunning(f"{what} works on Trio, and this handler runs on asyncio: await context.on_trio({what}, …)")
    return NotRunning(
        f"{what} was called in a thread, and works in the thread of the event loop only."
        f" Call `trio.from_thread.run_sync({what}, …)`, with `trio_token=` in a thread that Trio has not started"
    )


def check_thread(what: str) -> None:
    """Raise `NotRunning` in another thread than that of the loop, before anything there is changed."""
    # Trio would raise, too, but only when a task is to be woken: what was changed before that would be lost.
    if not trio.lowlevel.in_trio_run():
        raise wrong_thread(what)


class Wakeup:
    """Wakes the one task that waits here; a call that comes while no task waits is lost."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    @property
    def is_waited_for(self) -> bool:
        """Whether a task waits and has not been woken yet."""
        return self._task is not None

    def wake(self) -> None:
        """Wake the waiting task, if there is one."""
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    async def wait(self) -> None:
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


class Reply:
    """The answer to one ask. Only the first answer counts; what comes after it is dropped."""

    __slots__ = ("_answered", "_error", "_task", "_value", "about", "deferred_in")

    def __init__(self) -> None:
        self.about: tuple[str, object, float] | None = None
        """Title of the actor, message and timeout in seconds, for the text of an `AskTimeout`."""
        self.deferred_in: set[Reply] | None = None
        """The set in which an incarnation keeps its deferred replies, if this is one of them."""
        self._task: trio.lowlevel.Task | None = None
        self._answered = False
        self._value: object = None
        self._error: BaseException | None = None

    @property
    def asker(self) -> trio.lowlevel.Task | None:
        """The task that waits for it, if one does."""
        return self._task

    def give(self, value: object) -> None:
        """Answer; only the first answer counts."""
        self._answer(value, None)

    def fail(self, error: BaseException) -> None:
        """Answer with an error, which `wait` raises; only the first answer counts."""
        self._answer(None, error)

    def expire(self) -> None:
        """Fail with `AskTimeout`."""
        title, message, timeout = self.about or ("", None, 0.0)
        self.fail(AskTimeout(f"{title!r} gave no reply to {type(message).__name__} within {timeout:g} s"))

    def _answer(self, value: object, error: BaseException | None) -> None:
        check_thread("reply.give" if error is None else "reply.fail")
        if not self._answered:
            self._answered, self._value, self._error = True, value, error
            if self.deferred_in is not None:
                self.deferred_in.discard(self)
            if self._task is not None:
                trio.lowlevel.reschedule(self._task)
                self._task = None  # A task that is rescheduled twice is a bug that Trio punishes by crashing.

    async def wait(self) -> object:
        """Wait for the reply; if cancelled, the message is still handled and its reply is dropped."""
        if self._answered:
            await trio.lowlevel.checkpoint()
        else:
            self._task = trio.lowlevel.current_task()

            def abort(_: object) -> trio.lowlevel.Abort:
                self._task = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        if self._error is not None:
            raise self._error
        return self._value
