"""What an inspection says of a system that runs, and of reports that are garbage."""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from actorwork import Actor, Settings, Supervisor, open_client, open_system, receive
from actorwork.abc import Broker
from actorwork.errors import BrokerError
from actorwork.inspection import Inspection, as_json
from actorwork.inspection.schedules import actors_without_node, known_triggers
from actorwork.policy.reports import HeldMessage, NodeReport, PartReport, written
from actorwork.records import TriggerDefinition
from actorwork.streams.broker import RedisBroker
from actorwork.testing.memory import MemoryBroker
from actorwork.testing.redis_server import open_redis_server
from tests.patience import PATIENCE

GATE: list[trio.Event] = []


class Mail(Actor):
    settings = Settings(title="mail", sources={"mails"})

    @receive
    async def handle(self, *, number: int) -> None:
        await GATE[-1].wait()


@pytest.fixture(autouse=True)
def _gate() -> None:
    GATE[:] = [trio.Event()]


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    with trio.fail_after(PATIENCE):
        while not (found := await look()):  # noqa: ASYNC110 - what it looks at is at a broker
            await trio.sleep(0.01)
    return found


async def test_a_full_server_is_looked_at():
    with open_redis_server() as server:
        async with open_client(server.url) as client:
            await client.publish("mails", {"number": 1})
            broker = client.broker
            assert isinstance(broker, RedisBroker)
            await broker.client.call("CONFIG", "SET", "maxmemory", "1", idempotent=True)
            try:
                with pytest.raises(BrokerError, match="maxmemory"), trio.fail_after(PATIENCE):
                    await broker.reports.watch()
                with trio.fail_after(PATIENCE):
                    source = await Inspection(broker).source("mails")
                assert source.backlog == 1
            finally:
                await broker.client.call("CONFIG", "SET", "maxmemory", "0", idempotent=True)


async def write(broker: Broker, node: str, *parts: PartReport, **facts: Any) -> NodeReport:
    """Have a node report that is not there."""
    now, _ = await broker.reports.nodes()
    report = NodeReport(
        **{"name": f"h:{node}", "host": "h", "pid": 1, "version": "1.0", "started": now - 60, "at": now}
        | {"interval": 300, **facts},
        tree=PartReport(title="root", kind="one_for_one", children=parts),
    )
    await broker.reports.write(node, written(report), now=now, ttl=60)
    return report


async def test_what_runs_is_seen_with_what_is_in_hand():
    broker = MemoryBroker()
    look = Inspection(broker)
    tree = Supervisor([Mail], name="shop")
    async with open_system(tree, broker=broker) as system, open_client(broker) as client:
        for number in (1, 2, 3):
            await client.publish("mails", {"number": number})

        async def is_busy() -> bool:
            return (await look.actor("mail")).handling == 1

        await until(is_busy)
        overview = await look.overview()
        assert (overview.backlog, overview.handling, overview.problems) == (3, 1, ())
        assert overview.commands <= 20
        (node,) = overview.nodes
        assert (node.id, node.state) == (system.node_id, "running")
        (mail,) = overview.actors
        assert mail.why is not None
        assert (mail.title, mail.why.code, mail.backlog, mail.states) == ("mail", "full", 3, {"running": 1})
        (held,) = mail.in_hand
        assert (held.node, held.actor, held.message.source) == (node.id, "mail", "mails")
        source = await look.source("mails")
        assert (source.backlog, source.actors, source.nodes, source.handling) == (3, ("mail",), (node.id,), 1)
        (shown,) = await look.tree()
        assert [part.title for part in shown.root.walk() if part.kind == "actor"] == ["mail"]
        view = await look.message(held.message.what)
        assert (view.source, view.why.code) == ("mails", "working")
        assert view.holder is not None
        assert (view.holder.node, view.holder.message.what) == (node.id, held.message.what)
        assert (await look.nodes()).total == 1
        assert (await look.node(node.name)).id == (await look.node(node.id[:8])).id == node.id
        json.dumps(as_json(overview), allow_nan=False)
        GATE[-1].set()


async def test_a_message_says_why_it_waits():
    broker = MemoryBroker()
    look = Inspection(broker)
    async with open_client(broker) as client:
        lost = await client.ref(Mail).submit({"number": 1})
        assert (await look.message(lost.id)).why.code == "no reader"
        later = await client.ref(Mail).submit({"number": 2}, delay=60)
        view = await look.message(later.id)
        assert (view.why.code, view.payload) == ("delayed", '{"number":2}')
        async with open_system(Mail, broker=broker):
            behind = [await client.ref(Mail).submit({"number": number}, key="ann") for number in (3, 4)]

            async def is_held() -> bool:
                return (await look.message(lost.id)).why.code == "working"

            await until(is_held)
            GATE[-1].set()

            async def is_over() -> bool:
                return (await look.message(lost.id)).why.code == "over"

            await until(is_over)
            GATE.append(trio.Event())
            assert [await one.result(timeout=PATIENCE) for one in behind] == [None, None]
    with pytest.raises(LookupError, match="name the source"):
        await look.message("nothing")
    assert (await look.message("nothing", "mails")).why.code == "unknown"


