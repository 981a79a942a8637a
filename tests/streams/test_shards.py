"""Sources that are divided into shards, on one server and on a cluster."""

import asyncio
from typing import Any

import pytest
import trio

from actorwork import Actor, Settings, Source, open_client, open_system, receive
from actorwork.asynchronous.opening import open_client as open_on_asyncio
from actorwork.blocking.opening import open_client as open_blocking
from actorwork.brokers import open_broker
from actorwork.clients.copying import export_source, import_source
from actorwork.errors import BrokerError
from actorwork.events import Event
from actorwork.message import Envelope, Priority, Unique
from actorwork.policy.settlement import Fail, Retry
from actorwork.policy.shards import Layout
from actorwork.streams.broker import open_broker as open_redis
from actorwork.streams.keys import REPORTS, lease
from actorwork.testing.conformance import open_consumer, until
from actorwork.testing.conformance.fake_consumer import FAILURE, true_of

SHARDS = 6
NAMES = Layout("orders", SHARDS).names


def envelope(number: int, **options: Any) -> Envelope:
    return Envelope("orders", f"message-{number}", str(number).encode(), **options)


def ignore(_event: Event) -> None:
    pass


async def lengths(broker: Any) -> list[int]:
    return [await broker.client.call("XLEN", name) for name in NAMES]


async def test_messages_are_spread_over_the_shards_and_read_from_all_of_them(url: str):
    async with open_broker(url, emit=ignore) as broker:
        await broker.shards.declare("orders", SHARDS)
        assert await broker.publish([envelope(number) for number in range(60)]) == 60
        found = await lengths(broker)
        assert sum(found) == 60
        assert all(found)
        async with open_consumer(broker, "orders") as consumer:
            deliveries = await consumer.take(60)
            assert {delivery.id for delivery in deliveries} == {f"message-{number}" for number in range(60)}
            assert {delivery.source for delivery in deliveries} == {"orders"}
            for delivery in deliveries:
                await consumer.settle(delivery)
        assert await lengths(broker) == [0] * SHARDS


async def test_messages_of_a_key_come_one_after_the_other_in_their_order(url: str):
    async with open_broker(url, emit=ignore) as broker:
        await broker.shards.declare("orders", SHARDS)
        await broker.publish([envelope(number, key=f"key-{number % 7}") for number in range(42)])
        async with open_consumer(broker, "orders") as consumer:
            seen: dict[str | None, list[int]] = {}
            for _ in range(42):
                delivery = await consumer.take_one()
                assert isinstance(delivery.payload, bytes)
                numbers = seen.setdefault(delivery.key, [])
                numbers.append(int(delivery.payload))
                await consumer.settle(delivery)
        assert seen == {f"key-{key}": list(range(key, 42, 7)) for key in range(7)}


async def test_a_retry_with_a_key_stays_before_what_waits_behind_it(url: str):
    async with open_broker(url, emit=ignore) as broker:
        await broker.shards.declare("orders", SHARDS)
        await broker.publish([envelope(number, key="k") for number in range(3)])
        async with open_consumer(broker, "orders") as consumer:
            await consumer.settle(await consumer.take_one(), Retry(0.01, FAILURE))
            found: list[tuple[str, int]] = []
            for _ in range(3):
                delivery = await consumer.take_one()
                found.append((delivery.id, delivery.attempt))
                await consumer.settle(delivery)
        assert found == [("message-0", 2), ("message-1", 1), ("message-2", 1)]


async def test_duplicates_meet_in_one_shard(url: str):
    async with open_broker(url, emit=ignore) as broker:
        await broker.shards.declare("orders", SHARDS)
        unique = Unique("one", on_conflict="first")
        assert {await broker.publish_unique(envelope(number, unique=unique)) for number in range(20)} == {"message-0"}
        assert await broker.publish([envelope(number) for number in range(1, 10)]) == 9
        assert await broker.publish([envelope(number) for number in range(1, 12)]) == 2
        assert sum(await lengths(broker)) == 12


async def test_delayed_and_urgent_messages_arrive(url: str):
    async with open_broker(url, emit=ignore) as broker:
        await broker.shards.declare("orders", SHARDS)
        await broker.publish([envelope(number, delay=0.05) for number in range(10)])
        await broker.publish([envelope(number, priority=Priority.HIGH) for number in range(10, 20)])
        async with open_consumer(broker, "orders") as consumer:
            assert {one.id for one in await consumer.take(20)} == {f"message-{number}" for number in range(20)}


