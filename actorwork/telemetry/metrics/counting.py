"""Counts events: a sink before the sink of the system.

The end of a delivery is the only event that occurs for every message, and nearly all of these ends are an `Ack` of a
first attempt. These are only noted (`_Account.noted`), by the actor itself, and counted together: sorted, a list falls
into the buckets of a histogram in a few steps, where each number by itself would cost a search. They are counted before
more is read, if there are `TOGETHER` of them, and four times a second in any case, so never more are kept than that and
what an actor has in hand. A reader counts what is there, in its own thread, so it sees everything that has ended. What
can be computed for a reader is not counted: the ends of kind `ack` are the values in their histogram.

A lock is held while something is counted into the series of deliveries. To note an end takes none: only the loop adds
to the list, at its end, and a reader takes from its beginning the ends that are there as a whole.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from operator import sub
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from actorwork import events
from actorwork.errors import ProcessLost
from actorwork.message import HISTORY
from actorwork.policy.catchup import LATE
from actorwork.policy.exits import Kind
from actorwork.policy.pauses import trigger_name
from actorwork.policy.settlement import CANCELLED, EXPIRED, Ack, Fail, Reject, Retry
from actorwork.telemetry.metrics.family import copied
from actorwork.telemetry.metrics.registry import process_label
from actorwork.telemetry.metrics.table import DURATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actorwork.abc import EventSink
    from actorwork.message import Delivery
    from actorwork.policy.settlement import Settlement
    from actorwork.telemetry.metrics.registry import Registry

_DURATION: Final = "actorwork_process_duration_seconds"
_RELEASED: Final = "released"
_STATES: Final = {"closed": 0, "half open": 1, "open": 2}
_TIMEOUT: Final = "ExecutionTimeout"
_AT_ONCE: Final = 1.0
"""Connections that are lost within that time, in seconds, are lost by one disruption."""
_SEEN_AT_ZERO: Final = (
    "actorwork_broker_disruptions_total",
    "actorwork_leases_lost_total",
    "actorwork_loop_stalled_seconds_total",
    "actorwork_loop_stalls_total",
)
"""Counters without labels are there from the start: a counter that begins at 1 has not increased for Prometheus."""
TOGETHER: Final = 100
"""Ends of deliveries that are worth counting together."""
_EACH: Final = 3
"""How many items are noted of each."""
ReadyOf: TypeAlias = "Callable[[Sequence[Delivery]], Sequence[float | None]]"


_Settled: Final = events.Settled


class _Connections:
    """Those of a node to the servers of its broker: one, or the primaries of a cluster."""

    __slots__ = ("_cut_at", "_lost", "_lost_at", "_told_at", "away", "is_up")

    def __init__(self) -> None:
        self.is_up = False
        """Whether there is a connection to one of them."""
        self.away = 0
        """To how many of them there is none."""
        self._lost: set[str] = set()
        """Those, by their URLs, that have been lost and have not come back."""
        self._lost_at = self._told_at = self._cut_at = -math.inf
        """When the last of them was lost, when one was last said to be lost, and when a connection that reads was."""

    def come_back(self, event: events.BrokerBack) -> None:
        self._lost.discard(event.broker)
        if not event.away:
            self._lost.clear()
        self._count(event)

    def lose(self, event: events.BrokerLost, now: float) -> bool:
        """Return whether this is a disruption. The event comes again with each attempt to connect."""
        is_disruption = False
        if event.broker not in self._lost:
            # What cuts the connections to several servers is one disruption.
            is_same = now - self._cut_at < _AT_ONCE or (bool(self._lost) and now - self._lost_at < _AT_ONCE)
            is_disruption = self.is_up and not is_same
            self._lost.add(event.broker)
            self._lost_at = now
        self._told_at = now
        self._count(event)
        return is_disruption

    def is_disrupted_by_cut(self, now: float) -> bool:
        """Note that a connection was cut that reads, and return whether this is a disruption."""
        # What cuts several connections of a node is one disruption, and each of them is noticed by itself.
        if not self.is_up or now - max(self._told_at, self._cut_at) < _AT_ONCE:
            return False
        self._cut_at = now
        return True

    def _count(self, event: events.BrokerBack | events.BrokerLost) -> None:
        self.away, self.is_up = event.away, event.away < event.servers


class _Account:
    """What is counted for every delivery of one actor. Implements `abc.AckNotes`.

    It is no part of the sink, since that has `__getattr__`: Python takes several times as long to find an attribute of
    such an object.
    """

    __slots__ = ("_exemplars", "_registry", "acked", "ended", "first", "noted", "title", "waited", "whole")

    acked: list[Any]
    waited: list[Any]
    whole: list[Any]
    first: list[Any]

    def __init__(self, registry: Registry, title: str, *, is_told: bool) -> None:
        self.title = title
        self._registry: Registry | None = registry
        """None once its series are there: of an actor that no delivery comes to there are none."""
        self._exemplars = registry.exemplars
        self.ended: list[Any] = []
        """What is not counted yet, as `noted` takes it."""
        self.noted: list[Any] | None = None if is_told else self.ended

    def open(self) -> None:
        """Make the series, unless they are there."""
        registry, title = self._registry, self.title
        if registry is not None:
            self._registry = None
            self.acked = registry.family(_DURATION).distribution((title, "ack"))
            self.waited = registry.family("actorwork_wait_duration_seconds").distribution((title,))
            self.whole = registry.family("actorwork_end_to_end_duration_seconds").distribution((title,))
            self.first = registry.family("actorwork_attempts").distribution((title, "ack"))

    @property
    def has_many(self) -> bool:
        """Whether so many have ended that they are worth counting."""
        return len(self.ended) >= _EACH * TOGETHER

    def count(self, ready_of: ReadyOf, ahead: float) -> None:
        """Count what has ended; `ahead` is by how much the broker's clock is ahead of the one of the ends."""
        ended = self.ended
        # More may come meanwhile, at the end of the list, and of the last one a part may be missing.
        count = len(ended) // _EACH * _EACH
        if not count:
            return
        noted = ended[:count]
        del ended[:count]
        self.open()
        seconds: list[float] = noted[::_EACH]
        ends: list[float] = noted[1::_EACH]
        deliveries: list[Delivery] = noted[2::_EACH]
        self.first[0] += len(seconds)
        self.first[-1] += len(seconds)
        self._exemplars.note(_DURATION, (self.title, "ack"), DURATIONS, seconds, deliveries)
        ready, known = ready_of(deliveries), seconds
        if None in ready:
            known = [one for one, since in zip(seconds, ready, strict=True) if since is not None]
            ends = [at for at, since in zip(ends, ready, strict=True) if since is not None]
            ready = [since for since in ready if since is not None]
        # For each message: these are lists of numbers, and nothing is looked up in them.
        whole = [at - since + ahead for at, since in zip(ends, cast("Sequence[float]", ready))]  # noqa: B905 - as long
        waited = list(map(sub, whole, known))
        add_all(self.acked, seconds)
        add_all(self.whole, whole)
        add_all(self.waited, waited)


