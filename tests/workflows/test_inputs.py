"""Steps with many or long inputs, which Redis leaves out of the message: the node that reads it fetches them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actorwork import Retry
from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.events import BrokerTrouble, Settled
from actorwork.message import FAILED, INPUTS, Envelope, Failure
from actorwork.policy.runs.values import Expansion, Gather, Need, Plan, StepPlan
from actorwork.policy.settlement import Ack, Fail, cancelled
from actorwork.streams import inputs
from actorwork.streams.keys import run as run_key
from actorwork.streams.plans import MOST_JOINED
from actorwork.testing.conformance.fake_consumer import FakeConsumer, open_consumer, until
from actorwork.workflows import Flow, Status, chord, group, step
from tests.workflows.conftest import OpenStage, Stage
from tests.workflows.shop import Calculator, Clerk, Note, Square, Sum, Text
from tests.workflows.test_joins import NOTES, NUMBERS, by_hand, given, step_of, take_steps

LONG = 70_000
FAILURE = Failure("ValueError", "as it happens")


def long(letter: str) -> str:
    return letter * LONG


def of(value: object) -> Ack:
    return Ack(json.dumps(value).encode())


async def start_long(stage: Stage, hands: FakeConsumer, *letters: str, id: str = "r", **options: Any) -> None:
    """Start a chord whose members, the clerk's, return long texts; its body is the calculator's."""
    members = [step(Clerk, Note(letter)) for letter in letters]
    await stage.client.start(Flow(chord(members, Calculator, Text), **options), id=id)
    for letter, member in zip(letters, await take_steps(hands, len(letters)), strict=True):
        hands.node.settle(hands.subscription, member, of(long(letter)))
    await hands.node.wait_settled()


async def entries_of(broker: Any, source: str) -> list[dict[bytes, bytes]]:
    """Return the fields of what is in a stream of Redis."""
    found: list[Any] = await broker.client.call("XRANGE", source, "-", "+")
    return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in found]


def is_of_redis(stage: Stage) -> bool:
    return hasattr(stage.broker, "client")


# ---- what a body gets ----


async def test_a_body_gets_long_results_in_the_order_of_the_members_and_its_entry_is_small(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage, by_hand(stage, NOTES) as hands:
        await start_long(stage, hands, "a", "b", "c")
        if is_of_redis(stage):
            await until(lambda: entries_of(stage.broker, NUMBERS), "the body, which a cluster forwards")
            (fields,) = await entries_of(stage.broker, NUMBERS)
            assert sum(map(len, fields.values())) < 1000
            with pytest.raises(ValueError, match="Expecting value"):  # For a node that does not know the header.
                json.loads(fields[b"data"])
        async with by_hand(stage) as body:
            delivery = await body.take_one()
            assert given(delivery) == {"value": [long("a"), long("b"), long("c")]}
            await body.settle(delivery, of("done"))
        assert await stage.client.run("r").result() == "done"


async def test_a_body_gets_the_results_of_more_members_than_a_script_joins(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage, room=2000) as hands:
        members = [step(Calculator, Square(number)) for number in range(MOST_JOINED + 1)]
        run = await stage.client.start(chord(members, Calculator, Sum))
        for member in await take_steps(hands, len(members)):
            hands.node.settle(hands.subscription, member, Ack(b"%d" % step_of(member)))
        body = await hands.take_one()
        assert (INPUTS in body.headers) == is_of_redis(stage)
        assert given(body) == {"numbers": list(range(MOST_JOINED + 1))}
        (info,) = [one for one in await run.steps() if one.number == MOST_JOINED + 1]
        assert info.needs == tuple(range(MOST_JOINED + 1))


async def test_a_body_gets_the_members_that_were_added_and_outcomes_with_the_names_of_those_that_failed(
    open_stage: OpenStage,
) -> None:
    """Of a group whose member adds another one; and one of them has no result."""
    async with open_stage() as stage, by_hand(stage, NOTES, NUMBERS) as hands:
        told = StepPlan(name="told", source=NOTES, type="Told", template=('"?"',), groups=(0,))
        gather = Gather(0, (Need(0, "outcome"), Need(1, "outcome")), "outcome")
        body = StepPlan(name="body", source=NUMBERS, type="Told", template=('{"all":', gather, "}"))
        steps = (told, attrs.evolve(told, name="sulks"), body)
        await stage.broker.runs.start(Plan(id="r", home=NOTES, steps=steps, result=(Need(2),)))
        first, second = await take_steps(hands, 2)
        more = Expansion(home=NOTES, run="r", step=0, steps=(attrs.evolve(told, groups=()),), members=(0,))
        await hands.settle(first, Ack(json.dumps(long("a")).encode(), expands=more))
        await hands.settle(second, Fail(FAILURE))
        await hands.settle(await hands.take_one(), of("more"))
        sulks = {"step": "sulks", "kind": "failed", "error": "ValueError", "reason": "as it happens"}
        assert given(await hands.take_one()) == {"all": [{"value": long("a")}, sulks, {"value": "more"}]}


async def test_a_body_that_is_tried_again_gets_its_inputs_each_time(open_stage: OpenStage) -> None:
    seen: list[tuple[int, int]] = []

    class Hesitant(Calculator):
        settings = Calculator.settings

        async def text(self, message: Text) -> Any:
            seen.append((self.context.delivery.attempt, len(message.value[0])))
            if len(seen) < 3:
                raise Retry(0.01 if len(seen) == 1 else 0)
            return len(message.value)

    async with open_stage() as stage:
        async with by_hand(stage, NOTES) as hands:
            await start_long(stage, hands, "a", "b")
        async with stage.open_system((Hesitant,)):
            assert await stage.client.run("r").result() == 2
        assert seen == [(1, LONG), (2, LONG), (3, LONG)]


# ---- the result of a run ----


async def test_the_result_of_a_run_with_more_parts_than_a_script_joins_is_whole(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage, room=2000) as hands:
        run = await stage.client.start(group(step(Calculator, Square(number)) for number in range(MOST_JOINED + 1)))
        for member in await take_steps(hands, MOST_JOINED + 1):
            hands.node.settle(hands.subscription, member, Ack(b"%d" % step_of(member)))
        assert await run.result() == list(range(MOST_JOINED + 1))
        (info,) = await stage.broker.runs.list()
        assert info.status is Status.SUCCESS


async def test_the_result_of_a_run_with_long_parts_is_whole_and_is_that_of_the_step_in_whose_place_it_is(
    open_stage: OpenStage,
) -> None:
    class Divides(Clerk):
        settings = Clerk.settings

        async def note(self, message: Note) -> Any:
            if message.text == "both":
                return self.context.continue_with(chord([step(Clerk, Note(one)) for one in "ab"], Calculator, Text))
            return long(message.text)

    async with open_stage() as stage, stage.open_system((Divides, Calculator)):
        both = [long("a"), long("b")]
        run = await stage.client.start(group([step(Clerk, Note("a")), step(Clerk, Note("b"))]))
        assert await run.result() == both
        assert await run.result() == both
        run = await stage.client.start(chord([step(Clerk, Note("both"))], Calculator, Text))
        assert await run.result() == [both]


# ---- how it ends otherwise ----


async def letter_of(broker: Broker) -> Any:
    (letter,) = await broker.dead_letters.list()
    return letter


async def test_a_body_that_is_a_dead_letter_says_what_it_is_and_is_sent_again_with_its_inputs(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage, by_hand(stage, NOTES) as hands:
        await start_long(stage, hands, "a", hold_on_failure=True)
        run, letters = stage.client.run("r"), stage.broker.dead_letters
        async with by_hand(stage) as body:
            await body.settle(await body.take_one(), Fail(FAILURE))

            async def is_held() -> bool:  # A cluster forwards the end.
                return await run.status() is Status.HELD

            await until(is_held, "the run to be held")
            letter = await letter_of(stage.broker)
            if is_of_redis(stage):
                assert letter.payload == b"(inputs: 1, which the node that reads the message takes from run 'r')"
            assert await letters.replay(NUMBERS, [letter.entry]) == 1
            delivery = await body.take_one()
            assert given(delivery) == {"value": [long("a")]}
            await body.settle(delivery, of("done"))
        assert await run.result() == "done"


async def test_a_dead_letter_that_is_sent_again_with_another_message_gets_that(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage, NOTES) as hands:
        await start_long(stage, hands, "a", hold_on_failure=True)
        async with by_hand(stage) as body:
            await body.settle(await body.take_one(), Fail(FAILURE))
            letter = await letter_of(stage.broker)
            assert await stage.broker.dead_letters.replay_as(
                NUMBERS, letter.entry, b'{"value":["b"]}', headers=letter.headers
            )
            delivery = await body.take_one()
            assert given(delivery) == {"value": ["b"]}
            await body.settle(delivery, of("done"))
        assert await stage.client.run("r").result() == "done"


async def test_the_hook_for_failures_gets_the_message_with_its_inputs(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage, NOTES) as hands:
        await start_long(stage, hands, "a")
        async with open_consumer(stage.broker, NUMBERS, group="by hand", is_told_failures=True) as body:
            await body.settle(await body.take_one(), Fail(FAILURE))
            told = await body.take_one()
            assert FAILED in told.headers
            assert given(told) == {"value": [long("a")]}


@pytest.fixture(params=["redis", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    cluster: Any = request.getfixturevalue("cluster") if request.param == "cluster" else None
    return request.getfixturevalue("redis_url") if cluster is None else cluster.url


async def start_one(broker: Any, hands: FakeConsumer, **options: Any) -> None:
    """Start a run whose first step, of `first`, returns a long text for the second one, of `second`."""
    steps = (
        StepPlan(name="one", source="first", type="Told", template=('"?"',)),
        StepPlan(name="two", source="second", type="Told", template=(Need(0),)),
    )
    await broker.runs.start(Plan(id="r", home="first", steps=steps, result=(Need(1),), **options))
    await hands.settle(await hands.take_one(), of(long("a")))


@asynccontextmanager
async def open_two(url: str, **options: Any) -> AsyncGenerator[tuple[Any, FakeConsumer, FakeConsumer]]:
    """Open a broker, and consumers of the sources of both steps of `start_one`; `options` are those of the second."""
    async with (
        open_broker(url) as broker,
        open_consumer(broker, "first", group="hands") as hands,
        open_consumer(broker, "second", group="hands", **options) as body,
    ):
        yield broker, hands, body


class Gate:
    """Holds the fetching of inputs up, until it is opened."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun = trio.Event()
        self.open = trio.Event()
        self._joined = inputs.joined
        patch.setattr(inputs, "joined", self._pass)

    async def _pass(self, *args: Any) -> bytes:
        self.begun.set()
        await self.open.wait()
        return await self._joined(*args)


