"""`actorwork entities`: states are listed, shown, put and forgotten."""

from typing import Any

import pytest

from actorwork.abc import Broker
from actorwork.message import Envelope
from actorwork.policy.reports import EntityReport, NodeReport, PartReport, written
from actorwork.settings import default_source, identity
from actorwork.testing.conformance import open_consumer
from tests.cli.conftest import Shell

GROUP = identity("account")
SOURCE = default_source(GROUP)


def store(shell: Shell, key: str, *states: bytes) -> None:
    async def put(broker: Broker) -> None:
        for data in states:
            await broker.entities.put(SOURCE, GROUP, key, data, schema=2, history=5, by="ann@home")

    shell.at_broker(put)


def test_states_are_listed_and_shown_with_their_history(shell: Shell) -> None:
    store(shell, "ann", b'{"amount":1}', b'{"amount":2}')
    store(shell, "b\x1b en", b"3")
    listed = shell.json("entities", "ls", "account")
    assert [(one["key"], one["version"], one["by"], one["bytes"]) for one in listed] == [
        ("ann", 2, "ann@home", 12),
        ("b\x1b en", 1, "ann@home", 1),
    ]
    printed = shell("entities", "ls", "account", "--limit", "1")
    assert "ann@home" in printed.output
    assert "the first 1" in printed.stderr
    assert "\x1b" not in shell("entities", "ls", "account").output
    assert shell.json("entities", "ls", "account", "--since", "1h") == listed
    shown = shell.json("entities", "show", "account", "ann")
    assert (shown["version"], shown["state"], shown["schema"], shown["by"]) == (2, {"amount": 2}, 2, "ann@home")
    text = shell("entities", "show", "account", "ann").output
    assert "version: 2" in text
    assert '"amount": 2' in text
    assert [one["version"] for one in shell.json("entities", "history", "account", "ann")] == [2, 1]
    assert '{"amount":1}' in shell("entities", "history", "account", "ann").output


def test_what_is_not_there_is_said(shell: Shell) -> None:
    assert "no states of 'account'" in shell("entities", "ls", "account").output
    assert "has no state for the key 'ann'" in shell("entities", "show", "account", "ann", code=1).stderr
    assert "no changes are kept" in shell("entities", "history", "account", "ann").output
    assert "there was no state" in shell("entities", "forget", "account", "ann", "--yes").output


def test_a_misspelt_title_is_said_and_nothing_is_put_there(shell: Shell) -> None:
    shell.enter({"account": [SOURCE]})
    hint = "no actor 'acount' has run at this broker; did you mean 'account'?"
    assert hint in shell("entities", "ls", "acount").output
    assert hint in shell("entities", "show", "acount", "ann", code=1).stderr
    assert hint in shell("entities", "history", "acount", "ann").output
    assert hint in shell("entities", "forget", "acount", "ann", "--yes").output
    assert hint in shell("entities", "put", "acount", "ann", "1", code=1).stderr
    assert shell.json("entities", "ls", "acount") == []
    assert shell.json("entities", "put", "acount", "ann", "1", "--force")["version"] == 1
    assert shell.json("entities", "put", "acount", "ann", "2")["version"] == 2
    assert "has run" not in shell("entities", "show", "account", "ann", code=1).stderr


def test_a_state_is_put_by_its_version_and_recorded(shell: Shell) -> None:
    shell.enter({"account": [SOURCE]})
    put = ("entities", "put", "account", "ann")
    assert "version 1 now" in shell(*put, '{"amount": 7}', "--version", "0", "--reason", "a refund").output
    assert "it has the version 1, not 5" in shell(*put, "8", "--version", "5", code=1).stderr
    assert shell.json(*put, "[8]") == {"key": "ann", "version": 2}
    assert "is not JSON" in shell(*put, "{", code=2).stderr
    assert "is not JSON" in shell(*put, "NaN", code=2).stderr
    (first, *_) = [row for row in shell.recorded() if row[0] == "put-state"]
    assert first[1] == "account/ann"
    assert shell.json("entities", "show", "account", "ann")["state"] == [8]
    assert [one["version"] for one in shell.json("entities", "history", "account", "ann")] == [2, 1]


