"""The actors that live in processes here: `python workers.py TREE URL [NAME=VALUE…]` runs some of them as a program."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import trio
import trio.lowlevel

from actorwork import Actor, Intensity, Process, Settings, Supervisor, receive, run
from actorwork.message import Failure

LEDGER = os.environ.get("WORKERS_LEDGER", "")
"""The file to which all processes append what they `say`, a line each."""
GO_ON = "go on"
"""What a test says to the handlers that `wait_said` it."""


def say(text: str) -> None:
    """Append a line to a file, which outlives this process."""
    if LEDGER:
        with Path(LEDGER).open("a") as ledger:
            ledger.write(f"{os.getpid()} {text}\n")


async def wait_said(text: str) -> None:
    """Wait until any process has said a text."""
    while f" {text}\n" not in await trio.Path(LEDGER).read_text():  # noqa: ASYNC110 - another process sets no event
        await trio.sleep(0.01)


class Worker(Actor):
    """Does what its messages name, good or bad."""

    settings = Settings(title="worker", sources={"work"}, concurrency=2, max_crashes=2)

    async def startup(self) -> None:
        say("up")

    @receive
    async def do(self, *, what: str = "", n: float = 0.0) -> int:
        say(f"{what} begins")
        match what:
            case "exit":
                os._exit(int(n))
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "break":
                ctypes.string_at(0)
            case "interrupt":
                raise KeyboardInterrupt
            case "block":
                time.sleep(n)  # noqa: ASYNC251 - that is what is tested
            case "spin":  # busy, but the loop turns
                until = time.monotonic() + n
                while time.monotonic() < until:
                    sum(range(2000))
                    await trio.lowlevel.checkpoint()
            case "report":  # how far it is, and then nothing any more
                for number in range(1, 1001):
                    self.context.progress(number, 1000, str(os.getpid()), state="COUNTING")
                await trio.sleep(n)
            case "lock":  # asleep, while it holds Python's own lock
                ctypes.PyDLL(None).sleep(int(n))
            case "hold":
                await wait_said(GO_ON)
            case "thread":
                await trio.to_thread.run_sync(time.sleep, n)
            case "sleep":
                try:
                    await trio.sleep(n)
                except trio.Cancelled:
                    say("cancelled")
                    raise
            case _:
                pass
        say(f"{what} done")
        return os.getpid()

    async def shutdown(self) -> None:
        say("down")


class Stuck(Actor):
    """Has handlers that cannot be cancelled: in a thread, or shielded."""

    settings = Settings(title="stuck", execution_timeout=600)

    @receive
    def sit(self, *, seconds: float) -> None:
        say("sits")
        time.sleep(seconds)

    @receive
    async def shield(self, *, seconds: float) -> None:
        say("shields")
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)


class Second(Worker):
    settings = Settings(title="second", sources={"more"})


class Third(Worker):
    settings = Settings(title="third", sources={"even-more"})


class Default(Worker):
    settings = Settings(title="default")


class Watched(Worker):
    """Is told of its messages that have failed."""

    settings = Settings(title="watched", max_crashes=1)

    @receive
    async def do(self, *, what: str = "", n: float = 0.0) -> int:
        if what == "clean":
            await self.context.shared("cleaned", bool, default=False).set(True)
        return await super().do(what=what, n=n)

    async def failed(self, message: object, failure: Failure) -> None:
        await self.context.shared("told", list[object], default=[]).set([failure.type, message, os.getpid()])


class Failing(Worker):
    settings = Settings(title="failing")

    async def startup(self) -> None:
        say("tried")
        raise OSError("no disk")


class Hanging(Worker):
    settings = Settings(title="hanging")

    async def startup(self) -> None:
        time.sleep(60)  # noqa: ASYNC251 - that is what is tested


class Crashing(Worker):
    """Crashes until its tree gives up."""

    settings = Settings(title="crashing", sources={"crashes"}, on_failure="restart")

    @receive
    async def do(self, *, what: str = "", n: float = 0.0) -> int:
        raise ValueError(f"crashed of {what}")


class Waiting(Worker):
    """Is up once `Opening` is up."""

    settings = Settings(title="waiting")

    async def startup(self) -> None:
        await wait_said("opened")


class Opening(Worker):
    settings = Settings(title="opening")

    async def startup(self) -> None:
        say("opened")


class Stubborn(Worker):
    """Ends only by force."""

    settings = Settings(title="stubborn")

    async def shutdown(self) -> None:
        say("stays")
        threading.Event().wait()


TREES: dict[str, object] = {
    "one": [Process([Worker], name="far")],
    "two": [Process([Worker], name="far", replicas=2)],
    "forked": [Process([Worker], name="far", start_method="forkserver")],
    "nested": [Process([Second, Process([Worker], name="farther")], name="far")],
    "ordered": [
        Process([Worker], name="far"),
        Second,
        Supervisor([Process([Third], name="farther")]),
    ],
    "dying": Supervisor(
        [Process([Worker], name="far", intensity=Intensity(restarts=1, period=60))],
        intensity=Intensity(restarts=0, period=1),
    ),
    "hanging": [Process([Worker], name="far", hang_timeout=1)],
    "failing": [Process([Failing], name="far")],
    "stubborn": [Process([Stubborn], name="far", shutdown_timeout=0.5), Worker],
}


def main(tree: str, url: str, *options: str) -> None:
    named = dict(option.split("=") for option in options)
    run(TREES[tree], broker=url, lease=float(named.get("lease", 10)), grace=float(named.get("grace", 25)))


if __name__ == "__main__":
    main(*sys.argv[1:])
