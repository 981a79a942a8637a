"""The messages in a spool's file, as the tasks of one process see them.

Only one thread at a time accesses the file; messages of several tasks that arrive at the same moment go into one
commit. The state of other processes' messages is that of the last look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from actorwork.errors import SpoolError

if TYPE_CHECKING:
    from pathlib import Path

    from actorwork.embedded.spool import Row, Spooled, SpoolFile, SpoolStatus

T = TypeVar("T")


@attrs.define(eq=False)
class SpoolTicket:
    """One call's messages on their way into the file."""

    rows: Sequence[Row]
    kept: bool = False
    error: SpoolError | None = None
    is_done: bool = False


class SpooledMessages:
    """The messages in a spool's file. Every async method raises `SpoolError` if the file cannot be used."""

    def __init__(self, file: SpoolFile, *, max_messages: int, max_bytes: int) -> None:
        self._file = file
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self.status: SpoolStatus
        self.behind: set[str] = set()
        """The sources whose new messages must go to the file, since earlier ones are there or on the way there."""
        self.moved = trio.Event()
        """Set and replaced whenever a message has left the file or was set aside."""
        self._version = 0
        self._queue: list[SpoolTicket] = []
        self._at_file = trio.Lock()
        self._thread = trio.CapacityLimiter(1)

    def __repr__(self) -> str:
        return f"<SpooledMessages in {self.path}: {self.status.messages}>"

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def is_empty(self) -> bool:
        """Whether no message waits, in the file or on the way there."""
        return not self.status.waiting and not self._queue

    async def begin(self) -> None:
        """Read the state that the file has from before."""

        def look() -> tuple[int, SpoolStatus, set[str]]:
            return self._file.has_news(0)[1], self._file.status(), self._file.sources()

        self._version, self.status, self.behind = await self._in_thread(look)

    async def look(self) -> None:
        """Read what other processes have written to the file, or removed from it."""
        async with self._at_file:

            def look() -> tuple[SpoolStatus, set[str]] | None:
                has_news, self._version = self._file.has_news(self._version)
                return (self._file.status(), self._file.sources()) if has_news else None

            found = await self._in_thread(look)
            if found is not None:
                self.status, sources = found
                self.behind = sources | self._queued()
                self._tell_moved()

    async def append(self, ticket: SpoolTicket) -> None:
        """Write a ticket into the file, in one commit with those of other tasks that wait.

        The ticket holds the result. If cancelled, its messages are in the file or never will be.
        """
        ticket.is_done = False
        self._queue.append(ticket)
        try:
            async with self._at_file:
                if not ticket.is_done:
                    tickets, self._queue = self._queue, []
                    await self._commit(tickets)
        finally:
            if ticket in self._queue:  # Cancelled before it was written: it must not be written later.
                self._queue.remove(ticket)

    async def _commit(self, tickets: Sequence[SpoolTicket]) -> None:
        file, max_messages, max_bytes = self._file, self._max_messages, self._max_bytes

        def commit() -> tuple[list[bool], SpoolStatus]:
            groups = [ticket.rows for ticket in tickets]
            return file.append(groups, max_messages=max_messages, max_bytes=max_bytes), file.status()

        try:
            kept, self.status = await self._in_thread(commit)
        except SpoolError as error:
            for ticket in tickets:
                ticket.error = SpoolError(f"{error}; the message was not stored")
                ticket.error.__cause__ = error
                ticket.is_done = True
            return
        for ticket, is_kept in zip(tickets, kept, strict=True):
            ticket.kept = is_kept
            ticket.is_done = True

    async def claim(self) -> bool:
        """Claim the right to replay, unless another process has it; return whether this one has it."""
        return await self._in_file(self._file.claim)

    def unclaim(self) -> None:
        self._file.unclaim()

    async def first(self, limit: int, size: int, sources: Iterable[str] | None) -> Sequence[Spooled]:
        return await self._in_file(lambda: self._file.first(limit, size, sources))

    async def set_aside(self, one: Spooled, reason: str) -> None:
        await self._in_file(lambda: self._file.set_aside(one.seq, reason))
        await self.take_out(())

    async def take_out(self, some: Sequence[Spooled]) -> None:
        """Remove messages that the broker has, and find which sources still have messages here."""
        async with self._at_file:
            behind = self.behind | {one.source for one in some}

            def take_out() -> tuple[SpoolStatus, set[str]]:
                if some:
                    self._file.remove(one.seq for one in some)
                return self._file.status(), {source for source in behind if self._file.has_waiting(source)}

            self.status, waiting = await self._in_thread(take_out)
            self.behind = waiting | self._queued()
        self._tell_moved()

    def _queued(self) -> set[str]:
        return {row.source for ticket in self._queue for row in ticket.rows}

    def _tell_moved(self) -> None:
        self.moved.set()
        self.moved = trio.Event()

    async def _in_file(self, work: Callable[[], T]) -> T:
        async with self._at_file:
            return await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        # A limiter of its own: handlers that occupy all other threads must not keep messages from the disk.
        return await trio.to_thread.run_sync(work, limiter=self._thread)
