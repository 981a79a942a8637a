"""The lives of submitted messages: their states only go forward, and what became of them is found by their ids."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from actorwork import Actor, Client, Message, MessageFailed, MessageInfo, Settings, Status, open_client, receive
from actorwork.brokers import open_broker
from actorwork.clients.receipts import Receipt
from actorwork.embedded import turns, writer
from actorwork.message import RESULT_TTL, Delivery, Envelope, Failure
from actorwork.policy.settlement import Ack, Fail, Retry
from actorwork.records import Progress
from actorwork.streams import changes
from actorwork.streams.watches import LOOK_EVERY
from actorwork.testing import open_test_system
from actorwork.testing.conformance.fake_consumer import FakeConsumer
from actorwork.testing.proxy import open_proxy
from actorwork.testing.redis_server import RedisServer
from actorwork.workflows import Flow, group, step
from tests.patience import BUSY, PATIENCE
from tests.workflows.conftest import OpenStage, Stage
from tests.workflows.shop import Calculator, Square, Text
from tests.workflows.test_joins import NUMBERS, at, by_hand
from tests.workflows.test_runs import VALUES, until

FAILURE = Failure("ValueError", "as it happens")


@asynccontextmanager
async def another_client(stage: Stage) -> AsyncGenerator[Client]:
    """Open a client as another process has it: with a connection of its own, if the broker has any."""
    url = stage.broker.shared_url
    async with open_client(stage.broker if url is None else url) as client:
        yield client


def no_system(*_: object, **__: object) -> Any:
    raise AssertionError("this stage has none")


async def seen_by(receipt: Receipt[Any], seen: list[MessageInfo], *, task_status: trio.TaskStatus[None]) -> None:
    async with receipt.watch() as updates:
        seen.append(await anext(updates))
        task_status.started()
        async for info in updates:
            seen.append(info)  # noqa: PERF401 - others look at it meanwhile


async def arrives(seen: list[MessageInfo], status: Status, *, attempt: int) -> None:
    """Wait until the last that was seen of a message is this."""
    with trio.fail_after(PATIENCE):
        while (seen[-1].status, seen[-1].attempt) != (status, attempt):  # noqa: ASYNC110 - `seen_by` tells nobody
            await trio.sleep(0.01)


async def has(receipt: Receipt[Any], status: Status, *, attempt: int) -> None:
    """Wait until a message is there."""
    with trio.fail_after(PATIENCE):
        while ((info := await receipt.info()).status, info.attempt) != (status, attempt):  # noqa: ASYNC110 - see above
            await trio.sleep(0.01)


# ---- states ----


async def test_an_id_that_was_never_sent_is_unknown_at_once_and_one_that_waits_unread_is_pending(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage:
        submitted = await stage.client.ref(Calculator).submit(Square(3))
        delayed = await stage.client.ref(Calculator).submit(Square(3), delay=60)
        for receipt in (submitted, delayed, stage.client.receipt(submitted.id)):
            info = await receipt.info()
            assert (info.status, info.attempt, info.node) == (Status.PENDING, 0, "")
        for unknown in (stage.client.receipt("never"), stage.client.ref(Calculator).receipt("never")):
            assert await unknown.status() is Status.UNKNOWN
            with trio.fail_after(PATIENCE):
                with pytest.raises(LookupError, match="never submitted"):
                    await unknown.result(timeout=2 * PATIENCE)
                async with unknown.watch() as updates:
                    with pytest.raises(LookupError, match="never submitted"):
                        await anext(updates)
            assert not await unknown.forget()
            assert not await unknown.cancel()


async def test_a_message_that_fails_once_goes_through_its_states_in_order(open_stage: OpenStage) -> None:
    async with open_stage() as stage, trio.open_nursery() as nursery:
        receipt = await stage.client.ref(Calculator).submit(Square(3))
        seen: list[MessageInfo] = []
        await nursery.start(seen_by, receipt, seen)
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
                    assert seen[-1].reason == FAILURE.reason
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
        versions = [info.version for info in seen]
        assert versions == sorted(set(versions))
        assert (seen[-1].reason, seen[-1].failure) == ("", None)


async def test_what_a_node_says_of_an_earlier_delivery_or_after_the_end_changes_nothing(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        receipt = await stage.client.ref(Calculator).submit(Square(3))

        async def says(delivery: Delivery) -> None:
            """Say it of an earlier delivery, and wait until a later word of another message is known."""
            hands.node.note(hands.subscription, delivery, Status.STARTED, Progress(1))
            other = await stage.client.ref(Calculator).submit(Square(4))
            hands.node.note(hands.subscription, await hands.take_one(), Status.STARTED, Progress(2))
            await has(other, Status.STARTED, attempt=1)

        first = await hands.take_one()
        await hands.settle(first, Retry(0, FAILURE))
        second = await hands.take_one()
        await has(receipt, Status.RECEIVED, attempt=2)
        known = await receipt.info()
        await says(first)
        assert await receipt.info() == known
        await hands.settle(second, Ack(b"9"))
        known = await receipt.info()
        assert known.status is Status.SUCCESS
        for late in (first, second):
            await says(late)
            hands.node.settle(hands.subscription, late, Fail(FAILURE))
            await hands.node.wait_settled()
        assert await receipt.info() == known
        assert await receipt.result() == 9


async def test_a_dead_letter_that_is_sent_again_begins_another_life(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        receipt = await stage.client.ref(Calculator).submit(Square(3))
        async with by_hand(stage) as hands:
            await hands.settle(await hands.take_one(), Fail(FAILURE))
        with pytest.raises(MessageFailed, match="as it happens"):
            await receipt.result()
        (letter,) = await stage.broker.dead_letters.list()
        assert await stage.broker.dead_letters.replay(NUMBERS, [letter.entry]) == 1
        info = await receipt.info()
        assert (info.status, info.attempt, info.failure, info.ended) == (Status.PENDING, 0, None, None)
        async with by_hand(stage) as hands, trio.open_nursery() as nursery:
            results: list[int] = []

            async def wait() -> None:
                results.append(await receipt.result())

            nursery.start_soon(wait)
            await hands.settle(await hands.take_one(), Ack(b"9"))
        assert results == [9]
        assert await receipt.status() is Status.SUCCESS


# ---- failures ----


class Speechless(Exception):
    def __init__(self) -> None:
        self.cannot_be_pickled = lambda: None

    def __str__(self) -> str:
        raise RuntimeError("even this fails")


@attrs.frozen
class Fails(Message["Failing", None]):
    pass


@attrs.frozen
class Returns(Message["Failing", Any]):
    what: str


ODD: dict[str, Any] = {
    "nan": math.nan,
    "infinity within": {"a": [math.inf]},
    "bytes": b"x",
    "object": object(),
    "half a character": "\ud800",
}


@attrs.frozen
class Wide(Message["Bounded", str]):
    size: int


class Failing(Actor):
    settings = Settings(title="failing", sources={"failing"})

    @receive
    async def fails(self, message: Fails) -> None:
        raise Speechless

    @receive
    async def returns(self, message: Returns) -> Any:
        return ODD[message.what]


async def test_an_error_that_says_nothing_and_cannot_be_pickled_is_told_with_type_reason_and_traceback(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage, stage.open_system((Failing,)), another_client(stage) as elsewhere:
        receipt = await stage.client.ref(Failing).submit(Fails())
        with pytest.raises(MessageFailed) as caught:
            await elsewhere.receipt(receipt.id).result()
        info = await elsewhere.receipt(receipt.id).info()
        assert info.status is Status.FAILURE
        assert info.failure is not None
        assert (info.failure.type, info.attempt) == ("Speechless", 1)
        assert "RuntimeError" in info.reason
        assert "raise Speechless" in info.failure.traceback
        assert (caught.value.type, caught.value.reason) == (info.failure.type, info.reason)


@pytest.mark.parametrize("what", ODD)
async def test_what_json_cannot_hold_is_no_result_but_a_failure_that_says_so(open_stage: OpenStage, what: str) -> None:
    async with open_stage() as stage, stage.open_system((Failing, Calculator)):
        receipt = await stage.client.ref(Failing).submit(Returns(what))
        with pytest.raises(MessageFailed, match="CodecError") as caught:
            await receipt.result()
        assert "JSON" in caught.value.reason
        assert await receipt.status() is Status.FAILURE
        odd = step(Failing, Returns(what), name="odd")
        run = await stage.client.start(Flow(step(Calculator, Text(group([odd]).results))))
        with pytest.raises(MessageFailed, match=r"'odd'.*CodecError"):
            await run.result()
        assert [one.status for one in await run.steps()] == [Status.FAILURE, Status.CANCELLED]


def single(size: int) -> dict[str, Any]:
    return {"size": size}


class Bounded(Actor):
    settings = Settings(title="bounded", max_result_bytes=1000)

    @receive
    async def single(self, *, size: int) -> str:
        return "x" * (size - 2)

    @receive(batch=2, within=0.01)
    async def batched(self, messages: list[Wide]) -> list[str]:
        return ["x" * (each.size - 2) for each in messages]


@pytest.mark.parametrize("of", [single, Wide], ids=["single", "batch"])
async def test_a_result_larger_than_its_actor_allows_fails_the_message_with_its_size_and_the_limit(
    open_stage: OpenStage, of: Callable[[int], Any]
) -> None:
    async with open_stage() as stage, stage.open_system((Bounded,)):
        fits, exceeds = [await stage.client.ref(Bounded).submit(of(size)) for size in (1000, 1001)]
        assert len(await fits.result()) == 998
        with pytest.raises(MessageFailed, match=r"1001 bytes.*max_result_bytes of its actor is 1000") as caught:
            await exceeds.result()
        assert caught.value.type == "ResultTooLarge"
        assert await exceeds.status() is Status.FAILURE


async def test_a_step_whose_result_is_too_large_is_the_failure_of_its_run(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system((Bounded, Calculator)):
        wide = step(Bounded, {"size": 1001}, name="wide")
        run = await stage.client.start(Flow(step(Calculator, Text(group([wide]).results))))
        with pytest.raises(MessageFailed, match=r"'wide'.*ResultTooLarge"):
            await run.result()
        assert [one.status for one in await run.steps()] == [Status.FAILURE, Status.CANCELLED]


# ---- results ----


BIG = "é\u2028\x00🐈" * 500_000
"""Four megabytes of JSON."""


async def test_a_result_is_found_by_the_id_alone_any_number_of_times_as_it_was_returned(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system(), another_client(stage) as elsewhere:
        values = [*VALUES, BIG, {"": [BIG[:2_000_000]]}, 2**200]
        ids = [(await stage.client.ref(Calculator).submit(Text(value))).id for value in values]
        named = await stage.client.ref(Calculator).submit(Square(5), id="order 17")
        results: list[Any] = []
        for one in ids:
            results.append(await elsewhere.receipt(one).result())
            assert await elsewhere.receipt(one).result() == results[-1]
        assert results == values
        assert [type(result) for result in results] == [type(value) for value in values]
        assert math.copysign(1, results[VALUES.index(-0.0)]) == -1
        assert await elsewhere.receipt(named.id).result() == 25
        info = await elsewhere.receipt(named.id).info()
        assert (info.source, info.actor, info.status) == (NUMBERS, "calculator", Status.SUCCESS)


async def test_a_step_of_a_run_has_a_life_but_its_result_is_its_runs(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(step(Calculator, Square(3)), id="squares")
        assert await run.result() == 9
        (one,) = await run.steps()
        receipt = stage.client.receipt(one.message)
        assert await receipt.status() is Status.SUCCESS
        with (
            trio.fail_after(PATIENCE),
            pytest.raises(LookupError, match=r"it is a step of run 'squares', whose `steps\(\)`"),
        ):
            await receipt.result(timeout=PATIENCE)
        assert one.end is not None
        assert one.end.value == "9"


async def test_a_result_whose_time_is_up_is_not_waited_for(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        await stage.broker.publish([Envelope(NUMBERS, "brief", b"{}", headers={RESULT_TTL: 0.2})])
        receipts: Sequence[Receipt[Any]] = (
            stage.client.receipt("brief"),
            stage.client.ref(Calculator).receipt("brief"),
        )
        delivery = await hands.take_one()
        await trio.sleep(0.3)  # The time begins with the end.
        await has(receipts[0], Status.RECEIVED, attempt=1)
        await hands.settle(delivery, Ack(b"9"))

        async def is_forgotten() -> bool:
            return await receipts[0].status() is Status.UNKNOWN

        await until(is_forgotten)
        for receipt in receipts:
            with trio.fail_after(PATIENCE):
                with pytest.raises(LookupError, match="its result is kept no longer"):
                    await receipt.result(timeout=2 * PATIENCE)
                async with receipt.watch() as updates:
                    with pytest.raises(LookupError, match="kept no longer"):
                        await anext(updates)


async def test_a_result_is_kept_for_the_results_ttl_of_its_actor(mock_clock: trio.testing.MockClock) -> None:
    class Brief(Calculator):
        settings = Settings(title="brief", results_ttl=90)

    async with open_test_system([Brief, Calculator]) as system:
        brief = await system.client.ref(Brief).submit(Square(3))
        kept = await system.client.ref(Calculator).submit(Square(3))
        assert await brief.result() == await kept.result() == 9
        await trio.sleep(89)
        assert await brief.result() == 9
        await trio.sleep(2)
        assert await brief.status() is Status.UNKNOWN
        await trio.sleep(86_400 - 100)
        assert await kept.result() == 9
        await trio.sleep(100)
        with pytest.raises(LookupError):
            await kept.result()


async def test_a_result_is_kept_for_the_results_ttl_of_its_submit(mock_clock: trio.testing.MockClock) -> None:
    async with open_test_system([Calculator]) as system:
        ref = system.client.ref(Calculator)
        brief = await ref.submit(Square(3), results_ttl="2m")
        prepared = await ref.prepare(Square(3), results_ttl=timedelta(minutes=2)).send()
        kept = await ref.submit(Square(3), results_ttl=None)
        assert await brief.result() == await prepared.result() == await kept.result() == 9
        await trio.sleep(119)
        assert await brief.status() is await prepared.status() is Status.SUCCESS
        await trio.sleep(2)
        assert await brief.status() is await prepared.status() is Status.UNKNOWN
        assert await kept.result() == 9


async def test_a_result_of_a_short_results_ttl_is_gone_after_it(open_stage: OpenStage) -> None:
    async with open_stage() as stage, by_hand(stage) as hands:
        receipt = await stage.client.ref(Calculator).submit(Square(3), results_ttl=1)
        assert await receipt.status() is not Status.UNKNOWN
        await hands.settle(await hands.take_one(), Ack(b"9"))

        async def is_forgotten() -> bool:
            return await receipt.status() is Status.UNKNOWN

        await until(is_forgotten)


@pytest.mark.parametrize(
    ("ttl", "error", "says"),
    [
        (0, ValueError, "results_ttl wants seconds from 1 to 31536000"),
        (math.nan, ValueError, "results_ttl wants seconds"),
        (math.inf, ValueError, "results_ttl wants seconds"),
        (True, TypeError, "results_ttl wants seconds, a timedelta"),
        ("soon", ValueError, "results_ttl: 'soon' is not a duration"),
    ],
)
async def test_a_results_ttl_that_is_no_time_is_refused_before_anything_is_sent(
    mock_clock: trio.testing.MockClock, ttl: Any, error: type[Exception], says: str
) -> None:
    async with open_test_system([Calculator]) as system:
        with pytest.raises(error, match=says):
            await system.client.ref(Calculator).submit(Square(3), results_ttl=ttl)
        wrong: Any = {"results_ttl": 5}
        with pytest.raises(TypeError, match="for a message that is submitted"):
            await system.client.ref(Calculator).tell(Square(3), **wrong)
        assert system.client.statistics()["sent"] == 0


async def test_a_thousand_who_wait_share_one_connection_and_cost_the_server_few_commands(
    redis_url: str, redis_server: RedisServer
) -> None:
    with closing(at(redis_server)) as server:

        def connections() -> int:
            return len(server.execute_command("CLIENT", "LIST").splitlines())

        def commands() -> int:
            told: bytes = server.execute_command("INFO", "stats")
            return int(told.partition(b"total_commands_processed:")[2].split()[0])

        before = connections()
        async with open_client(redis_url) as client, trio.open_nursery() as nursery:
            for number in range(1000):
                receipt = await client.ref("nobody").submit({"number": number})
                nursery.start_soon(partial(receipt.result, timeout=300))
            with trio.fail_after(PATIENCE):
                while len(server.execute_command("PUBSUB", "CHANNELS", "*:watch:*")) < 1000:  # noqa: ASYNC110 - see above
                    await trio.sleep(0.05)
                # Each has looked once, and then only some look every few seconds, in turn.
                per_second = math.inf
                while per_second >= 50:
                    seen, began = commands(), time.monotonic()
                    await trio.sleep(1.1 * LOOK_EVERY)
                    per_second = (commands() - seen) / (time.monotonic() - began)
            assert connections() - before <= 1
            nursery.cancel_scope.cancel()


def rows_of_lives(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as store:
        return [store.execute(f"select count(*) from {table}").fetchone()[0] for table in ("states", "outcomes")]


def keys_of_lives(server: RedisServer) -> set[bytes]:
    with closing(at(server)) as connection:
        found: list[bytes] = connection.execute_command("KEYS", "*")
        return {key for key in found if b"}:state:" in key or b"}:result:" in key}


async def test_what_is_forgotten_is_unknown_at_once_and_what_is_open_cannot_be_forgotten(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage, by_hand(stage) as hands, another_client(stage) as elsewhere:
        receipt = await stage.client.ref(Calculator).submit(Square(3))
        assert not await receipt.forget()
        delivery = await hands.take_one()
        assert not await receipt.forget()
        await hands.settle(delivery, Ack(b"9"))
        assert await receipt.result() == 9
        assert await elsewhere.receipt(receipt.id).forget()
        assert not await elsewhere.receipt(receipt.id).forget()
        assert await receipt.status() is Status.UNKNOWN
        with trio.fail_after(PATIENCE), pytest.raises(LookupError, match="kept no longer"):
            await receipt.result(timeout=2 * PATIENCE)


async def test_no_row_is_left_of_a_message_that_is_forgotten_or_whose_result_is_kept_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FIRST_PRUNE", 0.05)
    monkeypatch.setattr(turns, "PRUNE_EVERY", 0.05)
    path = tmp_path / "messages.db"
    async with open_broker(f"sqlite:///{path}") as broker, open_client(broker) as client:
        stage = Stage(client, broker, no_system)
        async with by_hand(stage) as hands:
            await leave_nothing(stage, hands)

            async def are_gone() -> bool:
                return rows_of_lives(path) == [0, 0]

            await until(are_gone)


async def test_no_key_is_left_of_a_message_that_is_forgotten_or_whose_result_is_kept_no_longer(
    redis_url: str, redis_server: RedisServer
) -> None:
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        stage = Stage(client, broker, no_system)
        async with by_hand(stage) as hands:
            await leave_nothing(stage, hands)

            async def are_gone() -> bool:
                return not keys_of_lives(redis_server)

            await until(are_gone)


async def leave_nothing(stage: Stage, hands: FakeConsumer) -> None:
    """Have a message forgotten, and another one that is kept for a moment."""
    forgotten = await stage.client.ref(Calculator).submit(Square(3))
    await stage.broker.publish([Envelope(NUMBERS, "brief", b"{}", headers={RESULT_TTL: 0.2})])
    for delivery in await hands.take(2):
        await hands.settle(delivery, Ack(b"9"))
    assert await forgotten.forget()


# ---- waiting ----


async def test_of_ten_who_wait_in_two_places_nine_are_told_though_one_is_cancelled_and_nothing_is_left(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage, another_client(stage) as elsewhere, by_hand(stage) as hands:
        receipt = await stage.client.ref(Calculator).submit(Square(3))
        delivery = await hands.take_one()
        results: list[int] = []
        began = 0
        cancelled = trio.CancelScope()

        async def wait(client: Client, scope: trio.CancelScope) -> None:
            nonlocal began
            began += 1
            with scope:
                results.append(await client.ref(Calculator).receipt(receipt.id).result(timeout=PATIENCE))

        async def wait_all() -> None:
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    client = (stage.client, elsewhere)[number % 2]
                    nursery.start_soon(wait, client, cancelled if number == 4 else trio.CancelScope())
                while began < 10:  # noqa: ASYNC110 - see above
                    await trio.sleep(0.01)
                await trio.sleep(0.05)
                cancelled.cancel()
                await trio.sleep(0.05)
                assert not results
                await hands.settle(delivery, Ack(b"9"))
                settled = trio.current_time()
            assert trio.current_time() - settled < 1 + BUSY

        for client in (stage.client, elsewhere):  # What they keep open for all that wait is open from here on.
            async with client.receipt(receipt.id).watch() as updates:
                await anext(updates)
        living = trio.lowlevel.current_statistics().tasks_living
        await wait_all()
        assert cancelled.cancelled_caught
        assert results == [9] * 9
        with trio.fail_after(PATIENCE):
            while trio.lowlevel.current_statistics().tasks_living > living:  # noqa: ASYNC110 - tasks end untold
                await trio.sleep(0.01)


async def test_those_who_wait_at_redis_leave_no_subscription(redis_url: str, redis_server: RedisServer) -> None:
    def channels() -> set[bytes]:
        with closing(at(redis_server)) as server:
            found: list[bytes] = server.execute_command("PUBSUB", "CHANNELS", "*:watch:*")
            return set(found)

    async with open_broker(redis_url) as broker, open_client(broker) as client, open_client(redis_url) as elsewhere:
        stage = Stage(client, broker, no_system)
        async with by_hand(stage) as hands:
            receipt = await client.ref(Calculator).submit(Square(3))
            scope = trio.CancelScope()

            async def give_up() -> None:
                with scope:
                    await receipt.result()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up)
                nursery.start_soon(receipt.result)
                nursery.start_soon(elsewhere.receipt(receipt.id).result)

                async def are_two() -> bool:
                    with closing(at(redis_server)) as server:
                        counts: list[Any] = server.execute_command("PUBSUB", "NUMSUB", *channels())
                    return counts[1::2] == [2]

                await until(are_two)
                scope.cancel()
                await hands.settle(await hands.take_one(), Ack(b"9"))

            async def are_gone() -> bool:
                return not channels()

            await until(are_gone)


async def test_who_waits_at_redis_has_the_result_soon_after_a_reconnect_though_the_notification_was_lost(
    redis_url: str,
) -> None:
    async with (
        open_broker(redis_url) as broker,
        open_client(broker) as client,
        open_proxy(redis_url) as proxy,
        open_client(proxy.url) as waiting,
    ):
        stage = Stage(client, broker, no_system)
        async with by_hand(stage) as hands:
            receipt = await client.ref(Calculator).submit(Square(3))
            seen: list[MessageInfo] = []
            results: list[int] = []

            async def wait() -> None:
                results.append(await waiting.receipt(receipt.id).result(timeout=PATIENCE))

            async with trio.open_nursery() as nursery:
                await nursery.start(seen_by, waiting.receipt(receipt.id), seen)
                nursery.start_soon(wait)
                delivery = await hands.take_one()
                with trio.fail_after(PATIENCE):
                    while seen[-1].status is not Status.RECEIVED:  # noqa: ASYNC110 - `seen_by` tells nobody
                        await trio.sleep(0.01)
                proxy.refuse()
                proxy.cut()
                await hands.settle(delivery, Ack(b"9"))
                await trio.sleep(0.1)
                assert not results
                proxy.accept()
                healed = trio.current_time()
            assert trio.current_time() - healed < 1 + BUSY
            assert results == [9]
            assert seen[-1].status is Status.SUCCESS


async def test_who_waits_at_redis_for_a_message_that_is_deleted_by_hand_is_told_though_nobody_publishes_it(
    redis_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOOK_EVERY", 0.05)
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        receipt = await client.ref(Calculator).submit(Square(3))
        follows = trio.Event()

        async def wait() -> None:
            with pytest.raises(LookupError, match="kept no longer"):
                await receipt.result(timeout=2 * PATIENCE)

        async def follow() -> None:
            async with receipt.watch() as updates:
                assert (await anext(updates)).status is Status.PENDING
                follows.set()
                with pytest.raises(LookupError, match="kept no longer"):
                    await anext(updates)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                nursery.start_soon(follow)
                await follows.wait()
                await trio.sleep(0.05)
                with closing(at(redis_server)) as server:
                    assert server.execute_command("DEL", *keys_of_lives(redis_server)) == 1