def test_a_state_is_forgotten_when_that_is_confirmed(shell: Shell) -> None:
    store(shell, "ann", b"1")
    asked = shell("entities", "forget", "account", "ann", input="n\n", code=1)
    assert "Delete the state of 'ann' of 'account'" in asked.stderr
    assert shell.json("entities", "show", "account", "ann")["version"] == 1
    assert shell.json("entities", "forget", "account", "ann", "--yes") == {"key": "ann", "forgotten": True}
    shell("entities", "show", "account", "ann", code=1)


def test_no_state_is_put_while_a_message_of_its_key_is_in_hand_unless_that_is_forced(shell: Shell) -> None:
    async def send(broker: Broker) -> None:
        await broker.publish([Envelope(SOURCE, "1", b"1", key="ann")])

    async def take(broker: Broker) -> None:
        async with open_consumer(broker, SOURCE, group=GROUP) as consumer:
            await consumer.take_one()

    shell.enter({"account": [SOURCE]})
    shell.at_broker(send)
    shell("entities", "put", "account", "ann", "1")  # It waits: no node has it.
    shell.at_broker(take)  # Its node has died since, and it is to run again.
    assert "is handling a message of this key" in shell("entities", "put", "account", "ann", "2", code=1).stderr
    assert "is handling a message of this key" in shell("entities", "forget", "account", "ann", "--yes", code=1).stderr
    assert shell.json("entities", "put", "account", "ann", "2", "--force")["version"] == 2
    assert shell.json("entities", "forget", "account", "ann", "--force", "--yes")["forgotten"]


def test_a_state_that_is_put_is_listed_with_the_changes_of_its_key(shell: Shell) -> None:
    store(shell, "ann", b"1", b"2")
    shell("entities", "put", "account", "ann", "3")
    assert [one["version"] for one in shell.json("entities", "history", "account", "ann")] == [3, 2, 1]


def test_doctor_and_lists_name_the_keys_whose_states_no_node_can_read(shell: Shell) -> None:
    async def report(broker: Broker) -> None:
        now, _ = await broker.reports.nodes()
        entities = EntityReport(stalled=2, stalled_keys=("ann's", "ben"))
        tree = PartReport(title="account", sources=(SOURCE,), entities=entities)
        found = NodeReport(name="h:7", host="h", pid=7, version="1", started=now, at=now, interval=300, tree=tree)
        await broker.reports.write("0123", written(found), now=now, ttl=60)

    store(shell, "ann's", b"1")
    store(shell, "cal", b"1")
    assert not [one for one in shell.json("doctor") if one["subject"] == "entities"]
    shell.at_broker(report)
    (found,) = [one for one in shell.json("doctor") if one["subject"] == "entities"]
    assert found["level"] == "warning"
    assert found["text"] == "account: a node cannot read the state of \"ann's\", 'ben': messages wait for one that can"
    assert found["advice"].startswith("""actorwork entities show account 'ann'"'"'s'; start a program""")
    assert "put" in found["advice"]
    listed = shell("entities", "ls", "account")
    assert found["text"].removeprefix("account: ") in listed.stderr
    assert {one["key"]: one["is_stalled"] for one in shell.json("entities", "ls", "account")} == {
        "ann's": True,
        "cal": False,
    }
    assert "stalled: a node cannot read it" in shell("entities", "show", "account", "ann's").output
    assert shell.json("entities", "show", "account", "ann's")["is_stalled"]
    assert "stalled" not in shell("entities", "show", "account", "cal").output


def test_a_state_that_is_put_is_kept_for_as_long_as_before_unless_an_option_says_more(shell: Shell) -> None:
    found: list[float | None] = []

    async def look(broker: Any) -> None:
        def ttl(store: Any) -> float | None:
            return store.entities.ttl(store.find_source(SOURCE), GROUP, "ann")

        found.append(await broker.entities._writer.ask(ttl))

    shell.enter({"account": [SOURCE]})
    for options in ([], ["--ttl", "1h"], [], ["--forever"], []):
        shell("entities", "put", "account", "ann", "1", *options)
        shell.at_broker(look)
    assert found == [None, pytest.approx(3600), pytest.approx(3600), None, None]
    refused = shell("entities", "put", "account", "ann", "1", "--ttl", "1h", "--forever", code=2)
    assert "--ttl and --forever contradict each other" in refused.stderr
