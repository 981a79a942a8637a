"""What a node handles is counted at the broker, by minute and source."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from actorwork import Actor, Settings, open_client, open_system, receive
from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble
from actorwork.policy.minutes import ALL, MinuteCounts, Tally
from actorwork.policy.series import added
from actorwork.policy.settlement import ACK
from actorwork.runtime import engine
from actorwork.runtime.reporting import minutes, reporter
from actorwork.runtime.reporting.minutes import MinuteWriter
from actorwork.testing.memory import MemoryBroker
from tests.doubles import Kept
from tests.patience import PATIENCE
from tests.runtime.test_reporting import until_some


@pytest.fixture(params=["redis", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("redis_url") if request.param == "redis" else f"sqlite:///{tmp_path / 'm.db'}"


class Numbers(Actor):
    settings = Settings(title="numbers", sources={"numbers", "more"})

    @receive
    async def handle(self, *, number: int) -> None:
        if number < 0:
            raise ValueError(number)


async def counts_of(broker: Broker, source: str) -> MinuteCounts:
    now, _ = await broker.reports.nodes()
    return added((await broker.minutes.read(source, int(now // 60) - 60, int(now // 60) + 1)).values())


async def ends_of(broker: Broker, source: str) -> tuple[int, int]:
    counts = await counts_of(broker, source)
    return counts.handled, counts.failed


async def test_what_a_node_has_handled_is_at_the_broker_after_its_end(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "REPORT_AFTER", 0.0)
    monkeypatch.setattr(minutes, "LAST", PATIENCE)
    async with open_broker(url) as broker:
        async with open_system([Numbers], broker=url, emit=lambda _: None), open_client(broker) as client:
            for source, number in (("numbers", 1), ("numbers", -1), ("more", 2)):
                await client.publish(source, {"number": number})

            async def is_done() -> bool:
                return await broker.backlog("numbers") == await broker.backlog("more") == 0 and bool(
                    (await broker.reports.nodes())[1]
                )

            await until_some(is_done)
        assert [await ends_of(broker, source) for source in ("numbers", "more", ALL)] == [(2, 1), (1, 0), (3, 1)]


async def test_it_is_counted_while_the_node_runs(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "REPORT_AFTER", 0.0)
    monkeypatch.setattr(minutes, "EVERY", 0.01)
    async with open_system([Numbers], broker=url) as system, open_client(system.broker) as client:
        for number in range(250):
            await client.publish("numbers", {"number": number})

        async def is_counted() -> bool:
            return await ends_of(system.broker, "numbers") == (250, 0)

        await until_some(is_counted)


async def test_each_message_of_a_batch_counts(monkeypatch: pytest.MonkeyPatch):
    class Batches(Actor):
        settings = Settings(title="batches", sources={"numbers"})

        @receive(batch=5, within=60)
        async def handle(self, batch: list[int]) -> None:
            assert len(batch) == 5

    monkeypatch.setattr(engine, "REPORT_AFTER", 0.0)
    monkeypatch.setattr(reporter, "WATCHED", 0.01)
    broker = MemoryBroker()
    async with open_system([Batches], broker=broker), open_client(broker) as client:
        for number in range(5):
            await client.publish("numbers", number)

        async def is_counted() -> bool:
            # At a broker in this process, the node counts what was handled while a program looks.
            await broker.reports.watch()
            return await ends_of(broker, "numbers") == (5, 0)

        await until_some(is_counted)


class Refusing:
    """Minutes at a broker that refuses, until the test has it take them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error or BrokerError("full")
        self.refuses = True
        self.taken: list[dict[str, int]] = []

    async def add(self, minute: int, counts: Mapping[str, MinuteCounts]) -> None:
        if self.refuses:
            raise self.error
        self.taken.append({source: one.handled for source, one in counts.items()})

    async def read(self, source: str, first: int, last: int) -> Mapping[int, MinuteCounts]:
        raise NotImplementedError


@pytest.mark.parametrize(("error", "told"), [(BrokerError("full"), "full"), (ValueError("odd"), "ValueError: odd")])
async def test_a_broker_that_refuses_is_told_once_and_nothing_is_counted_twice(error: Exception, told: str):
    broker, kept, tally = Refusing(error), Kept(), Tally()
    writer = MinuteWriter(tally, broker, lambda: 6000.0, kept)
    for _ in range(3):
        tally.note("mails", ACK, 0.1)
        await writer.write()
    (trouble,) = kept.of(BrokerTrouble)
    assert trouble.error == told
    broker.refuses = False
    tally.note("mails", ACK, 0.1)
    await writer.write()
    await writer.write()
    assert broker.taken == [{ALL: 1, "mails": 1}]


async def test_a_node_that_handles_nothing_sends_nothing(mock_clock: trio.testing.MockClock):
    broker, tally = Refusing(), Tally()
    broker.refuses = False
    writer = MinuteWriter(tally, broker, trio.current_time, Kept())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        await trio.sleep(1000)
        assert broker.taken == []
        tally.note("mails", ACK, 0.1)
        await trio.sleep(minutes.EVERY + 1)
        assert broker.taken == [{ALL: 1, "mails": 1}]
        tally.note("mails", ACK, 0.1)
        nursery.cancel_scope.cancel()
    assert len(broker.taken) == 2
