"""Workers in processes, with replicas and triggers: what Everwork is used for.

    clock   every second a trigger lets `Scout` send pages to the source `pages`
    cron    `Report` has a trigger whose expression, "every 2 seconds", a reader of its own understands
    pages   two replicas of a process count the words of pages; one of them crashes on the way, and is replaced
    counts  the results come to `Report`, each once, although the crash made one page run twice

`docs/migrating-from-everwork.md` compares both libraries, name by name.

    python examples/everwork.py                                     some seconds, on the embedded broker
    python examples/everwork.py --broker redis://localhost:6379/0   on Redis; nodes on other hosts would help
    python examples/everwork.py --pages 200 --replicas 4
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta, tzinfo

import attrs
import trio

from actorwork import (
    AbstractCronSchedule,
    Actor,
    Cron,
    Interval,
    Message,
    Process,
    Settings,
    Trigger,
    events,
    open_system,
    receive,
)

logging.getLogger("actorwork").setLevel(logging.ERROR)  # In the processes too; `note` prints what is of interest.

AT_ONCE = 10
"""The pages that each firing of the trigger sends."""


class EverySeconds(AbstractCronSchedule):
    """Reads expressions such as "every 2 seconds", which the built-in reader refuses."""

    def next_execution(self, expression: str, timezone: tzinfo = UTC) -> datetime:
        seconds = int(expression.split()[1])
        now = datetime.now(timezone)
        return now.replace(microsecond=0) + timedelta(seconds=seconds - now.second % seconds)


@attrs.frozen
class Counted(Message["Report", None]):
    """The words of a page, and the process that has counted them."""

    page: int
    words: int
    by: int


class Scout(Actor):
    """Finds pages: it is called by its trigger, and sends what it finds with the settlement of that call."""

    settings = Settings(
        title="everwork scout",
        triggers=[Trigger(title="look", schedule=Interval(seconds=1), kwargs={"limit": AT_ONCE}, is_catchup=False)],
    )

    def __init__(self) -> None:
        self.found = 0

    @receive
    async def look(self, *, limit: int, time_point: datetime) -> None:
        for number in range(self.found, self.found + limit):
            self.context.publish("pages", {"page": number, "text": "word " * (number % 7 + 1)})
        self.found += limit
        print(f"{time_point:%H:%M:%S.%f}  scout    sends pages up to {self.found}", flush=True)


class Counting(Actor):
    """Counts words in a process of its own, where a crash hurts nobody else."""

    settings = Settings(title="everwork counting", sources={"pages"}, execution_timeout=10)

    @receive
    async def count(self, *, page: int, text: str) -> None:
        await trio.sleep(0.02)
        if page == AT_ONCE // 2 and self.context.delivery.attempt == 1 and not crashed_before():
            os._exit(1)  # As a segmentation fault of a library would end it.
        self.context.publish("counts", Counted(page, len(text.split()), os.getpid()))


def crashed_before() -> bool:
    """Return whether a process has crashed already; the file that tells is made by the first call."""
    try:
        os.close(os.open(os.environ["EVERWORK_CRASHED"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return True
    return False


class Report(Actor):
    settings = Settings(
        title="everwork report",
        sources={"counts"},
        triggers=[
            Trigger(title="print", schedule=Cron("every 2 seconds", custom=True), kwargs={}),
        ],
    )

    wanted = 0
    done = trio.Event()

    def __init__(self) -> None:
        self.words: dict[int, int] = {}
        self.by: Counter[int] = Counter()

    @receive
    async def enter(self, counted: Counted) -> None:
        self.words[counted.page] = counted.words
        self.by[counted.by] += 1
        if len(self.words) >= Report.wanted:
            Report.done.set()

    @receive
    async def show(self, *, time_point: datetime) -> None:
        self.print(f"{time_point:%H:%M:%S.%f}")

    async def shutdown(self) -> None:
        self.print("in the end".ljust(15))

    def print(self, when: str) -> None:
        shares = ", ".join(f"process {pid}: {count}" for pid, count in sorted(self.by.items()))
        print(f"{when}  report   {len(self.words)} pages, {sum(self.words.values())} words ({shares})", flush=True)


def note(event: events.Event) -> None:
    match event:
        case events.ProcessStarted(process, pid):
            print(f"{'':15}  {process} runs as process {pid}", flush=True)
        case events.ChildExited(_, child, exit=exit) if exit.error is not None:
            print(f"{'':15}  {child} has ended: {exit.error}", flush=True)
        case events.Reclaimed(source, count=count):
            print(f"{'':15}  {count} deliveries of {source} are taken over from a dead process", flush=True)
        case _:
            pass


async def main(broker: str, pages: int, replicas: int) -> None:
    Report.wanted = pages
    tree = [Report, Process([Counting], name="counting", replicas=replicas), Scout]
    async with open_system(tree, broker=broker, cron_schedule=EverySeconds, emit=note):
        await Report.done.wait()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", help="such as redis://localhost:6379/0; default: the embedded broker")
    options.add_argument("--pages", type=int, default=30)
    options.add_argument("--replicas", type=int, default=2)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        os.environ["EVERWORK_CRASHED"] = f"{directory}/crashed"
        trio.run(main, given.broker or f"sqlite:///{directory}/everwork.sqlite3", given.pages, given.replicas)
