"""What an operator sets: its sources and their order, what is refused and how, and its effect on a tree."""

import json
import logging
import os
import pickle
import re
import signal
import sys
import tomllib
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from jsonschema import Draft202012Validator

from actorwork import (
    Actor,
    Bulkhead,
    Child,
    CircuitBreaker,
    ConcurrencyLimit,
    ConfigurationError,
    DynamicSupervisor,
    Entities,
    Entity,
    MissingExtra,
    Pool,
    Process,
    RateLimit,
    Scale,
    Settings,
    Supervisor,
    load_configuration,
    open_system,
    receive,
)
from actorwork.actors.tree.walking import root_of
from actorwork.policy.limits import Rates
from actorwork.runtime.configuration.changing import actors_in, processes_in
from actorwork.runtime.configuration.fields import TABLES, ProgramFields
from actorwork.runtime.configuration.loading import Configuration
from actorwork.runtime.configuration.reloading import reload_on_hangup
from actorwork.runtime.configuration.schema import schema
from actorwork.runtime.configuration.sources import kind_of, options_of, variables_of
from actorwork.runtime.options import Options, RunOptions
from actorwork.testing import open_test_system
from tests.patience import PATIENCE

EXAMPLE = Path(__file__).parents[2] / "examples" / "config" / "default.toml"


def local() -> Any:
    async def layer(delivery: Any, proceed: Any) -> Any:
        return await proceed()

    return layer


class Mailer(Actor):
    settings = Settings(
        title="send mail",
        sources={"mails"},
        execution_timeout=60,
        limits=[RateLimit(10, name="smtp"), CircuitBreaker("smtp", failures=2), Bulkhead("room", 3)],
        # Cannot be pickled, so settings cannot travel: only what is changed in them.
        middleware=[local()],
    )

    @receive
    async def mail(self, *, to: str) -> None: ...


class Local(Actor):
    @receive
    async def take(self, message: int) -> None: ...


class Later(Actor):
    settings = Settings(title="later", limits=[RateLimit(5, burst=3), CircuitBreaker()])

    @receive
    async def take(self, message: int) -> None: ...


class Account(Entity[int]):
    settings = Settings(title="account")

    @receive
    async def take(self, message: int) -> None: ...


class Cart(Entity[int]):
    settings = Settings(title="cart", entities=Entities(idle=60, history=5))

    @receive
    async def take(self, message: int) -> None: ...


def tree() -> Supervisor:
    return root_of(
        [Process([Mailer], name="post", replicas=2), Pool(Local, 2), DynamicSupervisor(Later), Account, Cart]
    )


def loaded(tmp_path: Path, text: str, name: str = "actorwork.toml", **environment: str) -> Configuration:
    (tmp_path / name).write_text(text)
    return load_configuration(tmp_path / name, environment=environment)


