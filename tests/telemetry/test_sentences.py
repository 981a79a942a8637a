"""What the logs say of each event: a table of examples."""

import logging

import pytest

from actorwork import events
from actorwork.errors import ProcessLost
from actorwork.message import Delivery, Failure
from actorwork.policy.exits import Exit, Kind
from actorwork.policy.settlement import Ack, Fail, Reject, Retry
from actorwork.records import Pause
from actorwork.telemetry.logs import FIELDS
from actorwork.telemetry.sentences import sentence_of

DELIVERY = Delivery(id="3f-1", source="orders", payload=b"{}", token=None, attempt=2)
BROKEN = Failure("ValueError", "no such order")

EVERY_EVENT: list[tuple[events.Event, str, str]] = [
    (
        events.Settled("ac70", "greeter", DELIVERY, Ack(), 0.0031),
        "DEBUG",
        "handled message 3f-1 of 'orders' (attempt 2) in",
    ),
    (events.Settled("ac70", "greeter", DELIVERY, Retry(2.0, BROKEN), 0.1), "WARNING", "it runs again in 2 s"),
    (events.Settled("ac70", "greeter", DELIVERY, Retry(0.0, BROKEN), 0.1), "WARNING", "it runs again at once"),
    (
        events.Settled("ac70", "greeter", DELIVERY, Reject(BROKEN), 0.1),
        "INFO",
        "ValueError: no such order): it is dropped",
    ),
    (events.Settled("ac70", "greeter", DELIVERY, Fail(BROKEN), 0.1), "ERROR", "see: actorwork dead show orders 3f-1"),
    (events.NodeStarted("9a3c", "redis://localhost", ("greeter", "cleaner")), "INFO", "reads for greeter, cleaner"),
    (events.NodeStopped(0.25, forced=False), "INFO", "stopped cleanly in 250 ms"),
    (events.NodeStopped(25.0, forced=True), "WARNING", "by force after 25 s"),
    (
        events.MonitorStarted("http://127.0.0.1:9464", ("/live", "/ready")),
        "INFO",
        "listens at http://127.0.0.1:9464 and serves /live, /ready",
    ),
    (events.LeaseLost("9a3c", "b001", "not renewed for 10 s"), "ERROR", "this process continues as node b001"),
    (events.BrokerLost("ConnectionRefusedError", 2.0), "WARNING", "trying again in 2 s"),
    (events.BrokerLost("refused", 2.0, "redis://b", 3, 3), "WARNING", "no connection to the broker (refused)"),
    (
        events.BrokerLost("refused", 2.0, "redis://b", 1, 3),
        "WARNING",
        "to redis://b, one of the 3 servers of the broker (refused): what is there waits, and 2 others go on",
    ),
    (events.BrokerLost("refused", 2.0, "redis://b", 2, 3), "WARNING", "the other one goes on; trying again in 2 s"),
    (events.BrokerBack("redis://localhost"), "INFO", "connected to the broker at redis://localhost"),
    (events.GroupRestored("orders", "ac70"), "WARNING", "was created again"),
    (events.Reclaimed("orders", "ac70", "dead1", 3), "WARNING", "reclaimed 3 of 'orders' from the dead node dead1"),
    (events.Reclaimed("orders", "ac70", "released", 3), "INFO", "took 3 of 'orders'"),
    (events.Released("orders", "ac70", 7), "DEBUG", "released 7 of 'orders'"),
    (events.Fenced(DELIVERY, "ac70", Ack()), "WARNING", "it had no effect"),
    (events.EntityStalled("ac70", "account", "ann", 3, "CodecError: no"), "ERROR", "cannot use version 3 of its state"),
    (events.StateForgotten("ac70", "account", "ann", 9, 3), "ERROR", "has gone back from version 9 to 3"),
    (events.EntityLarge("ac70", "account", "ann", 60, 100), "WARNING", "has 60 bytes: its messages fail"),
    (events.StaleState(DELIVERY, "ac70", 3, 4), "WARNING", "which has the version 4 now: it had no effect"),
    (events.DeadLettered("orders", "ac70", "3f-1", 3), "ERROR", "(3 processes died while handling it)"),
    (events.MessageLost("orders", "ac70", "3f-1"), "ERROR", "message 3f-1 of 'orders' is lost"),
    (events.SuspectsInFlight(present=True), "INFO", "they are suspects"),
    (events.SuspectsInFlight(present=False), "DEBUG", "no message in whose handling a process died"),
    (
        events.BrokerTrouble("reclaiming", "OSError", "trying again in 1 s"),
        "WARNING",
        "reclaiming failed (OSError); try",
    ),
    (events.BrokerAdvice("no AOF", "turn it on"), "WARNING", "no AOF; continuing. To change it: turn it on"),
    (events.ActorStarted("ac70", "greeter", 1), "INFO", "greeter is up"),
    (events.ActorStarted("ac70", "greeter", 4), "INFO", "greeter is up again (incarnation 4)"),
    (events.ChildExited("root", "greeter", 1, Exit(Kind.NORMAL)), "INFO", "greeter has ended (normal)"),
    (
        events.ChildExited("root", "greeter", 1, Exit(Kind.SHUTDOWN, OSError("disk"))),
        "ERROR",
        "greeter failed while it ended (OSError: disk), as it had been asked to: nothing follows",
    ),
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
    (
        events.ProcessHung("crunchers 1", 4711, 61.5, "a.py:3 in f"),
        "ERROR",
        "(process 4711) has been blocked for 61.5 s: the process is killed",
    ),
    (events.ProcessKilled("crunchers 1", 4711), "WARNING", "(process 4711) did not end in time and is killed"),
    (events.ProcessHung("crunchers 1", 4711, 61.5, ""), "ERROR", "it did not report its stacks"),
    (
        events.HandlerHung("far", 17, "greeter", "3f-1", 60.0, "thread a:\n  b"),
        "ERROR",
        "a handler of greeter in far (process 17) has not ended 60 s after its deadline: the process is killed",
    ),
    (events.ProcessReplaced("far", 17, 18, "9 messages"), "INFO", "process 18 replaces process 17 of far (9"),
    (events.EventsDropped("far", 17, 9), "WARNING", "9 events of far (process 17) did not reach emit=: it was too"),
    (events.Scaled("far", 1, 3, "a backlog"), "INFO", "far: from 1 to 3 replicas (a backlog); 2 more start"),
    (events.Scaled("far", 3, 2, "idle"), "INFO", "; 1 will end after its messages in flight"),
    (
        events.ReplacementFailed("far", 17, "9 messages", OSError("disk"), 30.0),
        "ERROR",
        "its successor did not start (OSError: disk): the old process stays; next attempt in 30 s",
    ),
    (
        events.Overdue("ac70", "greeter", "3f-1", 31.0, "a.py:3 in greet\nb.py:4 in g"),
        "WARNING",
        "with message 3f-1 31 s ago and has not ended (a.py:3 in greet)",
    ),
    (
        events.CancellationIgnored("ac70", "greeter", "3f-1", 1.0, "a.py:3 in greet\nb.py:4 in g"),
        "WARNING",
        "the handler of greeter has not ended 1 s after its message 3f-1 was cancelled by force",
    ),
    (events.LoopStalled(1.5, "a.py:3 in f\nb.py:4 in g", lasts=False), "WARNING", "was blocked for 1.5 s, and"),
    (events.LoopStalled(10.0, "a.py:3 in f\nb.py:4 in g", lasts=True), "WARNING", "has been blocked for 10 s, and"),
    (
        events.ResourceLow("memory", "cgroup", 25_600_000, 512_000_000),
        "WARNING",
        "memory is low: 5.0% (25.6 MB of 512 MB) is left of what the cgroup allows",
    ),
    (
        events.ResourceLow("disk", "/var/lib/shop", 1_250_000_000, 50_000_000_000),
        "WARNING",
        "disk space is low: 2.5% (1.25 GB of 50 GB) is left at /var/lib/shop; ",
    ),
    (
        events.CircuitChanged("database", "open", 30.0, OSError("disk")),
        "WARNING",
        "is open (OSError: disk): messages wait",
    ),
    (events.CircuitChanged("database", "half open", 0.0, None), "INFO", "one message tries it"),
    (events.CircuitChanged("database", "closed", 0.0, None), "INFO", "messages proceed"),
    (
        events.TriggerFired("ac70", "greeter", "7a", "nightly", (1_763_635_441_000,), 1),
        "DEBUG",
        "the trigger 'nightly' of 'greeter' fired for 2025-11-20 10:44:01 UTC",
    ),
    (
        events.TriggerFired("ac70", "greeter", "7a", "nightly", tuple(range(0, 9000, 1000)), 7),
        "DEBUG",
        "9 times up to 1970-01-01 00:00:06 UTC, 1970-01-01 00:00:07 UTC, 1970-01-01 00:00:08 UTC; 2 did not, because",
    ),
    (
        events.TriggerTrouble("ac70", "greeter", "nightly", "it names no time", "asked again in 60 s"),
        "ERROR",
        "the trigger 'nightly' of 'greeter' cannot fire: it names no time; asked again in 60 s",
    ),
    (
        events.TriggerChanged("ac70", "greeter", "ab12", "nightly", "put", ("schedule",), "ann@100%here"),
        "INFO",
        "the trigger 'nightly' of 'greeter' was put here by hand by ann@100%here",
    ),
    (
        events.TriggerChanged("ac70", "greeter", "ab12", "nightly", "changed", ("schedule", "is_on"), "ann"),
        "INFO",
        "the trigger 'nightly' of 'greeter' is changed by hand by ann (schedule, is_on): this overrides the code",
    ),
    (
        events.TriggerChanged("ac70", "greeter", "ab12", "nightly", "reset"),
        "INFO",
        "the trigger 'nightly' of 'greeter' is reset: it fires as the code declares it",
    ),
    (
        events.TriggerChanged("ac70", "greeter", "ab12", "nightly", "deleted"),
        "INFO",
        "the trigger 'nightly' of 'greeter' is deleted, which was put here by hand",
    ),
    (
        events.PausesChanged((Pause("source", "orders", "stock-taking", "ann"),), ()),
        "INFO",
        "paused source 'orders' by ann: stock-taking; messages wait there",
    ),
    (events.PausesChanged((), (Pause("everything"),)), "INFO", "resumed everything"),
    (
        events.PausesChanged((Pause("source", "orders"),), (Pause("everything"),)),
        "INFO",
        "paused source 'orders'; messages wait there until it is resumed; resumed everything",
    ),
    (events.Undelivered("ac70", "greeter", "a\nb"), "WARNING", r"the local message 'a\nb' was not handled"),
    (events.ShutdownStage("drain", "SIGTERM"), "INFO", "may finish"),
    (events.ShutdownStage("force", "SIGTERM"), "WARNING", "is abandoned"),
]


@pytest.mark.parametrize(("event", "level", "part"), EVERY_EVENT, ids=lambda value: type(value).__name__)
def test_every_event_has_its_sentence(event: events.Event, level: str, part: str):
    sentence = sentence_of(event)
    assert logging.getLevelName(sentence.level) == level
    assert part in sentence.text % sentence.arguments
    assert set(sentence.fields) <= set(FIELDS)


def test_no_kind_of_event_is_forgotten():
    assert {type(event) for event, _, _ in EVERY_EVENT} == set(events.Event.__args__)


def test_an_error_has_its_traceback_and_a_process_lost_without_a_cause_has_none():
    lost = ProcessLost("killed by SIGKILL", pid=4711, code=-9)
    assert sentence_of(events.ChildExited("root", "crunchers", 1, Exit(Kind.CRASHED, lost))).raised is None
    lost.__cause__ = OSError("disk")
    assert sentence_of(events.ChildExited("root", "crunchers", 1, Exit(Kind.CRASHED, lost))).raised is lost
