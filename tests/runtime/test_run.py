"""`run` in processes of its own: signals, exit codes, and what the handlers see."""

import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.fork_server import ForkedPopen
from tests.forms import forms
from tests.patience import PATIENCE, TRIALS

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys, time, trio
from actorwork import *
from actorwork import events
from actorwork.brokers import open_broker

def say(text):
    print(text, flush=True)

class Worker(Actor):
    settings = Settings(title="worker", sources={"work"})

    async def startup(self):
        say("up")

    @receive
    async def do(self, *, what: str, n: float = 0):
        say(f"{what} begins")
        try:
            if what == "sleep":
                await trio.sleep(n)
            if what == "block":
                while True:
                    time.sleep(0.01)
            if what == "interrupt":
                raise KeyboardInterrupt
        except trio.Cancelled:
            say("Cancelled seen")
            raise
        say(f"{what} done")

    async def shutdown(self):
        say("down")

class Starter(Actor):
    todo: dict = {}
    target = Worker

    async def startup(self):
        if self.todo:
            self.context.nursery.start_soon(self.send)

    async def send(self):
        # By the broker, so that it is a delivery.
        async with open_client(BROKER) as client:
            await client.ref(self.target).tell(self.todo)

def emit(event):
    match event:
        case events.Settled(settlement=settlement):
            say(f"settled {type(settlement).__name__}")
        case events.Released(count=count):
            say(f"handed back {count}")
        case events.ShutdownStage(stage=stage):
            say(f"stage {stage}")
        case events.NodeStarted():
            say("ready")
        case events.NodeStopped(seconds=seconds, forced=forced):
            say(f"stopped in {seconds:.6f} forced={forced}")
"""


class Program:
    """A program that runs actors, and what it prints."""

    def __init__(self, directory: Path, main: str) -> None:
        file = directory / "program.py"
        broker = f"BROKER = 'sqlite:///{directory}/messages.sqlite3'\n"
        file.write_text(PROGRAM + broker + textwrap.dedent(main))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.process: subprocess.Popen[bytes] = ForkedPopen(
            [sys.executable, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )
        self.said = ""

    def wait_for(self, text: str) -> None:
        assert self.process.stdout is not None
        until = time.monotonic() + PATIENCE
        while text not in self.said:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, until - time.monotonic()))
            chunk = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not chunk:
                self.process.kill()
                _, errors = self.process.communicate()
                pytest.fail(f"never said {text!r}, but {self.said!r} and {errors.decode()!r}")
            self.said += chunk.decode()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and standard error."""
        output, errors = self.process.communicate(timeout=PATIENCE)
        self.said += output.decode()
        return self.process.returncode, errors.decode()


def start(tmp_path: Path, *, todo: str = "{}", options: str = "") -> Program:
    main = f"""
        Starter.todo = {todo}
        run([Worker, Starter], broker=BROKER, emit=emit{options})
        say("returned")
        """
    return Program(tmp_path, main)


BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
EITHER = pytest.mark.parametrize("number", forms(signal.SIGTERM, more=[signal.SIGINT]), ids=lambda number: number.name)


@BOTH
def test_an_idle_program_stops_without_waiting_for_anything(tmp_path: Path, number: signal.Signals):
    times: list[float] = []
    while len(times) < TRIALS and not any(seconds < 0.5 for seconds in times):
        program = start(tmp_path)
        program.wait_for("ready")
        program.signal(number)
        code, errors = program.end()
        assert code == 0, errors
        assert program.said.endswith("forced=False\nreturned\n")
        found = re.search(r"stopped in ([\d.]+)", program.said)
        assert found is not None
        times.append(float(found.group(1)))
    assert min(times) < 0.5, "it waits for an interval at which something looks"


@BOTH
def test_a_handler_finishes_before_the_program_ends(tmp_path: Path, number: signal.Signals):
    program = start(tmp_path, todo="{'what': 'sleep', 'n': 0.5}")
    program.wait_for("sleep begins")
    program.signal(number)
    code, errors = program.end()
    assert code == 0, errors
    assert "sleep done\nsettled Ack\n" in program.said
    assert "Cancelled" not in program.said


@EITHER
def test_a_second_signal_cancels_the_handler_and_hands_its_delivery_back(tmp_path: Path, number: signal.Signals):
    program = start(tmp_path, todo="{'what': 'sleep', 'n': 60}")
    program.wait_for("sleep begins")
    program.signal(number)
    program.wait_for("stage drain")  # Two signals of a kind that come at once are one, to the kernel.
    program.signal(number)
    code, errors = program.end()
    assert code == 3, errors
    assert "Cancelled seen\nhanded back 1\n" in program.said
    assert "settled" not in program.said
    assert "down\n" in program.said


