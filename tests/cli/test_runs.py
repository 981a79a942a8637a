"""`actorwork runs`, and `result` and `cancel` for submitted messages."""

import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from actorwork import Actor, Client, MessageFailed, Settings, open_client, open_system, receive
from actorwork.abc import Broker
from actorwork.cli.commands import actorwork
from actorwork.cli.runs import STATUSES
from actorwork.clients.runs import Run
from actorwork.policy.runs.rules import OPEN
from actorwork.policy.runs.values import Status
from actorwork.workflows import Flow, signal, step, together
from tests.cli.conftest import Shell
from tests.patience import PATIENCE
from tests.workflows.shop import Calculator, Clerk, Flaky, Note, Square, Text, Wait

READING = (("runs", "ls"), ("runs", "show", "x"), ("runs", "graph", "x"), ("result", "calculator", "x"))
CHANGING = (
    ("runs", "cancel", "x"),
    ("runs", "retry", "x"),
    ("runs", "pause", "x"),
    ("runs", "resume", "x"),
    ("runs", "forget", "x"),
    ("runs", "signal", "x", "y"),
    ("cancel", "calculator", "x"),
)


class Stubborn(Actor):
    """Cannot be cancelled while it may not end."""

    settings = Settings(title="stubborn")
    may_end = False

    @receive
    async def stay(self, *, what: str) -> str:
        with trio.CancelScope(shield=True):
            while not self.may_end:  # noqa: ASYNC110 - a test sets no event of this loop's
                await trio.sleep(0.01)
        return what


def with_client(shell: Shell, act: Callable[[Client], Awaitable[Any]], *, node: bool = False) -> Any:
    """Do something with a client, while a node runs or none."""

    async def talk(broker: Broker) -> Any:
        async with open_client(broker) as client:
            if not node:
                return await act(client)
            async with open_system([Calculator, Clerk, Stubborn], broker=broker):
                return await act(client)

    return shell.at_broker(talk)


@pytest.fixture
def started(shell: Shell) -> Shell:
    """One run that is done, one that has failed, and one that waits for its signal."""

    async def start(client: Client) -> None:
        same = step(Calculator, Text(4.0))
        done = await client.start(Flow(step(Calculator, Text(same.result)), title="squares"), id="done")
        await done.result()
        failing = step(Calculator, Flaky(7), name="flaky")
        failed = await client.start(step(Calculator, Square(failing.result)), id="failed")
        async with failed.watch() as updates:
            async for _ in updates:
                pass
        approved = signal("approval", bool)
        asked = await client.start(step(Clerk, Note(approved.result)), id="asked")
        assert await asked.status() is Status.STARTED

    with_client(shell, start, node=True)
    return shell


def test_runs_are_listed_latest_first_and_by_status(started: Shell):
    output = started("runs", "ls").stdout
    assert [line.split()[0] for line in output.splitlines()] == ["ID", "asked", "failed", "done"]
    assert "'flaky' failed: ValueError: 7 is odd" in output
    assert [one["id"] for one in started.json("runs", "ls", "--status", "failure", "--status", "SUCCESS")] == [
        "failed",
        "done",
    ]
    assert [one["id"] for one in started.json("runs", "ls", "--limit", "1")] == ["asked"]
    assert started("runs", "ls", "--limit", "1").stderr == "(the latest 1; --limit shows more)\n"
    assert started("runs", "ls", "--status", "HELD").stdout == "no such runs\n"
    assert "'succes' is not one of" in started("runs", "ls", "--status", "succes", code=2).stderr


def test_each_status_of_a_run_can_be_listed():
    assert set(STATUSES) == {*OPEN, *(one for one in Status if one.is_final)} - {Status.REJECTED, Status.EXPIRED}


