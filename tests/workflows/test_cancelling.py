"""Messages and runs are cancelled wherever they are, and limits of time end them, at each of the brokers."""

from __future__ import annotations

import math

import attrs
import pytest
import trio
import trio.lowlevel

from actorwork import Actor, Fail, Message, MessageFailed, Receipt, Retry, RetryPolicy, Settings, open_client, receive
from actorwork.message import Failure
from actorwork.workflows import Flow, Status, chord, step
from tests.patience import PATIENCE
from tests.workflows.conftest import OpenStage
from tests.workflows.test_runs import until

LONG = 600.0
"""Seconds: longer than any test."""
seen: list[str] = []


@attrs.frozen
class Work(Message["Worker", int]):
    name: str
    how: str = "quick"


@attrs.frozen
class Join(Message["Joiner", list[int]]):
    numbers: list[int]


class Worker(Actor):
    settings = Settings(title="worker", retry=RetryPolicy(attempts=5), soft_timeout=0.2, execution_timeout=LONG)

    @receive
    async def work(self, message: Work) -> int:
        seen.append(f"{message.name} begins")
        try:
            match message.how:
                case "fail":
                    raise Fail("no good")
                case "sleep":
                    await trio.sleep(LONG)
                case "shield":
                    while trio.current_effective_deadline() > -math.inf:
                        with trio.CancelScope(shield=True):
                            await trio.sleep(0.01)
                case "soft":
                    with self.context.soft_limit():
                        await trio.sleep(LONG)
                    await trio.lowlevel.checkpoint()
                    return 3
                case _:
                    pass
        except trio.Cancelled:
            seen.append(f"{message.name} cancelled")
            raise
        finally:
            seen.append(f"{message.name} ends")
        return 5

    async def failed(self, message: object, failure: Failure) -> None:
        seen.append(f"failed: {failure.type}")


class Joiner(Actor):
    settings = Settings(title="joiner")

    @receive
    async def join(self, message: Join) -> list[int]:
        seen.append("joined")
        return message.numbers


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


async def has_seen(what: str) -> None:
    with trio.fail_after(PATIENCE):
        while what not in seen:  # noqa: ASYNC110 - the handler sets no event
            await trio.sleep(0.01)


