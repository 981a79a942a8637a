"""The embedded broker as the runtime sees it: `async with open_broker("sqlite:///messages.db", emit=…) as broker`."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from actorwork.abc import EventSink, Finding, Subscription, meter_of
from actorwork.embedded.changes import LocalChanges
from actorwork.embedded.diagnosis import examine
from actorwork.embedded.location import Location, parse
from actorwork.embedded.node import EmbeddedNode, open_node
from actorwork.embedded.orders import Writer
from actorwork.embedded.replies import LocalReplies
from actorwork.embedded.sending import EmbeddedSending
from actorwork.embedded.writer import ThreadWriter
from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble


@asynccontextmanager
async def open_broker(
    url: str, *, emit: EventSink, prepare: Callable[[], None] | None = None, at_first_use: bool = False
) -> AsyncGenerator[EmbeddedBroker]:
    """Open the store that `url` names, and make it if it is new (see `actorwork.embedded.location` for the forms).

    Any number of processes may have one file open at once. Raises BrokerError, which says what to do, when it cannot
    be used. With `at_first_use` nothing is opened before a call needs it, and that call raises the error. `prepare` is
    called in a thread before the store is opened.
    """
    location = parse(url)

    def troubled(doing: str, error: str) -> None:
        emit(BrokerTrouble(doing, error, "trying again in a second"))

    token, meter = trio.lowlevel.current_trio_token(), meter_of(emit)
    writer = ThreadWriter(location, token, troubled, prepare or _nothing, meter)
    try:
        if not at_first_use:
            await writer.start()
        yield EmbeddedBroker(location, writer)
    finally:
        await writer.stop()


class EmbeddedBroker(EmbeddedSending):
    """Implements `actorwork.abc.Broker`."""

    def __init__(self, location: Location, writer: Writer) -> None:
        super().__init__(location, writer)
        self._writer = writer

    async def describe_server(self) -> tuple[str, str]:
        """Return what this broker is, and the version of SQLite."""
        return "embedded", sqlite3.sqlite_version

    def statistics(self) -> Mapping[str, int]:
        return self._writer.statistics()

    def open_node(
        self, subscriptions: Sequence[Subscription], *, lease: float, emit: EventSink
    ) -> AbstractAsyncContextManager[EmbeddedNode]:
        return open_node(self._writer, subscriptions, lease=lease, emit=emit)

    @asynccontextmanager
    async def open_replies(self) -> AsyncGenerator[LocalReplies]:
        address = uuid.uuid4().hex
        replies = LocalReplies(address)
        self._writer.turns.addresses[address] = replies.arrived
        # It wakes the writer, which looks for replies from now on.
        self._writer.tell(_nothing)
        try:
            yield replies
        finally:
            self._writer.turns.addresses.pop(address, None)

    @asynccontextmanager
    async def open_changes(self) -> AsyncGenerator[LocalChanges]:
        yield LocalChanges(self._writer)

    async def diagnose(self) -> Sequence[Finding]:
        try:
            mode = await self._writer.ask(lambda store: store.pragma("journal_mode"), writes=False)
        except BrokerError as error:
            return (Finding("file", "error", str(error)),)
        if self._location.path is None:
            return (
                Finding("store", "warning", "in memory: all messages are gone when the process ends", "name a file"),
                Finding("sqlite", "ok", f"SQLite {sqlite3.sqlite_version}"),
            )
        path = self._location.path
        return await trio.to_thread.run_sync(
            examine, path, str(mode), self._location.synchronous, abandon_on_cancel=True
        )


def _nothing(_: object = None) -> None:
    pass
