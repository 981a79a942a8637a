"""What every broker promises, as tests: for the brokers shipped here, and for those written by others.

Subclass `BrokerConformance` in a test module and say how your broker is opened:

    class TestMyBroker(BrokerConformance):
        @pytest.fixture(autouse=True)
        def _store(self, tmp_path):
            self.url = f"mine://{tmp_path}"

        def opener(self):
            return functools.partial(my_broker.open_broker, self.url)

The tests are `async def`: run them under Trio (pytest-trio does). `opener` is called several times in a test, and
by other processes too, so what it returns can be pickled; it must lead to the same store each time, and to an empty one
in each test. The tests kill processes, and stop one past its lease (SIGSTOP): they need POSIX.

    Desk          an actor as a broker sees it, in this process
    RemoteDesk    the same in a process of its own, which can be killed and stopped
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, TypeAlias

import attrs
import pytest
import trio

from actorwork.abc import Broker, Node, Subscription
from actorwork.errors import LockLost
from actorwork.events import Buried, Event, Fenced, HandedBack, LeaseLost, Reclaimed
from actorwork.message import ATTEMPT, REPLY_TO, RESULT_TTL, Delivery, Envelope, Failure, Json, MessageIds
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement

Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[Broker]]

PATIENCE: Final = 8.0
"""Seconds after which a test gives up waiting for what must come."""
QUIET: Final = 0.15
"""Seconds for which nothing must come, where no later message can prove it."""
LATE: Final = 0.5
"""Seconds by which a busy machine may be late."""
FAILURE: Final = Failure("ValueError", "no such thing", "Traceback: here")
HISTORY: Final = "actorwork-history"


class Desk:
    """An inlet with so much room, its subscription, and the node that reads for it."""

    def __init__(self, group: str, sources: Sequence[str], *, room: int, max_crashes: int) -> None:
        self.capacity = room
        self.waiting: list[Delivery] = []
        self.most = 0
        self.offered = 0
        self.revoked = 0
        self.events: list[Event] = []
        self.node: Node
        self.subscription = Subscription(group, f"actor {group}", tuple(sources), self, max_crashes)
        self._news = trio.Event()

    # The inlet.

    def room(self) -> int:
        return max(0, self.capacity - len(self.waiting))

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        self.waiting.extend(deliveries)
        self.offered += len(deliveries)
        self.most = max(self.most, len(self.waiting))
        self._changed()

    def revoke(self) -> None:
        self.waiting.clear()
        self.revoked += 1
        self._changed()

    # The actor.

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self._changed()

    def seen(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def _changed(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def wait(self, condition: Callable[[], object], what: str) -> None:
        with trio.move_on_after(PATIENCE):
            while not condition():
                await self._news.wait()
            return
        raise AssertionError(f"waited {PATIENCE} s for {what}; waiting: {self.waiting}, events: {self.events[-5:]}")

    async def take(self, count: int = 1) -> list[Delivery]:
        """Take so many deliveries, each as soon as it is there."""
        taken: list[Delivery] = []
        while len(taken) < count:
            missing = count - len(taken)
            await self.wait(lambda: self.waiting, f"{missing} deliveries more of {count}")
            taken += self.waiting[:missing]
            del self.waiting[:missing]
            self.node.resume(self.subscription)
        return taken

    async def take_one(self) -> Delivery:
        return (await self.take())[0]

    async def settle(
        self, delivery: Delivery, settlement: Settlement | None = None, published: Sequence[Envelope] = ()
    ) -> None:
        """Settle (by default: acknowledge), and wait until it is applied."""
        self.node.settle(self.subscription, delivery, settlement or Ack(), published)
        await self.node.wait_settled()

    async def hand_back(self, *deliveries: Delivery) -> None:
        await self.node.hand_back(self.subscription, deliveries)

    async def expect_only(self, last: str) -> None:
        """See that the next delivery is the one of this id: nothing was before it."""
        delivery = await self.take_one()
        assert delivery.id == last, f"expected {last} and nothing before it, got {delivery}"
        await self.settle(delivery)

    async def expect_nothing(self, seconds: float = QUIET) -> None:
        await trio.sleep(seconds)
        assert not self.waiting, f"expected nothing, got {self.waiting}"


@asynccontextmanager
async def open_desk(
    broker: Broker,
    *sources: str,
    group: str = "first",
    room: int = 100,
    max_crashes: int = 3,
    lease: float = 5.0,
) -> AsyncGenerator[Desk]:
    """Open a node with one subscription."""
    desk = Desk(group, sources, room=room, max_crashes=max_crashes)
    async with broker.open_node([desk.subscription], lease=lease, emit=desk.emit) as node:
        desk.node = node
        yield desk


# ------------------------------------------------------------------------------------------------ another process


@attrs.define(eq=False)
class RemoteDesk:
    """A desk in another process. What it took is named by its number there, from 0 on.

    What is sent there is pickled: an envelope needs headers of its own, `{}` at least.
    """

    _process: Any
    _connection: Any

    async def take(self, count: int = 1) -> list[str]:
        """Take so many, and return their ids."""
        return await self._ask("take", count)

    async def settle(self, number: int, settlement: Settlement, published: Sequence[Envelope] = ()) -> None:
        await self._ask("settle", number, settlement, list(published))

    async def publish_fenced(self, number: int, published: Sequence[Envelope]) -> bool:
        return await self._ask("publish_fenced", number, list(published))

    async def report(self) -> dict[str, Any]:
        """Return `revoked`, `offered`, `incarnation`, `fenced`, `lost` (pairs of incarnations)."""
        return await self._ask("report")

    async def wait_revoked(self) -> None:
        await self._ask("wait_revoked")

    def stop(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    async def kill(self) -> None:
        self._process.kill()
        await trio.to_thread.run_sync(self._process.join, abandon_on_cancel=True)

    async def _ask(self, *command: object) -> Any:
        self._connection.send(command)
        with trio.move_on_after(PATIENCE + 2):
            is_error, answer = await trio.to_thread.run_sync(self._connection.recv, abandon_on_cancel=True)
            if is_error:
                raise AssertionError(f"in the other process: {answer}")
            return answer
        raise AssertionError(f"the other process did not answer to {command}")


@asynccontextmanager
async def open_remote_desk(
    opener: Opener, *sources: str, group: str = "first", room: int = 100, max_crashes: int = 3, lease: float = 5.0
) -> AsyncGenerator[RemoteDesk]:
    """Open a desk in a process of its own, which is killed at the end if it still lives."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=_serve_remote_desk, args=((there, opener, sources, group, room, max_crashes, lease),), daemon=True
    )
    await trio.to_thread.run_sync(process.start)
    there.close()
    desk = RemoteDesk(process, here)
    try:
        with trio.move_on_after(PATIENCE + 10):
            await trio.to_thread.run_sync(here.recv, abandon_on_cancel=True)
        yield desk
    finally:
        with trio.CancelScope(shield=True):
            await desk.kill()
        here.close()