def problems(tmp_path: Path, text: str, name: str = "actorwork.toml", **environment: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, text, name, **environment)
    return [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def settings_of(configuration: Configuration, title: str) -> Settings:
    (settings,) = {
        child.settings.concurrency: child.settings
        for child in actors_in(configuration.applied_to(tree()))
        if child.title == title
    }.values()
    return settings


# ---- sources ----


def test_a_variable_precedes_a_later_file_which_precedes_an_earlier_one(tmp_path: Path):
    base, host = tmp_path / "base.toml", tmp_path / "host.json"
    base.write_text(
        'lease = "1s"\ngrace = "1s"\nloop_stall = "1s"\nactors."send mail" = {concurrency = 1, max_crashes = 1}'
    )
    host.write_text('{"lease": "2s", "grace": "2s", "actors": {"send mail": {"concurrency": 2}}}')
    found = load_configuration([base, host], environment={"ACTORWORK_LEASE": "3s"})
    assert found.options == {"lease": 3.0, "grace": 2.0, "loop_stall": 1.0}
    assert {setting.name: setting.origin for setting in found.settings} == {
        "lease": "ACTORWORK_LEASE",
        "grace": str(host),
        "loop_stall": str(base),
        'actors."send mail".concurrency': str(host),
        'actors."send mail".max_crashes': str(base),
    }


def test_every_format_says_the_same(tmp_path: Path):
    texts = {
        "a.toml": 'lease = "20s"\nonly = ["a", "b"]\nintensity.restarts = 4\n'
        '[actors."send mail".mailbox]\ncapacity = 5\n',
        "a.json": '{"lease": "20s", "only": ["a", "b"], "intensity": {"restarts": 4},'
        ' "actors": {"send mail": {"mailbox": {"capacity": 5}}}}',
        "a.yaml": "lease: 20s\nonly: [a, b]\nintensity: {restarts: 4}\n"
        "actors:\n  send mail:\n    mailbox:\n      capacity: 5\n",
    }
    first, *others = [loaded(tmp_path, text, name) for name, text in texts.items()]
    assert first.options["only"] == ("a", "b")
    for other in others:
        assert other.options == first.options
        assert other.changes.actors == first.changes.actors == {"send mail": {"mailbox.capacity": 5}}


def test_variables_set_whatever_a_file_can_set(tmp_path: Path):
    found = loaded(
        tmp_path,
        '[actors."send mail"]\nconcurrency = 2\nexecution_timeout = "1m"',
        ACTORWORK_ONLY="a, b",
        ACTORWORK_SOLO="1",
        ACTORWORK_INTENSITY__PERIOD="7s",
        ACTORWORK_ACTORS__SEND_MAIL__CONCURRENCY="3",
        ACTORWORK_ACTORS__SEND_MAIL__MAILBOX__CAPACITY="9",
        ACTORWORK_ACTORS__LOCAL__CONCURRENCY="4",
        ACTORWORK_LIMITS__SMTP__SHARE="25%",
        ACTORWORK_PROCESSES__POST__MAX_MEMORY="1GB",
        ACTORWORK_LOG_LEVEL="",
    )
    assert found.options["only"] == ("a", "b")
    assert found.options["solo"] is True
    assert found.options["intensity"].period == 7.0
    assert "log_level" not in found.options
    mailer = settings_of(found, "send mail")
    assert (mailer.concurrency, mailer.mailbox.capacity, mailer.execution_timeout) == (3, 9, 60.0)
    assert mailer.limits[1] == CircuitBreaker("smtp", failures=2, share=0.25)
    assert settings_of(found, "Local").concurrency == 4
    assert next(processes_in(found.applied_to(tree()))).max_memory == 10**9


def test_a_secret_may_be_in_a_file_that_a_variable_names(tmp_path: Path):
    (tmp_path / "broker").write_text("redis://ann:secret@host/0\n")
    variables = {"ACTORWORK_BROKER_FILE": str(tmp_path / "broker")}
    found = load_configuration(environment=variables)
    assert found.options == {"broker": "redis://ann:secret@host/0"}
    assert found.settings[0].kind.shown(found.settings[0].value) == "redis://ann:***@host/0"
    assert "secret" not in repr(found)
    with pytest.raises(ConfigurationError, match="are both set"):
        load_configuration(environment={**variables, "ACTORWORK_BROKER": "redis://other"})
    with pytest.raises(ConfigurationError, match="ACTORWORK_BROKER_FILE: /nowhere: No such file"):
        load_configuration(environment={"ACTORWORK_BROKER_FILE": "/nowhere"})


def test_a_variable_that_is_no_setting_is_refused_unless_others_make_such_variables():
    # As Kubernetes makes them for the services `actorwork` and `actorwork-broker`, and as commands have them.
    load_configuration(
        environment={
            "ACTORWORK_PORT": "tcp://10.0.0.1:80",
            "ACTORWORK_SERVICE_HOST": "10.0.0.1",
            "ACTORWORK_BROKER_PORT_6379_TCP": "tcp://10.0.0.1:6379",
            "ACTORWORK_SEND_DELAY": "3s",
        }
    )
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(environment={"ACTORWORK_ACTORS__MAIL__CONCURENCY": "3", "ACTORWORK_WORKERS__X": "1"})
    assert "did you mean 'ACTORWORK_ACTORS__MAIL__CONCURRENCY'?" in caught.value.problems[0]
    assert "there is no setting for the variable ACTORWORK_WORKERS__X" in caught.value.problems[1]


def test_no_variable_has_a_name_that_kubernetes_makes_for_a_service():
    made = re.compile(r"ACTORWORK(_\w+)?_(PORT(_\w+)?|SERVICE_HOST|SERVICE_PORT(_\w+)?)")
    tables = [(f"{table}.x.", fields) for table, fields in TABLES.items()]
    names = list(variables_of(options_of(ProgramFields)))
    names += [
        f"ACTORWORK_{prefix}{path}".replace(".", "__").upper() for prefix, of in tables for path in options_of(of)
    ]
    assert len(names) > 40
    assert [name for name in names if made.fullmatch(name)] == []


# ---- what is refused ----


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("concurrency = 0", "concurrency wants a whole number from 1 to 100000, got 0"),
        ('concurrency = "8"', "concurrency wants a whole number from 1 to 100000, got '8'"),
        ("concurrency = true", "concurrency wants a whole number from 1 to 100000, got True"),
        ("concurrency = nan", "concurrency wants a whole number from 1 to 100000, got nan"),
        (
            'execution_timeout = "90"',
            "execution_timeout wants seconds from 0.1 to 86400; text wants units, got '90'",
        ),
        ('execution_timeout = "2d"', "execution_timeout wants seconds from 0.1 to 86400, got '2d'"),
        (
            'execution_timeout = "none"',
            "execution_timeout wants seconds from 0.1 to 86400; text wants units, got 'none'",
        ),
        ("on_failure = 'ignore'", "on_failure wants 'resume', 'restart', 'stop', 'escalate' or 'none', got 'ignore'"),
        ("sources = 'mails'", "got 'mails'"),
        ("sources = ['actorwork:x']", "got ['actorwork:x']"),
        ("mailbox = 3", "mailbox wants a table of settings, got 3"),
        ("mailbox.capacity = 0", "mailbox.capacity wants a whole number from 1 to 1000000, got 0"),
        ("circuit_breaker.share = '150%'", "circuit_breaker.share wants a fraction from 0 to 1, got '150%'"),
        ("rate_limit.scope = 'all'", "rate_limit.scope wants 'node' or 'global', got 'all'"),
    ],
)
def test_a_wrong_value_is_named_with_its_path_and_what_was_wanted(tmp_path: Path, text: str, problem: str):
    (found,) = problems(tmp_path, f"[actors.mailer]\n{text}")
    assert found.startswith("actorwork.toml: actors.mailer.")
    assert found.endswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("leese = 3", "there is no setting leese; did you mean 'lease'?"),
        ("actor.x.concurrency = 3", "there is no setting actor; did you mean 'actors'?"),
        ("[actors.'send mail']\nconcurency = 3", 'there is no setting actors."send mail".concurency; did you mean'),
        ("[actors.x]\n'mailbox.capacity' = 3", 'there is no setting actors.x."mailbox.capacity"'),
        (
            "[actors.x.mailbox]\nsize = 3",
            "there is no setting actors.x.mailbox.size; there is capacity, overflow, stash",
        ),
        ("[processes.x]\ntitle = 'y'", "there is no setting processes.x.title"),
        ("actors = 3", "actors wants a table for each of the actors, got 3"),
        ("[actors]\nmailer = 3", "actors.mailer wants a table of settings, got 3"),
        ("lease = ", "is no TOML: Invalid value"),
        ("lease = 3\nlease = 4", "is no TOML: "),
        ("\ufefflease = 3", "is no TOML: it begins with a byte order mark: save it as UTF-8 without one"),
        ("monitor = '9464'", "monitor wants HOST:PORT, such as '127.0.0.1:8080', got '9464'"),
        ("web = 'localhost'", "web wants HOST:PORT, such as '127.0.0.1:8080', got 'localhost'"),
        ("web = ':70000'", "web wants HOST:PORT, such as '127.0.0.1:8080', got ':70000'"),
    ],
)
def test_what_is_no_setting_is_refused_with_a_suggestion(tmp_path: Path, text: str, problem: str):
    (found,) = problems(tmp_path, text)
    assert problem in found


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.json", "", "is no JSON: Expecting value"),
        ("a.json", '{"lease": 3, "grace": 4, "lease": 5}', "'lease' is there twice"),
        ("a.json", '{"actors": {"mailer": {"concurrency": 1, "concurrency": 2}}}', "'concurrency' is there twice"),
        ("a.json", '{"a": ' * 100_000, "is nested too deeply"),
        ("a.yaml", "[" * 100_000, "is nested too deeply"),
        ("a.yaml", "[", "is no YAML: while parsing"),
        ("a.toml", f"lease = {'[' * 100_000}", "is nested too deeply"),
    ],
)
def test_what_cannot_be_read_at_all_says_what_the_file_was_taken_for(
    tmp_path: Path, name: str, text: str, problem: str
):
    (found,) = problems(tmp_path, text, name)
    assert found.startswith(f"{name}: ")
    assert problem in found