def test_one_run_is_shown_with_its_steps(started: Shell):
    output = started("runs", "show", "failed").stdout
    assert "status: FAILURE\nreason: 'flaky' failed: ValueError: 7 is odd\nended: 2/2 steps\n" in output
    rows = [line.strip().split(maxsplit=4) for line in output.splitlines()[-2:]]
    assert [row[:4] for row in rows] == [
        ["0", "flaky", "FAILURE", "calculator"],
        ["1", "calculator", "CANCELLED", "calculator"],
    ]
    assert rows[0][4].split(maxsplit=1) == ["failed/0", "ValueError: 7 is odd"]
    assert "Cancelled: needs 'flaky', which failed" in rows[1][4]
    shown = started.json("runs", "show", "done")
    assert (shown["title"], shown["status"], shown["done"], shown["result"]) == ("squares", "SUCCESS", 2, 4.0)
    assert [(one["number"], one["needs"], one["message"]) for one in shown["steps"]] == [
        (0, [], "done/0"),
        (1, [0], "done/1"),
    ]
    assert started.json("runs", "show", "failed")["failures"] == [{"step": "flaky", "error": "ValueError: 7 is odd"}]


def test_a_run_that_waits_is_shown_with_what_it_waits_for(started: Shell):
    output = started("runs", "show", "asked").stdout
    assert "waits for: the signal 'approval'\n" in output
    assert "0     approval  STARTED  (signal)" in output
    started("runs", "pause", "asked")
    assert "waits for: the signal 'approval', `runs resume`\n" in started("runs", "show", "asked").stdout


def test_a_run_whose_actor_no_node_runs_says_so(shell: Shell):
    async def start(client: Client) -> None:
        await client.start(together(step(Calculator, Square(9)), step(Clerk, Note("x"))), id="nobody")

    with_client(shell, start)
    awaited = (
        "waits for: a node with the actor 'calculator': none runs it, a node with the actor 'clerk': none runs it\n"
    )
    assert awaited in shell("runs", "show", "nobody").stdout
    shell("runs", "pause", "nobody")
    assert f"waits for: `runs resume`, {awaited.partition(': ')[2]}" in shell("runs", "show", "nobody").stdout
    shell("runs", "cancel", "nobody")
    assert "waits for" not in shell("runs", "show", "nobody").stdout


def test_the_graph_of_a_run_is_printed(started: Shell):
    graph = started("runs", "graph", "failed").stdout
    assert graph.startswith('graph TD\n    s0["flaky"]:::failure\n')
    assert "    s0 --> s1\n" in graph
    assert started("runs", "graph", "failed", "--mermaid").stdout == graph
    picture = started("runs", "graph", "failed", "--svg").stdout
    assert picture.startswith("<svg ")
    assert picture.endswith("</svg>\n")


def test_a_run_gets_the_value_of_its_signal(started: Shell):
    assert (
        "has no signal 'aproval'; did you mean 'approval'?"
        in started("runs", "signal", "asked", "aproval", "true", code=1).stderr
    )
    refused = started("runs", "signal", "asked", "approval", "yes", code=1).stderr
    assert "the value of a signal is JSON, such as true or '\"yes\"'" in refused
    wrong = started("runs", "signal", "asked", "approval", '"yes"', code=1).stderr
    assert "the value of signal 'approval' of run 'asked': wants true or false, got 'yes'" in wrong
    assert started("runs", "signal", "asked", "approval", "true").stdout == "gave run 'asked' the signal 'approval'\n"
    again = started("runs", "signal", "asked", "approval", "false", code=1).stderr
    assert "has the value of 'approval' already" in again
    with_client(started, lambda client: client.run("asked").result(), node=True)
    assert started.json("runs", "show", "asked")["result"] == "noted True"
    assert "is over (SUCCESS)" in started("runs", "signal", "asked", "approval", code=1).stderr
    assert "has no signal 'x'; it has none" in started("runs", "signal", "done", "x", code=1).stderr


