"""What an operator reads: sentences that say what happens next, with every id on the lines that matter."""

import io
import json
import logging
import os
import timeit
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from actorwork import events
from actorwork.message import Delivery, Failure, Pause
from actorwork.policy.exits import Exit, Kind
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement, failure_of
from actorwork.telemetry.logs import FIELDS, JsonFormatter, LogSink, TextFormatter, configure

NODE = "9a3c"


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


def test_a_failed_message_says_where_it_is_now_and_how_to_see_it(log: Log):
    record = log.record(settled(Fail(broken())))
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        "greeter failed message 3f-1 (attempt 2, ValueError: no such order): a dead letter of 'orders' now; "
        "see: actorwork dead show orders 3f-1 [node=9a3c actor=ac70 message=3f-1 attempt=2]"
    )


def test_a_broker_that_stays_away_is_mentioned_now_and_then_and_again_after_it_was_back(log: Log):
    def lost(at: float) -> str:
        log.now = at
        return log.record(events.BrokerLost("ConnectionRefusedError", 1.0)).levelname

    assert [lost(at) for at in (0, 0.3, 9, 10.5, 11)] == ["WARNING", "DEBUG", "DEBUG", "WARNING", "DEBUG"]
    log.record(events.BrokerBack("redis://localhost"))
    assert lost(12) == "WARNING"


def test_one_of_several_processes_says_which_one_it_is(log: Log):
    started = events.NodeStarted("9a3c", "redis://localhost", ("greeter",))
    assert f" INFO actorwork.tests[{os.getpid()}]: " in log.line(started, TextFormatter(one_of_several=True))
    assert " INFO actorwork.tests: " in log.line(started)