def add_all(found: list[Any], values: list[float]) -> None:
    """Add values to a distribution of durations; sorts them.

    One below zero counts as zero: it is the difference of two clocks, the broker's and that of the loop.
    """
    if not values:
        return
    values.sort()
    found[-1] += sum(values if values[0] >= 0 else values[bisect_left(values, 0.0) :])
    low, high = bisect_left(DURATIONS, values[0]), bisect_left(DURATIONS, values[-1])
    counted = 0
    for bucket in range(low, high):
        below = bisect_right(values, DURATIONS[bucket], counted)
        found[bucket] += below - counted
        counted = below
    found[high] += len(values) - counted


class MetricsSink:
    """Counts the events of one node, and passes each on to `forward`.

    `forward` is the sink behind it. What comes from a process below goes there at once: that process counts for itself.
    All other attributes are those of the sink behind it.
    """

    def __init__(self, registry: Registry, forward: EventSink) -> None:
        self.registry = registry
        self.forward = forward
        self.meter = registry.meter
        self.now: Callable[[], float] = time.time
        """The clock of the broker, in seconds since the epoch."""
        self.ready_at: Callable[[Delivery], float | None] = _unknown
        """Returns since when the message of a delivery was ready at the broker, by its clock."""
        self.ready_of: ReadyOf = self._ready_of
        """Returns the same of several deliveries at once."""
        self._ahead = 0.0
        """By how many seconds the broker's clock is ahead of that one."""
        self._lock = threading.Lock()
        self._accounts: dict[str, _Account] = {}
        """By id of the actor."""
        self.clock: Callable[[], float] = self._by_now
        """The clock of the loop, which runs as fast as the broker's."""
        self._is_told = True
        """Whether the sink behind this one does anything with an `Ack`."""
        self._titles: dict[str, str] = {}
        self._connections = _Connections()
        for name in _SEEN_AT_ZERO:
            registry.family(name).add((), 0)
        self._processes: set[str] = set()
        self._hung: set[str] = set()
        """The processes that are being killed, since they have hung."""
        self._others: dict[type, Callable[[Any], None]] = {
            events.ActorStarted: self._actor_started,
            events.BrokerBack: self._connected,
            events.BrokerLost: self._disconnected,
            events.BrokerTrouble: self._troubled,
            events.ChildExited: self._exited,
            events.ChildRestarting: self._restarting,
            events.CircuitChanged: self._circuit,
            events.DeadLettered: self._buried,
            events.Fenced: self._fenced,
            events.GaveUp: self._gave_up,
            events.HandlerHung: self._process_hung,
            events.LeaseLost: self._lease_lost,
            events.LoopStalled: self._stalled,
            events.NodeStarted: self._node_started,
            events.PausesChanged: self._paused,
            events.ProcessHung: self._process_hung,
            events.ProcessReplaced: self._replaced,
            events.ProcessStarted: self._process_started,
            events.Reclaimed: self._reclaimed,
            events.Released: self._released,
            events.TriggerFired: self._fired,
            events.TriggerTrouble: self._trouble,
            events.Undelivered: self._undelivered,
        }
        registry.collectors.append(self._derive)

    def __repr__(self) -> str:
        return f"<metrics before {self.forward!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.forward, name)

    def know(self, actor_id: str, title: str) -> None:
        """Learn the title of an actor, before its first event."""
        self._titles[actor_id] = title

    def __call__(self, event: events.Event) -> None:
        if type(event) is _Settled:
            if type(event.settlement) is Ack and event.delivery.attempt == 1:
                account = self.ack_notes(event.actor_id, event.title)
                account.ended += (event.seconds, self.clock(), event.delivery)
                if account.has_many:
                    self.count_ended()
                if self._is_told:
                    self.forward(event)
                return
            with self._lock:
                self._settled(event)
        else:
            count = self._others.get(type(event))
            if count is not None:
                count(event)
        self.forward(event)

    # ---- deliveries ----

    def adjust(self) -> None:
        """Compare the clocks, and ask the sink behind this one whether it does anything with an `Ack`; in the loop.

        Both change while a system runs: the broker's clock may step, and so may the level of a log.
        """
        self._ahead = self.now() - self.clock()
        is_told = getattr(self.forward, "wants_acks", True)
        if is_told != self._is_told:
            self._is_told = is_told
            for account in copied(self._accounts.values()):
                account.noted = None if is_told else account.ended

    def count_ended(self) -> None:
        """Count the deliveries that have ended; callable from any thread."""
        with self._lock:
            self._count_ended()

    def _count_ended(self) -> None:
        for account in copied(self._accounts.values()):
            account.count(self.ready_of, self._ahead)

    def _by_now(self) -> float:
        return self.now()

    def _ready_of(self, deliveries: Sequence[Delivery]) -> Sequence[float | None]:
        return [self.ready_at(one) for one in deliveries]

    def ack_notes(self, actor_id: str, title: str) -> _Account:
        """Return where the deliveries of an actor are noted; see `abc.ack_notes_of`."""
        account = self._accounts.get(actor_id)
        if account is None:
            self._titles[actor_id] = title
            account = self._accounts[actor_id] = _Account(self.registry, title, is_told=self._is_told)
        return account

    def acked(self, actor_id: str, title: str, delivery: Delivery, settlement: Settlement, seconds: float) -> None:
        """Take the end of a delivery that was acknowledged and is not only noted; see `abc.acks_of`."""
        self(_Settled(actor_id, title, delivery, settlement, seconds))

    def _settled(self, event: events.Settled) -> None:
        """Count the end of a delivery by itself: what is not as nearly all of them are."""
        account = self.ack_notes(event.actor_id, event.title)
        account.open()
        delivery, seconds = event.delivery, event.seconds
        settlement = event.settlement
        if not isinstance(settlement, Ack):
            self._not_acked(account, delivery, settlement, seconds)
            return
        found = account.acked
        found[bisect_left(DURATIONS, seconds)] += 1
        found[-1] += seconds
        if delivery.attempt > 1:
            self._ended_late(account, delivery, "ack")

    def _not_acked(
        self, account: _Account, delivery: Delivery, settlement: Retry | Reject | Fail, seconds: float
    ) -> None:
        title, family, failure = account.title, self.registry.family, settlement.failure
        match settlement:
            case Retry():
                outcome = "retry"
            case Fail():
                outcome = "fail"
            case Reject():
                outcome = "expired" if failure.type == EXPIRED else "reject"
        family("actorwork_deliveries_total").add((title, outcome))
        if failure.type not in (EXPIRED, CANCELLED):
            family("actorwork_failures_total").add((title, failure.type))
            if failure.type == _TIMEOUT:
                family("actorwork_timeouts_total").add((title,))
        if outcome != "expired":
            family(_DURATION).observe((title, outcome), seconds)
            self.registry.exemplars.note(_DURATION, (title, outcome), DURATIONS, [seconds], [delivery])
        ready = self.ready_at(delivery) if delivery.attempt == 1 else None
        if ready is not None:
            whole = max(0.0, self.now() - ready)
            family("actorwork_wait_duration_seconds").observe((title,), max(0.0, whole - seconds))
            if outcome != "retry":
                family("actorwork_end_to_end_duration_seconds").observe((title,), whole)
        if outcome == "retry":
            return
        if delivery.attempt > 1:
            self._ended_late(account, delivery, outcome)
        else:
            family("actorwork_attempts").observe((title, outcome), 1)

    def _ended_late(self, account: _Account, delivery: Delivery, outcome: str) -> None:
        """Count the end of a message that was tried more than once."""
        self.registry.family("actorwork_attempts").observe((account.title, outcome), delivery.attempt)
        history = delivery.headers.get(HISTORY)
        first = history[0] if isinstance(history, list) and history else None
        if isinstance(first, dict) and first.get("attempt") == 1 and isinstance(at := first.get("at"), int | float):
            whole = max(0.0, self.now() - at)
            self.registry.family("actorwork_end_to_end_duration_seconds").observe((account.title,), whole)

    def _derive(self) -> None:
        ends = self.registry.family("actorwork_deliveries_total").series
        # Of several readers at once, none puts a lower number in the place of a higher one.
        with self._lock:
            self._count_ended()
            for labels, found in copied(self.registry.family("actorwork_process_duration_seconds").series.items()):
                if labels[1] == "ack" and (acked := sum(found[:-1])):
                    ends[labels] = acked

    def _title_of(self, actor_id: str) -> str:
        return self._titles.get(actor_id, actor_id)

    def _fenced(self, event: events.Fenced) -> None:
        title = self._title_of(event.actor_id)
        self.registry.family("actorwork_fenced_total").add((title,))
        self.registry.family("actorwork_deliveries_total").add((title, "fenced"))

    def _released(self, event: events.Released) -> None:
        labels = self._title_of(event.actor_id), "handed_back"
        self.registry.family("actorwork_deliveries_total").add(labels, event.count)

    def _reclaimed(self, event: events.Reclaimed) -> None:
        reason = "released" if event.previous == _RELEASED else "crash"
        self.registry.family("actorwork_reclaimed_total").add((self._title_of(event.actor_id), reason), event.count)

    def _buried(self, event: events.DeadLettered) -> None:
        self.registry.family("actorwork_crashed_messages_total").add((self._title_of(event.actor_id),))

    def _undelivered(self, event: events.Undelivered) -> None:
        title = self._titles.get(event.actor_id) or _without_marks(event.title)
        self.registry.family("actorwork_undelivered_total").add((title, event.reason))

    # ---- the tree ----

    def _actor_started(self, event: events.ActorStarted) -> None:
        self._titles.setdefault(event.actor_id, _without_marks(event.title))

    def _restarting(self, event: events.ChildRestarting) -> None:
        reason = "ended" if event.error is None else type(event.error).__qualname__
        self.registry.family("actorwork_restarts_total").add((_without_marks(event.child), reason))

    def _gave_up(self, event: events.GaveUp) -> None:
        self.registry.family("actorwork_gave_up_total").add((event.supervisor,))

    def _process_hung(self, event: events.ProcessHung | events.HandlerHung) -> None:
        self._hung.add(event.process)

    def _exited(self, event: events.ChildExited) -> None:
        error = event.exit.error
        if isinstance(error, ProcessLost):
            is_killed_by_system = error.code == -signal.SIGKILL and not error.killed_for
            reason = "hung" if event.child in self._hung else "oom" if is_killed_by_system else "crash"
        elif event.child in self._processes and event.exit.kind in (Kind.NORMAL, Kind.SHUTDOWN):
            reason = "clean"
        else:
            return
        self._hung.discard(event.child)
        self._process_ended(event.child, reason)

    def _process_started(self, event: events.ProcessStarted) -> None:
        self._processes.add(event.process)

    def _replaced(self, event: events.ProcessReplaced) -> None:
        self._process_ended(event.process, event.reason)

    def _process_ended(self, process: str, reason: str) -> None:
        self.registry.family("actorwork_process_exits_total").add((process_label(process), reason))

    def _stalled(self, event: events.LoopStalled) -> None:
        if not event.lasts:
            self.registry.family("actorwork_loop_stalls_total").add(())
            self.registry.family("actorwork_loop_stalled_seconds_total").add((), event.seconds)

    # ---- the broker ----

    def _lease_lost(self, event: events.LeaseLost) -> None:
        self.registry.family("actorwork_leases_lost_total").add(())

    def _node_started(self, event: events.NodeStarted) -> None:
        self._connections.is_up = True
        self._show_connections()

    def _connected(self, event: events.BrokerBack) -> None:
        self._connections.come_back(event)
        self._show_connections()

    def _disconnected(self, event: events.BrokerLost) -> None:
        if self._connections.lose(event, self.clock()):
            self.registry.family("actorwork_broker_disruptions_total").add(())
        self._show_connections()

    def _show_connections(self) -> None:
        self.registry.family("actorwork_broker_up").set((), int(self._connections.is_up))
        self.registry.family("actorwork_broker_servers_away").set((), self._connections.away)

    def _troubled(self, event: events.BrokerTrouble) -> None:
        if event.is_cut and self._connections.is_disrupted_by_cut(self.clock()):
            self.registry.family("actorwork_broker_disruptions_total").add(())

    # ---- triggers, limits, pauses ----

    def _fired(self, event: events.TriggerFired) -> None:
        now, trigger = self.now(), trigger_name(event.title, event.trigger)
        fired, delays = (
            self.registry.family("actorwork_triggers_fired_total"),
            self.registry.family("actorwork_trigger_delay_seconds"),
        )
        skipped = len(event.times) - event.kept
        if skipped:
            fired.add((trigger, "skipped"), skipped)
        for nominal in event.times[skipped:]:
            delay = max(0.0, now - nominal / 1000)
            delays.observe((), delay)
            fired.add((trigger, "late" if delay * 1000 > LATE else "fired"))

    def _trouble(self, event: events.TriggerTrouble) -> None:
        trigger = trigger_name(event.title, event.trigger)
        self.registry.family("actorwork_triggers_fired_total").add((trigger, "missed"))

    def _circuit(self, event: events.CircuitChanged) -> None:
        self.registry.family("actorwork_circuit_state").set((event.name,), _STATES[event.state])

    def _paused(self, event: events.PausesChanged) -> None:
        paused = self.registry.family("actorwork_paused")
        for pause in event.resumed:
            paused.drop((pause.kind, pause.name))
        for pause in event.paused:
            paused.set((pause.kind, pause.name), 1)


def _without_marks(label: str) -> str:
    """Return the title in the label of a child, whose id and names are unbounded: `account` of `account (ann)`."""
    return label.partition(" (")[0]


def _unknown(_: Delivery) -> None:
    return None
