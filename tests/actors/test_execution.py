"""How a delivery ends: every way a handler can end, and what becomes of the message and of the actor."""

import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio

from actorwork import Actor, Fail, NotRunning, Reject, Retry, RetryPolicy, Settings, events, open_system, receive
from actorwork.message import REPLY_TO, RESULT_TTL, Delivery
from actorwork.policy import settlement as policy
from actorwork.policy.backoffs import Fixed
from actorwork.settings import EventSettings
from tests.doubles import FakeBroker, Kept, failed, fields

Body = Callable[[Any, Any], Awaitable[object]]


def actor_that(body: Body, **settings: Any) -> type[Actor]:
    """Make an actor whose only handler does `body(actor, n)`."""

    class Doer(Actor):
        @receive
        async def do(self, *, n: object = None) -> object:
            return await body(self, n)

    options: dict[str, Any] = {"execution_timeout": 10, **settings}
    Doer.settings = Settings(title="doer", **options)
    return Doer


async def outcome_of(body: Body, **settings: Any) -> policy.Settlement:
    """Run one delivery through `body`, then another one to see that the actor lives; return how the first ended."""
    first = True

    async def handle(actor: Any, n: Any) -> object:
        nonlocal first
        if n == "after":
            return None
        return await body(actor, n)

    actor = actor_that(handle, **settings)
    broker = FakeBroker()
    kept = Kept()
    async with open_system(actor, broker=broker, emit=kept):
        broker.put(actor, {"n": 1}, id="it")
        await broker.wait_settled(1)
        broker.put(actor, {"n": "after"}, id="after")
        await broker.wait_settled(2)
        assert broker.settlement("after") == policy.Ack()
    assert kept.of(events.ChildExited)[:-1] == [], "the actor was to live on"
    return broker.settlement("it")


def raises(error: BaseException, *, in_nursery: bool = False, depth: int = 1) -> Body:
    async def body(_actor: Any, _n: Any) -> None:
        if not in_nursery:
            raise error

        async def boom() -> None:
            raise error

        async def nested(left: int) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                if left == 1:
                    nursery.start_soon(boom)
                else:
                    nursery.start_soon(nested, left - 1)

        await nested(depth)

    return body


async def test_returning_is_ack(mock_clock: trio.testing.MockClock):
    async def body(_actor: Any, _n: Any) -> None:
        await trio.sleep(1)

    assert await outcome_of(body) == policy.Ack()


async def test_a_result_is_kept_only_if_asked_for():
    async def body(_actor: Any, n: Any) -> object:
        return [n, "hi"]

    actor = actor_that(body)
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        broker.put(actor, {"n": 1}, id="no")
        broker.put(actor, {"n": 2}, id="reply", headers={REPLY_TO: "here"})
        broker.put(actor, {"n": 3}, id="keep", headers={RESULT_TTL: 60})
        await broker.wait_settled(3)
    assert broker.settlement("no") == policy.Ack()
    assert broker.settlement("reply") == policy.Ack(b'[2,"hi"]')
    assert broker.settlement("keep") == policy.Ack(b'[3,"hi"]')


async def test_a_result_that_is_no_json_fails_the_message():
    async def body(_actor: Any, _n: Any) -> object:
        return object()

    actor = actor_that(body)
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        broker.put(actor, {}, id="it", headers={REPLY_TO: "here"})
        await broker.wait_settled()
    kind, reason = failed(broker.settlement("it"))
    assert kind == "CodecError"
    assert "cannot be written as JSON" in reason


IN_NURSERIES = pytest.mark.parametrize(
    ("in_nursery", "depth"), [(False, 1), (True, 1), (True, 3)], ids=["bare", "group", "deep"]
)


@IN_NURSERIES
async def test_reject_drops_the_message(in_nursery: bool, depth: int):
    settlement = await outcome_of(raises(Reject("too old"), in_nursery=in_nursery, depth=depth))
    assert isinstance(settlement, policy.Reject)
    assert (settlement.failure.type, settlement.failure.reason) == ("Reject", "too old")


