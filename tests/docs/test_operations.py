"""The chapters for operators: commands that exist, and what they print."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
import trio
from click.testing import CliRunner

from actorwork import Actor, Settings, events, open_client, open_system, receive
from actorwork.cli.commands import actorwork

DOCS = Path(__file__).parents[2] / "docs"
CHAPTERS = ("incidents.md", "operating.md")
INCIDENTS = (DOCS / "incidents.md").read_text(encoding="utf-8")


def commands(chapter: str) -> Iterator[list[str]]:
    """Yield the arguments of each command that a chapter names, in its text or in what it shows of a terminal."""
    text = (DOCS / chapter).read_text(encoding="utf-8")
    shown = re.findall(r"^ *\$ actorwork (.*)$", text, re.MULTILINE)
    named = re.findall(r"`actorwork ([^`]*)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))
    for command in (*shown, *named):
        yield shlex.split(command)


def parse(arguments: Sequence[str]) -> None:
    """Let the command line parse what a chapter calls it with; it raises for what does not exist."""
    context, command, left = click.Context(actorwork), actorwork, list(arguments)
    while isinstance(command, click.Group) and left and not left[0].startswith("-"):
        found = command.get_command(context, left[0])
        if found is None:
            raise click.UsageError(f"there is no command {left[0]!r}")
        context, command, left = click.Context(found, parent=context), found, left[1:]
    if left:
        command.make_context(str(command.name), left, parent=context.parent, resilient_parsing=False).close()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_commands_of_the_chapter_exist(chapter: str) -> None:
    found = list(commands(chapter))
    assert len(found) > 5
    for arguments in found:
        parse(arguments)


def test_a_command_that_does_not_exist_is_found() -> None:
    for wrong in (["inspect", "sauce", "x"], ["dead", "replay", "--everything"], ["nothing"]):
        with pytest.raises(click.UsageError):
            parse(wrong)


class Till(Actor):
    settings = Settings(title="till", sources={"payments"})

    @receive
    async def pay(self, *, price: str) -> None:
        _total(price)


def _total(price: str) -> float:
    return round(price * 1.19)  # pyright: ignore[reportOperatorIssue, reportUnknownArgumentType] - what is wrong in the shop


def printed(url: str, *arguments: str) -> list[str]:
    result = CliRunner(env={"ACTORWORK_BROKER": url, "COLUMNS": "300"}).invoke(actorwork, arguments)
    assert result.exit_code == 0, result.output
    return [comparable(line) for line in result.stdout.splitlines()]


def in_the_chapter(*arguments: str) -> list[str]:
    """Return what the chapter shows below a command."""
    (block,) = re.findall(rf"^ *\$ actorwork {shlex.join(arguments)}\n(.*?)^ *```", INCIDENTS, re.DOTALL | re.MULTILINE)
    return [comparable(line) for line in block.splitlines()]


def comparable(line: str) -> str:
    """Return a line without what is another one each time: times, ids, names of machines, widths of columns."""
    for form in (r"\d{4}-\d\d-\d\dT\S+Z", r"(?<=payments )[\d-]+", r"\b[0-9a-f]{16}\b", r"\b\d+\.\d+s\b", r"\S+@\S+"):
        line = re.sub(form, "#", line)
    return re.sub(r"\s+", " ", line).strip()


def test_the_chapter_on_incidents_shows_what_the_commands_print(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.sqlite3"
    failed = trio.Event()
    count = 0

    def note(event: events.Event) -> None:
        nonlocal count
        count += isinstance(event, events.Settled)
        if count == 3:
            failed.set()

    async def shop() -> None:
        with trio.fail_after(60):
            async with open_system(Till, broker=url, emit=note), open_client(url) as client:
                for _ in range(3):
                    await client.publish("payments", {"price": "free"})
                await failed.wait()
                await client.pause(source="mails", reason="provider moves")
                await client.publish("mails", {"to": "ann"})
                await client.publish("letters", {"to": "ann"})

    trio.run(shop)

    letters = ("inspect", "source", "letters")
    assert printed(url, *letters) == in_the_chapter(*letters)
    mails = ("inspect", "source", "mails")
    heading, row, _ = in_the_chapter(*mails)
    assert printed(url, *mails)[:2] == [heading, row.replace(" 0 0 1 ", " 0 0 0 ")]  # Nobody reads it here.
    heading, cause, _ = in_the_chapter("dead", "groups")
    assert printed(url, "dead", "groups") == [heading, cause]
    (fingerprint,) = re.findall(
        r"[0-9a-f]{16}", CliRunner().invoke(actorwork, ["dead", "groups", "--broker", url]).stdout
    )
    replay = ("dead", "replay", "--all", "--fingerprint")
    assert printed(url, *replay, fingerprint[:3], "--yes") == in_the_chapter(*replay, "ed9", "--yes")
