"""Events of processes reach the sink of the program: typed, bounded, and never at the cost of the process."""

import socket
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from actorwork import Process, events, open_client, open_system
from actorwork.errors import RemoteError
from actorwork.message import Delivery, Failure, Priority
from actorwork.policy.exits import Exit, Kind
from actorwork.policy.settlement import Ack, Fail
from actorwork.records import Pause
from actorwork.runtime.processes.control import Frames
from actorwork.runtime.processes.event_frames import EventForwarding, event_from
from actorwork.runtime.processes.parent_channel import ParentChannel
from tests.forms import AT_A_FILE

from .conftest import PATIENCE, until
from .workers import Second, Worker

HERE = events.Origin("far", 17, "0f3a")


E = TypeVar("E")


def of(kind: type[E], seen: list[events.Event]) -> list[E]:
    return [event for event in seen if isinstance(event, kind)]


@AT_A_FILE
async def test_the_sink_gets_the_events_of_a_process_and_of_one_below_it(url: str):
    seen: list[events.Event] = []
    tree = Process([Worker, Process([Second], name="inner")], name="outer")
    async with open_system(tree, broker=url, emit=seen.append) as system, open_client(system.broker) as client:
        for actor in (Worker, Second):
            await client.ref(actor).ask({"what": "x"}, timeout=PATIENCE)
        await until(lambda: len(of(events.Settled, seen)) == 2, "both settlements")
    first, second = sorted(of(events.Settled, seen), key=lambda event: event.title, reverse=True)
    assert (first.title, second.title) == ("worker", "second")
    assert isinstance(first.settlement, Ack)
    assert first.delivery.payload == b'{"what":"x"}'
    assert first.origin is not None
    assert second.origin is not None
    assert (first.origin.process, second.origin.process) == ("outer", "inner")
    (up,) = [event for event in of(events.NodeStarted, seen) if event.origin is None]
    started = [event for event in of(events.ProcessStarted, seen) if event.origin is None]
    assert up.actors == ()
    assert [event.pid for event in started] == [first.origin.pid]
    # To the very end: also what it emits while it ends.
    assert {event.origin.process for event in of(events.NodeStopped, seen) if event.origin} == {"outer", "inner"}


def there_and_back(event: events.Event) -> events.Event:
    sent: list[bytes] = []
    EventForwarding(lambda frame: not sent.append(frame))(event)
    (frame,) = Frames().feed(sent[0])
    found = event_from(frame, HERE)
    assert found is not None
    return found


DELIVERY = Delivery(
    "1-0", "in", b'{"n": "\xc3\xa9\xff"}', None, headers={"a": [1, {"b": None}]}, priority=Priority.HIGH
)


@pytest.mark.parametrize(
    "event",
    [
        events.Settled("a1", "worker", DELIVERY, Fail(Failure("OSError", "no disk", "…")), 0.5),
        events.Settled("a1", "worker", Delivery("1-0", "in", {b"k": b"\xff"}, None), Ack(b"1"), 0.5),
        events.NodeStarted("0f3a", "redis://x", ("a", "b")),
        events.PausesChanged((Pause("actor", "a"),), ()),
        events.ChildExited("root", "a", 2, Exit(Kind.NORMAL, incarnation=2)),
        events.TriggerFired("a1", "worker", "7a", "nightly", (1, 2), 1),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_arrives_as_it_was(event: events.Event):
    found = there_and_back(event)
    assert type(found) is type(event)
    assert found.origin == HERE
    for name in event.__match_args__:
        assert getattr(found, name) == getattr(event, name)


def test_an_error_arrives_as_text_and_an_object_as_its_repr():
    exited = there_and_back(events.ChildExited("root", "a", 2, Exit(Kind.CRASHED, OSError("no disk"))))
    assert isinstance(exited, events.ChildExited)
    assert isinstance(exited.exit.error, RemoteError)
    assert str(exited.exit.error) == "OSError: no disk"
    undelivered = there_and_back(events.Undelivered("a1", "worker", {1, 2}))
    assert isinstance(undelivered, events.Undelivered)
    assert undelivered.message == "{1, 2}"


@pytest.mark.parametrize("event", [None, 3, {"$": "os", "of": {}}, {"$": "Failure", "of": {"no": 1}}, {}])
def test_what_is_no_event_is_none(event: Any):
    assert event_from({"type": "event", "event": event}, HERE) is None


@pytest.fixture
def channel() -> Any:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    theirs.sendall(struct.pack(">Q", 0))
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    yield ParentChannel(ours), theirs
    ours.close()
    theirs.close()


def received(end: socket.socket, more: Callable[[], object]) -> list[Any]:
    frames, found = Frames(), list[Any]()
    end.settimeout(0)
    while True:
        try:
            found += frames.feed(end.recv(65536))
        except BlockingIOError:
            more()
            try:
                found += frames.feed(end.recv(65536))
            except BlockingIOError:
                return found


def test_a_parent_that_does_not_read_costs_events_which_are_counted_and_no_other_frame(channel: Any):
    here, there = channel
    forward = EventForwarding(here.send_spare)
    for number in range(4000):
        forward(events.GaveUp("root", "a", f"{number} " + "x" * 1000))
    here.send("drained", forced=False)
    got = received(there, here.finish)
    kinds = [frame["type"] for frame in got]
    dropped = forward.take_dropped()
    assert 0 < dropped < 4000
    assert kinds.count("event") == 4000 - dropped
    assert forward.take_dropped() == 0
    # It does not wait behind a mebibyte of events.
    assert kinds.index("drained") < len(kinds) / 2
    events_got = [event_from(frame, HERE) for frame in got if frame["type"] == "event"]
    assert all(isinstance(event, events.GaveUp) for event in events_got)


@AT_A_FILE
async def test_an_event_that_is_too_large_is_dropped_and_counted(url: str):
    seen: list[events.Event] = []
    tree = Process([Worker], name="far")
    async with open_system(tree, broker=url, emit=seen.append) as system, open_client(system.broker) as client:
        await client.ref(Worker).ask({"what": "x" * 300_000}, timeout=PATIENCE)
        await until(lambda: of(events.EventsDropped, seen), "the count")
    (dropped,) = of(events.EventsDropped, seen)
    assert (dropped.process, dropped.count) == ("far", 1)
    assert not of(events.Settled, seen)
