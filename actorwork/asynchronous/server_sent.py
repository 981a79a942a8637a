"""Server-sent events: the life of a message or of a run, as a browser follows it.

    receipt or run ── watch ──┐
                              ├── a task that follows ── one event at a time ── text/event-stream ── the browser
    a generator of events ────┘

The task has a reason. A web framework may cancel whatever a route awaits, again and again, when the browser has gone;
what is followed still ends as it should, since only this module cancels the task, once. And a wait for the next event
that takes long is not given up for a sign of life in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar, cast, overload

import attrs

from actorwork import codec
from actorwork.clients.receipts import Receipt
from actorwork.durations import Duration, seconds_of
from actorwork.message import Status
from actorwork.records import MessageInfo
from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.policy.runs.values import RunInfo

KEEP_ALIVE: Final = b":\n\n"
"""A comment: browsers ignore it, and a connection that has gone is noticed by it."""
HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # Else nginx would keep events until it has some kilobytes of them.
}

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

I_co = TypeVar("I_co", bound="MessageInfo | RunInfo", covariant=True)


class Watched(Protocol[I_co]):
    """What a receipt and a run have in common."""

    async def info(self) -> I_co: ...
    def watch(self) -> AbstractAsyncContextManager[AsyncIterable[I_co]]: ...


def _check_line(_: Event, attribute: attrs.Attribute[str], value: str) -> None:
    if any(character in value for character in "\r\n\0"):
        raise ValueError(f"the {attribute.name} of an event is one line of text, got {value!r}")


@attrs.frozen(eq=False, repr=False)
class Event(Value):
    """One server-sent event: `data` is sent as JSON, to the listeners of `name` ("" is a browser's `message`).

    A browser that connects again sends the `id` of the last event that had one, as the header `Last-Event-ID`. A name
    or an id that is more than one line raises `ValueError`.
    """

    data: object
    name: str = attrs.field(default="", validator=_check_line)
    id: str = attrs.field(default="", validator=_check_line)

    def encode(self) -> bytes:
        """Return the event as it is sent; raises `CodecError` for data that JSON cannot express."""
        lines = [f"{field}: {value}\n" for field, value in (("id", self.id), ("event", self.name)) if value]
        # JSON has no line breaks of its own, and those within its strings are escaped: the data is always one line.
        return b"".join((*(line.encode() for line in lines), b"data: ", codec.encode_value(self.data), b"\n\n"))


class EventStream:
    """Server-sent events, encoded: an async iterable for a streaming response, or an ASGI response by itself.

    Nothing happens before it is iterated. While it is, what it follows is watched; that ends with the iteration, also
    if it is cancelled. `headers` are those that the response wants.
    """

    headers: Mapping[str, str] = HEADERS

    def __init__(self, follow: Callable[[], AsyncGenerator[Event]], keep_alive: float) -> None:
        self._open_events = follow
        self._keep_alive = keep_alive

    def __repr__(self) -> str:
        return f"<EventStream, a sign of life every {self._keep_alive:g} s>"

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        """Yield events, and a comment after each `keep_alive` seconds without one. Raises what following raises."""
        upcoming: asyncio.Queue[Event | None] = asyncio.Queue()

        def end(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                task.exception()  # Looked at here as well: the iteration may have been given up.
            upcoming.put_nowait(None)

        following = asyncio.get_running_loop().create_task(self._follow(upcoming))
        following.add_done_callback(end)
        try:
            while True:
                try:
                    async with asyncio.timeout(self._keep_alive):
                        event = await upcoming.get()
                except TimeoutError:
                    yield KEEP_ALIVE
                    continue
                if event is None:
                    break
                yield event.encode()
                upcoming.task_done()
        finally:
            following.cancel()
            # If this is cancelled as well, the task comes to its end by itself.
            await asyncio.wait([following])
        if not following.cancelled():  # It is if its client was closed: the program ends, and the stream with it.
            following.result()

    async def _follow(self, upcoming: asyncio.Queue[Event | None]) -> None:
        async with aclosing(self._open_events()) as events:
            async for event in events:
                upcoming.put_nowait(event)
                await upcoming.join()  # Until it was sent: what changes meanwhile becomes one update.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as an ASGI application; ends when the browser has gone."""
        if scope["type"] != "http":
            raise TypeError(f"events answer a request by HTTP, not {scope['type']!r}")
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._answer(send)), loop.create_task(_disconnected(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _answer(self, send: Send) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        with suppress(OSError):  # So newer servers say that the browser has gone.
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with aclosing(aiter(self)) as chunks:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@overload
def events(
    watched: Receipt[Any], *, data: Callable[[MessageInfo], object] = ..., keep_alive: Duration = 15
) -> EventStream: ...
@overload
def events(
    watched: Watched[RunInfo], *, data: Callable[[RunInfo], object] = ..., keep_alive: Duration = 15
) -> EventStream: ...
@overload
def events(watched: AsyncGenerator[Event], *, keep_alive: Duration = 15) -> EventStream: ...
def events(watched: Any, *, data: Any = None, keep_alive: Duration = 15) -> EventStream:
    """Return the life of a message or a run as server-sent events: `StreamingResponse(stream, headers=stream.headers)`.

    `watched` is a receipt or a run of an asyncio client. The first event is the present, so a browser that connects
    again needs no history. Each event is called `update`, and the last one `end`: then the browser should close the
    stream, or it connects again. What does not exist, or is deleted meanwhile, has an `end` with the status UNKNOWN; to
    answer 404, ask for the status first. `data` makes what is sent of an info, as JSON; the default leaves out sources,
    nodes, results and tracebacks.

    Instead, `watched` may be an async generator of events of your own; it is closed with the stream. After `keep_alive`
    seconds without an event a comment is sent. Raises what watching raises, into the response.
    """
    seconds = seconds_of("keep_alive", keep_alive)
    if not seconds > 0:
        raise ValueError(f"keep_alive wants more than 0 seconds, got {keep_alive!r}")
    if isinstance(watched, AsyncGenerator):
        return EventStream(lambda: cast("AsyncGenerator[Event]", watched), seconds)
    return EventStream(lambda: _life(watched, _public if data is None else data), seconds)


async def _life(watched: Watched[Any], data: Callable[[Any], object]) -> AsyncGenerator[Event]:
    try:
        async with watched.watch() as updates:
            async for info in updates:
                yield Event(data(info), "end" if info.status.is_final else "update")
    except LookupError:
        info = await watched.info()
        if info.status is not Status.UNKNOWN:
            raise
        yield Event(data(info), "end")


_OF_A_MESSAGE: Final = ("id", "status", "attempt", "sent", "received", "started", "ended", "progress", "reason")
_OF_A_RUN: Final = ("id", "title", "status", "reason", "done", "total", "waits_for", "started", "finished")


def _public(info: MessageInfo | RunInfo) -> Mapping[str, object]:
    names = _OF_A_MESSAGE if isinstance(info, MessageInfo) else _OF_A_RUN
    return {name: getattr(info, name) for name in names}
