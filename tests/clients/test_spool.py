"""What a client with a spool promises: what was accepted arrives once and in order, however long the broker is away."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from actorwork import Actor, Settings, SettingsError, Spool, SpoolError, SpoolFull, open_client, open_system, receive
from actorwork.clients import Client, spool as spooling
from actorwork.clients.lazy_broker import place_of
from actorwork.embedded.spool import SpoolFile, row_of
from actorwork.errors import BrokerError
from actorwork.message import Envelope, Priority, Unique
from actorwork.testing.memory import MemoryBroker
from tests.patience import BUSY, PATIENCE


class Broker(MemoryBroker):
    """A broker that can be away, as if its network were, and that can refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.there = trio.Event()
        self.there.set()
        self.swallows = False
        self.refuses: Callable[[Envelope], str | None] = lambda _: None
        self.busy = ""
        self.published: list[Sequence[Envelope]] = []

    def go_away(self) -> None:
        self.there = trio.Event()

    def come_back(self) -> None:
        self.there.set()

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        if self.swallows:
            # It has them; nobody is told.
            self.keep(envelopes)
            await trio.sleep_forever()
        await self.there.wait()
        if self.busy:
            raise BrokerError(self.busy, may_pass=True)
        for envelope in envelopes:
            reason = self.refuses(envelope)
            if reason is not None:
                raise BrokerError(reason)
        self.published.append(envelopes)
        return await super().publish(envelopes)

    async def publish_unique(self, envelope: Envelope) -> str:
        await self.there.wait()
        return await super().publish_unique(envelope)

    def texts(self, source: str | None = None) -> list[str]:
        return [one.data.decode() for one in self.sent if source in (None, one.source)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(spooling, "CLAIM_AGAIN", 0.01)
    monkeypatch.setattr(spooling, "PAUSE", 0.02)
    monkeypatch.setattr(spooling, "LINGER", 0.2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite3"


@pytest.fixture
def spool(file: Path) -> Spool:
    return Spool(path=file, patience=0.05)


@asynccontextmanager
async def within(seconds: float = PATIENCE) -> AsyncGenerator[None]:
    with trio.fail_after(seconds):
        yield


def depth(client: Client) -> float:
    return client.statistics()["spool_messages"]


async def publish(client: Client, *texts: str, source: str = "orders", **options: Any) -> None:
    for text in texts:
        await client.publish(source, int(text), **options)


# ------------------------------------------------------------------------------------------------------ when it is down


async def test_while_the_broker_answers_nothing_goes_into_the_file(file: Path):
    broker = Broker()
    async with open_client(broker, spool=Spool(path=file, patience=20)) as client:
        await publish(client, "1", "2")
        assert client.statistics()["spooled"] == 0
    assert broker.texts() == ["1", "2"]


async def test_what_is_sent_while_the_broker_is_away_arrives_in_its_order_and_once(spool: Spool):
    broker = Broker()
    async with within(), open_client(broker, spool=spool) as client:
        broker.go_away()
        await publish(client, *"123")
        await publish(client, *"789", source="returns")
        statistics = client.statistics()
        assert (statistics["spooled"], statistics["spool_messages"]) == (6, 6)
        assert statistics["spool_bytes"] > 6
        assert statistics["spool_age"] > 0
        broker.come_back()
        await client.wait_replayed()
        statistics = client.statistics()
        assert (statistics["replayed"], statistics["spool_messages"], statistics["spool_bytes"]) == (6, 0, 0)
        assert statistics["spool_age"] == 0
        await publish(client, "4")
        assert client.statistics()["spooled"] == 6
    assert broker.texts("orders") == list("1234")
    assert broker.texts("returns") == list("789")


async def test_only_the_first_message_of_an_outage_waits_for_the_broker(file: Path):
    broker = Broker()
    async with within(), open_client(broker, spool=Spool(path=file, patience=3)) as client:
        broker.go_away()
        began = trio.current_time()
        for number in range(10):
            await client.publish("orders", number)
        assert trio.current_time() - began < 3 + BUSY  # Ten times three seconds would be more.


async def test_a_batch_that_takes_its_time_is_no_outage(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spooling, "BATCH", 5)
    broker = Broker()

    async def take_time(envelopes: Sequence[Envelope]) -> int:
        await trio.sleep(0.08)
        return await MemoryBroker.publish(broker, envelopes)

    monkeypatch.setattr(broker, "publish", take_time)
    async with within(), open_client(broker, spool=Spool(path=file, patience=1.4)) as client:
        await client.ref("greeter").tell_many(list(range(100)))
        assert client.statistics()["spooled"] == 0
    assert broker.texts() == [str(number) for number in range(100)]


async def test_of_a_batch_in_whose_middle_the_broker_goes_away_the_rest_is_kept_in_order(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spooling, "BATCH", 10)
    broker = Broker()

    def go_away_after_half(envelope: Envelope) -> None:
        if envelope.data == b"50":
            broker.go_away()

    broker.refuses = go_away_after_half
    async with within(), open_client(broker, spool=spool) as client:
        await client.ref("greeter").tell_many(list(range(100)))
        assert client.statistics()["spooled"] >= 40  # More where a batch took longer than the spool's patience.
        broker.come_back()
        await client.wait_replayed()
    assert broker.texts() == [str(number) for number in range(100)]


async def test_what_the_broker_has_kept_without_saying_so_is_not_kept_twice(spool: Spool):
    broker = Broker()
    async with within(), open_client(broker, spool=spool) as client:
        broker.swallows = True
        await publish(client, "1", "2")
        broker.swallows = False
        await client.wait_replayed()
        await publish(client, "3")
    assert broker.texts() == ["1", "2", "3"]


async def test_new_messages_of_a_source_go_behind_those_that_wait_and_others_do_not(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spooling, "BATCH", 1)
    broker = Broker()
    held, is_held = trio.Event(), trio.Event()

    async def hold_orders(envelopes: Sequence[Envelope]) -> int:
        if envelopes[0].data == b"1":
            is_held.set()
            await held.wait()
        return await MemoryBroker.publish(broker, envelopes)

    async with within(), open_client(broker, spool=spool) as client:
        broker.go_away()
        await publish(client, "8", source="returns")
        await publish(client, "1")
        monkeypatch.setattr(broker, "publish", hold_orders)
        broker.come_back()
        await is_held.wait()
        # The broker is back, which is known since it took the first one, and has not taken the second.
        await publish(client, "2")
        await publish(client, "9", source="returns")
        assert client.statistics()["spooled"] == 3
        held.set()
        await client.wait_replayed()
    assert broker.texts("orders") == ["1", "2"]
    assert broker.texts("returns") == ["8", "9"]


class ManyServers(Broker):
    """A broker with a server for each source: each can be away by itself."""

    def __init__(self, *away: str) -> None:
        super().__init__()
        self.away = set(away)
        self.changed = trio.Event()

    def servers_of(self, source: str) -> frozenset[object]:
        return frozenset({source})

    def servers(self) -> tuple[int, int]:
        return 10, len(self.away)

    def bring_back(self, source: str) -> None:
        self.away.discard(source)
        self.changed.set()
        self.changed = trio.Event()

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        # As on a cluster, all servers are asked at the same time, and the call waits for the last one.
        self.keep([one for one in envelopes if one.source not in self.away])
        while any(one.source in self.away for one in envelopes):
            await self.changed.wait()
        return await super().publish(envelopes)


async def test_while_one_server_is_away_what_is_for_others_goes_straight_to_them(spool: Spool):
    broker = ManyServers("orders")
    async with within(), open_client(broker, spool=spool) as client:
        await publish(client, "1")
        await publish(client, "7", "8", source="returns")
        assert (client.statistics()["spooled"], broker.texts()) == (1, ["7", "8"])
        broker.bring_back("orders")
        await client.wait_replayed()
    assert broker.texts("orders") == ["1"]


async def test_what_waits_for_one_server_holds_up_nothing_that_waits_for_others(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spooling, "BATCH", 2)
    broker = ManyServers("orders", "bills")
    async with within(), open_client(broker, spool=attrs.evolve(spool, mode="always")) as client:
        await publish(client, *"12345")
        await publish(client, *"6", source="bills")
        await publish(client, *"789", source="returns")
        while broker.texts() != ["7", "8", "9"]:  # noqa: ASYNC110 - no event says so
            await trio.sleep(0.01)
        broker.bring_back("bills")
        while broker.texts("bills") != ["6"]:  # noqa: ASYNC110 - as above
            await trio.sleep(0.01)
        assert broker.texts("orders") == []
        broker.bring_back("orders")
        await client.wait_replayed()
    assert broker.texts("orders") == list("12345")


async def test_a_server_that_is_back_takes_messages_straight_again(spool: Spool):
    broker = ManyServers("orders", "bills")
    async with within(), open_client(broker, spool=spool) as client:
        await publish(client, "1")
        await publish(client, "6", source="bills")
        broker.bring_back("orders")
        while broker.texts("orders") != ["1"] or depth(client) > 1:  # noqa: ASYNC110 - as above
            await trio.sleep(0.01)
        await publish(client, "2")
        assert client.statistics()["spooled"] == 2
        broker.bring_back("bills")
        await client.wait_replayed()
    assert broker.texts("orders") == ["1", "2"]


async def test_a_broker_that_cannot_at_the_moment_counts_as_down(spool: Spool):
    broker = Broker()
    async with within(), open_client(broker, spool=spool) as client:
        broker.busy = "OOM command not allowed"
        await publish(client, "1", "2")
        assert depth(client) == 2
        broker.busy = ""
        await client.wait_replayed()
    assert broker.texts() == ["1", "2"]


async def test_what_the_broker_refuses_for_good_is_raised_when_it_is_sent_directly(spool: Spool):
    broker = Broker()
    broker.refuses = lambda _: "WRONGTYPE"
    async with open_client(broker, spool=spool) as client:
        with pytest.raises(BrokerError, match="WRONGTYPE"):
            await publish(client, "1")
        assert depth(client) == 0


# --------------------------------------------------------------------------------------------------------------- always


async def test_with_always_a_message_is_in_the_file_before_it_is_at_the_broker(file: Path):
    broker = Broker()
    async with within(), open_client(broker, spool=Spool(path=file, mode="always")) as client:
        await publish(client, "1")
        assert client.statistics()["spooled"] == 1
        await publish(client, "2", "3")
        await client.wait_replayed()
    assert broker.texts() == ["1", "2", "3"]


async def test_many_tasks_share_the_disk(file: Path, monkeypatch: pytest.MonkeyPatch):
    commits = 0
    append = SpoolFile.append

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal commits
        commits += 1
        return append(*args, **kwargs)

    monkeypatch.setattr(SpoolFile, "append", counted)
    broker = Broker()
    broker.go_away()
    async with within(), open_client(broker, spool=Spool(path=file, mode="always")) as client:
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(client.publish, "orders", number)
        assert depth(client) == 100
        assert commits < 20
        broker.come_back()
        await client.wait_replayed()
    assert sorted(map(int, broker.texts())) == list(range(100))


# --------------------------------------------------------------------------------------------------------- later starts


async def test_the_next_client_with_the_same_file_replays_before_it_sends(spool: Spool):
    broker = Broker()
    broker.go_away()
    async with within(), open_client(broker, spool=spool) as client:
        await publish(client, "1", "2")
    assert broker.texts() == []
    broker.come_back()
    async with within(), open_client(broker, spool=spool) as client:
        await publish(client, "3")
        await client.wait_replayed()
    assert broker.texts() == ["1", "2", "3"]


async def test_a_client_opens_while_the_broker_is_away(tmp_path: Path, spool: Spool):
    async with within(), open_client(f"unix://{tmp_path}/nobody.sock", spool=spool) as client:
        await publish(client, "1")
        assert depth(client) == 1
        with pytest.raises(BrokerError, match="not been reached"):
            client.broker  # noqa: B018 - asking is what fails
        with trio.move_on_after(0.1) as waiting:
            await client.pause(actor="till")
        assert waiting.cancelled_caught, "it waits for the broker, as all but messages do"
        with pytest.raises(TimeoutError):
            await client.ref("greeter").ask(1, timeout=0.05)


async def test_a_broker_that_refuses_to_be_opened_is_an_error_at_once(tmp_path: Path, file: Path):
    with pytest.raises(BrokerError, match="no directory"):
        async with within(), open_client(f"sqlite:///{tmp_path}/nowhere/messages.db", spool=Spool(path=file)):
            pass


async def test_two_clients_share_a_file_and_everything_arrives_once_and_in_the_order_of_each(spool: Spool):
    broker = Broker()
    async with within(), open_client(broker, spool=spool) as one, open_client(broker, spool=spool) as two:
        broker.go_away()
        for number in range(50):
            await one.publish("a", number)
            await two.publish("b", number)
        broker.come_back()
        await one.wait_replayed()
        await two.wait_replayed()
        assert one.statistics()["replayed"] + two.statistics()["replayed"] == 100
    assert broker.texts("a") == broker.texts("b") == [str(number) for number in range(50)]


async def test_a_client_replays_what_another_one_has_left_behind(spool: Spool):
    broker = Broker()
    async with within(), open_client(broker, spool=spool) as idle:
        broker.go_away()
        async with open_client(broker, spool=spool) as other:
            await publish(other, "1", "2")
        broker.come_back()
        while len(broker.texts()) < 2:  # noqa: ASYNC110 - it looks by itself
            await trio.sleep(0.01)
        await idle.wait_replayed()
    assert broker.texts() == ["1", "2"]


# ----------------------------------------------------------------------------------------------- what a message carries


def test_an_envelope_comes_out_of_the_file_as_it_went_in(file: Path):
    envelopes = [
        Envelope("a", "1", b"\xff"),
        Envelope(
            "b",
            "2",
            b"{}",
            type="Order",
            headers={"lang": "en", "deep": {"list": [1, None]}},
            at=1e9,
            group="g",
            key="k",
            priority=Priority.HIGH,
            expires=2e9,
            unique=Unique("u", ttl=5, on_conflict="replace"),
        ),
    ]
    spool = SpoolFile(file)
    assert spool.append([[row_of(one, 100.0) for one in envelopes]], max_messages=10, max_bytes=1000) == [True]
    again = [one.envelope(5000.0) for one in spool.first(10, 10**6)]
    assert again == envelopes
    assert type(again[1].priority) is Priority
    spool.close()


def test_a_delay_and_a_lifetime_count_from_when_the_message_was_told(file: Path):
    spool = SpoolFile(file)
    envelope = Envelope("a", "1", b"1", delay=60.0, lifetime=90.0)
    spool.append([[row_of(envelope, 1000.0)]], max_messages=10, max_bytes=1000)
    (found,) = spool.first(1, 1)
    assert (found.envelope(1020.0).delay, found.envelope(1020.0).lifetime) == (40.0, 70.0)
    assert found.envelope(1070.0).delay == 0.0
    assert 0 < (found.envelope(5000.0).lifetime or 0) < 0.01
    assert found.envelope(500.0).delay == 60.0, "a clock that was set back makes no delay longer"
    spool.close()


async def test_a_spooled_message_can_have_its_outcome_fetched(spool: Spool):
    class Greeter(Actor):
        settings = Settings(title="greeter")

        @receive
        async def greet(self, *, name: str) -> str:
            return f"Hello {name}"

    broker = Broker()
    async with within(), open_client(broker, spool=spool) as client, open_system(Greeter, broker=broker):
        broker.go_away()
        receipt = await client.ref(Greeter).submit({"name": "Ann"})
        broker.come_back()
        assert await receipt.result() == "Hello Ann"


async def test_a_message_that_waits_in_the_file_is_cancelled_as_soon_as_the_broker_has_it(spool: Spool):
    greeted: list[str] = []

    class Greeter(Actor):
        settings = Settings(title="greeter")

        @receive
        async def greet(self, *, name: str) -> None:
            greeted.append(name)

    broker = Broker()
    async with within(), open_client(broker, spool=spool) as client:
        broker.go_away()
        receipt = await client.ref(Greeter).submit({"name": "Ann"})
        changed: list[bool] = []

        async def cancel() -> None:
            changed.append(await receipt.cancel("too late"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert changed == []
            broker.come_back()
        assert changed == [True]
        async with open_system(Greeter, broker=broker):
            await client.ref(Greeter).ask({"name": "Bob"})
        assert await receipt.status() == "CANCELLED"
        assert greeted == ["Bob"]


async def test_an_ask_waits_for_the_messages_of_its_source_and_is_never_spooled(spool: Spool):
    class Counter(Actor):
        settings = Settings(title="counter")
        count = 0

        @receive
        async def add(self, *, number: int) -> int:
            Counter.count += number
            return Counter.count

    broker = Broker()
    async with within(), open_client(broker, spool=spool) as client, open_system(Counter, broker=broker):
        counter = client.ref(Counter)
        broker.go_away()
        await counter.tell({"number": 1})
        with pytest.raises(TimeoutError):
            await counter.ask({"number": 100}, timeout=0.1)
        assert depth(client) == 1
        broker.come_back()
        assert await counter.ask({"number": 2}, timeout=PATIENCE) == 3


# ------------------------------------------------------------------------------------------------------ what goes wrong


async def test_a_full_spool_refuses_and_says_what_it_holds(file: Path):
    broker = Broker()
    broker.go_away()
    async with within(), open_client(broker, spool=Spool(path=file, patience=0.05, max_messages=2)) as client:
        await publish(client, "1", "2")
        with pytest.raises(SpoolFull, match=r"holds 2 of 2 messages .* not stored") as caught:
            await publish(client, "3")
        assert (caught.value.messages, caught.value.bytes) == (2, client.statistics()["spool_bytes"])
        with pytest.raises(SpoolFull):
            await client.ref("greeter").tell_many([1])
        broker.come_back()
        await client.wait_replayed()
        await publish(client, "4")
    assert broker.texts("orders") == ["1", "2", "4"]


async def test_a_full_spool_that_is_being_emptied_is_waited_for(file: Path):
    broker = Broker()
    small = Spool(path=file, mode="always", patience=5, max_messages=3)
    async with within(), open_client(broker, spool=small) as client:
        for number in range(30):
            await client.publish("orders", number)
        await client.wait_replayed()
    assert broker.texts() == [str(number) for number in range(30)]


async def test_a_message_that_is_larger_than_the_spool_does_not_keep_others_out(file: Path):
    broker = Broker()
    async with within(), open_client(broker, spool=Spool(path=file, patience=0.05, max_bytes=500)) as client:
        broker.go_away()
        with pytest.raises(SpoolFull):
            await client.publish("orders", "x" * 1000)
        broker.come_back()
        await publish(client, "1")
        assert client.statistics()["spooled"] == 0
    assert broker.texts() == ["1"]


async def test_what_the_broker_refuses_for_good_is_set_aside_and_the_others_go_on(
    spool: Spool, caplog: pytest.LogCaptureFixture
):
    broker = Broker()
    async with within(), open_client(broker, spool=spool) as client:
        broker.go_away()
        await publish(client, "1")
        await publish(client, "2", source="wrong", id="bad")
        await publish(client, "3")
        broker.refuses = lambda envelope: "WRONGTYPE no stream" if envelope.source == "wrong" else None
        broker.come_back()
        await client.wait_replayed()
        assert client.statistics()["spool_set_aside"] == depth(client) == 1
        await publish(client, "4")
        with pytest.raises(BrokerError, match="WRONGTYPE"):
            await publish(client, "5", source="wrong")
    assert broker.texts() == ["1", "3", "4"]
    assert "replaying message bad of wrong" in caplog.text
    file = SpoolFile(spool.path or Path())
    (left,) = file.find("bad")
    assert left.refused == "WRONGTYPE no stream"
    assert file.take_up_again() == 1
    assert file.status().waiting == 1
    file.close()


async def test_a_row_that_nobody_here_wrote_is_set_aside(spool: Spool, file: Path):
    made = SpoolFile(file)
    made.append([[row_of(Envelope("orders", "1", b"1"), 0.0)]], max_messages=9, max_bytes=9999)
    made.close()
    with sqlite3.connect(file) as connection:
        connection.execute("""update messages set fields = '{"colour": "red"}'""")
    connection.close()
    broker = Broker()
    async with within(), open_client(broker, spool=spool) as client:
        await client.wait_replayed()
        assert client.statistics()["spool_set_aside"] == 1


@pytest.fixture
def no_database(file: Path) -> None:
    file.write_bytes(b"no database at all " * 100)


@pytest.fixture
def damaged_in_the_middle(file: Path) -> None:
    made = SpoolFile(file)
    rows = [row_of(Envelope("orders", str(number), b"x" * 500), 0.0) for number in range(200)]
    made.append([rows], max_messages=1000, max_bytes=10**6)
    made.close()
    content = bytearray(file.read_bytes())
    content[40_000:60_000] = os.urandom(20_000)
    file.write_bytes(content)


@pytest.mark.usefixtures("no_database")
async def test_a_damaged_file_is_an_error_that_says_so(spool: Spool):
    with pytest.raises(SpoolError, match=r"spool\.sqlite3.*no SQLite database"):
        async with open_client(Broker(), spool=spool):
            pass


@pytest.mark.usefixtures("damaged_in_the_middle")
async def test_a_file_that_is_damaged_in_the_middle_is_found_out_when_it_is_opened(spool: Spool):
    with pytest.raises(SpoolError, match=r"damaged|malformed"):
        async with open_client(Broker(), spool=spool):
            pass


async def test_a_file_of_another_program_is_left_alone(spool: Spool, file: Path):
    with sqlite3.connect(file) as connection:
        connection.execute("create table theirs (x)")
    connection.close()
    with pytest.raises(SpoolError, match="another program"):
        async with open_client(Broker(), spool=spool):
            pass


@contextmanager
def nobody_in_particular() -> Generator[Path]:
    """Be a user who may write nowhere, also where the tests are run by root; yield a directory of somebody's else."""
    with TemporaryDirectory() as folder:
        closed = Path(folder) / "closed"
        closed.mkdir()
        for one in (closed, Path(folder)):
            one.chmod(0o555)
        if os.geteuid() == 0:
            os.seteuid(65534)
            try:
                yield closed
            finally:
                os.seteuid(0)
        else:
            yield closed
        for one in (Path(folder), closed):
            one.chmod(0o755)


async def test_a_directory_that_cannot_be_written_is_an_error_when_the_client_is_opened():
    with nobody_in_particular() as closed, pytest.raises(SpoolError, match="closed"):
        async with open_client(Broker(), spool=Spool(path=closed / "spool.sqlite3")):
            pass


@pytest.mark.parametrize("name", ["", "nowhere/spool.sqlite3"])
async def test_a_path_that_is_no_file_is_an_error_when_the_client_is_opened(tmp_path: Path, name: str):
    with pytest.raises(SpoolError, match="directory"):
        async with open_client(Broker(), spool=Spool(path=tmp_path / name)):
            pass


async def test_a_disk_that_fails_is_an_error_for_whoever_sends(
    spool: Spool, file: Path, monkeypatch: pytest.MonkeyPatch
):
    broker = Broker()
    async with within(), open_client(broker, spool=spool) as client:
        broker.go_away()
        # As a full disk is: the file may not grow, and it is read as before.
        append = SpoolFile.append

        def full(self: SpoolFile, *args: Any, **kwargs: Any) -> Any:
            self._connection.execute("pragma max_page_count = 1")
            return append(self, *args, **kwargs)

        monkeypatch.setattr(SpoolFile, "append", full)
        with pytest.raises(SpoolError, match=r"disk is full.*not stored"):
            await client.publish("orders", "x" * 100_000)
        broker.come_back()
        await publish(client, "2")
    assert broker.texts() == ["2"]


async def test_a_file_that_is_deleted_under_way_is_an_error_for_whoever_sends(spool: Spool, file: Path):
    broker = Broker()
    broker.go_away()
    async with within(), open_client(broker, spool=spool) as client:
        await trio.Path(file).unlink()
        with pytest.raises(SpoolError, match="deleted or moved"):
            await publish(client, "1")


def test_only_one_holder_of_a_file_may_replay_and_its_end_frees_it(file: Path):
    one, two = SpoolFile(file), SpoolFile(file)
    assert one.claim()
    assert one.claim()
    assert not two.claim()
    one.close()
    assert two.claim()
    two.close()


def test_the_end_of_a_process_frees_the_file_however_it_ends(file: Path):
    program = (
        "import pathlib, sys, time; from actorwork.embedded.spool import SpoolFile\n"
        "file = SpoolFile(pathlib.Path(sys.argv[1])); print(file.claim(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        here = SpoolFile(file)
        assert not here.claim()
        other.kill()
        other.wait()
        assert here.claim()
        here.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mode": "sometimes"}, "'when_down' or 'always'"),
        ({"max_messages": 0}, "max_messages wants a whole number"),
        ({"max_bytes": 1.5}, "max_bytes wants a whole number"),
        ({"patience": 0}, "patience wants seconds"),
    ],
)
def test_a_spool_says_what_is_wrong_with_it(wrong: dict[str, Any], said: str):
    with pytest.raises(SettingsError, match=said):
        Spool(**wrong)


async def test_a_word_that_is_no_mode_is_refused():
    with pytest.raises(SettingsError, match="when_down"):
        async with open_client(Broker(), spool="sometimes"):  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
            pass


async def test_without_a_path_each_broker_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACTORWORK_HOME", str(tmp_path))
    for user in ("", "ann:secret@"):
        spool = Spool()
        assert spooling.file_for(spool, place_of(f"redis://{user}there:6379/0")) == spooling.file_for(
            spool, "redis://there:6379/0"
        )
    broker = Broker()
    broker.go_away()
    async with within(), open_client(broker, spool=Spool(patience=0.05)) as client:
        await publish(client, "1")
    assert [one.name for one in await trio.Path(tmp_path).glob("spool-*.sqlite3")]
