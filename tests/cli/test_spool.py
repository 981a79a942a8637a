"""`actorwork spool`: waiting messages are listed, sent and dropped."""

from pathlib import Path

import pytest
import trio

from actorwork import Spool, open_client
from actorwork.embedded.spool import SpoolFile, row_of
from actorwork.message import Envelope

from .conftest import Shell


@pytest.fixture
def file(shell: Shell) -> Path:
    """A spool with three messages, one of which was refused."""
    path = shell.folder / "spool.sqlite3"
    spool = SpoolFile(path)
    messages = [
        Envelope("orders", "m1", b'{"number": 1}'),
        Envelope("orders", "m2", b'{"number": 2}', headers={"lang": "en"}),
        Envelope("returns", "m3", b"no json\x1b[2J"),
    ]
    spool.append([[row_of(one, 1e9) for one in messages]], max_messages=10, max_bytes=10_000)
    spool.set_aside(2, "WRONGTYPE\x1b[2J no stream")
    spool.close()
    return path


def test_without_a_file_nothing_waits(shell: Shell):
    assert shell("spool", "ls", "--spool", "nowhere").stdout == "no messages wait in nowhere\n"
    assert shell.json("spool", "ls", "--spool", "nowhere")["messages"] == 0
    assert not (shell.folder / "nowhere").exists()
    assert "there is no spool" in shell("spool", "flush", "--spool", "nowhere", code=1).stderr


def test_waiting_and_refused_messages_are_listed(shell: Shell, file: Path):
    result = shell("spool", "ls", "--spool", str(file))
    heading, *rows = result.stdout.splitlines()
    assert heading.split() == ["SOURCE", "MESSAGE", "TOLD", "BYTES", "SET", "ASIDE"]
    assert [row.split()[:3] for row in rows] == [
        ["orders", "m1", "2001-09-09T01:46:40Z"],
        ["orders", "m2", "2001-09-09T01:46:40Z"],
        ["returns", "m3", "2001-09-09T01:46:40Z"],
    ]
    assert r"WRONGTYPE\x1b[2J no stream" in rows[1]
    assert "3 messages" in result.stderr
    assert "1 of them set aside" in result.stderr


def test_waiting_messages_are_listed_as_json(shell: Shell, file: Path):
    found = shell.json("spool", "ls", "orders", "--spool", str(file))
    assert (found["messages"], found["set_aside"]) == (3, 1)
    assert found["age"] > 0
    one, two = found["listed"]
    assert (one["message_id"], one["payload"], one["set_aside"]) == ("m1", {"number": 1}, None)
    assert (two["sent_with"], two["set_aside"]) == ({"headers": {"lang": "en"}}, "WRONGTYPE\x1b[2J no stream")


def test_a_flush_sends_everything_including_refused_messages(shell: Shell, file: Path):
    assert shell("spool", "flush", "--spool", str(file)).stdout == f"sent 3 messages of {file}\n"
    assert (shell.backlog("orders"), shell.backlog("returns")) == (2, 1)
    assert shell.json("spool", "flush", "--spool", str(file)) == {"file": str(file), "sent": 0, "set_aside": 0}


def test_the_default_file_is_that_of_the_broker(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACTORWORK_HOME", str(shell.folder / "home"))

    async def leave_one() -> None:
        async with open_client(f"unix://{shell.folder}/nobody.sock", spool=Spool(patience=0.05)) as client:
            await client.publish("orders", 1)

    trio.run(leave_one)
    assert shell.json("spool", "ls", "--broker", f"unix://{shell.folder}/nobody.sock")["messages"] == 1
    assert shell.json("spool", "ls")["messages"] == 0


def test_a_flush_fails_while_the_broker_is_away(shell: Shell, file: Path):
    away = ("--broker", f"unix://{shell.folder}/nobody.sock", "--timeout", "100ms")
    assert "did not answer within 0.1 s" in shell("spool", "flush", "--spool", str(file), *away, code=1).stderr
    assert shell.json("spool", "ls", "--spool", str(file))["messages"] == 3


def test_messages_are_dropped_after_a_question(shell: Shell, file: Path):
    at = ("--spool", str(file))
    shell("spool", "drop", "m1", *at, input="n\n", code=1)
    assert shell.json("spool", "ls", *at)["messages"] == 3
    assert shell("spool", "drop", "m1", *at, input="y\n").stdout == "dropped 1 message\n"
    assert shell.json("spool", "drop", "--set-aside", "--yes", *at) == {"dropped": 1}
    assert [one["message_id"] for one in shell.json("spool", "ls", *at)["listed"]] == ["m3"]
    assert "has the id 'm1'" in shell("spool", "drop", "m1", "--yes", *at, code=1).stderr
    assert "choose which to drop" in shell("spool", "drop", *at, code=2).stderr


def test_a_file_that_is_not_a_spool_is_named(shell: Shell):
    (shell.folder / "shop.py").write_text("no database at all " * 100)
    assert "shop.py" in shell("spool", "ls", "--spool", str(shell.folder / "shop.py"), code=1).stderr
