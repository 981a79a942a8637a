"""Many tasks, one connection: requests leave in batches, replies come back in order.

Redis answers a connection's commands in the order in which they arrived. So every request has a `PendingRequest` in
one deque, in the order in which its bytes leave, and each reply belongs to the first one that still lacks a reply. What
must never happen is that a reply reaches the wrong task, and everything here follows from that:

- a slot is appended in the same breath in which its bytes are queued or sent; there is no checkpoint in between;
- a slot is never removed before its replies have come. A task that is cancelled empties its slot, and its reply is read
  and dropped. Nothing is closed: the other tasks' replies are unharmed;
- a command that was queued "may have executed"; one whose bytes never left has not, and its slot says so (`unsent`);
- commands that change what the connection is (WATCH, blocking reads, MONITOR, CLIENT REPLY) have no place here.

How bytes leave. While nothing is awaited, the calling task sends its command itself, lets the scheduler turn once,
and looks whether the reply has come: that is as quick as a loop around a socket, because no other task need be woken.
While replies are awaited, commands are collected, and the writer task sends what one tick of the scheduler brought in
one write: that is the quickest for a hundred. Nobody else sends.

How it ends. The first failure, wherever it is seen, fails every slot, ends the tasks, tells whoever waits for the
socket, and closes it. `silence` seconds without a byte, while one is owed, are a failure too: a peer behind a dead
network sends no reset.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import trio

from actorwork.streams.transport.connection import Connection
from actorwork.streams.transport.redis_py import ConnectionError, InvalidResponse, ReadOnlyError, RedisError  # noqa: A004
from actorwork.streams.transport.wire import NOT_ENOUGH, Push, pack

_PING: Final = pack(("PING",))
_CONFIRMATIONS: Final = frozenset({b"subscribe", b"unsubscribe"})


class PendingRequest:
    """The place of one request in the order of replies."""

    __slots__ = ("error", "is_read_only", "is_subscription", "missing", "replies", "task", "unsent")

    def __init__(self, missing: int, *, is_subscription: bool = False) -> None:
        self.missing = missing
        self.task: trio.lowlevel.Task | None = None
        self.is_subscription = is_subscription
        self.replies: list[Any] = []
        self.error: Exception | None = None
        self.unsent = False
        """None of its bytes left: it has not executed."""
        self.is_read_only = False
        """The server refused it because it has become a replica."""

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
        """One entry per slot at the end of `_pending`: what the writer has not taken yet."""
        self._rest: bytes | memoryview = b""
        self._idle_writer: trio.lowlevel.Task | None = None
        self._crash: Exception | None = None
        self._scope = trio.CancelScope()

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    async def request(self, data: bytes, count: int = 1, *, is_subscription: bool = False) -> PendingRequest:
        """Send `data`, `count` packed commands, and wait until its slot is done.

        The slot holds the replies (error replies as values) or the failure of the connection. Cancelled before it was
        queued: nothing happened (the caller looked). Cancelled after: it may have executed, its replies are dropped.
        """
        slot = PendingRequest(count, is_subscription=is_subscription)
        is_alone = not self._pending
        self._submit(data, slot)
        if is_alone and slot.error is None:
            # While the scheduler turns once, the server answers. Then the reply is fetched here, without waking the
            # reader and being woken by it in turn.
            await trio.lowlevel.checkpoint()
            if slot.missing and self.error is None:
                self._read_nowait()
        await self.wait(slot)
        return slot

    def request_nowait(self, data: bytes) -> PendingRequest:
        """Send `data` for nobody in particular; the slot may be looked at later."""
        slot = PendingRequest(1)
        self._submit(data, slot)
        return slot

    async def wait(self, slot: PendingRequest) -> None:
        """Wait until a slot is done. Cancelled: its reply is dropped."""
        if slot.missing and slot.error is None:
            slot.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(slot.abandon)

    def _submit(self, data: bytes, slot: PendingRequest) -> None:
        if self.error is not None:
            slot.error = self.error
            slot.unsent = True
            return
        if self._pending:
            self._pending.append(slot)
            self._unsent.append(data)
        else:
            self._pending.append(slot)
            try:
                sent = self.connection.send(data)
            except OSError as error:
                self.fail(error)
                slot.unsent = True  # The socket took nothing of it.
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
        """End this connection: every slot fails, and those whose bytes never left say so."""
        if self.error is not None:
            return
        self.error = error
        slots = list(self._pending)
        self._pending.clear()
        for slot in slots[len(slots) - len(self._unsent) :]:
            slot.unsent = True
        self._unsent.clear()
        self._on_lost(error)
        for slot in slots:
            slot.error = error
            self._wake(slot)
        self._scope.cancel()

    def _wake(self, slot: PendingRequest) -> None:
        if slot.task is not None:
            trio.lowlevel.reschedule(slot.task)
            slot.task = None

    async def _read(self) -> None:
        receive, match = self.connection.receive, self._match
        try:
            while True:
                await receive()
                match()
        except (OSError, RedisError) as error:
            self.fail(error)

    def _read_nowait(self) -> None:
        try:
            if self.connection.receive_nowait():
                self._match()
        except (OSError, RedisError) as error:
            self.fail(error)

    def _match(self) -> None:
        pending, next_reply = self._pending, self.connection.next_reply
        while (reply := next_reply()) is not NOT_ENOUGH:
            if type(reply) is Push and not self._is_confirmation(reply):
                self._push(reply)
                if self._crash is not None:
                    return
                continue
            if not pending:
                raise InvalidResponse(f"{self.connection.address.url} sent a reply that nobody asked for")
            slot = pending[0]
            slot.replies.append(reply)
            if isinstance(reply, ReadOnlyError):
                slot.is_read_only = True
            slot.missing -= 1
            if slot.missing == 0:
                pending.popleft()
                if slot.task is not None:
                    trio.lowlevel.reschedule(slot.task)
                    slot.task = None

    def _push(self, push: list[Any]) -> None:
        try:
            self._on_push(push)
        except Exception as error:  # noqa: BLE001  (whose task reads is chance: `run` raises it, not a command)
            self._crash = error
            self.fail(ConnectionError(f"the handler of pushes raised {error!r}"))

    def _is_confirmation(self, push: list[Any]) -> bool:
        """Tell whether this push is what (UN)SUBSCRIBE answers: RESP3 has no other reply for it, and it keeps its
        place in the order.
        """
        return push[0] in _CONFIRMATIONS and bool(self._pending) and self._pending[0].is_subscription

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
        """End a connection that owes a reply and is silent; ask one that owes nothing for a sign of life."""
        while True:
            received, owed = self.connection.bytes_received, bool(self._pending)
            await trio.sleep(self._silence)
            if self.connection.bytes_received != received:
                continue
            if owed:
                self.fail(
                    ConnectionError(f"{self.connection.address.url} owes replies and was silent for {self._silence} s")
                )
            elif not self._pending:
                self.request_nowait(_PING)
