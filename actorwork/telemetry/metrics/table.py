"""The metrics, as data: every name that there is, its labels, and what it counts.

    TABLE         of a node: its deliveries, its tree, its connection to the broker
    BROKER_TABLE  of a broker: the same whichever program asks, so one program exports them

docs/metrics.md shows the same table, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import attrs

from actorwork.shown import Value

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

DURATIONS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0, 300.0, 1800.0),
)
"""Seconds: the buckets that OpenTelemetry recommends for messaging, and four for handlers that run for minutes."""
COMMANDS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Seconds: the buckets that OpenTelemetry recommends for databases, and two for servers nearby."""
LAGS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


@attrs.frozen(eq=False, repr=False)
class Metric(Value):
    """One metric: its name in Prometheus, its labels, and the bounds of its buckets, if it is a histogram."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    unit: str = "1"
    """In UCUM, as OpenTelemetry wants it: `s`, `By`, `{message}`."""
    bounds: tuple[float, ...] = ()
    otel: str = ""
    """The name in OpenTelemetry, where that is not `actorwork.` and the rest of the name."""
    is_of_process: bool = False
    """Whether a counter is that of one process, and so not added to those of others."""

    @property
    def is_apart(self) -> bool:
        """Whether each process of a tree has a series of its own."""
        return self.kind == "gauge" or self.is_of_process

    @property
    def otel_name(self) -> str:
        """Return the name in OpenTelemetry: without unit and `_total`."""
        name = self.name.removesuffix("_total").removesuffix("_seconds").removesuffix("_bytes")
        return self.otel or name.replace("_", ".", 1)


def _counter(name: str, labels: tuple[str, ...], help: str, unit: str = "1", otel: str = "") -> Metric:
    return Metric(name, "counter", labels, help, unit, otel=otel)


def _gauge(name: str, labels: tuple[str, ...], help: str, unit: str = "1", otel: str = "") -> Metric:
    return Metric(name, "gauge", labels, help, unit, otel=otel)


def _durations(name: str, labels: tuple[str, ...], help: str, otel: str = "") -> Metric:
    return Metric(name, "histogram", labels, help, "s", DURATIONS, otel)


TABLE: Final[tuple[Metric, ...]] = (
    _counter(
        "actorwork_deliveries_total",
        ("actor", "outcome"),
        "Deliveries that have ended: ack, retry, reject, fail, expired, handed_back, fenced",
        "{delivery}",
    ),
    _counter("actorwork_failures_total", ("actor", "error"), "Attempts that raised, by the class of the error"),
    _durations(
        "actorwork_process_duration_seconds",
        ("actor", "outcome"),
        "How long handlers ran, middleware included",
        "messaging.process.duration",
    ),
    _durations(
        "actorwork_wait_duration_seconds",
        ("actor",),
        "From when a message was ready at the broker until its handler began; first attempts alone",
    ),
    _durations(
        "actorwork_end_to_end_duration_seconds",
        ("actor",),
        "From when a message was ready until it was settled for good; with several attempts, from the end of the first",
    ),
    Metric(
        "actorwork_attempts",
        "histogram",
        ("actor", "outcome"),
        "Attempts until the end of a message",
        "{attempt}",
        (1.0, 2.0, 3.0, 5.0, 10.0, 20.0),
    ),
    _gauge("actorwork_in_hand", ("actor",), "Messages whose handlers run", "{message}"),
    _gauge("actorwork_longest_in_hand_seconds", ("actor",), "Age of the handler that has run longest", "s"),
    _gauge("actorwork_mailbox_messages", ("actor", "origin"), "Messages in memory that wait: local, broker"),
    _gauge("actorwork_mailbox_capacity", ("actor",), "Local messages that a mailbox holds at most", "{message}"),
    _counter(
        "actorwork_undelivered_total",
        ("actor", "reason"),
        "Local messages that were not handled: gone (their actor), dropped (by its mailbox), full (a broadcast)",
        "{message}",
    ),
    _counter(
        "actorwork_sent_total",
        ("source", "outcome"),
        "Messages sent to the broker: sent, spooled, refused, duplicate",
        "{message}",
        "messaging.client.sent.messages",
    ),
    _durations(
        "actorwork_send_duration_seconds",
        ("outcome",),
        "How long a call that sends took",
        "messaging.client.operation.duration",
    ),
    _counter("actorwork_reads_total", ("actor",), "Batches read from the broker"),
    _counter(
        "actorwork_read_messages_total",
        ("actor",),
        "Messages read from the broker",
        "{message}",
        "messaging.client.consumed.messages",
    ),
    Metric(
        "actorwork_settle_batch_messages",
        "histogram",
        (),
        "Settlements that the broker applied in one step",
        "{message}",
        (1.0, 5.0, 25.0, 100.0, 500.0),
    ),
    _durations("actorwork_settle_duration_seconds", (), "How long the broker took to apply a batch of settlements"),
    _counter("actorwork_fenced_total", ("actor",), "Settlements refused: the node no longer owned the delivery"),
    _counter(
        "actorwork_reclaimed_total",
        ("actor", "reason"),
        "Deliveries taken over: crash (of a dead node), released (by a node that stopped)",
        "{delivery}",
    ),
    _counter(
        "actorwork_crashed_messages_total",
        ("actor",),
        "Messages dead-lettered by the broker, since processes died with them",
        "{message}",
    ),
    _gauge(
        "actorwork_entity_instances",
        ("actor",),
        "Instances of an entity that are kept in memory for the next message of their keys",
        "{instance}",
    ),
    _counter(
        "actorwork_entity_activations_total",
        ("actor",),
        "Instances of an entity that were made: for a key that had none here, or whose state has changed elsewhere",
        "{instance}",
    ),
    _counter("actorwork_entity_commits_total", ("actor",), "States of an entity that were changed with a settlement"),
    _counter(
        "actorwork_entity_conflicts_total",
        ("actor",),
        "Commits that the broker refused: the state had changed meanwhile, so the message runs again",
    ),
    _counter(
        "actorwork_entity_refused_total", ("actor",), "States that were too large, or no JSON: their messages failed"
    ),
    _gauge(
        "actorwork_entity_stalled_keys",
        ("actor",),
        "Keys whose messages wait, since this node cannot read their states",
        "{key}",
    ),
    _counter("actorwork_timeouts_total", ("actor",), "Handlers ended by execution_timeout"),
    _gauge("actorwork_overdue", ("actor",), "Handlers that run on past their execution_timeout, in threads too"),
    _counter("actorwork_restarts_total", ("child", "reason"), "Restarts by a supervisor, by the error"),
    _counter("actorwork_gave_up_total", ("supervisor",), "Supervisors that gave up: their intensity was exceeded"),
    _gauge("actorwork_actors", ("actor", "state"), "Actors of the tree by state"),
    _gauge("actorwork_processes", ("process", "state"), "Processes of the tree by state"),
    _counter(
        "actorwork_process_exits_total",
        ("process", "reason"),
        "Ends of processes: clean, crash, oom (killed by the system), hung, memory (too much of it), recycled",
    ),
    _counter("actorwork_loop_stalls_total", (), "Times that the event loop was blocked"),
    _counter("actorwork_loop_stalled_seconds_total", (), "How long the event loop was blocked", "s"),
    Metric(
        "actorwork_loop_lag_seconds",
        "histogram",
        (),
        "How late the event loop runs a task that is due, four times a second",
        "s",
        LAGS,
    ),
    _gauge(
        "actorwork_lease_margin_seconds",
        (),
        "Time left on the lease when it was renewed: the least of the last minute",
        "s",
    ),
    _counter("actorwork_leases_lost_total", (), "Leases lost"),
    _gauge("actorwork_broker_up", (), "1 while the broker is connected; of a cluster, any of its primaries"),
    _gauge("actorwork_broker_servers_away", (), "Servers of the broker without a connection: on a cluster, primaries"),
    _counter(
        "actorwork_broker_disruptions_total", (), "Times that a connection to the broker was cut, however briefly"
    ),
    _counter("actorwork_broker_commands_total", ("command",), "Commands to the broker, blocking reads left out"),
    Metric(
        "actorwork_broker_command_duration_seconds",
        "histogram",
        ("command",),
        "How long the broker took to answer",
        "s",
        COMMANDS,
        "db.client.operation.duration",
    ),
    _gauge("actorwork_spool_messages", (), "Messages in the spool", "{message}"),
    _gauge("actorwork_spool_bytes", (), "Bytes in the spool", "By"),
    _gauge("actorwork_spool_oldest_seconds", (), "Age of the oldest message in the spool", "s"),
    _counter(
        "actorwork_triggers_fired_total",
        ("trigger", "outcome"),
        "Nominal times of triggers: fired, late (by more than 10 s), skipped (one was still waiting), missed (trouble)",
    ),
    _durations("actorwork_trigger_delay_seconds", (), "From the nominal time of a trigger until it fired"),
    _gauge("actorwork_trigger_next_timestamp_seconds", ("trigger",), "When a trigger fires next, since the epoch", "s"),
    _counter("actorwork_limited_total", ("limit", "kind"), "Deliveries that had to wait: rate, concurrency, circuit"),
    _gauge("actorwork_circuit_state", ("circuit",), "0 closed, 1 half open, 2 open"),
    _gauge("actorwork_paused", ("kind", "name"), "1 for each pause that the node obeys"),
    _gauge("actorwork_info", ("version", "broker", "server_version"), "1; the versions are labels"),
    Metric(
        "process_cpu_seconds_total",
        "counter",
        (),
        "Seconds of all cores, in the process and in the system for it",
        "s",
        otel="process.cpu.time",
        is_of_process=True,
    ),
    _gauge("process_resident_memory_bytes", (), "Memory of the process", "By", "process.memory.usage"),
    _gauge(
        "process_open_fds", (), "Open files, sockets too", "{file_descriptor}", "process.unix.file_descriptor.count"
    ),
    _gauge("process_max_fds", (), "How many files the process may open", "{file_descriptor}"),
    _gauge("process_threads", (), "Threads of Python", "{thread}", "process.thread.count"),
    _gauge("process_start_time_seconds", (), "When the process began, since the epoch", "s"),
    _counter(
        "cpython_gc_collections_total",
        ("generation",),
        "Collections of garbage",
        "{collection}",
        "cpython.gc.collections",
    ),
    _counter(
        "cpython_gc_collected_objects_total",
        ("generation",),
        "Objects that were garbage",
        "{object}",
        "cpython.gc.collected_objects",
    ),
    _counter(
        "cpython_gc_uncollectable_objects_total",
        ("generation",),
        "Garbage that could not be freed",
        "{object}",
        "cpython.gc.uncollectable_objects",
    ),
)

BROKER_TABLE: Final[tuple[Metric, ...]] = (
    _gauge(
        "actorwork_source_messages",
        ("source", "actor", "state"),
        "Messages of a source at the broker: ready, in_hand, delayed, dead",
        "{message}",
    ),
    _gauge("actorwork_source_oldest_seconds", ("source", "actor"), "How long the oldest ready message has waited", "s"),
    _gauge("actorwork_source_readers", ("source", "actor"), "Nodes with a lease that read a source"),
    _gauge("actorwork_nodes", (), "Nodes with a lease"),
)

METRICS: Final[Mapping[str, Metric]] = {metric.name: metric for metric in (*TABLE, *BROKER_TABLE)}
