"""Runs of which a script, or a transaction, does only a part at a time: nodes do the rest if a client dies."""

from __future__ import annotations

import itertools
import json
from contextlib import closing
from typing import Any

import pytest
import redis

from actorwork import MessageFailed
from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.message import Delivery, Envelope, Failure, Status
from actorwork.policy.runs.values import Gather, Need, Plan
from actorwork.policy.settlement import Ack, Fail
from actorwork.streams import kept_ahead
from actorwork.streams.broker import RedisBroker
from actorwork.testing import MemoryBroker
from actorwork.testing.conformance.fake_consumer import FakeConsumer, open_consumer
from actorwork.testing.redis_cluster import RedisCluster
from actorwork.testing.redis_server import RedisServer
from actorwork.workflows import Flow, Step, group, step
from tests.workflows import stories
from tests.workflows.conftest import OpenStage
from tests.workflows.pages import let_callers_die, let_nodes_rest, use_small_pages
from tests.workflows.shop import Calculator, Clerk, Note, SumOfSquares, Text
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
    monkeypatch.setattr(kept_ahead, "_PAGE", lambda: pages.append(1))
    async with open_stage() as stage, stage.open_system():
        assert await stage.client.ref(Calculator).ask(SumOfSquares([1, 2, 3, 4, 5])) == 55
        if hasattr(stage.broker.runs, "_finish"):
            assert len(pages) >= 3
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
