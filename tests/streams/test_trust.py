"""Who may do what at Redis: a producer who may only XADD, and the users whose rights SECURITY.md lists."""

import json
import re
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
from click.testing import CliRunner

from actorwork import Actor, Interval, Settings, Trigger, open_system, receive
from actorwork.cli.commands import actorwork
from actorwork.clients.sender import source_name
from actorwork.errors import BrokerError, SettingsError
from actorwork.events import BrokerTrouble, Event, Fenced
from actorwork.message import REPLY_TO, RESULT_TTL, Envelope, Outcome, Priority, Unique
from actorwork.policy.runs.values import Need, Plan, StepPlan
from actorwork.policy.settlement import Ack, Fail, Reject, Retry
from actorwork.records import TriggerDefinition
from actorwork.streams import diagnosis
from actorwork.streams.transport.client import open_client
from actorwork.streams.transport.redis_py import NoPermissionError
from actorwork.testing.redis_server import RedisServer, open_redis_server
from tests.patience import PATIENCE
from tests.streams.bench_of_actors import WHY, Scene, inbox, open_scene, subscription
from tests.streams.conftest import wait_until

PROJECT = Path(__file__).parents[2]


def rules() -> dict[str, str]:
    """Return the rules for users in SECURITY.md."""
    (block,) = re.findall(r"```text\n(user .*?)```", (PROJECT / "SECURITY.md").read_text(), re.DOTALL)
    users = [" ".join(text.split()) for text in block.split("\n\n")]
    return {text.split()[1]: text.removeprefix("user ") for text in users}


@pytest.fixture
def server() -> Generator[RedisServer]:
    with open_redis_server(users=list(rules().values())) as server:
        yield server


@asynccontextmanager
async def open_scene_of(server: RedisServer, user: str) -> AsyncGenerator[Scene]:
    async with open_scene(server.url.replace("unix://", f"unix://{user}:secret@")) as scene:
        yield scene


def producer(server: RedisServer) -> Any:
    """Return the connection of a producer who may do nothing but XADD to `orders`."""
    return redis.Redis(
        unix_socket_path=str(server.socket_path), username="producer", password="secret", socket_timeout=None
    )


def forge(server: RedisServer, *fields: str) -> None:
    with producer(server) as connection:
        connection.execute_command("XADD", "orders", "*", *fields)


# ------------------------------------------------------------------------------------------- a producer who only XADDs


async def test_an_entry_does_not_make_a_node_publish_outside_the_channels_for_replies(server: RedisServer):
    orders = subscription()
    pushes: list[object] = []
    async with open_scene(server.url) as scene, scene.node(orders) as node:
        async with open_client(server.url, on_push=pushes.append) as listener:
            await listener.subscribe(b"commands")
            for settlement in (Ack(b"1"), Reject(WHY), Fail(WHY), Retry(60, WHY)):
                forge(server, "id", "e", "data", "1", "headers", json.dumps({REPLY_TO: "commands"}))
                node.settle(orders, await inbox(orders).take_one(), settlement)
                await node.wait_settled()
            assert await scene.broker.delayed.cancel("orders", "e")
            await listener.call("PUBLISH", "commands", "the end")
            await wait_until(lambda: pushes)
        assert pushes == [[b"message", b"commands", b"the end"]]
        ignored = [each for each in scene.told(BrokerTrouble) if "replying" in each.doing]
        assert [each.next for each in ignored] == ["not sent"] * 3
        assert "'commands'" in ignored[0].doing


