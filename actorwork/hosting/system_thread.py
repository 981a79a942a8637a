"""`SystemThread`: actors inside a program that does not run Trio.

    with SystemThread([Mailer], broker=url) as system:              # a script, Flask, Django, a notebook
        system.client.ref(Mailer).tell(Send("ann"))

    async with SystemThread([Mailer], broker=url) as system:        # FastAPI, aiohttp: in the application's lifespan
        await system.client.ref(Mailer).tell(Send("ann"))

Which of the two is meant is said by `with` or `async with`, never guessed from a running loop. Both run the tree on
Trio in a thread of its own, and end it in stages when the block ends.
"""

from __future__ import annotations

import asyncio
import atexit
import math
import os
from collections.abc import Awaitable, Callable
from concurrent import futures
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from actorwork.asynchronous.blocks import Block
from actorwork.durations import Duration, timeout_of
from actorwork.errors import ActorStopped, NotRunning
from actorwork.hosting.thread import MARGIN, Hosting, HostThread, log, stuck
from actorwork.runtime.options import Options, SystemOptions

if TYPE_CHECKING:
    from types import TracebackType

    from actorwork.blocking.client import Client as SyncClient
    from actorwork.clients.client import Client

T = TypeVar("T")


class SystemThread:
    """Hosts a tree of actors in a program that does not run Trio: the system runs in a thread of its own.

    The options are those of `open_system`; a broker is named by its URL, since one that is open belongs to another
    loop. `on_failure` is called with the error, in that thread, if the tree cannot be kept alive. Used by `with`, or
    `start` and `stop`, in a program without an event loop; by `async with` on asyncio, which yields a `HostedSystem`.

    The thread ends with its program: one that was never stopped is stopped at the exit, within its `grace`. A child
    process that the program forks has no such thread; there every call raises `NotRunning`.
    """

    def __init__(
        self,
        tree: object,
        *,
        on_failure: Callable[[BaseException], object] | None = None,
        **options: Unpack[SystemOptions],
    ) -> None:
        # Checked here, so that a tree or an option that cannot work is an error of this line.
        self._hosting = Hosting.of(tree, options, on_failure)
        self._host: HostThread | None = None
        self._client: SyncClient | None = None
        self._hosted: HostedSystem | None = None

    def __repr__(self) -> str:
        return f"<SystemThread of {self._hosting.tree!r}, {'not ' if self._host is None else ''}started>"

    def start(self, *, timeout: Duration = math.inf) -> None:
        """Start the system; return when all actors have started and the node reads.

        Raises what the start of `open_system` raises. After `timeout` seconds, or an interrupt, the start is cancelled;
        the former raises `TimeoutError`. Raises `NotRunning` where no thread can run.
        """
        seconds = timeout_of(timeout)
        if self._host is not None:
            raise NotRunning(f"this SystemThread was started already, in process {self._host.pid}: make another one")
        host = HostThread(self._hosting)
        host.begin()
        self._host = host
        try:
            if not _wait(host.started, seconds):
                raise TimeoutError(f"the system did not start within {seconds:g} s")
            host.started.result()
        except BaseException:
            host.stop(None, "the start was given up")
            self._host = None
            _wait_end(host, self._hosting.grace + MARGIN)
            raise
        atexit.register(self._at_exit)

    def stop(self, *, timeout: Duration | None = None) -> None:
        """Begin the staged shutdown, which may take `timeout` seconds (by default its `grace`), and wait for its end.

        Does nothing if the system is not started. An interrupt makes it hurry: handlers are cancelled. Raises the
        error of a tree that could not be kept alive, and `TimeoutError` if a blocked handler keeps the thread.
        """
        seconds = self._hosting.grace if timeout is None else timeout_of(timeout)
        host = self._host
        if host is None:
            return
        host.refuse_fork()
        client, self._client = self._client, None
        if client is not None:
            client.close()
        atexit.unregister(self._at_exit)
        self._host = None
        host.stop(seconds, "SystemThread.stop()")
        try:
            is_over = _wait_end(host, seconds + MARGIN)
        except BaseException:
            host.stop(seconds, "interrupted")
            _wait_end(host, Options().ending + MARGIN)
            raise
        if not is_over:
            raise stuck(seconds)
        if host.failure is not None:
            raise host.failure

    def wait(self, *, timeout: Duration = math.inf) -> bool:
        """Wait until the system has ended by itself; return whether it has. Raises its failure."""
        host = self._running()
        is_over = _wait(host.ended, timeout_of(timeout))
        if host.failure is not None:
            raise host.failure
        return is_over

    def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run `await function(system, *args)` in the thread of the system, and return its result.

        So a program reaches actors that no broker feeds, the tree and its counters. Raises `ActorStopped` if the
        system has ended. An interrupt cancels the call.
        """
        future = self._running().call(function, *args)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    @property
    def client(self) -> SyncClient:
        """A client of the system's broker, that of `actorwork.sync`, opened at its first use.

        Raises `NotRunning` if the system does not run (from its failure, if it has one), and `BrokerError` for a broker
        in memory, which only its own thread reaches.
        """
        url = self._running().url
        if self._client is None:
            from actorwork.blocking.opening import open_client  # noqa: PLC0415 - a program on asyncio has the other

            self._client = open_client(url)
        return self._client

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._host is not None and self._host.pid != os.getpid():
            return  # A child process that was forked in the block: its parent ends the system.
        try:
            self.stop()
        except Exception as failure:
            # The error of the block goes first. That of the system was logged when it came.
            if error is None:
                raise
            if isinstance(failure, TimeoutError):
                log.error("%s", failure)

    async def __aenter__(self) -> HostedSystem:
        if self._hosted is not None:
            raise NotRunning("this SystemThread is in use already: make one for each block")
        hosted = HostedSystem(self._hosting)
        await hosted.open()
        self._hosted = hosted
        return hosted

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        hosted, self._hosted = self._hosted, None
        return hosted is not None and await hosted.close(error)

    def _running(self) -> HostThread:
        if self._host is None:
            raise NotRunning("this SystemThread is not started: start it, or use it in its block")
        self._host.refuse_fork()
        return self._host

    def _at_exit(self) -> None:
        if self._host is not None and self._host.pid == os.getpid():
            try:
                self.stop()
            except TimeoutError as error:
                log.error("%s", error)
            except Exception:  # noqa: BLE001 - it was logged when it came, and the program ends
                return


class HostedSystem:
    """A system in a thread, as the asyncio program sees it that hosts it; made by `async with SystemThread(…)`.

    If the system ends by itself, the block is cancelled, as that of `open_system` is, and raises the failure. The end
    of the block is the end of the system, in stages, within its `grace`; a cancellation meanwhile makes it hurry.
    """

    def __init__(self, hosting: Hosting) -> None:
        self._host = HostThread(hosting)
        self._clients = AsyncExitStack()
        self._client: Client | None = None
        self._block: Block | None = None

    def __repr__(self) -> str:
        return f"<HostedSystem of {self._host.hosting.tree!r}>"

    @property
    def client(self) -> Client:
        """A client of the system's broker, that of `actorwork.aio`; raises as `SystemThread.client` does."""
        url = self._host.url
        if self._client is None:
            raise NotRunning(f"the client of {url} is open in the block of its SystemThread only")
        return self._client

    async def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run `await function(system, *args)` in the thread of the system, and return its result.

        So a program reaches actors that no broker feeds, the tree and its counters. Raises `ActorStopped` if the
        system has ended. Cancelled, it cancels the function.
        """
        return await asyncio.wrap_future(self._host.call(function, *args))

    async def wait(self) -> None:
        """Wait until the system has ended by itself."""
        await asyncio.wrap_future(self._host.ended)

    async def open(self) -> None:
        """Start the system. If cancelled, the start is, too."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise NotRunning(
                "`async with SystemThread(…)` is for asyncio, which does not run here: in a Trio program, open_system"
                " hosts actors without another thread"
            ) from None
        host = self._host
        host.begin()
        try:
            await asyncio.wrap_future(host.started)
            await self._open_client()
        except BaseException as error:
            await self._stop("the start was given up")
            if isinstance(error, ActorStopped) and host.failure is not None:
                raise host.failure from host.failure.__cause__  # It ended before its client was open.
            raise
        block = self._block = Block()

        def ended(_: object) -> None:
            with suppress(RuntimeError):  # The loop is closed: the block has ended, in whatever way.
                loop.call_soon_threadsafe(block.cancel, "the system has ended")

        host.ended.add_done_callback(ended)

    async def _open_client(self) -> None:
        hosting = self._host.hosting
        in_memory = self._host.system.broker.shared_url is None
        if in_memory or not (hosting.feeds or hosting.options.get("broker")):
            return  # `client` says why.
        from actorwork.asynchronous.opening import open_client  # noqa: PLC0415 - other programs have the other

        self._client = await self._clients.enter_async_context(open_client(self._host.url))

    async def close(self, error: BaseException | None) -> bool:
        """End the system; return whether the error of the block was nothing but its cancellation for that end."""
        is_ours = False
        try:
            if self._block is not None:
                is_ours = await self._block.end(error)
        finally:
            await self._stop("the block was left")
        failure = self._host.failure
        if failure is not None and (error is None or is_ours or isinstance(error, ActorStopped)):
            raise failure
        return is_ours

    async def _stop(self, reason: str) -> None:
        grace = self._host.hosting.grace
        self._host.stop(grace, reason)
        try:
            await self._clients.aclose()
            is_over = await self._wait_end(grace + MARGIN)
        except asyncio.CancelledError:
            self._host.stop(grace, "cancelled")
            await self._wait_end(Options().ending + MARGIN)
            raise
        if not is_over:
            raise stuck(grace)

    async def _wait_end(self, seconds: float) -> bool:
        ended = asyncio.wrap_future(self._host.ended)
        done, _ = await asyncio.wait([ended], timeout=None if math.isinf(seconds) else seconds)
        if done:
            self._host.join()
        return bool(done)


def _wait(future: futures.Future[Any], seconds: float) -> bool:
    """Block until a future is done, for at most some seconds; return whether it is."""
    return bool(futures.wait([future], None if math.isinf(seconds) else seconds).done)


def _wait_end(host: HostThread, seconds: float) -> bool:
    is_over = _wait(host.ended, seconds)
    if is_over:
        host.join()
    return is_over
