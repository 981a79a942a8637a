"""The health of a running system, as its monitor serves it."""

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from actorwork import Actor, Settings, StartError, events, open_system, receive
from actorwork.abc import LeaseState
from actorwork.errors import SettingsError
from actorwork.runtime import monitoring
from actorwork.runtime.system import System
from actorwork.telemetry import health, heartbeat
from actorwork.testing.memory import MemoryBroker
from actorwork.testing.redis_server import open_redis_server
from tests.patience import PATIENCE


class Worker(Actor):
    settings = Settings(title="worker", sources={"work"})

    @receive
    async def block(self, *, watched: Any) -> None:
        block_until(watched)


class Watched:
    """Runs `look` in a thread while a handler blocks the loop: from when it does, until `look` returns."""

    def __init__(self, look: Callable[[], object]) -> None:
        # Locks have no Python frames: from the release of one to that of the other, the loop's innermost frame is that
        # of `block_until`, whichever thread runs.
        self.begun, self.ended = threading.Lock(), threading.Lock()
        self.begun.acquire()
        self.ended.acquire()
        self._look = look
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            assert self.begun.acquire(timeout=PATIENCE)
            self._look()
        finally:
            self.ended.release()

    async def block(self, system: System) -> None:
        self._thread.start()
        await system.ref(Worker).ask({"watched": self}, timeout=2 * PATIENCE)
        self._thread.join()


def block_until(watched: Watched) -> None:
    begun, ended = watched.begun, watched.ended
    begun.release()
    ended.acquire(timeout=2 * PATIENCE)


def ask(system: System, path: str) -> tuple[int, dict[str, Any]]:
    assert system.monitor is not None
    connection = HTTPConnection(system.monitor.address, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


async def asked(system: System, path: str) -> tuple[int, dict[str, Any]]:
    return await trio.to_thread.run_sync(ask, system, path)


async def statuses(system: System) -> list[int]:
    return [(await asked(system, path))[0] for path in ("/live", "/ready", "/started")]


async def monitor_has_ended() -> None:
    """Wait until its thread has ended: the system waits for it, but not for long."""
    with trio.fail_after(PATIENCE):
        while any(thread.name == "actorwork monitor" for thread in threading.enumerate()):  # noqa: ASYNC110 - as it says
            await trio.sleep(0.01)


@pytest.fixture(autouse=True)
def _ticks_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "EVERY", 0.05)


async def test_a_system_that_runs_is_live_ready_and_started():
    seen: list[events.Event] = []
    async with open_system(Worker, broker=MemoryBroker(), monitor="127.0.0.1:0", emit=seen.append) as system:
        status, answer = await asked(system, "/ready")
        assert status == 200
        assert answer["status"] == "pass"
        assert answer["node"] == system.node_id
        assert await statuses(system) == [200, 200, 200]
        for alias in ("/livez", "/readyz", "/startupz"):
            assert (await asked(system, alias))[0] == 200
        assert system.monitor is not None
        started = next(event for event in seen if isinstance(event, events.MonitorStarted))
        assert started.url == system.monitor.url
        assert started.paths[:3] == ("/live", "/ready", "/started")
        address = system.monitor.address
    await monitor_has_ended()
    with pytest.raises(OSError, match="refused"):
        HTTPConnection(address, timeout=PATIENCE).connect()


async def test_without_monitor_there_is_none():
    async with open_system(Worker, broker=MemoryBroker()) as system:
        assert system.monitor is None
        assert not [thread for thread in threading.enumerate() if thread.name == "actorwork monitor"]


async def test_a_node_shows_its_lease(redis_url: str):
    async with open_system(Worker, broker=redis_url, monitor="127.0.0.1:0", lease=5) as system:
        _, answer = await asked(system, "/live")
    assert 0 < answer["lease"]["left_seconds"] <= 5


