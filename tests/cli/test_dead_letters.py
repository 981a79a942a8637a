"""`actorwork dead`: what nobody could handle is shown, sent again, or dropped after a question."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from actorwork.abc import Broker
from actorwork.actors.actor import Actor
from actorwork.actors.handlers import receive
from actorwork.message import DeadLetter, Envelope
from actorwork.runtime.system import open_system
from actorwork.settings import Settings

from .conftest import Shell


class Till(Actor):
    settings = Settings(title="till", sources={"orders", "returns"})

    @receive
    async def take(self, *, number: int) -> None:
        raise ValueError(f"no order has the number {number}\x1b[2J")


MESSAGES = [
    Envelope(source="orders", id="m1", data=b'{"number": 1}', headers={"lang": "en"}),
    Envelope(source="orders", id="m2", data=b'{"number": 2}'),
    Envelope(source="returns", id="m3", data=b"no json\x1b[2J"),
]


async def make_dead_letters(broker: Broker) -> Sequence[DeadLetter]:
    await broker.publish(MESSAGES)
    async with open_system([Till], broker=broker, grace=1):
        while len(letters := await broker.dead_letters.list()) < len(MESSAGES):  # noqa: ASYNC110 - no event says it
            await trio.sleep(0.01)
    return letters


@pytest.fixture
def letters(shell: Shell) -> dict[str, DeadLetter]:
    made: Sequence[DeadLetter] = shell.at_broker(make_dead_letters)
    return {letter.id: letter for letter in made}


def ids(shell: Shell, *arguments: str) -> list[str]:
    return [letter["message_id"] for letter in shell.json("dead", "ls", *arguments)]


def test_without_dead_letters_there_is_nothing_to_list(shell: Shell):
    assert shell("dead", "ls").stdout == "no dead letters\n"
    assert shell("dead", "ls", "orders").stdout == "no dead letters of 'orders'\n"
    assert shell.json("dead", "ls") == []


def test_dead_letters_are_listed(shell: Shell, letters: dict[str, DeadLetter]):
    heading, *rows = shell("dead", "ls", "orders").stdout.splitlines()
    assert heading.split() == ["SOURCE", "ENTRY", "MESSAGE", "ACTOR", "ATTEMPT", "FAILED", "ERROR"]
    assert [row.split()[:5] for row in rows] == [
        ["orders", letters["m1"].entry, "m1", "till", "1"],
        ["orders", letters["m2"].entry, "m2", "till", "1"],
    ]
    assert "ValueError: no order has the number 1" in rows[0]


def test_a_list_may_be_cut_short(shell: Shell, letters: dict[str, DeadLetter]):
    result = shell("dead", "ls", "--limit", "2")
    assert len(result.stdout.splitlines()) == 3
    assert "(the first 2; --limit shows more)" in result.stderr


def test_a_dead_letter_is_shown_in_full(shell: Shell, letters: dict[str, DeadLetter]):
    shown = shell("dead", "show", "orders", letters["m1"].entry).stdout
    for part in ("message: m1\n", "actor: till (", "attempt: 1\n", "header lang: en\n", '"number": 1', "Traceback"):
        assert part in shown


def test_a_dead_letter_is_found_by_the_id_that_logs_show(shell: Shell, letters: dict[str, DeadLetter]):
    assert f"entry: {letters['m2'].entry}\n" in shell("dead", "show", "orders", "m2").stdout


def test_programs_are_given_everything(shell: Shell, letters: dict[str, DeadLetter]):
    shown: dict[str, Any] = shell.json("dead", "show", "orders", "m1")
    assert shown.pop("traceback").startswith("Traceback")
    assert shown.pop("failed_at").endswith("Z")
    assert shown == {
        "source": "orders",
        "entry": letters["m1"].entry,
        "message_id": "m1",
        "actor_id": Till.settings.id,
        "actor": "till",
        "attempt": 1,
        "error": "ValueError: no order has the number 1\x1b[2J",
        "type": None,
        "headers": {"lang": "en"},
        "payload_is": "json",
        "payload": {"number": 1},
    }


def test_a_payload_that_is_no_json_is_shown_as_it_is(shell: Shell, letters: dict[str, DeadLetter]):
    assert shell.json("dead", "show", "returns", "m3")["payload_is"] == "bytes"
    assert "no json\\x1b[2J" in shell("dead", "show", "returns", "m3").stdout


@pytest.mark.parametrize("command", [("ls",), ("show", "orders", "m1"), ("show", "returns", "m3")])
def test_a_dead_letter_cannot_command_the_terminal(
    shell: Shell, letters: dict[str, DeadLetter], command: tuple[str, ...]
):
    assert "\x1b" not in shell("dead", *command).output


def test_what_is_not_there_is_named(shell: Shell, letters: dict[str, DeadLetter]):
    for command in ("show", "replay"):
        refused = shell("dead", command, "orders", "m9", code=1)
        assert "no dead letter of 'orders' has the entry or message id 'm9'" in refused.stderr


def test_replaying_sends_a_message_again(shell: Shell, letters: dict[str, DeadLetter]):
    assert shell("dead", "replay", "orders", letters["m1"].entry, "m2").stdout == "replayed 2 dead letters\n"
    assert ids(shell) == ["m3"]
    assert shell.backlog("orders") == 2


def test_replaying_all_asks_first(shell: Shell, letters: dict[str, DeadLetter]):
    refused = shell("dead", "replay", "--all", input="n\n", code=1)
    assert "replay 3 dead letters of all sources? [y/N]" in refused.stderr
    assert len(ids(shell)) == 3
    assert shell.json("dead", "replay", "orders", "--all", input="y\n") == {"replayed": 2}
    assert shell.json("dead", "replay", "--all", "--yes") == {"replayed": 1}
    assert ids(shell) == []


def test_dropping_asks_first(shell: Shell, letters: dict[str, DeadLetter]):
    assert "drop 1 dead letter of 'orders'?" in shell("dead", "drop", "orders", "m1", input="n\n", code=1).stderr
    assert shell("dead", "drop", "orders", "m1", input="y\n").stdout == "dropped 1 dead letter\n"
    assert shell.json("dead", "drop", "--all", "--yes") == {"dropped": 2}
    assert ids(shell) == []
    assert shell.backlog("orders") == 0


@pytest.mark.parametrize("arguments", [[], ["orders"], ["orders", "m1", "--all"]])
def test_which_ones_has_to_be_said(shell: Shell, arguments: list[str]):
    assert "say which to drop" in shell("dead", "drop", *arguments, code=2).stderr


def test_all_of_nothing_is_nothing(shell: Shell):
    assert json.loads(shell("dead", "replay", "--all", "--json").stdout) == {"replayed": 0}