@IN_NURSERIES
async def test_fail_fails_it_whatever_attempts_are_left(in_nursery: bool, depth: int):
    body = raises(Fail("no such order"), in_nursery=in_nursery, depth=depth)
    assert failed(await outcome_of(body, retry=RetryPolicy(attempts=5))) == ("Fail", "no such order")


@IN_NURSERIES
async def test_an_error_fails_the_message_by_default_and_the_actor_lives(in_nursery: bool, depth: int):
    settlement = await outcome_of(raises(ValueError("boom"), in_nursery=in_nursery, depth=depth))
    assert failed(settlement) == ("ValueError", "boom")
    assert isinstance(settlement, policy.Fail)
    assert "raise error" in settlement.failure.traceback


@IN_NURSERIES
@pytest.mark.parametrize("error", [ValueError("boom"), Retry()], ids=["error", "Retry"])
async def test_attempts_are_used_up_and_then_it_fails(
    error: Exception, in_nursery: bool, depth: int, mock_clock: trio.testing.MockClock
):
    attempts: list[tuple[int, float]] = []
    fail = raises(error, in_nursery=in_nursery, depth=depth)

    async def body(actor: Any, n: Any) -> None:
        attempts.append((actor.context.delivery.attempt, trio.current_time()))
        await fail(actor, n)

    actor = actor_that(body, retry=RetryPolicy(attempts=3, backoff=Fixed(seconds=7)))
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        began = trio.current_time()
        broker.put(actor, {})
        await broker.wait_settled(3)
    assert attempts == [(1, began), (2, began + 7), (3, began + 14)]
    assert [type(entry.settlement) for entry in broker.settled] == [policy.Retry, policy.Retry, policy.Fail]


async def test_retry_names_its_own_delay(mock_clock: trio.testing.MockClock):
    times: list[float] = []

    async def body(_actor: Any, _n: Any) -> None:
        times.append(trio.current_time())
        if len(times) == 1:
            raise Retry(delay=42, reason="come back")

    actor = actor_that(body, retry=RetryPolicy(attempts=2))
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        broker.put(actor, {})
        await broker.wait_settled(2)
    assert times[1] - times[0] == 42
    assert isinstance(broker.settled[1].settlement, policy.Ack)


class Own(BaseException):
    pass


@IN_NURSERIES
@pytest.mark.parametrize("error", [SystemExit(3), Own("mine"), GeneratorExit()], ids=lambda error: type(error).__name__)
async def test_no_exception_of_a_handler_ends_the_node(error: BaseException, in_nursery: bool, depth: int):
    body = raises(error, in_nursery=in_nursery, depth=depth)
    kind, _ = failed(await outcome_of(body, retry=RetryPolicy(attempts=5)))
    assert kind == type(error).__name__


async def test_a_cancellation_from_elsewhere_that_nobody_meant_fails_the_message():
    async def caught() -> BaseException:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                return error
        raise AssertionError

    async def body(_actor: Any, _n: Any) -> None:
        raise await caught()

    kind, _ = failed(await outcome_of(body))
    assert kind == "Cancelled"


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("even this fails")