async def test_a_node_that_starts_is_live_and_neither_ready_nor_started():
    told: list[System] = []
    may_start = trio.Event()

    class Slow(Actor):
        async def startup(self) -> None:
            await may_start.wait()

    from actorwork.runtime.system import open_announced

    async def start() -> None:
        async with open_announced(Slow, {"broker": MemoryBroker(), "monitor": "127.0.0.1:0"}, told.append) as system:
            assert await statuses(system) == [200, 200, 200]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        await trio.testing.wait_all_tasks_blocked()
        (system,) = told
        assert await statuses(system) == [200, 503, 503]
        _, answer = await asked(system, "/started")
        assert answer["problems"] == ["it has not started yet"]
        may_start.set()


async def test_a_node_that_drains_is_live_and_not_ready():
    begun, may_end = trio.Event(), trio.Event()

    class Busy(Actor):
        settings = Settings(title="busy", sources={"work"})

        @receive
        async def work(self, *, n: int) -> None:
            begun.set()
            await may_end.wait()

    async with open_system(Busy, broker=MemoryBroker(), monitor="127.0.0.1:0") as system:
        system.ref(Busy).tell_nowait({"n": 1})
        await begun.wait()
        system.drain(60, reason="SIGTERM \x1b[31m\n")
        assert await statuses(system) == [200, 503, 200]
        _, answer = await asked(system, "/ready")
        assert answer["problems"] == [r"it stops: SIGTERM \x1b[31m\n"]
        assert answer["stopping"] == r"SIGTERM \x1b[31m\n"
        may_end.set()


async def test_a_node_that_shuts_down_has_no_lease_and_is_live():
    seen: list[tuple[int, dict[str, Any]]] = []

    class Last(Actor):
        settings = Settings(title="last", sources={"work"})

        async def shutdown(self) -> None:
            seen.append(await asked(system, "/live"))

        @receive
        async def work(self, *, n: int) -> None: ...

    async with open_system(Last, broker=MemoryBroker(), monitor="127.0.0.1:0") as system:
        pass
    ((status, answer),) = seen
    assert status == 200
    assert answer["lease"] is None


