"""Metrics: what the registry counts, how it is read, and how it is written down.

The parsers of prometheus_client judge the text: a name, a label or a bucket that breaks the format fails there.
"""

import json
import math
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, strategies as st
from prometheus_client import parser as text_parser
from prometheus_client.openmetrics import parser as open_parser

from actorwork import events
from actorwork.errors import ProcessLost
from actorwork.message import HISTORY, Delivery, Failure, Json
from actorwork.policy.exits import Exit, Kind
from actorwork.policy.settlement import ACK, CANCELLED, EXPIRED, Ack, Fail, Reject, Retry, Settlement
from actorwork.records import Pause
from actorwork.telemetry.metrics import Registry
from actorwork.telemetry.metrics.counting import TOGETHER, MetricsSink, add_all
from actorwork.telemetry.metrics.registry import OTHER, process_label
from actorwork.telemetry.metrics.rendering import OPEN_METRICS, TEXT, rendered
from actorwork.telemetry.metrics.table import BROKER_TABLE, DURATIONS, METRICS, TABLE

DEAD = Failure("ValueError", "no such order")


def values(registry: Registry, name: str) -> dict[tuple[str, ...], float]:
    """Return the series of a counter or a gauge, or the counts of a histogram, by the values of their labels."""
    return {
        tuple(one.labels.values()): one.count if one.kind == "histogram" else one.value
        for one in registry.read()
        if one.name == name
    }


def delivery(attempt: int = 1, history: list[Json] | None = None) -> Delivery:
    return Delivery("3f-1", "orders", b"{}", None, attempt=attempt, headers={HISTORY: history} if history else {})


