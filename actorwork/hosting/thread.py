"""A system in a thread of its own.

    begin ─▶ the thread runs Trio ─▶ the tree starts ─▶ `started` ─▶ (calls) ─▶ the staged shutdown ─▶ `ended`

Two futures say how far it is; they are those of `concurrent.futures`, for which a thread can wait and asyncio too. All
that the host asks for happens in the thread of the system: `stop` and `call` leave a note there and return at once.

The thread is a daemon: a program that ends without stopping it is not kept alive by it. `atexit` stops it in order.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Final, TypeVar

import attrs
import trio

from actorwork.actors.tree.walking import actors_of, root_of
from actorwork.errors import ActorStopped, BrokerError, NotRunning, SettingsError
from actorwork.hosting.threads_here import refuse_without_threads
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.runtime.options import Options, SystemOptions, refuse_unknown
from actorwork.runtime.system import System, open_announced, with_config

T = TypeVar("T")

COMES_UP: Final = 10.0
"""Seconds within which a new thread has to run."""
MARGIN: Final = 1.0
"""Seconds that a thread may take beyond the time of the staged shutdown."""

log = logging.getLogger("actorwork.run")


@attrs.frozen
class Hosting:
    """What is to be hosted, checked: the tree, its options, and what is called when it cannot be kept alive."""

    tree: object
    options: SystemOptions
    on_failure: Callable[[BaseException], object] | None
    grace: float
    feeds: bool
    """Whether a broker feeds an actor of the tree."""

    @classmethod
    def of(cls, tree: object, options: SystemOptions, on_failure: Callable[[BaseException], object] | None) -> Hosting:
        """Check a tree and its options; raises `TypeError` and `SettingsError`."""
        refuse_unknown("SystemThread", options)
        options = with_config(options)
        broker = options.get("broker")
        if broker is not None and not isinstance(broker, str):
            raise SettingsError(
                f"a SystemThread opens its broker itself, in its own thread: name it by its URL, got {broker!r}"
            )
        if on_failure is not None and not callable(on_failure):
            raise SettingsError(f"on_failure wants a callable that takes the error, got {on_failure!r}")
        feeds = any(actors_of(root_of(tree, options.get("intensity")), everywhere=True))
        return cls(tree, options, on_failure, Options.of(options).grace, feeds)


class HostThread:
    """One life of a system in a thread: begun, stopped, and then dropped."""

    def __init__(self, hosting: Hosting) -> None:
        self.hosting = hosting
        self.pid = os.getpid()
        self.started: Future[System] = Future()
        """The system, or the error of its start."""
        self.ended: Future[None] = Future()
        """Set when the thread is at its end; it never holds an error."""
        self.failure: BaseException | None = None
        """What ended the system after its start, if it was no request."""
        # As if they ran already: cancelling a wait for one of them does not cancel the future itself.
        self.started.set_running_or_notify_cancel()
        self.ended.set_running_or_notify_cancel()
        self._thread = threading.Thread(target=self._run, name="actorwork system", daemon=True)
        self._is_up = threading.Event()
        self._systems: list[System] = []
        self._starting = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        state = "ended" if self.ended.done() else "running" if self.started.done() else "starting"
        return f"<HostThread of {self.hosting.tree!r}, {state}>"

    def begin(self) -> None:
        """Start the thread; return when it runs, with the system still to be started. Raises `NotRunning`."""
        if trio.lowlevel.in_trio_run():
            raise NotRunning("Trio runs in this thread: open_system hosts actors in it, without another thread")
        refuse_without_threads()
        try:
            self._thread.start()
        except RuntimeError as error:
            raise NotRunning(f"no thread can be started for the system: {error}") from error
        if not self._is_up.wait(COMES_UP):
            raise NotRunning(
                f"the thread of the system did not run within {COMES_UP:g} s: are threads switched off in this program?"
            )

    @property
    def system(self) -> System:
        """The system, which may be used in its own thread only; raises `NotRunning` in a forked process."""
        self.refuse_fork()
        return self.started.result()

    def refuse_fork(self) -> None:
        """Raise `NotRunning` in a child process of that in which the thread was begun."""
        if self.pid != os.getpid():
            raise NotRunning(
                f"this SystemThread runs in process {self.pid}, and threads do not cross a fork: make and start one in"
                f" process {os.getpid()}, or send from there by actorwork.sync.open_client"
            )

    @property
    def url(self) -> str:
        """The URL of the broker, for clients. Raises `NotRunning` and `BrokerError`."""
        broker = self.hosting.options.get("broker")
        if not self.hosting.feeds and broker is None:
            raise NotRunning("no broker feeds an actor of this tree, so it has no client; name one by broker=")
        system = self.system
        try:
            url = system.broker.shared_url
        except ActorStopped:
            raise NotRunning("the system of this SystemThread has ended") from self.failure
        if url is None:
            raise BrokerError(
                "this system's broker keeps its messages in memory, where only its own thread reaches them: name a"
                " file (sqlite:///messages.db), or use `call`"
            )
        return url

    def stop(self, within: float | None, reason: str) -> None:
        """Begin the staged shutdown, or cancel the start; called again, it hurries. Returns at once."""

        def stop() -> None:
            if self._systems and self._systems[0].has_started:
                self._systems[0].stop(reason, within=within)
            else:
                self._starting.cancel(reason=reason)

        self._soon(stop)

    def join(self) -> None:
        """Wait for the last steps of a thread that has `ended`."""
        self._thread.join(MARGIN)

    def call(self, function: Callable[..., Awaitable[T]], *args: object) -> Future[T]:
        """Run `await function(system, *args)` in the thread; return the future of its result, which may be cancelled.

        The result is an `ActorStopped` if the system ends before. Raises `NotRunning` in a forked process.
        """
        system = self.system
        result: Future[T] = Future()
        scope = trio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    _settle(result, result.set_result, await function(system, *args))
            except trio.Cancelled:
                refuse()
                raise
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                _settle(result, result.set_exception, error)

        def begin() -> None:
            if self._nursery is None or self._nursery.cancel_scope.cancel_called:
                refuse()
            elif not result.cancelled():
                self._nursery.start_soon(run)

        def refuse() -> None:
            _settle(result, result.set_exception, ActorStopped("the system has ended"))

        def cancel(done: Future[T]) -> None:
            if done.cancelled():
                self._soon(scope.cancel)

        result.add_done_callback(cancel)
        if not self._soon(begin):
            refuse()
        return result

    def _soon(self, act: Callable[[], object]) -> bool:
        """Have something done in the thread; return whether the loop there still runs."""
        if self._token is None:
            return False
        try:
            self._token.run_sync_soon(act)
        except trio.RunFinishedError:
            return False
        return True

    # ---- in the thread ----

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            trio.run(self._main)
        except BaseException as raised:  # noqa: BLE001 - it goes to the host
            error = raised
        if not self.started.done():
            self.started.set_exception(error or NotRunning("the system was stopped while it started"))
        elif error is not None:
            self.failure = error
            self._report(error)
        self.ended.set_result(None)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._is_up.set()
        async with open_unwrapping_nursery() as self._nursery:
            with self._starting:
                await trio.lowlevel.checkpoint()  # For a stop that came before: nothing is begun then.
                async with open_announced(self.hosting.tree, self.hosting.options, self._systems.append) as system:
                    self.started.set_result(system)
                    await system.wait_stopped()
            self._nursery.cancel_scope.cancel(reason="the system has ended")

    def _report(self, error: BaseException) -> None:
        # At once: the host may look at it much later, when it ends.
        log.error("the system in a thread of this program has ended: %s: %s", type(error).__name__, error)
        if self.hosting.on_failure is not None:
            try:
                self.hosting.on_failure(error)
            except Exception:
                log.exception("on_failure of the SystemThread failed")


def stuck(seconds: float) -> TimeoutError:
    """Return the error for a thread that does not end."""
    return TimeoutError(
        f"the system did not end within {seconds:g} s: a handler blocks its thread; other nodes take over its messages"
        " when its lease is over, and the thread ends with the program"
    )


def _settle(result: Future[Any], how: Callable[[Any], None], value: object) -> None:
    if not result.done():
        with suppress(InvalidStateError):  # Cancelled by the host in between.
            how(value)
