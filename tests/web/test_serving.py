"""The server itself: over a socket, from a node, beside a stream that is open, and under asyncio."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import uvicorn
from fastapi import FastAPI

from actorwork.actors.actor import Actor
from actorwork.actors.handlers.table import receive
from actorwork.brokers import open_broker
from actorwork.errors import BrokerError, SettingsError
from actorwork.records import Pause
from actorwork.runtime.system import open_system
from actorwork.settings import Settings
from actorwork.web import app, live
from actorwork.web.access import Access
from actorwork.web.dashboard import Dashboard
from actorwork.web.serving import Place, serve_pages
from actorwork.web.users import PASSWORDS, TOKEN, users
from tests.patience import PATIENCE


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVERY", 0.05)
    monkeypatch.setattr(live, "CLOSING", 0.01)
    monkeypatch.setattr(live, "HEARTBEAT", 0.1)


class Till(Actor):
    settings = Settings(title="till", sources={"orders"})

    @receive
    async def take(self, *, number: int) -> None: ...


class Events:
    """Reads a stream of server-sent events."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def next(self) -> tuple[str, str]:
        """Return the name and the text of the next event."""
        name = ""
        async for line in self._lines:
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                return name, json.loads(line.removeprefix("data: "))
        return "end", ""


async def test_a_node_serves_its_dashboard_and_ends_it_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(TOKEN, raising=False)
    async with (
        open_system(Till, broker=":memory:", web="127.0.0.1:0") as system,
        httpx.AsyncClient(timeout=PATIENCE) as http,
    ):
        assert system.web is not None
        assert "orders" in (await http.get(f"{system.web}/sources")).text
        assert (await http.get(f"{system.web}/sources", headers={"host": "evil.example"})).status_code == 403
        async with http.stream("GET", f"{system.web}/live", params={"page": "/pauses"}) as answer:
            events = Events(answer)
            name, text = await events.next()
            assert (name, "Nothing is paused" in text) == ("page", True)
            await system.broker.pauses.pause("source", "orders", reason="stocktaking")
            name, text = await events.next()
            assert (name, "stocktaking" in text) == ("page", True)
            # An open stream does not keep the system from ending.
            system.stop()
            assert await events.next() == ("end", "")
        with pytest.raises(httpx.TransportError):
            while True:  # The listener closes in a moment.
                await http.get(f"{system.web}/sources")
    await system.wait_stopped()


async def test_a_node_takes_users_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TOKEN, "a-token-of-enough-length")
    async with (
        open_system(Till, broker=":memory:", web="127.0.0.1:0") as system,
        httpx.AsyncClient(timeout=PATIENCE) as http,
    ):
        assert (await http.get(f"{system.web}/sources")).status_code == 401
        bearer = {"authorization": "Bearer a-token-of-enough-length"}
        assert (await http.get(f"{system.web}/sources", headers=bearer)).status_code == 200


@pytest.mark.parametrize("address", ["0.0.0.0:0", "nowhere", 8080])
async def test_a_node_that_cannot_serve_its_dashboard_does_not_start(address: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(SettingsError, match=r"dashboard|HOST:PORT"):
        async with open_system(Till, broker=":memory:", web=address):
            raise AssertionError("it started")


async def test_an_address_that_is_taken_is_an_error_of_the_start():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(SettingsError, match="the dashboard cannot listen at 127"),
    ):
        async with open_system(Till, broker=":memory:", web=f"127.0.0.1:{taken.getsockname()[1]}"):
            raise AssertionError("it started")


async def test_a_stream_ends_when_its_user_loses_a_right():
    rights = {"see", "pause"}
    async with open_broker(":memory:") as broker, trio.open_nursery() as nursery:
        dashboard = app(broker, access=lambda _: Access("ann", "own", rights))  # pyright: ignore[reportUnknownLambdaType]
        async with serving(dashboard, nursery) as url, httpx.AsyncClient(timeout=PATIENCE) as http:
            async with http.stream("GET", f"{url}/live", params={"page": "/pauses"}) as answer:
                events = Events(answer)
                assert (await events.next())[0] == "page"
                rights.remove("pause")
                assert await events.next() == ("end", "")
            for wrong in ("", "/nothing", "/send", "/pauses/pause"):
                assert (await http.get(f"{url}/live", params={"page": wrong})).status_code == 404


async def test_a_page_that_could_not_be_drawn_for_a_while_is_sent_again_also_if_it_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
):
    async with open_broker(":memory:") as broker, trio.open_nursery() as nursery:
        listed = broker.pauses.list
        problem: BrokerError | None = None

        async def list_them() -> Sequence[Pause]:
            if problem is not None:
                raise problem
            return await listed()

        monkeypatch.setattr(broker.pauses, "list", list_them)
        async with (
            serving(dashboard := app(broker), nursery) as url,
            httpx.AsyncClient(timeout=PATIENCE) as http,
            http.stream("GET", f"{url}/live", params={"page": "/pauses"}) as answer,
        ):
            events = Events(answer)
            name, page = await events.next()
            assert name == "page"
            problem = BrokerError("it is away")
            assert await events.next() == ("trouble", "the broker does not answer")
            problem = None
            assert await events.next() == ("page", page)
            dashboard.close_streams()
            assert await events.next() == ("end", "")


