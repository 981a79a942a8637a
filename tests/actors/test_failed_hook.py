"""The hook `failed`: an actor learns of its messages that have become dead letters."""

from typing import Any

import attrs
import pytest
import trio

from actorwork import Actor, Fail, Message, RateLimit, Reject, Retry, RetryPolicy, Settings, SettingsError, receive
from actorwork.events import ActorTrouble
from actorwork.message import Failure
from actorwork.testing import open_test_system
from actorwork.workflows import Failed, Flow, step

pytestmark = pytest.mark.usefixtures("mock_clock")


@attrs.frozen
class Order(Message["Shop", None]):
    item: str


@attrs.frozen
class Row:
    number: int


class Shop(Actor):
    settings = Settings(title="shop", retry=RetryPolicy(attempts=2), execution_timeout=10, concurrency=3)

    @receive
    async def order(self, message: Order) -> None:
        match message.item:
            case "nothing":
                raise Reject("there is nothing")
            case "slow":
                await trio.sleep_forever()
            case _:
                raise ValueError(f"no {message.item}")

    @receive
    async def keywords(self, *, count: int, rest: str = "") -> None:
        raise Fail("never")

    async def failed(self, message: object, failure: Failure) -> None:
        said.append((message, failure.type, failure.reason))
        delivery = self.context.delivery
        self.context.publish("mended", {"id": delivery.id, "attempt": delivery.attempt})
        if message == Order("worse"):
            raise KeyError("in the hook")
        if message == Order("later"):
            raise Retry(3)
        if message == Order("endless"):
            await trio.sleep_forever()


said: list[tuple[Any, str, str]] = []


@pytest.fixture(autouse=True)
def _nothing_said() -> None:
    said.clear()


async def test_it_is_called_once_when_all_attempts_have_failed_and_what_it_publishes_is_sent():
    async with open_test_system(Shop) as system:
        receipt = await system.client.ref(Shop).submit(Order("tea"), id="1", headers={"who": "Ann"})
        await system.drain(scheduled=True)
        assert said == [(Order("tea"), "ValueError", "no tea")]
        (sent,) = [one.message for one in system.sent("mended")]
        assert sent == {"id": "1", "attempt": 2}
        assert [letter.id for letter in system.broker.dead_letters.all] == ["1"]
        assert await receipt.status() == "FAILURE"


async def test_a_timeout_is_a_failure_too_and_a_rejection_is_none():
    async with open_test_system(Shop) as system:
        await system.client.ref(Shop).tell_many([Order("nothing"), Order("slow")])
        await system.drain(scheduled=True)
        assert [(message, kind) for message, kind, _ in said] == [(Order("slow"), "ExecutionTimeout")]


async def test_it_is_given_a_message_that_cannot_be_read_as_it_came():
    async with open_test_system(Shop) as system:
        system.broker.put(Shop, b'{"count": "many"}', id="keywords of the wrong type")
        system.broker.put(Shop, b'{"count": 1}', id="keywords")
        system.broker.put(Shop, b"\xff", id="no JSON")
        system.broker.put(Shop, {b"a": b"1"}, id="foreign fields")
        await system.drain(scheduled=True)
        found = [(message, kind) for message, kind, _ in said]
        assert ({"count": "many"}, "CodecError") in found
        assert ({"count": 1}, "Fail") in found
        assert (b"\xff", "CodecError") in found
        assert ({b"a": b"1"}, "CodecError") in found
        assert len(found) == 4


async def test_an_error_in_it_is_reported_and_the_dead_letter_stays():
    async with open_test_system(Shop) as system:
        await system.client.ref(Shop).tell_many([Order("worse"), Order("later"), Order("endless")])
        await system.drain(scheduled=True)
        troubles = [event for event in system.events if isinstance(event, ActorTrouble)]
        assert sorted(type(one.error).__name__ for one in troubles) == ["ExecutionTimeout", "KeyError", "Retry"]
        assert all(one.goes_on for one in troubles)
        assert len(system.broker.dead_letters.all) == len(said) == 3, "it is not called again"
        assert not system.sent("mended"), "what it had published is dropped"


async def test_it_is_called_by_an_actor_that_its_message_has_crashed():
    class Fragile(Shop):
        settings = Settings(title="fragile", on_failure="restart")

    async with open_test_system(Fragile) as system:
        await system.client.ref(Fragile).tell(Order("tea"))
        await system.drain(scheduled=True)
        assert said == [(Order("tea"), "ValueError", "no tea")]


async def test_limits_do_not_hold_it_back_and_a_batch_fails_message_by_message():
    class Rows(Actor):
        settings = Settings(title="rows", limits=[RateLimit(1, per=1000)])

        @receive(batch=2)
        async def save(self, rows: list[Row]) -> None:
            raise ValueError("no database")

        async def failed(self, message: object, failure: Failure) -> None:
            said.append((message, failure.type, failure.reason))

    async with open_test_system(Rows) as system:
        began = trio.current_time()
        await system.client.ref(Rows).tell(Row(1))
        await trio.sleep(5)
        assert said == [(Row(1), "ValueError", "no database")]
        assert trio.current_time() - began < 10


async def test_it_is_called_for_a_step_of_a_run_that_then_sends_its_on_error():
    class Alarm(Actor):
        settings = Settings(title="alarm")

        @receive
        async def alarm(self, *, failures: list[Failed]) -> None:
            said.append(([one.kind for one in failures], "alarm", ""))

    async with open_test_system([Shop, Alarm]) as system:
        flow = Flow(step(Shop, Order("tea")), on_error=lambda failures: step(Alarm, {"failures": failures}))
        run = await system.client.start(flow)
        await system.drain(scheduled=True)
        assert await run.status() == "FAILURE"
        assert sorted(kind for _, kind, _ in said) == ["ValueError", "alarm"]


async def test_it_is_called_elsewhere_if_its_process_dies_meanwhile():
    async with open_test_system(Shop) as system:
        (node,) = system.broker.nodes
        await system.client.ref(Shop).tell(Order("endless"))
        await trio.sleep(1)
        assert len(said) == 1
        node.lose_lease()
        await trio.sleep(1)
        assert len(said) == 2


def test_a_handler_cannot_take_its_name():
    with pytest.raises(SettingsError, match=r"Wrong\.failed is the hook for failed messages"):

        class Wrong(Actor):  # pyright: ignore[reportUnusedClass] - the error is that of making it
            @receive
            async def failed(self, message: Order) -> None: ...  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