@pytest.mark.parametrize("claim", [(), ("claim", ""), ("claim", "0011223344556677")])
async def test_an_entry_does_not_overwrite_the_result_of_another_message(server: RedisServer, claim: tuple[str, ...]):
    orders = subscription()
    async with open_scene(server.url) as scene, scene.node(orders) as node:
        headers = {RESULT_TTL: 60}
        (sent,) = await scene.send("orders", b"1", headers=headers)
        node.settle(orders, await inbox(orders).take_one(), Ack(b'"genuine"'))
        await node.wait_settled()
        forged = ("id", sent.id, "data", "1", "headers", json.dumps(headers), *claim)
        for settlement in (Ack(b'"forged"'), Reject(WHY), Fail(WHY)):
            forge(server, *forged)
            node.settle(orders, await inbox(orders).take_one(), settlement)
        await node.wait_settled()
        assert await scene.broker.find_outcome("orders", sent.id) == Outcome("done", b'"genuine"')
        ignored = [each for each in scene.told(BrokerTrouble) if "storing the result" in each.doing]
        assert [each.next for each in ignored] == ["not stored"] * 3
        assert sent.id in ignored[0].doing


async def test_an_entry_that_crashes_processes_does_not_overwrite_a_result(server: RedisServer):
    orders = subscription(max_crashes=1)
    async with open_scene(server.url) as scene:
        headers = {RESULT_TTL: 60, REPLY_TO: "commands"}
        (sent,) = await scene.send("orders", b"1", headers={RESULT_TTL: 60})
        async with scene.node(orders) as node:
            node.settle(orders, await inbox(orders).take_one(), Ack(b'"genuine"'))
        forge(server, "id", sent.id, "data", "1", "headers", json.dumps(headers))
        await scene.die_with(orders, 1)
        async with scene.node(orders) as node:
            await wait_until(lambda: node.statistics()["dead_lettered"] == 1)
        assert await scene.broker.find_outcome("orders", sent.id) == Outcome("done", b'"genuine"')


@pytest.mark.parametrize("settlements", [(Ack(),), (Retry(0, WHY), Ack()), (Retry(0.001, WHY), Fail(WHY))])
async def test_an_entry_does_not_free_the_unique_key_of_another_message(
    server: RedisServer, settlements: tuple[Ack | Retry | Fail, ...]
):
    orders = subscription()
    async with open_scene(server.url) as scene, scene.node(orders) as node:
        first, second = (Envelope("orders", name, b"1", unique=Unique("order")) for name in ("u1", "u2"))
        assert await scene.broker.publish_unique(first) == "u1"
        genuine = await inbox(orders).take_one()
        forge(server, "id", "u1", "unique", "order", "data", "2")
        for settlement in settlements:
            node.settle(orders, await inbox(orders).take_one(), settlement)
        await node.wait_settled()
        assert await scene.broker.publish_unique(second) == "u1"
        node.settle(orders, genuine, Retry(0, WHY))
        again = await inbox(orders).take_one()
        assert await scene.broker.publish_unique(second) == "u1"
        node.settle(orders, again, Ack())
        await node.wait_settled()
        assert await scene.broker.publish_unique(second) == "u2"
        assert scene.told(Fenced) == []


@pytest.mark.parametrize("settlement", [Ack(), Retry(600, WHY), Fail(WHY)])
async def test_an_entry_does_not_hold_the_key_that_it_names(server: RedisServer, settlement: Ack | Retry | Fail):
    orders = subscription()
    async with open_scene(server.url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"1", b"2", key="k")
        first = await inbox(orders).take_one()
        forge(server, "id", "f", "key", "k", "data", "3")
        node.settle(orders, await inbox(orders).take_one(), settlement)
        await node.wait_settled()
        assert inbox(orders).waiting == []  # The second still waits for the first.
        node.settle(orders, first, Ack())
        assert (await inbox(orders).take_one()).payload == b"2"  # And for nothing else, also beside a delayed retry.


async def test_an_entry_does_not_end_the_step_that_it_names(server: RedisServer):
    orders = subscription()
    async with open_scene(server.url) as scene, scene.node(orders) as node:
        steps = (
            StepPlan(name="one", source="orders", template=("1",)),
            StepPlan(name="two", source="orders", template=(Need(0),)),
        )
        plan = Plan(id="r", home="orders", steps=steps, result=(Need(1),))
        assert await scene.broker.runs.start(plan)
        genuine = await inbox(orders).take_one()
        flow = genuine.headers["actorwork-flow"]
        for name in (genuine.id, "r/undo/0"):
            for step in (flow, "orders/r/3"):
                headers = json.dumps({"actorwork-flow": step})
                forge(server, "id", name, "data", "1", "headers", headers, "claim", "0011")
                node.settle(orders, await inbox(orders).take_one(), Ack(b'"forged"'))
        await node.wait_settled()
        assert inbox(orders).waiting == []
        node.settle(orders, genuine, Ack(b'"genuine"'))
        assert (await inbox(orders).take_one()).payload == b'"genuine"'