def _serve_remote_desk(arguments: tuple[Any, ...]) -> None:
    trio.run(_remote_desk, *arguments)


async def _remote_desk(
    connection: Any,
    opener: Opener,
    sources: Sequence[str],
    group: str,
    room: int,
    max_crashes: int,
    lease: float,
) -> None:
    taken: list[Any] = []
    async with (
        opener() as broker,
        open_desk(broker, *sources, group=group, room=room, max_crashes=max_crashes, lease=lease) as desk,
    ):
        connection.send("ready")
        while True:
            command: tuple[Any, ...] = await trio.to_thread.run_sync(connection.recv, abandon_on_cancel=True)
            name, arguments = command[0], command[1:]
            try:
                answer: object = None
                if name == "take":
                    new = await desk.take(*arguments)
                    taken += new
                    answer = [delivery.id for delivery in new]
                elif name == "settle":
                    number, settlement, published = arguments
                    await desk.settle(taken[number], settlement, published)
                elif name == "publish_fenced":
                    number, published = arguments
                    answer = await desk.node.publish_fenced(desk.subscription, taken[number], published)
                elif name == "wait_revoked":
                    await desk.wait(lambda: desk.revoked, "being revoked")
                elif name == "report":
                    answer = {
                        "revoked": desk.revoked,
                        "offered": desk.offered,
                        "incarnation": desk.node.incarnation,
                        "fenced": len(desk.seen(Fenced)),
                        "counted": desk.node.statistics()["fenced"],
                        "lost": [(event.incarnation, event.successor) for event in desk.seen(LeaseLost)],
                    }
                connection.send((False, answer))
            except Exception as error:  # noqa: BLE001 - told to whoever asked
                connection.send((True, repr(error)))


async def until(condition: Callable[[], Awaitable[object]], what: str, *, within: float = PATIENCE) -> None:
    """Ask again and again whether it is so."""
    with trio.move_on_after(within):
        while not await condition():  # noqa: ASYNC110 - a broker says nothing by itself of what is asked here
            await trio.sleep(0.01)
        return
    raise AssertionError(f"waited {within} s for {what}")


# -------------------------------------------------------------------------------------------------------- the suite