def test_all_that_is_wrong_is_reported_at_once(tmp_path: Path):
    found = problems(
        tmp_path,
        "leese = 3\nlease = 0\n[actors.a]\nconcurrency = 0\n[actors.b]\nmailbx = {}\n[limits.c]\nrate = -1",
        ACTORWORK_GRACE="soon",
        ACTORWORK_ACTORS__A__MAX_CRASHES="many",
    )
    assert len(found) == 7
    assert all(any(part in one for one in found) for part in ("leese", "mailbx", "limits.c.rate", "ACTORWORK_GRACE"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lease: 1:30", "a.yaml:1: lease is 1:30, which YAML reads as a number to the base of 60: write a duration"),
        (
            "grace: 3s\nlog_level: no",
            "perhaps with levels of loggers: 'INFO,actorwork.streams=DEBUG', got False; YAML",
        ),
        ("log_level: INFO,actorwork.streams=LOUD", "a.yaml:1: log_level wants 'DEBUG', 'INFO', 'WARNING' or 'ERROR', "),
        ("only: [a]\non: 3", "a.yaml:2: True: a key wants to be text, got True; YAML reads on as true: quote it"),
        ("only: *a", "undefined alias"),
        ("only: */5 * * * *", "YAML takes what begins with * for an alias: quote it"),
        ("grace: 3s\ngrace: 4s", "a.yaml:2: grace is there twice"),
        ("actors:\n  mailer:\n", "actors.mailer wants a table of settings, got None; YAML reads nothing and ~ as null"),
        ("- a", "wants a table of settings, got ['a']"),
        ("actors:\n  1: {}", "a.yaml:2: actors.1: a key wants to be text, got 1"),
        ("lease: 2026-01-01", "YAML reads 2026-01-01 as a date: quote it"),
    ],
)
def test_what_yaml_reads_in_another_way_than_people_is_named_with_its_line(tmp_path: Path, text: str, problem: str):
    (found,) = problems(tmp_path, text, "a.yaml")
    assert problem in found


