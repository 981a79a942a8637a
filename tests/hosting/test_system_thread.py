"""Actors inside programs that do not run Trio: the system has a thread of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio

from actorwork import (
    Actor,
    ActorStopped,
    BrokerError,
    Child,
    Intensity,
    MaxRestartsExceeded,
    Message,
    NotRunning,
    Settings,
    SettingsError,
    StartError,
    System,
    SystemThread,
    receive,
)
from actorwork.hosting import thread
from tests.patience import PATIENCE

BEGUN = threading.Event()
RELEASED = threading.Event()
HANDLED: list[object] = []


@attrs.frozen
class Double(Message["Worker", int]):
    number: int


@attrs.frozen
class Take(Message["Worker", None]):
    seconds: float


@attrs.frozen
class Block(Message["Worker", None]):
    """Blocks the loop."""


@attrs.frozen
class Interrupt(Message["Worker", None]):
    process: int


class Worker(Actor):
    settings = Settings(title="worker", sources={"works"})

    @receive
    async def double(self, message: Double) -> int:
        return 2 * message.number

    @receive
    async def take(self, message: Take) -> None:
        BEGUN.set()
        await trio.sleep(message.seconds)
        HANDLED.append(message.seconds)

    @receive
    async def block(self, message: Block) -> None:
        BEGUN.set()
        RELEASED.wait(60)

    @receive
    async def interrupt(self, message: Interrupt) -> None:
        os.kill(message.process, signal.SIGINT)


class Brittle(Actor):
    settings = Settings(title="brittle")

    @receive
    async def crash(self, message: str) -> None:
        raise ValueError(message)


class NeverUp(Actor):
    settings = Settings(title="never-up")

    @receive
    async def take(self, message: str) -> None: ...

    async def startup(self) -> None:
        raise ValueError("no disk")


def _system_threads() -> set[threading.Thread]:
    """Return the threads of systems; a fixture of the session, of another room, may have one."""
    return {one for one in threading.enumerate() if one.name == "actorwork system"}


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    BEGUN.clear()
    RELEASED.clear()
    HANDLED.clear()
    before = _system_threads()
    yield
    RELEASED.set()
    assert _system_threads() <= before


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'messages.db'}"


def brittle() -> list[object]:
    return [Child(Brittle, reads=False)]


async def crash(system: System) -> None:
    await system.ref(Brittle).tell("worn out")


# ---- without an event loop ----


def test_a_program_without_an_event_loop_hosts_actors(url: str) -> None:
    with SystemThread([Worker], broker=url) as system:
        assert system.client.ref(Worker).ask(Double(4), timeout=PATIENCE) == 8
        assert system.client is system.client
        assert not system.wait(timeout=0)
    with pytest.raises(NotRunning, match="not started"):
        _ = system.client


def test_a_system_thread_may_be_started_and_stopped_again(url: str) -> None:
    system = SystemThread([Worker], broker=url)
    for _ in range(2):
        system.start(timeout=PATIENCE)
        with pytest.raises(NotRunning, match="started already"):
            system.start()
        assert system.client.ref(Worker).ask(Double(4), timeout=PATIENCE) == 8
        system.stop()
    system.stop()


def test_a_program_calls_a_function_in_the_thread_of_its_system() -> None:
    async def ask(system: System, number: int) -> tuple[int, str]:
        return await system.ref(Worker).ask(Double(number)), threading.current_thread().name

    async def fail(_: System) -> None:
        raise LookupError("nothing here")

    with SystemThread([Child(Worker, reads=False)]) as system:
        assert system.call(ask, 3) == (6, "actorwork system")
        with pytest.raises(LookupError, match="nothing here"):
            system.call(fail)
        with pytest.raises(NotRunning, match="no broker feeds an actor of this tree"):
            _ = system.client


def test_a_broker_in_memory_is_reached_in_the_thread_alone() -> None:
    with (
        SystemThread([Worker], broker="sqlite://") as system,
        pytest.raises(BrokerError, match="keeps its messages in memory"),
    ):
        _ = system.client


def test_errors_of_the_start_are_raised_in_the_caller(url: str) -> None:
    with pytest.raises(TypeError, match=r"SystemThread\(\) got an unexpected keyword argument 'leese'"):
        SystemThread([Worker], leese=3)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    with pytest.raises(SettingsError):
        SystemThread([Worker], lease=0)
    with pytest.raises(SettingsError, match="name it by its URL"):
        SystemThread([Worker], broker=cast("Any", SimpleNamespace(url=url)))
    with pytest.raises(StartError) as caught, SystemThread([NeverUp], broker=url):
        pass
    assert str(caught.value.__cause__) == "no disk"
    with pytest.raises(BrokerError), SystemThread([Worker], broker="sqlite:////nowhere/messages.db"):
        pass


def test_a_start_that_takes_too_long_is_given_up() -> None:
    system = SystemThread([Worker], broker="redis://127.0.0.1:1")
    with pytest.raises(TimeoutError, match="did not start"):
        system.start(timeout=0.05)


def test_the_end_of_the_block_lets_handlers_finish(url: str) -> None:
    with SystemThread([Worker], broker=url) as system:
        system.client.ref(Worker).tell(Take(0.1))
        assert BEGUN.wait(60)
    assert HANDLED == [0.1]


def test_a_blocked_handler_does_not_hold_the_program_for_ever(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorwork.hosting.system_thread.MARGIN", 0.05)
    before = _system_threads()
    system = SystemThread([Worker], broker=url, loop_stall=float("inf"))
    system.start()
    system.client.ref(Worker).tell(Block())
    assert BEGUN.wait(60)
    with pytest.raises(TimeoutError, match="a handler blocks its thread"):
        system.stop(timeout=0.05)
    RELEASED.set()
    for one in _system_threads() - before:
        one.join(60)


def test_a_crash_of_the_system_reaches_its_host(caplog: pytest.LogCaptureFixture) -> None:
    told: list[BaseException] = []
    system = SystemThread(brittle(), intensity=Intensity(restarts=0), broker="sqlite://", on_failure=told.append)
    with pytest.raises(MaxRestartsExceeded) as caught, system:
        system.call(crash)
        with pytest.raises(MaxRestartsExceeded):
            system.wait(timeout=PATIENCE)
        with pytest.raises(NotRunning, match="has ended") as ended:
            _ = system.client
        assert isinstance(ended.value.__cause__, MaxRestartsExceeded)
        with pytest.raises(ActorStopped, match="the system has ended"):
            system.call(crash)
    assert told == [caught.value]
    assert "the system in a thread of this program has ended: MaxRestartsExceeded" in caplog.text


def test_an_error_of_the_block_goes_before_that_of_the_system() -> None:
    with pytest.raises(LookupError), SystemThread(brittle(), intensity=Intensity(restarts=0)) as system:
        system.call(crash)
        with pytest.raises(MaxRestartsExceeded):
            system.wait(timeout=PATIENCE)
        raise LookupError("of the block")


def test_an_interrupt_ends_the_system_in_order(url: str) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), SystemThread([Worker], broker=url) as system:
            system.client.ref(Worker).tell(Interrupt(os.getpid()))
            system.wait()
    finally:
        signal.signal(signal.SIGINT, before)


FORKING = """
import faulthandler, os, signal, sys, time
from actorwork import NotRunning, SystemThread
from tests.hosting.test_system_thread import BEGUN, Take, Worker