@pytest.mark.parametrize(
    "error",
    [Speechless(), ValueError("half a character: \ud800"), OSError(2, "none", b"\xff")],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_that_cannot_be_put_into_words_fails_only_its_message(error: Exception):
    settlement = await outcome_of(raises(error))
    assert isinstance(settlement, policy.Fail)
    settlement.failure.reason.encode()
    settlement.failure.traceback.encode()


# ---- time ----


async def test_the_watchdog_ends_a_handler_past_its_timeout(mock_clock: trio.testing.MockClock):
    seen: list[float] = []

    async def body(_actor: Any, _n: Any) -> None:
        began = trio.current_time()
        try:
            await trio.sleep_forever()
        finally:
            seen.append(trio.current_time() - began)

    settlement = await outcome_of(body, execution_timeout=3)
    kind, reason = failed(settlement)
    assert kind == "ExecutionTimeout"
    assert "3 s" in reason
    assert 3 <= seen[0] <= 3.25


async def test_a_timeout_is_retried_like_any_error(mock_clock: trio.testing.MockClock):
    async def body(actor: Any, _n: Any) -> None:
        await trio.sleep(100 if actor.context.delivery.attempt == 1 else 0)

    actor = actor_that(body, execution_timeout=1, retry=RetryPolicy(attempts=2))
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        broker.put(actor, {})
        await broker.wait_settled(2)
    first, second = broker.settled
    assert isinstance(first.settlement, policy.Retry)
    assert first.settlement.failure.type == "ExecutionTimeout"
    assert isinstance(second.settlement, policy.Ack)


async def test_a_handler_that_swallows_its_cancellation_has_timed_out_all_the_same(
    mock_clock: trio.testing.MockClock,
):
    async def body(_actor: Any, _n: Any) -> str:
        with contextlib.suppress(trio.Cancelled):
            await trio.sleep_forever()
        return "fine"

    assert failed(await outcome_of(body, execution_timeout=1))[0] == "ExecutionTimeout"


async def test_a_handler_that_raises_in_its_cleanup_has_timed_out_with_that_as_the_cause(
    mock_clock: trio.testing.MockClock,
):
    async def body(_actor: Any, _n: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("in cleanup")

    settlement = await outcome_of(body, execution_timeout=1)
    assert failed(settlement)[0] == "ExecutionTimeout"
    assert isinstance(settlement, policy.Fail)
    assert "KeyError: 'in cleanup'" in settlement.failure.traceback


async def test_a_handler_that_shields_itself_is_reported_with_its_stack(mock_clock: trio.testing.MockClock):
    async def in_a_corner() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(25)

    async def body(_actor: Any, _n: Any) -> None:
        await in_a_corner()

    actor = actor_that(body, execution_timeout=1)
    broker, kept = FakeBroker(), Kept()
    async with open_system(actor, broker=broker, emit=kept):
        broker.put(actor, {}, id="it")
        await broker.wait_settled()
    assert failed(broker.settlement("it"))[0] == "ExecutionTimeout"
    reports = kept.of(events.Overdue)
    assert len(reports) == 2, "every ten seconds"
    assert reports[0].message_id == "it"
    assert "in_a_corner" in reports[0].where


async def test_a_handler_that_returns_before_its_deadline_is_handled(mock_clock: trio.testing.MockClock):
    async def body(_actor: Any, _n: Any) -> None:
        await trio.sleep(0.99)

    assert await outcome_of(body, execution_timeout=1) == policy.Ack()


async def test_the_next_message_has_its_whole_time(mock_clock: trio.testing.MockClock):
    async def body(_actor: Any, n: Any) -> None:
        await trio.sleep(n)

    actor = actor_that(body, execution_timeout=1)
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        for n in (0.9, 0.9, 5, 0.9):
            broker.put(actor, {"n": n})
        await broker.wait_settled(4)
    assert [type(entry.settlement) for entry in broker.settled] == [policy.Ack, policy.Ack, policy.Fail, policy.Ack]


async def test_a_thread_past_its_timeout_is_left_to_itself():
    free = threading.Event()

    class Blocking(Actor):
        settings = Settings(title="blocking", execution_timeout=0.5)

        @receive
        def block(self, *, forever: bool) -> None:
            if forever:
                free.wait()

    broker = FakeBroker()
    try:
        async with open_system(Blocking, broker=broker):
            broker.put(Blocking, {"forever": True}, id="stuck")
            await broker.wait_settled(1)
            # On a busy machine a thread may not even begin within half a second.
            after: policy.Settlement | None = None
            for number in range(20):
                broker.put(Blocking, {"forever": False}, id=f"after {number}")
                await broker.wait_settled(2 + number)
                after = broker.settlement(f"after {number}")
                if after == policy.Ack():
                    break
    finally:
        free.set()
    assert failed(broker.settlement("stuck"))[0] == "ExecutionTimeout"
    assert after == policy.Ack()


async def test_five_hundred_sleepers_take_the_time_of_one(mock_clock: trio.testing.MockClock):
    async def body(_actor: Any, _n: Any) -> None:
        await trio.sleep(5)

    actor = actor_that(body, concurrency=500)
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        began = trio.current_time()
        for _ in range(500):
            broker.put(actor, {})
        await broker.wait_settled(500)
        assert trio.current_time() - began == pytest.approx(5, abs=0.01)


async def test_a_message_that_comes_while_another_is_in_hand_need_not_wait(mock_clock: trio.testing.MockClock):
    async def body(_actor: Any, n: Any) -> None:
        await trio.sleep(n)

    actor = actor_that(body, concurrency=2)
    broker = FakeBroker()
    async with open_system(actor, broker=broker) as system:
        broker.put(actor, {"n": 9}, id="long")
        await trio.sleep(1)
        broker.put(actor, {"n": 1}, id="short")
        await trio.sleep(3)
        assert broker.order == ["short"]
        with trio.fail_after(2):
            await system.ref(actor).ask({"n": 1})


async def test_every_handler_has_a_timeout_of_its_own(mock_clock: trio.testing.MockClock):
    async def body(_actor: Any, n: Any) -> None:
        await trio.sleep(n)

    actor = actor_that(body, concurrency=3, execution_timeout=2)
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        broker.put(actor, {"n": 60}, id="hangs")
        await trio.sleep(1)
        broker.put(actor, {"n": 1.5}, id="works")
        broker.put(actor, {"n": 60}, id="hangs too")
        await broker.wait_settled(3)
    assert broker.order == ["hangs", "works", "hangs too"]
    assert broker.settlement("works") == policy.Ack()


# ---- context ----


async def test_every_task_knows_its_own_delivery(mock_clock: trio.testing.MockClock):
    seen: dict[str, set[str]] = {}

    async def body(actor: Any, n: Any) -> None:
        mine = seen.setdefault(actor.context.delivery.id, set())

        async def helper() -> None:
            await trio.sleep(1)
            mine.add(actor.context.delivery.id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(helper)
            await trio.sleep(n)
            mine.add(actor.context.delivery.id)

    actor = actor_that(body, concurrency=10)
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        for n in range(10):
            broker.put(actor, {"n": n / 5}, id=str(n))
        await broker.wait_settled(10)
    assert seen == {str(n): {str(n)} for n in range(10)}


async def test_a_thread_knows_its_delivery_and_publishes():
    seen: list[Delivery] = []

    class Threaded(Actor):
        settings = Settings(title="threaded")

        @receive
        def work(self, *, n: int) -> None:
            seen.append(self.context.delivery)
            self.context.publish("next", {"n": n})

    broker = FakeBroker()
    async with open_system(Threaded, broker=broker):
        broker.put(Threaded, {"n": 4}, id="it")
        await broker.wait_settled()
    assert seen[0].id == "it"
    assert [envelope.data for envelope in broker.published("it")] == [b'{"n":4}']


async def test_a_task_that_outlives_its_delivery_is_told_so(mock_clock: trio.testing.MockClock):
    told: list[str] = []

    async def body(actor: Any, _n: Any) -> None:
        async def late() -> None:
            await trio.sleep(1)
            for use in (lambda: actor.context.delivery, lambda: actor.context.publish("x", {})):
                with pytest.raises(NotRunning) as caught:
                    use()
                told.append(str(caught.value))

        actor.context.nursery.start_soon(late)

    actor = actor_that(body)
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        broker.put(actor, {})
        await broker.wait_settled()
        await trio.sleep(2)
    assert len(told) == 2
    assert all("is settled" in text for text in told)


async def test_a_local_message_is_no_delivery():
    async def body(actor: Any, _n: Any) -> str:
        with pytest.raises(NotRunning, match="local message"):
            actor.context.publish("x", {})
        with pytest.raises(NotRunning, match="local message"):
            _ = actor.context.delivery
        return "told"

    actor = actor_that(body)
    async with open_system(actor, broker=FakeBroker()) as system:
        assert await system.ref(actor).ask({}) == "told"


# ---- what a delivery publishes ----


@attrs.frozen
class Note:
    text: str


async def test_what_is_published_travels_with_the_settlement():
    async def body(actor: Any, _n: Any) -> None:
        actor.context.publish("notes", Note("a"), headers={"trace": "t1"})
        actor.context.publish(actor_that(body), {"n": 1}, delay=5)
        assert broker.sent == []

    actor = actor_that(body)
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        broker.put(actor, {}, id="it")
        await broker.wait_settled()
        first, second = broker.published("it")
    assert (first.source, first.data, first.type, first.headers) == ("notes", b'{"text":"a"}', "Note", {"trace": "t1"})
    assert (second.source, second.delay, second.type) == (actor.settings.default_source, 5, None)
    assert first.id != second.id


@pytest.mark.parametrize("error", [ValueError(), Fail(), Reject(), Retry()], ids=lambda error: type(error).__name__)
async def test_a_delivery_that_is_not_handled_publishes_nothing(error: Exception):
    async def body(actor: Any, _n: Any) -> None:
        for _ in range(20):
            actor.context.publish("notes", {})
        raise error

    actor = actor_that(body, event_settings=EventSettings(max_batch_size=3, max_events_in_memory=5))
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        broker.put(actor, {}, id="it")
        await broker.wait_settled()
    assert broker.sent == []
    assert broker.published("it") == ()


@pytest.mark.parametrize("memory", [4, 10, 100])
@pytest.mark.parametrize("count", [9, 10, 11, 20, 37])
async def test_more_than_a_batch_is_sent_ahead_and_nothing_is_lost_or_doubled(count: int, memory: int):
    async def body(actor: Any, _n: Any) -> None:
        for number in range(count):
            actor.context.publish("notes", {"n": number}, headers={"k": number})

    actor = actor_that(body, event_settings=EventSettings(max_batch_size=10, max_events_in_memory=memory))
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        broker.put(actor, {}, id="it")
        await broker.wait_settled()
    last = broker.published("it")
    assert 0 < len(last) <= 10
    assert [envelope.data for envelope in broker.sent] == [b'{"n":%d}' % number for number in range(count)]
    assert [envelope.headers for envelope in broker.sent] == [{"k": number} for number in range(count)]
    assert [*broker.ahead, *last] == broker.sent
    assert len({envelope.id for envelope in broker.sent}) == count


async def test_the_ids_of_what_is_sent_ahead_come_from_the_delivery():
    async def body(actor: Any, _n: Any) -> None:
        for number in range(5):
            actor.context.publish("notes", {"n": number})

    async def ids() -> list[str]:
        actor = actor_that(body, event_settings=EventSettings(max_batch_size=2))
        broker = FakeBroker()
        async with open_system(actor, broker=broker):
            broker.put(actor, {}, id="it")
            await broker.wait_settled()
        return [envelope.id for envelope in broker.sent]

    assert await ids() == await ids()


async def test_a_delivery_that_was_taken_over_sends_nothing_more():
    async def body(actor: Any, _n: Any) -> None:
        for number in range(5):
            actor.context.publish("notes", {"n": number})

    actor = actor_that(body, event_settings=EventSettings(max_batch_size=2))
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        broker.put(actor, {}, id="it")
        broker.fence("it")
        broker.put(actor, {}, id="next")
        await broker.wait_settled()
    assert broker.order == ["next"]
    assert len(broker.sent) == 5


async def test_sending_ahead_is_bounded_by_the_execution_timeout(mock_clock: trio.testing.MockClock):
    async def body(actor: Any, n: Any) -> None:
        for number in range(5 if n else 1):
            actor.context.publish("notes", {"n": number})

    actor = actor_that(body, event_settings=EventSettings(max_batch_size=2), execution_timeout=3)
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        node = broker.node
        assert node is not None

        async def never(*_: object) -> bool:
            await trio.sleep_forever()
            return True

        node.publish_fenced = never  # type: ignore[method-assign]
        broker.put(actor, {"n": 1}, id="it")
        broker.put(actor, {"n": 0}, id="next")
        await broker.wait_settled(2)
    assert failed(broker.settlement("it"))[0] == "ExecutionTimeout"
    assert broker.settlement("next") == policy.Ack()


async def test_a_broker_that_refuses_what_is_sent_ahead_fails_the_message_not_the_actor():
    async def body(actor: Any, _n: Any) -> None:
        for number in range(5):
            actor.context.publish("notes", {"n": number})

    actor = actor_that(body, event_settings=EventSettings(max_batch_size=2))
    broker, kept = FakeBroker(), Kept()
    async with open_system(actor, broker=broker, emit=kept):
        node = broker.node
        assert node is not None

        async def refuse(*_: object) -> bool:
            raise OSError("no space")

        node.publish_fenced = refuse  # type: ignore[method-assign]
        broker.put(actor, {}, id="it")
        await broker.wait_settled()
    assert failed(broker.settlement("it")) == ("OSError", "no space")
    assert len(kept.of(events.ActorStarted)) == 1


async def test_publish_refuses_what_cannot_be_sent_where_it_is_called():
    async def body(actor: Any, _n: Any) -> None:
        wrong: list[tuple[Any, Any, dict[str, Any]]] = [
            ("not a name", {}, {}),
            (3, {}, {}),
            ("notes", object(), {}),
            ("notes", {}, {"delay": -1}),
            ("notes", {}, {"delay": float("nan")}),
            ("notes", {}, {"headers": {"h": object()}}),
        ]
        for target, message, options in wrong:
            with pytest.raises(ValueError):  # SettingsError and CodecError are
                actor.context.publish(target, message, **options)

    assert await outcome_of(body) == policy.Ack()


# ---- what was sent ----


async def test_fields_of_a_foreign_producer_become_keyword_arguments():
    seen: list[Any] = []

    class Order(Actor):
        settings = Settings(title="order", sources={"orders"})

        @receive
        async def order(self, *, x: int, message: str, price: float = 1.5, paid: bool = False) -> None:
            seen.append((x, message, price, paid))

    broker = FakeBroker()
    async with open_system(Order, broker=broker):
        broker.put("orders", raw=fields(x="1", message="hi"))
        broker.put("orders", raw=fields(x="2", message="3", price="9", paid="true"))
        await broker.wait_settled(2)
    assert seen == [(1, "hi", 1.5, False), (2, "3", 9.0, True)]


GARBAGE: list[tuple[str, bytes | dict[bytes, bytes], str | None, str]] = [
    ("bytes", b"\xff\xfe\x00", None, "not UTF-8"),
    ("no JSON", b"{oops", None, "not JSON"),
    ("empty", b"", None, "not JSON"),
    ("a list", b"[1]", None, "JSON object"),
    ("a missing field", b"{}", None, "missing argument 'x'"),
    ("an unknown field", b'{"x":1,"y":2}', None, "unknown argument 'y'"),
    ("a wrong type", b'{"x":"one"}', None, "at x: wants a whole number, got 'one'"),
    ("a bool for a number", b'{"x":true}', None, "at x: wants a whole number, got True"),
    ("an unknown type", b'{"x":1}', "Nobody", "unknown type 'Nobody'; "),
    ("NaN", b'{"x":NaN}', None, "NaN is not JSON"),
    ("too deep", b"[" * 200_000, None, "nested too deeply"),
    ("a huge number", b'{"x":' + b"9" * 5000 + b"}", None, "not JSON"),
    ("5 MB", b'{"x":"' + b"a" * 5_000_000 + b'"}', None, "5000002 characters"),
    ("foreign bytes", {b"x": b"\xff"}, None, "not UTF-8"),
    ("foreign text", {b"x": b"one"}, None, "at x: wants a whole number, got 'one'"),
    ("no fields", {}, None, "missing argument 'x'"),
]


@pytest.mark.parametrize(("raw", "wire", "reason"), [row[1:] for row in GARBAGE], ids=[row[0] for row in GARBAGE])
async def test_garbage_is_a_dead_letter_with_a_reason_and_the_actor_goes_on(
    raw: bytes | dict[bytes, bytes], wire: str | None, reason: str
):
    class Strict(Actor):
        settings = Settings(title="strict", retry=RetryPolicy(attempts=9))

        @receive
        async def take(self, *, x: int) -> None: ...

    broker, kept = FakeBroker(), Kept()
    async with open_system(Strict, broker=broker, emit=kept):
        broker.put(Strict, raw=raw, type=wire, id="garbage")
        broker.put(Strict, {"x": 1}, id="fine")
        await broker.wait_settled(2)
    kind, text = failed(broker.settlement("garbage"))
    assert kind == "CodecError"
    assert reason in text
    assert len(text) < 1000
    assert broker.settlement("fine") == policy.Ack()
    assert len(kept.of(events.ActorStarted)) == 1


async def test_five_megabytes_are_handled():
    seen: list[int] = []

    class Big(Actor):
        settings = Settings(title="big")

        @receive
        async def take(self, *, text: str) -> None:
            seen.append(len(text))

    broker = FakeBroker()
    async with open_system(Big, broker=broker):
        broker.put(Big, {"text": "a" * 5_000_000})
        await broker.wait_settled()
    assert seen == [5_000_000]


async def test_two_actors_that_share_a_source_each_get_every_message():
    seen: list[tuple[str, int]] = []

    def reader(name: str) -> type[Actor]:
        class Reader(Actor):
            settings = Settings(title=name, sources={"shared"})

            @receive
            async def take(self, *, n: int) -> None:
                seen.append((self.settings.title, n))

        return Reader

    broker = FakeBroker()
    async with open_system([reader("one"), reader("two")], broker=broker):
        for n in range(3):
            broker.put("shared", {"n": n})
        await broker.wait_settled(6)
    assert sorted(seen) == [(name, n) for name in ("one", "two") for n in range(3)]


# ---- middleware ----


async def test_middleware_wraps_the_handling_first_one_outermost():
    said: list[str] = []

    def layer(name: str) -> Any:
        async def around(delivery: Delivery, proceed: Callable[[], Awaitable[object]]) -> object:
            said.append(f"{name} {delivery.id}")
            try:
                return await proceed()
            finally:
                said.append(f"/{name}")

        return around

    async def body(_actor: Any, _n: Any) -> None:
        said.append("handler")

    assert await outcome_of(body, middleware=[layer("a"), layer("b")]) == policy.Ack()
    assert said[:5] == ["a it", "b it", "handler", "/b", "/a"]


async def test_middleware_may_raise_a_verdict_instead():
    async def refuse(delivery: Delivery, proceed: Callable[[], Awaitable[object]]) -> object:
        if delivery.id == "it":
            raise Reject("not today")
        return await proceed()

    async def body(_actor: Any, _n: Any) -> None: ...

    assert isinstance(await outcome_of(body, middleware=[refuse]), policy.Reject)


# ---- taken over by others ----


async def test_a_lost_lease_cancels_what_is_in_hand_and_forgets_what_waits(mock_clock: trio.testing.MockClock):
    cancelled: list[Any] = []

    async def body(_actor: Any, n: Any) -> None:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            cancelled.append(n)
            raise

    actor = actor_that(body)
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        for n in range(3):
            broker.put(actor, {"n": n})
        await trio.sleep(0.5)
        broker.revoke()
        await trio.sleep(2)
        in_broker = len(broker.waiting(actor))
        broker.put(actor, {"n": 9}, id="after")
        await broker.wait_settled(1 + in_broker)
    assert cancelled == [0]
    assert broker.order[-1] == "after"
    assert "m0" not in broker.order
