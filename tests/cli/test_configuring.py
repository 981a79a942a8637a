"""`actorwork config`, and what files, variables and flags set for `actorwork run`."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from .conftest import Shell
from .test_running import ended, lines_until

HOUSE = Path(__file__).parents[2]
TREE = """
import logging
import os
from actorwork import Actor, Process, RateLimit, Settings, receive


class Till(Actor):
    settings = Settings(title="till desk", sources={"orders"}, execution_timeout=60, limits=[RateLimit(9, name="tax")])

    @receive
    async def take(self, message: int) -> None:
        settings = self.context._actor.settings
        of = (settings.concurrency, settings.mailbox.capacity, settings.limits[0].rate)
        print("runs", *of, "in", os.getpid(), flush=True)
        (rate,) = self.context._actor.admission.limiters
        print("rate", rate._limit.rate, flush=True)
        print("logs at", logging.getLogger("market").getEffectiveLevel(), flush=True)


tree = [Process([Till], name="counter", replicas=2)]
"""
FILE = """
lease = "9s"

[actors."till desk"]
concurrency = 2
mailbox.capacity = 77

[limits.tax]
rate = 5

[processes.counter]
replicas = 1
"""


@pytest.fixture
def market(shell: Shell) -> Shell:
    (shell.folder / "market.py").write_text(TREE)
    (shell.folder / "actorwork.toml").write_text(FILE)
    return shell


def rows(shell: Shell, *arguments: str) -> dict[str, tuple[str, str]]:
    return {row["name"]: (row["value"], row["origin"]) for row in shell.json("config", "show", *arguments)}


def test_each_setting_is_shown_with_its_origin_and_secrets_are_masked(market: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACTORWORK_BROKER", "redis://ann:secret@host/0")
    monkeypatch.setenv("ACTORWORK_ACTORS__TILL_DESK__CONCURRENCY", "3")
    market = Shell(market.folder, "redis://ann:secret@host/0")
    given = rows(market, "--config", "actorwork.toml")
    assert given == {
        "broker": ("redis://ann:***@host/0", "ACTORWORK_BROKER"),
        "lease": ("9s", "actorwork.toml"),
        'actors."till desk".concurrency': ("3", "ACTORWORK_ACTORS__TILL_DESK__CONCURRENCY"),
        'actors."till desk".mailbox.capacity': ("77", "actorwork.toml"),
        "processes.counter.replicas": ("1", "actorwork.toml"),
        "limits.tax.rate": ("5", "actorwork.toml"),
    }
    whole = rows(market, "market:tree", "--config", "actorwork.toml", "--all")
    assert given.items() <= whole.items()
    assert whole["grace"] == ("25s", "default")
    assert whole['actors."till desk".execution_timeout'] == ("1m", "code")
    assert whole['actors."till desk".sources'] == ("orders", "code")
    assert whole['actors."till desk".dead_letters.max_age'] == ("30d", "default")
    assert not any(".entities." in name for name in whole)
    assert whole["processes.counter.max_memory"] == ("none", "default")
    assert "processes.counter.scale.min" not in whole
    assert (whole["limits.tax.per"], whole["limits.tax.scope"]) == (("1s", "default"), ("node", "default"))


def test_how_states_are_kept_is_shown_of_entities(shell: Shell):
    shell.folder.joinpath("bank.py").write_text(
        "from actorwork import Entities, Entity, Settings, receive\n"
        "class Account(Entity[int]):\n"
        "    settings = Settings(title='account', entities=Entities(history=5))\n"
        "    @receive\n"
        "    async def take(self, message: int) -> None: ...\n"
    )
    shell.folder.joinpath("bank.toml").write_text("[actors.account]\nentities.ttl = '90d'\n")
    whole = rows(shell, "bank:Account", "--config", "bank.toml", "--all")
    assert whole["actors.account.entities.ttl"] == ("90d", "bank.toml")
    assert whole["actors.account.entities.history"] == ("5", "code")
    assert whole["actors.account.entities.idle"] == ("5m", "default")


def test_what_the_code_says_of_processes_and_limits_is_shown(shell: Shell):
    shell.folder.joinpath("plant.py").write_text(
        "from actorwork import Actor, CircuitBreaker, Process, RateLimit, Scale, Settings, receive\n"
        "class Press(Actor):\n"
        "    settings = Settings(\n"
        "        title='press', sources={'sheets'},\n"
        "        limits=[RateLimit(5, name='power'), CircuitBreaker('power', failures=3)],\n"
        "    )\n"
        "    @receive\n"
        "    async def take(self, message: int) -> None: ...\n"
        "tree = [Process([Press], name='hall', replicas=Scale(max=3), max_memory='1GB')]\n"
    )
    found = rows(shell, "plant:tree")
    assert {name: value for name, (value, origin) in found.items() if origin == "code"} == {
        "actors.press.sources": "sheets",
        "processes.hall.scale.max": "3",
        "processes.hall.max_memory": "1000000000",
        "limits.power.rate": "5",
        "limits.power.failures": "3",
    }


def test_where_nothing_is_set_a_note_says_so(shell: Shell):
    assert "nothing is set: --all shows the defaults" in Shell(shell.folder, "")("config", "show").stderr


def test_files_are_checked_with_all_that_is_wrong(market: Shell):
    assert "1 file: nothing is wrong" in market("config", "check", "actorwork.toml", "--tree", "market:tree").stdout
    (market.folder / "a.yaml").write_text("lease: 1:30\nactors:\n  till desk: {concurrency: no}\n")
    (market.folder / "b.json").write_text('{"actors": {"till": {"concurrency": 1}}}')
    assert market("config", "check", "b.json").exit_code == 0
    found = market("config", "check", "a.yaml", "b.json", "--tree", "market:tree", code=1).stderr.splitlines()
    assert found[0].startswith("a.yaml:1: lease is 1:30, which YAML reads")
    assert found[1].startswith(
        'a.yaml:3: actors."till desk".concurrency wants a whole number from 1 to 100000, got False'
    )
    assert found[2] == "b.json: no actor of this tree is called 'till'; did you mean 'till desk'?"
    assert found[3] == "Error: 3 problems"


def test_the_schema_is_printed_as_json(shell: Shell):
    found = json.loads(shell("config", "schema").stdout)
    assert found["properties"]["actors"]["additionalProperties"]["properties"]["concurrency"]["maximum"] == 100_000


def test_the_example_fits_its_program(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(HOUSE / "examples" / "config")
    monkeypatch.setattr("sys.path", [str(HOUSE / "examples" / "config"), *sys.path])
    assert "nothing is wrong" in shell("config", "check", "default.toml", "--tree", "shop:tree").stdout


def test_a_flag_precedes_a_variable_which_precedes_a_file_in_each_process(market: Shell):
    market("send", "orders", "1")
    arguments = ("--config", "actorwork.toml", "--concurrency", "till desk=4")
    variables = {
        "ACTORWORK_ACTORS__TILL_DESK__CONCURRENCY": "3",
        "ACTORWORK_ACTORS__TILL_DESK__MAILBOX__CAPACITY": "55",
        "ACTORWORK_LOG_FORMAT": "json",
    }
    with market.start("run", "market:tree", *arguments, **variables) as process:
        assert lines_until(process, "runs")[-1].startswith("runs 4 55 5 in ")
        process.terminate()
        code, logs = ended(process)
    assert code == 0, logs
    assert all(json.loads(line) for line in logs.splitlines())


def test_at_a_hangup_the_file_is_read_again_and_what_cannot_change_is_named(market: Shell):
    with market.start("run", "market:tree", "--config", "actorwork.toml", "--grace", "20s", "--solo") as process:
        lines_until(process, "reads for till desk", of_log=True)
        (market.folder / "actorwork.toml").write_text(f'log_level = "DEBUG"\ngrace = "9s"\n{FILE.replace("9s", "8s")}')
        process.send_signal(signal.SIGHUP)
        found = "".join(lines_until(process, "lease has changed", of_log=True))
        found += "".join(lines_until(process, "grace stays", of_log=True) if "grace stays" not in found else [])
        found += "".join(lines_until(process, "log_level is", of_log=True) if "log_level is" not in found else [])
        assert "SIGHUP: lease has changed, and needs a restart to take effect" in found
        assert "SIGHUP: grace stays as it is: the call or a flag sets it" in found
        assert "INFO actorwork.run: SIGHUP: log_level is DEBUG now" in found
        assert "concurrency" not in found
        (market.folder / "actorwork.toml").write_text("leese = 3")
        process.send_signal(signal.SIGHUP)
        lines_until(process, "SIGHUP: the configuration stays as it was: actorwork.toml: there is no", of_log=True)
        process.terminate()
        code, logs = ended(process)
    assert code == 0, logs


@pytest.mark.long
def test_a_hangup_resumes_a_source_in_the_processes_that_run(market: Shell):
    (market.folder / "actorwork.toml").write_text(f'paused_sources = ["orders"]\n{FILE}')
    with market.start("run", "market:tree", "--config", "actorwork.toml") as process:
        found = lines_until(process, "paused source 'orders' by the configuration", of_log=True)
        assert not [line for line in found if "runs" in line]
        market("send", "orders", "1")
        (market.folder / "actorwork.toml").write_text(FILE)
        process.send_signal(signal.SIGHUP)
        assert lines_until(process, "runs")
        process.terminate()
        code, logs = ended(process)
    assert code == 0, logs


def test_a_hangup_changes_levels_and_rates_in_the_processes_that_run_and_in_those_to_come(market: Shell):
    with market.start("run", "market:tree", "--config", "actorwork.toml") as process:
        market("send", "orders", "1")
        assert lines_until(process, "rate")[-1].strip() == "rate 5"
        assert lines_until(process, "logs at")[-1].strip() == "logs at 20"
        changed = f'log_level = "INFO,market=DEBUG"\n{FILE.replace("rate = 5", "rate = 7")}'
        (market.folder / "actorwork.toml").write_text(changed)
        process.send_signal(signal.SIGHUP)
        told = "".join(lines_until(process, "limits.tax.rate is 7 now, in all processes of the tree", of_log=True))
        what = "log_level is INFO,market=DEBUG now, in all processes of the tree"
        assert what in told or lines_until(process, what, of_log=True)
        for number in range(60):  # The process learns it beside its messages, and perhaps after the first of these.
            market("send", "orders", str(number))
            pid = lines_until(process, "runs")[-1].split()[-1]
            rate = lines_until(process, "rate")[-1].strip()
            if (rate, lines_until(process, "logs at")[-1].strip()) == ("rate 7", "logs at 10"):
                break
        else:
            pytest.fail("neither the level of the logs nor the rate has changed in the process")
        os.kill(int(pid), signal.SIGKILL)
        market("send", "orders", "1")
        assert lines_until(process, "runs")[-1].split()[-1] != pid
        assert lines_until(process, "rate")[-1].strip() == "rate 7"
        process.terminate()
        code, logs = ended(process)
    assert code == 0, logs


def test_alone_everything_is_in_one_process_which_logs_as_its_file_says(market: Shell):
    (market.folder / "actorwork.toml").write_text('log_level = "WARNING"\nlog_format = "json"')
    market("send", "orders", "1")
    arguments = ("--solo", "--sources", "orders", "--config", "actorwork.toml")
    with market.start("run", "market:tree", *arguments) as process:
        assert lines_until(process, "runs")[-1] == f"runs 1 1000 9 in {process.pid}\n"
        process.terminate()
        code, logs = ended(process)
    assert (code, logs) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--concurrency", "till desk"], 2, "--concurrency wants TITLE=N, such as email=8, got 'till desk'"),
        (["--concurrency", "till desk=many"], 1, "wants a whole number from 1 to 100000, got 'many'"),
        (["--concurrency", "till=2"], 1, "--concurrency till=2: no actor of this tree is called 'till'; did you mean"),
        (["--sources", "odres"], 2, "no actor of this tree reads 'odres'; did you mean 'orders'?"),
        (["--config", "nowhere.toml"], 1, "nowhere.toml: "),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    market: Shell, arguments: list[str], code: int, complaint: str
):
    assert complaint in " ".join(market("run", "market:tree", *arguments, code=code).stderr.split())


def test_the_url_of_the_broker_may_be_in_a_file_for_every_command(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    (shell.folder / "secret").write_text(f"{shell.url}\n")
    monkeypatch.setenv("ACTORWORK_BROKER_FILE", str(shell.folder / "secret"))
    elsewhere = Shell(shell.folder, "")
    elsewhere("send", "orders", "1")
    assert shell.backlog("orders") == 1
    monkeypatch.setenv("ACTORWORK_BROKER_FILE", "/nowhere")
    assert "ACTORWORK_BROKER_FILE: cannot read /nowhere" in elsewhere("send", "orders", "1", code=2).stderr
