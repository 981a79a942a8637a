"""Joins that a test drives by itself: it takes the messages of steps as a node would, and settles them in its order."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
import trio.testing

from actorwork import Actor, MessageFailed, Settings, open_client, open_system, receive
from actorwork.brokers import open_broker
from actorwork.clients.runs import Run
from actorwork.embedded import turns, writer
from actorwork.message import Delivery, Failure
from actorwork.policy.runs.values import Heir, Plan
from actorwork.policy.settlement import Ack, Fail, Reject, Settlement
from actorwork.streams.transport.slots import key_slot
from actorwork.testing import open_test_system
from actorwork.testing.conformance.fake_consumer import FakeConsumer, open_consumer
from actorwork.testing.redis_server import RedisServer
from actorwork.workflows import Flow, Status, Step, chain, chord, group, signal, step
from tests.patience import PATIENCE
from tests.workflows.conftest import OpenStage, Stage
from tests.workflows.shop import Alarm, Calculator, Clerk, Flaky, Note, Square, Sum, Text
from tests.workflows.test_runs import squares, text_of, until

NUMBERS = Calculator.settings.default_source
NOTES = Clerk.settings.default_source
FAILURE = Failure("ValueError", "as it happens")


@asynccontextmanager
async def by_hand(stage: Stage, *sources: str, room: int = 100) -> AsyncGenerator[FakeConsumer]:
    """Take the place of the calculator, or of the actors that take these sources."""
    async with open_consumer(stage.broker, *(sources or (NUMBERS,)), group="by hand", room=room) as hands:
        yield hands


def given(delivery: Delivery) -> Any:
    payload: Any = delivery.payload
    return json.loads(payload)


def step_of(delivery: Delivery) -> int:
    return int(delivery.id.rpartition("/")[2])


async def take_steps(hands: FakeConsumer, count: int) -> list[Delivery]:
    """Take so many deliveries, and return them in the order of their steps."""
    return sorted(await hands.take(count), key=step_of)


# ---- order, doubles, several nodes ----


async def test_the_results_of_ten_members_that_end_in_reverse_order_are_in_the_order_of_the_members(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        await stage.client.start(chord(squares(*range(10)), Calculator, Sum))
        for delivery in reversed(await take_steps(hands, 10)):
            assert not hands.waiting, "the body was sent before its last member had ended"
            await hands.settle(delivery, Ack(b"%d" % step_of(delivery)))
        assert given(await hands.take_one()) == {"numbers": list(range(10))}


async def test_two_members_that_fail_on_two_nodes_at_once_ring_one_alarm_that_names_both(
    open_stage: OpenStage,
) -> None:
    async with (
        open_stage() as stage,
        by_hand(stage, room=1) as one,
        by_hand(stage, room=1) as other,
        by_hand(stage, NOTES) as clerk,
    ):
        members = [step(Calculator, Flaky(number), name=name) for number, name in enumerate("ab")]
        run = await stage.client.start(
            Flow(chord(members, Calculator, Sum), on_error=lambda failures: step(Clerk, Alarm(failures)))
        )
        for hands in (one, other):
            await hands.wait(lambda hands=hands: hands.waiting, "one member each")
        async with trio.open_nursery() as nursery:
            for hands in (one, other):
                nursery.start_soon(hands.settle, hands.waiting.pop(), Fail(FAILURE))
        rung = await clerk.take_one()
        assert [(each["step"], each["kind"]) for each in given(rung)["failures"]] == [("a", "failed"), ("b", "failed")]
        await clerk.settle(rung)
        await stage.client.ref(Clerk).tell(Note("after"))
        assert given(await clerk.take_one()) == {"text": "after"}
        assert await run.status() is Status.FAILURE


@pytest.mark.parametrize("how", ["done", "failed", "continued"])
async def test_a_step_in_flight_of_a_forgotten_run_ends_nothing_of_the_one_that_has_its_id(
    open_stage: OpenStage, how: str
) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        former = await stage.client.start(step(Calculator, Square(2)), id="again")
        late = await hands.take_one()
        assert await former.cancel()
        assert await former.forget()
        run = await stage.client.start(chain(step(Calculator, Square(3)), step(Calculator, Text("end"))), id="again")
        own = await hands.take_one()
        assert own.id == late.id
        receipt = stage.client.receipt(own.id)
        before = await receipt.info()
        settlements: dict[str, Settlement] = {"done": Ack(b'"wrong"'), "failed": Fail(FAILURE)}
        asked = {name: late.headers[name] for name in late.headers if name.startswith("actorwork-")}
        heir = Heir(source=late.source, id=late.id, headers=asked)
        plan = Plan(id="child", home=NUMBERS, steps=(), result=('"wrong"',), heir=heir)
        settlements["continued"] = Ack(None, continues=plan)
        await hands.settle(late, settlements[how])
        info = await run.info()
        assert (info.done, info.failures, info.status) == (0, (), Status.STARTED)
        after = await receipt.info()
        assert before is not None
        assert after is not None
        assert after.failure is None
        assert {before.status, after.status} <= {Status.PENDING, Status.RECEIVED}  # It may be noted in between.
        await hands.settle(own, Ack(b"9"))
        last = await hands.take_one()
        assert given(last) == {"value": "end"}
        await hands.settle(last, Ack(b'"end"'))
        assert await run.result(timeout=PATIENCE) == "end"
        assert [one.status for one in await run.steps()] == [Status.SUCCESS] * 2


async def test_members_of_several_runs_that_are_settled_at_once_join_each_its_own_run(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        for run in ("a", "b", "c"):
            await stage.client.start(chord(squares(*range(5)), Calculator, Sum), id=run)
        taken = sorted(await hands.take(15), key=lambda delivery: (step_of(delivery), delivery.id), reverse=True)
        for delivery in taken:  # One of `b` fails amid the others, of which some are of its run.
            fails = delivery.id == "b/2"
            answer = Ack(b"%d" % (step_of(delivery) + ord(delivery.id[0])))
            hands.node.settle(hands.subscription, delivery, Fail(FAILURE) if fails else answer)
        await hands.node.wait_settled()
        bodies = sorted(await hands.take(2), key=lambda delivery: delivery.id)
        assert [body.id for body in bodies] == ["a/5", "c/5"]
        assert [given(body)["numbers"] for body in bodies] == [[ord(run) + n for n in range(5)] for run in "ac"]
        assert await stage.client.run("b").status() is Status.FAILURE
        kinds = [one.end and one.end.kind for one in await stage.client.run("b").steps()]
        assert kinds == ["done", "done", "failed", "done", "done", "cancelled"]
        for run, body in zip("ac", bodies, strict=True):
            hands.node.settle(hands.subscription, body, Ack(b"%d" % ord(run)))
        await hands.node.wait_settled()
        assert [await stage.client.run(run).result() for run in "ac"] == [ord("a"), ord("c")]


async def test_steps_settled_at_once_release_what_waits_for_several_of_them_once(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        members: list[Step[int]] = squares(1, 2, 3)
        both = step(Calculator, Sum(group(members[:2]).results), name="both")
        late = step(Calculator, Sum(group(members[1:]).results), name="late", after=[signal("go", str)])
        run = await stage.client.start(Flow(group([both, late]), title="shared"), id="shared")
        assert await run.signal("go", "now")
        for delivery in await take_steps(hands, 3):
            hands.node.settle(hands.subscription, delivery, Ack(b"%d" % given(delivery)["number"]))
        await hands.node.wait_settled()
        released = await hands.take(2)
        assert sorted(given(delivery)["numbers"] for delivery in released) == [[1, 2], [2, 3]]
        for delivery in released:
            hands.node.settle(hands.subscription, delivery, Ack(b"%d" % sum(given(delivery)["numbers"])))
        await hands.node.wait_settled()
        assert await run.result() == [3, 5]


@pytest.mark.parametrize("settlement", [Fail(FAILURE), Reject(FAILURE)], ids=["failed", "rejected"])
async def test_a_body_that_needs_a_member_without_a_result_is_cancelled_and_never_sent(
    open_stage: OpenStage, settlement: Settlement
) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        run = await stage.client.start(chord([*squares(1), step(Calculator, Square(2), name="b")], Calculator, Sum))
        first, second = await take_steps(hands, 2)
        await hands.settle(second, settlement)
        assert await run.status() is Status.STARTED, "its other member has not ended"
        await hands.settle(first, Ack(b"1"))
        how = "failed" if isinstance(settlement, Fail) else "was rejected"
        with pytest.raises(MessageFailed, match=f"'b' {how}: ValueError: as it happens"):
            await run.result()
        body = (await run.steps())[2].end
        assert body is not None
        assert body.failure is not None
        assert (body.kind, body.failure.reason) == ("cancelled", f"needs 'b', which {how}")
        await stage.client.ref(Calculator).tell(Text("after"))
        assert given(await hands.take_one()) == {"value": "after"}


async def test_ends_that_come_after_the_end_of_their_run_are_counted_unless_they_say_that_it_was_cancelled(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(group(squares(1, 2, 3, 4, 5)))
        async with by_hand(stage) as hands:
            first, *others = await take_steps(hands, 5)
            await hands.settle(first, Ack(b"1"))
            assert await run.cancel("enough")
            settlements = [Ack(b"4"), Fail(FAILURE), Reject(FAILURE), Reject(Failure("Cancelled", "enough"))]
            for delivery, settlement in zip(others, settlements, strict=True):
                await hands.settle(delivery, settlement)

            async def are_counted() -> bool:
                return (await run.info()).late_ends == 3

            await until(are_counted)
        info = await run.info()
        assert (info.status, info.reason, info.done) == (Status.CANCELLED, "enough", 5)
        assert [one.status for one in await run.steps()] == [Status.SUCCESS, *[Status.CANCELLED] * 4]


async def test_a_body_that_fails_fails_its_run_and_leaves_the_results_of_its_members(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        members: list[Step[int]] = squares(2, 3)
        body = step(Calculator, Sum(group(members).results), name="body")
        run = await stage.client.start(body)
        for delivery in await take_steps(hands, 2):
            await hands.settle(delivery, Ack(b"%d" % given(delivery)["number"] ** 2))
        await hands.settle(await hands.take_one(), Fail(FAILURE))
        with pytest.raises(MessageFailed, match="'body' failed: ValueError: as it happens"):
            await run.result()
        assert [one.end and (one.end.kind, one.end.value) for one in await run.steps()][:2] == [
            ("done", "4"),
            ("done", "9"),
        ]
        await stage.client.ref(Calculator).tell(Text("after"))
        assert given(await hands.take_one()) == {"value": "after"}, "a member or the body was sent again"


# ---- shapes, sources, sizes ----


async def test_a_chain_with_a_group_in_its_middle_hands_a_list_on(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        first, member = squares(1, 2)
        await stage.client.start(chain(first, group([member]), text_of))
        for number, settled in ((1, b"1"), (2, b"4")):
            delivery = await hands.take_one()
            assert given(delivery) == {"number": number}
            assert not hands.waiting
            await hands.settle(delivery, Ack(settled))
        assert given(await hands.take_one()) == {"value": [4]}


class Other(Actor):
    """Has a source of its own, and so has its subclass."""

    settings = Settings(title="other")

    @receive
    async def text(self, *, value: Any) -> Any:
        return value


class Another(Other):
    settings = Settings(title="another")


OTHER, ANOTHER = (cls.settings.default_source for cls in (Other, Another))


async def test_members_of_three_sources_release_a_body_of_a_fourth_as_the_last_of_them_is_settled(
    open_stage: OpenStage,
) -> None:
    """In the same script or transaction: no process reads the home of the run, and none forwards an end.

    On a cluster, where all four are in other slots, the node that has settled the last member forwards its end.
    """
    async with open_stage() as stage, by_hand(stage, OTHER, ANOTHER, NOTES) as hands:
        is_forwarded = stage.broker.url.startswith("redis+cluster:")
        if is_forwarded:
            assert len({key_slot(source) for source in (OTHER, ANOTHER, NOTES, NUMBERS)}) == 4
        members: list[Step[Any]] = [
            step(Other, {"value": 0}),
            step(Another, {"value": 1}),
            step(Clerk, Note(2)),
        ]
        await stage.client.start(chord(members, Calculator, Text))
        for delivery in await take_steps(hands, 3):
            assert await stage.broker.backlog(NUMBERS) == 0
            await hands.settle(delivery, Ack(b"%d" % step_of(delivery)))
        assert is_forwarded or await stage.broker.backlog(NUMBERS) == 1
        async with by_hand(stage) as body:
            assert given(await body.take_one()) == {"value": [0, 1, 2]}


async def test_no_entry_of_nine_chords_in_a_row_is_a_kilobyte_larger_than_its_message(
    redis_url: str, redis_server: RedisServer
) -> None:
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        before: list[Step[Any]] = []
        for _ in range(9):
            members = [step(Calculator, Square(number), after=before) for number in range(20)]
            before = [chord(members, Calculator, Sum)]
        run = await client.start(before[0])
        async with open_consumer(broker, NUMBERS, group="by hand") as hands:
            for _ in range(9):
                for count in (20, 1):
                    deliveries = await hands.take(count)
                    with closing(at(redis_server)) as server:
                        entries: list[Any] = server.execute_command("XRANGE", NUMBERS, "-", "+")
                    assert len(entries) == count
                    for _, fields in entries:
                        size = sum(map(len, fields)) - len(fields[fields.index(b"data") + 1])
                        assert size < 1000, fields
                    for delivery in deliveries:
                        hands.node.settle(hands.subscription, delivery, Ack(b"1"), ())
                    await hands.node.wait_settled()
        assert await run.result() == 1


def at(server: RedisServer) -> Any:
    connection: Any = redis.Redis(unix_socket_path=str(server.socket_path), protocol=2, socket_timeout=None)
    connection.response_callbacks.clear()
    return connection


@contextmanager
def monitored(server: RedisServer) -> Generator[list[tuple[str, int]]]:
    """Watch the server, and say at the end which scripts it ran, and how many commands each of them called."""
    told: list[bytes] = []
    found: list[tuple[str, int]] = []
    with closing(at(server)) as connection, closing(at(server)) as last:
        monitor = connection.monitor()

        def listen() -> None:
            while True:
                line = monitor.connection.read_response(disable_decoding=True)
                if b'"the end"' in line:
                    return
                told.append(line)

        with monitor:
            listener = threading.Thread(target=listen)
            listener.start()
            try:
                yield found
            finally:
                last.execute_command("ECHO", "the end")
                listener.join()
    for line in told:
        _, _, command = line.partition(b"] ")
        if b" lua] " in line:
            name, count = found[-1]
            found[-1] = (name, count + 1)
        elif command.startswith((b'"EVALSHA"', b'"EVAL"')):
            found.append((command.split(b'"')[3].decode(), 0))


@pytest.mark.parametrize("count", [1_200, pytest.param(10_000, marks=pytest.mark.long)])
async def test_a_chord_of_thousands_of_members_starts_in_few_round_trips_and_no_script_grows_with_it(
    redis_url: str, redis_server: RedisServer, count: int
) -> None:
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        with monitored(redis_server) as scripts:
            run = await client.start(chord(squares(*range(count)), Calculator, Sum))
        assert len(scripts) < 60
        assert max(calls for _, calls in scripts) < MOST_CALLS
        with monitored(redis_server) as scripts:
            async with (
                open_system([Calculator], broker=broker),
                open_broker(redis_url) as second,
                open_system([Calculator], broker=second),
            ):
                assert await run.result(timeout=120) == sum(number**2 for number in range(count))
        assert max(calls for _, calls in scripts) < MOST_CALLS


MOST_CALLS = 7_000
"""How many commands a script may call: whatever the size of a run, its pages have 500 steps."""


async def test_what_fails_with_one_of_thousands_of_steps_is_cancelled_and_retried_by_few_commands(
    redis_url: str, redis_server: RedisServer
) -> None:
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        first = step(Calculator, Flaky(1), name="first")
        rest = [step(Calculator, Text(first.result)) for _ in range(2_000)]
        run = await client.start(chord(rest, Calculator, Text))
        async with by_hand(Stage(client, broker, open_system)) as hands:
            with monitored(redis_server) as scripts:
                await hands.settle(await hands.take_one(), Fail(FAILURE))
                await until(lambda: has_failed(run))
            assert max(calls for _, calls in scripts) < 200
            info = await run.info()
            assert (info.done, info.total) == (2_002, 2_002)
            assert info.reason == "'first' failed: ValueError: as it happens"
            assert {one.status for one in (await run.steps())[1:]} == {Status.CANCELLED}
            with monitored(redis_server) as scripts:
                assert await run.retry()
            assert max(calls for _, calls in scripts) < 200
            assert (await run.info()).done == 0
            await hands.settle(await hands.take_one(), Ack(b"1"))
        async with open_system([Calculator], broker=broker):
            assert await run.result(timeout=PATIENCE) == [1] * 2_000


async def has_failed(run: Run[Any]) -> bool:
    return await run.status() is Status.FAILURE


async def test_a_look_at_a_large_run_is_as_small_as_one_at_a_small_run(
    redis_url: str, redis_server: RedisServer
) -> None:
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        run = await client.start(group(squares(*range(2_000))))
        with closing(at(redis_server)) as server:

            def sent() -> int:
                reply: bytes = server.execute_command("INFO", "stats")
                (line,) = [line for line in reply.split() if line.startswith(b"total_net_output_bytes:")]
                return int(line.partition(b":")[2])

            before = sent()
            of_the_question = sent() - before
            for _ in range(10):
                await run.info()
            assert sent() - before - 2 * of_the_question < 10 * 1_000


async def test_of_a_run_with_very_many_failures_the_first_hundred_are_told(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(Flow(group(squares(*range(150))), title="many"))
        async with by_hand(stage, room=200) as hands:
            for delivery in await take_steps(hands, 150):
                hands.node.settle(hands.subscription, delivery, Fail(FAILURE), ())
            await hands.node.wait_settled()
            info = await run.info()
        assert (info.status, info.done) == (Status.FAILURE, 150)
        steps = await run.steps()
        assert [name for name, _ in info.failures] == [one.name for one in steps[:100]]
        assert all(one.status is Status.FAILURE for one in steps)


@pytest.mark.parametrize("part", ["", ":state", ":values", ":next", ":ready", ":ends", ":steps", ":fails"])
async def test_a_run_whose_keys_are_damaged_ends_and_takes_no_other_along(
    redis_url: str, redis_server: RedisServer, part: str
) -> None:
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        damaged, whole = [await client.start(chord(squares(3, 4), Calculator, Sum)) for _ in range(2)]
        async with by_hand(Stage(client, broker, open_system)) as hands:
            deliveries = await hands.take(4)
            with closing(at(redis_server)) as server:
                server.execute_command("SET", f"actorwork:{{{NUMBERS}}}:flow:{damaged.id}{part}", "written by hand")
            first, second, *others = deliveries
            for delivery in (first, *others):
                hands.node.settle(hands.subscription, delivery, Ack(b"5"), ())
            hands.node.settle(hands.subscription, second, Fail(FAILURE), ())
            await hands.node.wait_settled()
            body = await hands.take_one()
            assert (body.id, given(body)) == (f"{whole.id}/2", {"numbers": [5, 5]})
            await hands.settle(body, Ack(b"10"))
        assert await whole.result() == 10
        if part:
            with pytest.raises(MessageFailed):
                await damaged.result()
        else:
            with pytest.raises(LookupError):
                await damaged.result()


# ---- what is kept, and for how long ----


class Slow(Actor):
    settings = Settings(title="slow", execution_timeout=600)

    @receive
    async def wait(self, *, seconds: float) -> int:
        await trio.sleep(seconds)
        return 1


async def test_an_early_result_is_there_for_the_body_minutes_later_though_results_are_kept_for_a_second(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with open_test_system([Calculator, Slow]) as system:
        members = [*squares(2), step(Slow, {"seconds": 300})]
        run = await system.client.start(Flow(chord(members, Calculator, Text), results_ttl=1))
        assert await run.result(timeout=600) == [4, 1]


async def test_nothing_of_an_open_run_expires_at_redis_and_nothing_is_left_of_it_after_its_end(
    redis_url: str, redis_server: RedisServer
) -> None:
    def keys_of_runs() -> dict[bytes, int]:
        """Return the keys that runs have, but the index of homes, and in how many ms each of them expires."""
        with closing(at(redis_server)) as server:
            found: list[bytes] = [key for key in server.execute_command("KEYS", "*") if b"flow" in key]
            return {key: server.execute_command("PTTL", key) for key in found if key != b"actorwork:flows"}

    async with open_broker(redis_url) as broker, open_client(broker) as client:
        await client.start(Flow(chord(squares(2, 3), Calculator, Text), results_ttl=0.05))
        async with open_consumer(broker, NUMBERS, group="by hand") as hands:
            first, second = await take_steps(hands, 2)
            await hands.settle(first, Ack(b"4"))
            assert len(keys_of_runs()) > 4
            assert set(keys_of_runs().values()) == {-1}
            await hands.settle(second, Ack(b"9"))
        await client.start(Flow(chord([], Calculator, Text), results_ttl=0.05))
        async with open_system([Calculator], broker=broker):

            async def are_gone() -> bool:
                return not keys_of_runs()

            await until(are_gone)


async def test_nothing_is_left_of_a_large_run_that_was_started_twice_once_it_is_forgotten(
    redis_url: str, redis_server: RedisServer
) -> None:
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        flow = group(squares(*range(600)))

        def keys() -> list[bytes]:
            with closing(at(redis_server)) as server:
                found: list[bytes] = server.execute_command("KEYS", "*flow*")
                return found

        run = await client.start(flow, id="large")
        before = keys()
        await client.start(flow, id="large")
        assert sorted(keys()) == sorted(before)
        assert await run.cancel()
        assert await run.forget()
        assert keys() == [b"actorwork:flows"]


async def test_no_row_is_left_of_a_run_whose_results_are_kept_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FIRST_PRUNE", 0.05)
    monkeypatch.setattr(turns, "PRUNE_EVERY", 0.05)
    path = tmp_path / "messages.db"

    def rows() -> Sequence[int]:
        with closing(sqlite3.connect(path)) as store:
            return [
                store.execute(f"select count(*) from {table}").fetchone()[0]
                for table in ("runs", "steps", "waits", "signals")
            ]

    async with open_broker(f"sqlite:///{path}") as broker, open_client(broker) as client:
        for members in ([], squares(2)):
            await client.start(Flow(chord(members, Calculator, Text), results_ttl=0.05))
        assert all(rows()[:3])
        async with open_system([Calculator], broker=broker):

            async def are_gone() -> bool:
                return not any(rows())

            await until(are_gone)
