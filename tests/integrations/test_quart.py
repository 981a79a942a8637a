"""The extension for Quart-Trio, by its own test client, on one loop."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
import trio
from quart import Quart
from quart_trio import QuartTrio

from actorwork import Actor, Intensity, MissingExtra, NotRunning, Settings, receive
from actorwork.errors import MaxRestartsExceeded
from actorwork.integrations.quart import TIMEOUT, Actorwork
from actorwork.testing import MemoryBroker
from tests.examples.programs import running, until
from tests.patience import PATIENCE


class Greeter(Actor):
    settings = Settings(title="greeter")
    loops: ClassVar[list[object]] = []

    @receive
    async def greet(self, *, name: str) -> str:
        self.loops.append(trio.lowlevel.current_trio_token())
        return f"Hello {name}"


class Slow(Actor):
    settings = Settings(title="slow")
    begun = trio.Event()
    ended: ClassVar[list[str]] = []

    @receive
    async def work(self, *, name: str) -> str:
        self.begun.set()
        await trio.sleep(0.05)
        self.ended.append(name)
        return name


class Local(Actor):
    @receive
    async def double(self, number: int) -> int:
        return 2 * number

    @receive
    async def crash(self, _: str) -> None:
        raise ZeroDivisionError


def greeting(actors: Actorwork) -> QuartTrio:
    app = QuartTrio("greetings")
    actors.init_app(app)

    @app.get("/greet/<name>")
    async def greet(name: str) -> str:
        return await actors.client.ref("greeter").ask({"name": name}, timeout=PATIENCE)

    return app


async def test_actors_run_on_the_loop_of_the_application() -> None:
    Greeter.loops = []
    app = greeting(Actorwork(tree=Greeter, broker=MemoryBroker()))
    async with app.test_app() as serving:
        answer = await serving.test_client().get("/greet/Ann")
        assert await answer.get_data(as_text=True) == "Hello Ann"
    assert Greeter.loops == [trio.lowlevel.current_trio_token()]


async def test_an_application_may_be_served_again() -> None:
    app = greeting(Actorwork(tree=Greeter, broker=MemoryBroker()))
    for _ in range(2):
        async with app.test_app() as serving:
            assert (await serving.test_client().get("/greet/Ann")).status_code == 200


async def test_without_a_tree_there_is_the_client_alone(tmp_path: Path) -> None:
    actors = Actorwork(broker=f"sqlite:///{tmp_path / 'messages.db'}")
    app = greeting(actors)
    async with app.test_app(), app.app_context():
        assert await actors.client.publish("texts", {})
        with pytest.raises(NotRunning, match="hosts no actors"):
            _ = actors.system


async def test_local_actors_need_no_broker() -> None:
    actors = Actorwork(tree=Local)
    app = greeting(actors)
    async with app.test_app(), app.app_context():
        assert await actors.system.ref(Local).ask(4) == 8
        with pytest.raises(NotRunning, match="no broker feeds"):
            _ = actors.client


async def test_what_is_handled_is_finished_when_the_application_stops() -> None:
    Slow.begun, Slow.ended = trio.Event(), []
    actors = Actorwork(tree=Slow, broker=MemoryBroker())
    app = greeting(actors)
    async with app.test_app(), app.app_context():
        await actors.client.ref(Slow).tell({"name": "tea"})
        await Slow.begun.wait()
    assert Slow.ended == ["tea"]
    with pytest.raises(NotRunning, match="does not serve yet"):
        async with app.app_context():
            _ = actors.client


async def test_a_tree_that_cannot_be_kept_alive_ends_the_application() -> None:
    actors = Actorwork(tree=Local, intensity=Intensity(restarts=0))
    app = greeting(actors)

    asked = iter([{"type": "lifespan.startup"}])

    async def receive() -> dict[str, str]:
        for event in asked:
            return event
        await trio.sleep_forever()
        raise AssertionError

    async def send(event: dict[str, str]) -> None:
        assert event["type"] == "lifespan.startup.complete"
        async with app.app_context():
            await actors.system.ref(Local).tell("crash")

    with pytest.raises(BaseExceptionGroup) as caught:
        await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)  # pyright: ignore[reportArgumentType]
    assert caught.group_contains(MaxRestartsExceeded)


@pytest.mark.parametrize(
    ("own", "grace", "then"), [(5, 25, 26), (60, 25, 60), (None, 25, None), (5, math.inf, math.inf)]
)
def test_the_application_grants_the_time_of_the_staged_shutdown(
    own: float | None, grace: float, then: float | None
) -> None:
    app = QuartTrio("greetings")
    app.config[TIMEOUT] = own
    Actorwork(app, Greeter, grace=grace)
    assert app.config[TIMEOUT] == then


def test_a_quart_on_asyncio_is_refused() -> None:
    with pytest.raises(TypeError, match="wants a QuartTrio"):
        Actorwork(Quart("greetings"), Greeter)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_options_of_a_tree_are_refused_without_one() -> None:
    with pytest.raises(TypeError, match=r"takes broker= alone, got grace"):
        Actorwork(grace=3)


def test_the_error_for_a_missing_quart_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "actorwork.integrations.quart")
    monkeypatch.setitem(sys.modules, "quart_trio", None)
    with pytest.raises(MissingExtra, match=r'pip install "actorwork\[quart\]"'):
        importlib.import_module("actorwork.integrations.quart")


@pytest.mark.long
def test_hypercorn_serves_actors_and_pages_on_one_loop(redis_url: str, tmp_path: Path) -> None:
    command = ("hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:0", "examples.frameworks.quart_app:app")
    with running(tmp_path / "log", *command, env={"ACTORWORK_BROKER": redis_url}) as server:
        url = server.wait_for(r"Running on (http://[\d.:]+)")[1]
        with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as browser:
            sent = browser.post("/texts", json={"text": "the quick brown fox"}).json()["id"]
            assert until(lambda: browser.get(f"/texts/{sent}").json()["words"], "the words") == 4
