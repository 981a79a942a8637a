"""Clients of programs that do not run Trio: without an event loop, and on asyncio. Same names, same answers."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import redis
import trio

import actorwork
from actorwork import (
    AskTimeout,
    BrokerError,
    Envelope,
    MessageFailed,
    MessageRefused,
    NotRunning,
    NotUnique,
    SystemThread,
    Unique,
    actor,
    aio,
    sync,
)
from actorwork.blocking.driver import Deadlines, run
from actorwork.blocking.redis import BlockingConnection, BlockingRedis
from actorwork.blocking.store import BlockingStore
from actorwork.clients import Client
from actorwork.embedded.location import Location
from actorwork.events import BrokerAdvice
from actorwork.streams.transport.address import Address
from actorwork.testing.redis_server import RedisServer, open_redis_server
from actorwork.workflows import Status, chord, signal, step
from tests.clients.programs import node, run_asyncio
from tests.fork_server import run_forked
from tests.garbage import living
from tests.patience import BUSY, PATIENCE
from tests.workflows.shop import Calculator, Clerk, Flaky, Note, Square, Sum, Text, double

uvloop: Any
try:
    import uvloop
except ImportError:
    uvloop = None


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    Clerk.book.clear()
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'messages.db'}"
    found: str = request.getfixturevalue("redis_url")
    return found


@pytest.fixture
def at_work(url: str) -> Iterator[str]:
    with node(url):
        yield url


# ---- without an event loop ----


def test_a_sync_client_sends_asks_and_finds_results(at_work: str) -> None:
    with sync.open_client(at_work) as client:
        calculator = client.ref(Calculator)
        assert calculator.ask(Square(3), timeout=PATIENCE) == 9
        calculator.tell(Square(1))
        calculator.tell_many([Square(1), Square(2)])
        receipt = calculator.submit(Square(5))
        assert receipt.result(timeout=PATIENCE) == 25
        assert receipt.status() == "SUCCESS"
        assert client.ref("calculator").receipt(receipt.id).result() == 25
        assert client.statistics() == {"sent": 5, "asked": 1}
        client.tell(double, 1)
        assert client.call(double, number=4) == client.submit(double, 4).result(timeout=PATIENCE) == 8


def test_a_sync_client_raises_what_the_other_clients_raise(at_work: str) -> None:
    with sync.open_client(at_work) as client:
        calculator = client.ref(Calculator)
        with pytest.raises(MessageFailed, match="3 is odd"):
            calculator.ask(Flaky(3), timeout=PATIENCE)
        with pytest.raises(MessageRefused):
            calculator.tell(Note("x"))  # type: ignore[arg-type]
        calculator.tell(Square(1), unique=Unique("k"), delay=60)
        with pytest.raises(NotUnique):
            calculator.tell(Square(1), unique="k")


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_sync_client_waits_no_longer_than_it_is_told(url: str) -> None:
    with sync.open_client(url) as client:
        began = time.monotonic()
        with pytest.raises(AskTimeout, match=r"within 0\.05 s"):
            client.ref(Calculator).ask(Square(1), timeout=0.05)
        with pytest.raises(AskTimeout):
            client.ref(Calculator).submit(Square(1)).result(timeout=0.05)
        with pytest.raises(AskTimeout):
            client.start(step(Calculator, Square(1))).result(timeout=0.05)
        assert 0.14 <= time.monotonic() - began < 1 + BUSY


def test_a_sync_client_runs_workflows_pauses_and_shares_values(at_work: str) -> None:
    with sync.open_client(at_work) as client:
        run = client.start(chord([step(Calculator, Square(n)) for n in (1, 2, 3)], Calculator, Sum), id="squares")
        with run.watch() as updates:
            assert [info.status for info in updates][-1] is Status.SUCCESS
        assert client.run("squares").result() == 14
        assert [info.id for info in client.runs(Status.SUCCESS)] == ["squares"]
        assert "graph TD" in run.to_mermaid()
        assert run.to_svg().startswith("<svg ")
        client.pause(source="orders", reason="stock")
        assert [pause.name for pause in client.paused()] == ["orders"]
        assert client.resume(source="orders")
        hits = client.shared("hits", int, default=0)
        hits.increment(2)
        assert hits.update(lambda old: old * 10) == hits.get() == 20
        assert hits.delete()


@pytest.mark.parametrize("count", [5, pytest.param(300, marks=pytest.mark.long)])
def test_threads_that_share_a_sync_client_get_their_own_results(at_work: str, count: int) -> None:
    wrong: list[object] = []

    def work(client: sync.Client, number: int) -> None:
        try:
            calculator = client.ref(Calculator)
            numbers = range(number * 1000, number * 1000 + count)
            receipts = [calculator.submit(Square(one)) for one in numbers]
            wrong.extend(
                (one, result)
                for one, receipt in zip(numbers, receipts, strict=True)
                if (result := receipt.result(timeout=100)) != one**2
            )
            if calculator.ask(Square(number), timeout=100) != number**2:
                wrong.append(number)
        except Exception as error:  # noqa: BLE001 - the test's own thread reports it
            wrong.append(error)

    with sync.open_client(at_work) as client:
        threads = [threading.Thread(target=work, args=(client, number)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert client.statistics() == {"sent": 32 * (count + 1), "asked": 32}


FORKING = """
import os, sys
from actorwork.sync import open_client
from tests.workflows.shop import Calculator, Square