# ------------------------------------------------------------------------------------------------- numbers of shards


async def test_another_number_of_shards_is_refused_and_what_to_do_is_said(url: str):
    async with open_broker(url, emit=ignore) as broker, open_broker(url, emit=ignore) as other:
        await broker.shards.declare("orders", SHARDS)
        await other.shards.declare("orders", SHARDS)
        with pytest.raises(BrokerError) as caught:
            await other.shards.declare("orders", 3)
        assert await other.shards.list() == {"orders": SHARDS}
    text = str(caught.value)
    assert "the source 'orders' has 6 shards at this broker" in text
    assert "Source('orders', shards=3) wants 3 shards" in text
    assert "actorwork sources reshard orders --shards 3" in text


async def test_a_source_that_holds_messages_is_not_divided_by_a_declaration(url: str):
    async with open_broker(url, emit=ignore) as broker:
        await broker.publish([envelope(1)])
        with pytest.raises(BrokerError, match="holds 1 messages, 0 of them in flight, in one stream"):
            await broker.shards.declare("orders", SHARDS)
        async with open_consumer(broker, "orders") as consumer:
            await consumer.settle(await consumer.take_one())
        await broker.shards.declare("orders", SHARDS)
        assert await broker.shards.list() == {"orders": SHARDS}


async def test_a_source_that_older_nodes_read_is_not_divided_and_the_doctor_names_those_that_find_no_stream(url: str):
    async with open_redis(url, emit=ignore) as broker:
        await broker.client.call("SET", lease("older"), "a.host:17")
        async with open_consumer(broker, "orders") as consumer:
            await broker.client.call("XGROUP", "CREATECONSUMER", "orders", consumer.subscription.group, "older")
        with pytest.raises(BrokerError, match=r"older version, which would not find its shards \(older\): end them"):
            await broker.shards.declare("orders", SHARDS)
        await broker.pauses.pause("source", "orders")
        with pytest.raises(BrokerError, match="older version"):
            await broker.shards.reshard("orders", SHARDS)
        await broker.client.call("DEL", lease("older"))
        await broker.shards.declare("orders", SHARDS)
        await broker.client.call("SET", lease("older"), "a.host:17")
        await broker.client.call("ZADD", REPORTS, 4e9, "older")
        (found,) = [one for one in await broker.diagnose() if one.subject == "nodes"]
    assert found.level == "error"
    assert "they read nothing of orders" in found.text


async def test_of_two_programs_that_declare_different_numbers_at_once_one_is_refused(url: str):
    refused: list[str] = []

    async def declare(shards: int) -> None:
        async with open_broker(url, emit=ignore) as broker:
            try:
                await broker.shards.declare("orders", shards)
            except BrokerError as error:
                refused.append(str(error))

    async with trio.open_nursery() as nursery:
        for shards in (2, 3):
            nursery.start_soon(declare, shards)
    assert len(refused) == 1


async def test_a_sender_that_has_never_heard_of_shards_publishes_to_them(url: str):
    async with open_broker(url, emit=ignore) as sender, open_broker(url, emit=ignore) as broker:
        await sender.publish_new(envelope(0))
        async with open_consumer(broker, "orders") as consumer:
            await consumer.settle(await consumer.take_one())
        await broker.shards.declare("orders", SHARDS)
        await sender.publish_new(envelope(1))
        await sender.publish([envelope(2), envelope(3, delay=0.01), envelope(4, key="k")])
        await sender.publish_unique(envelope(5, unique=Unique("u")))
        async with open_consumer(broker, "orders") as consumer:
            assert {one.id for one in await consumer.take(5)} == {f"message-{number}" for number in range(1, 6)}


async def test_a_node_that_reads_a_source_goes_on_with_its_shards_when_it_is_divided(url: str):
    async with open_broker(url, emit=ignore) as broker, open_consumer(broker, "others", "orders") as consumer:
        await broker.publish([envelope(1), Envelope("others", "other-1", b"1")])
        held, *rest = sorted(await consumer.take(2), key=lambda one: one.source, reverse=True)
        assert held.id == "other-1"
        await consumer.settle(rest[0])
        async with open_broker(url, emit=ignore) as other:
            await other.shards.declare("orders", SHARDS)
            await other.publish([envelope(number) for number in range(2, 12)])
        assert {one.id for one in await consumer.take(10)} == {f"message-{number}" for number in range(2, 12)}
        await consumer.settle(held)
        assert await broker.backlog("others") == 0