@pytest.mark.parametrize("how", ["threading.Thread(target=wait).start()", "ThreadPoolExecutor(1).submit(wait)"])
def test_a_thread_of_a_handler_does_not_outlive_the_grace(tmp_path: Path, how: str):
    program = Program(
        tmp_path,
        f"""
        import threading
        from concurrent.futures import ThreadPoolExecutor

        def wait():
            time.sleep(600)

        class Threaded(Worker):
            async def startup(self):
                {how}

        # What waits for the end of the grace sleeps for a moment instead, so that the grace may be long: the program
        # must have come out of `run` before it ends.
        from types import SimpleNamespace
        from actorwork.runtime import main
        slept = threading.Semaphore(0)
        def sleep(seconds):
            if slept._value == 0:
                say(f"sleeps for {{seconds:.0f}} s")
            time.sleep(0.01)
            slept.release()
        main.time = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)

        run(Threaded, broker=BROKER, emit=emit, grace=30)
        for _ in range(3):
            slept.acquire()
        say("it goes on beyond the grace")
        """,
    )
    program.wait_for("ready")
    program.signal(signal.SIGTERM)
    code, errors = program.end()
    assert code == 3
    found = re.search(r"sleeps for (\d+) s\n", program.said)
    assert found is not None
    assert 0 < int(found.group(1)) <= 31
    assert "it goes on beyond the grace" in program.said
    assert "threads that have not ended keep the process (Thread" in errors


def test_a_handler_that_blocks_the_loop_is_ended_after_the_grace(tmp_path: Path):
    program = start(tmp_path, todo="{'what': 'block'}", options=", grace=0.2")
    program.wait_for("block begins")
    began = time.monotonic()
    program.signal(signal.SIGTERM)
    code, errors = program.end()
    assert code == 3
    assert "still not ended 1.2 s after the first signal: ending now" in errors
    assert time.monotonic() - began > 1.1


def test_a_third_signal_ends_a_program_at_once(tmp_path: Path):
    program = start(tmp_path, todo="{'what': 'block'}")
    program.wait_for("block begins")
    until = time.monotonic() + PATIENCE
    while program.process.poll() is None and time.monotonic() < until:
        program.signal(signal.SIGTERM)  # Again and again: of two that come at once it sees one.
        time.sleep(0.05)
    code, errors = program.end()
    assert code == 3
    assert "SIGTERM for the 3. time: ending now" in errors


def test_a_start_that_fails_is_exit_code_1_with_a_sentence_and_its_cause(tmp_path: Path):
    program = Program(
        tmp_path,
        """
        class Failing(Worker):
            settings = Settings(title="failing")
            async def startup(self):
                raise OSError("no disk")
        run(Failing, broker=BROKER)
        """,
    )
    code, errors = program.end()
    assert code == 1
    assert "StartError: 'failing' did not start: OSError: no disk" in errors
    assert 'raise OSError("no disk")' in errors


WRONG = {
    "run(Worker, broker='kafka://x')": "BrokerError: no broker of the kind 'kafka://x'",
    "run(Worker, grace=-1)": "SettingsError: grace wants seconds >= 0, got -1",
    "run(Worker, grace='soon')": "SettingsError: grace wants seconds >= 0, got 'soon'; text wants units",
    "run(Worker, log_level='LOUD')": "SettingsError: log_level wants one of CRITICAL, ",
    "run(Worker, log_format='xml')": "SettingsError: log_format wants 'text' or 'json', got 'xml'",
    "run([])": "SettingsError: a tree wants at least one actor, got an empty list",
}


def test_a_declaration_that_cannot_be_is_exit_code_1_with_one_sentence(tmp_path: Path):
    """One program makes all mistakes, since each program costs half a second; the last one ends it."""
    *others, last = WRONG
    calls = "".join(f"try:\n    {call}\nexcept SystemExit as ended:\n    say(ended.code)\n" for call in others)
    program = Program(tmp_path, calls + last)
    code, errors = program.end()
    assert (program.said, code) == ("1\n" * len(others), 1)
    assert [text for text in WRONG.values() if text not in errors] == []
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("run([], log_format='json')", '"message": "SettingsError: a tree wants'),
        ("import logging\nlogging.basicConfig()\nrun([], log_level='INFO')", "log_level ignored: this program has"),
    ],
)
def test_a_program_says_how_it_logs(tmp_path: Path, call: str, text: str):
    _, errors = Program(tmp_path, call).end()
    assert text in errors


def test_a_program_says_what_it_logs(tmp_path: Path):
    code, errors = Program(tmp_path, "run([], log_level='critical')").end()
    assert (code, errors) == (1, "")


def test_a_tree_that_gives_up_is_exit_code_1_with_its_causes(tmp_path: Path):
    program = Program(
        tmp_path,
        """
        class Weak(Worker):
            settings = Settings(title="weak")
            async def startup(self):
                self.context.nursery.start_soon(self.boom)
            async def boom(self):
                raise OSError("helper")
        run(Weak, broker=BROKER, intensity=Intensity(restarts=1))
        """,
    )
    code, errors = program.end()
    assert code == 1
    assert "MaxRestartsExceeded: 'root' gave up on 'weak'" in errors
    assert "OSError: helper" in errors


