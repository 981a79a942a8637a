"""The lives of the messages of steps: found by their ids as those of submitted messages are, whoever keeps them.

At Redis, a step that goes to the home of its run has no life of its own until there is more to say of it than that it
is sent, or done. So here are steps that are asked for at each point of their way.
"""

from __future__ import annotations

from contextlib import closing

import pytest
import trio

from actorwork import MessageFailed, MessageInfo, Receipt, Status, open_client
from actorwork.brokers import open_broker
from actorwork.message import Failure
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.streams import notes
from actorwork.testing.redis_server import RedisServer
from actorwork.workflows import Flow, chord, group, step
from tests.patience import PATIENCE
from tests.workflows.conftest import OpenStage, Stage
from tests.workflows.shop import Calculator, Clerk, Note, Square, Sum
from tests.workflows.test_joins import NOTES, NUMBERS, at, by_hand, given, take_steps
from tests.workflows.test_lives import arrives, has, keys_of_lives, no_system, seen_by
from tests.workflows.test_runs import squares, until

FAILURE = Failure("ValueError", "as it happens")
PAIR = Flow(group(squares(1, 2)), title="pair")


def receipts_of(stage: Stage, run: str, count: int) -> list[Receipt[int]]:
    return [stage.client.receipt(f"{run}/{number}") for number in range(count)]


def settled_at(info: MessageInfo) -> list[float]:
    """Return the times that are known of a message, in the order in which they have to be."""
    return [time for time in (info.sent, info.received, info.started, info.ended) if time is not None]