def test_a_run_is_steered(started: Shell):
    assert started("runs", "pause", "asked").stdout == "paused run 'asked'\n"
    assert "run 'asked' is not under way (PAUSED)" in started("runs", "pause", "asked", code=1).stderr
    assert started("runs", "resume", "asked").stdout == "resumed run 'asked'\n"
    assert "run 'asked' is not paused (STARTED)" in started("runs", "resume", "asked", code=1).stderr
    assert "run 'asked' is neither held nor failed (STARTED)" in started("runs", "retry", "asked", code=1).stderr
    assert (
        "run 'asked' is not over; `runs cancel` ends it (STARTED)" in started("runs", "forget", "asked", code=1).stderr
    )
    assert started("runs", "cancel", "asked", "--reason", "too late").stdout == "cancelled run 'asked'\n"
    assert started.json("runs", "show", "asked")["reason"] == "too late"
    assert "run 'asked' is over already (CANCELLED)" in started("runs", "cancel", "asked", code=1).stderr
    assert started("runs", "retry", "failed").stdout == "retrying what had not succeeded of run 'failed'\n"
    assert started.json("runs", "show", "failed")["status"] == "STARTED"
    assert started("runs", "forget", "asked").stdout == "forgot run 'asked'\n"
    assert "there is no run 'asked'" in started("runs", "show", "asked", code=1).stderr
    assert [(action, what) for action, what, _, outcome in started.recorded() if outcome == "done"] == [
        ("pause run", "run asked"),
        ("resume run", "run asked"),
        ("cancel run", "run asked"),
        ("retry run", "run failed"),
        ("forget run", "run asked"),
    ]


def test_one_step_of_a_run_is_retried_by_its_name_or_number(started: Shell):
    unknown = started("runs", "retry", "failed", "--step", "flakey", code=1).stderr
    assert "run 'failed' has no step 'flakey'; it has 'flaky', " in unknown
    caused = started("runs", "retry", "failed", "--step", "1", code=1).stderr
    assert "was cancelled (needs 'flaky', which failed), and runs again with what it needs; name 'flaky'" in caused
    assert started("runs", "retry", "failed", "--step", "flaky").stdout == "retrying 'flaky' of run 'failed'\n"
    assert started.json("runs", "show", "failed")["status"] == "STARTED"
    with_client(started, lambda client: _ended(client.run("failed")), node=True)
    assert started("runs", "retry", "failed", "--step", "0").stdout == "retrying '0' of run 'failed'\n"
    again = started("runs", "retry", "failed", "--step", "flaky", code=1).stderr
    assert "step 'flaky' has not failed (PENDING); only steps that ended without success are retried" in again


async def _ended(run: Run[Any]) -> None:
    with pytest.raises(MessageFailed):
        await run.result()


@pytest.mark.parametrize("command", [one for one in (*READING, *CHANGING) if "x" in one and one[0] == "runs"])
def test_a_run_that_does_not_exist_ends_the_command_in_one_sentence(started: Shell, command: tuple[str, ...]):
    for run_id, rest in (("dnoe", "did you mean 'done'?"), ("zzz", "see: actorwork runs ls")):
        refused = started(*(run_id if word == "x" else word for word in command), code=1).stderr
        assert refused == (f"Error: there is no run {run_id!r}: it was never started, or is kept no longer; {rest}\n")


def test_the_id_of_a_step_is_answered_with_that_of_its_run(started: Shell):
    refused = started("runs", "show", "done/1", code=1).stderr
    assert refused == "Error: 'done/1' looks like the id of a step's message; the run of that would be 'done'\n"


@pytest.mark.parametrize("command", [*READING, *CHANGING])
def test_looking_for_a_run_or_a_message_makes_no_store(shell: Shell, command: tuple[str, ...]):
    code = 0 if command == ("runs", "ls") else 1
    result = shell(*command, code=code)
    assert "note: there is no store" in result.stderr
    assert "Traceback" not in result.output
    assert list(shell.folder.glob("messages.db*")) == []


def test_runs_of_a_redis_server_are_shown(shell: Shell, redis_url: str):
    there = Shell(shell.folder, redis_url)

    async def start(client: Client) -> None:
        await client.start(together(step(Calculator, Square(1)), signal("s", int)), id="r")

    with_client(there, start)
    assert [one["waits_for"] for one in there.json("runs", "ls")] == [["s"]]
    assert there.json("runs", "show", "r")["total"] == 2
    there("runs", "cancel", "r")
    assert [one["id"] for one in there.json("runs", "ls", "--status", "CANCELLED")] == ["r"]


def test_what_foreign_text_of_a_run_says_to_the_terminal_is_shown(shell: Shell):
    async def start(client: Client) -> None:
        await client.start(Flow(step(Clerk, Note("x"), name="a\x1b[2Jb"), title="\x1b]0;t\x07"), id="r")

    with_client(shell, start)
    for command in (("ls",), ("show", "r"), ("graph", "r"), ("graph", "r", "--svg")):
        assert "\x1b" not in CliRunner().invoke(actorwork, ["runs", *command, "--broker", shell.url]).output