def test_a_file_that_cannot_be_read_is_a_problem_like_others(tmp_path: Path):
    (tmp_path / "a.toml").write_bytes(b'broker = "\xff"')
    with pytest.raises(ConfigurationError) as caught:
        load_configuration([tmp_path / name for name in ("nowhere.toml", "a.toml", "a.ini")], environment={})
    nowhere, not_text, ini = caught.value.problems
    assert "No such file" in nowhere
    assert "utf-8" in not_text
    assert "ends in .toml, .json, .yaml, .yml" in ini


def test_a_value_of_a_secret_is_not_in_its_error(tmp_path: Path):
    (found,) = problems(tmp_path, "broker = ['redis://ann:secret@host']")
    assert found.startswith("actorwork.toml: broker wants redis://user:password@host:port/db, ")
    assert found.endswith(", or sqlite:///path/to/file, got what is not shown here")
    (found,) = problems(tmp_path, "", ACTORWORK_BROKER="postgres://ann:secret@host")
    assert found.startswith("ACTORWORK_BROKER: broker wants redis://")
    assert "secret" not in found


def test_a_table_of_yaml_that_is_in_itself_is_refused(tmp_path: Path):
    (found,) = problems(tmp_path, "only: &a [*a, *a]", "a.yaml")
    assert found.startswith("a.yaml:1: only wants a list of names, got [[")
    (found,) = problems(tmp_path, "actors: &a\n  mailer: *a\n", "a.yaml")
    assert "there is no setting actors.mailer.mailer" in found


