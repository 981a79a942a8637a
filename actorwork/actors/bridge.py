"""Where asyncio meets Trio: the asyncio loop of an actor, in a thread of its own.

    the actor's task on Trio                    the loop's thread
    AsyncioLoop.run(function) ──────begin─────▶ a task of asyncio's runs the function
         waits, and meanwhile   ◀──a request─── on_trio(function): the function of Trio's runs here
         carries out requests   ───its value──▶
                                ◀──outcome─────

One loop belongs to one incarnation: it begins with the first call, and ends after `shutdown` and the helper tasks, with
all tasks that are left on it. A thread, and not a loop inside of Trio's (trio-asyncio), because it costs a half to a
quarter of that for each message, needs no other package, is the very loop that the libraries were written for, and a
handler that blocks it holds up neither the lease nor other actors.

Cancellation goes both ways. If Trio cancels the task that waits, the task of asyncio's is cancelled, once, and waited
for, as Trio waits for every handler. If asyncio cancels a task that waits for Trio, its call there is cancelled. What
the function raises comes out of `run`. The function sees the context variables of its caller, and keeps to itself what
it sets.

Of two clocks only Trio's can be virtual. While a function runs on the loop, a clock that jumps by itself stands still:
otherwise all timeouts would be over before the other thread has had its first turn.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context as ContextVars, copy_context
from typing import Any, Final, TypeVar, cast

import trio

from actorwork.actors.wakeups import on_loop
from actorwork.errors import NotRunning
from actorwork.nurseries import open_unwrapping_nursery

T = TypeVar("T")

_PAUSE: Final = 0.0005
"""Seconds between two looks while time is virtual."""


class AsyncioLoop:
    """The asyncio loop of one incarnation."""

    __slots__ = ("_clock", "_ended", "_is_over", "_stop", "_title", "_token", "loop")

    def __init__(self, title: str) -> None:
        self._title = title
        self._token = trio.lowlevel.current_trio_token()
        self._clock = trio.lowlevel.current_clock()
        self._is_over = False
        self._ended = trio.Event()
        self._stop = asyncio.Event()
        self.loop = asyncio.new_event_loop()
        # A daemon: what blocks it for good must not keep the process from its end.
        threading.Thread(target=self._main, name=f"asyncio of {title}", daemon=True).start()

    def __repr__(self) -> str:
        return f"<asyncio loop of {self._title!r}>"

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._stop_wanted())
        # By now all its tasks were cancelled and have ended.
        self.soon_on_trio(self._ended.set)

    async def _stop_wanted(self) -> None:
        await self._stop.wait()

    async def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run a function on the loop, and wait for it. Raises what it raises."""
        if self._is_over:
            raise NotRunning(f"the asyncio loop of {self._title!r} has ended")
        return cast("T", await _Call(self).run(function, args))

    async def aclose(self, within: float) -> bool:
        """End the loop, and the tasks that are left on it; return whether they ended within some real seconds."""
        self._is_over = True
        self.loop.call_soon_threadsafe(self._stop.set)
        if self.is_time_virtual:
            until = time.monotonic() + within
            while not self._ended.is_set() and time.monotonic() < until:
                await self.real_moment()
        else:
            with trio.move_on_after(within, shield=True):
                await self._ended.wait()
        return self._ended.is_set()

    def now(self) -> float:
        """Return the time of Trio's clock, from any thread."""
        return self._clock.current_time()

    def soon_on_trio(self, function: Callable[..., object], *args: object) -> None:
        """Have a function called in Trio's thread; do nothing if Trio runs no longer."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function, *args)

    def soon(self, function: Callable[..., object], *args: object) -> None:
        """Have a function called in the loop's thread; do nothing if the loop is closed."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *args)

    @property
    def is_time_virtual(self) -> bool:
        """Whether Trio's clock jumps as soon as all tasks wait: one of `trio.testing.MockClock`."""
        threshold: float = getattr(self._clock, "autojump_threshold", math.inf)
        return threshold < math.inf

    @staticmethod
    async def real_moment() -> None:
        """Let some real time pass, in which virtual time does not jump, since this task does not wait."""
        time.sleep(_PAUSE)  # noqa: ASYNC251 - of Trio's time, none is to pass
        await trio.lowlevel.cancel_shielded_checkpoint()


