"""How programs with processes stop: signals to one or to all, parents that die, time that runs out."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from actorwork import Client, Process, open_client, open_system
from tests.fork_server import run_forked
from tests.forms import AT_REDIS
from tests.patience import BUSY, PATIENCE

from .conftest import ROOT, Program, Said, is_alive, until
from .workers import Third, Worker

Start = Callable[..., Program]


@asynccontextmanager
async def client_of(url: str) -> AsyncGenerator[Client]:
    async with open_client(url) as client:
        yield client


@pytest.mark.parametrize(
    ("number", "tree"),
    [
        (signal.SIGINT, "one"),
        pytest.param(signal.SIGTERM, "one", marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, "forked", marks=pytest.mark.long),
        (signal.SIGTERM, "nested"),
        pytest.param(signal.SIGHUP, "one", marks=pytest.mark.long),
    ],
)
async def test_of_a_signal_to_the_whole_group_only_the_root_decides(
    file_url: str, said: Said, start: Start, number: signal.Signals, tree: str
):
    program = start(tree, file_url)
    await program.wait_nodes(3 if tree == "nested" else 2)
    async with client_of(file_url) as client:
        await client.ref(Worker).tell({"what": "sleep", "n": 0.5})
        (pid,) = await said.wait("sleep begins")
        if number is signal.SIGHUP:  # Nobody asked the root to live through that one.
            os.kill(pid, number)
            program.signal(signal.SIGTERM)
        else:
            program.signal(number, group=True)
        assert await program.end() == 0, program.output
    assert said.pids("sleep done") == [pid]
    assert sorted(said.pids("down")) == sorted(said.pids("up"))
    # The innermost ends first.
    assert said.pids("down")[0] == pid


async def test_a_signal_in_the_middle_of_the_start_ends_it_in_order(file_url: str, said: Said, start: Start):
    program = start("two", file_url)
    await until(lambda: len(children(program.process.pid)) >= 2, "the first processes")
    program.signal(signal.SIGTERM, group=True)
    assert await program.end() == 0, program.output


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_second_signal_cancels_the_handlers_in_processes(file_url: str, said: Said, start: Start):
    program = start("one", file_url)
    await program.wait_nodes(2)
    async with client_of(file_url) as client:
        await client.ref(Worker).tell({"what": "sleep", "n": 60})
        (pid,) = await said.wait("sleep begins")
        program.signal(signal.SIGTERM, group=True)
        await until(lambda: "messages in flight may finish" in program.output, "the first signal to be taken")
        program.signal(signal.SIGTERM, group=True)
        assert await program.end() == 3, program.output
        assert said.lines[-2:] == [(pid, "cancelled"), (pid, "down")]
        # It was released, and no node owns it.
        assert await client.broker.backlog(Worker.settings.default_source) == 1


@pytest.mark.long
async def test_processes_and_actors_end_in_the_reverse_order_of_their_start(file_url: str, said: Said, start: Start):
    program = start("ordered", file_url)
    await program.wait_nodes(3)
    root = program.process.pid
    first, _, last = said.pids("up")
    async with client_of(file_url) as client:
        # Whoever ends last has least to do, and waits for the others all the same.
        await client.ref(Third).tell({"what": "sleep", "n": 0.5})
        await said.wait("sleep begins")
        program.signal(signal.SIGTERM)
        assert await program.end() == 0, program.output
    assert said.pids("down") == [last, root, first]


async def test_a_process_that_does_not_end_in_time_is_killed_and_logged(file_url: str, said: Said, start: Start):
    program = start("stubborn", file_url)
    await program.wait_nodes(2)
    began = time.monotonic()
    program.signal(signal.SIGTERM)
    assert await program.end() == 3, program.output
    assert time.monotonic() - began < 1 + BUSY
    stubborn = said.pids("stays")[0]
    assert not is_alive(stubborn)
    assert f"far (process {stubborn}) did not end in time and is killed" in program.output


async def test_a_process_that_dies_during_the_shutdown_is_not_a_clean_end(file_url: str, said: Said):
    async with open_system(Process([Worker]), broker=file_url) as system, open_client(system.broker) as client:
        await client.ref(Worker).tell({"what": "sleep", "n": 60})
        (pid,) = await said.wait("sleep begins")
        system.stop()
        await trio.testing.wait_all_tasks_blocked(0.05)  # It waits for the message in flight.
        os.kill(pid, signal.SIGKILL)
        await system.wait_stopped()
    assert system.forced


@pytest.mark.parametrize(
    "tree", [pytest.param("one", marks=pytest.mark.long), pytest.param("forked", marks=pytest.mark.long), "nested"]
)
async def test_no_process_survives_its_parent(file_url: str, said: Said, start: Start, tree: str):
    program = start(tree, file_url)
    await program.wait_nodes(3 if tree == "nested" else 2)
    async with client_of(file_url) as client:
        # Also one whose loop is blocked.
        await client.ref(Worker).tell({"what": "block", "n": 60})
        await said.wait("block begins")
        program.signal(signal.SIGKILL)
        began = time.monotonic()
        await until(lambda: not any(map(is_alive, said.pids("up"))), "their end")
        assert time.monotonic() - began < 1 + BUSY


@AT_REDIS
async def test_the_next_program_does_what_a_killed_one_left(url: str, said: Said, start: Start):
    program = start("one", url, "lease=1")
    await program.wait_nodes(2)
    async with client_of(url) as client:
        await client.ref(Worker).tell({"what": "sleep", "n": 2})
        (pid,) = await said.wait("sleep begins")
        program.signal(signal.SIGKILL)
        again = start("one", url, "lease=1")
        await again.wait_nodes(2)
        await said.wait("sleep done")
        assert said.pids("sleep begins")[0] == pid
        again.signal(signal.SIGTERM)
        assert await again.end() == 0, again.output


async def test_a_start_that_fails_is_exit_code_1_and_does_not_spin(file_url: str, said: Said, start: Start):
    program = start("failing", file_url)
    assert await program.end() == 1
    assert "StartError: 'far' did not start: StartError: 'failing' did not start: OSError: no disk" in program.output
    assert 'raise OSError("no disk")' in program.output
    assert len(said.pids("tried")) == 1


async def test_a_program_that_gives_up_ends_with_exit_code_1(file_url: str, said: Said, start: Start):
    program = start("dying", file_url)
    await program.wait_nodes(2)
    killed: set[int] = set()

    def kill_the_living() -> bool:
        for pid in set(said.pids("up")) - killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        return program.process.poll() is not None

    await until(kill_the_living, "its end")
    assert await program.end() == 1
    assert "MaxRestartsExceeded" in program.output
    assert "was killed by SIGKILL" in program.output


async def test_classes_of_main_live_in_processes_too(tmp_path: Path):
    file = tmp_path / "program.py"
    file.write_text(
        textwrap.dedent(f"""
        import os, trio
        from actorwork import Actor, Process, Settings, open_client, open_system, receive

        class Greeter(Actor):
            settings = Settings(title="greeter")

            @receive
            async def greet(self, *, name: str) -> str:
                return f"Hello {{name}} from {{os.getpid()}}"

        async def main():
            async with open_system(Process([Greeter]), broker="sqlite:///{tmp_path}/messages.sqlite3") as system:
                async with open_client(system.broker) as client:
                    print(await client.ref(Greeter).ask({{"name": "Ann"}}, timeout=20), "not", os.getpid())

        if __name__ == "__main__":
            trio.run(main)
        """)
    )
    process = await trio.run_process(
        [sys.executable, str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_stdout=True,
        stderr=subprocess.STDOUT,
    )
    (line,) = [line for line in process.stdout.decode().splitlines() if line.startswith("Hello Ann from ")]
    words = line.split()
    assert words[3] != words[5]


def test_a_program_without_the_guard_of_main_is_told_about_it(tmp_path: Path):
    file = tmp_path / "program.py"
    file.write_text(
        textwrap.dedent(f"""
        from actorwork import Actor, Process, run

        class Greeter(Actor):
            pass

        run(Process([Greeter], name="far"), broker="sqlite:///{tmp_path}/messages.sqlite3")
        """)
    )
    done = run_forked([str(file)], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=PATIENCE)
    assert done.returncode == 1
    assert 'start it below `if __name__ == "__main__":`' in done.stderr
    assert "StartError: 'far' did not start: ProcessLost: process" in done.stderr


@pytest.mark.long
async def test_the_example_of_the_chapter_runs(tmp_path: Path):
    chapter = (ROOT / "docs" / "processes.md").read_text(encoding="utf-8")
    (tmp_path / "shop.py").write_text(chapter.partition("```python\n")[2].partition("```")[0])
    program = Program(tmp_path / "log", program=tmp_path / "shop.py", environment={"ACTORWORK_HOME": str(tmp_path)})
    try:
        await program.wait_nodes(3)
        program.signal(signal.SIGTERM)
        assert await program.end() == 0, program.output
    finally:
        program.clear()