async def test_what_no_node_has_is_cancelled_at_once_and_its_waiter_gets_the_error_before_a_node_comes(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage:
        ref = stage.client.ref(Worker)
        unread = await ref.submit(Work("unread"))
        first = await ref.submit(Work("first of its key"), key="k")
        behind = await ref.submit(Work("behind its key"), key="k")
        delayed = await ref.submit(Work("delayed"), delay=60)
        for receipt in (unread, behind, delayed):

            async def wait(receipt: Receipt[int] = receipt) -> None:
                with pytest.raises(MessageFailed, match="too late") as caught:
                    await receipt.result(timeout=PATIENCE)
                assert caught.value.type == "Cancelled"

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.lowlevel.checkpoint()
                assert await receipt.cancel("too late") is True
            info = await receipt.info()
            assert (info.status, info.reason) == (Status.CANCELLED, "too late")
            assert await receipt.cancel("again") is False
            assert (await receipt.info()) == info
        async with stage.open_system([Worker]):
            assert await first.result(timeout=PATIENCE) == 5
            assert await ref.ask(Work("last"), timeout=PATIENCE) == 5
        assert seen == ["first of its key begins", "first of its key ends", "last begins", "last ends"]


async def test_a_retry_that_waits_for_its_time_is_cancelled(open_stage: OpenStage) -> None:
    class Patient(Worker):
        settings = Settings(title="patient")

        @receive
        async def work(self, message: Work) -> int:
            seen.append(message.name)
            raise Retry(LONG)

    async with open_stage() as stage, stage.open_system([Patient]):
        receipt = await stage.client.ref(Patient).submit(Work("again"))

        async def waits() -> bool:
            return await receipt.status() is Status.RETRY

        await until(waits)
        assert await receipt.cancel("too late")
        assert await receipt.status() is Status.CANCELLED
        assert await stage.broker.delayed.list() == []
        assert await stage.broker.dead_letters.list() == []
        assert seen == ["again"]


async def test_a_handler_in_flight_is_cancelled_and_its_message_neither_tried_again_nor_a_dead_letter(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage, stage.open_system([Worker]):
        ref = stage.client.ref(Worker)
        receipt = await ref.submit(Work("asleep", "sleep"))
        waiting = await ref.submit(Work("waits at the node"))
        await has_seen("asleep begins")
        assert await waiting.cancel("too late")
        assert await receipt.cancel("too late")
        for one in (receipt, waiting):
            with pytest.raises(MessageFailed, match="too late"):
                await one.result(timeout=PATIENCE)
            assert await one.status() is Status.CANCELLED
        assert await ref.ask(Work("next"), timeout=PATIENCE) == 5
        assert seen == ["asleep begins", "asleep cancelled", "asleep ends", "next begins", "next ends"]
        assert await stage.broker.dead_letters.list() == []
        assert await stage.broker.delayed.list() == []


async def test_a_handler_that_shields_itself_and_returns_has_the_last_word(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system([Worker]):
        receipt = await stage.client.ref(Worker).submit(Work("shielded", "shield"))
        await has_seen("shielded begins")
        assert await receipt.cancel("too late")
        assert await receipt.result(timeout=PATIENCE) == 5
        assert await receipt.status() is Status.SUCCESS
        assert seen == ["shielded begins", "shielded ends"]


async def test_what_is_over_cannot_be_cancelled_and_stays_as_it_is(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system([Worker]):
        ref = stage.client.ref(Worker)
        done, bad = await ref.submit(Work("good")), await ref.submit(Work("bad", "fail"))
        assert await done.result(timeout=PATIENCE) == 5
        with pytest.raises(MessageFailed, match="no good"):
            await bad.result(timeout=PATIENCE)
        letters = await stage.broker.dead_letters.list()
        for receipt in (done, bad):
            info = await receipt.info()
            assert await receipt.cancel("too late") is False
            assert await receipt.info() == info
        assert await done.result() == 5
        with pytest.raises(MessageFailed, match="no good"):
            await bad.result()
        assert [one.id for one in letters] == [bad.id]
        assert await stage.broker.dead_letters.list() == letters
        await has_seen("failed: Fail")


def in_all_places(*, deadline: float | None = None) -> Flow[int]:
    """A run with steps that are done, in flight, waiting at the node, delayed, and not sent yet."""
    done = step(Worker, Work("done"), name="done")
    running = step(Worker, Work("running", "sleep"), name="running", after=[done])
    queued = step(Worker, Work("queued"), name="queued", after=[done])
    delayed = step(Worker, Work("delayed"), name="delayed", delay=LONG)
    unsent = step(Worker, Work("unsent"), name="unsent", after=[running, queued, delayed])
    return Flow(unsent, on_error=lambda _: step(Worker, Work("alarm")), deadline=deadline)


async def test_cancelling_a_run_ends_its_steps_wherever_they_are_and_sends_no_on_error(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system([Worker]):
        run = await stage.client.start(in_all_places())
        await has_seen("running begins")
        assert await run.cancel("too late")
        assert not await run.cancel("again")
        await has_seen("running ends")
        assert await stage.client.ref(Worker).ask(Work("next"), timeout=PATIENCE) == 5
        info = await run.info()
        assert (info.status, info.reason) == (Status.CANCELLED, "too late")
        statuses = {one.name: one.status for one in await run.steps()}
        assert statuses.pop("done") is Status.SUCCESS
        assert set(statuses.values()) == {Status.CANCELLED}
        assert len(statuses) == 4
        with pytest.raises(MessageFailed, match=r"was cancelled \(too late\)"):
            await run.result()
        assert seen[2:] == ["running begins", "running cancelled", "running ends", "next begins", "next ends"]
        assert await stage.broker.dead_letters.list() == []
        assert await stage.broker.delayed.list() == []


async def test_a_deadline_ends_the_steps_of_a_run_wherever_they_are_though_its_client_is_gone(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage, stage.open_system([Worker]):
        # A busy machine may take longer than a short deadline until the step that is to be in flight is there.
        for deadline in (0.5, 2.0, 10.0):
            seen.clear()
            async with open_client(stage.broker) as client:
                run_id = (await client.start(in_all_places(deadline=deadline))).id
            run = stage.client.run(run_id)
            with pytest.raises(MessageFailed, match=r"failed \(deadline\)"):
                await run.result(timeout=PATIENCE)
            await has_seen("alarm ends")
            if "running begins" in seen:
                break
        await has_seen("running cancelled")
        info = await run.info()
        assert (info.status, info.reason) == (Status.FAILURE, "deadline")
        ends = {one.name: one.end for one in await run.steps() if one.name not in {"done", "alarm"}}
        assert {end and (end.kind, end.failure and end.failure.reason) for end in ends.values()} == {
            ("cancelled", "deadline")
        }
        assert not [line for line in seen if line.startswith(("queued", "delayed", "unsent"))]


async def test_a_member_that_its_soft_limit_cuts_off_counts_once_with_what_it_has(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system([Worker, Joiner]):
        members = [step(Worker, Work("cut off", "soft")), step(Worker, Work("quick"))]
        run = await stage.client.start(chord(members, Joiner, Join))
        assert await run.result(timeout=PATIENCE) == [3, 5]
        assert [one.status for one in await run.steps()] == [Status.SUCCESS] * 3
        assert seen.count("cut off begins") == seen.count("joined") == 1
        assert "cut off cancelled" not in seen


async def test_past_its_hard_limit_a_handler_is_cancelled_and_its_actor_and_its_run_are_notified_once(
    open_stage: OpenStage,
) -> None:
    class Hurried(Worker):
        settings = Settings(title="hurried", execution_timeout=0.1)

    async with open_stage() as stage, stage.open_system([Hurried, Worker]):
        flow = Flow(step(Hurried, Work("late", "sleep")), on_error=lambda _: step(Worker, Work("alarm")))
        run = await stage.client.start(flow)
        with pytest.raises(MessageFailed, match="ExecutionTimeout"):
            await run.result(timeout=PATIENCE)
        await has_seen("alarm ends")
        await has_seen("failed: ExecutionTimeout")
        assert await stage.client.ref(Hurried).ask(Work("next"), timeout=PATIENCE) == 5
        assert seen[:3] == ["late begins", "late cancelled", "late ends"]
        assert sorted(seen[3:]) == [
            "alarm begins",
            "alarm ends",
            "failed: ExecutionTimeout",
            "next begins",
            "next ends",
        ]
