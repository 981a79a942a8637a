"""Many tasks, one connection: requests leave in batches, replies come back in order.

Redis answers a connection's commands in the order in which they arrived. So every request has a `PendingRequest` in
one deque, in the order in which its bytes leave, and each reply belongs to the first request that still lacks one. A
reply must never reach the wrong task. That holds because of four rules:

- a request is appended in the same step in which its bytes are queued or sent, without a checkpoint in between;
- a request is never removed before its replies have come. A cancelled task detaches itself from its request, and the
  reply is read and dropped. The connection stays open, so the replies of other tasks are not affected;
- a request whose bytes never left is marked `unsent`; any other request that fails may have executed;
- commands that change the state of the connection (WATCH, blocking reads, MONITOR, CLIENT REPLY) are not allowed here.

How bytes leave. If no reply is awaited, the calling task sends its command itself. While replies are awaited, commands
are collected, and the writer task sends those of one scheduler tick in one write. No other task sends.

Who reads. At any moment exactly one task reads the socket: a caller that was alone when it sent its request reads until
its own reply has come (`_read_for`), and in all other cases the reader task reads (`_read`). For a loop that awaits one
command after another this saves a turn of the scheduler per command, because the reader is not woken first to wake the
caller.

How a connection ends. The first failure, wherever it is noticed, fails every request, ends the tasks, wakes the tasks
that wait for the socket, and closes it. `silence` seconds without a byte while a reply is owed are a failure too: a
peer behind a dead network sends no reset. So is a frame that makes no sense, whatever it is: it ends this connection,
and nothing else.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import trio

from actorwork.streams.transport.connection import Connection
from actorwork.streams.transport.redis_py import OUTAGES, ConnectionError, InvalidResponse, RedisError  # noqa: A004
from actorwork.streams.transport.wire import NOT_ENOUGH, Push, pack

_PING: Final = pack(("PING",))
_MESSAGE: Final = [bytes, bytes, bytes]
"""What a message of a channel consists of: kind, channel, data."""
_CONFIRMATIONS: Final = frozenset({b"subscribe", b"unsubscribe", b"ssubscribe"})
"""`sunsubscribe` is never asked for: it says that a slot has moved."""


class PendingRequest:
    """The place of one request in the order of replies."""

    __slots__ = ("error", "is_subscription", "missing", "outage", "replies", "task", "unsent")

    def __init__(self, missing: int, *, is_subscription: bool = False) -> None:
        self.missing = missing
        self.task: trio.lowlevel.Task | None = None
        """The task to wake; None while no task waits, or while the caller reads for itself."""
        self.is_subscription = is_subscription
        self.replies: list[Any] = []
        self.error: Exception | None = None
        self.unsent = False
        """None of its bytes left: it has not executed."""
        self.outage: Exception | None = None
        """The error, one of `OUTAGES`, by which the server has refused it."""

    def abandon(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Multiplexer:
    """One live connection, shared. `run()` ends when the connection does."""

    def __init__(
        self,
        connection: Connection,
        *,
        on_push: Callable[[list[Any]], None],
        on_lost: Callable[[Exception], None],
        silence: float,
    ) -> None:
        self.connection = connection
        self.error: Exception | None = None
        """Why it ended, once it has."""
        self._on_push = on_push
        self._on_lost = on_lost
        self._silence = silence
        self._pending: deque[PendingRequest] = deque()
        self._unsent: list[bytes] = []
        """One entry per request at the end of `_pending`: what the writer has not taken yet."""
        self._rest: bytes | memoryview = b""
        self._idle_writer: trio.lowlevel.Task | None = None
        self._caller_reads = False
        self._reader_waits = False
        """The reader task waits for the socket."""
        self._resting_reader: trio.lowlevel.Task | None = None
        """The reader task, while it waits for a caller to stop reading."""
        self._crash: Exception | None = None
        self._scope = trio.CancelScope()

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    async def request(self, data: bytes, count: int = 1, *, is_subscription: bool = False) -> PendingRequest:
        """Send `data`, `count` packed commands, and wait until the request is done.

        The request holds the replies (error replies as values) or the failure of the connection. Cancelled before it
        was queued: nothing happened (the caller has checked). Cancelled after: it may have executed, its replies are
        dropped.
        """
        request = PendingRequest(count, is_subscription=is_subscription)
        is_alone = not self._pending and not self._rest
        self._submit(data, request)
        if is_alone and request.error is None:
            await self._read_for(request)
        else:
            await self.wait(request)
        return request

    def request_nowait(self, data: bytes) -> PendingRequest:
        """Send `data` without waiting; the returned request may be inspected later."""
        request = PendingRequest(1)
        self._submit(data, request)
        return request

    async def wait(self, request: PendingRequest) -> None:
        """Wait until a request is done. Cancelled: its reply is dropped."""
        if request.missing and request.error is None:
            request.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(request.abandon)

    def _submit(self, data: bytes, request: PendingRequest) -> None:
        if self.error is not None:
            request.error = self.error
            request.unsent = True
            return
        if self._pending:
            self._pending.append(request)
            self._unsent.append(data)
        else:
            self._pending.append(request)
            try:
                sent = self.connection.send(data)
            except OSError as error:
                self.fail(error)
                request.unsent = True  # The socket took nothing of it.
                return
            if sent == len(data):
                return
            self._rest = memoryview(data)[sent:]
        if self._idle_writer is not None:
            trio.lowlevel.reschedule(self._idle_writer)
            self._idle_writer = None

    async def run(self) -> Exception:
        """Carry bytes until the connection fails or is cancelled, and return why. Raises what `on_push` raised."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
                    await self._read()
        finally:
            self.fail(ConnectionError(f"the connection to {self.connection.address.url} was closed here"))
            self.connection.close()
            if self._crash is not None:
                raise self._crash
        assert self.error is not None  # noqa: S101
        return self.error

    def fail(self, error: Exception) -> None:
        """End this connection: every request fails, and those whose bytes never left are marked `unsent`."""
        if self.error is not None:
            return
        self.error = error
        requests = list(self._pending)
        self._pending.clear()
        for request in requests[len(requests) - len(self._unsent) :]:
            request.unsent = True
        self._unsent.clear()
        self._on_lost(error)
        for request in requests:
            request.error = error
            self._wake(request)
        # A caller that reads for itself waits for the socket; closing it, at the end of `run`, wakes it.
        self._scope.cancel()

    def _wake(self, request: PendingRequest) -> None:
        if request.task is not None:
            trio.lowlevel.reschedule(request.task)
            request.task = None

    # -------------------------------------------------------------------------------------------------------- reading

    async def _read(self) -> None:
        """Read for all tasks, except while a caller reads. Ends by cancellation only."""
        wait_readable = self.connection.wait_readable
        while True:
            if self._caller_reads:
                self._resting_reader = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._leave_rest)
                continue
            self._reader_waits = True
            try:
                await wait_readable()
            except trio.ClosedResourceError:
                continue  # A caller took over the reading: `_read_for`.
            except OSError as error:
                self.fail(error)
                continue
            finally:
                self._reader_waits = False
            # Bytes may have come in the tick in which a caller took over. If they were read here, the caller would wait
            # for a socket that has nothing more to give.
            if not self._caller_reads:
                self._read_nowait()

    async def _read_for(self, request: PendingRequest) -> None:
        """Read in the calling task until `request` is done, then let the reader task go on.

        Other tasks may queue requests meanwhile: their replies, and pushes, are matched here as well. Cancelled: the
        reader task takes over, and the reply is read and dropped there.
        """
        connection = self.connection
        self._caller_reads = True
        if self._reader_waits:
            # Only one task can wait for a socket. The writer does not wait for it: nothing was left to send.
            connection.interrupt_wait()
        try:
            while request.missing and request.error is None:
                await connection.wait_readable()
                self._read_nowait()
        except trio.ClosedResourceError:
            pass  # The connection has ended, and `fail` has set the error.
        except OSError as error:
            self.fail(error)
        finally:
            self._caller_reads = False
            # The reader runs in the next tick. If the caller sends its next request before that, in this very step, the
            # reader sees `_caller_reads` and rests again: its turn falls into the time in which the server works.
            if self._resting_reader is not None:
                trio.lowlevel.reschedule(self._resting_reader)
                self._resting_reader = None

    def _leave_rest(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._resting_reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _read_nowait(self) -> None:
        try:
            if self.connection.receive_nowait():
                self._match()
        except (OSError, RedisError) as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001  (RESP3 can say what Redis never does: an empty push, a list as key)
            self.fail(InvalidResponse(f"{self.connection.address.url} sent a frame that is not Redis: {error!r}"))

    def _match(self) -> None:
        pending, next_reply = self._pending, self.connection.next_reply
        while (reply := next_reply()) is not NOT_ENOUGH:
            if type(reply) is Push and not self._is_confirmation(reply):
                self._push(reply)
                if self._crash is not None:
                    return
                continue
            if not pending:
                raise InvalidResponse(f"{self.connection.address.url} sent a reply without a request")
            request = pending[0]
            request.replies.append(reply)
            if type(reply) in OUTAGES:
                request.outage = cast("Exception", reply)
            request.missing -= 1
            if request.missing == 0:
                pending.popleft()
                if request.task is not None:
                    trio.lowlevel.reschedule(request.task)
                    request.task = None

    def _push(self, push: list[Any]) -> None:
        if push[0] == b"smessage":
            push = [b"message", *push[1:]]
        if push[0] == b"message" and [*map(type, push)] != _MESSAGE:
            raise InvalidResponse(f"{self.connection.address.url} sent a message of a channel as {push!r:.100}")
        try:
            self._on_push(push)
        except Exception as error:  # noqa: BLE001  (any task may be the one that reads: `run` raises it, not a command)
            self._crash = error
            self.fail(ConnectionError(f"the handler of pushes raised {error!r}"))

    def _is_confirmation(self, push: list[Any]) -> bool:
        """Return whether this push answers an (UN)SUBSCRIBE: RESP3 has no other reply for it, and it keeps its place in
        the order.
        """
        return push[0] in _CONFIRMATIONS and bool(self._pending) and self._pending[0].is_subscription

    # -------------------------------------------------------------------------------------------------------- writing

    async def _write(self) -> None:
        connection = self.connection
        try:
            while True:
                if not self._rest:
                    if not self._unsent:
                        self._idle_writer = trio.lowlevel.current_task()
                        await trio.lowlevel.wait_task_rescheduled(self._leave_idle)
                        continue
                    self._rest = b"".join(self._unsent)
                    self._unsent.clear()
                sent = connection.send(self._rest)
                if sent == len(self._rest):
                    self._rest = b""
                else:
                    self._rest = memoryview(self._rest)[sent:]
                    await connection.wait_writable()
        except OSError as error:
            self.fail(error)

    def _leave_idle(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._idle_writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def _watch(self) -> None:
        """End a connection that owes a reply and is silent; send a PING on one that is idle."""
        while True:
            received, owed = self.connection.bytes_received, bool(self._pending)
            await trio.sleep(self._silence)
            # What came while this process stood still is read first, by a task that is due at the same moment.
            await trio.lowlevel.checkpoint()
            if self.connection.bytes_received != received:
                continue
            if owed:
                self.fail(
                    ConnectionError(f"{self.connection.address.url} owes replies and was silent for {self._silence} s")
                )
            elif not self._pending:
                self.request_nowait(_PING)
