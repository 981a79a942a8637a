"""What a running system is measured by, where it counts metrics: without them nothing of this is there.

gauges      of the tree and the mailboxes: computed when a reader asks, in the thread of the reader
lag         a task that is due four times a second, and notes how late it runs
wrappers    around the node and the sinks of its subscriptions: what is read, and sent with settlements
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import trio

from actorwork.abc import DescribesServer, KnowsReadiness
from actorwork.actors.life.cell import Cell
from actorwork.actors.supervision.supervisor import RunningSupervisor
from actorwork.actors.tree.spec import Process
from actorwork.actors.tree.walking import actors_of
from actorwork.runtime.checking import local_actors_of
from actorwork.telemetry.metrics.counting import MetricsSink
from actorwork.telemetry.metrics.process import ProcessCosts
from actorwork.telemetry.metrics.registry import Registry, process_label

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actorwork.abc import Broker, DeliverySink, EventSink, Meter, Node, Subscription
    from actorwork.actors.life.consumer import Consumer
    from actorwork.actors.supervision.child_table import ChildRecord
    from actorwork.message import Delivery, Envelope
    from actorwork.policy.entities import StateChange
    from actorwork.policy.settlement import Settlement
    from actorwork.runtime.building import Members

TICK: Final = 0.25
"""Seconds between two looks at how late the loop runs."""
_TRIALS: Final = 10


class Metering:
    """The metrics of one system."""

    def __init__(self, emit: EventSink) -> None:
        self.registry = Registry()
        self.sink = MetricsSink(self.registry, emit)
        self.registry.collectors.append(ProcessCosts(self.registry.family).collect)
        self._members: Members | None = None
        self._server: tuple[str, str] | None = None
        """What the broker is, and its version, once that is known."""
        self._clock: Callable[[], float] = time.monotonic

    def __repr__(self) -> str:
        return f"<metering with {self.registry!r}>"

    def watch(self, members: Members) -> None:
        """Learn the actors of the tree, and read its gauges from now on; called in the loop."""
        spec = members.root.spec
        for child in (*actors_of(spec), *local_actors_of(spec)):
            self.sink.know(child.settings.id, child.title)
        self._members = members
        # Not `trio.current_time`, which another thread may not call.
        self._clock = trio.lowlevel.current_clock().current_time
        self.sink.clock = self._clock
        self.sink.adjust()
        self.registry.collectors.append(self._collect)

    async def run(self) -> None:
        """Note how late the loop runs, until cancelled."""
        meter = self.sink.meter
        while True:
            due = trio.current_time() + TICK
            await trio.sleep_until(due)
            meter.loop_late(max(0.0, trio.current_time() - due))
            self.sink.adjust()
            # Here, too, so that nothing that has ended is kept in memory for long.
            self.sink.count_ended()

    def subscription(self, consumer: Consumer) -> Subscription:
        """Return a consumer's subscription, with a sink that counts what is read."""
        subscription = consumer.subscription
        sink = cast("DeliverySink", _CountingSink(consumer, subscription, self.sink))
        consumer.subscription = attrs.evolve(subscription, sink=sink)
        return consumer.subscription

    def node(self, node: Node) -> Node:
        """Return a node that counts what is sent with settlements; from now on its clock is the one that counts."""
        self.sink.now = node.now
        if isinstance(node, KnowsReadiness):
            self.sink.ready_at = node.ready_at
            # A node may know a cheaper way for several.
            self.sink.ready_of = getattr(node, "ready_of", self.sink.ready_of)
        self.sink.adjust()
        return cast("Node", _CountingNode(node, self.sink.meter))

    async def describe(self, broker: Broker) -> None:
        """Find out what the broker is, for `actorwork_info`."""
        self._server = await broker.describe_server() if isinstance(broker, DescribesServer) else ("memory", "")

    # ---- gauges ----

    def _collect(self) -> None:
        for _ in range(_TRIALS):
            try:
                self._look()
                return
            except RuntimeError:  # The loop has changed meanwhile what is iterated here.
                continue

    def _look(self) -> None:
        members = self._members
        assert members is not None  # noqa: S101 - for type checkers: `watch` sets it before this is called
        family, now = self.registry.family, self._clock()
        in_hand, longest = Counter[tuple[str]](), dict[tuple[str], float]()
        waiting, capacity = Counter[tuple[str, str]](), Counter[tuple[str]]()
        kept, stalled = Counter[tuple[str]](), Counter[tuple[str]]()
        for cell in cast("list[Cell]", list(members.services.cells)):
            labels = (cell.title,)
            executors = () if cell.current is None else list(cell.current.executors)
            busy = [executor.began or now for executor in executors if executor.item is not None]
            in_hand[labels] += len(busy)
            longest[labels] = max(0.0, now - min(busy, default=now), longest.get(labels, 0.0))
            local = cell.mailbox.local
            waiting[cell.title, "local"] += local
            waiting[cell.title, "broker"] += max(0, cell.waiting - local)
            capacity[labels] += cell.settings.mailbox.capacity
            counts = None if cell.consumer is None else cell.consumer.entity_counts
            if counts is not None:
                kept[labels] += getattr(None if cell.current is None else cell.current.instance, "active", 0)
                stalled[labels] += len(counts.stalled_keys(now))
        family("actorwork_entity_instances").replace(kept)
        family("actorwork_entity_stalled_keys").replace(stalled)
        family("actorwork_in_hand").replace(in_hand)
        family("actorwork_longest_in_hand_seconds").replace(longest)
        family("actorwork_mailbox_messages").replace(waiting)
        family("actorwork_mailbox_capacity").replace(capacity)
        overdue = Counter[tuple[str]]()
        for title in members.services.watchdog.late(now):
            overdue[title,] += 1
        family("actorwork_overdue").replace(overdue)
        actors, processes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for record in _records(members.root):
            if isinstance(record.member, Cell):
                actors[record.spec.title, record.state.value] += 1
            elif isinstance(record.spec, Process):
                processes[process_label(record.spec.title), record.state.value] += 1
        if self._server is not None:
            family("actorwork_info").replace({(_own_version(), *self._server): 1})
        family("actorwork_actors").replace(actors)
        family("actorwork_processes").replace(processes)