# ---- submitted messages ----


def test_the_reply_to_a_submitted_message_is_printed(shell: Shell):
    async def submit(client: Client) -> tuple[str, str]:
        calculator = client.ref(Calculator)
        good, bad = await calculator.submit(Square(3)), await calculator.submit(Flaky(5))
        await good.result()
        with pytest.raises(MessageFailed):
            await bad.result()
        return good.id, bad.id

    good, bad = with_client(shell, submit, node=True)
    assert shell("result", "calculator", good).stdout == "9\n"
    assert shell("result", "actor:calculator", good, "--wait", "100s").stdout == "9\n"
    assert shell.json("result", "calculator", good)["reply"] == 9
    failed = shell("result", "calculator", bad, code=1).stderr
    assert failed == f"Error: the actor 'calculator' failed message {bad} (ValueError: 5 is odd)\n"
    assert shell.json("result", "calculator", bad, code=1)["error"] == "ValueError: 5 is odd"


def test_a_message_is_found_by_its_id_alone(shell: Shell):
    async def submit(client: Client) -> list[str]:
        calculator = client.ref(Calculator)
        receipts = [await calculator.submit(one) for one in (Square(3), Flaky(5), Flaky(5, "reject"), Text(None))]
        for receipt in receipts:
            async with receipt.watch() as updates:
                async for _ in updates:
                    pass
        return [one.id for one in receipts]

    good, bad, rejected, nothing = with_client(shell, submit, node=True)
    assert shell("result", good).stdout == "9\n"
    assert shell("result", nothing).stdout == "null\n"
    found = shell.json("result", good)
    assert (found["status"], found["reply"], found["state"], found["attempt"]) == ("done", 9, "SUCCESS", 1)
    failed = shell("result", bad, "--wait", "100s", code=1)
    assert failed.stderr == f"Error: the actor 'calculator' failed message {bad} (ValueError: 5 is odd)\n"
    refused = shell("result", rejected, code=1).stderr
    assert refused == f"Error: the actor 'calculator' rejected message {rejected} (Reject: not wanted)\n"
    assert shell.json("result", rejected, code=1)["state"] == "REJECTED"


def test_of_an_open_message_it_is_told_where_it_is(shell: Shell):
    async def look(client: Client) -> None:
        waits = await client.ref(Clerk).submit(Note("x"), delay=60)
        runs = await client.ref(Calculator).submit(Wait(600))
        async with runs.watch() as updates:
            async for info in updates:
                if info.status is Status.STARTED:
                    break
        found["waits"] = await in_thread(shell, "result", waits.id)
        found["runs"] = await in_thread(shell, "result", runs.id)
        found["later"] = await in_thread(shell, "result", runs.id, "--wait", "1ms")
        found["json"] = await in_thread(shell, "result", runs.id, "--json")
        found["node"] = (await runs.info()).node
        found["id"] = runs.id
        assert await runs.cancel()
        with pytest.raises(MessageFailed):
            await runs.result()

    found: dict[str, Any] = {}
    with_client(shell, look, node=True)
    assert "to the source 'worker:" in found["waits"].stderr
    assert found["waits"].stderr.endswith(" yet (--wait waits for it): it is PENDING: no node has received it\n")
    started = f"it is STARTED: attempt 1 has begun on node {found['node']}\n"
    assert found["runs"].stderr.endswith(
        f"Error: no outcome of message {found['id']} to the actor 'calculator' yet (--wait waits for it): {started}"
    )
    assert found["later"].stderr.endswith(f" within 1ms: {started}")
    told = json.loads(found["json"].stdout)
    assert (told["status"], told["state"], told["attempt"], told["progress"]) == ("pending", "STARTED", 1, None)


async def in_thread(shell: Shell, *arguments: str) -> Any:
    """Run a command that fails, while the node of this test goes on."""
    return await trio.to_thread.run_sync(lambda: shell(*arguments, code=1))


