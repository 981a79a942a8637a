"""The sink and the formats of logs: levels, ids, reminders, tracebacks, JSON."""

import io
import json
import logging
import os
import re
import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

from actorwork import events
from actorwork.errors import SettingsError
from actorwork.message import Delivery, Failure
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement, failure_of
from actorwork.settings import default_source
from actorwork.telemetry import configuring
from actorwork.telemetry.configuring import configure, configured, levels_of
from actorwork.telemetry.formatting import JsonFormatter, TextFormatter
from actorwork.telemetry.logs import AREAS, FIELDS, LogSink

from .test_sentences import EVERY_EVENT

NODE = "9a3c"
LOGS = (Path(__file__).parents[2] / "docs" / "logs.md").read_text(encoding="utf-8")


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Log:
    def __init__(self) -> None:
        self.logger = logging.getLogger("actorwork.tests")
        self.logger.setLevel(logging.DEBUG)
        self.logger.propagate = False
        self.kept = Kept()
        self.logger.handlers[:] = [self.kept]
        self.now = 0.0
        self.sink = LogSink(NODE, self.logger, clock=lambda: self.now)

    def record(self, event: events.Event) -> logging.LogRecord:
        self.sink(event)
        return self.kept.records[-1]

    def line(self, event: events.Event, formatter: logging.Formatter | None = None) -> str:
        return (formatter or TextFormatter()).format(self.record(event))


@pytest.fixture
def log() -> Log:
    return Log()


def broken(text: str = "no such order") -> Failure:
    try:
        raise ValueError(text)
    except ValueError as error:
        return failure_of(error)


def settled(settlement: Settlement, *, message_id: str = "3f-1", attempt: int = 2) -> events.Settled:
    delivery = Delivery(id=message_id, source="orders", payload=b"{}", token=None, attempt=attempt)
    return events.Settled("ac70", "greeter", delivery, settlement, 0.0031)


def test_the_line_of_a_failed_message_names_its_dead_letter_and_the_command_to_see_it(log: Log):
    record = log.record(settled(Fail(broken())))
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        "greeter failed message 3f-1 (attempt 2, ValueError: no such order): it is a dead letter of 'orders' now; "
        "see: actorwork dead show orders 3f-1 [node=9a3c actor=ac70 message=3f-1 attempt=2]"
    )


def test_the_command_in_a_line_can_be_pasted_into_any_shell(log: Log):
    log.sink(events.NodeStarted(NODE, "redis://ann:***@there:6379/0?db=1&x=2", ()))
    line = log.line(settled(Fail(broken()), message_id="-x 'y' $(z)")).partition("; see: ")[2].partition(" [node")[0]
    assert shlex.split(line) == [
        *("actorwork", "dead", "show", "--broker", "redis://ann:***@there:6379/0?db=1&x=2"),
        *("--", "orders", "-x 'y' $(z)"),
    ]
    lettered = log.line(events.DeadLettered("orders", "ac70", "3f-1", 3))
    assert "; see: actorwork dead show --broker 'redis://ann" in lettered
    log.sink(events.NodeStarted(NODE, "sqlite://", ()))
    assert "; see:" not in log.line(settled(Fail(broken()))), "no other process sees what is in memory"


def test_a_lost_broker_is_a_warning_now_and_then_and_again_after_it_was_back(log: Log):
    def lost(at: float) -> str:
        log.now = at
        return log.record(events.BrokerLost("ConnectionRefusedError", 1.0)).levelname

    assert [lost(at) for at in (0, 0.3, 9, 10.5, 11)] == ["WARNING", "DEBUG", "DEBUG", "WARNING", "DEBUG"]
    log.record(events.BrokerBack("redis://localhost"))
    assert lost(12) == "WARNING"


def test_each_server_of_a_cluster_that_is_lost_is_a_warning(log: Log):
    def lost(name: str) -> str:
        return log.record(events.BrokerLost("ConnectionRefusedError", 1.0, name, 1, 3)).levelname

    assert [lost(name) for name in "abab"] == ["WARNING", "WARNING", "DEBUG", "DEBUG"]
    log.record(events.BrokerBack("a", 1, 3))
    assert [lost(name) for name in "ab"] == ["WARNING", "DEBUG"]
    log.record(events.BrokerBack("d", 0, 3))
    assert [lost(name) for name in "ab"] == ["WARNING", "WARNING"]


def test_one_of_several_processes_names_itself(log: Log):
    started = events.NodeStarted("9a3c", "redis://localhost", ("greeter",))
    assert f" INFO actorwork.tests.node[{os.getpid()}]: " in log.line(started, TextFormatter(one_of_several=True))
    assert " INFO actorwork.tests.node: " in log.line(started)


