"""Server-sent events: how they are written, what they say of a message and of a run, and that they leave nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import attrs
import httpx
import pytest
import redis
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from hypothesis import given, strategies as st
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from actorwork import Actor, CodecError, Message, Settings, SystemThread, aio, receive
from actorwork.asynchronous.server_sent import KEEP_ALIVE
from actorwork.clients import Client
from actorwork.workflows import signal, step
from tests.clients.programs import run_asyncio
from tests.workflows.shop import Calculator, Square

LONG = 3600.0
"""Seconds between two signs of life, where a test wants none."""


@attrs.frozen
class Count(Message["Counter", int]):
    to: int


class Counter(Actor):
    settings = Settings(title="counter", sources={"counts"})
    go_on = threading.Event()
    """Set anew by each test."""

    @receive
    def count(self, message: Count) -> int:
        for number in range(1, message.to + 1):
            self.context.progress(number, message.to, f"number\n{number}")
        assert self.go_on.wait(20)
        return message.to


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    Counter.go_on = threading.Event()
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'messages.db'}"
    found: str = request.getfixturevalue("redis_url")
    return found


@pytest.fixture
def at_work(url: str) -> Iterator[str]:
    with SystemThread([Counter, Calculator], broker=url):
        yield url
        Counter.go_on.set()


@asynccontextmanager
async def open_client(url: str) -> AsyncGenerator[Client]:
    """Open a client which, at the end of the block, watches nothing any more."""
    async with aio.open_client(url) as client:
        yield client
        await until(lambda: not watched(client, url))


def watched(client: Client, url: str) -> object:
    """Return what a client watches, as the broker has it."""
    if not url.startswith("sqlite"):
        commands = cast("Any", redis.Redis).from_url(url, socket_timeout=None)
        with commands:
            return commands.pubsub_channels("*:watch*")
    changes = cast("Any", client)._sender.driver._changes
    return None if changes is None else bool(changes._store.turns.watched)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what ends by itself tells nobody
            await asyncio.sleep(0.005)


def parse(text: str) -> list[dict[str, str]]:
    """Read a stream as a browser does, by the standard; each event with the fields that it had."""
    found: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        name, _, value = line.partition(":")
        if not line:
            found += [fields] if "data" in fields else []
            fields = {}
        elif name:
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
    return found


def news(chunk: bytes) -> tuple[str, Any]:
    """Return the name and the data of the only event in a chunk."""
    (event,) = parse(chunk.decode())
    return event["event"], json.loads(event["data"])


# ---- how events are written ----


@given(
    data=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists),
    name=st.text(st.characters(exclude_categories=("Cs", "Cc"))),
    id=st.text(st.characters(exclude_categories=("Cs", "Cc"))),
)
def test_a_browser_reads_what_was_written(data: object, name: str, id: str) -> None:
    (event,) = parse(aio.Event(data, name, id).encode().decode())
    assert json.loads(event.pop("data")) == data
    assert event == {key: value for key, value in (("id", id), ("event", name)) if value}


def test_an_event_is_three_lines_and_an_empty_one() -> None:
    event = aio.Event(Count(3), "update", "7")
    assert event.encode() == b'id: 7\nevent: update\ndata: {"to":3}\n\n'
    assert aio.Event("Zürich\r\nAltstadt\u2028").encode() == 'data: "Zürich\\r\\nAltstadt\u2028"\n\n'.encode()


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\r\nb", "\n", "a\0b"])
def test_a_name_or_an_id_of_several_lines_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the name of an event is one line of text"):
        aio.Event(1, text)
    with pytest.raises(ValueError, match="the id of an event is one line of text"):
        aio.Event(1, id=text)


def test_what_json_cannot_express_is_refused() -> None:
    with pytest.raises(CodecError):
        aio.Event(float("nan")).encode()


# ---- what they say ----


def test_the_life_of_a_message_begins_with_the_present_and_ends_with_the_end(at_work: str) -> None:
    async def main() -> None:
        async with open_client(at_work) as client:
            receipt = await client.ref(Counter).submit(Count(3))
            said: list[tuple[str, Any]] = []
            async for chunk in aio.events(receipt, keep_alive=LONG):
                said.append(news(chunk))
                progress = said[-1][1]["progress"]
                if progress is not None and progress["done"] == 3:
                    Counter.go_on.set()
            assert [name for name, _ in said] == ["update"] * (len(said) - 1) + ["end"]
            end = said[-1][1]
            assert (end["id"], end["status"], end["attempt"]) == (receipt.id, "SUCCESS", 1)
            assert end["progress"] == {"done": 3, "total": 3, "note": "number\n3", "state": "PROGRESS", "meta": {}}
            assert "source" not in end
            # Connected again, a browser has the end at once, and so has one of which another thing is shown.
            assert [news(chunk) async for chunk in aio.events(client.receipt(receipt.id))] == [said[-1]]
            shown = aio.events(receipt, data=lambda info: info.status)
            assert [chunk async for chunk in shown] == [b'event: end\ndata: "SUCCESS"\n\n']

    run_asyncio(main)


def test_the_life_of_a_run_says_what_it_waits_for(at_work: str) -> None:
    async def main() -> None:
        async with open_client(at_work) as client:
            run = await client.start(step(Calculator, Square(signal("go", int).result)), id="squares")
            said: list[tuple[str, Any]] = []
            async for chunk in aio.events(run, keep_alive=LONG):
                said.append(news(chunk))
                if said[-1][1]["waits_for"] == ["go"]:
                    await run.signal("go", 2)
            assert [name for name, _ in said] == ["update"] * (len(said) - 1) + ["end"]
            assert len(said) > 1
            end = said[-1][1]
            assert (end["id"], end["status"], end["done"], end["total"]) == ("squares", "SUCCESS", 2, 2)
            assert await run.result() == 4

    run_asyncio(main)


def test_what_does_not_exist_has_an_end_that_says_so(at_work: str) -> None:
    async def main() -> None:
        async with open_client(at_work) as client:
            for nothing in (client.run("none"), client.receipt("none"), client.ref(Counter).receipt("none")):
                ((name, end),) = [news(chunk) async for chunk in aio.events(nothing)]
                assert (name, end["id"], end["status"]) == ("end", "none", "UNKNOWN")

    run_asyncio(main)


def test_events_of_a_generator_are_sent_one_by_one_with_signs_of_life_between_them() -> None:
    async def main() -> None:
        made: list[int] = []
        go_on, closed = asyncio.Event(), asyncio.Event()

        async def own() -> AsyncGenerator[aio.Event]:
            try:
                for number in range(2):
                    made.append(number)
                    yield aio.Event(number, id=str(number))
                await go_on.wait()
                yield aio.Event("last")
            finally:
                closed.set()

        chunks = aiter(aio.events(own(), keep_alive=0.01))
        assert await anext(chunks) == b"id: 0\ndata: 0\n\n"
        for _ in range(10):
            await asyncio.sleep(0)
        assert made == [0]  # The next one is made when this one has been sent.
        assert await anext(chunks) == b"id: 1\ndata: 1\n\n"
        for _ in range(3):
            assert await anext(chunks) == KEEP_ALIVE
        go_on.set()
        assert [chunk async for chunk in chunks if chunk != KEEP_ALIVE] == [b'data: "last"\n\n']
        assert closed.is_set()

    run_asyncio(main)


def test_an_error_of_what_is_followed_is_raised_into_the_response() -> None:
    async def broken() -> AsyncGenerator[aio.Event]:
        yield aio.Event(1)
        raise RuntimeError("no more")

    async def main() -> None:
        chunks = aiter(aio.events(broken()))
        assert await anext(chunks) == b"data: 1\n\n"
        with pytest.raises(RuntimeError, match="no more"):
            await anext(chunks)

    run_asyncio(main)


@pytest.mark.parametrize("keep_alive", [0, -1, float("nan")])
def test_signs_of_life_need_a_time_between_them(keep_alive: float) -> None:
    async def none() -> AsyncGenerator[aio.Event]:
        yield aio.Event(1)

    with pytest.raises(ValueError, match="keep_alive wants more than 0 seconds"):
        aio.events(none(), keep_alive=keep_alive)


# ---- what is left of them ----


def test_an_iteration_that_is_cancelled_or_closed_or_forgotten_leaves_no_subscription(at_work: str) -> None:
    async def main() -> None:
        async with open_client(at_work) as client:
            receipt = await client.ref(Counter).submit(Count(3))
            run = await client.start(step(Calculator, Square(signal("go", int).result)))
            for one in (receipt, run):
                stream = aio.events(cast("Any", one), keep_alive=LONG)
                chunks = aiter(stream)
                await anext(chunks)
                assert watched(client, at_work)
                await chunks.aclose()
                await until(lambda: not watched(client, at_work))

                task = asyncio.create_task(drain(aiter(stream)))
                await until(lambda: watched(client, at_work))
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
                await until(lambda: not watched(client, at_work))

                chunks = aiter(stream)
                await anext(chunks)
                assert watched(client, at_work)
                del chunks
                gc.collect()
                await until(lambda: not watched(client, at_work))

    run_asyncio(main)


async def drain(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


App = Callable[[Any, Any, Any], Any]


def by_itself(stream: aio.EventStream) -> App:
    return stream


def in_a_response(stream: aio.EventStream) -> App:
    return StreamingResponse(stream, headers=stream.headers)


@pytest.mark.parametrize("response", [by_itself, in_a_response])
@pytest.mark.parametrize("spec", ["2.3", "2.4"])
def test_a_browser_that_goes_leaves_no_subscription(
    at_work: str, response: Callable[[aio.EventStream], App], spec: str
) -> None:
    """A server says so by an event (2.3), or by an error of the next `send` (2.4)."""

    async def main() -> None:
        async with open_client(at_work) as client:
            receipt = await client.ref(Counter).submit(Count(1))
            gone = asyncio.Event()
            sent: list[Any] = []

            async def send(message: Any) -> None:
                if spec == "2.4" and gone.is_set():
                    raise OSError("the browser has gone")
                sent.append(message)
                if message.get("body"):
                    assert watched(client, at_work)
                    gone.set()

            async def receive() -> Any:
                if spec == "2.4":
                    await asyncio.Event().wait()
                await gone.wait()
                return {"type": "http.disconnect"}

            scope = {"type": "http", "method": "GET", "asgi": {"version": "3.0", "spec_version": spec}}
            # With 2.4 the next sign of life, or event, finds out.
            stream = aio.events(receipt, keep_alive=0.05 if spec == "2.4" else LONG)
            with suppress(ClientDisconnect):
                await response(stream)(scope, receive, send)
            await until(lambda: not watched(client, at_work))
            headers = dict(sent[0]["headers"])
            assert sent[0]["status"] == 200
            assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
            assert headers[b"cache-control"] == b"no-store"
            assert sent[1]["body"].startswith(b"event: update\ndata: {")

    run_asyncio(main)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_routes_of_fastapi_and_starlette_answer_with_a_stream(at_work: str) -> None:
    async def main() -> None:
        async with open_client(at_work) as client:
            api = FastAPI()

            @api.get("/events")
            async def in_fastapi(id: str) -> StreamingResponse:  # pyright: ignore[reportUnusedFunction] # it is a route
                stream = aio.events(client.receipt(id))
                return StreamingResponse(stream, headers=stream.headers)

            async def in_starlette(request: Any) -> Any:
                return aio.events(client.receipt(request.query_params["id"]))

            Counter.go_on.set()
            receipt = await client.ref(Counter).submit(Count(3))
            for app in (api, Starlette(routes=[Route("/events", in_starlette)])):
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as browser:
                    answer = await browser.get("/events", params={"id": receipt.id})
                assert answer.status_code == 200
                assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
                end = parse(answer.text)[-1]
                assert end["event"] == "end"
                assert json.loads(end["data"])["status"] == "SUCCESS"

    run_asyncio(main)


def test_by_itself_it_answers_http_alone() -> None:
    async def none() -> AsyncGenerator[aio.Event]:
        yield aio.Event(1)

    async def main() -> None:
        with pytest.raises(TypeError, match="events answer a request by HTTP, not 'websocket'"):
            await aio.events(none())({"type": "websocket"}, cast("Any", None), cast("Any", None))

    run_asyncio(main)
