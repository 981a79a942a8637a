"""`actorwork dead`: dead letters are listed, sent again, changed, dropped and exported."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, cast

import pytest
import redis
import trio

from actorwork.abc import Broker
from actorwork.actors.actor import Actor
from actorwork.actors.handlers.table import receive
from actorwork.clients import dead_letters
from actorwork.message import Envelope
from actorwork.records import DeadLetter
from actorwork.runtime.system import open_system
from actorwork.settings import Settings, identity
from actorwork.testing.memory import MemoryBroker
from tests.patience import PATIENCE

from .conftest import HOUSE, Shell


class Till(Actor):
    settings = Settings(title="till", sources={"orders", "returns"})

    @receive
    async def take(self, *, number: int) -> None:
        raise ValueError(f"no order has the number {number}\x1b[2J")


MESSAGES = [
    Envelope(source="orders", id="m1", data=b'{"number": 1}', headers={"lang": "en"}),
    Envelope(source="orders", id="m2", data=b'{"number": 2}'),
    Envelope(source="returns", id="m3", data=b"no json\x1b[2J\nerror: none"),
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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("actor:tlil", "--all"), "no actor 'tlil' has run at this broker; did you mean 'till'?"),
        (("--all", "--actor", "tlil"), "no actor 'tlil' has run at this broker; did you mean 'till'?"),
        (("oders", "--all"), "no actor that has run at this broker reads the source 'oders'; did you mean 'orders'?"),
        (("actor:till", "--all", "--actor", "till"), ""),
        (("--all", "--actor", identity("till")), ""),
        (("--all",), ""),
    ],
)
def test_where_nothing_was_found_names_that_may_have_been_meant_are_told(
    shell: Shell, arguments: tuple[str, ...], told: str
):
    shell.enter({"till": ["orders"]})
    result = shell("dead", "replay", *arguments, "--yes")
    assert result.stdout == "replayed 0 dead letters\n"
    assert result.stderr.strip() == told


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
    assert "\n  Traceback (most recent call last)" in shown, "it may hold lines of the message, so it is indented"


def test_a_dead_letter_is_found_by_the_id_that_logs_show(shell: Shell, letters: dict[str, DeadLetter]):
    assert f"entry: {letters['m2'].entry}\n" in shell("dead", "show", "orders", "m2").stdout


def test_json_contains_everything(shell: Shell, letters: dict[str, DeadLetter]):
    shown: dict[str, Any] = shell.json("dead", "show", "orders", "m1")
    assert shown.pop("traceback").startswith("Traceback")
    assert shown.pop("failed_at").endswith("Z")
    assert shown.pop("fingerprint") == shell.json("dead", "show", "orders", "m2")["fingerprint"]
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


def test_json_on_a_terminal_commands_nothing_and_its_values_are_exact(shell: Shell):
    text = "\x9b31m\u202e\ud800"
    letter = Envelope(source="orders", id="m4", data=json.dumps({"text": text}).encode())

    async def fail(broker: Broker) -> None:
        await broker.publish([letter])
        async with open_system([Till], broker=broker, grace=1):
            while not await broker.dead_letters.list():  # noqa: ASYNC110 - no event says it
                await trio.sleep(0.01)

    shell.at_broker(fail)
    printed = shell("dead", "ls", "--json").stdout
    assert printed.replace("\n", "").isprintable()
    assert json.loads(printed)[0]["payload"] == {"text": text}
    assert json.loads(shell("dead", "export").stdout)["payload"] == {"text": text}
    shown = shell("dead", "show", "orders", "m4").stdout
    assert shown.replace("\n", "").isprintable()


def test_a_payload_that_is_no_json_is_shown_as_it_is(shell: Shell, letters: dict[str, DeadLetter]):
    assert shell.json("dead", "show", "returns", "m3")["payload_is"] == "bytes"
    shown = shell("dead", "show", "returns", "m3").stdout
    assert "  no json\\x1b[2J\n  error: none\n" in shown, "with an indent, or its lines could be taken for ours"


@pytest.mark.parametrize("command", [("ls",), ("show", "orders", "m1"), ("show", "returns", "m3")])
def test_a_dead_letter_cannot_control_the_terminal(
    shell: Shell, letters: dict[str, DeadLetter], command: tuple[str, ...]
):
    assert "\x1b" not in shell("dead", *command).output


def test_a_missing_letter_is_named(shell: Shell, letters: dict[str, DeadLetter]):
    for command in ("show", "replay"):
        refused = shell("dead", command, "orders", "m9", code=1)
        assert "no dead letter of 'orders' has the entry or message id 'm9'" in refused.stderr


def test_replaying_sends_a_message_again(shell: Shell, letters: dict[str, DeadLetter]):
    assert shell("dead", "replay", "orders", letters["m1"].entry, "m2").stdout == "replayed 2 dead letters\n"
    assert ids(shell) == ["m3"]
    assert shell.backlog("orders") == 2
    assert shell.recorded() == [
        ("replay", f"dead letters: source orders, {letters['m1'].entry} m2", 2, "done"),
    ]


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
    assert shell.recorded()[1] == ("drop", "dead letters: all", 2, "done")
    assert ids(shell) == []
    assert shell.backlog("orders") == 0


@pytest.mark.parametrize("arguments", [[], ["orders"], ["orders", "m1", "--all"]])
def test_a_command_needs_a_choice_of_letters(shell: Shell, arguments: list[str]):
    assert "choose which to drop" in shell("dead", "drop", *arguments, code=2).stderr


def test_all_of_nothing_is_nothing(shell: Shell):
    assert json.loads(shell("dead", "replay", "--all", "--json").stdout) == {"replayed": 0}


# ---------------------------------------------------------------------------------------------------- which are meant


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        (("--actor", "till"), ["m1", "m2", "m3"]),
        (("--actor", Till.settings.id), ["m1", "m2", "m3"]),
        (("--actor", "other"), []),
        (("--error", "CodecError"), ["m3"]),
        (("--error", "ValueError", "--text", "NUMBER 2"), ["m2"]),
        (("--since", "1h"), ["m1", "m2", "m3"]),
        (("--until", "1h"), []),
        (("--until", "2001-01-01"), []),
        (("--since", "2001-01-01T00:00:00+00:00"), ["m1", "m2", "m3"]),
    ],
)
def test_options_select_letters(
    shell: Shell, letters: dict[str, DeadLetter], options: tuple[str, ...], meant: list[str]
):
    assert sorted(ids(shell, *options)) == meant
    if not meant:
        assert shell("dead", "ls", *options).stdout == "no such dead letters\n"


def test_an_invalid_time_is_refused(shell: Shell):
    assert "'yesterday' is not a time such as 2h (ago)" in shell("dead", "ls", "--since", "yesterday", code=2).stderr


def test_letters_are_grouped_by_cause(shell: Shell, letters: dict[str, DeadLetter]):
    first, second = shell.json("dead", "groups")
    assert (first["count"], first["sources"], first["example"]["message_id"]) == (2, {"orders": 2}, "m2")
    assert (second["count"], second["example"]["message_id"]) == (1, "m3")
    assert sorted(ids(shell, "--fingerprint", first["fingerprint"][:6])) == ["m1", "m2"]
    heading, row, _ = shell("dead", "groups").stdout.splitlines()
    assert heading.split()[:3] == ["FINGERPRINT", "LETTERS", "ACTOR"]
    assert row.split()[:3] == [first["fingerprint"], "2", "till"]
    assert shell("dead", "groups", "--error", "KeyError").stdout == "no such dead letters\n"


def test_all_selected_letters_are_replayed_or_dropped(shell: Shell, letters: dict[str, DeadLetter]):
    fingerprint = shell.json("dead", "show", "orders", "m1")["fingerprint"]
    assert shell.json("dead", "drop", "--all", "--yes", "--error", "CodecError") == {"dropped": 1}
    assert shell.json("dead", "replay", "--all", "--yes", "--fingerprint", fingerprint) == {"replayed": 2}
    assert "go with --all" in shell("dead", "drop", "orders", "m1", "--error", "KeyError", code=2).stderr


def test_many_letters_are_read_page_by_page(
    shell: Shell, letters: dict[str, DeadLetter], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dead_letters, "PAGE", 1)
    assert len(ids(shell)) == 3
    assert ids(shell, "--limit", "2") == ["m1", "m2"]
    assert shell.json("dead", "show", "orders", "m2")["entry"] == letters["m2"].entry
    assert shell.json("dead", "replay", "--all", "--yes") == {"replayed": 3}


async def test_replaying_letters_that_fail_again_at_once_ends(mock_clock: object):
    broker = MemoryBroker()
    async with open_system(Till, broker=broker):
        for number in range(20):
            await broker.publish([Envelope("orders", str(number), b'{"number": 1}')])
        before = await dead_letters.take_snapshot(broker.dead_letters)
        assert (before.count, before.counts) == (20, {"orders": 20})
        replayed = 0
        async with aclosing(dead_letters.pages(broker.dead_letters, until=before)) as pages:
            async for page in pages:
                replayed += await broker.dead_letters.replay("orders", [letter.entry for letter in page])
                await trio.sleep(1)
        assert replayed == 20
        assert len(broker.dead_letters.all) == 20


# ------------------------------------------------------------------------------------------------- sent again, changed


def sent_again(shell: Shell) -> list[Any]:
    """Return the payloads that the actor takes now."""
    taken: list[Any] = []

    class Patient(Actor):
        settings = Till.settings

        @receive
        async def take(self, message: object) -> None:
            taken.append(message)

    async def look(broker: Broker) -> None:
        async with open_system(Patient, broker=broker):
            while await broker.backlog("orders") or await broker.backlog("returns"):  # noqa: ASYNC110 - no event says it
                await trio.sleep(0.01)

    shell.at_broker(look)
    return taken


@pytest.mark.parametrize(
    ("options", "payload"),
    [
        (("--data", '{"number": 7}'), {"number": 7}),
        (("--set", "number=8"), {"number": 8}),
        (("--set", "name=Ann", "--set", "tags=[1]"), {"number": 1, "name": "Ann", "tags": [1]}),
        (("--set", "address={}", "--set", "address.city=Ulm"), {"number": 1, "address": {"city": "Ulm"}}),
    ],
)
def test_a_letter_is_sent_again_with_another_message(
    shell: Shell, letters: dict[str, DeadLetter], options: tuple[str, ...], payload: Any
):
    assert shell.json("dead", "replay", "orders", "m1", *options) == {"replayed": 1, "payload": payload}
    assert ids(shell) == ["m2", "m3"]
    assert sent_again(shell) == [payload]
    what = f"dead letter {letters['m1'].entry} of orders"
    assert shell.recorded() == [("edit and replay", what, None, "done")]


def test_a_letter_is_edited_and_sent_again(
    shell: Shell, letters: dict[str, DeadLetter], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EDITOR", "sed -i s/1/5/")
    assert shell("dead", "replay", "orders", "m1", "--edit").stdout == 'replayed message m1 as {"number":5}\n'
    assert ids(shell) == ["m2", "m3"]
    monkeypatch.setenv("EDITOR", "true")
    assert "nothing was changed" in shell("dead", "replay", "orders", "m2", "--edit", code=1).stderr
    assert ids(shell) == ["m2", "m3"]


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("m1", "--data", "{"), "nothing was sent", 1),
        (("m1", "--set", "number"), "--set wants FIELD=VALUE", 2),
        (("m1", "--set", "number.deep=1"), "no object in which 'number.deep'", 1),
        (("m1", "m2", "--data", "1"), "want one ENTRY", 2),
        (("m1", "--data", "1", "--set", "a=1"), "choose one of", 2),
    ],
)
def test_an_impossible_change_sends_nothing(
    shell: Shell, letters: dict[str, DeadLetter], arguments: tuple[str, ...], said: str, code: int
):
    assert said in shell("dead", "replay", "orders", *arguments, code=code).stderr
    assert len(ids(shell)) == 3


def test_fields_of_a_message_that_is_not_json_cannot_be_set(shell: Shell, letters: dict[str, DeadLetter]):
    assert "not JSON" in shell("dead", "replay", "returns", "m3", "--set", "a=1", code=1).stderr
    assert shell.json("dead", "replay", "returns", "m3", "--data", "{}") == {"replayed": 1, "payload": {}}


# ---------------------------------------------------------------------------------------------------------- elsewhere


def test_letters_are_exported_and_sent_again_from_the_file(shell: Shell, letters: dict[str, DeadLetter]):
    result = shell("dead", "export", "--to", "letters.ndjson")
    assert "exported 3 dead letters" in result.stderr
    lines = [json.loads(line) for line in (shell.folder / "letters.ndjson").read_text().splitlines()]
    assert [line["message_id"] for line in lines] == ["m1", "m2", "m3"]
    assert len(ids(shell)) == 3
    assert shell.json("dead", "drop", "--all", "--yes") == {"dropped": 3}
    assert shell("dead", "import", "letters.ndjson").stdout == "sent 3 messages\n"
    assert shell.json("dead", "import", "letters.ndjson") == {"read": 3, "new": 0}
    assert shell.backlog("orders") == 2
    assert shell.backlog("returns") == 1


@pytest.mark.parametrize("command", [("dead", "export"), ("export", "orders")])
def test_an_export_whose_reader_has_gone_ends_without_a_word(
    shell: Shell, letters: dict[str, DeadLetter], command: tuple[str, ...]
):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "actorwork", *command],
            env={**os.environ, "PYTHONPATH": str(HOUSE), "ACTORWORK_BROKER": shell.url},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_an_export_can_be_selected_and_piped(shell: Shell, letters: dict[str, DeadLetter]):
    exported = shell("dead", "export", "orders", "--text", "number 2").stdout
    assert json.loads(exported)["message_id"] == "m2"
    assert shell.json("dead", "import", "-", input=exported) == {"read": 1, "new": 1}


def test_an_invalid_line_is_named_and_nothing_is_sent(shell: Shell, letters: dict[str, DeadLetter]):
    exported = shell("dead", "export").stdout
    refused = shell("dead", "import", "-", input=exported + "{}\n", code=1)
    assert "line 4 is not an exported dead letter" in refused.stderr
    assert shell.backlog("orders") == 0


def test_a_letter_that_cannot_be_replayed_does_not_keep_the_others(shell: Shell, redis_url: str):
    there = Shell(shell.folder, redis_url)
    client: Any = cast("Any", redis.Redis).from_url(redis_url, socket_timeout=None)
    many = b"".join(b"2:%02d1:x" % (number % 100) if number < 100 else b"4:%04d1:x" % number for number in range(3600))
    with client:
        for name, message in (("1", ("m:data", "1")), ("2", ("packed", many)), ("3", ("m:data", "3"))):
            client.execute_command("XADD", "actorwork:{orders}:dead", "*", "id", name, "group", "g", *message)
        there("dead", "replay", "orders", "--all", "--yes", code=1)
        said = there("dead", "replay", "orders", "--all", "--yes", code=1).output
        assert "not replayed: the dead letter" in said
        assert "more than a script can send again" in said
        assert client.execute_command("XLEN", "orders") == 2
        assert client.execute_command("XLEN", "actorwork:{orders}:dead") == 1


def test_an_actors_own_source_goes_by_its_title(shell: Shell):
    async def fail(broker: Broker) -> None:
        own = Till.settings.default_source
        await broker.publish([Envelope(source=own, id="m1", data=b'{"number": 1}')])
        async with open_system([Till], broker=broker):
            with trio.fail_after(PATIENCE):
                while not await broker.dead_letters.list(own):  # noqa: ASYNC110 - no event says it
                    await trio.sleep(0.01)

    shell.at_broker(fail)
    assert "actor:till" in shell("dead", "ls").stdout
    assert "actor:till" in shell("dead", "groups").stdout
    shown = shell("dead", "show", "actor:till", "m1").stdout
    assert "actor:till" in shown
    assert "no order has the number 1" in shown
    (letter,) = shell.json("dead", "ls", "actor:till")
    assert letter["source"] == Till.settings.default_source