def test_an_error_line_carries_every_field_as_an_attribute(log: Log):
    record = log.record(settled(Fail(broken())))
    assert {field: vars(record)[field] for field in FIELDS} == {
        "event": "Settled",
        "node_id": NODE,
        "actor_id": "ac70",
        "actor": "greeter",
        "message_id": "3f-1",
        "source": "orders",
        "attempt": 2,
        "error": "ValueError: no such order",
    }


def test_the_traceback_of_an_unexpected_error_is_printed_by_any_standard_formatter(log: Log):
    text = log.line(settled(Fail(broken())), logging.Formatter())
    assert "Traceback (most recent call last)" in text
    assert "raise ValueError(text)" in text


@pytest.mark.parametrize("expected", ["Fail", "CodecError", "MessageRefused"])
def test_an_error_that_was_expected_has_no_traceback(log: Log, expected: str):
    failure = Failure(expected, "as agreed", "Traceback (most recent call last): …")
    assert "Traceback" not in log.line(settled(Fail(failure)))


def test_a_retry_says_when_it_runs_again(log: Log):
    record = log.record(settled(Retry(2.0, broken())))
    assert record.levelno == logging.WARNING
    assert "(attempt 2, ValueError: no such order): it runs again in 2 s" in record.getMessage()


def test_a_rejection_is_logged_at_info(log: Log):
    record = log.record(settled(Reject(Failure("Reject", "too old"))))
    assert record.levelno == logging.INFO
    assert "(attempt 2, Reject: too old): it is dropped" in record.getMessage()


def test_success_is_seen_at_debug_only(log: Log):
    assert log.record(settled(Ack())).levelno == logging.DEBUG
    log.logger.setLevel(logging.INFO)
    log.sink(settled(Ack()))
    assert len(log.kept.records) == 1


def test_whether_success_is_logged_follows_the_level_of_the_log(log: Log):
    for level, wants in ((logging.INFO, False), (logging.DEBUG, True)):
        log.logger.setLevel(level)
        assert LogSink("node", log.logger).wants_acks is wants


def test_success_is_told_without_an_event_and_becomes_one_where_it_is_logged(log: Log):
    event = settled(Ack())
    assert isinstance(event, events.Settled)
    fields = event.actor_id, event.title, event.delivery, event.settlement, event.seconds
    log.logger.setLevel(logging.INFO)
    log.sink.acked(*fields)
    assert not log.kept.records
    log.logger.setLevel(logging.DEBUG)
    log.sink.acked(*fields)
    log.sink(event)
    first, second = log.kept.records
    assert first.getMessage() == second.getMessage()


def test_foreign_text_cannot_begin_its_own_line(log: Log):
    failure = Failure("ValueError", "one\n2025-11-20T10:00:00.000Z INFO forged", "")
    line = log.line(settled(Fail(failure), message_id="a\r\nb"))
    assert "\n" not in line
    assert "\r" not in line
    assert r"one\n2025" in line


FORGED = "2025-11-20T10:00:00.000Z INFO actorwork: user admin logged in\x9b31m"


def raised(text: str) -> Any:
    try:
        raise ValueError(text)
    except ValueError as error:
        return type(error), error, error.__traceback__


@pytest.mark.parametrize(
    "record",
    [
        {"exc_info": raised(f"no\n{FORGED}")},
        {"msg": f"an order came:\n{FORGED}\r{FORGED}"},
        {"stack_info": f"Stack (most recent call last):\n{FORGED}"},
        {"exc_text": f"Traceback, as another formatter has cached it\n{FORGED}"},
    ],
    ids=lambda record: next(iter(record)),
)
def test_only_the_first_line_of_a_record_begins_in_the_first_column(record: dict[str, Any]):
    record = {"msg": "failed", "name": "shop", "levelname": "INFO", **record}
    text = TextFormatter().format(logging.makeLogRecord(record))
    assert [line for line in text.splitlines() if not line.startswith("  ")] == text.splitlines()[:1]
    assert "user admin logged in\\x9b31m" in text


@pytest.mark.parametrize("formatter", [TextFormatter(), logging.Formatter()], ids=["ours", "the standard one"])
def test_the_traceback_of_a_message_that_holds_a_line_of_a_log_is_indented(log: Log, formatter: logging.Formatter):
    first, *more = log.line(settled(Fail(broken(f"no\n{FORGED}"))), formatter).splitlines()
    assert "greeter failed message" in first
    assert {line[:2] for line in more} == {"  "}
    assert more[0] == "  Traceback (most recent call last):"
    assert "user admin logged in\\x9b31m" in more[-1]