class BrokerConformance:
    """Every sentence of `actorwork.abc` on brokers that can be seen from outside."""

    short_lease: float = 0.3
    """Seconds of a lease that is meant to run out."""

    def opener(self) -> Opener:
        """Return what opens a broker at the store of this test."""
        raise NotImplementedError("say how the broker is opened")

    def open_broker(self) -> AbstractAsyncContextManager[Broker]:
        return self.opener()()

    def open_remote_desk(
        self, *sources: str, group: str = "first", room: int = 100, max_crashes: int = 3, lease: float = 5.0
    ) -> AbstractAsyncContextManager[RemoteDesk]:
        """Open a desk in another process. A broker that lives within one process overrides this with one that is only
        taken for dead.
        """
        return open_remote_desk(self.opener(), *sources, group=group, room=room, max_crashes=max_crashes, lease=lease)

    async def stop_outside_of_writing(self, desk: RemoteDesk, broker: Broker) -> None:
        """Stop a process, but not in the middle of a transaction: where the broker is a file, nobody else could
        write.
        """
        while True:
            desk.stop()
            with trio.move_on_after(1):
                await broker.publish(self.envelopes("is-anybody-writing", 1))
                return
            desk.go_on()
            await trio.sleep(0.05)

    def envelopes(self, source: str, count: int, **more: Any) -> list[Envelope]:
        """Make messages under the ids that a client would give them; their data is their number."""
        ids = MessageIds(uuid.uuid4().hex[:16])
        return [Envelope(source, next(ids), str(number).encode(), **more) for number in range(count)]

    # Publishing.

    async def test_a_message_arrives_as_it_was_sent(self) -> None:
        headers: dict[str, Json] = {"who": "Ann", "deep": {"list": [1, 2.5, None, True]}, "umlaut": "ü"}
        sent = Envelope("orders", "any-id", b'{"x": "\xc3\xbc"}', "Order", headers)
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            assert await broker.publish([sent]) == 1
            got = await desk.take_one()
            assert (got.id, got.source, got.type, got.payload) == ("any-id", "orders", "Order", sent.data)
            assert dict(got.headers) == headers
            assert (got.attempt, got.crashes) == (1, 0)

    async def test_bytes_that_are_no_json_arrive_as_they_are(self) -> None:
        data = [b"\xff\x00{", b"", bytes(range(256)) * 40]
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            await broker.publish([Envelope("orders", f"id {number}", one) for number, one in enumerate(data)])
            assert [delivery.payload for delivery in await desk.take(3)] == data

    async def test_an_id_is_kept_once(self) -> None:
        ours = self.envelopes("orders", 3)
        theirs = [Envelope("orders", text, b"1") for text in ("7", "0123456789abcdef-0a", "0123456789abcdef-a", "ü x")]
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            for one in (*ours[:1], *theirs[:1]):
                assert await broker.publish([one]) == 1
            await broker.publish(ours[:1])
            await broker.publish([*theirs[:1], *ours[:1], *theirs, *theirs, *ours, *ours])
            got = await desk.take(7)
            assert Counter(one.id for one in got) == Counter(one.id for one in (*ours, *theirs))
            for one in got:
                desk.node.settle(desk.subscription, one, Ack())
            await desk.node.wait_settled()
            # Also when the message is gone.
            await broker.publish([*theirs, *ours])
            last = self.envelopes("orders", 1)
            assert await broker.publish(last) == 1
            await desk.expect_only(last[0].id)

    async def test_an_id_is_unique_within_its_source_only(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "a", "b") as desk:
            assert await broker.publish([Envelope("a", "1", b"1"), Envelope("b", "1", b"2")]) == 2
            assert {(one.source, one.payload) for one in await desk.take(2)} == {("a", b"1"), ("b", b"2")}

    async def test_order_is_kept_within_a_source(self) -> None:
        sent = self.envelopes("orders", 300)
        async with self.open_broker() as broker:
            await broker.publish(sent[:100])
            async with open_desk(broker, "orders", room=7) as desk:
                for one in sent[100:120]:
                    await broker.publish([one])
                await broker.publish(sent[120:])
                assert [one.id for one in await desk.take(300)] == [one.id for one in sent]

    async def test_one_call_may_publish_thousands(self) -> None:
        sent = self.envelopes("orders", 3000)
        async with self.open_broker() as broker:
            assert await broker.publish([]) == 0
            assert await broker.publish(sent) == 3000
            assert await broker.backlog("orders") == 3000
            assert await broker.backlog("nothing") == 0

    async def test_a_reader_of_another_process_sees_a_message_soon(self) -> None:
        async with self.open_remote_desk("orders") as desk, self.open_broker() as broker:
            await broker.publish([Envelope("orders", "1", b"1")])
            began = trio.current_time()
            assert await desk.take() == ["1"]
            assert trio.current_time() - began < 1 + LATE

    # Groups.

    async def test_each_group_is_given_every_message_and_the_last_one_to_settle_removes_it(self) -> None:
        sent = self.envelopes("orders", 20)
        async with (
            self.open_broker() as broker,
            open_desk(broker, "orders", group="first") as first,
            open_desk(broker, "orders", group="second") as second,
        ):
            await broker.publish(sent)
            for desk, left in ((first, 20), (second, 0)):
                got = await desk.take(20)
                assert [one.id for one in got] == [one.id for one in sent]
                for one in got:
                    desk.node.settle(desk.subscription, one, Ack())
                await desk.node.wait_settled()
                assert await broker.backlog("orders") == left, "an entry leaves with the last group, and not before"

    async def test_a_group_that_comes_late_is_given_what_is_still_there(self) -> None:
        sent = self.envelopes("orders", 3)
        async with self.open_broker() as broker:
            await broker.publish(sent)
            async with open_desk(broker, "orders", group="first") as first:
                gone, *_ = await first.take(3)
                await first.settle(gone)
                async with open_desk(broker, "orders", group="second") as late:
                    assert [one.id for one in await late.take(2)] == [one.id for one in sent[1:]]

    async def test_an_addressed_message_goes_to_its_group_alone(self) -> None:
        async with (
            self.open_broker() as broker,
            open_desk(broker, "orders", group="first") as first,
            open_desk(broker, "orders", group="second") as second,
        ):
            await broker.publish([Envelope("orders", "1", b"1", group="second"), Envelope("orders", "2", b"2")])
            await first.expect_only("2")
            await second.expect_only("1")
            await second.expect_only("2")

            async def is_empty() -> bool:
                return await broker.backlog("orders") == 0

            await until(is_empty, "the source to be empty")

    async def test_nodes_of_one_group_share_the_messages(self) -> None:
        sent = self.envelopes("orders", 60)
        async with (
            self.open_broker() as broker,
            self.open_broker() as other,
            open_desk(broker, "orders", room=5) as one,
            open_desk(other, "orders", room=5) as two,
        ):
            await broker.publish(sent)
            got: list[str] = []

            async def work(desk: Desk) -> None:
                while True:
                    delivery = await desk.take_one()
                    await desk.settle(delivery)
                    got.append(delivery.id)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, one)
                nursery.start_soon(work, two)
                await until(_true_of(lambda: len(got) >= 60), "sixty to be handled")
                nursery.cancel_scope.cancel()
            assert Counter(got) == Counter(one.id for one in sent), "each message is handled once"
            assert await broker.backlog("orders") == 0

    async def test_a_busy_source_does_not_starve_another(self) -> None:
        async with self.open_broker() as broker:
            await broker.publish(self.envelopes("busy", 1000))
            await broker.publish(self.envelopes("calm", 1))
            async with open_desk(broker, "busy", "calm", room=10) as desk:
                for _ in range(100):
                    got = await desk.take_one()
                    desk.node.settle(desk.subscription, got, Ack())
                    if got.source == "calm":
                        break
                else:
                    raise AssertionError("the calm source had no turn among a hundred")

    # Backpressure.

    async def test_an_inlet_is_not_offered_much_more_than_it_has_room_for(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders", room=10) as desk:
            await broker.publish(self.envelopes("orders", 200))
            await desk.wait(lambda: len(desk.waiting) >= 10, "ten deliveries")
            await trio.sleep(QUIET)
            assert desk.most <= 20
            await desk.take(200)
            assert desk.most <= 20

    async def test_a_full_inlet_is_offered_nothing_until_it_says_resume(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders", room=0) as desk:
            await broker.publish(self.envelopes("orders", 3))
            await desk.expect_nothing()
            desk.capacity = 2
            desk.node.resume(desk.subscription)
            await desk.wait(lambda: len(desk.waiting) >= 2, "two deliveries")
            desk.capacity = 5
            desk.node.resume(desk.subscription)
            await desk.wait(lambda: len(desk.waiting) == 3, "the third")

    async def test_one_full_inlet_does_not_hold_up_another(self) -> None:
        full = Desk("first", ["orders"], room=0, max_crashes=3)
        free = Desk("second", ["orders"], room=10, max_crashes=3)
        async with (
            self.open_broker() as broker,
            broker.open_node([full.subscription, free.subscription], lease=5, emit=free.emit) as node,
        ):
            free.node = node
            await broker.publish([Envelope("orders", "1", b"1")])
            await free.expect_only("1")
            assert not full.waiting

    # Settling.

    async def test_an_acknowledged_message_is_gone(self) -> None:
        await self._gone_after(Ack())

    async def test_a_rejected_message_is_gone_and_no_dead_letter(self) -> None:
        await self._gone_after(Reject(FAILURE))

    async def _gone_after(self, settlement: Settlement) -> None:
        async with self.open_broker() as broker:
            async with open_desk(broker, "orders") as desk:
                await broker.publish([Envelope("orders", "1", b"1")])
                await desk.settle(await desk.take_one(), settlement)
                assert await broker.backlog("orders") == 0
                assert desk.node.statistics()["settled"] == 1
            async with open_desk(broker, "orders") as desk:
                await broker.publish([Envelope("orders", "2", b"2")])
                await desk.expect_only("2")
            assert not await broker.dead_letters.list()

    async def test_a_retried_message_comes_again_as_the_next_attempt(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            await broker.publish([Envelope("orders", "1", b"\xff[1]", "Order", {"who": "Ann"})])
            first = await desk.take_one()
            await desk.settle(first, Retry(0, FAILURE))
            again = await desk.take_one()
            assert (again.id, again.source, again.type, again.payload) == ("1", "orders", "Order", b"\xff[1]")
            assert (again.attempt, again.crashes) == (2, 0)
            assert again.headers["who"] == "Ann"
            assert again.headers[ATTEMPT] == 2
            (entry,) = _history(again)
            assert (entry["attempt"], entry["error"], entry["reason"]) == (1, "ValueError", "no such thing")
            assert abs(entry["at"] - time.time()) < 60
            await desk.settle(again)
            assert await broker.backlog("orders") == 0

    async def test_a_retry_is_held_back_for_its_delay(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            await broker.publish([Envelope("orders", "1", b"1")])
            first = await desk.take_one()
            began = trio.current_time()
            await desk.settle(first, Retry(0.3, FAILURE))
            again = await desk.take_one()
            assert 0.29 <= trio.current_time() - began <= 0.3 + LATE
            assert again.attempt == 2

    async def test_a_message_tried_again_remembers_its_last_ten_errors(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            await broker.publish([Envelope("orders", "1", b"1")])
            for attempt in range(1, 13):
                delivery = await desk.take_one()
                assert delivery.attempt == attempt
                await desk.settle(delivery, Retry(0, FAILURE))
            assert [entry["attempt"] for entry in _history(await desk.take_one())] == list(range(3, 13))

    async def test_a_retry_goes_back_to_the_group_that_failed_alone(self) -> None:
        async with (
            self.open_broker() as broker,
            open_desk(broker, "orders", group="first") as first,
            open_desk(broker, "orders", group="second") as second,
        ):
            await broker.publish([Envelope("orders", "1", b"1")])
            await second.settle(await second.take_one())
            await first.settle(await first.take_one(), Retry(0, FAILURE))
            again = await first.take_one()
            assert again.attempt == 2
            await broker.publish([Envelope("orders", "2", b"2")])
            await second.expect_only("2")
            await first.settle(again)
            await first.expect_only("2")

    async def test_a_failed_message_becomes_a_dead_letter(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            await broker.publish([Envelope("orders", "1", b"\x00\xff", "Order", {"who": "Ann"})])
            await desk.settle(await desk.take_one(), Retry(0, FAILURE))
            await desk.settle(await desk.take_one(), Fail(FAILURE))
            assert await broker.backlog("orders") == 0
            (letter,) = await broker.dead_letters.list()
            assert (letter.source, letter.id, letter.type, letter.payload) == ("orders", "1", "Order", b"\x00\xff")
            assert (letter.group, letter.actor, letter.attempt) == ("first", "actor first", 2)
            assert letter.failure == FAILURE
            assert letter.headers["who"] == "Ann"
            assert abs(letter.at - time.time()) < 60
            assert await broker.dead_letters.get("orders", letter.entry) == letter

    async def test_what_a_delivery_published_is_sent_with_its_settlement(self) -> None:
        sent = [Envelope("orders", str(number), b"1") for number in range(4)]
        settlements = (Ack(), Retry(60, FAILURE), Reject(FAILURE), Fail(FAILURE))
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk, open_desk(broker, "mail") as mail:
            await broker.publish(sent)
            for number, settlement in enumerate(settlements):
                delivery = await desk.take_one()
                letters = [Envelope("mail", f"{number}-{copy}", b"hi", "Mail", {"n": number}) for copy in range(3)]
                await desk.settle(delivery, settlement, [*letters, letters[0]])
                got = await mail.take(3)
                assert [(one.id, one.type, one.headers["n"]) for one in got] == [
                    (letter.id, "Mail", number) for letter in letters
                ]
            # And to the delivery's own source, and later.
            await broker.publish([Envelope("orders", "5", b"1")])
            await desk.settle(
                await desk.take_one(),
                Ack(),
                [Envelope("orders", "7", b"", delay=0.1), Envelope("orders", "6", b""), Envelope("mail", "0-0", b"hi")],
            )
            assert [one.id for one in await desk.take(2)] == ["6", "7"]
            await mail.expect_nothing(0)

    async def test_a_delivery_may_publish_before_it_ends(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk, open_desk(broker, "mail") as mail:
            await broker.publish([Envelope("orders", "1", b"1")])
            delivery = await desk.take_one()
            assert await desk.node.publish_fenced(desk.subscription, delivery, self.envelopes("mail", 20))
            await mail.take(20)
            await desk.settle(delivery)
            refused = [Envelope("mail", "late", b"1")]
            assert not await desk.node.publish_fenced(desk.subscription, delivery, refused)
            await broker.publish([Envelope("mail", "last", b"1")])
            await mail.expect_only("last")

    async def test_a_delivery_is_settled_once(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk, open_desk(broker, "mail") as mail:
            await broker.publish([Envelope("orders", "1", b"1", headers={RESULT_TTL: 60})])
            delivery = await desk.take_one()
            await desk.settle(delivery, Ack(b"1"))
            await desk.settle(delivery, Fail(FAILURE), [Envelope("mail", "1", b"1")])
            assert desk.node.statistics()["fenced"] == 1
            (fenced,) = desk.seen(Fenced)
            assert fenced.delivery == delivery
            outcome = await broker.find_outcome("orders", "1")
            assert outcome is not None
            assert outcome.status == "done"
            assert not await broker.dead_letters.list()
            await broker.publish([Envelope("mail", "last", b"1")])
            await mail.expect_only("last")

    async def test_settlements_are_applied_when_the_node_ends(self) -> None:
        async with self.open_broker() as broker:
            await broker.publish(self.envelopes("orders", 50))
            async with open_desk(broker, "orders") as desk:
                for delivery in await desk.take(50):
                    desk.node.settle(desk.subscription, delivery, Ack())
            assert await broker.backlog("orders") == 0

    # Handing back, and what the dead leave behind.

    async def test_a_message_handed_back_keeps_its_place_and_its_count(self) -> None:
        sent = self.envelopes("orders", 6)
        async with self.open_broker() as broker:
            await broker.publish(sent)
            async with open_desk(broker, "orders", room=2) as desk:
                got = await desk.take(2)
                desk.capacity = 0
                await desk.node.stop_intake()
                given = [*reversed(desk.waiting), *got]
                await desk.hand_back(*given)
                assert sum(event.count for event in desk.seen(HandedBack)) == len(given)
                assert desk.node.statistics()["handed_back"] == len(given)
            async with open_desk(broker, "orders") as desk:
                again = await desk.take(6)
                assert [one.id for one in again] == [one.id for one in sent], "those before the ones never read"
                assert {(one.attempt, one.crashes) for one in again} == {(1, 0)}

    async def test_a_message_handed_back_is_taken_by_another_node_within_a_second(self) -> None:
        async with (
            self.open_broker() as broker,
            self.open_broker() as other,
            open_desk(broker, "orders", room=1) as one,
        ):
            await broker.publish([Envelope("orders", "1", b"1")])
            delivery = await one.take_one()
            async with open_desk(other, "orders") as two:
                one.capacity = 0
                began = trio.current_time()
                await one.hand_back(delivery)
                got = await two.take_one()
                assert trio.current_time() - began < 1 + LATE
                assert (got.id, got.attempt, got.crashes) == ("1", 1, 0)
                # Who gave it up does not settle it.
                await one.settle(delivery)
                assert one.node.statistics()["fenced"] == 1
                await two.settle(got)
                assert two.node.statistics()["settled"] == 1

    async def test_what_a_node_leaves_unsettled_is_run_elsewhere_at_once(self) -> None:
        async with (
            self.open_broker() as broker,
            self.open_broker() as other,
            open_desk(other, "orders", room=0, lease=60) as two,
        ):
            async with open_desk(broker, "orders", lease=60) as one:
                await broker.publish([Envelope("orders", "1", b"1")])
                await one.take_one()
                two.capacity = 10
                two.node.resume(two.subscription)
            began = trio.current_time()
            got = await two.take_one()
            assert trio.current_time() - began < 1 + LATE
            assert (got.id, got.attempt) == ("1", 1)

    async def test_the_work_of_a_killed_process_is_taken_over_after_its_lease(self) -> None:
        sent = self.envelopes("orders", 5)
        async with (
            self.open_broker() as broker,
            self.open_remote_desk("orders", room=5, lease=self.short_lease) as dead,
        ):
            await broker.publish(sent)
            assert len(await dead.take(5)) == 5
            async with open_desk(broker, "orders") as desk:
                await desk.expect_nothing(self.short_lease * 2)
                began = trio.current_time()
                await dead.kill()
                got = await desk.take(5)
                assert trio.current_time() - began < self.short_lease + 2 + LATE
                assert [one.id for one in got] == [one.id for one in sent]
                assert {(one.attempt, one.crashes) for one in got} == {(1, 1)}
                assert sum(event.count for event in desk.seen(Reclaimed)) == 5
                assert desk.node.statistics()["reclaimed"] == 5
                for one in got:
                    desk.node.settle(desk.subscription, one, Ack())
                await desk.node.wait_settled()
                assert await broker.backlog("orders") == 0

    async def test_a_message_that_kills_processes_becomes_a_dead_letter_before_it_is_run_again(self) -> None:
        async with self.open_broker() as broker:
            await broker.publish([Envelope("orders", "1", b"1", headers={RESULT_TTL: 60})])
            for _ in range(2):
                async with self.open_remote_desk("orders", max_crashes=1, lease=self.short_lease) as dead:
                    assert await dead.take() == ["1"]
                    await dead.kill()
            async with open_desk(broker, "orders", max_crashes=1) as desk:
                await desk.wait(lambda: desk.seen(Buried), "the message to be buried")
                (buried,) = desk.seen(Buried)
                assert (buried.source, buried.actor_id, buried.message_id, buried.crashes) == (
                    "orders",
                    "first",
                    "1",
                    2,
                )
                assert desk.node.statistics()["buried"] == 1
                (letter,) = await broker.dead_letters.list("orders")
                assert (letter.id, letter.group, letter.actor, letter.payload) == ("1", "first", "actor first", b"1")
                assert letter.failure.reason
                outcome = await broker.find_outcome("orders", "1")
                assert outcome is not None
                assert outcome.status == "failed"
                await broker.publish([Envelope("orders", "2", b"2")])
                await desk.expect_only("2")
                assert await broker.backlog("orders") == 0

    async def test_a_blocked_loop_keeps_its_lease(self) -> None:
        async with (
            self.open_broker() as broker,
            open_desk(broker, "orders", lease=self.short_lease) as desk,
            self.open_remote_desk("orders", lease=self.short_lease) as other,
        ):
            await broker.publish([Envelope("orders", "1", b"1")])
            held = await _whoever_has_it(desk, other)
            time.sleep(self.short_lease * 4)  # noqa: ASYNC251 - a handler that blocks the loop
            assert (await other.report())["offered"] == 0
            await desk.settle(held)
            assert desk.node.statistics()["fenced"] == 0
            assert await broker.backlog("orders") == 0

    async def test_a_node_that_was_taken_for_dead_changes_nothing_and_begins_anew(self) -> None:
        """The one test of the fence that no broker can pass by luck: a real process, stopped past its lease."""
        headers: dict[str, Json] = {RESULT_TTL: 60}
        async with (
            self.open_broker() as broker,
            self.open_remote_desk("orders", room=3, lease=self.short_lease) as zombie,
        ):
            await broker.publish([Envelope("orders", str(number), b"1", headers=headers) for number in range(3)])
            assert await zombie.take(3) == ["0", "1", "2"]
            before = (await zombie.report())["incarnation"]
            await self.stop_outside_of_writing(zombie, broker)
            try:
                async with open_desk(broker, "orders") as desk:
                    got = await desk.take(3)
                    await desk.settle(got[0], Ack(b'"mine"'))
                    # 1 is settled afterwards, 2 not at all.
                    desk.capacity = 0
                    zombie.go_on()
                    await zombie.settle(0, Ack(b'"zombie"'), [Envelope("mail", "0", b"1", headers={})])
                    await zombie.settle(1, Fail(FAILURE), [Envelope("mail", "1", b"1", headers={})])
                    await zombie.settle(2, Retry(0, FAILURE), [Envelope("mail", "2", b"1", headers={})])
                    assert not await zombie.publish_fenced(2, [Envelope("mail", "3", b"1", headers={})])
                    await zombie.wait_revoked()
                    report = await zombie.report()
                    assert report["fenced"] == report["counted"] == 3
                    assert report["lost"] == [(before, report["incarnation"])]
                    assert before != report["incarnation"]
                    await desk.settle(got[1], Ack(b'"mine"'))
                    await desk.settle(got[2], Ack(b'"mine"'))
                    assert desk.node.statistics()["fenced"] == 0
                    assert await broker.backlog("mail") == 0, "a zombie's messages do not appear"
                    assert not await broker.dead_letters.list()
                    for number in range(3):
                        outcome = await broker.find_outcome("orders", str(number))
                        assert outcome is not None
                        assert outcome.value == b'"mine"'
                    # The new incarnation works.
                    await desk.node.stop_intake()
                    await broker.publish([Envelope("orders", "new", b"1")])
                    assert await zombie.take() == ["new"]
                    await zombie.settle(3, Ack(b"1"))
                    assert await broker.backlog("orders") == 0
            finally:
                zombie.go_on()

    # Later.

    async def test_a_delayed_message_comes_on_time(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            began, wall = trio.current_time(), time.time()
            await broker.publish(
                [
                    Envelope("orders", "third", b"", delay=0.4),
                    Envelope("orders", "second", b"", at=wall + 0.2),
                    Envelope("orders", "first", b"", at=wall - 5),
                ]
            )
            for name, due in (("first", 0.0), ("second", 0.2), ("third", 0.4)):
                assert (await desk.take_one()).id == name
                assert due - 0.02 <= trio.current_time() - began <= due + LATE

    async def test_a_delayed_message_is_kept_once_too(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            for _ in range(2):
                await broker.publish([Envelope("orders", "1", b"1", delay=0.1)])
            await broker.publish([Envelope("orders", "1", b"1")])
            await broker.publish([Envelope("orders", "2", b"1", delay=0.2)])
            await desk.expect_only("1")
            await desk.expect_only("2")

    async def test_a_message_that_came_due_while_nobody_read_is_delivered_at_the_next_start(self) -> None:
        async with self.open_broker() as broker:
            await broker.publish([Envelope("orders", "1", b"1", delay=0.05, group="first")])
            await trio.sleep(0.1)
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            await desk.expect_only("1")

    # Outcomes.

    async def test_an_outcome_is_kept_for_those_who_asked(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            for number, (settlement, status) in enumerate(
                (
                    (Ack(b'{"x": 1.0}'), "done"),
                    (Ack(), "done"),
                    (Reject(FAILURE), "rejected"),
                    (Fail(FAILURE), "failed"),
                )
            ):
                await broker.publish([Envelope("orders", str(number), b"1", headers={RESULT_TTL: 60})])
                await desk.settle(await desk.take_one(), settlement)
                outcome = await broker.find_outcome("orders", str(number))
                assert outcome is not None
                assert outcome.status == status
                if isinstance(settlement, Ack):
                    assert outcome.value == (settlement.result or b"null")
                else:
                    assert outcome.failure == FAILURE
            await broker.publish([Envelope("orders", "silent", b"1")])
            await desk.settle(await desk.take_one(), Ack(b"1"))
            assert await broker.find_outcome("orders", "silent") is None
            assert await broker.find_outcome("orders", "unknown") is None
            assert await broker.find_outcome("nowhere", "0") is None

    async def test_a_retry_is_no_outcome(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            await broker.publish([Envelope("orders", "1", b"1", headers={RESULT_TTL: 60})])
            await desk.settle(await desk.take_one(), Retry(0, FAILURE))
            again = await desk.take_one()
            assert await broker.find_outcome("orders", "1") is None
            await desk.settle(again, Ack(b"2"))
            assert await broker.find_outcome("orders", "1") is not None

    async def test_an_outcome_is_forgotten_after_its_time(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            await broker.publish([Envelope("orders", "1", b"1", headers={RESULT_TTL: 0.15})])
            await desk.settle(await desk.take_one(), Ack(b"1"))

            async def is_gone() -> bool:
                return await broker.find_outcome("orders", "1") is None

            assert not await is_gone()
            await until(is_gone, "the outcome to be forgotten", within=2)

    async def test_a_reply_finds_whoever_waits_for_it(self) -> None:
        async with (
            self.open_broker() as broker,
            self.open_broker() as other,
            open_desk(broker, "orders") as desk,
            other.open_replies() as far,
            broker.open_replies() as near,
        ):
            assert far.address != near.address
            for replies, sender in ((near, broker), (far, other)):
                for number, settlement in enumerate((Ack(b'"yes"'), Reject(FAILURE), Fail(FAILURE))):
                    message_id = f"{replies.address} {number}"
                    waiting = replies.expect("orders", message_id)
                    unheard = replies.expect("orders", "never sent")
                    await sender.publish([Envelope("orders", message_id, b"1", headers={REPLY_TO: replies.address})])
                    await desk.settle(await desk.take_one(), settlement)
                    with trio.fail_after(PATIENCE):
                        outcome = await waiting.outcome()
                    assert outcome.status == ("done", "rejected", "failed")[number]
                    assert outcome.value == b'"yes"' if number == 0 else outcome.failure == FAILURE
                    waiting.close()
                    unheard.close()
            assert await broker.find_outcome("orders", f"{near.address} 0") is None, "nobody asked to keep it"

    async def test_a_reply_to_nobody_harms_nobody(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            async with broker.open_replies() as replies:
                gone = replies.address
            for number, address in enumerate((gone, "made up")):
                await broker.publish([Envelope("orders", str(number), b"1", headers={REPLY_TO: address})])
                await desk.settle(await desk.take_one(), Ack(b"1"))
            assert desk.node.statistics()["settled"] == 2

    # Dead letters.

    async def test_dead_letters_are_listed_by_source_and_age(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "a", "b") as desk:
            await self._bury(broker, desk, "a", "1", "2", "3")
            await self._bury(broker, desk, "b", "4")
            letters = broker.dead_letters
            assert [one.id for one in await letters.list("a")] == ["1", "2", "3"]
            assert [one.id for one in await letters.list("a", limit=2)] == ["1", "2"]
            assert sorted(one.id for one in await letters.list()) == ["1", "2", "3", "4"]
            assert len(await letters.list(limit=3)) == 3
            assert not await letters.list("c")
            assert await letters.get("a", "0-0") is None

    async def test_a_dead_letter_is_replayed_as_a_first_attempt_to_the_group_that_failed_alone(self) -> None:
        async with (
            self.open_broker() as broker,
            open_desk(broker, "orders", group="first") as first,
            open_desk(broker, "orders", group="second") as second,
        ):
            await broker.publish([Envelope("orders", "1", b"\xff", "Order", {"who": "Ann"})])
            await first.settle(await first.take_one(), Retry(0, FAILURE))
            await first.settle(await first.take_one(), Fail(FAILURE))
            await second.settle(await second.take_one())
            (letter,) = await broker.dead_letters.list()
            assert await broker.dead_letters.replay("orders", [letter.entry, "0-0"]) == 1
            assert await broker.dead_letters.replay("orders", [letter.entry]) == 0
            assert not await broker.dead_letters.list()
            again = await first.take_one()
            assert (again.id, again.payload, again.type, again.attempt, again.crashes) == ("1", b"\xff", "Order", 1, 0)
            assert dict(again.headers) == {"who": "Ann"}
            await first.settle(again)
            await broker.publish([Envelope("orders", "2", b"2")])
            await first.expect_only("2")
            await second.expect_only("2")
            assert await broker.backlog("orders") == 0

    async def test_a_dead_letter_may_be_dropped(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            await self._bury(broker, desk, "orders", "1", "2")
            one, two = await broker.dead_letters.list("orders")
            assert await broker.dead_letters.drop("orders", [one.entry, "0-0"]) == 1
            assert list(await broker.dead_letters.list("orders")) == [two]
            assert await broker.dead_letters.get("orders", one.entry) is None

    async def _bury(self, broker: Broker, desk: Desk, source: str, *ids: str) -> None:
        await broker.publish([Envelope(source, name, b"1") for name in ids])
        for delivery in await desk.take(len(ids)):
            await desk.settle(delivery, Fail(FAILURE))

    # The end of a node.

    async def test_after_stop_intake_nothing_is_offered_and_nothing_is_lost(self) -> None:
        async with self.open_broker() as broker:
            sent = self.envelopes("orders", 300)
            await broker.publish(sent)
            async with open_desk(broker, "orders", room=20) as desk:
                got = await desk.take(40)
                await desk.node.stop_intake()
                rest = list(desk.waiting)
                offered = desk.offered
                desk.waiting.clear()
                desk.node.resume(desk.subscription)
                await broker.publish(self.envelopes("orders", 1))
                await desk.expect_nothing()
                assert desk.offered == offered
                for delivery in got:
                    desk.node.settle(desk.subscription, delivery, Ack())
                await desk.hand_back(*rest)
                await desk.node.wait_settled()
            # Whatever was neither settled nor handed back would count as left behind.
            async with open_desk(broker, "orders", room=400) as desk:
                again = await desk.take(261)
                assert [one.id for one in again[:-1]] == [one.id for one in sent[40:]]
                assert {one.crashes for one in again} == {0}, "all that was read was offered"

    async def test_waiting_for_settlements_waits_for_all_so_far(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders", room=500) as desk:
            await broker.publish(self.envelopes("orders", 500))
            for delivery in await desk.take(500):
                desk.node.settle(desk.subscription, delivery, Ack())
            await desk.node.wait_settled()
            assert desk.node.statistics()["settled"] == 500
            assert await broker.backlog("orders") == 0

    # Shared values and locks.

    async def test_a_shared_value_is_what_was_set_last_by_anybody(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            assert await broker.values.get("rate") is None
            first = await broker.values.set("rate", b'{"x": "\xc3\xbc"}')
            kept = await other.values.get("rate")
            assert kept is not None
            assert (kept.data, kept.version) == (b'{"x": "\xc3\xbc"}', first)
            second = await other.values.set("rate", b"2")
            assert first is not None
            assert second is not None
            assert second > first
            assert await broker.values.get("RATE") is None
            assert await broker.values.delete("rate")
            assert not await broker.values.delete("rate")
            assert await other.values.get("rate") is None
            third = await broker.values.set("rate", b"3")
            assert third is not None
            assert third > second, "a version is never used twice"

    async def test_a_shared_value_is_exchanged_only_by_who_has_read_it(self) -> None:
        async with self.open_broker() as broker:
            values = broker.values
            assert await values.set("rate", b"1", version=7) is None
            first = await values.set("rate", b"1", version=0)
            assert first is not None
            assert await values.set("rate", b"2", version=0) is None
            second = await values.set("rate", b"2", version=first)
            assert second is not None
            assert await values.set("rate", b"3", version=first) is None
            kept = await values.get("rate")
            assert kept is not None
            assert kept.data == b"2"
            await values.delete("rate")
            assert await values.set("rate", b"3", version=second) is None
            assert await values.set("rate", b"3", version=0) is not None

    async def test_what_many_add_adds_up(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            async with trio.open_nursery() as nursery:
                for values in (broker.values, other.values) * 20:
                    nursery.start_soon(partial(values.add, "count", 2, start=b"5"))
            assert await broker.values.add("count", -3, start=b"5") == b"82"
            assert await broker.values.add("count", 0.5, start=b"0") == b"82.5"
            assert await broker.values.add("more", 1, start=str(2**53).encode()) is None
            await broker.values.set("word", b'"many"')
            assert await broker.values.add("word", 1, start=b"0") is None
            kept = await broker.values.get("word")
            assert kept is not None
            assert kept.data == b'"many"'

    async def test_a_shared_value_is_forgotten_when_its_time_is_over(self) -> None:
        async with self.open_broker() as broker:
            values = broker.values

            async def are_gone() -> bool:
                return await values.get("short") is None and await values.get("fenced") is None

            await values.set("short", b"1", ttl=0.2)
            await values.set("fenced", b"1", ttl=0.2, fence=3)
            await values.set("long", b"1", ttl=0.2)
            await values.set("long", b"2")
            await until(are_gone, "what was kept for a moment to be gone")
            assert await values.add("short", 1, start=b"0", ttl=60) == b"1"
            kept = await values.get("long")
            assert kept is not None
            assert kept.data == b"2"
            with pytest.raises(LockLost):
                await values.set("fenced", b"2", fence=2)

    async def test_a_write_under_an_older_token_is_refused(self) -> None:
        async with self.open_broker() as broker:
            values = broker.values
            await values.set("rate", b"1", fence=5)
            await values.set("rate", b"2", fence=5)
            for refused in (
                partial(values.set, "rate", b"0", fence=4),
                partial(values.add, "rate", 1, start=b"0", fence=4),
                partial(values.delete, "rate", fence=4),
            ):
                with pytest.raises(LockLost, match=r"rate.*5.*4"):
                    await refused()
            kept = await values.get("rate")
            assert kept is not None
            assert kept.data == b"2"
            assert await values.delete("rate", fence=6)
            with pytest.raises(LockLost):
                await values.set("rate", b"3", fence=5)
            assert await values.set("rate", b"4") is not None, "who names no token is not asked for one"

    async def test_a_lock_has_one_owner_and_its_tokens_grow(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            first = await broker.values.take_lock("door", "ann", 60)
            assert first is not None
            assert await broker.values.take_lock("door", "ann", 60) == first, "asked again, it is the same"
            assert await other.values.take_lock("door", "ben", 60) is None
            assert await other.values.take_lock("window", "ben", 60) is not None
            assert not await other.values.keep_lock("door", "ben", 60)
            assert not await other.values.free_lock("door", "ben")
            assert await broker.values.keep_lock("door", "ann", 60)
            assert await broker.values.free_lock("door", "ann")
            assert not await broker.values.keep_lock("door", "ann", 60)
            second = await other.values.take_lock("door", "ben", 60)
            assert second is not None
            assert second > first

    async def test_a_lock_that_is_not_kept_is_anybodys(self) -> None:
        async with self.open_broker() as broker:
            tokens = [await broker.values.take_lock("door", "ann", 0.2)]

            async def is_taken() -> bool:
                tokens[1:] = [await broker.values.take_lock("door", "ben", 60)]
                return tokens[1] is not None

            await until(is_taken, "the lock to run out")
            assert tokens[0] is not None
            assert tokens[1] is not None
            assert tokens[1] > tokens[0]
            assert not await broker.values.keep_lock("door", "ann", 60)

    # The whole.

    async def test_the_ledger_balances(self) -> None:
        """Sent = acknowledged + rejected + dead + delayed, whatever came between."""
        sent = self.envelopes("orders", 240)
        ends: Counter[str] = Counter()
        runs: Counter[str] = Counter()
        async with (
            self.open_broker() as broker,
            self.open_broker() as other,
            open_desk(broker, "orders", room=16) as one,
            open_desk(other, "orders", room=16) as two,
        ):

            async def work(desk: Desk) -> None:
                while True:
                    delivery = await desk.take_one()
                    number = int(delivery.payload if isinstance(delivery.payload, bytes) else b"0")
                    runs[delivery.id] += 1
                    ends_with: Settlement = Ack()
                    if number % 7 == 0 and runs[delivery.id] == 1:
                        await desk.hand_back(delivery)
                        continue
                    if number % 5 == 0 and delivery.attempt < 3:
                        ends_with = Retry(0.01 * (number % 3), FAILURE)
                    elif number % 40 == 1:
                        ends_with = Retry(600, FAILURE)
                    elif number % 11 == 0:
                        ends_with = Fail(FAILURE)
                    elif number % 13 == 0:
                        ends_with = Reject(FAILURE)
                    desk.node.settle(desk.subscription, delivery, ends_with)
                    ends["later" if ends_with == Retry(600, FAILURE) else type(ends_with).__name__] += 1

            async def is_empty() -> bool:
                settled = sum(count for end, count in ends.items() if end != "Retry")
                return settled == len(sent) and await broker.backlog("orders") == 0

            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, one)
                nursery.start_soon(work, two)
                await broker.publish(sent)
                await until(is_empty, f"all to end, {ends}")
                nursery.cancel_scope.cancel()
            assert set(runs) == {one.id for one in sent}
            assert len(await broker.dead_letters.list("orders", limit=1000)) == ends["Fail"]
            assert ends["Ack"] + ends["Reject"] + ends["Fail"] + ends["later"] == len(sent)
            assert one.node.statistics()["fenced"] + two.node.statistics()["fenced"] == 0

    async def test_it_can_be_looked_at(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            findings = await broker.diagnose()
            assert findings
            assert {finding.level for finding in findings} <= {"ok", "warning", "error"}
            assert all(finding.subject and finding.text for finding in findings)
            assert all(finding.advice for finding in findings if finding.level != "ok"), "a finding says what to do"
            counters = {"read", "settled", "fenced", "reclaimed", "handed_back", "buried"}
            assert counters <= set(desk.node.statistics())
            assert desk.node.incarnation
            assert broker.url
            assert " at 0x" not in repr(broker) + repr(desk.node)


def _history(delivery: Delivery) -> list[dict[str, Any]]:
    history: Any = delivery.headers[HISTORY]
    return history


def _true_of(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        await trio.lowlevel.checkpoint()
        return condition()

    return ask


async def _whoever_has_it(desk: Desk, other: RemoteDesk) -> Delivery:
    """Return the one message, in hand of `desk`: while the other has it, it is let go."""
    with trio.move_on_after(1):
        return await desk.take_one()
    assert (await other.report())["offered"] == 1
    raise AssertionError("it went to the other one")