class _Call:
    """One function on the loop, for the task of Trio's that waits for it."""

    __slots__ = ("_has_news", "_is_cancelled", "_requests", "_task", "_waiting", "outcome", "owner")

    def __init__(self, owner: AsyncioLoop) -> None:
        self.owner = owner
        self._task: asyncio.Task[None] | None = None
        self._waiting: trio.lowlevel.Task | None = None
        self._has_news = False
        self._is_cancelled = False
        self._requests: deque[_Request] = deque()
        self.outcome: tuple[Any, BaseException | None] | None = None
        """Value and error. Set in the loop's thread, after which nothing is requested any more."""

    # ---- in Trio's thread ----

    async def run(self, function: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> object:
        variables = copy_context()
        variables.run(on_loop.set, self)
        self.owner.loop.call_soon_threadsafe(self._begin, function, args, variables)
        await self._wait()
        if self.outcome is None or self._requests:
            await self._serve()
        return await self._result()

    async def _wait(self) -> None:
        """Wait for the outcome, or for requests. A cancellation is passed on, and then waited for."""
        if self.owner.is_time_virtual:
            while not self._has_news:
                await self.owner.real_moment()
                if trio.current_effective_deadline() == -math.inf:
                    self._cancel()
        elif not self._has_news:
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._has_news = False

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._cancel()
        return trio.lowlevel.Abort.FAILED

    def _cancel(self) -> None:
        # Once: Trio asks again at every wait, and asyncio would cancel the clean-up of the function, too.
        if not self._is_cancelled:
            self._is_cancelled = True
            self.owner.soon(self._cancel_task)

    def _wake(self) -> None:
        self._has_news = True
        task, self._waiting = self._waiting, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def _serve(self) -> None:
        """Carry out requests until there is an outcome. Those that are not waited for any more are cancelled."""
        async with open_unwrapping_nursery() as nursery:
            while True:
                while self._requests:
                    request = self._requests.popleft()
                    request.variables.run(nursery.start_soon, request.serve)
                if self.outcome is not None:
                    nursery.cancel_scope.cancel(reason="its handler has ended")
                    return
                await self._wait()

    async def _result(self) -> object:
        value, error = cast("tuple[Any, BaseException | None]", self.outcome)
        if error is None:
            return value
        try:
            if not isinstance(error, asyncio.CancelledError):
                raise error
            if self._is_cancelled:
                await trio.lowlevel.checkpoint_if_cancelled()
            raise RuntimeError("cancelled on the asyncio loop by its own code, not by actorwork") from error
        finally:
            # Its traceback leads to this frame: a reference cycle.
            del error
            self.outcome = (None, None)

    # ---- in the loop's thread ----

    def _begin(
        self, function: Callable[..., Awaitable[object]], args: tuple[object, ...], variables: ContextVars
    ) -> None:
        self._task = self.owner.loop.create_task(self._body(function, args), context=variables)
        self._task.add_done_callback(self._end)

    async def _body(self, function: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        try:
            self.outcome = (await function(*args), None)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the task that waits
            self.outcome = (None, error)

    def _end(self, _: object) -> None:
        # A task that is cancelled before its first step never enters its function.
        self.outcome = self.outcome or (None, asyncio.CancelledError())
        self._task = None
        self.owner.soon_on_trio(self._wake)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def on_trio(self, function: Callable[..., Any], *args: object) -> Any:
        """Call a function in the task of Trio's that waits for this call; wait for it here, and return its value."""
        if self.outcome is not None:
            raise NotRunning("context.on_trio: the handler that this task was started for has ended")
        request = _Request(self.owner, function, args)
        self._requests.append(request)
        self.owner.soon_on_trio(self._wake)
        try:
            return await asyncio.shield(request.future)
        except asyncio.CancelledError:
            self.owner.soon_on_trio(request.cancel)
            while not request.future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([request.future])
            raise

    def now(self) -> float:
        """Return the time of Trio's clock."""
        return self.owner.now()

    def proxy(self, client: object) -> Any:
        """Return a client whose methods can be awaited on the loop."""
        return OnTrio(self, client)


class _Request:
    """A function of Trio's that is to be called for a function on the loop."""

    __slots__ = ("_args", "_function", "_is_cancelled", "_scope", "future", "owner", "variables")

    def __init__(self, owner: AsyncioLoop, function: Callable[..., Any], args: tuple[object, ...]) -> None:
        self.owner = owner
        self._function = function
        self._args = args
        self.future: asyncio.Future[Any] = owner.loop.create_future()
        self.variables = copy_context()
        self.variables.run(on_loop.set, None)
        self._scope: trio.CancelScope | None = None
        self._is_cancelled = False

    async def serve(self) -> None:
        """Call it, in a task of Trio's."""
        value, error = None, None
        try:
            with trio.CancelScope() as self._scope:
                if self._is_cancelled:
                    self._scope.cancel()
                value = self._function(*self._args)
                if inspect.isawaitable(value):
                    value = await value
            if self._scope.cancelled_caught:
                error = asyncio.CancelledError()
        except Exception as raised:  # noqa: BLE001 - it is raised where it is waited for
            error = raised
        except BaseException:
            self.owner.soon(self._end, None, asyncio.CancelledError())
            raise
        self.owner.soon(self._end, value, error)

    def cancel(self) -> None:
        """Cancel it, in Trio's thread."""
        self._is_cancelled = True
        if self._scope is not None:
            self._scope.cancel(reason="cancelled on asyncio")

    def _end(self, value: object, error: BaseException | None) -> None:
        if isinstance(error, asyncio.CancelledError):
            self.future.cancel()
        elif error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(value)


class OnTrio:
    """A client, ref, receipt or run: what is awaited on asyncio is done on Trio."""

    def __init__(self, call: _Call, thing: object) -> None:
        self._call = call
        self._thing = thing

    def __repr__(self) -> str:
        return repr(self._thing)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name)
        if not callable(value):
            return value

        def called(*args: object, **kwargs: object) -> Any:
            result = value(*args, **kwargs)
            return self._awaited(result) if inspect.iscoroutine(result) else self._wrapped(result)

        return called

    async def _awaited(self, result: Awaitable[object]) -> Any:
        return self._wrapped(await self._call.on_trio(_awaited, result))

    def _wrapped(self, value: object) -> Any:
        return OnTrio(self._call, value) if type(value).__module__.startswith("actorwork.clients.") else value


async def _awaited(result: Awaitable[object]) -> object:
    return await result