def test_lines_of_json_hold_no_character_that_a_terminal_obeys_and_the_same_text():
    text = f"tab\t, \x7f, {FORGED}, \u2028, \u202e, \ud800, 🐈"
    line = JsonFormatter().format(logging.makeLogRecord({"msg": text, "args": None}))
    assert line.isprintable()
    assert "🐈" in line
    assert json.loads(line)["message"] == text


def test_foreign_text_cannot_fill_the_screen(log: Log):
    assert len(log.line(settled(Fail(Failure("ValueError", "x" * 100_000))))) < 2000


SECRET = "s3cr3t"
URL = f"redis://ann:{SECRET}@broker:6379/0?ssl_password={SECRET}"


def raised_with(text: str) -> OSError:
    try:
        raise OSError(text)
    except OSError as error:
        return error


@pytest.mark.parametrize(
    "formatter", [TextFormatter(), JsonFormatter(), logging.Formatter()], ids=["text", "json", "the standard one"]
)
@pytest.mark.parametrize(
    "event",
    [
        events.BrokerLost(f"cannot reach {URL}", 1.0),
        events.BrokerAdvice(f"no append-only file at {URL}", f"redis-cli -u {URL}"),
        settled(Fail(broken(f"no such order at {URL}"))),
        events.ActorTrouble("ac70", "greeter", "shutdown", raised_with(f"cannot close {URL}")),
        events.ShutdownStage("intake", f"OSError: {URL}"),
        events.NodeStarted("b001", URL, ()),
    ],
    ids=lambda event: type(event).__name__,
)
def test_no_line_of_an_event_shows_a_password(log: Log, event: events.Event, formatter: logging.Formatter):
    line = log.line(event, formatter)
    assert SECRET not in line
    assert "ann:***@broker:6379" in line
    assert SECRET not in str(vars(log.kept.records[-1])["msg"]) + str(vars(log.kept.records[-1]).get("error"))


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
@pytest.mark.parametrize(
    "record",
    [
        {"msg": f"an application's own line: {URL}"},
        {"msg": "%s failed", "args": (URL,)},
        {"msg": "failed", "exc_info": raised(f"no {URL}")},
        {"msg": "failed", "stack_info": f"Stack: {URL}"},
        {"msg": "failed", "place": f"in extra: {URL}", "exc_info": raised(URL)},
    ],
)
def test_our_formatters_show_no_password_whoever_logs_it(record: dict[str, Any], formatter: logging.Formatter):
    line = formatter.format(logging.makeLogRecord({"levelname": "INFO", "name": "shop", **record}))
    assert SECRET not in line
    assert "ann:***@broker:6379" in line


def test_the_traceback_of_an_error_of_ours_is_harmless_for_any_formatter(log: Log):
    event = events.ActorTrouble("ac70", "greeter", "shutdown", raised_with(f"no\n{FORGED}"))
    first, *more = log.line(event, logging.Formatter()).splitlines()
    assert "the shutdown of greeter failed" in first
    assert {line[:2] for line in more} == {"  "}
    assert "user admin logged in\\x9b31m" in more[-1]
    assert json.loads(log.line(event, JsonFormatter()))["traceback"].startswith("Traceback")


LINES: list[tuple[events.Event, str, str]] = [
    (events.NodeStarted("b001", "redis://localhost", ()), "INFO", "b001"),
    (events.NodeStopped(25.0, forced=True), "WARNING", NODE),
    (events.LeaseLost(NODE, "b001", "not renewed for 10 s"), "ERROR", NODE),
    (events.Released("orders", "ac70", 7), "DEBUG", NODE),
]


@pytest.mark.parametrize(("event", "level", "node_id"), LINES, ids=lambda value: type(value).__name__)
def test_a_record_names_its_node_and_from_warning_upwards_in_its_line_too(
    log: Log, event: events.Event, level: str, node_id: str
):
    record = log.record(event)
    assert record.levelname == level
    assert vars(record)["node_id"] == node_id
    assert (f"[node={node_id}" in record.getMessage()) == (record.levelno >= logging.WARNING)


def test_after_a_lost_lease_the_lines_name_the_successor(log: Log):
    log.record(events.LeaseLost(NODE, "b001", "not renewed for 10 s"))
    assert vars(log.record(events.BrokerBack("redis://localhost")))["node_id"] == "b001"