async def test_a_result_outlives_whatever_a_message_goes_through(server: RedisServer):
    orders = subscription()
    async with open_scene(server.url) as scene, scene.node(orders) as node:
        headers = {RESULT_TTL: 60}
        await scene.send("orders", b"1", headers=headers, delay=0.001)
        await scene.send("orders", b"2", headers=headers, key="k", priority=Priority.HIGH)
        await scene.send("orders", b"3", headers=headers, key="k")
        await scene.broker.publish_new(Envelope("orders", next(scene.ids), b"4", headers=headers))
        await scene.broker.publish_new(Envelope("orders", next(scene.ids), b"5", headers=headers))
        done: set[str] = set()
        while len(done) < 5:
            delivery = await inbox(orders).take_one()
            assert delivery.attempt <= 3
            node.settle(orders, delivery, {1: Retry(0, WHY), 2: Retry(0.001, WHY), 3: Fail(WHY)}[delivery.attempt])
            if delivery.attempt == 3:
                done.add(delivery.id)
        await node.wait_settled()
        letters = await scene.broker.dead_letters.list("orders")
        assert await scene.broker.dead_letters.replay("orders", [letter.entry for letter in letters]) == 5
        for name in sorted(done):
            outcome = await scene.broker.find_outcome("orders", name)
            assert outcome is not None
            assert outcome.status == "failed"
        for _ in range(5):
            node.settle(orders, await inbox(orders).take_one(), Ack(b"7"))
        await node.wait_settled()
        for name in sorted(done):
            assert await scene.broker.find_outcome("orders", name) == Outcome("done", b"7")


@pytest.mark.parametrize("name", ["actorwork:triggers", "actorwork:paused", "actorwork:anything"])
async def test_our_own_keys_are_no_sources(redis_url: str, name: str):
    with pytest.raises(SettingsError, match="not beginning with 'actorwork:'"):
        Settings(title="a", sources={name})
    with pytest.raises(ValueError, match="not beginning with 'actorwork:'"):
        source_name(name)
    async with open_scene(redis_url) as scene:
        envelope = Envelope(name, next(scene.ids), b"1")
        for publish in (scene.broker.publish_new, scene.broker.publish_unique):
            with pytest.raises(BrokerError, match="our own keys"):
                await publish(envelope)
        assert await scene.call("EXISTS", name) == 0


async def test_a_node_works_though_another_program_has_written_our_keys(redis_url: str):
    async with open_scene(redis_url) as scene:
        for name in ("actorwork:triggers", "actorwork:paused"):
            await scene.call("XADD", name, "*", "x", "1")

    fired = trio.Event()

    class Clock(Actor):
        settings = Settings(title="clock", triggers=[Trigger(title="t", schedule=Interval(seconds=1))])

        @receive
        async def tick(self) -> None:
            fired.set()

    events: list[Event] = []
    with trio.fail_after(PATIENCE):
        async with open_system([Clock], broker=redis_url, emit=events.append):
            await fired.wait()
    told = "\n".join(f"{event.error} {event.next}" for event in events if isinstance(event, BrokerTrouble))
    assert "DEL actorwork:triggers" in told
    assert "DEL actorwork:paused" in told


# ------------------------------------------------------------------------------------------------- the users' rights


def test_a_producer_may_only_add(server: RedisServer):
    with producer(server) as connection:
        connection.execute_command("XADD", "orders", "*", "x", "1")
        for refused in (
            ("XADD", "letters", "*", "x", "1"),
            ("XRANGE", "orders", "-", "+"),
            ("PUBLISH", "actorwork:attend", ""),
            ("SET", "actorwork:{orders}:claim:x", "1"),
        ):
            with pytest.raises(NoPermissionError):
                connection.execute_command(*refused)