# --------------------------------------------------------------------------------------------- programs


class Taker(Actor):
    settings = Settings(title="taker", sources={Source("orders", shards=SHARDS)})
    taken: list[Any]

    @receive
    async def take(self, *, number: int) -> None:
        assert self.context.delivery.source == "orders"
        self.taken.append(number)


class Giver(Actor):
    settings = Settings(title="giver", sources={"requests"})

    @receive
    async def give(self, *, numbers: list[int]) -> None:
        for number in numbers:
            self.context.publish("orders", {"number": number})


async def test_what_a_handler_publishes_goes_to_the_shards(url: str):
    Taker.taken = []
    async with open_system([Taker, Giver], broker=url), open_client(url) as client:
        await client.publish("requests", {"numbers": list(range(30))})
        await until(true_of(lambda: len(Taker.taken) == 30), "all are taken")
    assert sorted(Taker.taken) == list(range(30))


async def test_what_a_handler_publishes_reaches_a_source_that_was_divided_since_its_node_began(url: str):
    Taker.taken = []
    async with open_system(Giver, broker=url), open_system(Taker, broker=url), open_client(url) as client:
        await client.publish("requests", {"numbers": list(range(30))})
        await until(true_of(lambda: len(Taker.taken) == 30), "all are taken")
    assert sorted(Taker.taken) == list(range(30))


async def test_a_system_that_declares_another_number_does_not_start(url: str):
    class Other(Taker):
        settings = Settings(title="other", sources={Source("orders", shards=2)})

    async with open_broker(url, emit=ignore) as broker:
        await broker.shards.declare("orders", SHARDS)
    with pytest.raises(BrokerError, match=r"has 6 shards at this broker, and .* wants 2 shards"):
        async with open_system(Other, broker=url):
            pass


async def test_a_client_on_trio_asyncio_or_neither_publishes_to_the_right_shard(url: str):
    source = Source("orders", shards=SHARDS)

    def blocking() -> str:
        with open_blocking(url) as client:
            return client.publish(source, 1, key="k")

    def on_asyncio() -> str:
        async def main() -> str:
            async with open_on_asyncio(url) as client:
                return await client.publish("orders", 2, key="k")

        return asyncio.run(main())

    sent = [await trio.to_thread.run_sync(blocking), await trio.to_thread.run_sync(on_asyncio)]
    async with open_client(url) as client:
        sent.append(await client.publish("orders", 3, key="k"))
        with pytest.raises(BrokerError, match=r"has 6 shards at this broker, and .* wants 4 shards"):
            await client.publish(Source("orders", shards=4), 1)
    async with open_broker(url, emit=ignore) as broker, open_consumer(broker, "orders") as consumer:
        taken: list[str] = []
        for _ in range(3):
            delivery = await consumer.take_one()
            taken.append(delivery.id)
            await consumer.settle(delivery)
    assert taken == sent


# ------------------------------------------------------------------------------------------------------ seen as one


async def test_what_its_shards_hold_is_counted_listed_and_dropped_as_that_of_one_source(url: str):
    async with open_broker(url, emit=ignore) as broker:
        await broker.shards.declare("orders", SHARDS)
        await broker.publish([envelope(number) for number in range(20)])
        await broker.publish([envelope(number, delay=3600 + number) for number in range(20, 30)])
        await broker.publish([envelope(number, key="k") for number in range(30, 33)])
        assert await broker.backlog("orders") == 23
        assert (await broker.oldest("orders") or 0) >= 0
        (counts,) = await broker.reports.count(["orders"])
        assert (counts.source, counts.backlog, counts.delayed, counts.dead) == ("orders", 23, 10, 0)
        assert counts.oldest is not None
        found = await broker.reports.find("orders", "message-25")
        assert found is not None
        assert found.where == "delayed"
        delayed = await broker.delayed.list("orders", limit=5)
        assert [(one.source, one.id) for one in delayed] == [("orders", f"message-{20 + n}") for n in range(5)]
        assert len(await broker.delayed.list()) == 10
        assert await broker.delayed.cancel("orders", "message-20")
        assert not await broker.delayed.cancel("orders", "message-20")
        assert await broker.cancel_message("orders", "message-21")
        purgeable = await broker.purging.count("orders")
        assert (purgeable.ready, purgeable.delayed, purgeable.behind) == (21, 8, 2)
        assert await broker.purging.drop("orders", reason="a test", most=5) == 5
        assert await broker.purging.drop("orders", reason="a test", most=100) == 26
        assert await broker.backlog("orders") == 0