def test_a_signal_during_the_start_ends_it(tmp_path: Path):
    program = Program(
        tmp_path,
        """
        class Endless(Worker):
            settings = Settings(title="endless")
            async def startup(self):
                say("starting")
                await trio.sleep_forever()
        run([Worker, Endless], broker=BROKER)
        say("returned")
        """,
    )
    program.wait_for("starting")
    program.signal(signal.SIGTERM)
    code, errors = program.end()
    assert code == 0, errors
    assert "down\nreturned\n" in program.said


@EITHER
def test_a_signal_before_anything_has_begun_is_a_clean_stop_and_nothing_begins(tmp_path: Path, number: signal.Signals):
    program = Program(
        tmp_path,
        f"""
        import os, signal
        from actorwork.runtime import main as runtime
        runtime.configure = lambda *_: os.kill(os.getpid(), {int(number)})  # The first that `run` does, without a loop.
        run([Worker], broker=BROKER, emit=emit)
        say("returned")
        """,
    )
    code, errors = program.end()
    assert code == 0, errors
    assert program.said == "returned\n"


def test_a_start_that_is_ended_by_force_is_exit_code_3(tmp_path: Path):
    program = Program(
        tmp_path,
        """
        class Stubborn(Worker):
            settings = Settings(title="stubborn")
            async def shutdown(self):
                with trio.CancelScope(shield=True):
                    await trio.sleep_forever()
        class Endless(Worker):
            settings = Settings(title="endless")
            async def startup(self):
                say("starting")
                await trio.sleep_forever()
        if __name__ == "__main__":
            run([Process([Stubborn], shutdown_timeout=0.2), Endless], broker=BROKER, grace=5)
        """,
    )
    program.wait_for("starting")
    program.signal(signal.SIGTERM)
    code, errors = program.end()
    assert code == 3, errors


def test_a_signal_to_a_fork_ends_the_fork_and_not_the_program(tmp_path: Path):
    program = Program(
        tmp_path,
        """
        import os, signal
        class Forking(Worker):
            settings = Settings(title="forking")
            async def startup(self):
                there, here = os.pipe()
                child = os.fork()
                if not child:
                    os.write(here, b".")
                    time.sleep(30)
                    os._exit(0)
                os.read(there, 1)  # Python forgets the signals that come before a fork is complete.
                os.kill(child, signal.SIGTERM)
                say(f"fork ended by {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
        run(Forking, broker=BROKER, emit=emit)
        """,
    )
    program.wait_for("ready")
    assert f"fork ended by {-signal.SIGTERM}" in program.said
    program.signal(signal.SIGTERM)
    code, errors = program.end()
    assert code == 0, errors


def test_a_program_lives_on_after_run_and_its_signals_are_its_own_again(tmp_path: Path):
    program = Program(
        tmp_path,
        """
        import signal, threading
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        run(Worker, broker=BROKER, emit=emit)
        assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert not [t for t in threading.enumerate() if t.name.startswith("actorwork")], threading.enumerate()
        say("lives")
        """,
    )
    program.wait_for("ready")
    program.signal(signal.SIGTERM)
    code, errors = program.end()
    assert code == 0, errors
    assert program.said.endswith("lives\n")


def test_an_interrupt_raised_by_a_handler_stops_the_program_and_its_delivery_goes_back(tmp_path: Path):
    program = start(tmp_path, todo="{'what': 'interrupt'}")
    code, errors = program.end()
    assert code == 1, errors
    assert "settled" not in program.said
    assert "handed back 1\n" in program.said
    assert "stopped by a KeyboardInterrupt that a handler raised" in errors
    assert "Traceback" not in errors


def test_a_system_exit_in_a_handler_fails_its_message_and_the_program_lives(tmp_path: Path):
    program = Program(
        tmp_path,
        """
        class Quitter(Actor):
            settings = Settings(title="quitter", sources={"work"})
            @receive
            async def do(self, *, what: str):
                sys.exit(9)
        Starter.todo = {"what": "quit"}
        Starter.target = Quitter
        run([Quitter, Starter], broker=BROKER, emit=emit)
        """,
    )
    program.wait_for("settled Fail")
    program.signal(signal.SIGTERM)
    code, errors = program.end()
    assert code == 0, errors


def test_what_a_stopped_program_left_is_done_by_the_next_one(tmp_path: Path):
    first = start(tmp_path, todo="{'what': 'sleep', 'n': 60}", options=", grace=0.2")
    first.wait_for("sleep begins")
    first.signal(signal.SIGTERM)
    assert first.end()[0] == 3
    second = Program(
        tmp_path,
        """
        class Quick(Actor):
            settings = Worker.settings
            @receive
            async def do(self, *, what: str, n: float): ...
        run(Quick, broker=BROKER, emit=emit)
        """,
    )
    second.wait_for("settled Ack")
    second.signal(signal.SIGTERM)
    assert second.end()[0] == 0
