"""How far a handler is: reported without waiting, sent now and then, and never by a node that has lost the message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio

from actorwork import Actor, Message, MessageFailed, MessageInfo, NotRunning, Retry, Settings, Status, receive
from actorwork.records import Progress
from actorwork.testing import open_test_system
from actorwork.workflows import chord, step
from tests.patience import PATIENCE
from tests.workflows.conftest import OpenStage
from tests.workflows.shop import Calculator, Sum

EVERY = 0.05
"""Seconds between two updates of a message."""


@attrs.frozen
class Count(Message["Reporter", int]):
    to: int


@attrs.frozen
class Say(Message["Reporter", None]):
    done: Any = 0
    meta: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class InThread(Message["Reporter", str]):
    steps: int


@attrs.frozen
class TwoAttempts(Message["Reporter", None]):
    pass


class Reporter(Actor):
    settings = Settings(title="reporter", sources={"reports"}, concurrency=3)
    go_on = trio.Event()
    """Set anew by each test that uses it."""

    @receive
    async def count(self, message: Count) -> int:
        for number in range(1, message.to + 1):
            self.context.progress(number, message.to, f"number {number}")
            await trio.sleep(0.001)
        await self.go_on.wait()
        return message.to

    @receive
    async def say(self, message: Say) -> None:
        self.context.progress(message.done, **message.meta)

    @receive
    def in_thread(self, message: InThread) -> str:
        for number in range(message.steps):
            self.context.progress(number + 1, message.steps, state="THREAD", found=[number])
        return "done"

    @receive
    async def two_attempts(self, message: TwoAttempts) -> None:
        if self.context.delivery.attempt == 1:
            self.context.progress(1, 2)
            raise Retry(0.01)
        await self.go_on.wait()


@pytest.fixture(autouse=True)
def go_on() -> trio.Event:
    Reporter.go_on = trio.Event()
    return Reporter.go_on


async def until(updates: AsyncIterator[MessageInfo], done: float) -> MessageInfo:
    with trio.fail_after(PATIENCE):
        async for info in updates:
            if info.progress is not None and info.progress.done == done:
                return info
    raise AssertionError("the end came before")


async def test_of_many_reports_few_are_sent_and_the_last_one_is(open_stage: OpenStage, go_on: trio.Event) -> None:
    async with open_stage() as stage, stage.open_system((Reporter,)):
        began = trio.current_time()
        receipt = await stage.client.ref(Reporter).submit(Count(200))
        async with receipt.watch() as updates:
            info = await until(updates, 200)
            sent_at_most = (trio.current_time() - began) / EVERY + 1
            assert info.status is Status.STARTED
            assert info.progress == Progress(200, 200, "number 200")
            # Its other versions are: kept, received, begun.
            assert info.version <= sent_at_most + 3
            async with receipt.watch() as late:
                assert (await anext(late)).progress == info.progress
            go_on.set()
            assert [one.status async for one in updates] == [Status.SUCCESS]
        async with receipt.watch() as after:
            assert [(one.status, one.progress) async for one in after] == [(Status.SUCCESS, info.progress)]


async def test_the_report_of_a_node_that_has_lost_the_message_is_refused(open_stage: OpenStage) -> None:
    report, reported, end = trio.Event(), trio.Event(), trio.Event()

    class Zombie(Reporter):
        settings = Reporter.settings

        async def count(self, message: Count) -> int:
            if self.context.delivery.crashes:
                self.context.progress(5, 10, "taken over")
                await end.wait()
                return 1
            self.context.progress(1, 10)
            with trio.CancelScope(shield=True):
                await report.wait()
                self.context.progress(99, 10, "too late")
                reported.set()
            return 0

    async with open_stage() as stage, stage.open_system((Zombie,), lease=60):
        receipt = await stage.client.ref(Reporter).submit(Count(1))
        async with receipt.watch() as updates:
            first = await until(updates, 1)
            async with stage.open_system((Zombie,), lease=60):
                assert await stage.broker.release_lease(first.node)
                second = await until(updates, 5)
                assert second.node != first.node
                report.set()
                await reported.wait()
                await trio.sleep(2 * EVERY)
                assert (await receipt.info()).progress == second.progress
                end.set()
                assert await receipt.result() == 1
                assert (await receipt.info()).progress == second.progress


async def test_a_report_after_the_end_is_dropped(open_stage: OpenStage) -> None:
    reported = trio.Event()

    class Helped(Reporter):
        settings = Reporter.settings

        async def say(self, message: Say) -> None:
            self.context.nursery.start_soon(self.report_late)
            self.context.progress(1, 2)

        async def report_late(self) -> None:
            await Reporter.go_on.wait()
            self.context.progress(2, 2)
            reported.set()

    async with open_stage() as stage, stage.open_system((Helped,)):
        receipt = await stage.client.ref(Reporter).submit(Say())
        await receipt.result()
        Reporter.go_on.set()
        await reported.wait()
        await trio.sleep(2 * EVERY)
        info = await receipt.info()
        assert (info.status, info.progress) == (Status.SUCCESS, Progress(1, 2))


async def test_a_handler_in_a_thread_reports_too(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system((Reporter,)):
        receipt = await stage.client.ref(Reporter).submit(InThread(500))
        assert await receipt.result() == "done"
        info = await receipt.info()
        assert info.progress is not None
        assert info.progress.state == "THREAD"


async def test_the_next_attempt_begins_without_the_progress_of_the_one_before(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system((Reporter,)):
        receipt = await stage.client.ref(Reporter).submit(TwoAttempts())
        async with receipt.watch() as updates:
            with trio.fail_after(PATIENCE):
                async for info in updates:
                    if info.attempt == 2 and info.status is Status.STARTED:
                        assert info.progress is None
                        Reporter.go_on.set()
        assert (await receipt.info()).progress is None


async def test_a_step_of_a_run_shows_where_its_message_is(open_stage: OpenStage, go_on: trio.Event) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(chord([step(Reporter, Count(3))], Calculator, Sum))
        counting, body = await run.steps()
        assert (counting.status, counting.progress, body.status) == (Status.PENDING, None, Status.PENDING)
        async with stage.open_system((Reporter, Calculator)):
            with trio.fail_after(PATIENCE):
                while counting.progress is None or counting.progress.done < 3:
                    await trio.sleep(0.01)
                    counting, body = await run.steps()
            assert (counting.status, body.status) == (Status.STARTED, Status.PENDING)
            assert counting.progress == Progress(3, 3, "number 3")
            go_on.set()
            assert await run.result() == 3
        assert [one.progress for one in await run.steps()] == [None, None]


async def test_all_messages_of_a_batch_have_the_progress_of_their_handler() -> None:
    class Together(Actor):
        settings = Settings(title="together", sources={"many"})

        @receive(batch=2, within=1)
        async def many(self, messages: list[int]) -> None:
            self.context.progress(len(messages), 2)

    async with open_test_system([Together]) as system:
        receipts = [await system.client.ref(Together).submit(number) for number in range(2)]
        for receipt in receipts:
            await receipt.result()
            assert (await receipt.info()).progress == Progress(2, 2)


@pytest.mark.parametrize(
    ("say", "error"),
    [
        (Say("half"), "done wants a number, got 'half'"),
        (Say(True), "done wants a number, got True"),
        (Say(1, {"total": "all"}), "total wants a number, or None if it is not known, got 'all'"),
        (Say(1, {"note": 3}), "note wants a str, got 3"),
        (Say(1, {"state": ""}), "state wants a word of at most 100 characters, got ''"),
        (Say(1, {"page": "x" * 20_000}), "at most 16,384 bytes of JSON, got 20,011"),
    ],
)
async def test_what_is_no_report_is_an_error_of_the_handler(say: Say, error: str) -> None:
    async with open_test_system([Reporter]) as system:
        with pytest.raises(MessageFailed, match=error):
            await system.client.ref(Reporter).ask(say)


async def test_a_word_for_the_state_and_whatever_else_is_reported_comes_along() -> None:
    async with open_test_system([Reporter]) as system:
        meta = {"state": "VALIDATING", "note": "n" * 2000, "step": "imports", "found": {"a": [1, None, 2.5]}}
        receipt = await system.client.ref(Reporter).submit(Say(1, meta))
        await receipt.result()
        progress = (await receipt.info()).progress
        assert progress is not None
        assert (progress.state, progress.total) == ("VALIDATING", None)
        assert progress.note == "n" * 999 + "…"
        assert progress.meta == {"step": "imports", "found": {"a": [1, None, 2.5]}}


async def test_reports_of_messages_that_cannot_be_watched_are_dropped_and_outside_of_messages_refused() -> None:
    class Early(Reporter):
        settings = Reporter.settings

        async def startup(self) -> None:
            with pytest.raises(NotRunning, match=r"context\.progress belongs to a message"):
                self.context.progress(1)

    async with open_test_system([Early]) as system:
        await system.client.ref(Early).ask(Say(1))
        await system.ref(Early).ask(Say(1))
