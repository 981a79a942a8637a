"""`actorwork send` with everything that a sender can say about a message, and until its reply is there."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import click
import pytest
import trio
from click.testing import CliRunner

from actorwork import Actor, MessageInfo, Settings, Status, open_client, open_system, receive
from actorwork.abc import Broker
from actorwork.cli.waiting import LifeBar, in_words, life_in_json, wait_for_outcome
from actorwork.message import Delivery, Priority
from actorwork.records import Delayed
from actorwork.testing.conformance import open_consumer
from tests.patience import PATIENCE

from .conftest import Shell


def sent(shell: Shell, *options: str) -> Delivery:
    """Send a message, and read it."""
    shell("send", "orders", '{"number": 1}', *options)

    async def read(broker: Broker) -> Delivery:
        async with open_consumer(broker, "orders") as consumer:
            delivery = await consumer.take_one()
            await consumer.settle(delivery)
            return delivery

    found: Delivery = shell.at_broker(read)
    return found


def delayed(shell: Shell) -> Delayed:
    (found,) = shell.at_broker(lambda broker: broker.delayed.list())
    one: Delayed = found
    return one


def test_options_arrive_with_the_message(shell: Shell):
    delivery = sent(
        shell,
        *("--key", "ann", "--priority", "HIGH", "--expires", "1h"),
        *("--header", "lang=en", "--header", 'tags=["a", 1]', "--header", "sum=1=1"),
    )
    assert (delivery.key, delivery.priority) == ("ann", Priority.HIGH)
    assert delivery.headers == {"lang": "en", "tags": ["a", 1], "sum": "1=1"}
    assert delivery.expires == pytest.approx(time.time() + 3600, abs=60)


def test_a_message_expires_at_a_moment_too(shell: Shell):
    assert (
        sent(shell, "--expires", "2999-01-31T12:00:00+00:00").expires
        == datetime(2999, 1, 31, 12, tzinfo=UTC).timestamp()
    )


@pytest.mark.parametrize("option", [("--at", "2100-01-31T12:00:00+01:00"), ("--delay", "1h")])
def test_a_message_may_wait_for_its_time(shell: Shell, option: tuple[str, str]):
    shell("send", "orders", "{}", *option)
    at = datetime(2100, 1, 31, 11, tzinfo=UTC).timestamp()
    assert delayed(shell).due == pytest.approx(at if option[0] == "--at" else time.time() + 3600, abs=60)


def test_the_priority_of_a_class_is_that_of_its_actor(shell: Shell):
    file = shell.folder / "shop.py"
    file.write_text(file.read_text().replace('title="till"', 'title="till", priority=Priority.LOW'))
    file.write_text(file.read_text().replace("import Message\n", "import Message, Priority\n"))

    async def read(broker: Broker) -> list[Priority]:
        async with open_consumer(broker, "worker:a64e98ff18a83009:source") as consumer:
            return [delivery.priority for delivery in await consumer.take(2)]

    for more in ([], ["--priority", "critical"]):
        shell("send", "shop:Till", '{"seconds": 0}', *more)
    assert sorted(shell.at_broker(read)) == [Priority.CRITICAL, Priority.LOW]


def test_a_unique_message_is_refused_while_another_one_has_its_key(shell: Shell):
    shell("send", "orders", "{}", "--unique", "nightly", "--id", "17")
    refused = shell("send", "orders", "{}", "--unique", "nightly", "--id", "18", code=1).stderr
    assert refused.endswith(
        "Error: message 17 has this unique key and waits or is in flight, so this one was not sent\n"
    )
    assert "it is kept once" in shell("send", "orders", "{}", "--unique", "nightly", "--id", "17").stdout
    assert shell.backlog("orders") == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--delay", "5s", "--at", "2100-01-01"], "a message takes delay or at, not both"),
        (["--at", "tomorrow"], "'tomorrow' is not a time such as 2026-01-31T12:00"),
        (["--expires", "soon"], "'soon' is neither a duration such as 30s or 1h nor a time"),
        (["--expires", "0s"], "expires wants more than 0 seconds from now"),
        (["--expires", "inf"], "expires wants seconds from now, or a datetime"),
        (["--priority", "9"], "'9' is not one of"),
        (["--header", "lang"], "--header wants NAME=VALUE, got 'lang'"),
        (["--header", "actorwork-result-ttl=1"], "belong to the runtime"),
        (["--key", ""], "key wants"),
        (["--wait", "0s"], "at least 1ms"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(shell: Shell, options: list[str], complaint: str):
    assert complaint in shell("send", "orders", "{}", *options, code=2).stderr
    assert not (shell.folder / "messages.db").exists()


@pytest.mark.parametrize("options", [["--wait", "1s"], ["--unique", "x"]])
def test_what_is_for_one_message_is_refused_for_a_file(shell: Shell, options: list[str]):
    refused = shell("send", "orders", "--from", "-", *options, input="{}\n", code=2).stderr
    assert "--wait and --unique are for one message, not for a file" in refused


def test_all_lines_of_a_file_have_the_options(shell: Shell):
    shell("send", "orders", "--from", "-", "--key", "ann", "--delay", "1h", input="1\n2\n")
    found: Any = shell.at_broker(lambda broker: broker.delayed.list())
    assert len(found) == 2


ANSWERING = """
from typing import Any
from actorwork import Actor, Reject, Settings, receive