@asynccontextmanager
async def serving(dashboard: Dashboard, nursery: trio.Nursery) -> AsyncGenerator[str]:
    """Serve a dashboard while the block runs."""
    stop, ended = trio.Event(), trio.Event()

    async def serve(*, task_status: trio.TaskStatus[str]) -> None:
        await serve_pages(dashboard, Place("127.0.0.1", 0), stop=stop.wait, task_status=task_status)
        ended.set()

    yield await nursery.start(serve)
    stop.set()
    await ended.wait()


async def test_a_browser_that_has_gone_ends_its_stream():
    looks = 0

    def look(_: object) -> Access:
        nonlocal looks
        looks += 1
        return Access("ann")

    async with open_broker(":memory:") as broker, trio.open_nursery() as nursery:
        dashboard = app(broker, access=look)
        async with serving(dashboard, nursery) as url:
            browser = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
            await browser.send_all(b"GET /live?page=/pauses HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while b"event: page" not in received:
                received += await browser.receive_some()
            await browser.aclose()
            # The server hears of it within a few looks, and looks no more.
            seen = -1
            while seen != looks:
                seen = looks
                await trio.sleep(0.5)


async def test_streams_share_what_they_may_cost_and_there_are_not_too_many(monkeypatch: pytest.MonkeyPatch):
    streams = live.Streams()
    assert streams.every == live.EVERY
    streams.count = 200
    assert streams.every == 10
    monkeypatch.setattr(live, "MOST", 1)
    async with (
        open_broker(":memory:") as broker,
        trio.open_nursery() as nursery,
        serving(app(broker), nursery) as url,
        httpx.AsyncClient(timeout=PATIENCE) as http,
    ):
        follow = partial(http.stream, "GET", f"{url}/live", params={"page": "/pauses"})
        async with follow() as answer:
            assert answer.status_code == 200
            refused = await http.get(f"{url}/live", params={"page": "/pauses"})
            assert refused.status_code == 503
            assert "1 pages are followed already" in refused.text
        status = 0
        while status != 200:  # The server hears that the first one has gone.
            async with follow() as answer:
                status = answer.status_code
            await trio.sleep(0.05)


def test_mounted_in_fastapi_it_uses_the_client_for_asyncio(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/messages.db"

    async def prepare() -> None:
        async with open_broker(url) as broker:
            await broker.pauses.pause("source", "orders", reason="stocktaking")

    trio.run(prepare)
    dashboard = app(url, access=lambda _: Access("ann", "admin"))  # pyright: ignore[reportUnknownLambdaType]
    api = FastAPI()
    api.mount("/ops", dashboard)
    with on_uvicorn(api) as base:
        assert "stocktaking" in httpx.get(f"{base}/ops/pauses", timeout=PATIENCE).text
        assert 'href="/ops/static/style.css' in httpx.get(f"{base}/ops/", timeout=PATIENCE).text
        headers = {"sec-fetch-site": "same-origin"}
        done = httpx.post(
            f"{base}/ops/api/pauses/resume", json={"kind": "source", "name": "orders"}, headers=headers, timeout=30
        )
        assert done.json()["done"] == "resumed source 'orders'"
        assert httpx.get(f"{base}/ops/api/audit", timeout=PATIENCE).json()["entries"][0]["who"] == "ann"
        with httpx.stream("GET", f"{base}/ops/live", params={"page": "/pauses"}, timeout=PATIENCE) as answer:
            lines = answer.iter_lines()
            assert "Nothing is paused" in next(line for line in lines if line.startswith("data: "))


@contextmanager
def on_uvicorn(api: Any) -> Generator[str]:
    """Serve an application with uvicorn, in a thread, while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(api, log_level="error", ws="none", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            yield "http://{}:{}".format(*listening.getsockname())
        finally:
            server.should_exit = True
            thread.join()


def test_a_lifespan_opens_the_broker_of_a_dashboard_that_is_served_alone(tmp_path: Path):
    with on_uvicorn(app(f"sqlite:///{tmp_path}/messages.db", access=lambda _: Access("ann"))) as base:  # pyright: ignore[reportUnknownLambdaType]
        assert httpx.get(f"{base}/api/sources", timeout=PATIENCE).json()["sources"] == []


def test_users_are_those_of_the_arguments_else_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PASSWORDS, "ann:admin:secret")
    monkeypatch.setenv(TOKEN, "a-token-of-enough-length")
    assert [repr(one) for one in users(role="viewer")] == ["<Passwords of 1 users>", "<Token of a viewer>"]
    assert users(token="", passwords="") == []
    assert len(users(token="", passwords="", header="X-User", proxies=["10.0.0.7"])) == 1