def test_an_error_line_carries_every_field_as_an_attribute(log: Log):
    record = log.record(settled(Fail(broken())))
    assert {field: vars(record)[field] for field in FIELDS} == {
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


def test_a_rejection_is_no_trouble_but_is_told(log: Log):
    record = log.record(settled(Reject(Failure("Reject", "too old"))))
    assert record.levelno == logging.INFO
    assert "(attempt 2, Reject: too old): it is dropped" in record.getMessage()


def test_success_is_seen_at_debug_only(log: Log):
    assert log.record(settled(Ack())).levelno == logging.DEBUG
    log.logger.setLevel(logging.INFO)
    log.sink(settled(Ack()))
    assert len(log.kept.records) == 1


@pytest.mark.slow
def test_success_costs_next_to_nothing_when_debug_is_off(log: Log):
    log.logger.setLevel(logging.INFO)
    event = settled(Ack())
    best = min(timeit.repeat("sink(event)", globals={"sink": log.sink, "event": event}, number=20_000, repeat=9))
    assert best / 20_000 < 1e-6  # 0.16 µs where nobody else computes; a busy machine is given room.


def test_foreign_text_cannot_begin_a_line_of_its_own(log: Log):
    failure = Failure("ValueError", "one\n2025-11-20T10:00:00.000Z INFO forged", "")
    line = log.line(settled(Fail(failure), message_id="a\r\nb"))
    assert "\n" not in line
    assert "\r" not in line
    assert r"one\n2025" in line


def test_foreign_text_cannot_fill_the_screen(log: Log):
    assert len(log.line(settled(Fail(Failure("ValueError", "x" * 100_000))))) < 2000


EVERY_EVENT: list[tuple[events.Event, str, str]] = [
    (events.NodeStarted("9a3c", "redis://localhost", ("greeter", "cleaner")), "INFO", "reads for greeter, cleaner"),
    (events.NodeStopped(0.25, forced=False), "INFO", "stopped cleanly in 250 ms"),
    (events.NodeStopped(25.0, forced=True), "WARNING", "by force after 25 s"),
    (events.LeaseLost("9a3c", "b001", "not renewed for 10 s"), "ERROR", "going on as b001"),
    (events.BrokerLost("ConnectionRefusedError", 2.0), "WARNING", "trying again in 2 s"),
    (events.BrokerBack("redis://localhost"), "INFO", "connected to the broker at redis://localhost"),
    (events.GroupRestored("orders", "ac70"), "WARNING", "made anew"),
    (events.Reclaimed("orders", "ac70", "dead1", 3), "WARNING", "reclaimed 3 of 'orders' from the dead node dead1"),
    (events.Reclaimed("orders", "ac70", "released", 3), "INFO", "took 3 of 'orders'"),
    (events.Released("orders", "ac70", 7), "DEBUG", "handed back 7 of 'orders'"),
    (events.Fenced(settled(Ack()).delivery, "ac70", Ack()), "WARNING", "nothing of it took effect"),
    (events.DeadLettered("orders", "ac70", "3f-1", 3), "ERROR", "(3 processes died with it in hand)"),
    (
        events.BrokerTrouble("reclaiming", "OSError", "trying again in 1 s"),
        "WARNING",
        "reclaiming failed (OSError); try",
    ),
    (events.BrokerAdvice("no AOF", "turn it on"), "WARNING", "no AOF; going on. To change it: turn it on"),
    (events.ActorStarted("ac70", "greeter", 1), "INFO", "greeter is up"),
    (events.ActorStarted("ac70", "greeter", 4), "INFO", "greeter is up again (incarnation 4)"),
    (events.ChildExited("root", "greeter", 1, Exit(Kind.NORMAL)), "INFO", "greeter has ended (normal)"),
    (
        events.ChildExited("root", "greeter", 1, Exit(Kind.CRASHED, OSError("disk"))),
        "ERROR",
        "greeter crashed (OSError: disk)",
    ),
    (
        events.ActorTrouble("ac70", "greeter", "shutdown", OSError("disk")),
        "ERROR",
        "shutdown of greeter failed (OSError",
    ),
    (
        events.ChildRestarting("root", "greeter", 2, OSError("disk"), 0.0),
        "WARNING",
        "started again after OSError: disk",
    ),
    (events.ChildRestarting("root", "greeter", 2, None, 1.5), "WARNING", "started again in 1.5 s (restart 2)"),
    (
        events.GaveUp("root", "greeter", "more than 3 restarts within 5 s"),
        "ERROR",
        "root gives up on greeter (more than 3",
    ),
    (events.StuckChild("root", "greeter", "file.py:3 in wait"), "ERROR", "greeter does not end"),
    (events.ProcessStarted("crunchers 1", 4711, "0f3a"), "INFO", "crunchers 1 is up: process 4711, node 0f3a"),
    (events.ProcessHung("crunchers 1", 4711, 61.5, "a.py:3 in f"), "ERROR", "has not turned for 61.5 s: it is killed"),
    (events.ProcessKilled("crunchers 1", 4711), "WARNING", "(process 4711) did not end in its time and is killed"),
    (events.ProcessHung("crunchers 1", 4711, 61.5, ""), "ERROR", "it did not say where it stands"),
    (
        events.HandlerHung("far", 17, "greeter", "3f-1", 60.0, "thread a:\n  b"),
        "ERROR",
        "a handler of greeter in far (process 17) has not ended 60 s after its deadline: the process is killed",
    ),
    (events.ProcessReplaced("far", 17, 18, "9 messages"), "INFO", "process 18 takes the place of process 17 of far (9"),
    (events.Scaled("far", 1, 3, "a backlog"), "INFO", "far: from 1 to 3 replicas (a backlog); 2 are started"),
    (events.Scaled("far", 3, 2, "idle"), "INFO", "1 finish what they have in hand, and end"),
    (
        events.ReplacementFailed("far", 17, "9 messages", OSError("disk"), 30.0),
        "ERROR",
        "its successor did not start (OSError: disk): it goes on; next try in 30 s",
    ),
    (events.Overdue("ac70", "greeter", "3f-1", 31.0, "in a thread"), "WARNING", "for 31 s already"),
    (events.LoopStalled(1.5, "a.py:3 in f\nb.py:4 in g", lasts=False), "WARNING", "stood still for 1.5 s, and"),
    (events.LoopStalled(10.0, "a.py:3 in f\nb.py:4 in g", lasts=True), "WARNING", "has stood still for 10 s already"),
    (
        events.CircuitChanged("database", "open", 30.0, OSError("disk")),
        "WARNING",
        "is open (OSError: disk): messages wait",
    ),
    (events.CircuitChanged("database", "half open", 0.0, None), "INFO", "one message tries it"),
    (events.CircuitChanged("database", "closed", 0.0, None), "INFO", "messages go on"),
    (
        events.TriggerFired("ac70", "greeter", "7a", "nightly", (1_763_635_441_000,), 1),
        "DEBUG",
        "the trigger 'nightly' of 'greeter' fired for 2025-11-20 10:44:01 UTC",
    ),
    (
        events.TriggerFired("ac70", "greeter", "7a", "nightly", tuple(range(0, 9000, 1000)), 7),
        "DEBUG",
        "9 times up to 1970-01-01 00:00:06 UTC, 1970-01-01 00:00:07 UTC, 1970-01-01 00:00:08 UTC; 2 did not, since",
    ),
    (
        events.TriggerTrouble("ac70", "greeter", "nightly", "it names no time", "asked again in 60 s"),
        "ERROR",
        "the trigger 'nightly' of 'greeter' cannot fire: it names no time; asked again in 60 s",
    ),
    (
        events.PausesChanged((Pause("source", "orders", "stock-taking", "ann"),), ()),
        "INFO",
        "paused source 'orders' by ann: stock-taking; what waits there stays",
    ),
    (events.PausesChanged((), (Pause("everything"),)), "INFO", "resumed everything"),
    (events.Undelivered("ac70", "greeter", "a\nb"), "WARNING", "nobody handles the local message 'a\\\\nb'"),
    (events.ShutdownStage("drain", "SIGTERM"), "INFO", "may finish"),
    (events.ShutdownStage("force", "SIGTERM"), "WARNING", "left behind"),
]


@pytest.mark.parametrize(("event", "level", "part"), EVERY_EVENT, ids=lambda value: type(value).__name__)
def test_every_event_has_its_sentence(log: Log, event: events.Event, level: str, part: str):
    record = log.record(event)
    assert record.levelname == level
    assert part.replace("\\\\n", "\\n") in record.getMessage()
    assert vars(record)["node_id"] == NODE
    if record.levelno >= logging.WARNING:
        assert f"[node={NODE}" in record.getMessage()


def test_no_kind_of_event_is_forgotten():
    told = {type(event) for event, _, _ in EVERY_EVENT} | {events.Settled}
    assert told == set(events.Event.__args__)
    assert told == set(LogSink(NODE)._says)


def test_a_sink_never_raises_whatever_the_application_hung_into_its_logging(
    log: Log, capsys: pytest.CaptureFixture[str]
):
    def spoiled(record: logging.LogRecord) -> bool:
        raise RuntimeError(record.name)

    log.logger.addFilter(spoiled)
    try:
        log.sink(settled(Fail(broken())))
    finally:
        log.logger.removeFilter(spoiled)
    assert "RuntimeError: actorwork.tests" in capsys.readouterr().err


def test_json_lines_hold_the_same_facts(log: Log):
    line: dict[str, Any] = json.loads(log.line(settled(Fail(broken())), JsonFormatter()))
    assert line.pop("traceback").startswith("Traceback")
    assert line.pop("message").startswith("greeter failed message 3f-1")
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "ERROR",
        "logger": "actorwork.tests",
        "node_id": NODE,
        "actor_id": "ac70",
        "actor": "greeter",
        "message_id": "3f-1",
        "source": "orders",
        "attempt": 2,
        "error": "ValueError: no such order",
    }


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
def test_json_stays_json_whatever_an_application_adds(odd: object):
    record = logging.makeLogRecord({"msg": "x", "odd": odd, "fine": 1})
    line = json.loads(JsonFormatter().format(record), parse_constant=pytest.fail)
    assert line["fine"] == 1
    assert isinstance(line["odd"], str)


@contextmanager
def bare_root() -> Generator[logging.Logger]:
    """Take pytest's own handlers off, since they are what an application's would be."""
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield root
    finally:
        root.handlers[:] = kept
        root.setLevel(level)


def test_logging_is_set_up_where_nobody_has_done_it():
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