async def test_clients_and_nodes_do_everything_with_their_least_rights(server: RedisServer):
    orders = subscription()
    async with (
        open_scene_of(server, "client") as sender,
        open_scene_of(server, "node") as scene,
        open_scene_of(server, "operator") as operator,
        scene.node(orders) as node,
        sender.broker.open_replies() as replies,
    ):
        waiting = replies.expect("orders", "asked")
        headers = {REPLY_TO: replies.address}
        await sender.broker.publish([Envelope("orders", "asked", b"1", headers=headers)])
        await sender.broker.publish_new(Envelope("orders", next(sender.ids), b"1", headers={RESULT_TTL: 60}))
        await sender.broker.publish_new(Envelope("orders", next(sender.ids), b"1"))
        await sender.send("orders", b"2", delay=0.01)
        await sender.send("orders", b"3", b"4", key="k", priority=Priority.HIGH)
        await sender.send("orders", b"5", lifetime=60)
        replaced = Unique("u", on_conflict="replace")
        for name in ("a", "b"):
            assert await sender.broker.publish_unique(Envelope("orders", name, b"6", delay=9, unique=replaced)) == name
        assert await sender.broker.delayed.cancel("orders", "b")
        for _ in range(7):
            delivery = await inbox(orders).take_one()
            if delivery.attempt == 1:
                node.settle(orders, delivery, Retry(0.001, WHY))
                delivery = await inbox(orders).take_one()
            node.settle(orders, delivery, Ack(b"7") if delivery.payload != b"5" else Fail(WHY))
            await node.wait_settled()
        with trio.fail_after(PATIENCE):
            assert await waiting.outcome() == Outcome("done", b"7")
        assert await sender.broker.find_outcome("orders", "00112233aabbccdd-0") == Outcome("done", b"7")

        (letter,) = await operator.broker.dead_letters.list()
        assert await operator.broker.dead_letters.replay("orders", [letter.entry]) == 1
        await node.release_deliveries(orders, [await inbox(orders).take_one()])
        node.settle(orders, await inbox(orders).take_one(), Ack())
        await node.wait_settled()
        await operator.broker.pauses.pause("source", "orders")
        assert len(await operator.broker.pauses.list()) == 1
        assert await operator.broker.pauses.resume("source", "orders")
        assert await operator.broker.backlog("orders") == 0
        assert await operator.broker.oldest("orders") is None

        trigger = TriggerDefinition(source="orders", id="t", actor="a", title="t", schedule="{}", data=b"1")
        (record,) = await scene.broker.triggers.register("orders", [trigger])
        sent = [Envelope("orders", "fired", b"1")]
        fired = await scene.broker.triggers.fire(trigger, decided=record.last, last=record.last + 1, messages=sent)
        assert fired.outcome == "fired"
        assert await operator.broker.triggers.skip("orders", "t")
        assert await operator.broker.triggers.forget("orders", "t")

        for who in (sender, scene, operator):
            assert [each for each in who.told(BrokerTrouble) if "permission" in each.error] == []
        findings = {finding.text for finding in await scene.broker.diagnose() if finding.subject == "permissions"}
        assert findings == {"this user may do all that is needed"}


async def test_an_operator_starts_and_ends_workflows(server: RedisServer):
    orders = subscription()
    async with (
        open_scene_of(server, "node") as scene,
        open_scene_of(server, "operator") as operator,
        scene.node(orders) as node,
    ):
        runs = operator.broker.runs
        undo = StepPlan(name="undo", source="orders", template=(Need(0),))
        steps = (
            StepPlan(name="one", source="orders", template=("1",), undo=undo),
            StepPlan(name="two", source="orders", template=(Need(0),), delay=60),
            StepPlan(name="asked", kind="signal", seconds=60),
        )
        assert await runs.start(Plan(id="r", home="orders", steps=steps, result=(Need(1),), deadline=60))
        node.settle(orders, await inbox(orders).take_one(), Ack(b"7"))
        await node.wait_settled()
        assert await runs.pause("r")
        assert await runs.resume("r")
        assert await runs.signal("r", "asked", b"1")
        assert [info.id for info in await runs.list()] == ["r"]
        assert len(await runs.steps("r")) == 3
        assert await runs.cancel("r", "no more")
        assert (await inbox(orders).take_one()).payload == b"7"  # What undoes the first.
        assert await runs.forget("r")
        assert [each for each in scene.told(BrokerTrouble) if "permission" in each.error] == []