def blocked(system: System, path: str, wanted: int, found: list[dict[str, Any]]) -> None:
    """Ask, in a thread, until the answer has a status."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        status, answer = ask(system, path)
        if status == wanted:
            found.append(answer)
            return
        time.sleep(0.02)


async def test_a_blocked_loop_is_live_until_its_hang_timeout_and_not_ready(monkeypatch: pytest.MonkeyPatch):
    not_ready: list[dict[str, Any]] = []
    lives: list[int] = []

    def look(system: System) -> None:
        blocked(system, "/ready", 503, not_ready)
        lives.append(ask(system, "/live")[0])

    async with open_system(Worker, broker=MemoryBroker(), monitor="127.0.0.1:0", loop_stall=60) as system:
        assert await statuses(system) == [200, 200, 200]
        monkeypatch.setattr(health, "READY_WITHIN", 0.2)
        await Watched(partial(look, system)).block(system)
        assert lives == [200]
        (answer,) = not_ready
        assert answer["loop"]["blocked_seconds"] >= 0.2
        assert answer["loop"]["at"].endswith(" in block_until")
        assert answer["problems"][0].endswith(" in block_until")
        with trio.fail_after(PATIENCE):
            while (await asked(system, "/ready"))[0] != 200:  # noqa: ASYNC110 - a thread notices it
                await trio.sleep(0.02)


async def test_a_loop_that_is_blocked_beyond_the_hang_timeout_is_not_live():
    found: list[dict[str, Any]] = []
    async with open_system(
        Worker, broker=MemoryBroker(), monitor="127.0.0.1:0", hang_timeout=0.3, loop_stall=60
    ) as system:
        await Watched(partial(blocked, system, "/live", 503, found)).block(system)
    assert "longer than the hang_timeout of 0.3 s" in found[0]["problems"][0]


@pytest.mark.parametrize("seconds", [0.5, pytest.param(20.0, marks=pytest.mark.long)])
async def test_a_loop_that_is_blocked_for_a_while_stays_live(
    seconds: float, redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(health, "READY_WITHIN", seconds / 4)
    async with open_system(Worker, broker=redis_url, monitor="127.0.0.1:0", lease=5) as system:
        lives: list[int] = []
        not_ready: list[dict[str, Any]] = []

        def look() -> None:
            until = time.monotonic() + seconds
            while not lives or time.monotonic() < until:
                lives.append(ask(system, "/live")[0])
                time.sleep(0.1)
            blocked(system, "/ready", 503, not_ready)

        await Watched(look).block(system)
        assert set(lives) == {200}
        assert not_ready[0]["lease"]["left_seconds"] > 0


async def test_time_in_which_the_process_did_not_run_does_not_count(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now[0]))
    beat = heartbeat.Heartbeat()
    beat.tick()
    now[0] += 1
    assert beat.blocked() == 1
    now[0] += 3600  # the machine sleeps
    assert beat.blocked() == 2
    beat.tick()
    now[0] += 1
    assert beat.blocked() == 3
    beat.tick()
    with trio.fail_after(PATIENCE):
        while beat.blocked():  # noqa: ASYNC110 - it is meant for threads
            await trio.sleep(0.01)
    assert beat.lag == 3602


async def test_a_lease_that_nothing_renews_ends_the_life_of_a_node(monkeypatch: pytest.MonkeyPatch):
    async with open_system(Worker, broker=MemoryBroker(), monitor="127.0.0.1:0") as system:
        node = system._engine.node
        monkeypatch.setattr(node, "lease_state", lambda: LeaseState(-7.0))
        status, answer = await asked(system, "/live")
        assert status == 503
        assert answer["problems"] == ["the lease ran out 7.0 s ago, and nothing renews it"]
        monkeypatch.setattr(node, "lease_state", lambda: LeaseState(-7.0, "refused\x1b[31m"))
        assert await statuses(system) == [200, 503, 200]
        _, answer = await asked(system, "/ready")
        assert answer["problems"] == [r"the broker cannot be reached: refused\x1b[31m"]
        assert answer["lease"]["trouble"] == r"refused\x1b[31m"


async def test_a_node_whose_broker_is_away_is_live_and_not_ready_until_it_is_back():
    async def wait_for(path: str, wanted: int, problem: str = "") -> dict[str, Any]:
        with trio.fail_after(PATIENCE):
            while True:
                status, answer = await asked(system, path)
                if status == wanted and "\n".join(answer["problems"]).startswith(problem):
                    return answer
                await trio.sleep(0.02)

    with open_redis_server() as server:
        async with open_system(Worker, broker=server.url, monitor="127.0.0.1:0", lease=1) as system:
            await wait_for("/ready", 200)
            server.kill()
            await wait_for("/ready", 503, "the broker cannot be reached: ")
            with trio.fail_after(PATIENCE):
                while (await asked(system, "/live"))[1]["lease"]["left_seconds"] > 0:  # noqa: ASYNC110 - a thread's
                    await trio.sleep(0.02)
            assert await statuses(system) == [200, 503, 200]
            server.start()
            assert (await wait_for("/ready", 200))["lease"]["trouble"] == ""


@pytest.mark.parametrize("address", ["9464", ":9464", "127.0.0.1", 9464])
async def test_an_address_without_host_and_port_is_refused_at_the_start(address: Any):
    with pytest.raises(SettingsError, match="monitor wants HOST:PORT"):
        async with open_system(Worker, broker=MemoryBroker(), monitor=address):
            pass


async def test_a_start_that_fails_ends_its_monitor():
    class Broken(Actor):
        async def startup(self) -> None:
            raise OSError("no till")

    with pytest.raises(StartError):
        async with open_system(Broken, broker=MemoryBroker(), monitor="127.0.0.1:0"):
            pass
    await monitor_has_ended()


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), "soon"])
async def test_a_hang_timeout_that_is_none_is_refused(timeout: Any):
    with pytest.raises(SettingsError, match="hang_timeout wants finite seconds > 0"):
        async with open_system(Worker, broker=MemoryBroker(), hang_timeout=timeout):
            pass