async def test_a_message_behind_its_key_names_the_one_in_hand():
    broker = MemoryBroker()
    look = Inspection(broker)
    async with open_client(broker) as client, open_system(Mail, broker=broker):
        first, second = [await client.ref(Mail).submit({"number": number}, key="ann") for number in (1, 2)]

        async def is_held() -> bool:
            return (await look.message(first.id)).why.code == "working"

        await until(is_held)
        view = await look.message(second.id)
        assert (view.why.code, view.why.subject, view.key) == ("key", "ann", "ann")
        assert first.id in view.why.text
        GATE[-1].set()


async def test_garbage_in_a_report_is_a_node_that_says_so():
    broker = MemoryBroker()
    look = Inspection(broker)
    now, _ = await broker.reports.nodes()
    for number, garbage in enumerate((b"", b"\xff\x00", b"[]", b'{"name": 1}', b"{" * 5000, b'{"tree": {}}')):
        await broker.reports.write(f"bad{number}", garbage, now=now, ttl=60)
    await write(broker, "good", PartReport(title="mail", sources=("mails",)))
    overview = await look.overview()
    states = {node.id: node.state for node in overview.nodes}
    assert states.pop("good") == "running"
    assert set(states.values()) == {"unreadable"}
    assert len(states) == 6
    assert {problem.name for problem in overview.problems} >= set(states)
    assert (await look.node("bad1")).problem
    assert await look.tree("bad1") == []
    json.dumps(as_json(overview), allow_nan=False)


async def test_nodes_that_are_late_blocked_or_without_a_lease_are_problems():
    broker = MemoryBroker()
    look = Inspection(broker)
    now, _ = await broker.reports.nodes()
    held = HeldMessage(what="m1", since=now - 20, source="mails")
    part = PartReport(title="mail", sources=("mails",), handling=1, in_hand=(held,))
    await write(broker, "late", part, at=now - 40, interval=10)
    await write(broker, "blocked", part, state="blocked", loop_lag=20.2, blocked="a.py:1 in run\nb.py:2 in spin")
    await write(broker, "lost", part, lease_margin=3.0)
    overview = await look.overview()
    assert {node.id: node.state for node in overview.nodes} == {
        "late": "late",
        "blocked": "blocked",
        "lost": "lease lost",
    }
    texts = {problem.name: problem.text for problem in overview.problems}
    assert texts["h:blocked"] == "its loop has been blocked for 20 s in b.py:2 in spin"
    assert re.match(r"it has not reported for [45]\d s", texts["h:late"])
    assert texts["h:lost"].startswith("its lease is lost")
    assert (await look.message("m1")).why.code in ("blocked", "lease lost")


async def test_the_tree_of_a_process_stands_in_that_of_its_program():
    broker = MemoryBroker()
    await write(broker, "parent", PartReport(title="pool", kind="process", node="child", pid=7))
    look = Inspection(broker)
    (problem,) = (await look.overview()).problems
    assert (problem.name, problem.text) == ("pool (7)", "it has not reported itself so far")
    await write(broker, "child", PartReport(title="mail", sources=("mails",)), process="pool")
    assert (await look.overview()).problems == ()
    (tree,) = await look.tree()
    assert [part.title for part in tree.root.walk()] == ["root", "pool", "mail"]
    assert (await look.nodes()).nodes[0].parent == "parent"


async def test_a_node_is_named_in_several_ways_and_one_only():
    broker = MemoryBroker()
    look = Inspection(broker)
    with pytest.raises(LookupError, match="no node 'x' reports itself; none does"):
        await look.node("x")
    await write(broker, "abc1", pid=11, name="h:11")
    await write(broker, "abc2", pid=12, name="h:12")
    for which in ("abc1", "h:11", "11"):
        assert (await look.node(which)).id == "abc1"
    for which in ("abc", "h"):
        with pytest.raises(LookupError, match="means 2 nodes"):
            await look.node(which)
    page = await look.nodes(limit=1)
    assert (page.total, page.next, page.nodes[0].id) == (2, "abc1", "abc1")
    page = await look.nodes(after="abc1")
    assert (page.next, [node.id for node in page.nodes]) == (None, ["abc2"])


