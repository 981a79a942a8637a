"""The command as a whole: help, version, the missing extra, what is imported when, durations, doctor."""

import io
import math
import subprocess
import sys
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner

from actorwork.abc import Broker, Finding
from actorwork.cli import doctor
from actorwork.cli.commands import actorwork
from actorwork.cli.output import print_table
from actorwork.durations import parsed
from actorwork.message import Envelope, Failure
from actorwork.policy.settlement import Fail
from actorwork.testing.conformance import open_consumer
from actorwork.testing.redis_server import open_redis_server
from tests.patience import PATIENCE

from .conftest import HOUSE, Shell


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=HOUSE, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


SECRET = "s3cr3t"
URL = f"redis://ann:{SECRET}@127.0.0.1:1/0"


@pytest.mark.parametrize(
    "error",
    [OSError(f"cannot reach {URL}"), TypeError(f"no {URL}"), click.ClickException(f"{URL}\x1b[2J is away")],
    ids=lambda error: type(error).__name__,
)
def test_no_error_shows_a_password_or_commands_the_terminal(error: Exception, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(doctor, "_findings", fail)
    result = CliRunner().invoke(actorwork, ["doctor"])
    assert result.exit_code == 1
    assert "redis://ann:***@127.0.0.1:1/0" in result.output
    assert SECRET not in result.output
    assert "\x1b" not in result.output


def test_no_traceback_of_the_users_code_shows_a_password(shell: Shell):
    (shell.folder / "leaky.py").write_text(f"URL = {URL!r}\nraise OSError(f'cannot reach {{URL}}')\n")
    stderr = shell("run", "leaky:tree", code=1).stderr
    assert "OSError: cannot reach redis://ann:***@127.0.0.1:1/0" in stderr
    assert SECRET not in stderr


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["run"],
        ["send"],
        ["dead"],
        ["dead", "ls"],
        ["dead", "replay"],
        ["dead", "drop"],
        ["doctor"],
        ["runs"],
        ["runs", "ls"],
        ["result"],
        ["cancel"],
    ],
)
def test_every_command_has_help(shell: Shell, command: list[str]):
    assert "Usage: " in shell(*command, "--help").stdout


def test_the_version_is_that_of_the_package(shell: Shell):
    assert shell("--version").stdout == f"actorwork {version('actorwork')}\n"


def test_an_unknown_command_is_wrong_usage(shell: Shell):
    assert "No such command" in shell("fly", code=2).stderr


def test_without_its_extra_the_command_names_it():
    done = python(
        "import sys, importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name in ('click', 'rich') else find(name, *rest)\n"
        "from actorwork.cli import main\n"
        "main()"
    )
    assert done.returncode == 2
    assert "needs click and rich, from the extra 'cli'" in done.stderr
    assert 'pip install "actorwork[cli]"' in done.stderr


def test_the_library_never_imports_what_the_extra_installs():
    done = python("import sys, actorwork, actorwork.cli; print({'click', 'rich'} & set(sys.modules) or 'none')")
    assert done.stdout == "none\n", done.stderr


def test_help_imports_no_broker():
    done = python(
        "import sys, actorwork.cli.commands\nprint({'rich.table', 'redis', 'sqlite3'} & set(sys.modules) or 'none')"
    )
    assert done.stdout == "none\n", done.stderr


@pytest.mark.parametrize(
    ("text", "length"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("1.5s", 1.5), ("2d", 172_800), ("inf", math.inf)],
)
def test_durations_are_written_with_their_unit(text: str, length: float):
    assert parsed(text) == length


