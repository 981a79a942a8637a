"""`actorwork run`: finding the tree, running it, and how it ends, in processes of their own."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

from .conftest import HOUSE, Shell


def lines_until(process: subprocess.Popen[str], part: str, *, of_log: bool = False) -> list[str]:
    """Read a node's output, or its log, up to the line that holds `part`."""
    stream = process.stderr if of_log else process.stdout
    assert stream is not None
    lines: list[str] = []
    for line in stream:
        lines.append(line)
        if part in line:
            return lines
    raise AssertionError(f"no line holds {part!r}: {lines} {process.stderr and process.stderr.read()}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a node's end; return its exit code and what it logged."""
    _, logs = process.communicate(timeout=PATIENCE)
    return process.returncode, logs


@pytest.mark.parametrize("tree", ["shop:Till", "shop:shop"])
def test_a_tree_runs_until_a_signal(shell: Shell, tree: str):
    shell("send", "orders", '{"number": 17}', "--type", "Order")
    with shell.start("run", tree) as process:
        lines_until(process, "took 17")
        process.terminate()
        code, logs = ended(process)
    assert code == 0, logs
    assert "till is up" in logs
    assert "the node stopped cleanly" in logs
    assert shell.backlog("orders") == 0


def test_messages_in_flight_finish_after_the_first_signal(shell: Shell):
    shell("send", "orders", '{"seconds": 0.3}')
    with shell.start("run", "shop:Till") as process:
        lines_until(process, "waiting")
        process.send_signal(signal.SIGINT)
        code, logs = ended(process)
    assert code == 0, logs
    assert shell.backlog("orders") == 0


def test_the_second_signal_cancels_the_handler_and_releases_its_message(shell: Shell):
    shell("send", "orders", '{"seconds": 60}')
    with shell.start("run", "shop:Till") as process:
        lines_until(process, "waiting")
        process.terminate()
        # The kernel makes one signal of two that arrive together.
        lines_until(process, "may finish", of_log=True)
        process.terminate()
        lines_until(process, "waited")
        code, logs = ended(process)
    assert code == 3, logs
    assert shell.backlog("orders") == 1
    assert shell.json("dead", "ls") == []


def test_a_tree_that_does_not_start_is_a_failure(shell: Shell):
    with shell.start("run", "shop:Broken") as process:
        code, logs = ended(process)
    assert code == 1, logs
    assert "OSError: no till" in logs


def test_a_part_of_a_tree_is_run(shell: Shell):
    shell("send", "orders", '{"number": 17}', "--type", "Order")
    with shell.start("run", "shop:both", "--only", "Till") as process:
        lines_until(process, "took 17")
        process.terminate()
        code, logs = ended(process)
    assert code == 0, logs
    assert "till is up" in logs
    with shell.start("run", "shop:both", "--except", "till") as process:
        code, logs = ended(process)
    assert code == 1, logs
    assert "OSError: no till" in logs


def test_for_an_unknown_part_the_error_lists_the_parts(shell: Shell):
    with shell.start("run", "shop:both", "--only", "tool") as process:
        code, logs = ended(process)
    assert code == 2, logs
    assert "nothing in this tree is called 'tool'; it has 'till', 'Till'" in " ".join(logs.split())


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["--log-level", "ERROR", "--log-level", "actorwork.node=INFO"], {}),
        ([], {"ACTORWORK_LOG_LEVEL": "ERROR,actorwork.node=INFO"}),
    ],
    ids=["options", "environment"],
)
def test_a_logger_can_have_a_level_of_its_own(shell: Shell, options: list[str], environment: dict[str, str]):
    shell("send", "orders", '{"number": 17}', "--type", "Order")
    with shell.start("run", "shop:Till", *options, **environment) as process:
        lines_until(process, "took 17")
        process.terminate()
        code, logs = ended(process)
    assert code == 0, logs
    assert "INFO actorwork.node: the node stopped cleanly" in logs
    assert "till is up" not in logs