client = open_client(sys.argv[1])
ref = client.ref(Calculator)
assert ref.ask(Square(2), timeout=10) == 4
child = os.fork()
for number in range(30):
    assert ref.ask(Square(number), timeout=10) == number**2, number
receipts = [ref.submit(Square(number)).id for number in range(5)]
os.write(1, (" ".join(receipts) + "\\n").encode())  # One write: the other process writes to the same pipe.
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ref.ask(Square(3), timeout=10) == 9  # The end of the child has left the connection alone.
"""


def test_after_a_fork_both_processes_send_under_ids_of_their_own(at_work: str) -> None:
    done = run_forked(["-c", FORKING, at_work], timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    ids = done.stdout.split()
    assert len(set(ids)) == len(ids) == 10


LOOKING = """
import json, sys
from actorwork.sync import open_client

client = open_client(sys.argv[1])
found = []
for id in sys.argv[2:]:
    receipt = client.receipt(id)
    with receipt.watch() as updates:
        statuses = [info.status for info in updates]
    try:
        result = receipt.result(timeout=20), receipt.result(timeout=20)
    except Exception as error:
        result = type(error).__name__, str(error)
    found.append([statuses[-1], *result])
print(json.dumps(found))
"""


def test_what_became_of_a_message_is_found_in_another_process_by_its_id(at_work: str) -> None:
    with sync.open_client(at_work) as client:
        calculator = client.ref(Calculator)
        ids = [
            calculator.submit(Square(5), id="order 17").id,
            calculator.submit(Text({"\u2028": [None, 2**70, "é" * 300_000]}), delay=0.2).id,
            calculator.submit(Flaky(3)).id,
            calculator.submit(Flaky(3, "reject")).id,
        ]
    done = run_forked(["-c", LOOKING, at_work, *ids], timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    returned, text, failed, rejected = json.loads(done.stdout)
    assert returned == ["SUCCESS", 25, 25]
    assert text == ["SUCCESS", *[{"\u2028": [None, 2**70, "é" * 300_000]}] * 2]
    assert failed == ["FAILURE", "MessageFailed", f"its actor failed message {ids[2]} (ValueError: 3 is odd)"]
    assert rejected == ["REJECTED", "MessageFailed", f"its actor rejected message {ids[3]} (Reject: not wanted)"]


ENDING = """
import sys, threading, time
from actorwork.sync import open_client