def test_a_message_that_is_not_known_is_not_waited_for(shell: Shell):
    shell.enter({"calculator": ["numbers"]})
    began = time.monotonic()
    of_an_actor = shell("result", "calculator", "m", "--wait", "100s", code=1).stderr
    assert of_an_actor == (
        "Error: there is no message m to the actor 'calculator': it was never submitted, or its outcome is kept no"
        " longer\n"
    )
    alone = shell("result", "m", "--wait", "100s", code=1).stderr
    assert shell("result", "m", "--wait", code=1).stderr == alone
    assert alone == "Error: there is no message m: it was never submitted, or its outcome is kept no longer\n"
    assert shell("cancel", "m", code=1).stderr == alone
    assert time.monotonic() - began < 50
    assert shell.json("result", "calculator", "m", code=1)["status"] == "unknown"
    told = shell.json("result", "m", code=1)
    assert (told["status"], told["state"], told["source"]) == ("unknown", "UNKNOWN", "")
    unknown = shell("result", "calcluator", "m", code=1).stderr
    assert unknown == "Error: no actor 'calcluator' has run at this broker; did you mean 'calculator'?\n"
    assert "did you mean 'numbers'?" in shell("result", "--source", "nmubers", "m", code=1).stderr


def test_the_id_of_a_run_or_of_its_step_is_answered_with_where_to_look(started: Shell):
    of_run = started("result", "done", code=1).stderr
    assert of_run.endswith("A run has this id; see: actorwork runs show done\n")
    of_step = started("result", "done/0", "--wait", "100s", code=1).stderr
    assert of_step == (
        "Error: message done/0 to the actor 'calculator' has ended as SUCCESS; its result is that of a step;"
        " see: actorwork runs show done\n"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "Missing argument '[ACTOR] ID"),
        (["a", "b", "c"], "one message is named by its id, or by its actor and its id; got 3 words"),
        (["--source", "m"], "--source says that ACTOR is a source"),
    ],
)
@pytest.mark.parametrize("command", ["result", "cancel"])
def test_a_message_is_named_by_its_id_or_by_its_actor_too(shell: Shell, command: str, words: list[str], complaint: str):
    assert complaint in shell(command, *words, code=2).stderr


def test_a_message_that_was_submitted_is_cancelled_wherever_it_is(shell: Shell):
    async def submit(client: Client) -> str:
        return (await client.ref(Calculator).submit(Square(3), delay=60)).id

    waiting = with_client(shell, submit)
    shell.enter({"calculator": ["numbers"]})
    assert shell("cancel", "calculator", waiting).stdout == f"cancelled message {waiting} to the actor 'calculator'\n"
    again = shell("cancel", "calculator", waiting, code=1).stderr
    assert "cannot be cancelled: it is over, was cancelled before" in again
    assert f"see: actorwork result calculator {waiting}" in again
    assert f"message {waiting} to the actor 'calculator' was cancelled (it was cancelled before it was begun)" in (
        shell("result", "calculator", waiting, code=1).stderr
    )
    assert "was cancelled (it was cancelled before it was begun)" in shell("result", waiting, code=1).stderr
    another = with_client(shell, submit)
    assert shell("cancel", another).stdout.startswith(f"cancelled message {another} to the source ")
    assert "did you mean 'calculator'?" in shell("cancel", "calcluator", waiting, code=1).stderr
    assert [outcome for *_, outcome in shell.recorded()] == ["done", "failed", "done", "failed"]
    assert shell.recorded()[0][:2] == ("cancel", f"message {waiting} to the actor 'calculator'")


def test_a_message_that_was_cancelled_in_flight_is_cancelled_again_by_force(shell: Shell):
    codes: list[int] = []

    async def while_it_runs(client: Client) -> None:
        receipt = await client.ref(Stubborn).submit({"what": "stays"})
        with trio.fail_after(PATIENCE):
            while await receipt.status() is not Status.STARTED:  # noqa: ASYNC110 - another task of the node's notes it
                await trio.sleep(0.01)
        for options in ((), (), ("--force",), ("--force",)):
            done = await trio.to_thread.run_sync(
                partial(
                    CliRunner().invoke, actorwork, ["cancel", "stubborn", receipt.id, *options, "--broker", shell.url]
                )
            )
            codes.append(done.exit_code)
        Stubborn.may_end = True
        assert await receipt.result(timeout=PATIENCE) == "stays"

    Stubborn.may_end = False
    with_client(shell, while_it_runs, node=True)
    assert codes == [0, 1, 0, 1]
