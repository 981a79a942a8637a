"""FastAPI and Starlette, by their own test client, on asyncio and on Trio; the actors run in a thread beside them."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import anyio
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from actorwork import Actor, BrokerError, MissingExtra, NotRunning, Settings, SystemThread, receive
from actorwork.integrations import opened
from actorwork.integrations.fastapi import ClientDep, client, event_response, lifespan
from tests.patience import PATIENCE

LOOPS: tuple[Literal["asyncio", "trio"], ...] = ("asyncio", "trio")


class Greeter(Actor):
    settings = Settings(title="greeter")

    @receive
    async def greet(self, *, name: str) -> str:
        self.context.progress(1, 2, "thinks of a word")
        return f"Hello {name}"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = f"sqlite:///{tmp_path_factory.mktemp('broker') / 'messages.db'}"
    with SystemThread(Greeter, broker=url):
        yield url


def greeting(url: str | None, **options: Any) -> FastAPI:
    options.setdefault("patience", 60)
    app = FastAPI(lifespan=lifespan(url, **options))

    @app.get("/greet/{name}")
    async def greet(name: str, actors: ClientDep) -> str:
        return await actors.ref(Greeter).ask({"name": name}, timeout=PATIENCE)

    @app.post("/greetings/{name}")
    async def send(name: str, actors: ClientDep) -> str:
        return (await actors.ref(Greeter).submit({"name": name})).id

    @app.get("/greetings/{id}/events")
    async def follow(id: str, actors: ClientDep) -> Response:
        return await event_response(actors.receipt(id))

    return app


@pytest.mark.parametrize("loop", LOOPS)
def test_a_route_asks_an_actor(url: str, loop: Literal["asyncio", "trio"]) -> None:
    with TestClient(greeting(url), backend=loop) as browser:
        assert browser.get("/greet/Ann").json() == "Hello Ann"


def test_a_message_is_followed_to_its_end(url: str) -> None:
    with TestClient(greeting(url)) as browser:
        sent = browser.post("/greetings/Ben").json()
        followed = browser.get(f"/greetings/{sent}/events")
        assert followed.headers["content-type"].startswith("text/event-stream")
        *_, end = followed.text.strip().split("\n\n")
        name, data = end.split("\n")
        assert name == "event: end"
        assert json.loads(data.removeprefix("data: "))["status"] == "SUCCESS"
        assert browser.get("/greetings/never-sent/events").status_code == 404


def test_events_are_refused_on_trio(url: str) -> None:
    with TestClient(greeting(url), backend="trio") as browser:
        sent = browser.post("/greetings/Eve").json()
        with pytest.raises(NotRunning, match="on asyncio only"):
            browser.get(f"/greetings/{sent}/events")


def test_a_test_replaces_the_client_and_needs_no_broker() -> None:
    app = greeting("redis://localhost:1")

    async def ask(message: dict[str, str], timeout: float) -> str:
        return f"no {message['name']} here"

    def ref(actor: type[Actor]) -> SimpleNamespace:
        assert actor is Greeter
        return SimpleNamespace(ask=ask)

    app.dependency_overrides[client] = lambda: SimpleNamespace(ref=ref)
    assert TestClient(app).get("/greet/Ann").json() == "no Ann here"


def test_without_the_lifespan_the_error_says_what_is_missing(url: str) -> None:
    with pytest.raises(NotRunning, match=r"pass lifespan\(url\)"):
        TestClient(greeting(url)).get("/greet/Ann")


def test_a_lifespan_of_the_application_enters_it(url: str) -> None:
    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        async with lifespan(url, patience=60)(app) as state:
            yield {**state, "word": "Good morning"}

    app = FastAPI(lifespan=own)

    @app.get("/")
    async def greet(actors: ClientDep, request: Request) -> str:
        return f"{request.state.word}, {await actors.ref('greeter').ask({'name': 'Ann'}, timeout=PATIENCE)}"

    with TestClient(app) as browser:
        assert browser.get("/").json() == "Good morning, Hello Ann"


def test_an_error_of_the_block_leaves_it_as_it_is(url: str) -> None:
    async def main() -> None:
        async with lifespan(url, patience=60)(None):
            raise ZeroDivisionError

    for loop in LOOPS:
        with pytest.raises(ZeroDivisionError):
            anyio.run(main, backend=loop)


async def greet_in_starlette(request: Request) -> Response:
    actors = await client(request)
    return JSONResponse(await actors.ref(Greeter).ask({"name": request.path_params["name"]}, timeout=PATIENCE))


def test_an_application_of_starlette_and_what_it_mounts_share_the_client(url: str) -> None:
    routes = [Route("/greet/{name}", greet_in_starlette)]
    app = Starlette(routes=[*routes, Mount("/inner", Starlette(routes=routes))], lifespan=lifespan(url, patience=60))
    with TestClient(app) as browser:
        assert browser.get("/greet/Ann").json() == browser.get("/inner/greet/Ann").json() == "Hello Ann"


# ---- a broker that is away ----


@pytest.mark.parametrize("loop", LOOPS)
def test_a_start_without_the_broker_fails_after_the_patience(loop: Literal["asyncio", "trio"], nobody: str) -> None:
    with (
        pytest.raises(BrokerError, match=r"not reached within 0\.05 s"),
        TestClient(greeting(nobody, patience=0.05), backend=loop),
    ):
        pass


def test_a_url_of_no_broker_fails_even_if_none_is_required() -> None:
    with (
        pytest.raises(BrokerError, match="amqp"),
        TestClient(greeting("amqp://localhost", required=False)),
    ):
        pass


@pytest.mark.parametrize("loop", LOOPS)
def test_an_application_that_can_do_without_answers_503_meanwhile(
    loop: Literal["asyncio", "trio"], nobody: str
) -> None:
    with TestClient(greeting(nobody, patience=0.05, required=False), backend=loop) as browser:
        answer = browser.get("/greet/Ann")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_broker_that_refuses_ends_the_start_at_once(loop: Literal["asyncio", "trio"], refusing: None) -> None:
    with (
        pytest.raises(BrokerError, match="is closed today"),
        TestClient(greeting(None, patience=3600), backend=loop),
    ):
        pass


def test_a_broker_that_refused_is_opened_again_if_it_is_not_required(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "AGAIN", 0.01)
    monkeypatch.setattr(opened, "open_client", refuse_times(2, opened.open_client))
    with TestClient(greeting(url, patience=20, required=False)) as browser:
        assert browser.get("/greet/Ann").json() == "Hello Ann"


def refuse_times(times: int, then: Any) -> Any:
    left = [None] * times

    @asynccontextmanager
    async def open_client(*arguments: Any) -> AsyncGenerator[Any]:
        if left:
            left.pop()
            raise BrokerError("the broker is closed today")
        async with then(*arguments) as client:
            yield client

    return open_client


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "open_client", refuse_times(1, None))


@pytest.fixture
def nobody(tmp_path: Path) -> str:
    """The URL of a Redis that does not run."""
    return f"unix://{tmp_path / 'redis.sock'}"


# ---- without the frameworks ----


@pytest.mark.parametrize(("framework", "module"), [("fastapi", "fastapi"), ("starlette", "starlette.exceptions")])
def test_the_error_for_a_missing_framework_names_the_extra(
    framework: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"actorwork.integrations.{framework}")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf'pip install "actorwork\[{framework}\]"'):
        importlib.import_module(f"actorwork.integrations.{framework}")
