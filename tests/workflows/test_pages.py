"""Runs of which a script, or a transaction, does only a part at a time: nodes do the rest if a client dies."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import redis

from actorwork import MessageFailed
from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.embedded import kept_ahead as kept_in_file, loose_rows
from actorwork.embedded.store import Store
from actorwork.message import Delivery, Envelope, Failure, Status
from actorwork.policy.runs.values import RESULT, Failures, Gather, Need, Plan
from actorwork.policy.settlement import Ack, Fail
from actorwork.streams import kept_ahead, keys
from actorwork.streams.broker import RedisBroker
from actorwork.testing import MemoryBroker
from actorwork.testing.conformance.fake_consumer import FakeConsumer, open_consumer
from actorwork.testing.redis_cluster import RedisCluster
from actorwork.testing.redis_server import RedisServer
from actorwork.workflows import Flow, Step, group, nap, step
from tests.workflows import stories
from tests.workflows.conftest import OpenStage
from tests.workflows.pages import let_callers_die, let_nodes_rest, use_small_pages
from tests.workflows.shop import Alarm, Calculator, Clerk, Note, SumOfSquares, Text
from tests.workflows.stories import growth, told
from tests.workflows.test_adversity import Broken
from tests.workflows.test_runs import until

SOURCE = "paged"


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_pages(monkeypatch, 2)


def notes(count: int) -> list[Step[str]]:
    return [step(Clerk, Note(str(number)), name=str(number)) for number in range(count)]


# ---- somebody dies in between ----


async def test_what_has_failed_is_put_back_though_its_client_dies_after_the_first_page(
    open_stage: OpenStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(step(Calculator, Text(group(notes(7)).results)))
        async with stage.open_system((Calculator, Broken)):
            with pytest.raises(MessageFailed, match="no paper"):
                await run.result()
        let_callers_die(monkeypatch)
        assert await run.retry()
        info = await run.info()
        assert (info.status, info.reason) == (Status.RETRY, "what has failed is put back")
        assert not await run.retry()
        assert not await run.pause()
        async with stage.open_system():
            assert await run.result() == [f"noted {number}" for number in range(7)]
        assert sorted(map(str, Clerk.book)) == [str(number) for number in range(7)]


async def test_a_run_is_cancelled_while_what_has_failed_is_put_back(
    open_stage: OpenStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(group(notes(7)))
        async with stage.open_system((Calculator, Broken)):
            with pytest.raises(MessageFailed, match="no paper"):
                await run.result()
        let_callers_die(monkeypatch)
        assert await run.retry()
        assert await run.status() is Status.RETRY
        assert await run.cancel("enough")
        assert (await run.info()).reason == "enough"
        async with stage.open_system():

            async def has_ended() -> bool:
                return (await run.info()).finished is not None

            await until(has_ended)
        assert (await run.status(), (await run.info()).done) == (Status.CANCELLED, 7)
        assert {one.status for one in await run.steps()} <= {Status.CANCELLED, Status.FAILURE}
        assert Clerk.book == []


async def test_a_run_is_cancelled_though_its_client_dies_after_the_first_page(
    open_stage: OpenStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_callers_die(monkeypatch)
    async with open_stage() as stage:
        run = await stage.client.start(group(notes(7)))
        assert await run.cancel("enough")
        info = await run.info()
        assert (info.status, info.reason, info.finished) == (Status.CANCELLED, "enough", None)
        assert info.done < 7
        assert not await run.forget()
        async with stage.open_system():

            async def has_ended() -> bool:
                return (await run.info()).finished is not None

            await until(has_ended)
            await stage.client.ref(Clerk).ask(Note("after"))
        assert {one.status for one in await run.steps()} == {Status.CANCELLED}
        assert set(Clerk.book) <= {"0", "1", "after"}  # Only two were sent before, and may have begun in between.
        assert await run.forget()
        assert await run.status() is Status.UNKNOWN


async def test_a_run_that_its_client_has_cancelled_page_by_page_is_not_ended_once_more(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(group(notes(7)))
        assert await run.cancel("enough")
        info = await run.info()
        assert info.finished is not None
        async with stage.open_system():
            # What is due is done in the order of its times.
            assert await (await stage.client.start(nap(0.01, after=notes(1)))).result() is None
        assert await run.info() == info


async def test_all_that_need_a_failed_step_are_cancelled_and_the_run_ends_only_then(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        (first,) = notes(1)
        many = [step(Calculator, Text(first.result), name=f"needs {number}") for number in range(9)]
        last = step(Calculator, Text(many[8].result), name="last")
        run = await stage.client.start(Flow(group([*many, last]), on_error=lambda _: step(Clerk, Note("told"))))
        async with stage.open_system((Calculator, Broken)):
            with pytest.raises(MessageFailed, match="no paper"):
                await run.result()
            info = await run.info()
            assert (info.done, info.reason) == (11, "'0' failed: OSError: no paper")
            steps = await run.steps()
        assert {one.status for one in steps[1:]} == {Status.CANCELLED}
        assert {one.end.failure.reason for one in steps if one.end and one.end.is_caused and one.end.failure} == {
            "needs '0', which failed",
            "needs 'needs 8', which was cancelled",
        }


async def test_the_many_that_need_a_step_are_counted_page_by_page_when_it_is_put_back(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        (first,) = notes(1)
        run = await stage.client.start(group([step(Calculator, Text(first.result)) for _ in range(9)]))
        async with stage.open_system((Calculator, Broken)):
            with pytest.raises(MessageFailed, match="no paper"):
                await run.result()
        assert await run.retry()
        async with stage.open_system():
            assert await run.result() == ["noted 0"] * 9
        assert (await run.info()).done == 10


async def test_the_step_for_failures_gets_very_many_of_them_once(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(Flow(group(notes(7)), on_error=lambda failures: step(Clerk, Alarm(failures))))
        async with stage.open_system((Calculator, Broken)):
            with pytest.raises(MessageFailed, match="'0' failed: OSError: no paper"):
                await run.result()

            async def is_told() -> bool:
                return (await run.info()).finished is not None and bool(Clerk.book)

            await until(is_told)
            info = await run.info()
            assert (info.status, info.reason, info.done) == (Status.FAILURE, "'0' failed: OSError: no paper", 7)
        (alarm,) = Clerk.book
        assert isinstance(alarm, Alarm)
        assert [one.step for one in alarm.failures] == [str(number) for number in range(7)]
        assert {one.reason for one in alarm.failures} == {"no paper"}


async def test_a_run_whose_failures_are_still_told_is_over_but_neither_tried_again_nor_forgotten(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run in the embedded broker is never seen in between."""
    source, run = f"{SOURCE}-{next(_numbers)}", "told"
    alarms = f"{source}-alarms"
    on_error = told(alarms, "error", Failures())
    plan = stories.attrs.evolve(plan_of(run, source), holds=False, on_error=on_error, results_ttl=30.0)
    with monkeypatch.context() as resting:
        let_nodes_rest(resting)
        async with open_broker(redis_url) as broker, open_consumer(broker, source, group="by hand") as hands:
            await broker.runs.start(plan)
            for delivery in await taken(hands, 3):
                await hands.settle(delivery, Fail(Failure("ValueError", "as it happens")))

            async def has_failed() -> bool:  # That the body is cancelled may be left to a node.
                info = await broker.runs.info(run)
                return info is not None and info.status is Status.FAILURE

            await until(has_failed)
            info = await broker.runs.info(run)
            assert info is not None
            assert (info.status, info.finished, info.done) == (Status.FAILURE, None, 4)
            assert info.reason == "'step 0' failed: ValueError: as it happens"
            assert not await broker.runs.retry(run)
            assert not await broker.runs.retry(run, [0])
            assert not await broker.runs.forget(run)
            assert not await broker.runs.cancel(run, "too late")
            stream = keys.SourceKeys.of(alarms).stream
            await call(broker, "SET", stream, "by hand")  # It cannot take the message, which is tried again.
            await finish(broker, source, run)
            await call(broker, "DEL", stream)
            async with open_consumer(broker, alarms, group="by hand") as others:
                (error,) = await taken(others, 1)
                payload: Any = error.payload
                assert [one["step"] for one in json.loads(payload)] == ["step 0", "step 1", "step 2"]
                await others.settle(error, Ack(b"null"))
                assert not others.waiting
            assert await broker.runs.forget(run)
            assert await call(broker, "KEYS", f"*flow:{run}*") == []


