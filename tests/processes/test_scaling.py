"""Replicas of a process are added and removed with the backlog."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import attrs
import pytest
import trio

from actorwork import BrokerError, ChildError, Process, Scale, SettingsError, StartError, open_client, open_system
from actorwork.actors.supervision.child_table import State
from actorwork.actors.tree.spec import Replicas
from actorwork.events import BrokerTrouble, ChildExited, Event, Scaled
from actorwork.message import Envelope
from actorwork.runtime.outline import Branch, InFlightItem
from actorwork.runtime.processes import scaling
from actorwork.runtime.processes.scaling import Scaler
from actorwork.runtime.processes.seats import SEAT_TTL, Seats
from actorwork.testing.memory import MemoryBroker

from .conftest import Said, is_alive, until
from .workers import GO_ON, Worker, say


def of(kind: type[Any], seen: list[Event]) -> list[Any]:
    return [event for event in seen if isinstance(event, kind)]


def of_scaled(seen: list[Event]) -> list[tuple[int, int]]:
    return [(event.before, event.after) for event in of(Scaled, seen)]


@attrs.define(eq=False)
class StandIn:
    """A fake replica."""

    spec: Process
    busy: int = 0
    state: State = State.RUNNING

    @property
    def member(self) -> Any:
        return self

    @property
    def key(self) -> str:
        return self.spec.title

    def branches(self) -> tuple[Branch, ...]:
        return (Branch("worker", "actor", "running", in_hand=(InFlightItem("x", 1.0),) * self.busy),)


class Group:
    """A supervisor of fake replicas; its own handle."""

    def __init__(self, process: Process) -> None:
        self.spec = Replicas.of(process)
        self.records = [StandIn(member) for member in self.spec.members]
        self.fails = False

    @property
    def handle(self) -> Any:
        return self

    async def start_child(self, member: Process) -> None:
        await trio.sleep(1)
        if self.fails:
            raise StartError("no", child_id=member.title)
        self.records.append(StandIn(member))

    async def terminate_child(self, key: str) -> None:
        (record,) = [record for record in self.records if record.key == key]
        record.state = State.STOPPING
        await trio.sleep(1)
        if record not in self.records:
            raise ChildError("gone", problem="not_found")
        self.records.remove(record)


@asynccontextmanager
async def open_group(
    scale: Scale, seen: list[Event], broker: MemoryBroker | None = None
) -> AsyncGenerator[tuple[Group, MemoryBroker]]:
    broker = broker or MemoryBroker()
    group = Group(Process([Worker], name="far", replicas=scale))
    scaler = Scaler(cast("Any", group), lambda: broker, seen.append, lambda: False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scaler.run)
        yield group, broker
        nursery.cancel_scope.cancel()


def messages(first: int, count: int) -> list[Envelope]:
    return [Envelope("work", str(number), b"{}") for number in range(first, first + count)]


async def test_it_grows_with_the_backlog_at_once_and_goes_down_slowly(mock_clock: object):
    seen: list[Event] = []
    async with open_group(Scale(max=4, target_backlog=10, target_wait=None, cooldown=60), seen) as (group, broker):
        await trio.sleep(10)
        assert len(group.records) == 1
        await broker.publish(messages(0, 35))
        await trio.sleep(4)
        assert sorted(record.key for record in group.records) == ["far 1", "far 2", "far 3", "far 4"]
        broker._writer.change(lambda store: store.execute("delete from entries"))
        await trio.sleep(80)
        assert len(group.records) == 3
        await trio.sleep(300)
        assert [record.key for record in group.records] == ["far 1"]
        assert of_scaled(seen) == [(1, 4), (4, 3), (3, 2), (2, 1)]
        assert of(Scaled, seen)[0].why == "a backlog of 35, the target is 10 per replica"


async def test_busy_replicas_stay_and_late_messages_bring_more(mock_clock: object):
    seen: list[Event] = []
    async with open_group(Scale(min=2, max=4, target_wait=5, cooldown=10), seen) as (group, broker):
        for record in group.records:
            record.busy = 2  # as many as its actor handles at once
        await broker.publish(messages(0, 1))
        await trio.sleep(4.5)
        assert not seen
        await trio.sleep(4)
        assert of_scaled(seen)[0] == (2, 3)
        broker._writer.change(lambda store: store.execute("delete from entries"))
        for record in group.records:
            record.busy = 2
        await trio.sleep(100)
        assert of_scaled(seen)[-1][1] >= 3


async def test_a_replica_that_does_not_start_is_not_tried_again_and_again(mock_clock: object):
    seen: list[Event] = []
    async with open_group(Scale(max=4, target_backlog=10), seen) as (group, broker):
        group.fails = True
        await broker.publish(messages(0, 35))
        await trio.sleep(30)
        assert of_scaled(seen) == [(1, 4)]
        group.fails = False
        await trio.sleep(10)
        assert of_scaled(seen) == [(1, 4), (1, 4)]
        assert len(group.records) == 4


def seats_of(broker: MemoryBroker) -> int:
    """Return how many seats are taken; there is one process."""
    return broker._store.execute("select count(*) from slots where until > ?", (broker.now,)).fetchone()[0]


async def test_two_programs_together_have_no_more_than_the_maximum_and_share_it(mock_clock: object):
    seen: list[Event] = []
    broker = MemoryBroker()
    scale = Scale(max=6, target_backlog=10, target_wait=None, cooldown=60)
    async with open_group(scale, seen, broker) as (one, _), open_group(scale, seen, broker) as (other, _):
        await trio.sleep(3)
        await broker.publish(messages(0, 200))
        await trio.sleep(100)
        assert (len(one.records), len(other.records)) == (3, 3)
        broker._writer.change(lambda store: store.execute("delete from entries"))
        await trio.sleep(40)
        assert len(one.records) + len(other.records) == 5, "one goes at a time, of whichever program"
        await trio.sleep(600)
        assert (len(one.records), len(other.records)) == (1, 1)
    assert seats_of(broker) == 0


async def test_replicas_are_as_many_as_the_load_needs_in_all_programs_together(mock_clock: object):
    seen: list[Event] = []
    broker = MemoryBroker()
    scale = Scale(max=20, target_backlog=10, target_wait=None)
    async with open_group(scale, seen, broker) as (one, _), open_group(scale, seen, broker) as (other, _):
        await broker.publish(messages(0, 45))
        await trio.sleep(60)
        assert sorted((len(one.records), len(other.records))) == [2, 3]


async def test_a_program_takes_what_another_one_leaves(mock_clock: object):
    seen: list[Event] = []
    broker = MemoryBroker()
    scale = Scale(max=6, target_backlog=10, target_wait=None)
    async with open_group(scale, seen, broker) as (one, _), open_group(scale, seen, broker) as (other, _):
        other.fails = True
        await broker.publish(messages(0, 60))
        await trio.sleep(8)
        assert (len(one.records), len(other.records)) == (3, 1)
        await trio.sleep(60)
        assert (len(one.records), len(other.records)) == (5, 1)


async def test_what_a_program_had_that_died_is_free_for_others(mock_clock: object, monkeypatch: pytest.MonkeyPatch):
    async def die(self: Seats) -> None:
        pass

    seen: list[Event] = []
    broker = MemoryBroker()
    scale = Scale(max=4, target_backlog=10, target_wait=None)
    async with open_group(scale, seen, broker) as (one, _):
        with monkeypatch.context() as patch:
            patch.setattr(Seats, "release", die)
            async with open_group(scale, seen, broker) as (other, _):
                await broker.publish(messages(0, 60))
                await trio.sleep(30)
                assert (len(one.records), len(other.records)) == (2, 2)
        await trio.sleep(SEAT_TTL - 4)
        assert len(one.records) == 2
        await trio.sleep(20)
        assert len(one.records) == 4


async def test_who_was_cut_off_until_others_took_its_place_gives_way(mock_clock: object):
    seen: list[Event] = []
    broker, away = MemoryBroker(), Cut()
    away.real = broker
    scale = Scale(max=4, target_backlog=10, target_wait=None)
    async with open_group(scale, seen, broker) as (one, _), open_group(scale, seen, cast("Any", away)) as (other, _):
        await broker.publish(messages(0, 60))
        await trio.sleep(30)
        assert (len(one.records), len(other.records)) == (2, 2)
        away.is_cut = True
        await trio.sleep(60)
        assert (len(one.records), len(other.records)) == (4, 2)
        away.is_cut = False
        await trio.sleep(10)
        # Its minimum is its own, beyond the maximum; the other one gives a place up for it.
        assert len(other.records) == 1
        await trio.sleep(100)
        assert (len(one.records), len(other.records)) in {(3, 1), (2, 2)}


async def test_a_replica_that_takes_long_to_start_keeps_its_place(mock_clock: object, monkeypatch: pytest.MonkeyPatch):
    seen: list[Event] = []
    broker = MemoryBroker()
    async with open_group(Scale(max=4, target_backlog=10, target_wait=None), seen, broker) as (group, _):
        monkeypatch.setattr(group, "start_child", partial(_start_late, group))
        await broker.publish(messages(0, 60))
        await trio.sleep(3 * SEAT_TTL)
        assert len(group.records) == 1
        assert seats_of(broker) == 4


async def _start_late(group: Group, member: Process) -> None:
    await trio.sleep(10 * SEAT_TTL)
    group.records.append(StandIn(member))


class Cut:
    """A broker that can be cut off from one program."""

    is_cut = False
    real: MemoryBroker

    def __getattr__(self, name: str) -> Any:
        if self.is_cut:
            raise BrokerError("not now")
        return getattr(self.real, name)


class Away(MemoryBroker):
    is_away = True

    async def backlog(self, source: str, group: str | None = None) -> int:
        if self.is_away:
            raise BrokerError("not now")
        return await super().backlog(source, group)


async def test_while_the_broker_does_not_answer_nothing_is_decided(mock_clock: object):
    seen: list[Event] = []
    broker = Away()
    async with open_group(Scale(max=4, target_backlog=10), seen, broker) as (group, _):
        await broker.publish(messages(0, 35))
        await trio.sleep(100)
        assert len(of(BrokerTrouble, seen)) == len(seen) == 1
        assert len(group.records) == 1
        broker.is_away = False
        await trio.sleep(4)
        assert len(group.records) == 4


@pytest.mark.long
async def test_real_processes_come_and_go(file_url: str, said: Said, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scaling, "LOOK_EVERY", 0.1)
    seen: list[Event] = []
    tree = Process([Worker], name="far", replicas=Scale(max=3, target_backlog=4, cooldown=0.3))
    async with open_client(file_url) as client:
        for _ in range(20):
            await client.ref(Worker).tell({"what": "hold"})
    async with open_system(tree, broker=file_url, emit=seen.append) as system:
        await said.wait("up", 3)
        say(GO_ON)
        await said.wait("hold done", 20)
        await until(lambda: len(said.pids("down")) == 2, "two to go")
        await until(lambda: len([pid for pid in said.pids("up") if is_alive(pid)]) == 1, "the end of both")
        assert of_scaled(seen) == [(1, 3), (3, 2), (2, 1)]
        await until(lambda: len(system.tree().children[0].children) == 1, "one to be left")
        assert not [event for event in of(ChildExited, seen) if event.exit.abnormal]
    assert not system.forced


def test_what_a_process_with_a_scale_is():
    process = Process([Worker], name="far", replicas=Scale(min=2, max=5))
    assert process.is_group
    group = Replicas.of(process)
    assert [member.title for member in group.members] == ["far 1", "far 2"]
    assert group.intensity.restarts == 15
    assert not group.members[0].is_group
    with pytest.raises(
        SettingsError, match=r"Process.replicas wants a whole number >= 1, or Scale\(…\) .*, got .many."
    ):
        Process([Worker], replicas=cast("Any", "many"))