def test_a_sink_never_raises_even_if_an_applications_filter_does(log: Log, capsys: pytest.CaptureFixture[str]):
    def spoiled(record: logging.LogRecord) -> bool:
        raise RuntimeError(record.name)

    log.logger.addFilter(spoiled)
    try:
        log.sink(settled(Fail(broken())))
    finally:
        log.logger.removeFilter(spoiled)
    assert "RuntimeError: actorwork.tests.actors" in capsys.readouterr().err


def test_json_lines_hold_the_same_facts(log: Log):
    line: dict[str, Any] = json.loads(log.line(settled(Fail(broken())), JsonFormatter()))
    assert line.pop("traceback").startswith("Traceback")
    assert line.pop("message").startswith("greeter failed message 3f-1")
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "ERROR",
        "logger": "actorwork.tests.actors",
        "event": "Settled",
        "node_id": NODE,
        "actor_id": "ac70",
        "actor": "greeter",
        "message_id": "3f-1",
        "source": "orders",
        "attempt": 2,
        "error": "ValueError: no such order",
    }


SCHEMA: dict[str, Any] = json.loads(re.findall(r"```json\n(.*?)```", LOGS, re.DOTALL)[0])


@pytest.mark.parametrize("event", [event for event, _, _ in EVERY_EVENT], ids=lambda event: type(event).__name__)
def test_every_event_is_one_line_of_the_schema_that_the_chapter_states(log: Log, event: events.Event):
    line = log.line(event, JsonFormatter())
    assert "\n" not in line
    facts = json.loads(line)
    assert {name: wrong for name in facts if (wrong := wrong_with(facts[name], SCHEMA["properties"][name]))} == {}
    assert {*SCHEMA["required"], "event", "node_id"} <= facts.keys()
    assert facts["event"] == type(event).__name__
    assert len(log.kept.records) == 1


def wrong_with(value: object, rule: dict[str, Any]) -> list[str]:
    """Check a value by the few words of JSON Schema that the chapter uses."""
    words: dict[str, Callable[[Any, Any], bool]] = {
        "type": lambda found, wanted: isinstance(found, {"string": str, "integer": int}[wanted]),
        "enum": lambda found, wanted: found in wanted,
        "pattern": lambda found, wanted: re.search(wanted, found) is not None,
        "minLength": lambda found, wanted: len(found) >= wanted,
        "minimum": lambda found, wanted: found >= wanted,
    }
    return [word for word, wanted in rule.items() if word != "description" and not words[word](value, wanted)]


def test_the_schema_finds_what_does_not_fit_it():
    rules = SCHEMA["properties"]
    assert wrong_with("1", rules["attempt"] | {"minimum": "0"}) == ["type"]
    assert wrong_with(0, rules["attempt"]) == ["minimum"]
    assert wrong_with("LOUD", rules["level"]) == ["enum"]
    assert wrong_with("today", rules["time"]) == ["pattern"]
    assert wrong_with("", rules["message"]) == ["minLength"]


def test_each_event_that_an_area_names_is_logged_there(log: Log):
    for event, _, _ in EVERY_EVENT:
        area = next((area for area, names in AREAS.items() if type(event).__name__ in names), "")
        assert log.record(event).name == f"actorwork.tests.{area}".rstrip(".")
    named = [name for names in AREAS.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) <= {kind.__name__ for kind in get_args(events.Event)}
    assert LOGS.count("| `actorwork.") > len(AREAS)
    assert [area for area in AREAS if f"| `actorwork.{area}` |" not in LOGS] == []


def test_a_level_of_one_logger_shows_more_or_less_of_one_area(log: Log):
    log.logger.setLevel(logging.WARNING)
    log.logger.getChild("streams").setLevel(logging.DEBUG)
    log.logger.getChild("actors").setLevel(logging.CRITICAL)
    try:
        log.sink(events.NodeStarted("b001", "redis://localhost", ()))
        log.sink(events.Released("orders", "ac70", 7))
        log.sink(settled(Fail(broken())))
        log.sink(events.NodeStopped(25.0, forced=True))
    finally:
        for area in AREAS:
            log.logger.getChild(area).setLevel(logging.NOTSET)
    assert [vars(record)["event"] for record in log.kept.records] == ["Released", "NodeStopped"]
    assert {vars(record)["node_id"] for record in log.kept.records} == {"b001"}


@pytest.mark.parametrize(
    ("level", "whole", "own"),
    [
        ("INFO", logging.INFO, {}),
        ("debug", logging.DEBUG, {}),
        (15, 15, {}),
        ("15", 15, {}),
        ("actorwork.streams=DEBUG", logging.INFO, {"actorwork.streams": logging.DEBUG}),
        ("ERROR, shop.db = 15 ,a=debug", logging.ERROR, {"shop.db": 15, "a": logging.DEBUG}),
        ("INFO,WARNING", logging.WARNING, {}),
    ],
)
def test_levels_are_read(level: int | str, whole: int, own: dict[str, int]):
    assert levels_of(level) == (whole, own)