# ---- what ends while steps are put back ----


def plan_of(run: str, source: str) -> Plan:
    members = tuple(told(source, f"step {number}", f'"{number}"') for number in range(3))
    body = told(source, "body", Gather(0, tuple(Need(number) for number in range(3)), "result"))
    steps = (*(stories.attrs.evolve(one, groups=(0,)) for one in members), body)
    return Plan(id=run, home=source, steps=steps, result=(Need(3),), holds=True)


_numbers = itertools.count()


@pytest.mark.parametrize("broker", ["memory", "redis"])
async def test_steps_that_end_and_grow_while_others_are_put_back_are_joined(
    broker: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, run = f"{SOURCE}-{next(_numbers)}", f"grown-{next(_numbers)}"
    with monkeypatch.context() as resting:
        let_callers_die(resting)
        let_nodes_rest(resting)
        async with (
            open_broker(MemoryBroker() if broker == "memory" else redis_url) as opened,
            open_consumer(opened, source, group="by hand") as hands,
        ):
            await opened.runs.start(plan_of(run, source))
            first, second, third = await taken(hands, 3)
            await hands.settle(second, Fail(Failure("ValueError", "as it happens")))
            assert await opened.runs.retry(run)
            await hands.settle(third, Ack(b"3"))
            await hands.settle(first, Ack(b"1", expands=growth(first, source)))
            info = await opened.runs.info(run)
            assert info is not None
            assert (info.status, info.done, info.total) == (Status.RETRY, 2, 7)
            assert not hands.waiting
            resting.undo()
            use_small_pages(monkeypatch, 2)
            await finish(opened, source, run)
            # What was put back, what was added, and what this needs; then the body, with the results of all members.
            for delivery in await taken(hands, 3):
                await hands.settle(delivery, Ack(json.dumps(delivery.id.rpartition("/")[2]).encode()))
            (last,) = await taken(hands, 1)
            await hands.settle(last, Ack(b'"last"'))
            (body,) = await taken(hands, 1)
            payload: Any = body.payload
            assert json.loads(payload) == [1, "1.1", 3, "4", "last"]
            await hands.settle(body, Ack(b"0"))
            info = await opened.runs.info(run)
            assert info is not None
            assert (info.status, info.done, info.total) == (Status.SUCCESS, 7, 7)


async def taken(hands: FakeConsumer, count: int) -> list[Delivery]:
    async def are_there() -> bool:
        return len(hands.waiting) == count

    await until(are_there)
    found = sorted(hands.waiting, key=lambda one: one.id)
    hands.waiting.clear()
    return found


async def call(broker: Broker, *command: Any) -> Any:
    assert isinstance(broker, RedisBroker)
    return await broker.client.call(*command)


async def finish(broker: Any, home: str, run: str) -> None:
    if hasattr(broker.runs, "_finish"):
        await broker.runs._finish(home, run)
    else:

        def leave(store: Any) -> None:
            store.runs._book(run).leave_more()

        await broker.runs._writer.ask(leave)
        await broker.runs._all(run, True)


# ---- runs that a handler starts ----


async def test_a_handler_continues_with_a_run_of_many_pages(
    open_stage: OpenStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[int] = []
    for module in (kept_ahead, kept_in_file):
        monkeypatch.setattr(module, "_PAGE", lambda: pages.append(1))
    async with open_stage() as stage, stage.open_system():
        assert await stage.client.ref(Calculator).ask(SumOfSquares([1, 2, 3, 4, 5])) == 55
        assert len(pages) >= 3
        if isinstance(stage.broker, RedisBroker):
            assert await stage.broker.client.call("KEYS", "*flow:*:*:steps") == []


@pytest.mark.parametrize("where", ["redis", "cluster"])
async def test_a_delivery_that_dies_before_it_starts_its_run_leaves_keys_that_expire(
    where: str, redis_url: str, redis_server: RedisServer, cluster: RedisCluster
) -> None:
    source = f"{SOURCE}-{next(_numbers)}"
    url = cluster.url if where == "cluster" else redis_url
    home = f"{source}-away" if where == "cluster" else source
    plan = stories.attrs.evolve(plan_of(f"dies-{next(_numbers)}", source), home=home)

    def lives() -> set[bool]:
        ports = [one.port for one in cluster.primaries] if where == "cluster" else [None]
        found: set[bool] = set()
        for port in ports:
            where_it_is: dict[str, Any] = (
                {"unix_socket_path": str(redis_server.socket_path)} if port is None else {"port": port}
            )
            server: Any = redis.Redis(**where_it_is)
            with closing(server):
                for key in server.scan_iter(f"actorwork:{{{home}}}:flow:{plan.id}*"):
                    found.add(server.pttl(key) > 0)
        return found

    async with open_broker(url) as broker, open_consumer(broker, source, home, group="by hand") as hands:
        await broker.publish([Envelope(source, "begin", b"1", headers={})])
        (delivery,) = await taken(hands, 1)
        dying = await hands.node.keep_ahead(delivery, Ack(starts=(plan,)))
        assert dying is not None
        assert lives() == {True}
        assert (await broker.runs.steps(plan.id)) == []
        # It is delivered once more.
        again = await hands.node.keep_ahead(delivery, Ack(starts=(plan,)))
        assert again is not None
        await hands.settle(delivery, again)
        members = await taken(hands, 3)
        assert await broker.runs.info(plan.id) is not None
        assert lives() == {True, False}  # Of the first delivery, and of the run.
        # A third one, which finds that the run has begun, leaves nothing of its own.
        await broker.publish([Envelope(source, "begin again", b"1", headers={})])
        (other,) = await taken(hands, 1)
        third = await hands.node.keep_ahead(other, Ack(starts=(plan,)))
        assert third is not None
        assert third.starts[0].ahead not in (None, again.starts[0].ahead)
        await hands.settle(other, third)
        for member in members:
            await hands.settle(member, Ack(b"1"))
        assert len(await taken(hands, 1)) == 1


async def test_a_delivery_that_belongs_to_another_node_keeps_nothing_ahead(redis_url: str) -> None:
    source = f"{SOURCE}-{next(_numbers)}"
    plan = plan_of(f"lost-{next(_numbers)}", source)
    async with open_broker(redis_url) as broker, open_consumer(broker, source, group="by hand") as hands:
        await broker.publish([Envelope(source, "begin", b"1", headers={})])
        (delivery,) = await taken(hands, 1)
        entry, count, *rest = delivery.token
        former = stories.attrs.evolve(delivery, token=(entry, count + 1, *rest))
        assert await hands.node.keep_ahead(former, Ack(starts=(plan,))) is None
        assert await call(broker, "KEYS", f"*flow:{plan.id}*") == []


async def test_a_run_whose_pages_were_not_kept_fails_and_says_so(redis_url: str) -> None:
    source = f"{SOURCE}-{next(_numbers)}"
    plan = plan_of(f"late-{next(_numbers)}", source)
    async with open_broker(redis_url) as broker, open_consumer(broker, source, group="by hand") as hands:
        await broker.publish([Envelope(source, "begin", b"1", headers={})])
        (delivery,) = await taken(hands, 1)
        ack = await hands.node.keep_ahead(delivery, Ack(starts=(plan,)))
        assert ack is not None
        for key in await call(broker, "KEYS", f"*flow:{plan.id}*"):
            await call(broker, "DEL", key)
        await hands.settle(delivery, ack)
        info = await broker.runs.info(plan.id)
        assert info is not None
        assert info.status is Status.FAILURE
        assert "were not kept" in info.reason


# ---- rows that belong to no run, in the embedded broker ----


TABLES = ("steps", "waits", "bodies", "grown", "signals", "loose")


class Died(Exception):
    pass


def die_at(monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """Have a program that keeps pages of a run die after so many of them."""
    pages = itertools.count(1)

    def die() -> None:
        if next(pages) == page:
            raise Died

    monkeypatch.setattr(kept_in_file, "_PAGE", die)


async def in_store(broker: MemoryBroker, run: Callable[[Store], Any]) -> Any:
    return await broker._writer.ask(run)  # pyright: ignore[reportPrivateUsage]


async def rows_of(broker: MemoryBroker) -> tuple[int, int]:
    """Return how many steps the file has, and how many names of rows that belong to no run."""

    def count(store: Store) -> tuple[int, int]:
        found = [store.execute(f"select count(*) from {table}").fetchone()[0] for table in TABLES]
        assert found[0] or not any(found), "what belongs to steps is left without them"
        return found[0], found[-1]

    return await in_store(broker, count)


async def age(broker: MemoryBroker) -> None:
    """Let the time be up of all that is kept for a time."""

    def age(store: Store) -> None:
        store.execute("update loose set until = 0")
        store.execute("update runs set expires = 0 where expires is not null")

    await in_store(broker, age)


async def pruned(broker: MemoryBroker) -> int:
    """Delete what is loose for long enough; return how many transactions that takes."""
    for turn in itertools.count(1):
        if not await in_store(broker, Store.prune):
            return turn
    raise AssertionError


async def test_a_client_that_dies_between_the_pages_of_a_run_has_begun_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker, run = MemoryBroker(), "dies"
    plan = plan_of(run, SOURCE)
    for page in (1, 2, 3):
        with monkeypatch.context() as dying, pytest.raises(Died):
            die_at(dying, page)
            await broker.runs.start(plan)
        assert await broker.runs.info(run) is None
        assert await broker.runs.list() == await broker.runs.steps(run) == []
        assert not await broker.runs.cancel(run, "there is none")
        assert await broker.backlog(SOURCE) == 0
    before, _ = await rows_of(broker)
    # The same id is free; what it begins has nothing to do with those rows.
    assert await broker.runs.start(plan)
    assert not await broker.runs.start(plan)
    assert await rows_of(broker) == (before + 5, 3)  # Of what was started in vain nothing is left.
    info = await broker.runs.info(run)
    assert info is not None
    assert (info.status, info.done, info.total, await broker.backlog(SOURCE)) == (Status.STARTED, 0, 4, 3)
    await pruned(broker)
    left, loose = await rows_of(broker)
    assert (left > 5, loose) == (True, 3)  # That run and its result; of those that died, of which one kept half.
    await age(broker)
    assert await pruned(broker) > 1
    assert await rows_of(broker) == (5, 0)
    assert await broker.runs.info(run) == info


async def test_a_run_whose_rows_were_deleted_before_it_is_started_fails_and_says_so() -> None:
    broker = MemoryBroker()
    async with open_consumer(broker, SOURCE, group="by hand") as hands:
        await broker.publish([Envelope(SOURCE, "begin", b"1", headers={})])
        (delivery,) = await taken(hands, 1)
        ack = await hands.node.keep_ahead(delivery, Ack(starts=(plan_of("late", SOURCE),)))
        assert ack is not None
        await age(broker)
        await pruned(broker)
        await hands.settle(delivery, ack)
        info = await broker.runs.info("late")
        assert info is not None
        assert info.status is Status.FAILURE
        assert "kept too long before it was started" in info.reason
        assert await broker.runs.forget("late")
        assert await rows_of(broker) == (0, 0)


async def test_a_delivery_that_belongs_to_another_node_keeps_no_rows_ahead() -> None:
    broker = MemoryBroker()
    async with open_consumer(broker, SOURCE, group="by hand") as hands:
        await broker.publish([Envelope(SOURCE, "begin", b"1", headers={})])
        (delivery,) = await taken(hands, 1)
        plan = plan_of("lost", SOURCE)
        former = stories.attrs.evolve(delivery, token=delivery.token._replace(given=delivery.token.given + 1))
        assert await hands.node.keep_ahead(former, Ack(starts=(plan,))) is None
        assert await hands.node.keep_ahead(former, Ack(continues=plan)) is None
        assert await rows_of(broker) == (0, 0)


async def test_the_rows_of_a_forgotten_run_are_deleted_though_its_client_dies_after_the_first_page() -> None:
    broker = MemoryBroker()
    await broker.runs.start(plan_of("gone", SOURCE))
    await broker.runs.cancel("gone", "enough")
    assert await in_store(broker, lambda store: store.runs.forget("gone")) is not None  # And the client dies.
    assert await broker.runs.info("gone") is None
    assert await rows_of(broker) == (5, 1)
    assert await broker.runs.start(plan_of("gone", SOURCE))  # Its id is free at once.
    assert await pruned(broker) > 1
    assert await rows_of(broker) == (5, 0)
    assert await broker.runs.cancel("gone", "enough")
    assert await broker.runs.forget("gone")
    assert await rows_of(broker) == (0, 0)


async def test_runs_that_have_expired_are_deleted_page_by_page() -> None:
    broker = MemoryBroker()
    for number in range(3):
        await broker.runs.start(plan_of(f"{number}", SOURCE))
        await broker.runs.cancel(f"{number}", "enough")
    await pruned(broker)
    assert len(await broker.runs.list()) == 3
    await age(broker)
    assert await pruned(broker) > 3
    assert await rows_of(broker) == (0, 0)
    assert await broker.runs.list() == []


async def test_a_run_that_an_earlier_version_has_begun_goes_on_and_is_forgotten() -> None:
    """Its steps have its id where others have a name of their own, and their bodies in their rows."""
    broker = MemoryBroker()

    def as_before(store: Store) -> None:
        store.execute(f"update steps set body = {loose_rows.BODY}")
        store.execute("update runs set rest = (select body from bodies where step = ?)", (RESULT,))
        store.execute("delete from bodies")
        for table in ("steps", "waits"):
            store.execute(f"update {table} set run = 'old' where run = (select rows from runs where run = 'old')")
        store.execute("update runs set rows = null")

    async with open_consumer(broker, SOURCE, group="by hand") as hands:
        await broker.runs.start(plan_of("old", SOURCE))
        await in_store(broker, as_before)
        first, second, third = await taken(hands, 3)
        await hands.settle(second, Fail(Failure("ValueError", "as it happens")))
        await hands.settle(first, Ack(b"1"))
        await hands.settle(third, Ack(b"3"))
        assert [one.status for one in await broker.runs.steps("old")][:2] == [Status.SUCCESS, Status.HELD]
        assert await broker.runs.retry("old")
        (again,) = await taken(hands, 1)
        await hands.settle(again, Ack(b"2"))
        (body,) = await taken(hands, 1)
        assert body.payload == b"[1,2,3]"
        await hands.settle(body, Ack(b"6"))
        info = await broker.runs.info("old")
        assert info is not None
        assert (info.status, info.result) == (Status.SUCCESS, "6")
        assert await broker.runs.forget("old")
        assert await rows_of(broker) == (0, 0)