class Counted:
    """A sink that counts, at a broker whose clock shows 1,000 s, and what it passes on."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.passed: list[events.Event] = []
        self.sink = MetricsSink(self.registry, self.passed.append)
        self.sink.now = lambda: 1000.0
        self.sink.ready_at = lambda _: 990.0

    def settled(
        self, settlement: Settlement, *, seconds: float = 0.02, attempt: int = 1, history: list[Json] | None = None
    ) -> None:
        self.sink(events.Settled("ac70", "greeter", delivery(attempt, history), settlement, seconds))

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        return values(self.registry, name)


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_names_follow_the_conventions():
    for metric in METRICS.values():
        assert metric.name.startswith(("actorwork_", "process_", "cpython_gc_"))
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not metric.name.endswith(("_count", "_sum", "_bucket"))
        assert ("seconds" in metric.name) == (metric.unit == "s")
        assert list(metric.bounds) == sorted(metric.bounds)
        assert bool(metric.bounds) == (metric.kind == "histogram")
    assert len(METRICS) == len(TABLE) + len(BROKER_TABLE) == 62 + 4
    assert len({metric.otel_name for metric in METRICS.values()}) == len(METRICS)


def test_the_names_in_opentelemetry_have_neither_unit_nor_total():
    names = {name: metric.otel_name for name, metric in METRICS.items()}
    assert names["actorwork_loop_stalled_seconds_total"] == "actorwork.loop_stalled"
    assert names["actorwork_spool_bytes"] == "actorwork.spool"
    assert names["actorwork_process_duration_seconds"] == "messaging.process.duration"


# ---- counting ----


def test_a_delivery_that_was_handled_is_counted_with_its_times(counted: Counted):
    counted.settled(Ack(), seconds=0.02)
    counted.settled(Ack(), seconds=0.3)
    assert counted.values("actorwork_deliveries_total") == {("greeter", "ack"): 2}
    (duration,) = [one for one in counted.registry.read() if one.name == "actorwork_process_duration_seconds"]
    assert duration.sum == pytest.approx(0.32)
    assert dict(zip(DURATIONS, duration.buckets, strict=False)) == {
        bound: int(bound in (0.025, 0.5)) for bound in DURATIONS
    }
    (wait,) = [one for one in counted.registry.read() if one.name == "actorwork_wait_duration_seconds"]
    assert (wait.count, wait.sum) == (2, pytest.approx(19.68))
    (whole,) = [one for one in counted.registry.read() if one.name == "actorwork_end_to_end_duration_seconds"]
    assert (whole.count, whole.sum) == (2, pytest.approx(20.0))
    assert counted.values("actorwork_attempts") == {("greeter", "ack"): 2}
    assert len(counted.passed) == 2


@pytest.mark.parametrize(
    ("settlement", "outcome", "is_failure"),
    [
        (Retry(1.0, DEAD), "retry", True),
        (Fail(DEAD), "fail", True),
        (Reject(DEAD), "reject", True),
        (Reject(Failure(EXPIRED, "")), "expired", False),
        (Reject(Failure(CANCELLED, "")), "reject", False),
    ],
)
def test_other_ends_are_told_apart(counted: Counted, settlement: Settlement, outcome: str, *, is_failure: bool):
    counted.settled(settlement)
    assert counted.values("actorwork_deliveries_total") == {("greeter", outcome): 1}
    assert counted.values("actorwork_failures_total") == ({("greeter", "ValueError"): 1} if is_failure else {})
    attempts = {labels: count for labels, count in counted.values("actorwork_attempts").items() if count}
    assert attempts == ({} if outcome == "retry" else {("greeter", outcome): 1})


def test_a_message_with_several_attempts_waits_once_and_ends_once(counted: Counted):
    counted.settled(Retry(1.0, DEAD))
    history: list[Json] = [{"attempt": 1, "error": "ValueError", "reason": "", "at": 993.0}]
    counted.settled(Ack(), attempt=2, history=history)
    assert counted.values("actorwork_wait_duration_seconds") == {("greeter",): 1}
    (whole,) = [one for one in counted.registry.read() if one.name == "actorwork_end_to_end_duration_seconds"]
    assert (whole.count, whole.sum) == (1, pytest.approx(7.0))
    (attempts,) = [one for one in counted.registry.read() if one.name == "actorwork_attempts"]
    assert (attempts.count, attempts.sum) == (1, 2)


@given(st.lists(st.sampled_from(DURATIONS) | st.floats(-10, 4000), max_size=40))
def test_values_that_are_counted_together_fall_where_each_would_fall(numbers: list[float]):
    together, apart = [0] * (len(DURATIONS) + 1) + [0.0], [0] * (len(DURATIONS) + 1)
    add_all(together, list(numbers))
    for one in numbers:
        apart[bisect_left(DURATIONS, one)] += 1
    assert together[:-1] == apart
    assert together[-1] == pytest.approx(sum(max(0.0, one) for one in numbers))


@pytest.mark.parametrize("count", [1, TOGETHER - 1, TOGETHER, 3 * TOGETHER + 7])
def test_a_reader_sees_every_delivery_that_has_ended(counted: Counted, count: int):
    for _ in range(count):
        counted.settled(ACK)
    assert counted.values("actorwork_deliveries_total") == {("greeter", "ack"): count}
    assert counted.values("actorwork_wait_duration_seconds") == {("greeter",): count}
    assert counted.values("actorwork_attempts") == {("greeter", "ack"): count}


def test_of_a_message_whose_age_is_unknown_only_the_handler_is_timed(counted: Counted):
    ages = iter([990.0, None, 980.0])
    counted.sink.ready_at = lambda _: next(ages)
    for _ in range(3):
        counted.settled(ACK, seconds=1.0)
    assert counted.values("actorwork_process_duration_seconds") == {("greeter", "ack"): 3}
    (waited,) = [one for one in counted.registry.read() if one.name == "actorwork_wait_duration_seconds"]
    assert (waited.count, waited.sum) == (2, pytest.approx(9.0 + 19.0))


def test_nothing_is_lost_while_another_thread_reads(counted: Counted):
    stop = threading.Event()
    seen: list[float] = []

    def look() -> None:
        while not stop.is_set():
            seen.append(counted.values("actorwork_deliveries_total").get(("greeter", "ack"), 0))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(5000):
        counted.settled(ACK, attempt=1 + (number % 50 == 0))
    stop.set()
    reader.join()
    assert counted.values("actorwork_deliveries_total") == {("greeter", "ack"): 5000}
    assert seen == sorted(seen)


def test_an_ack_is_passed_on_only_to_a_sink_that_does_something_with_it():
    class Sink:
        wants_acks = False

        def __init__(self) -> None:
            self.told: list[object] = []

        def __call__(self, event: events.Event) -> None:
            self.told.append(event)

    sink = Sink()
    counting = MetricsSink(Registry(), sink)
    ack, retry = (events.Settled("ac70", "greeter", delivery(), how, 0.1) for how in (ACK, Retry(1.0, DEAD)))
    for wants, told in ((False, 0), (True, 1)):
        sink.wants_acks = wants
        counting.adjust()
        sink.told.clear()
        counting(ack)
        counting(retry)
        counting.acked("ac70", "greeter", delivery(), ACK, 0.1)
        assert len(sink.told) == 1 + 2 * told


def noted(count: int, *, began: float = 999.0) -> list[Any]:
    """Return what an actor notes of so many deliveries, which it handled for an eighth of a second each."""
    return [item for _ in range(count) for item in (0.125, began + 0.125, delivery())]


def test_what_an_actor_notes_is_counted_as_its_events_would_be(counted: Counted):
    notes, apart = counted.sink.ack_notes("ac70", "greeter"), Counted()
    for seconds in (0.0, *DURATIONS, 9999.0):
        notes.ended += (seconds, 1000.0, delivery())
        apart.settled(ACK, seconds=seconds)
    counted.sink.count_ended()
    apart.sink.count_ended()
    assert not notes.ended
    for one, other in zip(counted.registry.read(), apart.registry.read(), strict=True):
        assert (one.name, one.labels, one.value, one.buckets) == (other.name, other.labels, other.value, other.buckets)
        assert one.sum == pytest.approx(other.sum)


def test_of_an_actor_without_deliveries_there_are_no_series(counted: Counted):
    notes = counted.sink.ack_notes("ac70", "greeter")
    assert notes is counted.sink.ack_notes("ac70", "greeter")
    assert [one for one in counted.registry.read() if "actor" in one.labels] == []
    counted.settled(Retry(1.0, DEAD))
    assert counted.values("actorwork_attempts") == {("greeter", "ack"): 0}


def test_an_end_that_is_noted_in_part_is_counted_with_the_next_reading(counted: Counted):
    notes = counted.sink.ack_notes("ac70", "greeter")
    first, second = noted(1), noted(1)
    notes.ended += [*first, second[0]]
    assert counted.values("actorwork_deliveries_total") == {("greeter", "ack"): 1}
    notes.ended += second[1:]
    assert counted.values("actorwork_deliveries_total") == {("greeter", "ack"): 2}
    (waited,) = [one for one in counted.registry.read() if one.name == "actorwork_wait_duration_seconds"]
    assert (waited.count, waited.sum) == (2, pytest.approx(2 * 9.0))


def test_what_is_noted_while_several_threads_read_is_counted_once(counted: Counted):
    notes, stop = counted.sink.ack_notes("ac70", "greeter"), threading.Event()
    seen: list[list[float]] = [[], [], []]

    def look(into: list[float]) -> None:
        while not stop.is_set():
            into.append(counted.values("actorwork_deliveries_total").get(("greeter", "ack"), 0))

    readers = [threading.Thread(target=look, args=(into,)) for into in seen]
    for reader in readers:
        reader.start()
    for _ in range(5000):
        for item in noted(1):
            notes.ended.append(item)
    stop.set()
    for reader in readers:
        reader.join()
    assert counted.values("actorwork_deliveries_total") == {("greeter", "ack"): 5000}
    assert counted.values("actorwork_end_to_end_duration_seconds") == {("greeter",): 5000}
    assert all(counts == sorted(counts) for counts in seen)


def test_nothing_is_noted_while_events_are_wanted():
    class Sink:
        wants_acks = True

        def __call__(self, event: events.Event) -> None: ...

    sink = Sink()
    counting = MetricsSink(Registry(), sink)
    notes = counting.ack_notes("ac70", "greeter")
    assert notes.noted is None
    for wants in (False, True, False):
        sink.wants_acks = wants
        counting.adjust()
        assert notes.noted is (None if wants else notes.ended)
        assert counting.ack_notes("50ck", "shop").noted == (None if wants else [])


def test_a_timeout_is_counted(counted: Counted):
    counted.settled(Fail(Failure("ExecutionTimeout", "")))
    assert counted.values("actorwork_timeouts_total") == {("greeter",): 1}


PAUSE = Pause("actor", "greeter")
LOST = ProcessLost("gone", pid=7, code=-9)
CUT = events.BrokerTrouble("reading orders", "closed", "again", is_cut=True)
THREE = [events.BrokerBack(name, 2 - number, 3) for number, name in enumerate("abc")]
"""The connections to the primaries of a cluster."""


def lost_of_three(name: str, away: int) -> events.BrokerLost:
    return events.BrokerLost("", 1.0, name, away, 3)


EVENTS: list[tuple[list[events.Event], str, dict[tuple[str, ...], float]]] = [
    ([events.Released("s", "ac70", 3)], "actorwork_deliveries_total", {("greeter", "handed_back"): 3}),
    ([events.Fenced(delivery(), "ac70", Ack())], "actorwork_fenced_total", {("greeter",): 1}),
    ([events.Fenced(delivery(), "ac70", Ack())], "actorwork_deliveries_total", {("greeter", "fenced"): 1}),
    (
        [events.Reclaimed("s", "ac70", "dead1", 3), events.Reclaimed("s", "ac70", "released", 2)],
        "actorwork_reclaimed_total",
        {("greeter", "crash"): 3, ("greeter", "released"): 2},
    ),
    ([events.DeadLettered("s", "ac70", "1", 3)], "actorwork_crashed_messages_total", {("greeter",): 1}),
    ([events.Undelivered("ac70", "greeter", 1, "full")], "actorwork_undelivered_total", {("greeter", "full"): 1}),
    ([events.Undelivered("b", "shop (7)", 1)], "actorwork_undelivered_total", {("shop", "gone"): 1}),
    (
        [events.ChildRestarting("root", "shop (7)", 1, ValueError(), 0.0)],
        "actorwork_restarts_total",
        {("shop", "ValueError"): 1},
    ),
    ([events.ChildRestarting("root", "shop", 1, None, 0.0)], "actorwork_restarts_total", {("shop", "ended"): 1}),
    ([events.GaveUp("root", "shop", "")], "actorwork_gave_up_total", {("root",): 1}),
    (
        [events.ProcessStarted("w 1", 7, ""), events.ChildExited("w", "w 1", 1, Exit(Kind.SHUTDOWN))],
        "actorwork_process_exits_total",
        {("w/1", "clean"): 1},
    ),
    ([events.ChildExited("w", "w", 1, Exit(Kind.CRASHED, LOST))], "actorwork_process_exits_total", {("w", "oom"): 1}),
    (
        [events.ProcessHung("w", 7, 9.0, ""), events.ChildExited("w", "w", 1, Exit(Kind.CRASHED, LOST))],
        "actorwork_process_exits_total",
        {("w", "hung"): 1},
    ),
    (
        [events.ChildExited("w", "w", 1, Exit(Kind.CRASHED, ProcessLost("", pid=7, code=1)))],
        "actorwork_process_exits_total",
        {("w", "crash"): 1},
    ),
    ([events.ChildExited("root", "shop", 1, Exit(Kind.NORMAL))], "actorwork_process_exits_total", {}),
    ([events.ProcessReplaced("w", 7, 8, "", "memory")], "actorwork_process_exits_total", {("w", "memory"): 1}),
    ([events.LoopStalled(2.0, "", lasts=False)], "actorwork_loop_stalled_seconds_total", {(): 2}),
    ([events.LoopStalled(2.0, "", lasts=False)], "actorwork_loop_stalls_total", {(): 1}),
    ([events.LoopStalled(2.0, "", lasts=True)], "actorwork_loop_stalls_total", {(): 0}),
    ([events.LeaseLost("a", "b", "")], "actorwork_leases_lost_total", {(): 1}),
    ([events.BrokerBack("")], "actorwork_broker_up", {(): 1}),
    ([events.BrokerBack(""), events.BrokerLost("", 1.0)], "actorwork_broker_up", {(): 0}),
    ([events.BrokerBack(""), events.BrokerLost("", 1.0)], "actorwork_broker_servers_away", {(): 1}),
    ([events.NodeStarted("a", "", ())], "actorwork_broker_servers_away", {(): 0}),
    ([*THREE, lost_of_three("a", 1)], "actorwork_broker_up", {(): 1}),
    ([*THREE, lost_of_three("a", 1)], "actorwork_broker_servers_away", {(): 1}),
    ([*THREE, lost_of_three("a", 1), lost_of_three("b", 2)], "actorwork_broker_servers_away", {(): 2}),
    ([*THREE, lost_of_three("a", 3)], "actorwork_broker_up", {(): 0}),
    (
        [*THREE, lost_of_three("a", 1), lost_of_three("b", 2), events.BrokerBack("a", 1, 3)],
        "actorwork_broker_servers_away",
        {(): 1},
    ),
    # What cuts several at once is one disruption; one that is lost again, or goes later, is another.
    (
        [*THREE, lost_of_three("a", 1), lost_of_three("b", 2), lost_of_three("a", 2)],
        "actorwork_broker_disruptions_total",
        {(): 1},
    ),
    (
        [*THREE, lost_of_three("a", 1), events.BrokerBack("a", 0, 3), lost_of_three("b", 1)],
        "actorwork_broker_disruptions_total",
        {(): 2},
    ),
    # Another one has taken its place.
    (
        [*THREE, lost_of_three("a", 1), events.BrokerBack("d", 0, 3), lost_of_three("a", 1)],
        "actorwork_broker_disruptions_total",
        {(): 2},
    ),
    (
        [events.NodeStarted("a", "", ()), events.BrokerLost("", 1.0), events.BrokerLost("", 2.0)],
        "actorwork_broker_disruptions_total",
        {(): 1},
    ),
    (
        [events.NodeStarted("a", "", ()), *2 * [events.BrokerLost("", 1.0), events.BrokerBack("")]],
        "actorwork_broker_disruptions_total",
        {(): 2},
    ),
    ([events.NodeStarted("a", "", ()), CUT, CUT], "actorwork_broker_disruptions_total", {(): 1}),
    (
        [events.NodeStarted("a", "", ()), CUT, events.BrokerLost("", 1.0), events.BrokerBack("")],
        "actorwork_broker_disruptions_total",
        {(): 1},
    ),
    (
        [events.NodeStarted("a", "", ()), events.BrokerLost("", 1.0), CUT, events.BrokerBack(""), CUT],
        "actorwork_broker_disruptions_total",
        {(): 1},
    ),
    (
        [events.NodeStarted("a", "", ()), events.BrokerTrouble("reading orders", "no", "again")],
        "actorwork_broker_disruptions_total",
        {(): 0},
    ),
    (
        [events.TriggerFired("ac70", "greeter", "t", "nightly", (900_000, 980_000, 999_000), 2)],
        "actorwork_triggers_fired_total",
        {("greeter/nightly", "skipped"): 1, ("greeter/nightly", "late"): 1, ("greeter/nightly", "fired"): 1},
    ),
    (
        [events.TriggerFired("ac70", "greeter", "t", "nightly", (999_000,), 1)],
        "actorwork_trigger_delay_seconds",
        {(): 1},
    ),
    (
        [events.TriggerTrouble("ac70", "greeter", "nightly", "", "")],
        "actorwork_triggers_fired_total",
        {("greeter/nightly", "missed"): 1},
    ),
    ([events.CircuitChanged("mail", "half open", 0.0, None)], "actorwork_circuit_state", {("mail",): 1}),
    ([events.CircuitChanged("mail", "open", 9.0, None)], "actorwork_circuit_state", {("mail",): 2}),
    ([events.PausesChanged((PAUSE,), ())], "actorwork_paused", {("actor", "greeter"): 1}),
    ([events.PausesChanged((PAUSE,), ()), events.PausesChanged((), (PAUSE,))], "actorwork_paused", {}),
]


@pytest.mark.parametrize(("happened", "name", "expected"), EVENTS)
def test_events_are_counted_and_passed_on(
    counted: Counted, happened: list[events.Event], name: str, expected: Mapping[tuple[str, ...], float]
):
    counted.sink.know("ac70", "greeter")
    for event in happened:
        counted.sink(event)
    assert counted.values(name) == expected
    assert counted.passed == happened


def test_what_the_sink_behind_says_of_its_process_is_seen_through_the_counting_one():
    class Sink:
        wants_process_events = False

        def __call__(self, event: events.Event) -> None: ...

    sink = MetricsSink(Registry(), Sink())
    assert sink.wants_process_events is False
    assert not hasattr(sink, "quota")


# ---- bounds ----


def test_beyond_a_thousand_actors_the_rest_is_counted_together():
    registry = Registry()
    for number in range(1100):
        registry.family("actorwork_fenced_total").add((f"a{number}",))
        registry.family("actorwork_wait_duration_seconds").observe((f"a{number}",), 1.0)
    found = values(registry, "actorwork_fenced_total")
    assert (len(found), found["a0",], found[OTHER,]) == (1001, 1, 100)
    assert values(registry, "actorwork_wait_duration_seconds")[OTHER,] == 100


def test_each_actor_has_fifty_errors_of_its_own():
    registry = Registry()
    for actor in ("one", "two"):
        for number in range(60):
            registry.family("actorwork_failures_total").add((actor, f"E{number}"))
    found = values(registry, "actorwork_failures_total")
    assert len(found) == 2 * 51
    assert found["two", OTHER] == 10


def test_a_gauge_that_is_replaced_forgets_what_is_gone():
    registry = Registry()
    registry.family("actorwork_in_hand").replace({("a",): 1, ("b",): 2})
    registry.family("actorwork_in_hand").replace({("b",): 3})
    assert values(registry, "actorwork_in_hand") == {("b",): 3}


# ---- processes ----


def test_counters_of_processes_are_added_and_outlive_them():
    root, child = Registry(), Registry()
    root.family("actorwork_fenced_total").add(("shop",), 1)
    child.family("actorwork_fenced_total").add(("shop",), 2)
    child.family("actorwork_wait_duration_seconds").observe(("shop",), 1.0)
    child.family("actorwork_in_hand").set(("shop",), 5)
    # Twice: a snapshot takes the place of the one before.
    for _ in range(2):
        root.absorb("w 1", 7, json.loads(json.dumps(child.snapshot())))
    assert values(root, "actorwork_fenced_total") == {("shop",): 3}
    assert values(root, "actorwork_wait_duration_seconds") == {("shop",): 1}
    assert values(root, "actorwork_in_hand") == {("shop", "w/1"): 5}
    root.retire("w 1", 7)
    root.retire("w 1", 7)
    assert values(root, "actorwork_fenced_total") == {("shop",): 3}
    assert values(root, "actorwork_wait_duration_seconds") == {("shop",): 1}
    assert values(root, "actorwork_in_hand") == {}
    root.absorb("w 1", 8, child.snapshot())
    root.retire("w 1", 8)
    assert values(root, "actorwork_fenced_total") == {("shop",): 5}


def test_what_a_process_of_another_version_counts_is_left_out():
    root = Registry()
    root.absorb("w", 7, [["actorwork_future_total", "", ["a"], 1]])
    root.retire("w", 7)
    assert list(root.read()) == []


def test_a_process_below_a_process_keeps_its_name():
    root, middle, leaf = Registry(), Registry(), Registry()
    leaf.family("actorwork_in_hand").set(("shop",), 5)
    leaf.family("actorwork_processes").set(("x", "running"), 1)
    middle.absorb("inner", 8, leaf.snapshot())
    root.absorb("outer", 7, middle.snapshot())
    assert values(root, "actorwork_in_hand") == {("shop", "inner"): 5}
    assert values(root, "actorwork_processes") == {("x", "running", "inner"): 1}


@pytest.mark.parametrize(
    ("title", "label"), [("worker 2", "worker/2"), ("worker", "worker"), ("my worker", "my worker")]
)
def test_a_replica_is_named_by_its_number(title: str, label: str):
    assert process_label(title) == label


# ---- text ----


def filled() -> Registry:
    """Return a registry in which every metric has a series."""
    registry = Registry((*TABLE, *BROKER_TABLE))
    registry.meter.lease_renewed(0.5)
    for metric in METRICS.values():
        labels = tuple(f"a {name}" for name in metric.labels)
        match metric.kind:
            case "counter":
                registry.family(metric.name).add(labels, 2)
            case "gauge":
                registry.family(metric.name).set(labels, 0.5)
            case "histogram":
                for value in (0.001, 1.0, 1e9):
                    registry.family(metric.name).observe(labels, value)
    return registry


def parsed(text: bytes, *, is_open: bool) -> Iterator[Any]:
    parser: Any = open_parser if is_open else text_parser
    return parser.text_string_to_metric_families(text.decode())


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_parsers_read_every_metric_with_its_type_and_its_samples(accept: str):
    registry = filled()
    kind, text = rendered(registry.read(), accept)
    assert kind == (OPEN_METRICS if accept else TEXT)
    found = {family.name: family for family in parsed(text, is_open=bool(accept))}
    assert len(found) == len(METRICS)
    for metric in METRICS.values():
        family = found[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        labels = {name: f"a {name}" for name in metric.labels}
        samples = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
        assert all({**sample.labels, "le": ""} == {**labels, "le": ""} for sample in family.samples)
        if metric.kind != "histogram":
            assert samples == {(metric.name, None): 2 if metric.kind == "counter" else 0.5}
            continue
        assert samples[f"{metric.name}_count", None] == samples[f"{metric.name}_bucket", "+Inf"] == 3
        assert samples[f"{metric.name}_sum", None] == pytest.approx(1e9 + 1.001)
        assert len(samples) == len(metric.bounds) + 3


@given(st.text(), st.floats(allow_nan=False))
def test_any_label_and_any_number_come_back_as_they_were(label: str, number: float):
    registry = Registry()
    registry.family("actorwork_trigger_next_timestamp_seconds").set((label,), number)
    _, text = rendered(registry.read(), "application/openmetrics-text")
    ((sample,),) = [family.samples for family in parsed(text, is_open=True)]
    expected = label if len(label) <= 300 else f"{label[:299]}…"
    assert sample.labels == {"trigger": expected.encode("utf-8", "backslashreplace").decode()}
    assert math.isclose(sample.value, number)


@pytest.mark.parametrize(
    ("accept", "is_open"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text; version=1.0.0", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", True),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nonsense", False),
    ],
)
def test_the_format_is_the_one_that_the_request_prefers(accept: str, *, is_open: bool):
    kind, text = rendered(Registry().read(), accept)
    assert kind == (OPEN_METRICS if is_open else TEXT)
    assert text == (b"# EOF\n" if is_open else b"")