def test_a_table_of_yaml_may_stand_for_several(tmp_path: Path):
    text = "actors:\n  a: &usual {concurrency: 3}\n  b: *usual\n  c: {<<: *usual, max_crashes: 1}\n"
    assert loaded(tmp_path, text, "a.yaml").changes.actors == {
        "a": {"concurrency": 3},
        "b": {"concurrency": 3},
        "c": {"concurrency": 3, "max_crashes": 1},
    }


def test_bounds_of_resources_switch_on_that_they_are_watched(tmp_path: Path):
    assert loaded(tmp_path, "resources = true").options == {"resources": True}
    found = loaded(tmp_path, "[resource_bounds]\nmemory = '80%'").options["resources"]
    assert (found.memory, found.disk) == (0.8, 0.05)
    assert loaded(tmp_path, "resources = false\n[resource_bounds]\nmemory = 0.8").options == {"resources": False}


def test_an_error_survives_pickling():
    error = ConfigurationError(["one", "two"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert pickle.loads(pickle.dumps(error)).problems == ("one", "two")


@pytest.mark.parametrize(
    ("missing", "name", "extra"), [("typed_settings", "a.toml", "config"), ("yaml", "a.yaml", "yaml")]
)
def test_without_an_extra_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, name: str, extra: str
):
    if missing == "typed_settings":
        for module in [
            one for one in sys.modules if one.startswith(("actorwork.runtime.configuration", "typed_settings"))
        ]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=re.escape(f'pip install "actorwork[{extra}]"')):
        loaded(tmp_path, "", name)


# ---- its effect on a tree ----


def test_it_changes_actors_limits_and_processes_wherever_they_are(tmp_path: Path):
    found = loaded(
        tmp_path,
        """
        [actors."send mail"]
        concurrency = 4
        sources = ["letters"]
        soft_timeout = "30s"
        mailbox = {capacity = 7, overflow = "fail"}
        rate_limit = {rate = 3, per = "1m", scope = "global"}
        [actors.Local]
        dead_letters.max_age = "1d"
        [actors.later]
        rate_limit.rate = 9
        circuit_breaker.reset = "1s"
        [limits.smtp]
        rate = 2.5
        failures = 8
        [limits.room]
        limit = 1
        [processes.post]
        scale = {min = 2, max = 3}
        max_memory = "1GiB"
        hang_timeout = "none"
        """,
    )
    mailer, local, later = (settings_of(found, title) for title in ("send mail", "Local", "later"))
    assert (mailer.concurrency, mailer.soft_timeout, mailer.execution_timeout) == (4, 30.0, 60.0)
    assert mailer.sources == {"letters"}
    assert mailer.all_sources == ("letters", mailer.default_source)
    assert (mailer.mailbox.capacity, mailer.mailbox.overflow, mailer.mailbox.stash) == (7, "fail", 1000)
    assert mailer.limits == (
        RateLimit(2.5, name="smtp"),
        CircuitBreaker("smtp", failures=8),
        Bulkhead("room", 1),
        RateLimit(3, per=60, scope="global"),
    )
    assert local.dead_letters.max_age == 86_400
    assert later.limits == (RateLimit(9, burst=3), CircuitBreaker(reset=1))
    (process,) = processes_in(found.applied_to(tree()))
    assert process.replicas == Scale(min=2, max=3)
    assert (process.max_memory, process.hang_timeout, process.shutdown_timeout) == (2**30, None, 30.0)
    # What the program declares is as it was.
    assert Mailer.settings.concurrency == 1
    assert next(processes_in(tree())).replicas == 2


def test_it_changes_how_the_states_of_an_entity_are_kept(tmp_path: Path):
    found = loaded(
        tmp_path,
        """
        [actors.account.entities]
        idle = "10m"
        limit = "1MB"
        ttl = "90d"
        """,
        ACTORWORK_ACTORS__CART__ENTITIES__MOST="7",
    )
    assert settings_of(found, "account").entities == Entities(idle=600, limit=1_000_000, ttl=90 * 86_400)
    assert settings_of(found, "cart").entities == Entities(idle=60, most=7, history=5)
    again = loaded(tmp_path, "[actors.cart]\nentities.ttl = 'none'\nentities.history = 0")
    assert settings_of(again, "cart").entities == Entities(idle=60)


