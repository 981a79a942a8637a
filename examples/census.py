"""A census of Python's own standard library.

It sends one message for each source file. A parser reads the file with `ast`, a clerk keeps the counts, and a progress
bar follows them. The report lists the largest modules; `wc -l` confirms its numbers.

    python examples/census.py                                     on the embedded broker, in a temporary file
    python examples/census.py --broker redis://localhost:6379/0   the same on Redis
    python examples/census.py --processes 4                       parses in four processes, on four cores
    python examples/census.py --package asyncio                   counts one package of the library

Run one census at a time on one broker: two would share their parsers and clerks. Delivery is at least once, so the
clerk keeps one count for each path: a file that is counted twice counts once. Every run has its own name, so the
messages of an interrupted run do not appear in the next one.
"""

from __future__ import annotations

import argparse
import ast
import secrets
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import trio

from actorwork import Actor, Message, Process, Settings, open_client, open_system, receive

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ModuleNotFoundError:
    sys.exit("The census draws with rich, from the extra 'cli' of actorwork: pip install \"actorwork[cli]\"")


STDLIB = Path(sysconfig.get_path("stdlib"))
LARGEST = 15


@attrs.frozen
class Parse(Message["Parser", None]):
    """Count the contents of a file."""

    census: str
    path: str


@attrs.frozen
class Counted(Message["Clerk", None]):
    """The contents of a file."""

    census: str
    path: str
    lines: int
    classes: int
    functions: int
    parsed: bool


@attrs.frozen
class Progressed(Message["Clerk", int]):
    """Asks how many files a census has counted."""

    census: str


@attrs.frozen
class Result(Message["Clerk", list[Counted]]):
    """Asks for the counts of a census."""

    census: str


class Parser(Actor):
    """Reads one file after another."""

    settings = Settings(title="census parser", execution_timeout=60)

    @receive
    async def parse(self, message: Parse) -> None:
        source = (STDLIB / message.path).read_bytes()
        try:
            nodes = [type(node) for node in ast.walk(ast.parse(source))]
        except (SyntaxError, ValueError):
            # The library's tests contain a few files that are invalid Python on purpose.
            nodes = []
        counted = Counted(
            census=message.census,
            path=message.path,
            lines=source.count(b"\n"),
            classes=nodes.count(ast.ClassDef),
            functions=nodes.count(ast.FunctionDef) + nodes.count(ast.AsyncFunctionDef),
            parsed=bool(nodes),
        )
        # Sent together with the settlement of this message, or not at all.
        self.context.publish(Clerk, counted)


class Clerk(Actor):
    """Keeps the counts."""

    settings = Settings(title="census clerk")

    def __init__(self) -> None:
        self.books: dict[str, dict[str, Counted]] = {}

    @receive
    async def enter(self, message: Counted) -> None:
        self.books.setdefault(message.census, {})[message.path] = message

    @receive
    async def progress(self, message: Progressed) -> int:
        return len(self.books.get(message.census, {}))

    @receive
    async def result(self, message: Result) -> list[Counted]:
        return list(self.books.get(message.census, {}).values())


def source_files(package: str) -> Iterator[str]:
    """Yield the source files of the library, or of one of its packages; without what is installed."""
    for path in sorted((STDLIB / package).rglob("*.py")):
        relative = path.relative_to(STDLIB)
        if relative.parts[0] not in {"site-packages", "dist-packages"}:
            yield relative.as_posix()


async def take_census(broker: str, processes: int, package: str, console: Console) -> None:
    parsers = Process([Parser], name="parsers", replicas=processes) if processes else Parser
    async with open_system([Clerk, parsers], broker=broker) as system, open_client(system.broker) as client:
        clerk = system.ref(Clerk)
        census, files, began = secrets.token_hex(4), list(source_files(package)), time.perf_counter()
        with progress_bar(console) as bar:
            counting = bar.add_task("counting", total=len(files))
            await client.ref(Parser).tell_many([Parse(census, path) for path in files])
            done = 0
            while done < len(files):
                done = await clerk.ask(Progressed(census))
                bar.update(counting, completed=done)
                await trio.sleep(0.05)
        counts = await clerk.ask(Result(census))
    report(counts, time.perf_counter() - began, console)


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def report(counts: list[Counted], seconds: float, console: Console) -> None:
    table = Table(title=f"The {LARGEST} largest files of {STDLIB}")
    for heading in ("file", "lines", "classes", "functions"):
        table.add_column(heading, justify="left" if heading == "file" else "right")
    counts = sorted(counts, key=lambda count: count.lines, reverse=True)
    for count in counts[:LARGEST]:
        table.add_row(count.path, f"{count.lines:,}", f"{count.classes:,}", f"{count.functions:,}")
    table.add_section()
    table.add_row(
        f"all {len(counts):,} files",
        f"{sum(count.lines for count in counts):,}",
        f"{sum(count.classes for count in counts):,}",
        f"{sum(count.functions for count in counts):,}",
    )
    console.print(table)
    unread = sum(not count.parsed and count.lines > 0 for count in counts)
    console.print(
        f"{len(counts):,} messages in {seconds:.1f} s; {unread} files are invalid Python: only their lines count."
    )
    console.print(f"To check: wc -l {STDLIB / counts[0].path}", soft_wrap=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", help="such as redis://localhost:6379/0; default: the embedded broker")
    options.add_argument(
        "--processes", type=int, default=0, help="how many child processes parse (default: this process does)"
    )
    options.add_argument("--package", default="", help="such as asyncio; default: all of the library")
    given = options.parse_args()
    if not next(source_files(given.package), None):
        options.error(f"--package wants a package of the standard library, such as asyncio; got {given.package!r}")
    if given.broker is not None:
        trio.run(take_census, given.broker, given.processes, given.package, Console())
        return
    with tempfile.TemporaryDirectory() as directory:
        trio.run(take_census, f"sqlite:///{directory}/census.sqlite3", given.processes, given.package, Console())


if __name__ == "__main__":
    main()
