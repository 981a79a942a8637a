"""A node reports itself at the broker, and does what it is asked; also while its loop is blocked."""

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from actorwork import Actor, CircuitBreaker, RateLimit, Settings, open_client, open_system, receive
from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble, Event
from actorwork.policy import history
from actorwork.policy.reports import NodeReport, read
from actorwork.runtime import engine
from actorwork.runtime.reporting import reporter, stand_in
from actorwork.testing.memory import MemoryBroker, MemoryNode
from tests.doubles import Kept
from tests.patience import PATIENCE


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "REPORT_AFTER", 0.0)
    monkeypatch.setattr(stand_in, "BEGIN_AFTER", 0.0)
    monkeypatch.setattr(reporter, "WATCHED", 0.02)


@pytest.fixture(params=["redis", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("redis_url") if request.param == "redis" else f"sqlite:///{tmp_path / 'm.db'}"


async def until_some(look: Callable[[], Any]) -> Any:
    with trio.fail_after(PATIENCE):
        while not (found := await look()):  # noqa: ASYNC110 - what it looks at is at a broker
            await trio.sleep(0.01)
    return found


async def reports_of(broker: Broker) -> list[NodeReport]:
    _, nodes = await broker.reports.nodes()
    return [read(one.data) for one in await broker.reports.get(nodes)]


async def ask(broker: Broker, node: str, **command: Any) -> dict[str, Any]:
    asked = await broker.commands.ask(node, json.dumps(command).encode())
    assert asked is not None
    return json.loads(await until_some(partial(broker.commands.find_answer, asked)))


class Mail(Actor):
    settings = Settings(title="mail", sources={"mails"}, concurrency=2)
    gate: trio.Event

    @receive
    async def handle(self, *, number: int) -> None:
        await self.gate.wait()


async def test_a_node_reports_what_it_runs_and_takes_that_back_at_its_end(url: str):
    Mail.gate = trio.Event()
    async with open_broker(url) as broker:
        async with open_system([Mail], broker=url, lease=30) as system, open_client(broker) as client:
            (report,) = await until_some(partial(reports_of, broker))
            assert (report.state, report.process, report.lease) == ("running", "", 30)
            assert report.lease_margin is not None
            assert 0 < report.lease_margin <= 30
            assert report.memory > 1e6
            assert report.cpu_seconds > 0
            assert report.threads >= 1
            assert report.interval > 10
            (mail,) = report.actors
            assert (mail.title, mail.state, mail.concurrency, mail.waiting) == ("mail", "running", 2, 0)
            assert "mails" in mail.sources
            await client.publish("mails", {"number": 1})
            await broker.reports.watch(60)

            async def busy() -> Any:
                (report,) = await reports_of(broker)
                return report.actors[0].in_hand and report

            report = await until_some(busy)
            (held,) = report.actors[0].in_hand
            assert held.source == "mails"
            assert held.since == pytest.approx(report.at, abs=30)  # Read one after the other, in either order.
            assert report.counters["read"] == 1
            assert (await broker.reports.nodes())[1] == [system.node_id]
            Mail.gate.set()
            await client.publish("mails", {"number": "none"})

            async def settled() -> Any:
                (report,) = await reports_of(broker)
                past = history.read(report.history)
                return past is not None and (sum(past.settled), sum(past.dead)) == (2, 1) and past

            past = await until_some(settled)
            assert past.memory[-1] > 0
        assert (await broker.reports.nodes())[1] == []


async def test_a_node_shows_where_its_threads_and_tasks_are(url: str):
    Mail.gate = trio.Event()
    async with open_system([Mail], broker=url) as system, open_client(system.broker) as client:
        await until_some(partial(reports_of, system.broker))
        await client.publish("mails", {"number": 1})
        await until_some(_in_hand(system.broker))
        answer = await ask(system.broker, system.node_id, command="stacks")
        found = [(one["kind"], one["lines"]) for one in answer["stacks"]]
        assert any(kind == "task" and any(line.endswith("in handle") for line in lines) for kind, lines in found)
        assert any(kind == "thread" for kind, _ in found)
        Mail.gate.set()


def _in_hand(broker: Broker) -> Callable[[], Any]:
    async def look() -> Any:
        await broker.reports.watch(60)
        return [held for report in await reports_of(broker) for part in report.actors for held in part.in_hand]

    return look


async def test_a_node_cancels_a_message_in_hand(url: str):
    Mail.gate = trio.Event()
    kept = Kept()
    async with open_system([Mail], broker=url, emit=kept) as system, open_client(system.broker) as client:
        await until_some(partial(reports_of, system.broker))
        await client.publish("mails", {"number": 1})
        (held, *_) = await until_some(_in_hand(system.broker))
        cancel = partial(ask, system.broker, system.node_id, command="cancel", source="mails", reason="enough")
        assert not (await cancel(message="another"))["done"]
        assert (await cancel(message=held.what))["done"]

        async def is_over() -> bool:
            return not await _in_hand(system.broker)() and await system.broker.backlog("mails") == 0

        await until_some(is_over)


async def test_a_node_that_is_asked_to_stop_answers_and_stops(url: str):
    async with open_broker(url) as broker, trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[str]) -> None:
            async with open_system([Mail], broker=url) as system:
                task_status.started(system.node_id)
                await system.wait_stopped()

        node = await nursery.start(run)
        await until_some(partial(reports_of, broker))
        assert (await ask(broker, node, command="stop", by="ann"))["done"]


@pytest.mark.parametrize("garbage", [b"", b"\xff", b"[]", b"{}", b'{"command": 1}', b'{"command": "dance"}'])
async def test_what_is_no_command_is_refused(garbage: bytes):
    broker = MemoryBroker()
    async with open_system([Mail], broker=broker) as system:
        asked = await broker.commands.ask(system.node_id, garbage)
        assert asked is not None
        answer = json.loads(await until_some(partial(broker.commands.find_answer, asked)))
        assert "stacks, cancel and stop" in answer["refused"]


async def test_where_no_one_looks_a_broker_in_memory_is_asked_for_nothing(mock_clock: trio.testing.MockClock):
    broker = MemoryBroker()
    async with open_system([Mail], broker=broker) as system:
        await trio.sleep(50_000)
        assert (await broker.reports.nodes())[1] == []
        await broker.reports.watch()
        await until_some(partial(reports_of, broker))
        assert (await broker.reports.nodes())[1] == [system.node_id]


async def test_a_node_goes_on_whatever_is_wrong_with_its_report(monkeypatch: pytest.MonkeyPatch):
    broker, kept = MemoryBroker(), Kept()

    async def refuse(*_: object, **__: object) -> None:
        raise BrokerError("full")

    monkeypatch.setattr(broker.reports, "write", refuse)
    Mail.gate = trio.Event()
    Mail.gate.set()
    async with open_system([Mail], broker=broker, emit=kept) as system, open_client(broker) as client:
        await broker.reports.watch()

        async def is_told() -> bool:
            return bool(kept.of(BrokerTrouble))

        await until_some(is_told)
        assert [one.error for one in kept.of(BrokerTrouble)] == ["full"]
        await client.publish("mails", {"number": 1})

        async def is_settled() -> bool:
            return await broker.backlog("mails") == 0

        await until_some(is_settled)
        assert system.has_started


async def test_a_node_that_lost_its_lease_reports_under_its_new_name():
    broker = MemoryBroker()
    async with open_system([Mail], broker=broker) as system:
        await broker.reports.watch(1000)
        await until_some(partial(reports_of, broker))
        before = system.node_id
        node = broker.nodes[0]
        assert isinstance(node, MemoryNode)
        node.lose_lease()
        assert system.node_id != before

        async def is_new() -> bool:
            await broker.reports.watch(1000)
            return (await broker.reports.nodes())[1] == [system.node_id]

        await until_some(is_new)


class Failing(Actor):
    settings = Settings(
        title="failing",
        sources={"fails"},
        limits=[CircuitBreaker(failures=1, within=60, reset=900), RateLimit(1, per=1000, burst=2, name="slow")],
    )

    @receive
    async def handle(self, *, number: int) -> None:
        raise ValueError(number)


async def test_a_report_shows_limits_that_hold_back_and_open_circuits():
    broker = MemoryBroker()
    async with open_system([Failing], broker=broker, emit=lambda _: None), open_client(broker) as client:
        for number in range(4):
            await client.publish("fails", {"number": number})

        async def held() -> Any:
            await broker.reports.watch(60)
            return [(report, one) for report in await reports_of(broker) for one in report.actors[0].hold_ups]

        await until_some(held)

        async def is_open() -> Any:
            return [(report, one) for report, one in await held() if one.kind == "circuit"]

        report, circuit = (await until_some(is_open))[0]
        assert circuit.name == "failing"
        assert circuit.until == pytest.approx(report.at + 900, abs=60)


async def test_a_blocked_loop_is_reported_with_its_stack_and_answers_from_a_thread(url: str):
    release = threading.Event()
    nodes: list[str] = []

    class Blocking(Actor):
        settings = Settings(title="blocking", sources={"blocks"})

        @receive
        async def handle(self, *, number: int) -> None:
            hold_the_loop()

    def hold_the_loop() -> None:
        release.wait(60)

    async def run() -> None:
        async with open_system([Blocking], broker=url, lease=120, loop_stall=0.05, emit=ignore) as system:
            nodes.append(system.node_id)
            await system.wait_stopped()

    thread = threading.Thread(target=trio.run, args=(run,))
    try:
        async with open_broker(url) as broker, open_client(broker) as client:
            thread.start()
            await until_some(partial(reports_of, broker))

            async def is_open() -> list[str]:
                return nodes

            (node,) = await until_some(is_open)
            await client.publish("blocks", {"number": 1})

            async def is_blocked() -> Any:
                # With a threshold this low, anything else that takes a moment is reported, too.
                found = [one for one in await reports_of(broker) if one.state == "blocked"]
                return [one for one in found if "in hold_the_loop" in one.blocked]

            (report,) = await until_some(is_blocked)
            assert report.loop_lag > 0
            assert [part.title for part in report.actors] == ["blocking"]
            answer = await ask(broker, node, command="stacks")
            assert answer["blocked"] > 0
            lines = [line for one in answer["stacks"] for line in one["lines"]]
            assert any(line.endswith("in hold_the_loop") for line in lines)
            refused = await ask(broker, node, command="stop")
            assert not refused["done"]
            assert "blocked" in refused["text"]
            release.set()

            async def has_stalled() -> Any:
                return [one.stalls for one in await reports_of(broker) if one.state == "running" and one.stalls]

            await broker.reports.watch(PATIENCE)
            (stalls,) = await until_some(has_stalled)
            assert stalls.count >= 1
            assert stalls.seconds >= stalls.last > 0
            assert stalls.stack

            async def is_stopped() -> bool:
                return (await ask(broker, node, command="stop", by="the test"))["done"]

            # The thread may answer once more; then the loop does.
            await until_some(is_stopped)
    finally:
        release.set()
        await trio.to_thread.run_sync(thread.join, 30)
    assert not thread.is_alive()


def ignore(_: Event) -> None: ...
