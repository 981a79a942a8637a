"""`actorwork audit`, `purge` and `messages`."""

from actorwork.abc import Broker
from actorwork.message import RESULT_TTL, Envelope
from tests.cli.conftest import Shell


def test_what_users_did_is_listed(shell: Shell):
    async def act(broker: Broker) -> None:
        await broker.audit.complete(
            await broker.audit.append("purge", "orders", who="ann", reason="\x1b[2Ja test"), "done", 3
        )
        await broker.audit.append("replay", "mail", who="ben", role="operator", ip="192.0.2.7")

    assert shell("audit").stdout == "nothing was done so far\n"
    shell.at_broker(act)
    lines = shell("audit").stdout.splitlines()
    assert lines[0].split() == ["AT", "WHO", "ACTION", "WHAT", "COUNT", "OUTCOME", "REASON", "ROLE", "IP"]
    assert lines[1].split()[1:] == ["ben", "replay", "mail", "operator", "192.0.2.7"]
    assert lines[2].split()[1:] == ["ann", "purge", "orders", "3", "done", "\\x1b[2Ja", "test"]
    (newest,) = shell.json("audit", "--limit", "1")
    assert (newest["who"], newest["outcome"], newest["how_many"]) == ("ben", "", None)
    assert newest["at"].endswith("Z")


def test_a_purge_counts_asks_and_drops(shell: Shell):
    async def send(broker: Broker) -> None:
        await broker.publish([Envelope("orders", str(number), b"1", delay=600 * (number > 1)) for number in range(5)])

    shell.at_broker(send)
    shell.enter({"till": ["orders"]})
    assert shell("purge", "orders", "--dry-run").stdout == "would drop 5 messages (2 ready, 3 delayed) of 'orders'\n"
    assert "nothing was done: this command asks first" in shell("purge", "orders", code=1).stderr
    assert shell.backlog("orders") == 2
    declined = shell("purge", "orders", input="n\n", code=1)
    assert "Drop 5 messages (2 ready, 3 delayed) of 'orders'?" in declined.stderr
    assert shell.json("audit") == []
    assert shell("purge", "orders", "--yes", "--reason", "a test").stdout == "dropped 5 messages of 'orders'\n"
    assert shell.backlog("orders") == 0
    (entry,) = shell.json("audit")
    assert (entry["action"], entry["what"], entry["how_many"], entry["reason"]) == ("purge", "orders", 5, "a test")
    assert shell.json("purge", "orders", "--yes") == {
        "source": "orders",
        "ready": 0,
        "delayed": 0,
        "behind": 0,
        "steps_of_runs": 0,
        "dropped": 0,
    }
    assert "did you mean 'orders'?" in shell("purge", "oders", "--dry-run").stderr
    assert shell("purge", "actor:till", "--dry-run").stdout.startswith("would drop 0 messages of 'worker:")
    refused = shell("purge", "no source", code=2).stderr
    assert "a source is 1 to 300 characters" in refused
    assert "that of an actor is written actor:TITLE; got 'no source'" in refused


def test_messages_are_listed_by_state_and_it_says_how_many_were_searched(shell: Shell):
    async def send(broker: Broker) -> None:
        await broker.publish(
            [
                Envelope(
                    "orders", str(number), b'{"number": %d}' % number, headers={RESULT_TTL: 60.0}, delay=600 * number
                )
                for number in range(3)
            ]
        )

    assert shell("messages").stderr.endswith("all 0 messages searched\n")
    assert "no actor that reads the source 'odres' has run" in shell("messages", "--source", "odres").stderr
    assert "a source is 1 to 300 characters" in shell("messages", "--source", "or ders", code=2).stderr
    shell.at_broker(send)
    shell.enter({"till": ["orders"]})
    listed = shell("messages", "--actor", "till", "--state", "delayed")
    assert [line.split()[1:4] for line in listed.stdout.splitlines()[1:]] == [
        ["2", "orders", "delayed"],
        ["1", "orders", "delayed"],
    ]
    assert '{"number": 2}' in listed.stdout
    assert listed.stderr == "all 3 messages searched: 1 waiting, 2 delayed\n"
    assert shell("messages", "--search", "2").stderr == "the newest 2 messages searched: 2 delayed\n"
    answer = shell.json("messages", "--source", "orders", "--state", "waiting")
    assert (answer["searched"], answer["complete"]) == (3, True)
    (waiting,) = answer["messages"]
    assert (waiting["id"], waiting["state"], waiting["message"]) == ("0", "waiting", '{"number": 0}')
    assert waiting["headers"] == {RESULT_TTL: 60.0}
    for filters in (("--key", "k"), ("--unique", "k"), ("--header", f"{RESULT_TTL}=61.0")):
        assert shell.json("messages", *filters)["messages"] == []
    assert len(shell.json("messages", "--header", f"{RESULT_TTL}=60.0")["messages"]) == 3
    assert "'tenant' is not NAME=VALUE" in shell("messages", "--header", "tenant", code=2).stderr
    assert "a state of messages is one of waiting" in shell("messages", "--state", "lost", code=1).stderr
    assert "no actor 'tlil' has run" in shell("messages", "--actor", "tlil", code=1).stderr
    assert "choose one of --actor" in shell("messages", "--actor", "a", "--source", "b", code=2).stderr