@pytest.mark.parametrize("level", ["", "LOUD", "=DEBUG", "a=LOUD", "a=", "INFO,", True, None, 1.5, -1])
def test_a_level_that_does_not_exist_is_refused(level: object):
    with pytest.raises(SettingsError, match=r"log_level wants one of CRITICAL, .*, got"):
        levels_of(level)


def test_levels_are_set_and_told_to_processes():
    shop = logging.getLogger("shop.of.a.test")
    with bare_root() as root:
        try:
            assert configure("ERROR,shop.of.a.test=DEBUG", "json", io.StringIO())
            assert (root.level, shop.level) == (logging.ERROR, logging.DEBUG)
            assert configured() == ("40,shop.of.a.test=10", "json")
            root.setLevel(logging.INFO)
            assert configured() == ("20,shop.of.a.test=10", "json"), "as it is now"
            assert levels_of(configured()[0]) == (logging.INFO, {"shop.of.a.test": logging.DEBUG})
        finally:
            shop.setLevel(logging.NOTSET)
            configuring._configured.pop()


def test_json_time_is_iso_8601_in_utc():
    record = logging.makeLogRecord({"msg": "x", "created": 1_763_635_441.25})
    assert json.loads(JsonFormatter().format(record))["time"] == "2025-11-20T10:44:01.250Z"


def test_json_takes_the_applications_own_fields_and_errors():
    try:
        raise OSError("disk")
    except OSError as error:
        record = logging.makeLogRecord({"msg": "x", "order": 17, "exc_info": (type(error), error, error.__traceback__)})
    line = json.loads(JsonFormatter().format(record))
    assert line["order"] == 17
    assert line["traceback"].endswith("OSError: disk")


@pytest.mark.parametrize("odd", [float("nan"), {(1, 2): 3}, object()])
def test_json_stays_valid_with_any_extra_of_an_application(odd: object):
    record = logging.makeLogRecord({"msg": "x", "odd": odd, "fine": 1})
    line = json.loads(JsonFormatter().format(record), parse_constant=pytest.fail)
    assert line["fine"] == 1
    assert isinstance(line["odd"], str)


@contextmanager
def bare_root() -> Generator[logging.Logger]:
    """Remove pytest's own handlers, which count as an application's."""
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield root
    finally:
        root.handlers[:] = kept
        root.setLevel(level)


def test_logging_is_set_up_if_the_application_has_not():
    stream = io.StringIO()
    with bare_root():
        assert configure("info", "json", stream)
        LogSink(NODE, logging.getLogger("actorwork.elsewhere"))(events.BrokerBack("redis://here"))
    assert json.loads(stream.getvalue())["message"] == "connected to the broker at redis://here"


def test_an_applications_own_logging_is_left_alone():
    with bare_root() as root:
        mine = Kept()
        root.addHandler(mine)
        assert not configure("DEBUG")
        assert root.handlers == [mine]


def test_advice_about_the_broker_is_logged_once_whatever_opens_it(log: Log):
    advice = events.BrokerAdvice("the append-only file is off", "turn it on", "durability")
    child = LogSink("child", log.logger, is_child=True)
    LogSink("client", log.logger)(advice)
    for sink in (log.sink, child):
        sink(advice)
        sink(events.BrokerAdvice("the group 'monitor' of 'orders' is no actor's", "look there", "groups"))
    child(events.BrokerAdvice("another one of the server", "look there", "eviction"))
    assert [record.getMessage().split(";")[0] for record in log.kept.records if record.levelno > logging.DEBUG] == [
        "the append-only file is off",
        "the group 'monitor' of 'orders' is no actor's",
    ]


def test_an_actors_own_source_is_shown_by_its_title_but_in_commands(log: Log):
    source = default_source("ac70")
    log.sink(events.ActorStarted("ac70", "greeter", 1))
    assert log.line(events.Reclaimed(source, "ac70", "3f0a", 2)).count("actor:greeter") == 1
    assert "settling of actor:greeter, worker:bd:source failed" in log.line(
        events.BrokerTrouble(f"settling of {source}, worker:bd:source", "no", "again")
    )
    dead = log.record(events.DeadLettered(source, "ac70", "3f-1", 3))
    assert "actor:greeter" in dead.getMessage()
    assert f"actorwork dead show {source} 3f-1" in dead.getMessage()
    assert vars(dead)["source"] == source