async def test_dead_letters_of_shards_are_those_of_one_source(url: str):
    async with open_broker(url, emit=ignore) as broker:
        await broker.shards.declare("orders", SHARDS)
        await broker.publish([envelope(number) for number in range(12)])
        async with open_consumer(broker, "orders") as consumer:
            for delivery in await consumer.take(12):
                await consumer.settle(delivery, Fail(FAILURE))
            assert await broker.dead_letters.sources() == ["orders"]
            letters = await broker.dead_letters.list("orders")
            assert len({letter.entry for letter in letters}) == 12
            assert {letter.source for letter in letters} == {"orders"}
            assert list(await broker.dead_letters.list()) == list(letters)
            assert await broker.dead_letters.get("orders", letters[3].entry) == letters[3]
            assert await broker.dead_letters.get("orders", "1-1") is None
            pages: list[Any] = []
            while page := await broker.dead_letters.list("orders", limit=5, after=pages[-1].entry if pages else None):
                pages += page
            assert pages == list(letters)
            entries = [letter.entry for letter in letters]
            assert await broker.dead_letters.drop("orders", entries[:2]) == 2
            assert await broker.dead_letters.replay("orders", entries[:8]) == 6
            assert await broker.dead_letters.replay_as("orders", entries[8], b'"again"')
            assert {one.id for one in await consumer.take(7)} == {letter.id for letter in letters[2:9]}
            assert await broker.dead_letters.list("orders") == letters[9:]


async def test_a_divided_source_is_exported_and_imported_as_one(url: str):
    lines: list[str] = []
    async with open_broker(url, emit=ignore) as broker:
        await broker.shards.declare("orders", SHARDS)
        await broker.pauses.pause("source", "orders")
        await broker.publish([envelope(number) for number in range(20)])
        await broker.publish([envelope(number, key="k") for number in range(20, 25)])
        await broker.publish([envelope(number, delay=3600) for number in range(25, 30)])
        done = await export_source(broker, "orders", lines.append)
        assert (done.messages, done.has_marks) == (30, True)
        await broker.shards.declare("copies", 3)
        copied = await import_source(broker, lines, source="copies")
        assert copied.new_messages == 30
        assert (await import_source(broker, lines, source="copies")).new_messages == 0
        (counts,) = await broker.reports.count(["copies"])
        assert (counts.backlog, counts.delayed) == (25, 5)


async def test_the_doctor_names_divided_sources(url: str):
    async with open_broker(url, emit=ignore) as broker:
        await broker.shards.declare("orders", SHARDS)
        found = [one for one in await broker.diagnose() if one.subject == "shards"]
    assert [(one.level, one.text) for one in found] == [("ok", "'orders' is divided into 6")]


class Summing(Actor):
    settings = Settings(title="summing", sources={Source("orders", shards=SHARDS)})

    @receive(batch=10, within=0.05)
    async def add(self, numbers: list[int]) -> None:
        self.context.publish("sums", {"number": sum(numbers)})


class Sums(Actor):
    settings = Settings(title="sums", sources={Source("sums", shards=3)})
    taken: list[int]

    @receive
    async def take(self, *, number: int) -> None:
        self.taken.append(number)


async def test_a_batch_of_messages_from_several_shards_is_settled_once_and_publishes_to_shards(url: str):
    Sums.taken = []
    # The node of the first system has begun when this source was not divided yet.
    async with open_system(Summing, broker=url), open_system(Sums, broker=url), open_client(url) as client:
        for number in range(40):
            await client.publish("orders", number)
        await until(true_of(lambda: sum(Sums.taken) == sum(range(40))), "all sums")
        await until(lambda: is_settled(client.broker), "all is settled")
    assert sum(Sums.taken) == sum(range(40))


async def is_settled(broker: Any) -> bool:
    return await broker.backlog("orders") == 0 and await broker.backlog("sums") == 0
