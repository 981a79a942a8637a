"""From a sender to a settlement, in real time, at the embedded broker."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actorwork import (
    Actor,
    Child,
    Fail,
    Intensity,
    MaxRestartsExceeded,
    MessageFailed,
    Reject,
    Retry,
    RetryPolicy,
    Settings,
    events,
    open_client,
    open_system,
    receive,
)
from actorwork.policy.backoffs import Fixed
from actorwork.policy.settlement import Ack
from actorwork.settings import EventSettings
from tests.doubles import Kept
from tests.patience import PATIENCE


@attrs.frozen
class Add:
    a: int
    b: int


class Calculator(Actor):
    settings = Settings(
        title="calculator",
        sources={"sums"},
        retry=RetryPolicy(attempts=3, backoff=Fixed(seconds=0.01)),
        execution_timeout=0.3,
    )

    def __init__(self, said: list[object] | None = None) -> None:
        self.said = said if said is not None else []

    @receive
    async def add(self, message: Add) -> int:
        return message.a + message.b

    @receive
    async def do(self, *, what: str) -> object:
        self.said.append((what, self.context.delivery.attempt))
        match what:
            case "raise":
                raise ValueError("boom \ud800")
            case "reject":
                raise Reject("no")
            case "fail":
                raise Fail("never")
            case "exit":
                raise SystemExit(1)
            case "hang":
                await trio.sleep_forever()
            case "later":
                if self.context.delivery.attempt == 1:
                    raise Retry(0.01)
            case _:
                pass
        return what


async def eventually(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in a list, or at the broker
        await trio.sleep(0.005)


async def test_an_answer_comes_back():
    async with open_system(Calculator, broker="sqlite://") as system, open_client(system.broker) as client:
        assert await client.ref(Calculator).ask(Add(2, 3), timeout=PATIENCE) == 5
        assert await client.ref(Calculator).ask({"what": "echo"}, timeout=PATIENCE) == "echo"
        assert await system.ref(Calculator).ask(Add(2, 3)) == 5


@pytest.mark.parametrize(
    ("what", "attempts", "letter"),
    [
        ("raise", 3, "ValueError"),
        ("fail", 1, "Fail"),
        ("exit", 1, "SystemExit"),
        ("hang", 3, "ExecutionTimeout"),
        ("reject", 1, None),
        ("later", 2, None),
    ],
)
async def test_each_end_of_a_delivery_reaches_the_store(what: str, attempts: int, letter: str | None):
    said: list[object] = []
    kept = Kept()
    tree = Child(partial(Calculator, said))
    async with open_system(tree, broker="sqlite://", emit=kept) as system, open_client(system.broker) as client:
        await client.ref(Calculator).tell({"what": what})
        await eventually(lambda: len(kept.of(events.Settled)) == attempts)
        await eventually(lambda: system.statistics()["settled"] == attempts)
        letters = await system.broker.dead_letters.list()
        assert await system.broker.backlog(Calculator.settings.default_source) == 0
    assert said == [(what, attempt) for attempt in range(1, attempts + 1)]
    assert [entry.failure.type for entry in letters] == ([letter] if letter else [])
    assert len(kept.of(events.ActorStarted)) == 1


async def test_the_asker_gets_the_failure():
    async with open_system(Calculator, broker="sqlite://") as system, open_client(system.broker) as client:
        with pytest.raises(MessageFailed, match="never") as caught:
            await client.ref(Calculator).ask({"what": "fail"}, timeout=PATIENCE)
        assert caught.value.type == "Fail"


async def test_what_many_senders_send_is_all_handled_once():
    seen: list[int] = []

    class Gatherer(Actor):
        settings = Settings(title="gatherer", concurrency=50)

        @receive
        async def take(self, *, n: int) -> None:
            await trio.sleep(0.001 * (n % 3))
            seen.append(n)

    async with open_system(Gatherer, broker="sqlite://") as system, open_client(system.broker) as client:

        async def send(start: int) -> None:
            await client.ref(Gatherer).tell_many([{"n": n} for n in range(start, start + 200)])

        async with trio.open_nursery() as nursery:
            for start in range(0, 2000, 200):
                nursery.start_soon(send, start)
        await eventually(lambda: len(seen) >= 2000)
        await eventually(lambda: system.statistics()["settled"] == 2000)
        assert await system.broker.backlog(Gatherer.settings.default_source) == 0
    assert sorted(seen) == list(range(2000))


async def test_more_than_a_batch_is_published_by_one_delivery():
    seen: list[int] = []

    class Splitter(Actor):
        settings = Settings(
            title="splitter", event_settings=EventSettings(max_batch_size=100, max_events_in_memory=150)
        )

        @receive
        async def split(self, *, count: int) -> None:
            for n in range(count):
                self.context.publish("parts", {"n": n})

    class Parts(Actor):
        settings = Settings(title="parts", sources={"parts"})

        @receive
        async def take(self, *, n: int) -> None:
            seen.append(n)

    async with open_system([Splitter, Parts], broker="sqlite://") as system, open_client(system.broker) as client:
        await client.ref(Splitter).tell({"count": 1234})
        await eventually(lambda: len(seen) >= 1234)
    assert seen == list(range(1234))


async def test_a_stop_in_the_middle_loses_nothing(tmp_path: Path):
    broker = f"sqlite:///{tmp_path}/messages.sqlite3"
    permits = trio.Semaphore(0)
    done: list[int] = []

    class Slow(Actor):
        settings = Settings(title="slow", concurrency=5)

        @receive
        async def take(self, *, n: int) -> None:
            await permits.acquire()
            done.append(n)

    async with open_client(broker) as client:
        await client.ref(Slow).tell_many([{"n": n} for n in range(300)])
    for share in (50, 150, 290):
        async with open_system(Slow, broker=broker, emit=(kept := Kept())) as system:
            for _ in range(share - len(done)):
                permits.release()
            await eventually(lambda share=share: len(done) == share)
            await eventually(lambda: permits.statistics().tasks_waiting == 5)
            system.stop()
            await eventually(lambda kept=kept: kept.of(events.ShutdownStage))
            for _ in range(5):
                permits.release()
            await system.wait_stopped()
            assert len(done) == share + 5, "what is running is finished; what waits is handed back, not worked off"
    async with open_system(Slow, broker=broker):
        for _ in range(300 - len(done)):
            permits.release()
        await eventually(lambda: len(done) >= 300)
    assert sorted(done) == list(range(300)), "each once, and none is missing"


async def test_a_hurried_stop_releases_the_messages_in_flight(tmp_path: Path):
    broker = f"sqlite:///{tmp_path}/messages.sqlite3"
    hang = True
    done = trio.Event()
    begun = trio.Event()
    attempts: list[int] = []

    class Slow(Actor):
        settings = Settings(title="slow")

        @receive
        async def take(self, *, n: int) -> None:
            attempts.append(self.context.delivery.attempt)
            begun.set()
            if hang:
                await trio.sleep_forever()
            done.set()

    async with open_client(broker) as client:
        await client.ref(Slow).tell({"n": 1})
    async with open_system(Slow, broker=broker) as system:
        await begun.wait()
        system.stop()
        system.stop()
    assert system.forced
    hang = False
    async with open_system(Slow, broker=broker):
        with trio.fail_after(PATIENCE):
            await done.wait()
    assert attempts == [1, 1], "an attempt that was handed back does not count"


async def test_a_crash_leaves_no_delivery_behind(tmp_path: Path):
    broken = True
    handled: list[int] = []
    begun = trio.Event()

    class Fragile(Actor):
        settings = Settings(title="fragile")

        async def startup(self) -> None:
            if broken:
                self.context.nursery.start_soon(self.boom)

        async def boom(self) -> None:
            await begun.wait()
            raise OSError("helper")

        @receive
        async def take(self, *, n: int) -> None:
            begun.set()
            await trio.sleep(0.01)
            handled.append(n)

    broker = f"sqlite:///{tmp_path}/messages.sqlite3"
    async with open_client(broker) as client:
        await client.ref(Fragile).tell_many([{"n": n} for n in range(20)])
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with open_system(Fragile, broker=broker, intensity=Intensity(restarts=2, period=60)):
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, OSError)
    broken = False
    async with open_system(Fragile, broker=broker):
        await eventually(lambda: len(handled) >= 20)
    assert sorted(handled) == list(range(20))


async def test_a_thread_handler_works_beside_the_loop():
    names: list[str] = []
    kept = Kept()

    class Threaded(Actor):
        settings = Settings(title="threaded", concurrency=4)

        def __init__(self) -> None:
            self.together = threading.Barrier(4, timeout=PATIENCE)

        @receive
        def take(self, *, n: int) -> None:
            self.together.wait()
            names.append(threading.current_thread().name)

    async with open_system(Threaded, broker="sqlite://", emit=kept) as system, open_client(system.broker) as client:
        await client.ref(Threaded).tell_many([{"n": n} for n in range(4)])
        await eventually(lambda: len(kept.of(events.Settled)) == 4)
    assert all(event.settlement == Ack() for event in kept.of(events.Settled))
    assert len(set(names)) == 4