@pytest.mark.parametrize("text", ["", "30", "1.5", "s", "-1s", "1 s", "1s foo", "nan", "5 minutes", "1sm"])
def test_an_invalid_duration_is_refused(text: str):
    with pytest.raises(ValueError, match="is not a duration such as"):
        parsed(text)


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        (("send", "", "{}"), 2, "ACTOR_OR_SOURCE wants a source"),
        (("send", "actor:", "{}"), 2, "ACTOR_OR_SOURCE wants a source"),
        (("send", "in", "{}", "--delay", "inf"), 2, "inf is out of bounds: at least 0s, at most 36500d"),
        (("dead", "export", "--to", "nowhere/x"), 1, "cannot write nowhere/x: No such file or directory"),
        (("dead", "import", "binary"), 1, "binary is no file of exported dead letters: 'utf-8' codec can't decode"),
        (("doctor", "--broker", "sqlite:///x.db?foo=1"), 1, "the only option of an embedded broker's url is"),
        (("spool", "ls", "--broker", "amqp://host"), 2, "--broker wants a URL that begins with one of redis, rediss,"),
        (("paused", "--broker", "amqp://host"), 1, "no broker of the kind 'amqp://host'"),
        (("paused", "--broker", "sqlite:///nowhere/x.db"), 1, "is no directory; create it"),
    ],
)
def test_what_cannot_be_done_ends_in_one_sentence_and_its_exit_code(
    shell: Shell, command: tuple[str, ...], code: int, sentence: str
):
    (shell.folder / "binary").write_bytes(b"\xff\xfe\n")
    result = shell(*command, code=code)
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_a_defect_ends_a_command_in_one_sentence_too_and_its_traceback_can_be_had(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
):
    def spoiled(*_: object) -> None:
        raise ExceptionGroup("a nursery's", [TypeError("unexpected\x1b[2J")])

    monkeypatch.setattr(doctor, "_findings", spoiled)
    assert shell("doctor", code=1).stderr == (
        "Error: TypeError: unexpected\\x1b[2J. This may be a defect of actorwork: ACTORWORK_TRACEBACK=1 shows the"
        " traceback that a report needs\n"
    )
    monkeypatch.setenv("ACTORWORK_TRACEBACK", "1")
    with pytest.raises(ExceptionGroup):
        shell("doctor")


READING = (
    ("inspect",),
    ("inspect", "tree"),
    ("stop", "x"),
    ("top",),
    ("dead", "ls"),
    ("dead", "groups", "orders"),
    ("dead", "show", "orders", "1-1"),
    ("dead", "replay", "--all", "--yes"),
    ("dead", "drop", "--all", "--yes"),
    ("dead", "export"),
    ("spool", "ls"),
    ("triggers", "ls"),
    ("triggers", "show", "till", "nightly"),
    ("triggers", "pause", "till"),
    ("paused",),
    ("resume", "--all"),
    ("pause", "--actor", "till"),
    ("send", "actor:till", "{}"),
    ("doctor",),
)


@pytest.mark.parametrize("command", READING, ids=" ".join)
@pytest.mark.parametrize("is_default", [True, False], ids=["default", "named"])
def test_a_command_that_sends_and_pauses_nothing_makes_no_store(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], is_default: bool
):
    monkeypatch.setenv("ACTORWORK_HOME", str(shell.folder / "home"))
    before = set(shell.folder.rglob("*"))
    runner = CliRunner(env={} if is_default else {"ACTORWORK_BROKER": shell.url})
    result = runner.invoke(actorwork, command, auto_envvar_prefix="ACTORWORK")
    assert result.exit_code in {0, 1}
    assert isinstance(result.exception, SystemExit | None)
    assert set(shell.folder.rglob("*")) == before
    if command[0] != "spool":
        assert "there is no store" in result.output


def test_a_question_that_is_not_answered_names_the_option_that_does_not_ask(shell: Shell):
    async def make_one(broker: Broker) -> None:
        await broker.publish([Envelope("orders", "1", b"1")])
        async with open_consumer(broker, "orders") as consumer:
            await consumer.settle(await consumer.take_one(), Fail(Failure("Boom", "no")))

    shell.at_broker(make_one)
    refused = shell("dead", "drop", "--all", input="", code=1).stderr
    assert refused.endswith(
        "Error: nothing was done: this command asks first, and was not answered; --yes does not ask\n"
    )
    assert len(shell.json("dead", "ls")) == 1


