"""Runs the hooks of one incarnation, and closes what `startup` has opened.

Both hooks are bounded by one cancel scope, which is entered before `startup` and left after `shutdown`. `startup` may
open nurseries and other blocks, and Trio wants them nested: a scope around one hook alone would be closed within, or
around, a block that is still open, which ends the whole process.

What was entered by `context.enter` is left after `shutdown`, whatever has ended the actor; nurseries that were opened
otherwise, and are still open, are cancelled and reported.
"""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import trio

from actorwork.actors.context.in_flight import Stop
from actorwork.actors.life.leftovers import close_leftovers
from actorwork.actors.tree.hooks import has_hook, hook_of
from actorwork.actors.wakeups import on_loop
from actorwork.errors import NotRunning
from actorwork.groups import is_cancellation, leaves
from actorwork.policy.exits import is_fatal
from actorwork.policy.settlement import decisive

if TYPE_CHECKING:
    from collections.abc import Callable

    from actorwork.actors.tree.spec import Child
    from actorwork.actors.wakeups import Looping

T = TypeVar("T")


class HookRunner:
    """`startup`, `shutdown`, and the scope around both and all between them."""

    __slots__ = ("_child", "_failure", "_hook", "_loop", "_report", "_resources", "_until", "scope")

    def __init__(self, child: Child, report: Callable[[str, BaseException], None]) -> None:
        self.scope = trio.CancelScope()
        self._child = child
        self._report = report
        self._hook: Literal["startup", "shutdown"] | None = None
        """The hook that runs, bounded by the scope; "startup" to the end if that has failed."""
        self._failure: BaseException | None = None
        """The error of a helper task that has ended `startup`."""
        self._resources: AsyncExitStack | None = None
        self._loop: Looping | None = None
        """The asyncio loop on which they were entered, if it is one."""
        self._until = math.inf

    def __repr__(self) -> str:
        return f"<hooks of {self._child.title!r}: {self._hook or 'none'} runs>"

    async def start_up(self, instance: Any, stopped: Callable[[], None]) -> None:
        """Call `startup`, within its bound; `stopped` if it stops the actor."""
        if not has_hook(self._child.actor, "startup"):
            return
        self._hook = "startup"
        self.scope.deadline = trio.current_time() + self._child.startup_timeout
        try:
            await hook_of(instance, "startup")()
        except Exception as error:
            if not isinstance(decisive(error), Stop):  # In a group, if a nursery has wrapped it.
                raise
            stopped()
        self.scope.deadline = math.inf  # Before the next line, which looks at the clock too.
        if self.scope.cancel_called:
            # It has swallowed the cancellation: the scope stays cancelled, so nothing could run in it.
            raise self.why_cancelled()
        self._hook = None

    def why_cancelled(self) -> BaseException:
        """Return the error of an incarnation that the scope has ended."""
        if self._hook != "startup":
            return RuntimeError("a nursery or cancel scope that startup had opened was cancelled")
        # First: a helper's error cancels the scope, and must not be reported as a timeout.
        if self._failure is not None:
            return self._failure
        return trio.TooSlowError(f"startup took longer than {self._child.startup_timeout:g} s")

    def fail(self, error: BaseException) -> bool:
        """End `startup` by the error of a helper task; return whether it runs."""
        if self._hook != "startup":
            return False
        self._failure = error
        self.scope.cancel(reason="a helper task failed")
        return True

    async def enter(self, block: AbstractAsyncContextManager[T]) -> T:
        """Enter a block, to be left after `shutdown`."""
        if self._hook != "startup" or self._failure is not None:
            raise NotRunning("context.enter belongs into startup; a handler uses `async with`")
        if self._resources is None:
            self._resources = AsyncExitStack()
            call = on_loop.get()
            self._loop = None if call is None else call.owner
        return await self._resources.enter_async_context(block)

    async def shut_down(self, instance: Any, deadline: float) -> None:
        """Call `shutdown`, within its bound and before the deadline; its errors are reported."""
        timeout = self._child.shutdown
        if timeout == "brutal_kill" or not has_hook(self._child.actor, "shutdown"):
            return
        self._hook = "shutdown"
        self._shield(min(trio.current_time() + timeout, deadline))
        try:
            await hook_of(instance, "shutdown")()
        except BaseException as error:
            if is_fatal(error):
                raise
            self._ended_by(error)
        finally:
            self._hook = None
            self._unshield()

    async def close(self, deadline: float) -> None:
        """Leave and close what `startup` has opened, within the bound of `shutdown`."""
        timeout, failed = self._child.shutdown, self._hook == "startup"
        if self._resources is not None:
            bound = -math.inf if timeout == "brutal_kill" else trio.current_time() + timeout
            self._hook = "shutdown"
            self._shield(min(bound, deadline, self._until))
            try:
                close = self._resources.aclose
                await (close() if self._loop is None else self._loop.run(close))
            except BaseException as error:
                if is_fatal(error):
                    raise
                self._ended_by(error)
            finally:
                self._hook = "startup" if failed else None
                self._unshield()
        left_open = await close_leftovers()
        # No fault of an actor that was not given the time to close them.
        if left_open and not (failed or timeout == "brutal_kill" or self.scope.cancel_called):
            self._report("shutdown", left_open)

    def kill(self) -> None:
        """Cancel `shutdown`: the supervisor does not reach it under its shield."""
        if self._hook == "shutdown":
            self.scope.cancel(reason="killed by its supervisor")

    def _shield(self, until: float) -> None:
        # Because a cancellation is the usual reason to get here. With a deadline that has passed already, what needs no
        # checkpoint is still done.
        self._until = self.scope.deadline = until
        self.scope.shield = True

    def _unshield(self) -> None:
        self.scope.deadline = math.inf
        # Otherwise the scope, if it is cancelled, would keep a cancellation from outside to itself.
        self.scope.shield = False

    def _ended_by(self, error: BaseException) -> None:
        """Report what has come out of `shutdown`."""
        # An actor that has ended cannot crash any more: whatever it is, it is reported. A cancellation ends here
        # although the scope is left later: it must not take the place of what has ended the actor.
        cause = decisive(error)
        if all(is_cancellation(leaf) for leaf in leaves(cause)):
            if self._child.shutdown == "brutal_kill":
                return  # As it was declared.
            cause = trio.TooSlowError(
                f"took longer than {self._child.shutdown:g} s, or than its supervisor would wait; it was cancelled"
                if self.scope.cancel_called
                else "was cancelled by a nursery or cancel scope that startup had opened"
            )
        self._report("shutdown", cause)