client = open_client(sys.argv[1])
client.publish("somewhere", {"n": 1})
print(client.publish("somewhere", {"n": 2}))
"""


EXIT_OF_A_THREAD = "one = threading.Thread(target=sys.exit); one.start(); one.join()"


@pytest.mark.parametrize(
    ("ending", "traceback"),
    [(EXIT_OF_A_THREAD, ""), ("raise ValueError('x')", "ValueError: x")],
    ids=["normally, after a thread", "by an error"],
)
def test_a_program_that_never_closes_its_sync_client_ends_at_once(ending: str, traceback: str, url: str) -> None:
    clock = "print(time.monotonic(), flush=True)\n"
    done = run_forked(["-c", f"{ENDING}{clock}{ending}", url], timeout=PATIENCE)
    ended = time.monotonic()
    message, began = done.stdout.split()
    assert done.returncode == bool(traceback)
    assert done.stderr.count("Traceback") == bool(traceback)
    assert done.stderr.strip().endswith(traceback)
    assert ended - float(began) < 1 + BUSY
    with node(url), sync.open_client(url) as client:
        assert client.ref(Calculator).ask(Square(2), timeout=PATIENCE) == 4
        assert run(client.broker.publish([Envelope("somewhere", message, b"{}")])) == 0, "it was there"


def test_importing_the_sync_and_asyncio_clients_imports_no_trio() -> None:
    program = "import sys, actorwork.sync, actorwork.aio; sys.exit('trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_a_sync_client_refuses_to_block_a_thread_in_which_trio_runs(url: str) -> None:
    client = await trio.to_thread.run_sync(sync.open_client, url)
    with pytest.raises(NotRunning, match=r"use self\.context\.client in an actor"):
        client.ref(Calculator).tell(Square(1))
    await trio.to_thread.run_sync(client.ref(Calculator).tell, Square(1))
    client.close()


@actor(title="task")
async def send_in_a_task(url: str) -> str:
    try:
        with sync.open_client(url) as client:
            client.ref(Calculator).tell(Square(1))
    except NotRunning as error:
        return str(error)
    return "sent"


@actor(title="thread")
def send_in_a_thread(url: str) -> str:
    with sync.open_client(url) as client:
        client.ref(Calculator).tell(Square(1))
    return "sent"


def test_a_handler_that_uses_a_sync_client_is_refused_unless_it_has_a_thread_of_its_own(url: str) -> None:
    with SystemThread([send_in_a_task, send_in_a_thread], broker=url), sync.open_client(url) as client:
        assert "use self.context.client in an actor" in client.call(send_in_a_task, url)
        assert client.call(send_in_a_thread, url) == "sent"


def test_a_sync_client_works_where_an_asyncio_loop_runs(at_work: str) -> None:
    async def cell_of_a_notebook() -> int:
        with sync.open_client(at_work) as client:
            return client.ref(Calculator).ask(Square(4), timeout=PATIENCE)

    assert asyncio.run(cell_of_a_notebook()) == 16


def test_a_closed_sync_client_says_so(url: str) -> None:
    client = sync.open_client(url)
    client.ref(Calculator).tell(Square(1))
    client.close()
    with pytest.raises(BrokerError, match="closed"):
        client.ref(Calculator).tell(Square(1))


def test_a_sync_client_that_is_garbage_has_closed_its_file_before_python_could_warn(tmp_path: Path) -> None:
    def opened() -> tuple[BlockingStore, sqlite3.Connection]:
        before = living(sqlite3.Connection)
        store = BlockingStore(Location(tmp_path / "messages.db"), Deadlines())
        store.open()
        [connection] = [one for one in living(sqlite3.Connection) if one not in before]
        return store, connection

    # Python finalizes garbage in the order in which a collection before has met it, in a list from its end: so the
    # connection comes first.
    order = list[Any](opened())
    gc.collect()
    store = order[0]
    vars(store)["itself"] = store
    ended = weakref.ref(store)
    order.clear()
    del store
    gc.collect()
    assert ended() is None


GONE = "was deleted, moved or replaced while in use"


def test_a_sync_client_whose_file_was_taken_away_says_so_until_it_is_back(tmp_path: Path) -> None:
    file, elsewhere = tmp_path / "messages.db", tmp_path / "elsewhere.db"
    with sync.open_client(f"sqlite:///{file}") as client:
        client.publish("orders", 1)
        file.rename(elsewhere)
        with pytest.raises(BrokerError, match=GONE):
            client.publish("orders", 2)
        elsewhere.rename(file)
        client.publish("orders", 3)
        assert run(client.broker.backlog("orders")) == 2


def test_an_asyncio_client_whose_file_was_taken_away_says_so_until_it_is_back(tmp_path: Path) -> None:
    file, elsewhere = tmp_path / "messages.db", tmp_path / "elsewhere.db"

    async def main() -> None:
        async with aio.open_client(f"sqlite:///{file}") as client:
            await client.publish("orders", 1)
            file.rename(elsewhere)
            with pytest.raises(BrokerError, match=GONE):
                await client.publish("orders", 2)
            elsewhere.rename(file)
            await client.publish("orders", 3)
            assert await client.broker.backlog("orders") == 2

    run_asyncio(main)


def test_a_closed_asyncio_client_says_so(url: str) -> None:
    async def main() -> None:
        async with aio.open_client(url) as client:
            await client.ref(Calculator).tell(Square(1))
        calculator = client.ref(Calculator)
        for call in (calculator.tell(Square(1)), calculator.ask(Square(1)), client.run("one").result()):
            with pytest.raises(BrokerError, match=r"this client of .* is closed"):
                await call

    run_asyncio(main)


def test_an_asyncio_client_on_trio_says_what_to_use(url: str) -> None:
    async def main() -> None:
        with pytest.raises(NotRunning, match=r"runs on asyncio.* use actorwork\.open_client on Trio"):
            async with aio.open_client(url):
                pass

    trio.run(main)


def test_a_sync_client_gives_up_on_a_server_that_stays_away() -> None:
    began = time.monotonic()
    with pytest.raises(BrokerError, match=r"gave up after 0\.3 s"):
        sync.open_client("redis://127.0.0.1:1", patience=0.3)
    assert time.monotonic() - began < 2 + BUSY


def test_a_sync_client_that_waits_for_a_server_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BrokerError):
        sync.open_client("redis://127.0.0.1:1", patience=0.05)
    assert "no connection to the broker (cannot connect to redis://127.0.0.1:1" in caplog.text
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == 1


def test_an_asyncio_client_that_waits_for_a_server_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def open_it() -> None:
        async with aio.open_client("redis://127.0.0.1:1"):
            pass

    async def main() -> None:
        opening = asyncio.create_task(open_it())
        while "no connection to the broker (cannot connect to redis://127.0.0.1:1" not in caplog.text:
            assert not opening.done()
            await asyncio.sleep(0.01)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    run_asyncio(main)
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == 1


def behind(error: BaseException | None) -> list[type[BaseException]]:
    """Return the types of an error and of all that a traceback shows before it."""
    found: list[type[BaseException]] = []
    while error is not None:
        found.append(type(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


@pytest.mark.parametrize("call", ["open", "tell", "ask"])
def test_an_interrupt_of_a_sync_client_that_waits_for_a_server_is_shown_alone(
    call: str, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sync.open_client(own_server.url) as client:
        calculator = client.ref(Calculator)
        with pytest.raises(AskTimeout):
            calculator.ask(Square(1), timeout=0.01)
        own_server.kill()

        def interrupted(_: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("actorwork.blocking.redis.time.sleep", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            if call == "open":
                sync.open_client(own_server.url)
            elif call == "tell":
                calculator.tell(Square(1))
            else:
                calculator.ask(Square(1), timeout=PATIENCE)
        assert behind(caught.value) == [KeyboardInterrupt]


def test_the_end_of_a_wait_for_a_server_on_asyncio_is_shown_without_what_it_waited_for() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.1), aio.open_client("redis://127.0.0.1:1"):
                pass
        assert behind(caught.value) == [TimeoutError, asyncio.CancelledError]

    run_asyncio(main)


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with open_redis_server() as server:
        yield server


def test_a_sync_client_goes_on_after_the_server_has_restarted(own_server: RedisServer) -> None:
    with sync.open_client(own_server.url) as client:
        client.publish("orders", 1)
        own_server.kill()
        began = time.monotonic()
        with pytest.raises(AskTimeout):
            client.ref(Calculator).ask(Square(1), timeout=0.2)
        assert time.monotonic() - began < 2 + BUSY
        own_server.start()
        client.publish("orders", 2)
        assert client.run("none").status() is Status.UNKNOWN


def test_a_sync_client_that_loses_a_connection_while_it_subscribes_tries_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, lost = BlockingConnection.send, list[bytes]()

    def send_or_lose(self: BlockingConnection, data: bytes) -> None:
        if b"SUBSCRIBE" in data and len(lost) < 2:
            lost.append(data)
            raise OSError("the server is restarting")
        send(self, data)

    monkeypatch.setattr(BlockingConnection, "send", send_or_lose)
    with node(redis_url), sync.open_client(redis_url) as client:
        assert client.ref(Calculator).ask(Square(3), timeout=PATIENCE) == 9
    assert len(lost) == 2


def test_an_ask_without_the_right_to_subscribe_is_an_error_of_the_broker(own_server: RedisServer) -> None:
    async def on_asyncio() -> None:
        async with aio.open_client(own_server.url) as client:
            with pytest.raises(BrokerError, match=r"cannot wait for replies: .*permissions to run the 'subscribe'"):
                await client.ref(Calculator).ask(Square(1), timeout=PATIENCE)

    async def on_trio() -> None:
        async with actorwork.open_client(own_server.url) as client:
            with pytest.raises(BrokerError, match=r"cannot wait for replies: .*permissions to run the 'subscribe'"):
                await client.ref(Calculator).ask(Square(1), timeout=PATIENCE)

    with sync.open_client(own_server.url) as client:
        admin = BlockingRedis(Address.parse(own_server.url), Deadlines(), 5, lambda _: None)
        run(admin.call("ACL", "SETUSER", "default", "-subscribe"))
        admin.close()
        with pytest.raises(BrokerError, match=r"cannot wait for replies: .*permissions to run the 'subscribe'"):
            client.ref(Calculator).ask(Square(1), timeout=PATIENCE)
    run_asyncio(on_asyncio)
    trio.run(on_trio)


# ---- asyncio ----


def test_an_asyncio_client_sends_asks_and_finds_results(at_work: str) -> None:
    async def main() -> None:
        async with aio.open_client(at_work) as client:
            calculator = client.ref(Calculator)
            assert await calculator.ask(Square(3), timeout=PATIENCE) == 9
            await calculator.tell_many([Square(1), Square(2)])
            receipt = await calculator.submit(Square(5))
            assert await receipt.result(timeout=PATIENCE) == 25
            assert await receipt.status() == "SUCCESS"
            await client.tell(double, 1)
            assert await client.call(double, 4) == await (await client.submit(double, number=4)).result() == 8
            with pytest.raises(MessageFailed, match="3 is odd"):
                await calculator.ask(Flaky(3), timeout=PATIENCE)
            numbers = await asyncio.gather(*(calculator.ask(Square(number)) for number in range(200)))
            assert numbers == [number**2 for number in range(200)]

    run_asyncio(main)


def test_an_asyncio_client_runs_workflows(at_work: str) -> None:
    async def main() -> None:
        async with aio.open_client(at_work) as client:
            run = await client.start(chord([step(Calculator, Square(n)) for n in (1, 2, 3)], Calculator, Sum))
            async with run.watch() as updates:
                assert [info.status async for info in updates][-1] is Status.SUCCESS
            assert await run.result() == 14

    run_asyncio(main)


def test_a_wait_of_an_asyncio_client_ends_with_its_task_and_what_it_waited_for_goes_on(at_work: str) -> None:
    async def main() -> None:
        async with aio.open_client(at_work) as client:
            run = await client.start(step(Calculator, Square(signal("go", int).result)))
            # So a route of a web application ends whose browser has gone away.
            for wait in (client.ref("nobody").ask({}), run.result()):
                waiting = asyncio.create_task(wait)
                await asyncio.sleep(0.05)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            assert await run.signal("go", 1)
            assert await run.result() == 1
            assert await client.ref(Calculator).ask(Square(6), timeout=PATIENCE) == 36
            began = time.monotonic()
            with pytest.raises(AskTimeout):
                await client.ref("nobody").ask({}, timeout=0.2)
            assert time.monotonic() - began < 2 + BUSY
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.ref("nobody").ask({}, timeout=PATIENCE)

    run_asyncio(main)


def test_an_asyncio_client_of_an_earlier_loop_says_so_and_has_left_nothing_open(url: str) -> None:
    async def open_one() -> Client:
        async with aio.open_client(url) as client:
            await client.ref(Calculator).tell(Square(1))
            return client

    never_left = AsyncExitStack()

    async def open_one_for_ever() -> Client:
        client = await never_left.enter_async_context(aio.open_client(url))
        await client.ref(Calculator).tell(Square(1))
        return client

    async def use(client: Client) -> None:
        calculator = client.ref(Calculator)
        for call in (calculator.tell(Square(1)), calculator.ask(Square(1)), client.run("one").result()):
            with pytest.raises(NotRunning, match=r"belongs to another event loop.*open one in each loop.*open_client"):
                await call

    first = run_asyncio(open_one)
    before = set(Path("/proc/self/fd").iterdir())
    for client in (first, run_asyncio(open_one_for_ever)):
        run_asyncio(lambda client=client: use(client))
        run_asyncio(open_one)
        assert set(Path("/proc/self/fd").iterdir()) <= before


@pytest.mark.skipif(uvloop is None, reason="uvloop is for CPython on POSIX")
def test_an_asyncio_client_works_on_uvloop(at_work: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(25), aio.open_client(at_work) as client:
            calculator = client.ref(Calculator)
            assert await asyncio.gather(*(calculator.ask(Square(n)) for n in range(50))) == [n**2 for n in range(50)]
            assert await (await calculator.submit(Square(5))).result() == 25
            assert await (await client.start(step(Calculator, Square(6)))).result() == 36
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.ref("nobody").ask({})
            async with client.lock("door"):
                assert await calculator.ask(Square(7)) == 49

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_an_asyncio_client_goes_on_after_the_server_has_restarted(
    own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def main() -> None:
        async with aio.open_client(own_server.url) as client:
            await client.publish("orders", 1)
            own_server.kill()
            sending = [asyncio.create_task(client.publish("orders", number)) for number in range(20)]
            while "no connection to the broker" not in caplog.text:  # noqa: ASYNC110 - a log sets no event
                await asyncio.sleep(0.01)
            own_server.start()
            ids = await asyncio.gather(*sending)
            assert len(set(ids)) == 20

    run_asyncio(main)
    lines = [one.getMessage() for one in caplog.records if one.name.startswith("actorwork")]
    lines = [line for line in lines if "append-only" not in line]
    assert [line.split(" (")[0] for line in lines[:1]] == ["no connection to the broker"]
    assert f"connected to the broker at {own_server.url}" in lines[-1]


@pytest.mark.parametrize("way", [RedisServer.kill, RedisServer.pause])
def test_an_asyncio_client_stops_to_wait_in_time_though_the_server_is_away(
    way: Callable[[RedisServer], None], own_server: RedisServer
) -> None:
    async def main() -> None:
        async with aio.open_client(own_server.url) as client:
            run = await client.start(step("nobody", {}))
            receipt = await client.ref("nobody").submit({})
            waits = [asyncio.create_task(one.result(timeout=1)) for one in (run, receipt)]
            await until_watched(client, len(waits))
            way(own_server)
            for one in waits:
                with pytest.raises(AskTimeout):
                    await one
            own_server.kill()

    run_asyncio(main)


async def until_watched(client: Client, count: int) -> None:
    """Wait until the tasks of an asyncio client watch so many messages and runs."""
    driver: Any = client._sender.driver
    while driver._changes is None or len(driver._changes.watches) < count:  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(0.01)


# ---- the same for all ----


async def wait_for_ends(client: Client) -> list[Callable[[], Any]]:
    """Return waits that nothing ends, each of another kind."""
    run = await client.start(step("nobody", {}))
    receipt = await client.ref("nobody").submit({})

    async def watch(one: Any) -> None:
        async with one.watch() as updates:
            async for _ in updates:
                pass

    return [
        lambda: run.result(timeout=PATIENCE),
        lambda: receipt.result(timeout=PATIENCE),
        lambda: watch(run),
        lambda: watch(receipt),
    ]


@pytest.mark.parametrize("which", range(4))
def test_who_still_waits_when_its_asyncio_client_ends_gets_an_error_at_once(which: int, url: str) -> None:
    async def main() -> None:
        async with aio.open_client(url) as client:
            waits = await wait_for_ends(client)
            waiting = asyncio.create_task(waits[which]())
            await until_watched(client, 1)
        with pytest.raises(BrokerError, match="is closed"):
            await waiting

    run_asyncio(main)


def test_who_still_waits_for_a_reply_when_its_asyncio_client_ends_gets_an_error_at_once(url: str) -> None:
    async def main() -> None:
        async with aio.open_client(url) as client:
            waiting = asyncio.create_task(client.ref("nobody").ask({}, timeout=PATIENCE))
            source = client.ref("nobody").source
            # What is asked after the message has its answer later.
            while not await client.broker.backlog(source):  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.01)
        with pytest.raises(BrokerError, match="is closed"):
            await waiting

    run_asyncio(main)


@pytest.mark.parametrize("which", range(4))
def test_who_still_waits_when_its_trio_client_ends_gets_an_error_at_once(which: int, url: str) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery, actorwork.open_client(url) as client:
            waits = await wait_for_ends(client)

            async def wait() -> None:
                with pytest.raises(NotRunning, match="is closed"):
                    await waits[which]()

            nursery.start_soon(wait)
            driver: Any = client._sender.driver
            while driver._changes is None or not driver._changes._waits:  # noqa: ASYNC110 - no event says so
                await trio.sleep(0.01)

    trio.run(main)


@pytest.mark.parametrize("kind", [pytest.param("sqlite", marks=pytest.mark.long), "redis"])
def test_waits_in_vain_end_in_time_and_leave_no_subscription(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: RedisServer | None = request.getfixturevalue("own_server") if kind == "redis" else None
    url = f"sqlite:///{tmp_path / 'messages.db'}" if server is None else server.url
    waits: list[Callable[[Any, float], Any]] = [
        lambda client, timeout: client.ref("nobody").ask({}, timeout=timeout),
        lambda client, timeout: client.ref("nobody").receipt("submitted").result(timeout=timeout),
        lambda client, timeout: client.run("waits").result(timeout=timeout),
    ]

    async def wait(client: Client) -> None:
        await client.start(step("nobody", {}), id="waits")
        await client.ref("nobody").submit({}, id="submitted")
        for one in waits:
            began = time.monotonic()
            with pytest.raises(AskTimeout):
                await one(client, 0.05)
            assert 0.045 < time.monotonic() - began < 0.5 + BUSY
        before = channels()
        for one in waits * 3:
            with pytest.raises(AskTimeout):
                await one(client, 0.01)
        assert left_by(before) <= before

    async def on_trio() -> None:
        async with actorwork.open_client(url) as client:
            await wait(client)

    async def on_asyncio() -> None:
        async with aio.open_client(url) as client:
            await wait(client)

    admin: Any = None if server is None else cast("Any", redis.Redis).from_url(server.url, socket_timeout=None)

    def channels() -> set[bytes]:
        """Return what somebody is subscribed to; at a file nobody can be."""
        return set() if admin is None else set(admin.pubsub_channels())

    def left_by(before: set[bytes]) -> set[bytes]:
        """Return it once it is no more than before: the server notices an end when it reads from the connection."""
        give_up = time.monotonic() + 10
        while not (left := channels()) <= before and time.monotonic() < give_up:
            time.sleep(0.01)
        return left

    trio.run(on_trio)
    run_asyncio(on_asyncio)
    with sync.open_client(url) as client:
        for one in waits:
            began = time.monotonic()
            with pytest.raises(AskTimeout):
                one(client, 0.05)
            assert 0.045 < time.monotonic() - began < 0.5 + BUSY
    del client
    gc.collect()
    assert left_by(set()) == set()
    if admin is not None:
        admin.close()


def test_middleware_processes_every_message(url: str) -> None:
    seen: list[str] = []

    def note(envelope: Envelope) -> Envelope:
        seen.append(envelope.source)
        return envelope

    with sync.open_client(url, middleware=[note]) as client:
        client.publish("orders", 1)

    async def main() -> None:
        async with aio.open_client(url, middleware=[note]) as client:
            await client.publish("bills", 1)

    run_asyncio(main)
    assert seen == ["orders", "bills"]
    with pytest.raises(actorwork.SettingsError):
        sync.open_client(url, middleware=[3])  # type: ignore[list-item]


def test_a_broker_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(BrokerError):
        sync.open_client("amqp://localhost")

    async def main() -> None:
        async with aio.open_client("amqp://localhost"):
            pass

    with pytest.raises(BrokerError):
        run_asyncio(main)


@pytest.mark.parametrize("given", [6379, b"redis://:secret@localhost", Path("messages.db")])
def test_what_is_no_url_is_refused_by_its_type(given: Any) -> None:
    async def on_asyncio() -> None:
        async with aio.open_client(given):
            pass

    async def on_trio() -> None:
        async with actorwork.open_client(given):
            pass

    for use in (partial(sync.open_client, given), partial(asyncio.run, on_asyncio()), partial(trio.run, on_trio)):
        with pytest.raises(BrokerError, match=f"a broker is named by a URL, a str.* got {type(given).__name__}"):
            use()


def test_every_client_refuses_a_server_that_loses_messages_in_the_same_words() -> None:
    async def on_trio(url: str) -> None:
        async with actorwork.open_client(url):
            pass

    async def on_asyncio(url: str) -> None:
        async with aio.open_client(url):
            pass

    said: list[str] = []
    with open_redis_server(config={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as server:
        for attempt in (
            lambda: trio.run(on_trio, server.url),
            lambda: run_asyncio(lambda: on_asyncio(server.url)),
            lambda: sync.open_client(server.url),
        ):
            with pytest.raises(BrokerError, match="CONFIG SET maxmemory-policy noeviction") as caught:
                attempt()
            said.append(str(caught.value))
    assert len(set(said)) == 1, said


def test_clients_pass_on_advice_about_the_server(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []

    def sink(_: str) -> Callable[[object], None]:
        return events.append

    for module in ("blocking", "asynchronous"):
        monkeypatch.setattr(f"actorwork.{module}.opening.LogSink", sink)

    async def on_asyncio() -> None:
        async with aio.open_client(redis_url):
            pass

    sync.open_client(redis_url).close()
    run_asyncio(on_asyncio)
    assert [event.subject for event in events if isinstance(event, BrokerAdvice)] == ["durability", "durability"]
