"""Runs in what seldom happens: steering in odd orders, doubles, forged headers, sources that take nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
import trio
import trio.testing

from actorwork import MessageFailed, Retry, open_client, open_system
from actorwork.brokers import open_broker
from actorwork.message import FLOW, Envelope
from actorwork.policy.runs.values import RESULT
from actorwork.streams import keys, plans
from actorwork.streams.broker import RedisBroker
from actorwork.testing import open_test_system
from actorwork.testing.redis_server import RedisServer
from actorwork.workflows import Flow, Status, chain, chord, group, nap, signal, step
from tests.forms import forms
from tests.patience import PATIENCE
from tests.workflows.conftest import OpenStage
from tests.workflows.shop import Alarm, Calculator, Clerk, Note, Square, Sum, SumOfSquares, Text, Undo
from tests.workflows.test_runs import squares, until


class Broken(Clerk):
    """A clerk that cannot note anything."""

    settings = Clerk.settings

    async def note(self, message: Note) -> str:
        raise OSError("no paper")


async def test_a_step_that_fails_while_its_run_is_paused_holds_the_run_once_it_is_resumed(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(Flow(step(Clerk, Note("x"), name="note"), hold_on_failure=True))
        assert await run.pause()
        async with stage.open_system((Calculator, Broken)):

            async def has_failed() -> bool:
                return bool((await run.info()).failures)

            await until(has_failed)
        assert await run.status() is Status.PAUSED
        assert await run.resume()
        info = await run.info()
        assert (info.status, info.reason) == (Status.HELD, "'note' failed")
        assert await run.retry()
        async with stage.open_system():
            assert await run.result() == "noted x"


async def test_a_held_step_whose_dead_letter_is_replayed_is_done_and_is_not_run_by_a_later_retry(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage:
        notes = [step(Clerk, Note("one"), name="one"), step(Clerk, Note("two"), name="two")]
        run = await stage.client.start(Flow(group(notes), hold_on_failure=True))
        async with stage.open_system((Calculator, Broken)):

            async def have_failed() -> bool:
                return len((await run.info()).failures) == 2

            await until(have_failed)
        letters = await stage.broker.dead_letters.list()
        first = [one.entry for one in letters if one.id.endswith("/0")]
        assert await stage.broker.dead_letters.replay(Clerk.settings.default_source, first)
        async with stage.open_system():

            async def is_noted() -> bool:
                return (await run.info()).done == 1

            await until(is_noted)
            assert await run.retry()
            assert await run.result() == ["noted one", "noted two"]
            assert Clerk.book == ["one", "two"]


async def test_a_signal_for_a_held_step_is_taken_by_its_retry(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        late = Flow(step(Calculator, Text(signal("go", str, within=0.05).result)), hold_on_failure=True)
        run = await stage.client.start(late)

        async def is_held() -> bool:
            return await run.status() is Status.HELD

        await until(is_held)
        assert await run.signal("go", "now")
        assert not await run.signal("go", "again")
        assert await run.retry()
        assert await run.result() == "now"


async def test_a_signal_after_the_retry_of_its_step_is_taken(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        late = Flow(step(Calculator, Text(signal("go", str, within=0.2).result)), hold_on_failure=True)
        run = await stage.client.start(late)

        async def is_held() -> bool:
            return await run.status() is Status.HELD

        await until(is_held)
        assert await run.retry()
        info = await run.info()
        assert info.waits_for == ("go",) or info.status is Status.HELD, "it asks again, for 0.2 s"
        assert await run.signal("go", "now")
        if await is_held():  # The signal came after those, and is kept for the next retry.
            assert await run.retry()
        assert await run.result() == "now"


async def test_a_run_that_is_cancelled_while_held_or_paused_never_runs_what_has_not_begun(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage:
        held = Flow(chain(step(Clerk, Note("x")), step(Clerk, Note("y"))), hold_on_failure=True)
        run = await stage.client.start(held)
        async with stage.open_system((Calculator, Broken)):

            async def is_held() -> bool:
                return await run.status() is Status.HELD

            await until(is_held)
        assert await run.cancel("enough")
        assert not await run.retry()
        paused = await stage.client.start(chain(step(Clerk, Note("x")), step(Clerk, Note("y"))))
        assert await paused.pause()
        assert await paused.cancel("enough")
        assert not await paused.resume()
        async with stage.open_system():
            await stage.client.ref(Clerk).ask(Note("after"))
        assert Clerk.book == ["after"]
        assert [info.status for info in await run.steps()] == [Status.FAILURE, Status.CANCELLED]
        assert {info.status for info in await paused.steps()} == {Status.CANCELLED}


@pytest.mark.parametrize("id", ["run", "Zürich"])
async def test_a_step_in_its_delay_before_a_retry_is_not_run_after_its_run_is_cancelled(
    open_stage: OpenStage, id: str
) -> None:
    attempts: list[int] = []

    class Tired(Calculator):
        settings = Calculator.settings

        async def square(self, message: Square) -> int:
            attempts.append(message.number)
            raise Retry(0.3)

    async with open_stage() as stage, stage.open_system((Tired, Clerk)):
        run = await stage.client.start(step(Calculator, Square(1)), id=id)

        async def was_tried() -> bool:
            return bool(attempts) and await stage.broker.backlog(Calculator.settings.default_source) == 0

        await until(was_tried)
        assert await run.cancel("enough")
        begun = len(attempts)  # One, unless the delay was over before the cancellation.
        await trio.sleep(0.6)
        assert len(attempts) == begun


async def test_a_retried_step_whose_child_has_failed_is_dropped_when_its_run_is_cancelled(
    open_stage: OpenStage,
) -> None:
    class Failing(Calculator):
        settings = Calculator.settings

        async def square(self, message: Square) -> int:
            raise ValueError("no squares today")

    async with open_stage() as stage:
        run = await stage.client.start(step(Calculator, SumOfSquares([1])))
        async with stage.open_system((Failing, Clerk)):
            with pytest.raises(MessageFailed, match="no squares today"):
                await run.result()
        assert await run.retry()
        assert await run.cancel("enough")
        async with stage.open_system():
            await stage.client.ref(Calculator).ask(Square(1))
        assert len(await stage.client.runs()) == 2, "the retried step has begun, and continued with another run"


async def test_a_step_that_continues_with_a_run_is_retried_with_another_one(open_stage: OpenStage) -> None:
    class Failing(Calculator):
        settings = Calculator.settings

        async def square(self, message: Square) -> int:
            raise ValueError("no squares today")

    async with open_stage() as stage:
        held = Flow(chord([step(Calculator, SumOfSquares([1, 2]))], Calculator, Sum), hold_on_failure=True)
        run = await stage.client.start(held)
        async with stage.open_system((Failing, Clerk)):

            async def is_held() -> bool:
                return await run.status() is Status.HELD

            await until(is_held)
        assert await run.retry()
        async with stage.open_system():
            assert await run.result() == 5


async def test_a_run_with_which_a_step_of_a_cancelled_run_continues_is_cancelled(open_stage: OpenStage) -> None:
    begun, go_on = trio.Event(), trio.Event()

    class Slow(Calculator):
        settings = Calculator.settings

        async def sum_of_squares(self, message: SumOfSquares) -> int:
            begun.set()
            with trio.CancelScope(shield=True):  # The end of its run cancels it.
                await go_on.wait()
            return await super().sum_of_squares(message)

    async with open_stage() as stage, stage.open_system((Slow, Clerk)):
        run = await stage.client.start(step(Calculator, SumOfSquares([1])))
        with trio.fail_after(PATIENCE):
            await begun.wait()
        assert await run.cancel("enough")
        go_on.set()

        async def has_child() -> bool:
            return len(await stage.client.runs()) == 2

        await until(has_child)
        (child,) = [one for one in await stage.client.runs() if one.id != run.id]
        assert child.status is Status.CANCELLED


async def test_nothing_more_is_undone_once_a_run_is_retried(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        first = step(Calculator, Square(1), name="first", undo=lambda value: step(Clerk, Undo(value)))
        second = step(Calculator, Square(2), after=[first], undo=lambda value: step(Clerk, Undo(value)))
        third = step(Clerk, Note("x"), after=[second])
        run = await stage.client.start(third)

        class Stuck(Broken):
            settings = Clerk.settings

            async def undo(self, message: Undo) -> None:
                await trio.sleep_forever()

        async with stage.open_system((Calculator, Stuck), grace=0):
            with pytest.raises(MessageFailed, match="no paper"):
                await run.result()
        assert await run.retry()
        async with stage.open_system():

            async def is_undone() -> bool:
                return ("undo", 4) in Clerk.book

            await until(is_undone)
            assert await run.result() == "noted x"
            await trio.sleep(0.05)
            await stage.client.ref(Clerk).ask(Note("after"))
            assert ("undo", 1) not in Clerk.book


async def test_all_steps_are_undone_though_that_takes_longer_than_results_are_kept(
    open_stage: OpenStage, request: pytest.FixtureRequest
) -> None:
    class Slow(Clerk):
        settings = Clerk.settings

        async def undo(self, message: Undo) -> None:
            await trio.sleep(0.15)
            await super().undo(message)

    async with open_stage() as stage, stage.open_system((Calculator, Slow)):
        done = [step(Calculator, Square(n), undo=lambda value: step(Clerk, Undo(value))) for n in (1, 2, 3)]
        run = await stage.client.start(Flow(chain(*done, signal("never", int)), results_ttl=0.1))

        async def are_done() -> bool:
            return (await run.info()).done == 3

        await until(are_done)
        assert await run.cancel("enough")

        async def are_undone() -> bool:
            return len(Clerk.book) == 3

        await until(are_undone)
        assert Clerk.book == [("undo", 9), ("undo", 4), ("undo", 1)]

        async def is_gone() -> bool:
            return await run.status() is Status.UNKNOWN

        if request.node.callspec.params["open_stage"] == "redis":  # The others look for what has expired now and then.
            await until(is_gone)


async def test_the_step_for_failures_is_sent_again_when_a_retried_run_fails_again(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system((Calculator, Broken)):
        flow = Flow(step(Clerk, Note("x")), on_error=lambda failures: step(Clerk, Alarm(failures)))
        run = await stage.client.start(flow)
        with pytest.raises(MessageFailed):
            await run.result()
        assert await run.retry()
        with pytest.raises(MessageFailed):
            await run.result()

        async def are_told() -> bool:
            return len(Clerk.book) == 2

        await until(are_told)


async def test_a_nap_that_is_retried_lasts_as_long_as_it_says(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(Flow(chain(nap(0.4), step(Calculator, Square(2))), deadline=0.2))
        with pytest.raises(MessageFailed, match="deadline"):
            await run.result()
        begun = trio.current_time()
        assert await run.retry()
        assert await run.result() == 4
        assert trio.current_time() - begun > 0.35


async def test_a_held_run_that_is_retried_keeps_its_deadline(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        flow = Flow(chain(step(Clerk, Note("x")), nap(60)), hold_on_failure=True, deadline=3)
        run = await stage.client.start(flow)
        async with stage.open_system((Calculator, Broken)):

            async def is_held() -> bool:
                return await run.status() is Status.HELD

            await until(is_held)
        assert await run.retry()
        async with stage.open_system():
            with pytest.raises(MessageFailed, match="deadline"):
                await run.result(timeout=PATIENCE)


async def test_a_run_under_the_id_of_a_forgotten_one_is_not_woken_by_it(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        first = await stage.client.start(chain(nap(0.3), step(Calculator, Square(2))), id="again")
        assert await first.cancel()
        assert await first.forget()
        await trio.sleep(0.1)
        begun = trio.current_time()
        second = await stage.client.start(chain(nap(0.3), step(Calculator, Square(3))), id="again")
        assert await second.result(timeout=PATIENCE) == 9
        assert trio.current_time() - begun > 0.28


async def test_a_run_under_the_id_of_a_forgotten_one_sends_steps_that_this_one_had_sent(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        first = await stage.client.start(chain(step(Calculator, Square(2)), step(Calculator, Text("end"))), id="again")
        assert await first.cancel()
        assert await first.forget()
        second = await stage.client.start(chain(step(Calculator, Square(3)), step(Calculator, Text("end"))), id="again")
        async with stage.open_system():
            assert await second.result(timeout=PATIENCE) == "end"
        assert [one.status for one in await second.steps()] == [Status.SUCCESS] * 2
        info = await stage.client.receipt("again/0").info()
        assert info is not None
        assert info.status is Status.SUCCESS


@pytest.mark.parametrize("id", forms("é", "a b", "a{b}c", "%d", "'", more=["$(x)", "*", "a.1", "日本", ":", "-"]))
async def test_a_run_may_have_any_id_that_is_accepted(open_stage: OpenStage, id: str) -> None:
    async with open_stage() as stage:
        keyed = [step(Clerk, Note(number), key="k") for number in range(2)]
        run = await stage.client.start(chord([*squares(2), *keyed], Calculator, Text), id=id)
        other = await stage.client.start(group([step(Clerk, Note(n), key="k") for n in (3, 4)]), id=f"{id} 2")
        assert await other.cancel()
        async with stage.open_system():
            assert await run.result() == [4, "noted 0", "noted 1"]
        assert Clerk.book == [0, 1]
        assert (await stage.client.run(id).info()).done == 4


async def test_a_forged_header_neither_undoes_nor_hides_a_child(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        first = step(Calculator, Square(5), name="first", undo=lambda value: step(Clerk, Undo(value)))
        run = await stage.client.start(chain(first, signal("never", int)), id="mine")
        home = Calculator.settings.default_source
        async with stage.open_system():

            async def is_done() -> bool:
                return (await run.info()).done == 1

            await until(is_done)
            forged = [
                Envelope(home, "forged undo", b'{"number":7}', "Square", {FLOW: f"{home}/mine/{RESULT + 1}"}),
                Envelope(home, "forged step", b'{"numbers":[1]}', "SumOfSquares", {FLOW: f"{home}/mine/1"}),
            ]
            await stage.broker.publish(forged)
            await stage.client.ref(Calculator).ask(Square(1))
            await trio.sleep(0.05)
            assert Clerk.book == []
            assert await run.cancel("enough")

            async def is_undone() -> bool:
                return bool(Clerk.book)

            await until(is_undone)
        assert Clerk.book == [("undo", 25)]


async def test_each_body_is_sent_once_though_every_message_is_delivered_twice_and_settlements_are_lost(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with open_test_system([Calculator, Clerk]) as system:
        system.faults.deliver_twice(Calculator, times=100)
        system.faults.lose_settlement(Calculator, times=1)
        system.faults.lose_settlement(Calculator, times=2, applied=True)
        inner = [chord(squares(number, 1), Calculator, Sum) for number in (2, 3)]
        run = await system.client.start(chord([chord(inner, Calculator, Sum), *squares(4)], Calculator, Text))
        assert await run.result() == [15, 16]
        await system.drain()
        info = await run.info()
        assert (info.status, info.done, info.total) == (Status.SUCCESS, 9, 9)
        assert len(system.sent(Calculator)) == 9


# ---- keys of other types, at Redis ----


def at(server: RedisServer) -> Any:
    return redis.Redis(unix_socket_path=str(server.socket_path), socket_timeout=None)


async def test_many_steps_of_a_source_that_is_no_stream_neither_hold_up_the_start_nor_the_others(
    redis_url: str, redis_server: RedisServer
) -> None:
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        at(redis_server).set(Clerk.settings.default_source, "no stream")
        stuck = [step(Clerk, Note(number)) for number in range(600)]
        last = squares(7)
        with trio.fail_after(PATIENCE):
            run = await client.start(group([*stuck, *last]))
        async with open_system([Calculator], broker=broker):

            async def is_done() -> bool:
                return (await run.info()).done == 1

            await until(is_done)
        at(redis_server).delete(Clerk.settings.default_source)
        Clerk.book.clear()
        async with open_system([Calculator, Clerk], broker=broker):
            assert len(await run.result(timeout=PATIENCE)) == 601
        assert sorted(Clerk.book, key=str) == sorted(range(600), key=str)


@pytest.mark.parametrize("key", ["delayed", "delayed:messages", "keys", "waiting"])
async def test_a_member_ends_though_the_step_that_it_releases_cannot_be_written(
    redis_url: str, redis_server: RedisServer, key: str
) -> None:
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        bad = f"actorwork:{{{Clerk.settings.default_source}}}:{key}"
        at(redis_server).set(bad, "of another type")
        Clerk.book.clear()
        first, *others = squares(1, 2, 3)
        late = [
            step(Clerk, Note("late"), after=[first], delay=0.1),
            *(step(Clerk, Note(f"keyed {number}"), key="k", after=[first]) for number in range(2)),
        ]
        run = await client.start(group([first, *others, *late]))
        async with open_system([Calculator], broker=broker):

            async def are_done() -> bool:
                return (await run.info()).done == 3

            await until(are_done)
        at(redis_server).delete(bad)
        async with open_system([Calculator, Clerk], broker=broker):
            await run.result(timeout=PATIENCE)
        assert sorted(map(str, Clerk.book)) == ["keyed 0", "keyed 1", "late"]


# ---- large runs, at Redis ----


async def test_a_large_run_is_cancelled_in_several_scripts_and_none_of_its_steps_begins(
    redis_url: str, redis_server: RedisServer
) -> None:
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        Clerk.book.clear()
        notes = [step(Clerk, Note(number), key="k" if number % 3 else None) for number in range(1000)]
        run = await client.start(step(Calculator, Text(group(notes).results)))
        assert await run.cancel("enough")
        info = await run.info()
        assert (info.status, info.reason, info.done) == (Status.CANCELLED, "enough", 1001)
        assert {one.status for one in await run.steps()} == {Status.CANCELLED}
        assert at(redis_server).xlen(Clerk.settings.default_source) == 0
        assert await run.forget()
        async with open_system([Calculator, Clerk], broker=broker):
            await client.ref(Clerk).ask(Note("after"))
        assert Clerk.book == ["after"]


async def test_a_large_run_whose_deadline_passes_is_ended_by_the_nodes(redis_url: str) -> None:
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        first = step(Clerk, Note("never"), delay=60)
        steps = [step(Clerk, Note(number), after=[first]) for number in range(1000)]
        run = await client.start(Flow(group([*steps, first]), deadline=0.3))
        async with open_system([Clerk], broker=broker):

            async def has_ended() -> bool:
                info = await run.info()
                return info.finished is not None and info.done == 1001

            await until(has_ended)
            assert await run.status() is Status.FAILURE
            assert await run.retry()


async def test_what_fails_in_a_run_that_older_nodes_have_begun_is_listed_as_they_list_it(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "FORMAT_OF_RUNS", "")
    async with open_broker(redis_url) as broker, open_client(broker) as client:
        assert isinstance(broker, RedisBroker)
        note = step(Clerk, Note("x"), name="note")
        run = await client.start(Flow(chain(note, signal("go", str)), hold_on_failure=True), id="r")
        at = keys.run(Clerk.settings.default_source, "r")

        def listed(what: str) -> Callable[[], Awaitable[bool]]:
            async def is_listed() -> bool:
                return await broker.client.call("SMEMBERS", f"{at}:{what}") != []

            return is_listed

        async with open_system([Broken], broker=broker):
            await until(listed("held"))
        assert await run.retry(steps=["note"])
        async with open_system([Clerk], broker=broker):
            await until(listed("asking"))
            assert await run.signal("go", "went")
            assert await run.result(timeout=PATIENCE) == "went"