@cache
def _own_version() -> str:
    # At the first reading, and not at the start: to find it costs as much as thousands of messages.
    return version("actorwork")


def _records(supervision: RunningSupervisor) -> Iterator[ChildRecord]:
    for record in list(supervision.records):
        member = record.member
        yield record
        if isinstance(member, RunningSupervisor):
            yield from _records(member)
        elif isinstance(member, Cell) and member.children is not None:
            yield from _records(member.children)


class _CountingSink:
    """A consumer as the sink of its subscription, which counts what is read. Offers are all that is counted."""

    def __init__(self, sink: DeliverySink, subscription: Subscription, counting: MetricsSink) -> None:
        self._offer = sink.offer
        self._actor = subscription.actor
        self._meter = counting.meter
        self._ended = counting.ack_notes(subscription.group, subscription.actor)
        self._count_ended = counting.count_ended
        self.credit = sink.credit
        self.cancel = sink.cancel
        self.revoke = sink.revoke

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        self._meter.read(self._actor, len(deliveries))
        # Nothing ends that was not offered here: so what is noted and not counted stays bounded.
        if self._ended.has_many:
            self._count_ended()
        self._offer(deliveries)


class _CountingNode:
    """A node, which counts what is sent with settlements."""

    def __init__(self, node: Node, meter: Meter) -> None:
        self._node = node
        self._meter = meter
        self.settle = node.settle
        """As it is, for each message. What a handler has published is counted where it is rare: see `Deliveries`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def settle_together(
        self,
        subscription: Subscription,
        settled: Sequence[tuple[Delivery, Settlement]],
        published: Sequence[Envelope],
    ) -> None:
        self._count(published)
        self._node.settle_together(subscription, settled, published)

    async def publish_fenced(
        self,
        subscription: Subscription,
        delivery: Delivery,
        published: Sequence[Envelope],
        *,
        state: StateChange | None = None,
    ) -> bool:
        is_ours = await self._node.publish_fenced(subscription, delivery, published, state=state)
        if is_ours:
            self._count(published)
        return is_ours

    def _count(self, published: Sequence[Envelope]) -> None:
        for envelope in published:
            self._meter.sent(envelope.source, "sent")