faulthandler.register(signal.SIGALRM, chain=True)  # What hangs says where, and ends.
signal.alarm(100)
system = SystemThread([Worker], broker=sys.argv[1])
system.start()
receipt = system.client.ref(Worker).submit(Take(0.2))
assert BEGUN.wait(60)
if not (child := os.fork()):
    signal.alarm(60)
    for use in (lambda: system.client, system.start, system.stop, system.wait):
        try:
            use()
        except NotRunning as error:
            assert str(os.getppid()) in str(error), error
        else:
            sys.exit("not refused")
    sys.exit()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(receipt.id)
"""


def test_a_fork_has_no_system_and_a_program_that_never_stops_its_own_ends_in_order(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, url], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    with SystemThread([Worker], broker=url) as system:
        # Settled by the first one, which did not leave it to the end of its lease of 10 s.
        assert system.client.ref(Worker).receipt(done.stdout.strip()).result(timeout=PATIENCE) is None


@pytest.mark.parametrize(
    ("module", "library", "why"),
    [
        ("uwsgi", SimpleNamespace(opt={"enable-threads": b"0"}), "--enable-threads"),
        ("gevent.monkey", SimpleNamespace(is_module_patched={"threading"}.__contains__), "gevent has replaced them"),
        ("eventlet.patcher", SimpleNamespace(is_monkey_patched={"thread"}.__contains__), "eventlet has replaced them"),
    ],
)
def test_a_system_is_refused_where_threads_are_off(
    module: str, library: object, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, library)
    with pytest.raises(NotRunning, match=why):
        SystemThread([Worker]).start()


@pytest.mark.parametrize("options", [{"enable-threads": True}, {"threads": b"4"}, {"enable-threads": b"1"}])
def test_a_system_runs_under_a_uwsgi_with_threads(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt=options))
    thread.refuse_without_threads()


def test_a_thread_that_never_runs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread, "COMES_UP", 0.01)

    def start(_: threading.Thread) -> None: ...

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(NotRunning, match="are threads switched off"):
        SystemThread([Worker]).start()


async def test_a_trio_program_needs_no_thread() -> None:
    with pytest.raises(NotRunning, match="open_system"):
        SystemThread([Worker]).start()
    with pytest.raises(NotRunning, match="open_system"):
        async with SystemThread([Worker]):
            pass


# ---- on asyncio ----


def run_asyncio(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(25):
            return await main()

    return asyncio.run(bounded())


def test_an_asyncio_program_hosts_actors(url: str) -> None:
    async def tell(system: System) -> int:
        return await system.ref(Worker).ask(Double(5))

    async def main() -> None:
        async with SystemThread([Worker], broker=url) as system:
            replies = [system.client.ref(Worker).ask(Double(number), timeout=PATIENCE) for number in range(3)]
            assert await asyncio.gather(*replies) == [0, 2, 4]
            assert await system.call(tell) == 10
        with pytest.raises(NotRunning):
            _ = system.client

    run_asyncio(main)


def test_a_crash_of_the_system_cancels_the_block_of_an_asyncio_program_and_is_raised() -> None:
    async def main() -> None:
        with pytest.raises(MaxRestartsExceeded):
            async with SystemThread(brittle(), intensity=Intensity(restarts=0)) as system:
                await system.call(crash)
                await asyncio.sleep(20)
        # It was the block that was cancelled, not this task.
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        await asyncio.sleep(0)

    run_asyncio(main)


def test_a_crash_that_comes_as_the_block_ends_is_raised_all_the_same() -> None:
    async def main() -> None:
        with pytest.raises(MaxRestartsExceeded):
            async with SystemThread(brittle(), intensity=Intensity(restarts=0)) as system:
                await system.call(crash)
                await asyncio.shield(system.wait())
        await asyncio.sleep(0)

    run_asyncio(main)


def test_cancelling_the_block_of_an_asyncio_program_ends_the_system_in_order(url: str) -> None:
    async def host() -> None:
        async with SystemThread([Worker], broker=url) as system:
            await system.client.ref(Worker).tell(Take(0.1))
            await asyncio.sleep(20)

    async def main() -> None:
        hosting = asyncio.create_task(host())
        assert await asyncio.to_thread(BEGUN.wait, 10)
        hosting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hosting
        assert HANDLED == [0.1]

    run_asyncio(main)


def test_a_second_cancellation_hurries_the_end(url: str) -> None:
    async def host() -> None:
        async with SystemThread([Worker], broker=url) as system:
            await system.client.ref(Worker).tell(Take(20))
            await asyncio.sleep(20)

    async def main() -> None:
        hosting = asyncio.create_task(host())
        assert await asyncio.to_thread(BEGUN.wait, 10)
        hosting.cancel()
        await asyncio.sleep(0.05)
        hosting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hosting
        assert HANDLED == []

    run_asyncio(main)


def test_a_start_that_is_cancelled_leaves_no_thread() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), SystemThread([Worker], broker="redis://127.0.0.1:1"):
                pass
        with pytest.raises(StartError):
            async with SystemThread([NeverUp], broker="sqlite://"):
                pass

    run_asyncio(main)


def test_a_call_that_is_cancelled_cancels_its_function() -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def wait(_: System) -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async def main() -> None:
        async with SystemThread([Child(Worker, reads=False)]) as system:
            waiting = asyncio.create_task(system.call(wait))
            assert await asyncio.to_thread(begun.wait, 10)
            waiting.cancel()
            assert await asyncio.to_thread(cancelled.wait, 10)
            with pytest.raises(asyncio.CancelledError):
                await waiting

    run_asyncio(main)