@pytest.mark.parametrize(
    "command",
    [
        "dead ls",
        "dead replay orders --all --yes",
        "dead drop orders --all --yes",
        "pause --source orders --force",
        "resume --source orders",
        "paused",
        "triggers ls",
        "triggers put till hourly --every 1h --force",
        "messages",
        "messages --source orders",
        "purge orders --yes",
        "audit",
        "doctor",
        "send orders {} --force",
    ],
)
def test_an_operator_uses_the_command_line(server: RedisServer, command: str):
    url = server.url.replace("unix://", "unix://operator:secret@")
    result = CliRunner(env={"ACTORWORK_BROKER": url}).invoke(actorwork, command.split(), auto_envvar_prefix="ACTORWORK")
    said = result.output
    if command.startswith("resume"):
        assert "was not paused" in said
    elif command == "doctor":
        assert "XREADGROUP" in said  # An operator does not read.
    else:
        assert result.exit_code == 0, said
        assert "permission" not in said


async def test_a_client_may_not_write_to_other_sources(server: RedisServer):
    async with open_scene_of(server, "client") as scene:
        with pytest.raises(BrokerError, match=r"permission|access"):
            await scene.send("letters", b"1")


def test_the_diagnosis_names_every_command_that_scripts_use():
    known = {name for name, *_ in (*diagnosis.NEEDED, *diagnosis.USEFUL)}
    known.add("SPUBLISH")  # Tried on a cluster alone, for replies: where it is refused, they are published everywhere.
    for path in (PROJECT / "actorwork/streams/lua").glob("*.lua"):
        used = set(re.findall(r"redis\.p?call\(\s*'([A-Z]+)'", path.read_text()))
        assert used <= known, path.name


@pytest.mark.parametrize("right", ["multi", "exec"])
async def test_the_diagnosis_warns_of_useful_rights_that_are_missing(right: str):
    with open_redis_server(users=[f"ann on >secret ~* &* +@all -{right}"]) as server:
        async with open_scene(server.url.replace("unix://", "unix://ann:secret@")) as scene:
            (found,) = [finding for finding in await scene.broker.diagnose() if finding.subject == "permissions"]
            assert (found.level, found.advice) == ("warning", f"ACL SETUSER … +{right}")
            assert found.text.startswith(f"this user may not use {right.upper()} (publishing in one step): ")
            for _ in range(2):
                await scene.broker.publish_new(Envelope("orders", next(scene.ids), b"1"))
            assert await scene.length("orders") == 2


async def test_users_with_the_rights_to_its_shards_publish_to_a_divided_source_and_read_it():
    more = {"client": "~orders.* ~actorwork:{orders.*}:*", "node": "~orders.*"}
    with open_redis_server(users=[f"{rule} {more.get(user, '')}" for user, rule in rules().items()]) as server:
        orders = subscription()
        async with open_scene_of(server, "node") as scene, open_scene_of(server, "client") as sender:
            await scene.broker.shards.declare("orders", 3)
            await sender.send("orders", b"1", b"2", b"3", b"4")
            async with scene.node(orders) as node:
                found = [await inbox(orders).take_one() for _ in range(4)]
                for delivery in found:
                    node.settle(orders, delivery, Ack())
                await node.wait_settled()
                assert await scene.broker.backlog("orders") == 0
        assert sorted([delivery.payload for delivery in found], key=str) == [b"1", b"2", b"3", b"4"]