def test_logs_can_be_json(shell: Shell):
    shell("send", "orders", '{"number": -1}', "--type", "Order")
    shell("send", "orders", '{"number": 1}', "--type", "Order")
    with shell.start("run", "shop:Till", ACTORWORK_LOG_FORMAT="json", ACTORWORK_LOG_LEVEL="WARNING") as process:
        lines_until(process, "took 1")
        process.terminate()
        code, logs = ended(process)
    assert code == 0, logs
    # On a busy machine there may be a warning, too: of a loop that stood still.
    (line,) = [line for line in map(json.loads, logs.splitlines()) if line["level"] == "ERROR"]
    assert line["error"] == "ValueError: no order has the number -1"
    assert {"node_id", "actor_id", "message_id", "attempt", "time", "traceback"} <= set(line)


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        ("shop", "'shop' is not of the form MODULE:NAME"),
        ("shop:Tilt", "the module 'shop' has no 'Tilt'; it has 'Till', 'Broken', 'shop', 'both', 'takes_something'"),
        ("shop:Order", "shop:Order is the class Order, not a tree"),
        ("shop:nothing", "shop:nothing is an empty list, not a tree"),
        ("shop:number", "shop:number is of the type int, not a tree"),
        ("shop:takes_something", "shop:takes_something wants parameters"),
        ("show:Till", "no module named 'show', looked for in "),
        ("shop.till:Till", "no module named 'shop.till'"),
    ],
)
def test_for_something_else_than_a_tree_the_error_names_it(shell: Shell, tree: str, complaint: str):
    assert complaint in shell("run", tree, code=2).stderr.replace("\n", " ")


def test_the_command_that_a_log_recommends_works_when_pasted_elsewhere(
    shell: Shell, tmp_path_factory: pytest.TempPathFactory
):
    shell("send", "orders", '{"number": -1}', "--type", "Order")
    with shell.start("run", "shop:Till") as process:
        line = lines_until(process, "; see: actorwork ", of_log=True)[-1]
        process.terminate()
        ended(process)
    command = line.partition("; see: actorwork ")[2].partition(" [node=")[0]
    pasted = subprocess.run(
        f"{shlex.quote(sys.executable)} -m actorwork {command}",
        shell=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env={"PYTHONPATH": str(HOUSE)},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert "error: ValueError: no order has the number -1" in pasted.stdout


@pytest.mark.parametrize(
    ("module", "shown", "last"),
    [
        ("import nowhere_at_all", "line 1", "importing the module 'spoiled' failed: ModuleNotFoundError: No module"),
        ("tree = = 1", "tree = = 1", "importing the module 'spoiled' failed: SyntaxError: invalid syntax"),
        (
            "def tree():\n    return 1 / 0",
            "in tree",
            "calling spoiled:tree failed: ZeroDivisionError: division by zero",
        ),
    ],
)
def test_an_error_in_the_users_module_is_shown_with_its_traceback_and_without_our_frames(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, module: str, shown: str, last: str
):
    monkeypatch.delitem(sys.modules, "spoiled", raising=False)
    (shell.folder / "spoiled.py").write_text(f"{module}\n")
    stderr = shell("run", "spoiled:tree", code=1).stderr
    assert "Traceback (most recent call last)" in stderr or "SyntaxError" in stderr
    assert shown in stderr
    assert "actorwork/cli" not in stderr
    assert f"Error: {last}" in stderr.splitlines()[-1]


def test_a_monitor_without_a_host_is_wrong_usage(shell: Shell):
    told = " ".join(shell("run", "shop:Till", "--monitor", "9464", code=2).stderr.replace("\u2502", " ").split())
    assert "Invalid value for '--monitor'" in told
    assert "monitor wants HOST:PORT" in told
    assert "for this machine alone: 127.0.0.1:9464" in told


@pytest.mark.parametrize(
    "option",
    [["--lease", "10"], ["--lease", "10ms"], ["--grace", "soon"], ["--log-level", "LOUD"], ["--log-level", "a=LOUD"]],
)
def test_options_out_of_bounds_are_wrong_usage(shell: Shell, option: list[str]):
    assert "Invalid value for" in shell("run", "shop:Till", *option, code=2).stderr


def test_an_environment_variable_stands_for_an_option(shell: Shell):
    with shell.start("run", "shop:Till", ACTORWORK_LEASE="10") as process:
        code, logs = ended(process)
    assert code == 2
    assert "did you mean 10s?" in logs


def test_a_module_is_found_in_the_current_directory(shell: Shell, tmp_path: Path):
    with shell.start("run", "shop:Tilt") as process:
        code, logs = ended(process)
    assert code == 2
    assert "the module 'shop' has no 'Tilt'" in logs.replace("\n", " ")
