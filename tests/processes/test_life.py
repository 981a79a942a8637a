"""The life of a process under its supervisor: it starts, ends, hangs, is replaced, and is seen from outside."""

import io
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import pytest
import trio

from actorwork import (
    Branch,
    Intensity,
    MaxRestartsExceeded,
    MessageFailed,
    Process,
    ProcessLost,
    StartError,
    Supervisor,
    System,
    open_client,
    open_system,
)
from actorwork.actors.tree.spec import StartMethod
from actorwork.brokers import open_broker
from actorwork.events import ChildExited, Event, ProcessHung, ProcessStarted
from tests.forms import AT_A_FILE, AT_REDIS

from .conftest import PATIENCE, Program, Said, is_alive, until
from .workers import Crashing, Failing, Hanging, Opening, Second, Waiting, Worker

E = TypeVar("E")


class Events:
    def __init__(self) -> None:
        self.all: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.all.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of this node, without those of its processes."""
        return [event for event in self.all if isinstance(event, kind) and event.origin is None]


def notes(error: BaseException | None) -> str:
    return "".join(getattr(error, "__notes__", ()))


@pytest.fixture
def seen() -> Events:
    return Events()


def processes(tree: Branch) -> list[Branch]:
    found = [tree] if tree.kind == "process" else []
    return found + [process for child in tree.children for process in processes(child)]


def pids(system: System) -> list[int]:
    return [process.pid for process in processes(system.tree()) if process.pid is not None]


@AT_A_FILE
@pytest.mark.usefixtures("fresh")
async def test_children_live_in_another_process_and_end_with_the_system(url: str, said: Said):
    async with open_system(Process([Worker]), broker=url) as system:
        (pid,) = pids(system)
        async with open_client(system.broker) as client:
            assert await client.ref(Worker).ask({}, timeout=PATIENCE) == pid != os.getpid()
        with pytest.raises(LookupError, match="'worker' lives in the process 'process of worker'"):
            system.ref(Worker)
    assert said.lines == [(pid, "up"), (pid, " begins"), (pid, " done"), (pid, "down")]
    assert not is_alive(pid)
    assert not system.forced


@AT_REDIS
async def test_an_open_broker_is_shared_too(url: str):
    async with open_broker(url) as broker:
        assert broker.shared_url == url
        async with open_system(Process([Worker]), broker=broker) as system, open_client(broker) as client:
            assert await client.ref(Worker).ask({}, timeout=PATIENCE) == pids(system)[0]


ENDS = {
    "exit": (7, "ended with exit code 7"),
    "exit in peace": (0, "ended with exit code 0, in the middle of its work"),
    "kill": (-9, "was killed by SIGKILL"),
}


async def test_a_forkserver_does_it_too(file_url: str, seen: Events):
    async with open_system(Process([Worker], start_method="forkserver"), broker=file_url, emit=seen) as system:
        (first,) = pids(system)
        async with open_client(system.broker) as client:
            assert await client.ref(Worker).ask({}, timeout=PATIENCE) == first
            os.kill(first, signal.SIGKILL)
            assert await client.ref(Worker).ask({}, timeout=PATIENCE) != first
    assert "was killed by SIGKILL" in str(seen.of(ChildExited)[0].exit.error)


@pytest.mark.long
async def test_neighbouring_processes_start_side_by_side(file_url: str, said: Said):
    said.file.touch()
    tree = [Process([Waiting], replicas=2), Process([Opening], replicas=2), Second]
    with trio.fail_after(2 * PATIENCE):
        async with open_system(tree, broker=file_url) as system:
            assert [child.state for child in system.tree().children] == ["running"] * 3


async def test_where_processes_depend_on_each_other_they_start_in_order(file_url: str, said: Said):
    said.file.touch()
    tree = Supervisor([Process([Waiting], startup_timeout=1), Process([Opening])], strategy="rest_for_one")
    with pytest.raises(StartError, match="took longer than 1 s to start"):
        async with open_system(tree, broker=file_url):
            pass
    assert not said.pids("opened")


@pytest.mark.parametrize(
    ("url", "how"),
    [
        pytest.param("embedded", "exit", marks=pytest.mark.long),
        pytest.param("embedded", "exit in peace", marks=pytest.mark.long),
        ("embedded", "kill"),
        pytest.param("redis", "exit", marks=pytest.mark.long),
        pytest.param("redis", "exit in peace", marks=pytest.mark.long),
        ("redis", "kill"),
    ],
    indirect=["url"],
)
async def test_a_process_that_dies_is_replaced_at_once_and_its_work_is_done_by_the_next(
    url: str, said: Said, seen: Events, how: str
):
    # Without the release by its parent it would wait for the lease of a minute to run out.
    async with open_system(Process([Worker]), broker=url, lease=60, emit=seen) as system:
        (first,) = pids(system)
        async with open_client(system.broker) as client:
            waits = await client.ref(Worker).submit({"what": "sleep", "n": 0.1})
            what = how.removesuffix(" in peace")
            await client.ref(Worker).tell({"what": what, "n": 7 if how == "exit" else 0})
            await waits.result(timeout=PATIENCE)
            # What killed one and then another one (max_crashes=2) is not run a third time.
            begins = f"{what} begins"
            await until(lambda: len(said.pids(begins)) == 2, "the second death")
            assert await client.ref(Worker).ask({}, timeout=PATIENCE) not in said.pids(begins)
    died = [event.exit for event in seen.of(ChildExited) if event.exit.abnormal]
    assert len(died) == 2
    assert isinstance(died[0].error, ProcessLost)
    code, text = ENDS[how]
    assert (died[0].error.pid, died[0].error.code) == (first, code)
    assert text in str(died[0].error)


async def test_a_handler_that_interrupts_its_process_is_counted_as_its_death(file_url: str, seen: Events):
    tree = Process([Worker], start_method="forkserver")
    async with open_system(tree, broker=file_url, emit=seen) as system, open_client(system.broker) as client:
        receipt = await client.ref(Worker).submit({"what": "interrupt"})
        with pytest.raises(MessageFailed, match="2 processes died while they handled this message"):
            await receipt.result(timeout=PATIENCE)
        assert await client.ref(Worker).ask({}, timeout=PATIENCE) in pids(system)
    died = [event.exit.error for event in seen.of(ChildExited) if event.exit.abnormal]
    assert len(died) == 2
    assert "ended with exit code 1" in str(died[0])
    assert died[0] is not None
    assert "KeyboardInterrupt" in notes(died[0].__cause__)


class ReaderGone(io.StringIO):
    def flush(self) -> None:
        raise BrokenPipeError


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
async def test_a_process_starts_although_the_reader_of_standard_error_is_gone(
    file_url: str, monkeypatch: pytest.MonkeyPatch, method: StartMethod
):
    stream = ReaderGone()
    monkeypatch.setattr(sys, "stderr", stream)
    async with open_system(Process([Worker], start_method=method), broker=file_url) as system:
        assert len(pids(system)) == 1
        assert sys.stderr is stream


@pytest.mark.long
async def test_replicas_die_alone_and_the_others_go_on(file_url: str, said: Said, seen: Events):
    tree = Process([Worker], name="workers", replicas=2)
    async with open_system(tree, broker=file_url, emit=seen) as system:
        one, other = pids(system)
        os.kill(one, signal.SIGKILL)
        await until(lambda: len(seen.of(ProcessStarted)) == 3, "the replacement")
        assert [event.process for event in seen.of(ProcessStarted)][2] == "workers 1"
        assert other in pids(system)
        assert one not in pids(system)
    assert sorted(said.pids("down")) == sorted(pid for pid in said.pids("up") if pid != one)


async def test_a_start_that_fails_says_why_with_the_traceback_from_over_there(file_url: str, said: Said):
    with pytest.raises(
        StartError, match="'far' did not start: StartError: 'failing' did not start: OSError: no disk"
    ) as caught:
        async with open_system([Second, Process([Failing], name="far")], broker=file_url):
            pass
    assert 'raise OSError("no disk")' in notes(caught.value.__cause__)
    assert len(said.pids("tried")) == 1
    assert said.lines[-1] == (os.getpid(), "down")


async def test_a_start_that_takes_too_long_is_killed(file_url: str):
    for patience in (2, 6, 18):  # A busy machine may take longer than the first until it runs any code of ours.
        with pytest.raises(StartError, match=f"it took longer than {patience} s to start") as caught:
            async with open_system(Process([Hanging], startup_timeout=patience), broker=file_url):
                pass
        stacks = notes(caught.value.__cause__)
        if "in startup" in stacks:
            break
    assert "in startup\n    time.sleep(60)" in stacks


async def test_a_process_that_dies_again_and_again_is_given_up(file_url: str, said: Said):
    tree = Process([Worker], name="far", intensity=Intensity(restarts=1, period=60))
    with pytest.raises(MaxRestartsExceeded, match="gave up on 'far") as caught:
        async with open_system(tree, broker=file_url, intensity=Intensity(restarts=0, period=1)) as system:
            (pid,) = pids(system)
            os.kill(pid, signal.SIGKILL)
            for victim in await said.wait("up", 2):
                if victim != pid:
                    os.kill(victim, signal.SIGKILL)
            await trio.sleep_forever()
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, ProcessLost):
        cause = cause.__cause__
    assert cause is not None


async def test_a_tree_that_gives_up_over_there_is_a_crash_here_with_its_cause(file_url: str, seen: Events):
    async with (
        open_system(Process([Crashing]), broker=file_url, emit=seen) as system,
        open_client(system.broker) as client,
    ):
        # Four within five seconds are too many; one that comes too late for that is followed by another one.
        with trio.fail_after(PATIENCE):
            while not seen.of(ChildExited):
                await client.ref(Crashing).tell({"what": "bad luck"})
                await trio.sleep(0.1)
        await until(lambda: len(seen.of(ProcessStarted)) == 2, "the replacement")
    error = seen.of(ChildExited)[0].exit.error
    assert isinstance(error, ProcessLost)
    assert "MaxRestartsExceeded" in str(error.__cause__)
    assert "crashed of bad luck" in notes(error.__cause__)


@AT_REDIS
async def test_a_loop_that_does_not_turn_is_told_with_its_stacks_and_replaced(url: str, said: Said, seen: Events):
    async with (
        open_system(Process([Worker], hang_timeout=1), broker=url, lease=60, emit=seen) as system,
        open_client(system.broker) as client,
    ):
        await client.ref(Worker).tell({"what": "block", "n": 120})

        def reports() -> list[ProcessHung]:
            # On a machine that stands still, a process may be taken for one that hangs before it blocks.
            return [event for event in seen.of(ProcessHung) if "in do\n    time.sleep(n)" in event.stacks]

        await until(reports, "the report")
        hung = reports()[0]
        assert hung.pid in said.pids("block begins")
        assert hung.seconds >= 1
        assert "thread MainThread" in hung.stacks
        await until(lambda: not is_alive(hung.pid), "its end")
        await until(lambda: seen.of(ChildExited), "the report of its end")
        assert "had not run" in str(seen.of(ChildExited)[-1].exit.error)
        # The message was in flight there, and is in flight in its replacement.
        await said.wait("block begins", 2)


@pytest.mark.long
async def test_a_suspended_process_is_replaced_without_its_stacks(file_url: str, seen: Events):
    async with open_system(Process([Worker], hang_timeout=4), broker=file_url, emit=seen) as system:
        (pid,) = pids(system)
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: len(seen.of(ProcessStarted)) == 2, "the replacement")
        assert seen.of(ProcessHung)[0].stacks == ""
        assert not is_alive(pid)


async def test_code_that_keeps_the_lock_of_python_is_seen_on_standard_error_and_replaced(
    file_url: str, said: Said, start: Callable[..., Program]
):
    program = start("hanging", file_url)
    await program.wait_nodes(2)
    async with open_client(file_url) as client:
        await client.ref(Worker).tell({"what": "lock", "n": 60})
        await said.wait("lock begins", 2)
    assert "did not report its stacks" in program.output
    assert 'workers.py", line' in program.output.partition("Timeout (")[2]


@pytest.mark.long
async def test_a_busy_process_whose_loop_runs_is_left_alone(file_url: str, seen: Events):
    tree = Process([Worker], hang_timeout=8)
    async with open_system(tree, broker=file_url, emit=seen) as system, open_client(system.broker) as client:
        await client.ref(Worker).ask({"what": "spin", "n": 8.6}, timeout=PATIENCE)
        time.sleep(8.6)  # noqa: ASYNC251 - here it is the parent that does not look
        assert await client.ref(Worker).ask({}, timeout=PATIENCE) == pids(system)[0]
    assert seen.of(ProcessHung) == []


async def test_the_tree_and_the_statistics_show_what_is_in_the_processes(file_url: str):
    async with open_system([Second, Process([Worker], name="workers", replicas=2)], broker=file_url) as system:
        async with open_client(system.broker) as client:
            for _ in range(10):
                await client.ref(Worker).ask({}, timeout=PATIENCE)
            await client.ref(Second).ask({}, timeout=PATIENCE)
            await until(lambda: system.statistics()["settled"] == 11, "the sum")
        tree = system.tree()
        assert [child.title for child in tree.children] == ["second", "workers"]
        workers = tree.children[1]
        assert workers.kind == "replicas"
        assert [child.title for child in workers.children] == ["workers 1", "workers 2"]
        assert {child.kind for child in workers.children} == {"process"}
        assert [grandchild.title for child in workers.children for grandchild in child.children] == ["worker", "worker"]
        assert f"workers 1  process {workers.children[0].pid}, running, incarnation 1" in str(tree)
        os.kill(pids(system)[0], signal.SIGKILL)
        await until(lambda: len(set(pids(system)) - {child.pid for child in workers.children}) == 1, "the replacement")
        assert system.statistics()["settled"] == 11


@pytest.mark.long
async def test_one_of_several_is_stopped_and_another_one_added(file_url: str, said: Said):
    tree = Process([Worker], name="workers", replicas=2)
    async with open_system(tree, broker=file_url) as system:
        first, second = pids(system)
        workers = system.supervisor("workers")
        (info, _) = await workers.which_children()
        await workers.terminate_child(info.handle)
        assert pids(system) == [second]
        assert said.pids("down") == [first]
        await workers.start_child(tree.member(3))
        assert len(pids(system)) == 2


async def test_cancelled_it_ends_in_order(file_url: str, said: Said):
    with trio.CancelScope() as scope:
        async with open_system(Process([Worker]), broker=file_url):
            scope.cancel()
            await trio.sleep_forever()
    assert said.pids("down") == said.pids("up")
    assert not is_alive(said.pids("up")[0])
