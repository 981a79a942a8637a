"""`/scale`: seconds of work that wait, for scalers outside of this machine; the same at every broker."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import trio

from actorwork import Actor, Settings, open_system, receive
from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.inspection import routes
from actorwork.inspection.routes import FRESH
from actorwork.inspection.scale import ScaleRoute
from actorwork.message import Envelope
from actorwork.policy.reports import NodeReport, PartReport, written
from actorwork.state.known_actors import enter_actors
from actorwork.telemetry.monitor import Request
from tests.patience import PATIENCE


@pytest.fixture(params=["embedded", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return request.getfixturevalue("redis_url")
    return f"sqlite:///{tmp_path / 'messages.sqlite3'}"


async def ask(route: ScaleRoute, query: str = "") -> tuple[int, dict[str, Any]]:
    with trio.fail_after(PATIENCE):
        while True:
            answer = await trio.to_thread.run_sync(route, Request("/scale", query, {}))
            if answer.status != 503:  # On a busy machine the broker may take longer than a route waits.
                return answer.status, json.loads(answer.body)
            await trio.sleep(0.01)


async def report(broker: Broker, node: str, part: PartReport) -> None:
    """Report as a node does."""
    now, _ = await broker.reports.nodes()
    tree = PartReport(title="root", kind="one_for_one", children=(part,))
    facts = NodeReport(name=node, host="h", pid=1, version="1", started=now, at=now, tree=tree)
    await broker.reports.write(node, written(facts), now=now, ttl=60)


async def send(broker: Broker, source: str, *ids: str) -> None:
    await broker.publish([Envelope(source, one, b"{}") for one in ids])


async def test_work_is_messages_times_the_seconds_that_one_takes(url: str):
    async with open_broker(url) as broker:
        await enter_actors(broker.values, {"till": ["orders", "returns"]}, 0.0)
        await send(broker, "orders", *map(str, range(8)))
        await send(broker, "returns", "r1", "r2")
        for node, each in (("one", 1.0), ("two", 3.0)):
            part = PartReport(title="till", sources=("orders", "returns"), concurrency=2, seconds_each=each)
            await report(broker, node, part)
        status, found = await ask(ScaleRoute(lambda: broker))
        assert status == 200
        till = found["actors"]["till"]
        assert {name: till[name] for name in ("work_seconds", "messages", "seconds_each", "is_guess")} == {
            "work_seconds": 20.0,
            "messages": 10,
            "seconds_each": 2.0,
            "is_guess": False,
        }
        assert (till["nodes"], till["concurrency"], till["drain_seconds"]) == (2, 4, 5.0)
        assert found["sources"]["orders"]["work_seconds"] == 16.0
        assert found["sources"]["returns"]["work_seconds"] == 4.0


async def test_one_actor_or_one_source_is_asked_for_by_name(url: str):
    async with open_broker(url) as broker:
        await enter_actors(broker.values, {"till": ["orders"], "a clerk": ["orders", "letters"]}, 0.0)
        await send(broker, "letters", "l1")
        route = ScaleRoute(lambda: broker)
        status, found = await ask(route, "actor=a%20clerk&guess=0.5")
        assert (status, found["work_seconds"], found["is_guess"], found["drain_seconds"]) == (200, 0.5, True, None)
        assert (await ask(route, "source=letters"))[1]["work_seconds"] == 1.0
        assert (await ask(route, "source=letters&actor=till"))[1]["messages"] == 0
        status, found = await ask(route, "actor=nobody")
        assert (status, found["error"]) == (404, "no actor 'nobody' has run at this broker")
        assert found["actors"] == ["a clerk", "till"]
        assert (await ask(route, "source=nowhere"))[1]["sources"] == ["letters", "orders"]


@pytest.mark.parametrize("query", ["guess=none", "guess=0", "guess=nan", "guess=", "acter=till"])
async def test_a_question_that_means_nothing_is_refused(query: str):
    async with open_broker("sqlite://") as broker:
        status, found = await ask(ScaleRoute(lambda: broker), query)
        assert status == 400
        assert "/scale?actor=TITLE&guess=0.2" in found["error"]


async def test_a_delayed_message_counts_once_it_is_due_though_no_node_promotes_it(url: str):
    async with open_broker(url) as broker:
        await enter_actors(broker.values, {"till": ["orders"]}, 0.0)
        await broker.publish([Envelope("orders", "later", b"{}", delay=1000)])
        route = ScaleRoute(lambda: broker, clock=iter(range(0, 10**6, 10)).__next__)
        assert (await ask(route, "actor=till"))[1]["messages"] == 0
        await broker.publish([Envelope("orders", "soon", b"{}", delay=0.01)])
        with trio.fail_after(PATIENCE):
            while True:
                if (await ask(route, "actor=till"))[1]["messages"] == 1:
                    break
                await trio.sleep(0.01)


async def test_how_long_messages_take_is_remembered_when_the_last_node_has_gone(url: str):
    now = [100.0]
    async with open_broker(url) as broker:
        await enter_actors(broker.values, {"till": ["orders"]}, 0.0)
        await send(broker, "orders", "a", "b")
        await report(broker, "one", PartReport(title="till", sources=("orders",), seconds_each=30.0))
        route = ScaleRoute(lambda: broker, clock=lambda: now[0])
        assert (await ask(route, "actor=till"))[1]["work_seconds"] == 60.0
        await broker.reports.drop("one")
        now[0] += FRESH
        found = (await ask(route, "actor=till"))[1]
        assert (found["work_seconds"], found["is_guess"], found["nodes"]) == (60.0, False, 0)


class Slow(Actor):
    settings = Settings(title="slow", sources={"orders"})

    @receive
    async def take(self, *, seconds: float) -> None:
        await trio.sleep(seconds)


async def test_the_monitor_of_a_node_says_what_its_handlers_have_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(routes, "FRESH", 0.1)
    async with open_system(Slow, broker="sqlite://", monitor="127.0.0.1:0") as system:
        assert system.monitor is not None
        address = f"{system.monitor.url}/scale?actor=slow"
        for number in range(3):
            await system.broker.publish([Envelope("orders", str(number), b'{"seconds": 0.01}')])
        await system.broker.reports.watch(60)

        def fetch() -> dict[str, Any]:
            try:
                with urllib.request.urlopen(address, timeout=PATIENCE) as response:
                    return json.load(response)
            except urllib.error.HTTPError:  # As above.
                return {"is_guess": None}

        with trio.fail_after(PATIENCE):
            while True:
                found = await trio.to_thread.run_sync(fetch)
                if found["is_guess"] is False:
                    break
                await trio.sleep(0.2)
        assert (found["nodes"], found["concurrency"]) == (1, 1)