async def test_a_command_that_is_not_answered_says_so_and_is_no_empty_result():
    broker = MemoryBroker()
    look = Inspection(broker)
    await write(broker, "deaf", PartReport(title="mail"))
    stacks = await look.stacks("deaf", within=0.01)
    assert (stacks.stacks, stacks.no_answer) == ((), "no answer from h:deaf within 0.01 s")
    stopped = await look.stop("deaf", within=0.01)
    assert (stopped.done, stopped.is_answered) == (False, False)
    assert stopped.text.startswith("no answer")


@pytest.mark.parametrize("garbage", [b"", b"\xff", b"[1]", b"[" * 100_000])
async def test_garbage_as_an_answer_is_no_answer(garbage: bytes):
    broker = MemoryBroker()
    await write(broker, "odd")
    async with trio.open_nursery() as nursery, broker.commands.listen("odd", lambda: nursery.start_soon(answer)):

        async def answer() -> None:
            for ask in (await broker.commands.take("odd")).asks:
                await broker.commands.answer(ask.id, garbage)

        stacks = await Inspection(broker).stacks("odd", within=PATIENCE)
    assert stacks.no_answer == "h:odd answered what cannot be read"


async def test_odd_stacks_in_an_answer_are_left_out():
    broker = MemoryBroker()
    await write(broker, "odd")
    said = {"stacks": [1, {}, {"lines": 3}, {"name": "x", "kind": "task", "lines": ["a"]}], "blocked": "long"}
    async with trio.open_nursery() as nursery, broker.commands.listen("odd", lambda: nursery.start_soon(answer)):

        async def answer() -> None:
            for ask in (await broker.commands.take("odd")).asks:
                await broker.commands.answer(ask.id, json.dumps(said).encode())

        stacks = await Inspection(broker).stacks("odd", within=PATIENCE)
    assert [(one.name, one.lines) for one in stacks.stacks] == [("x", ("a",))]
    assert stacks.blocked_for is None


async def test_a_node_shows_its_stacks_and_stops_when_it_is_told():
    broker = MemoryBroker()
    look = Inspection(broker)
    async with open_system(Mail, broker=broker) as system:
        node = await look.node(system.node_id)
        stacks = await look.stacks(node.name, within=PATIENCE)
        assert {one.kind for one in stacks.stacks} == {"task", "thread"}
        assert stacks.no_answer == ""
        nothing = await look.cancel(node.id, "mails", "m1")
        assert (nothing.done, "not running" in nothing.text) == (False, True)
        stopped = await look.stop(node.id, by="ann", within=PATIENCE)
        assert stopped.done
        await system.wait_stopped()


class Counted:
    """The reports, pauses and values of a broker, which count what they are asked."""

    def __init__(self, what: Any, counts: list[str]) -> None:
        self._what = what
        self._counts = counts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._what, name)

        def call(*args: Any, **named: Any) -> Any:
            self._counts.append(name)
            return found(*args, **named)

        return call if callable(found) else found


async def test_many_nodes_and_sources_are_read_in_few_commands(monkeypatch: pytest.MonkeyPatch):
    broker = MemoryBroker()
    for number in range(201):
        sources = tuple(f"s{number}-{one}" for one in range(10))
        await write(broker, f"n{number:04}", PartReport(title=f"a{number % 7}", sources=sources))
    counts: list[str] = []
    for part in ("_pauses", "_values"):
        monkeypatch.setattr(broker, part, Counted(getattr(broker, part), counts))
    monkeypatch.setattr(broker, "_reports", Counted(broker.reports, counts))
    overview = await Inspection(broker).overview(limit=50)
    assert (len(overview.nodes), len(overview.sources), overview.sources_left_out) == (201, 50, 1960)
    assert len(overview.actors) == 7
    # One for 200 nodes; the broker itself takes 2,000 sources at once.
    assert (counts.count("get"), counts.count("count")) == (3, 1)
    assert len(counts) <= 10
    assert overview.commands <= 20


class Refusing:
    """Reports that a user may not read."""

    async def nodes(self) -> Any:
        raise BrokerError("NOPERM this user has no permissions to run the 'zrangebyscore' command")


async def test_who_may_not_read_reports_sees_triggers_and_not_whether_a_node_fires_them(
    monkeypatch: pytest.MonkeyPatch,
):
    broker = MemoryBroker()
    definition = TriggerDefinition(
        source="s", id="0123456789abcdef", actor="shop", title="nightly", schedule='{"every": 60}', data=b"{}"
    )
    await broker.triggers.register("s", [definition])
    records = await broker.triggers.list()
    assert await actors_without_node(broker, records) == {"shop"}
    monkeypatch.setattr(broker, "_reports", Refusing())
    (known,) = known_triggers(records, [], await actors_without_node(broker, records))
    assert (known.state, known.why) == ("on", "")