class Doubler(Actor):
    settings = Settings(title="doubler", sources={"numbers"})

    @receive
    async def double(self, number: Any) -> Any:
        if number == 0:
            raise Reject("nothing to double")
        return {"twice": 2 * number}
"""


def test_the_reply_is_waited_for(shell: Shell):
    (shell.folder / "answering.py").write_text(ANSWERING)
    with shell.start("run", "answering:Doubler") as process:
        try:
            first = shell("send", "numbers", "21", "--wait", "100s", "--id", "17")
            assert json.loads(first.stdout) == {"twice": 42}
            assert "sent message 17 to the source 'numbers'\n" in first.stderr
            assert shell.json("send", "numbers", "4", "--wait", "100s", "--id", "18") == {
                "id": "18",
                "source": "numbers",
                "new": True,
                "status": "done",
                "reply": {"twice": 8},
            }
            rejected = shell("send", "numbers", "0", "--wait", "100s", "--id", "19", code=1)
            assert rejected.stdout == ""
            assert rejected.stderr.endswith(
                "Error: the source 'numbers' rejected message 19 (Reject: nothing to double)\n"
            )
            failed = shell.json("send", "numbers", "null", "--wait", "100s", code=1)
            assert failed["status"] == "failed"
            assert failed["error"].startswith("TypeError")
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)


def test_the_wait_for_a_reply_ends(shell: Shell):
    late = shell("send", "numbers", "21", "--wait", "50ms", "--id", "17", code=1)
    assert late.stderr.endswith(
        "Error: no outcome of message 17 within 50ms; it may still be handled. Does a node run that reads 'numbers'?\n"
    )
    assert shell.json("send", "numbers", "21", "--wait", "50ms", code=1)["status"] == "pending"
    to_an_actor = shell("send", "actor:doubler", "21", "--wait", "50ms", "--force", code=1).stderr
    assert to_an_actor.endswith("Does a node run with the actor 'doubler'?\n")


def test_a_message_that_was_sent_before_without_asking_for_its_outcome_is_not_waited_for(shell: Shell):
    shell("send", "numbers", "21", "--id", "17")
    began = time.monotonic()
    told = shell("send", "numbers", "21", "--id", "17", "--wait", "100s", code=1).stderr
    assert told.endswith("the outcome of message 17 was not asked for when it was sent, or is kept no longer\n")
    assert time.monotonic() - began < 50


class Reporter(Actor):
    settings = Settings(title="reporter", sources={"reports"})
    seen = trio.Event()
    """Set anew by the test."""

    @receive
    async def report(self, parts: list[int]) -> int:
        self.context.progress(1, len(parts), "counting\x1b[2J")
        await self.seen.wait()
        return sum(parts)


def test_what_the_handler_reports_is_seen_by_who_waits_for_the_reply(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    Reporter.seen = trio.Event()
    infos: list[MessageInfo] = []

    async def wait(broker: Broker) -> None:
        def show(info: MessageInfo) -> None:
            infos.append(info)
            if info.progress is not None:
                Reporter.seen.set()

        async with open_system([Reporter], broker=broker), open_client(broker) as client:
            receipt = await client.ref(Reporter).submit([1, 2, 3])
            _, outcome = await wait_for_outcome(
                broker, lambda: trio.fail_after(PATIENCE), receipt.source, receipt.id, 60, show, is_sent=True
            )
        assert outcome is not None
        assert (outcome.status, outcome.value) == ("done", b"6")

    shell.at_broker(wait)
    progress = next(info for info in infos if info.progress is not None)
    assert in_words(progress) == f"STARTED: attempt 1 has begun on node {progress.node} (1/3 counting\\x1b[2J)"
    assert life_in_json(progress)["progress"]["total"] == 3
    assert infos[-1].status is Status.SUCCESS

    @click.command()
    def bar() -> None:
        with LifeBar("17") as shown:
            shown.show(progress)
            time.sleep(0.01)

    drawn = CliRunner().invoke(bar, catch_exceptions=False).stderr
    assert "17: STARTED" in drawn
    assert "1/3 counting\\x1b" in drawn


def test_no_bar_is_drawn_where_there_is_no_terminal(shell: Shell):
    late = shell("send", "numbers", "21", "--wait", "50ms", "--id", "17", code=1).stderr
    assert [line.partition(" ")[0] for line in late.splitlines()] == ["note:", "sent", "Error:"]