def test_a_masked_password_is_taken_from_the_environment(shell: Shell):
    runner = CliRunner(env={"ACTORWORK_BROKER": "redis://ann:secret@127.0.0.1:1/0"})
    same = ["paused", "--timeout", "200ms", "--broker", "redis://ann:***@127.0.0.1:1/0"]
    assert runner.invoke(actorwork, same).exit_code == 1
    assert "did not answer" in runner.invoke(actorwork, same).output
    other = runner.invoke(actorwork, ["paused", "--broker", "redis://ben:***@127.0.0.1:1/0"])
    assert other.exit_code == 2
    assert "the password in --broker is masked" in other.output


def test_a_command_that_another_one_recommends_names_the_same_broker(shell: Shell):
    shell.at_broker(lambda broker: broker.publish([]))
    elsewhere = CliRunner(env={}).invoke(actorwork, ["dead", "show", "orders", "x y", "--broker", shell.url])
    assert elsewhere.output.endswith(f"see: actorwork dead ls orders --broker {shell.url}\n")
    assert shell("dead", "show", "orders", "x", code=1).stderr.endswith("see: actorwork dead ls orders\n")


def test_doctor_checks_the_broker(shell: Shell):
    found = shell.json("doctor")
    assert all(set(finding) == {"subject", "level", "text", "advice"} for finding in found)
    assert {finding["level"] for finding in found} <= {"ok", "warning"}


def test_doctor_examines_a_server_that_no_program_may_use(shell: Shell):
    with open_redis_server(config={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as server:
        found = {finding["subject"]: finding for finding in shell.json("doctor", "--broker", server.url, code=1)}
        assert found["eviction"]["level"] == "error"
        assert found["eviction"]["advice"] == "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
        assert found["permissions"]["level"] == "ok"
        assert "connection" not in found
        refused = shell("paused", "--broker", server.url, code=1).stderr
        assert "maxmemory-policy is allkeys-lru" in refused
        assert "allow" not in refused


def test_doctor_gives_advice_and_fails_if_there_is_an_error(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    findings = [Finding("clock", "ok", "in step"), Finding("eviction", "error", "streams are evicted", "CONFIG SET it")]

    def found(*_: object) -> list[Finding]:
        return findings

    monkeypatch.setattr(doctor, "_findings", found)
    printed = shell("doctor", code=1).stdout
    assert printed == "ok      clock: in step\nerror   eviction: streams are evicted\n        do: CONFIG SET it\n"


def test_a_broker_that_cannot_be_reached_is_a_finding(shell: Shell):
    (found,) = shell.json("doctor", "--broker", f"unix://{shell.folder}/nobody.sock", "--timeout", "300ms", code=1)
    assert (found["subject"], found["level"]) == ("connection", "error")
    assert "--broker" in found["advice"]


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "message", "m", "--source", "orders"),
        ("entities", "ls", "m"),
        ("entities", "show", "account", "m"),
    ],
    ids=" ".join,
)
def test_an_argument_that_is_not_utf8_is_told_as_such(shell: Shell, command: tuple[str, ...]):
    given = [one.replace("m", "m\udcff") if one == "m" else one for one in command]
    assert "Error: arguments want to be UTF-8, got 'm\\udcff'" in shell(*given, code=2).stderr


@pytest.mark.parametrize("command", ["run", "reset", "delete"])
def test_an_empty_title_is_no_defect(shell: Shell, command: str):
    assert "the title of an actor is wanted, got ''" in shell("triggers", command, "", "nightly", code=2).stderr


def test_a_table_is_printed_in_a_locale_that_lacks_some_of_its_signs(monkeypatch: pytest.MonkeyPatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii", write_through=True))
    print_table(["NAME"], [["Zürich…"]])
    assert printed.getvalue().split() == [b"NAME", b"Z?rich?"]


def test_a_table_without_a_standard_output_is_no_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", None)
    print_table(["NAME"], [["Ulm"]])