def test_without_settings_for_it_a_tree_stays_the_very_same():
    root = tree()
    assert load_configuration(environment={"ACTORWORK_LEASE": "3s"}).applied_to(root) is root


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[actors.'send mial']\nconcurrency = 2",
            "no actor of this tree is called 'send mial'; did you mean 'send mail'?",
        ),
        ("[processes.pots]\nreplicas = 2", "no process of this tree is called 'pots'; did you mean 'post'?"),
        ("[limits.smpt]\nrate = 2", "no limit of this tree is called 'smpt'; did you mean 'smtp'?"),
        ("[limits.room]\nrate = 2", "limits.room is a Bulkhead: it has no rate"),
        ("[actors.'send mail']\nsoft_timeout = '2m'", 'actors."send mail": Settings.soft_timeout wants less than'),
        ("[actors.Local]\nrate_limit.burst = 2", "actors.Local: rate_limit wants rate too"),
        ("[actors.later]\nentities.idle = 2", "actors.later: entities: it is no Entity, so it has no states"),
        ("[processes.post]\nreplicas = 2\nscale.min = 2", "processes.post: replicas and scale are both set"),
        ("[processes.post.scale]\nmin = 9", "processes.post: Scale.max wants at least min=9, got 8"),
    ],
)
def test_what_does_not_fit_the_tree_is_refused(tmp_path: Path, text: str, problem: str):
    found = loaded(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        found.applied_to(tree())
    (one,) = caught.value.problems
    assert one.removeprefix(f"{tmp_path}/actorwork.toml: ").startswith(problem)


def test_a_limit_without_a_name_must_be_the_only_one(tmp_path: Path):
    class Twice(Actor):
        settings = Settings(title="twice", limits=[ConcurrencyLimit(1), ConcurrencyLimit(2, by="key")])

    found = loaded(tmp_path, "[actors.twice]\nconcurrency_limit.limit = 3")
    with pytest.raises(ConfigurationError, match="the actor has 2 of these without a name"):
        found.applied_to(root_of(Twice))


def test_a_variable_that_may_be_either_of_two_titles_is_refused():
    class One(Actor):
        settings = Settings(title="a b")

    class Other(Actor):
        settings = Settings(title="a-b")

    found = load_configuration(environment={"ACTORWORK_ACTORS__A_B__CONCURRENCY": "3"})
    with pytest.raises(ConfigurationError, match="A_B may be each of 'a b' and 'a-b': set it in a file"):
        found.applied_to(root_of([One, Other]))


def test_a_changed_actor_travels_to_another_process_without_its_settings(tmp_path: Path):
    found = loaded(tmp_path, "[actors.'send mail']\nconcurrency = 4\n[limits.smtp]\nrate = 2")
    child = next(child for child in actors_in(found.applied_to(tree())) if child.title == "send mail")
    assert child.settings.concurrency == 4  # Computed here, and again there.
    there: Child[Any] = pickle.loads(pickle.dumps(child))
    assert there.settings.concurrency == 4
    assert there.settings.limits[0] == RateLimit(2, name="smtp")
    assert there.settings.middleware == Mailer.settings.middleware


async def test_a_running_actor_handles_as_many_at_once_as_is_set(tmp_path: Path):
    class Gate(Actor):
        settings = Settings(title="gate")

        @receive
        async def wait(self, message: int) -> None:
            inside.append(message)
            if len(inside) == 3:
                full.set()
            await leave.wait()

    inside: list[int] = []
    full, leave = trio.Event(), trio.Event()
    (tmp_path / "a.toml").write_text("[actors.gate]\nconcurrency = 3")
    async with open_test_system(Gate, config=tmp_path / "a.toml") as system:
        for number in range(3):
            await system.client.ref(Gate).tell(number)
        await full.wait()
        leave.set()


async def test_the_call_precedes_what_is_set_and_what_is_set_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a.toml").write_text(f'broker = "sqlite:///{tmp_path}/a.db"\nlease = "7s"\ngrace = "8s"')
    monkeypatch.setenv("ACTORWORK_GRACE", "9s")
    async with open_system(Later, config=tmp_path / "a.toml", lease=6) as system:
        options: Options = system._engine.options
        assert (options.lease, options.grace, options.loop_stall) == (6.0, 9.0, 0.5)
        assert (tmp_path / "a.db").exists()


# ---- what may be set ----

CODE = {
    "title": "the identity is made from it",
    "description": "says what the code does",
    "triggers": "schedules are code; an operator changes them at the broker",
    "retry": "policies are code",
    "limits": "by their names, and the actor's own by their kinds",
    "middleware": "code",
    "publish_middleware": "code",
    "decode": "code",
    "loop": "how the handlers are written",
    "priority": "up to those who send",
    "results_ttl": "up to those who send",
}


def test_each_field_of_settings_may_be_set_or_is_code_for_a_reason():
    fields = {field.name for field in attrs.fields(Settings)}
    operable = {path.partition(".")[0] for path in options_of(TABLES["actors"])}
    assert fields - operable == CODE.keys()
    assert not fields & operable & CODE.keys()


PROCESS_CODE = {"children", "name", "id", "intensity", "restart", "significant", "backoff"}
RUN_CODE = {"emit", "telemetry", "middleware", "publish_middleware", "cron_schedule", "config"}


def test_each_field_of_a_process_may_be_set_or_is_code():
    operable = {path.partition(".")[0] for path in options_of(TABLES["processes"])} - {"scale"}
    assert {field.name for field in attrs.fields(Process)} == operable | PROCESS_CODE


def test_each_option_of_run_may_be_set_or_is_code():
    operable = {path.partition(".")[0] for path in options_of(ProgramFields)} - {"resource_bounds"}
    assert RunOptions.__optional_keys__ == operable | RUN_CODE


def uncommented(text: str) -> str:
    return re.sub(r"^# (\[|\w+ = )", r"\1", text, flags=re.MULTILINE)


def test_the_documented_file_has_every_setting_with_its_default(tmp_path: Path):
    found = load_configuration(EXAMPLE, environment={})
    for setting in found.settings:
        default = setting.kind.default
        assert setting.value == default or default is None, setting.name
    whole = loaded(tmp_path, uncommented(EXAMPLE.read_text()))
    there = {setting.name for setting in whole.settings}
    names = {"actors": "mailer", "processes": "studio", "limits": "smtp"}
    expected = set(options_of(ProgramFields))
    expected |= {f"{table}.{names[table]}.{path}" for table, of in TABLES.items() for path in options_of(of)}
    # What only an entity has stands at one.
    expected = {name.replace(".mailer.entities.", ".cart.entities.") for name in expected}
    assert there == expected


def accepts(schema: dict[str, Any], value: Any) -> bool:
    validator: Any = Draft202012Validator(schema)
    return validator.is_valid(value)


def test_the_schema_is_one_and_accepts_what_the_program_accepts():
    Draft202012Validator.check_schema(schema())
    for text in (EXAMPLE.read_text(), uncommented(EXAMPLE.read_text())):
        assert accepts(schema(), tomllib.loads(text))
    assert not accepts(schema(), {"leese": 3})
    assert not accepts(schema(), {"actors": {"mailer": {"concurrency": 0}}})


VALUES: Mapping[str, tuple[list[object], list[object]]] = {
    "whole": ([1], ["1", True, 1.5, None, -1]),
    "number": ([1, 1.5], ["1", True]),
    "duration": ([2, 2.5, "2s", "1s500ms"], ["1", "soon", True, "1 s"]),
    "size": ([1, "1MB", "1.5 MiB"], ["a GB", 1.5, True]),
    "share": ([0.5, "50%"], ["half", True, 2]),
    "word": ([], ["nothing of the kind", 3]),
    "names": ([["a"], []], ["a", [3]]),
    "flag": ([True], ["true", 1]),
    "text": (["sqlite://"], ["", 3]),
    "address": (["127.0.0.1:80", "[::1]:8080"], ["", "127.0.0.1", "host:", "host:port", "1:-5", "host:1234567", 80]),
    "levels": (["INFO", "15", "ERROR, shop.db = DEBUG"], ["", "LOUD", "shop=LOUD", "=INFO", 3, None]),
}


def test_the_schema_and_the_program_agree_on_each_setting():
    fields = {"": ProgramFields, **TABLES}
    tried = 0
    for table, of in fields.items():
        for path, option in options_of(of).items():
            kind = kind_of(option)
            good, bad = VALUES[kind.form]
            for one in [*good, *kind.words]:
                assert accepts(kind.schema, one), (table, path, one)
                kind(one)
            for one in bad:
                if one is None and kind.is_optional:
                    continue
                assert not accepts(kind.schema, one), (table, path, one)
                with pytest.raises(ValueError):
                    kind(one)
                tried += 1
    assert tried > 100
    assert json.loads(json.dumps(schema())) == schema()


def test_a_task_and_a_partial_are_left_as_they_are(tmp_path: Path):
    async def clock(*, task_status: trio.TaskStatus[None]) -> None: ...

    found = loaded(tmp_path, "[actors.later]\nconcurrency = 2")
    root = found.applied_to(root_of([Child(clock), Child(partial(Later), shutdown=3)]))
    task, later = root.children
    assert isinstance(task, Child)
    assert isinstance(later, Child)
    assert task.actor is None
    assert (later.shutdown, later.settings.concurrency) == (3, 2)


class Recorded:
    """A system that notes what is changed in it."""

    def __init__(self, *known: tuple[str, str]) -> None:
        self.known = known
        self.rates: list[Rates] = []
        self.paused: list[tuple[str, ...]] = []

    def change_log_levels(self, level: str) -> bool:
        return True

    def change_rates(self, rates: Rates) -> Collection[tuple[str, str]]:
        self.rates.append(rates)
        return self.known

    def change_paused_sources(self, names: Collection[str]) -> Collection[str]:
        self.paused.append(tuple(names))
        return [name for name in names if name == "oders"]


async def test_at_a_hangup_rates_change_that_the_tree_has_and_each_other_change_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "a.toml"
    file.write_text("[limits.tax]\nrate = 5\n[limits.old]\nrate = 1\n[actors.till.rate_limit]\nrate = 1\n")
    running = Recorded(("limits", "tax"), ("actors", "till"))
    configuration = load_configuration([file])
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload_on_hangup, configuration, (), running)
        await trio.testing.wait_all_tasks_blocked()
        file.write_text(
            "[limits.tax]\nrate = 7\nper = '1m'\n[limits.new]\nrate = 3\n"
            "[actors.till]\nconcurrency = 4\n[actors.till.rate_limit]\nrate = 2\n"
        )
        os.kill(os.getpid(), signal.SIGHUP)
        with trio.fail_after(PATIENCE):
            while not running.rates:  # noqa: ASYNC110 - a signal makes no event
                await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    (rates,) = running.rates
    assert rates.limits == {"tax": {"rate": 7, "per": 60}, "new": {"rate": 3}}
    assert rates.actors == {"till": {"rate": 2}}
    assert sorted(record.getMessage() for record in caplog.records if "SIGHUP" in record.getMessage()) == [
        "SIGHUP: actors.till.concurrency has changed, and needs a restart to take effect",
        "SIGHUP: actors.till.rate_limit.rate is 2 now, in all processes of the tree",
        "SIGHUP: limits.new.rate has changed, and needs a restart to take effect",
        "SIGHUP: limits.old.rate has changed, and needs a restart to take effect",
        "SIGHUP: limits.tax.per is 60.0 now, in all processes of the tree",
        "SIGHUP: limits.tax.rate is 7 now, in all processes of the tree",
    ]


async def test_at_a_hangup_sources_are_paused_and_resumed_and_one_that_nothing_reads_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "a.toml"
    file.write_text("lease = '9s'\n")
    running = Recorded()
    configuration = load_configuration([file])
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload_on_hangup, configuration, (), running)
        await trio.testing.wait_all_tasks_blocked()
        for count, text in enumerate(("lease = '9s'\npaused_sources = ['mails', 'oders']\n", "lease = '9s'\n"), 1):
            file.write_text(text)
            os.kill(os.getpid(), signal.SIGHUP)
            with trio.fail_after(PATIENCE):
                while len(running.paused) < count:  # noqa: ASYNC110 - a signal makes no event
                    await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert running.paused == [("mails", "oders"), ()]
    assert [record.getMessage() for record in caplog.records if "SIGHUP" in record.getMessage()] == [
        "SIGHUP: paused_sources is mails, oders now, in all processes of the tree",
        "SIGHUP: no actor of the tree reads 'oders', which paused_sources names",
        "SIGHUP: paused_sources is empty now, in all processes of the tree",
    ]