async def test_a_dead_letter_whose_run_is_gone_becomes_one_again_that_says_so(url: str) -> None:
    async with open_two(url, is_told_failures=True) as (broker, hands, body):
        await start_one(broker, hands)
        await body.settle(await body.take_one(), Fail(FAILURE))
        await body.settle(await body.take_one())  # That the hook is called.

        async def is_over() -> bool:
            info = await broker.runs.info("r")
            return info is not None and info.status is Status.FAILURE

        await until(is_over, "the end of the run")
        assert await broker.runs.forget("r")
        letter = await letter_of(broker)
        assert await broker.dead_letters.replay("second", [letter.entry]) == 1
        told = await body.take_one()  # The message itself was not given to the actor.
        failure: Any = told.headers[FAILED]
        assert failure["type"] == "InputsGone"
        assert "kept with run 'r', which was forgotten, or has ended longer ago than its" in failure["reason"]
        await body.settle(told)
        assert (await letter_of(broker)).failure.type == "InputsGone"
        assert not body.waiting


async def test_a_step_that_is_cancelled_while_its_inputs_are_fetched_ends_as_that(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    async with open_two(url) as (broker, hands, body):
        await start_one(broker, hands)
        await gate.begun.wait()
        assert await broker.runs.cancel("r", "not wanted")
        assert await broker.runs.forget("r")
        await body.wait(lambda: body.seen(Settled), "its end")
        (settled,) = body.seen(Settled)
        assert settled.settlement == cancelled("not wanted")
        await body.node.wait_settled()
        assert await broker.backlog("second") == 0
        assert await broker.dead_letters.list() == []
        assert not body.offered
        assert not body.cancelled


async def test_a_step_of_a_run_that_is_gone_ends_as_cancelled_if_it_was_though_its_node_was_not_told(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)

    def take_no_notice(*_: Any) -> bool:
        return True

    monkeypatch.setattr(inputs.Inputs, "cancel", take_no_notice)
    async with open_two(url) as (broker, hands, body):
        await start_one(broker, hands)
        await gate.begun.wait()
        assert await broker.runs.cancel("r", "not wanted")
        assert await broker.runs.forget("r")
        gate.open.set()
        await body.wait(lambda: body.seen(Settled), "its end")
        (settled,) = body.seen(Settled)
        assert settled.settlement == cancelled("not wanted")
        await body.node.wait_settled()
        assert await broker.dead_letters.list() == []
        assert not body.offered


async def test_a_node_that_ends_while_it_fetches_inputs_releases_the_step_to_another_one(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    async with open_broker(url) as any_broker:
        broker: Any = any_broker
        async with open_consumer(broker, "first", group="hands") as hands:
            async with open_consumer(broker, "second", group="hands") as body:
                await start_one(broker, hands)
                await gate.begun.wait()
            assert not body.offered
            gate.open.set()
            async with open_consumer(broker, "second", group="hands") as body:
                delivery = await body.take_one()
                assert (delivery.crashes, given(delivery)) == (0, long("a"))


async def test_no_more_is_read_than_there_is_room_for_beside_steps_that_wait_for_inputs(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    async with open_two(url, room=2) as (broker, hands, body):
        await start_one(broker, hands)
        await gate.begun.wait()
        await broker.publish([Envelope("second", str(number), b"1") for number in range(3)])
        await body.wait(lambda: body.offered, "the first of them")
        assert body.node.statistics()["read"] == 2
        gate.open.set()
        assert sorted(delivery.id for delivery in await body.take(4)) == ["0", "1", "2", "r/1"]


async def test_a_foreign_header_gets_no_results_of_a_run(url: str) -> None:
    async with open_broker(url) as any_broker:
        broker: Any = any_broker
        async with (
            open_consumer(broker, "first", group="hands") as hands,
            open_consumer(broker, "mine", group="hands") as mine,
        ):
            await start_one(broker, hands)
            forged = ["first/r/1/" + "0" * 40, "first/r/1", 7, "first/r/1/é"]
            for number, header in enumerate(forged):
                await broker.publish([Envelope("mine", str(number), b"1", headers={INPUTS: header})])
            await broker.publish([Envelope("mine", "last", b"1")])
            await mine.expect_only("last")
            await until_letters(broker, len(forged))
            reasons = {letter.id: letter.failure.reason for letter in await broker.dead_letters.list()}
            assert "names run 'r', which has not sent it" in reasons["0"]
            assert "wants home/run/step/proof, got 'first/r/1'" in reasons["1"]
            assert "wants home/run/step/proof, got 7" in reasons["2"]
            assert "names run 'r', which has not sent it" in reasons["3"]


async def until_letters(broker: Broker, count: int) -> None:
    async def are_there() -> bool:
        return len(await broker.dead_letters.list()) == count

    await until(are_there, f"{count} dead letters")


async def test_inputs_that_a_server_does_not_return_for_a_while_are_waited_for(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, tries = inputs.joined, 0

    async def fail_twice(*args: Any) -> bytes:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise inputs.RedisError("LOADING the data set")
        return await fetch(*args)

    monkeypatch.setattr(inputs, "joined", fail_twice)
    async with open_two(redis_url) as (broker, hands, body):
        await start_one(broker, hands)
        assert given(await body.take_one()) == long("a")
        troubles = body.seen(BrokerTrouble)
        assert [trouble.doing for trouble in troubles] == ["fetching the inputs of r/1"] * 2


@pytest.mark.parametrize("part", ["values", "steps"])
async def test_a_step_whose_run_is_damaged_is_a_dead_letter_that_says_what_is_lacking(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    gate = Gate(monkeypatch)
    async with open_two(redis_url) as (broker, hands, body):
        await start_one(broker, hands)
        await gate.begun.wait()
        key = f"{run_key('first', 'r')}:{part}"
        await broker.client.call("DEL", key)
        if part == "steps":
            await broker.client.call("SET", key, "by hand")
        gate.open.set()
        await until_letters(broker, 1)
        failure = (await letter_of(broker)).failure
        assert failure.type == "InputsGone"
        assert ("has no result of step 0 any more" if part == "values" else "WRONGTYPE") in failure.reason
        assert not body.offered


async def test_a_step_whose_inputs_a_user_may_not_read_is_a_dead_letter_that_says_so(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> bytes:
        raise inputs.NoPermissionError("this user has no permissions to run the 'hmget' command")

    monkeypatch.setattr(inputs, "joined", refuse)
    async with open_two(redis_url) as (broker, hands, body):
        await start_one(broker, hands)
        await until_letters(broker, 1)
        reason = (await letter_of(broker)).failure.reason
        assert reason == "its inputs cannot be read: this user has no permissions to run the 'hmget' command"
        assert not body.offered


def test_scripts_and_those_who_send_them_mean_the_same_number_of_inputs() -> None:
    script = (Path(inputs.__file__).parent / "lua" / "run_messages.lua").read_text(encoding="utf-8")
    assert f"MOST = {MOST_JOINED}, " in script


async def test_a_run_that_an_older_client_has_started_has_its_inputs_joined_by_scripts(redis_url: str) -> None:
    """Its start has not asked whether all nodes know how to fetch them."""
    async with open_broker(redis_url) as any_broker:
        broker: Any = any_broker
        async with open_consumer(broker, "first", group="hands") as hands:
            steps = (
                StepPlan(name="one", source="first", type="Told", template=('"?"',)),
                StepPlan(name="two", source="second", type="Told", template=(Need(0),)),
            )
            await broker.runs.start(Plan(id="r", home="first", steps=steps, result=(Need(1),)))
            await broker.client.call("HDEL", run_key("first", "r"), "format")
            await hands.settle(await hands.take_one(), of(long("a")))
            (fields,) = await entries_of(broker, "second")
            assert json.loads(fields[b"data"]) == long("a")
            assert INPUTS.encode() not in fields[b"headers"]