async def test_steps_wait_as_pending_with_the_time_at_which_they_were_sent(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(PAIR, id="pair")
        for receipt in receipts_of(stage, "pair", 2):
            info = await receipt.info()
            assert (info.status, info.attempt, info.deliveries, info.node, info.source) == (
                Status.PENDING, 0, 0, "", NUMBERS,
            )  # fmt: skip
            assert len(settled_at(info)) == 1
            assert not await receipt.forget(), "it is open"
        assert [one.status for one in await run.steps()] == [Status.PENDING] * 2
        assert await stage.client.receipt("pair/2").status() is Status.UNKNOWN
        assert await stage.client.receipt("another/0").status() is Status.UNKNOWN


async def test_steps_that_are_soon_done_have_lives_with_all_times(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(PAIR, id="pair")
        assert await run.result() == [1, 4]
        for receipt in receipts_of(stage, "pair", 2):
            info = await receipt.info()
            assert (info.status, info.attempt, info.deliveries, info.actor) == (Status.SUCCESS, 1, 1, "calculator")
            assert info.node
            assert len(settled_at(info)) == 4
            assert (info.failure, info.reason, info.progress) == (None, "", None)
            assert not await receipt.cancel("late")
            assert await receipt.info() == info


async def test_a_step_goes_through_its_states_in_order_and_keeps_the_time_at_which_it_was_sent(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage, trio.open_nursery() as nursery:
        await stage.client.start(step(Calculator, Square(3)), id="one")
        seen: list[MessageInfo] = []
        await nursery.start(seen_by, stage.client.receipt("one/0"), seen)
        async with by_hand(stage, room=1) as hands:
            for attempt, settlement in enumerate((Retry(0, FAILURE), Ack(b"9")), start=1):
                delivery = await hands.take_one()
                await arrives(seen, Status.RECEIVED, attempt=attempt)
                await stage.client.ref(Calculator).tell(Square(0))
                await hands.wait(lambda: hands.waiting, "what takes all the room")
                hands.node.note(hands.subscription, delivery, Status.STARTED)
                await arrives(seen, Status.STARTED, attempt=attempt)
                await hands.settle(delivery, settlement)
                if attempt == 1:
                    await arrives(seen, Status.RETRY, attempt=1)
                await hands.settle(await hands.take_one())
        await arrives(seen, Status.SUCCESS, attempt=2)
        assert [(info.status, info.attempt) for info in seen] == [
            (Status.PENDING, 0),
            (Status.RECEIVED, 1),
            (Status.STARTED, 1),
            (Status.RETRY, 1),
            (Status.RECEIVED, 2),
            (Status.STARTED, 2),
            (Status.SUCCESS, 2),
        ]
        assert {info.sent for info in seen} == {seen[0].sent}
        versions = [info.version for info in seen]
        assert versions == sorted(set(versions))
        assert (seen[-1].reason, seen[-1].failure) == ("", None)


async def test_members_that_took_long_are_settled_with_others_that_did_not(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        run = await stage.client.start(group(squares(1, 2, 3)), id="mixed")
        receipts = receipts_of(stage, "mixed", 3)
        taken = await take_steps(hands, 3)
        hands.node.note(hands.subscription, taken[1], Status.STARTED)
        await has(receipts[1], Status.STARTED, attempt=1)
        before = (await receipts[1].info()).version
        for delivery in taken:
            hands.node.settle(hands.subscription, delivery, Ack(b"%d" % given(delivery)["number"]))
        await hands.node.wait_settled()
        assert await run.result() == [1, 2, 3]
        infos = [await receipt.info() for receipt in receipts]
        assert [(info.status, info.attempt, info.actor) for info in infos] == [(Status.SUCCESS, 1, "actor by hand")] * 3
        assert infos[1].version > before
        for info in infos:
            times = settled_at(info)
            assert len(times) == (4 if info is infos[1] else 3)
            assert sorted(times) == times


ENDS: dict[str, tuple[Settlement, Status]] = {
    "failed": (Fail(FAILURE), Status.FAILURE),
    "rejected": (Reject(FAILURE), Status.REJECTED),
}


@pytest.mark.parametrize("how", ENDS)
async def test_a_member_that_ends_without_a_result_says_why_and_so_does_its_run(
    open_stage: OpenStage, how: str
) -> None:
    settlement, status = ENDS[how]
    async with open_stage() as stage, by_hand(stage) as hands:
        run = await stage.client.start(PAIR, id="pair")
        first, second = await take_steps(hands, 2)
        hands.node.settle(hands.subscription, first, Ack(b"1"))
        hands.node.settle(hands.subscription, second, settlement)
        await hands.node.wait_settled()
        done, not_done = [await receipt.info() for receipt in receipts_of(stage, "pair", 2)]
        assert (done.status, not_done.status, not_done.reason) == (Status.SUCCESS, status, FAILURE.reason)
        assert not_done.failure is not None
        assert not_done.failure.type == FAILURE.type
        assert not_done.sent is not None
        with pytest.raises(MessageFailed, match="as it happens"):
            await run.result()


async def test_a_step_is_cancelled_by_its_receipt_while_it_is_queued_and_while_a_node_has_it(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(PAIR, id="pair")
        queued, in_hand = receipts_of(stage, "pair", 2)
        assert await queued.cancel("not needed")
        info = await queued.info()
        assert (info.status, info.reason, info.attempt) == (Status.CANCELLED, "not needed", 0)
        assert not await queued.cancel("again")
        async with by_hand(stage) as hands:
            delivery = await hands.take_one()
            assert delivery.id == in_hand.id
            assert await in_hand.cancel("nor this")
            await hands.wait(lambda: hands.cancelled, "the order to cancel it")
            assert hands.cancelled == {(NUMBERS, in_hand.id): ("nor this", False)}
            await hands.settle(delivery, Reject(Failure("Cancelled", "nor this")))
        info = await in_hand.info()
        assert (info.status, info.reason, info.attempt) == (Status.CANCELLED, "nor this", 1)
        with pytest.raises(MessageFailed, match="was cancelled: Cancelled: not needed"):
            await run.result()


async def test_the_steps_of_a_run_that_is_cancelled_are_cancelled_each_where_it_is(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage, room=1) as hands:
        run = await stage.client.start(chord(squares(1, 2, 3, 4, 5), Calculator, Sum), id="sum")
        receipts = receipts_of(stage, "sum", 6)
        done = await hands.take_one()
        await hands.settle(done, Ack(b"1"))
        running = [await hands.take_one()]
        await hands.wait(lambda: hands.waiting, "what takes all the room")
        assert await run.cancel("enough")
        running.append(await hands.take_one())
        await hands.wait(lambda: len(hands.cancelled) == 2, "the orders to cancel them")
        for delivery in running:
            await hands.settle(delivery, Reject(Failure("Cancelled", "enough")))
        expected = {receipt.id: Status.CANCELLED for receipt in receipts} | {done.id: Status.SUCCESS}
        expected[receipts[5].id] = Status.UNKNOWN  # The body was never sent.

        async def are_over() -> bool:
            return {receipt.id: await receipt.status() for receipt in receipts} == expected

        await until(are_over)


async def test_what_is_known_of_a_step_that_is_over_is_forgotten_by_its_receipt(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        run = await stage.client.start(PAIR, id="pair")
        first, second = await take_steps(hands, 2)
        await hands.settle(first, Ack(b"1"))
        await hands.settle(second, Fail(FAILURE))
        for receipt in receipts_of(stage, "pair", 2):
            assert (await receipt.status()).is_final
            assert await receipt.forget()
            assert not await receipt.forget()
            assert await receipt.status() is Status.UNKNOWN
        assert [one.status for one in await run.steps()] == [Status.SUCCESS, Status.FAILURE]


async def test_of_a_step_under_the_id_of_one_of_a_forgotten_run_nothing_is_known_that_was_of_that_one(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        again = stage.client.receipt("single/0.1")
        for _ in range(2):
            run = await stage.client.start(group(squares(1)), id="single")
            (first,) = await hands.take(1)
            await hands.settle(first, Fail(FAILURE))
            assert await run.retry()
            info = await again.info()
            assert info.status in (Status.PENDING, Status.RECEIVED)
            assert (info.ended, info.failure, info.reason) == (None, None, "")
            (second,) = await hands.take(1)
            await hands.settle(second, Fail(FAILURE))
            assert (await again.info()).failure == FAILURE
            assert await run.forget()


async def test_steps_are_listed_among_the_tracked_messages_of_their_source(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        await stage.client.start(group(squares(1, 2, 3, 4)), id="four")
        taken = await take_steps(hands, 4)
        for delivery, settlement in zip(taken, (Ack(b"1"), Fail(FAILURE), Retry(600, FAILURE)), strict=False):
            await hands.settle(delivery, settlement)
        found = await stage.broker.states.newest(NUMBERS, limit=10)
        statuses = {one.info.id: (one.info.status, one.is_delayed) for one in found}
        status, is_delayed = statuses.pop("four/3")
        assert (status in (Status.PENDING, Status.RECEIVED), is_delayed) == (True, False)
        assert statuses == {
            "four/0": (Status.SUCCESS, False),
            "four/1": (Status.FAILURE, False),
            "four/2": (Status.RETRY, True),
        }
        (open_one,) = await stage.broker.states.with_payloads([one for one in found if one.info.id == "four/3"])
        assert open_one.payload == b'{"number":4}'


async def test_a_message_that_names_a_step_has_no_life_though_its_run_is_open(
    redis_url: str, redis_server: RedisServer
) -> None:
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        stage = Stage(client, broker, no_system)
        async with by_hand(stage) as hands:
            await client.start(PAIR, id="pair")
            first, _ = await take_steps(hands, 2)
            headers = '{"actorwork-flow": "numbers/pair/0"}'
            fields = ("id", "pair/0", "data", '{"number":5}', "headers", headers, "claim", "guessed", "type", "Square")
            with closing(at(redis_server)) as server:
                server.execute_command("XADD", NUMBERS, "*", *fields)
            forged = await hands.take_one()
            await hands.settle(forged, Fail(FAILURE))
            assert (await client.receipt("pair/0").info()).status in (Status.PENDING, Status.RECEIVED)
            await hands.settle(first, Ack(b"1"))
            assert await client.receipt("pair/0").status() is Status.SUCCESS


async def test_members_of_a_group_need_no_keys_of_their_own_at_redis(
    redis_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "SOON", 2 * PATIENCE)  # However slow this machine is, they are soon done.

    def keys_of(run: str) -> int:
        with closing(at(redis_server)) as server:
            found: list[bytes] = server.execute_command("KEYS", "*")
            return sum(run.encode() in key for key in found)

    async with open_broker(redis_url) as broker, open_client(broker) as client:
        stage = Stage(client, broker, no_system)
        async with by_hand(stage) as hands:
            run = await client.start(group(squares(*range(50))), id="many")
            for delivery in await hands.take(50):
                assert await client.receipt(delivery.id).status() is Status.PENDING
                hands.node.settle(hands.subscription, delivery, Ack(b"1"))
            await hands.node.wait_settled()
            assert await client.receipt("many/49").status() is Status.SUCCESS
            assert keys_of_lives(redis_server) == set()
            assert keys_of("many") > 0
            assert await run.forget()
            assert keys_of("many") == 0
            assert await client.receipt("many/49").status() is Status.UNKNOWN


async def test_steps_to_another_source_than_the_home_of_their_run_have_lives_too(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage) as hands, by_hand(stage, NOTES) as clerk:
        members = [*squares(1, 2), step(Clerk, Note("x")), step(Clerk, Note("y"))]
        run = await stage.client.start(group(members), id="both")
        for delivery in await hands.take(2):
            await hands.settle(delivery, Ack(b"1"))
        for delivery in await clerk.take(2):
            clerk.node.settle(clerk.subscription, delivery, Ack(b'"done"'))
        await clerk.node.wait_settled()
        assert await run.result() == [1, 1, "done", "done"]
        for receipt in receipts_of(stage, "both", 4):
            info = await receipt.info()
            assert (info.status, info.attempt) == (Status.SUCCESS, 1)
            assert len(settled_at(info)) == 3
