"""A settlement brings the next message of its key along, if the node has room, and changes nothing about any order."""

import json
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import pytest

from actorwork.events import BrokerTrouble
from actorwork.message import Delivery, Envelope, Priority
from actorwork.policy.entities import StateChange
from actorwork.policy.settlement import Ack, Retry
from actorwork.streams.run_ahead import RunAhead
from actorwork.streams.settle_calls import found_ahead
from actorwork.streams.source_set import SharedRoom, SourceSet
from actorwork.testing.redis_server import RedisServer
from tests.protocol.models import SOURCE, Ending, Loop, Pending, Ready, RedisWorld
from tests.protocol.test_protocol import FAILURE, loop

__all__ = ["loop"]  # A fixture.


class Stage(RedisWorld):
    """A world with one node more than the caller names, and messages `a1`, `a2`, `b1`: the first letter is the key."""

    def __init__(self, server: RedisServer, loop: Loop) -> None:
        super().__init__(server, loop)
        self.node = self.start()
        self.commits = 0

    @property
    def sources(self) -> SourceSet:
        (sources,) = self.node.node._intake.source_sets
        return sources

    def send(self, *names: str, priority: Priority = Priority.NORMAL) -> None:
        self.publish([Envelope(SOURCE, name, b"{}", key=name[0], priority=priority) for name in names])

    def read(self, room: int = 10) -> list[Delivery]:
        return self.fetch(self.node, room, tends=False, reads=True, loses=False)

    def ack(self, *deliveries: Delivery, room: int = 10, version: int = 0, loses: bool = False) -> list[str]:
        """Settle each with a change of its state; return the messages that came along."""
        endings = [(delivery, Ack(state=self.change(version)), ()) for delivery in deliveries]
        return [one.id for one in self.settle_all(endings, room=room, loses=loses)]

    def change(self, version: int) -> StateChange:
        self.commits += 1
        return StateChange(version=version, data=json.dumps(self.commits).encode(), stamp=f"stamp {self.commits}")

    def settle_all(self, endings: Sequence[Ending], *, room: int = 10, loses: bool = False) -> list[Delivery]:
        hows, came = self.settle_states(self.node, endings, room=room, loses=loses)
        assert hows == ["done"] * len(endings)
        return came

    def place(self, name: str) -> Any:
        return self.look().places[name]


@pytest.fixture
def stage(redis_server: RedisServer, loop: Loop) -> Generator[Stage]:
    stage = Stage(redis_server, loop)
    try:
        yield stage
    finally:
        stage.close()


def test_a_settlement_brings_the_next_message_of_its_key(stage: Stage) -> None:
    stage.send("a1", "a2", "a3")
    (first,) = stage.read()
    (second,) = stage.settle_all([(first, Ack(state=stage.change(0)), ())])
    assert second.id == "a2"
    assert stage.place("a2") == Pending(stage.node.owner, 1)
    assert stage.node.stamps[id(second)] == "stamp 1", "its handler knows the state that it begins on"
    assert stage.ack(second, version=1) == ["a3"]


def test_so_does_one_that_changes_nothing_and_one_that_is_no_ack(stage: Stage) -> None:
    stage.send("a1", "a2", "a3")
    (first,) = stage.read()
    (second,) = stage.settle_all([(first, Ack(), ())])
    assert stage.node.stamps[id(second)] == "", "there is no state yet"
    assert stage.settle_all([(second, Retry(0.0, FAILURE), ())]) == [], "its key is still taken"
    (again,) = stage.read()
    assert again.id == "a2"


def test_nothing_comes_along_where_there_is_no_room(stage: Stage) -> None:
    stage.send("a1", "a2")
    (first,) = stage.read()
    assert stage.ack(first, room=0) == []
    assert stage.place("a2") == Ready()


def test_no_more_comes_than_has_ended(stage: Stage) -> None:
    stage.send("a1", "b1", "a2", "b2")
    one, two = stage.read()
    assert stage.ack(one, two, room=1) == ["a2"]
    assert [delivery.id for delivery in stage.read()] == ["b2"]


def test_a_message_that_waits_longer_comes_before_the_next_one_of_the_key(stage: Stage) -> None:
    stage.send("a1", "a2", "b1")
    (first,) = stage.read(room=1)
    assert stage.ack(first) == ["b1"]
    assert stage.place("a2") == Ready(), "any node may read it"


def test_a_settlement_of_a_key_without_others_brings_nothing(stage: Stage) -> None:
    stage.send("a1")
    (first,) = stage.read()
    stage.send("b1")
    assert stage.ack(first) == []
    assert stage.place("b1") == Ready()


def test_many_that_are_settled_together_bring_nothing(stage: Stage) -> None:
    keys = "abcdefghijklmnopq"
    stage.send(*(f"{key}{number}" for number in (1, 2) for key in keys))
    assert stage.ack(*stage.read(room=17), room=17) == [], "a read brings them for less"
    assert stage.ack(*stage.read(room=16), room=17, version=1) == [], "no other message of these keys waits"
    assert stage.place("q2") == Ready()


def test_what_a_lost_reply_has_brought_is_found(stage: Stage) -> None:
    stage.send("a1", "a2", "a3")
    (first,) = stage.read()
    assert stage.ack(first, loses=True) == []
    assert stage.place("a2") == Pending(stage.node.owner, 1)
    assert stage.sources.must_recover, "the reader looks for it before it reads on"
    (second,) = stage.recover(stage.node)
    assert second.id == "a2"
    assert stage.ack(second, version=1) == ["a3"]


@pytest.mark.parametrize("rest", [(), (0,), (1,), (1, None), (1, 7), (2, ["one"])])
def test_what_has_not_arrived_as_it_was_sent_is_lost(rest: tuple[Any, ...]) -> None:
    _, is_lost = found_ahead([b"1", [], [], [], *rest])
    assert is_lost == (rest not in ((), (0,)))


def test_entries_that_are_none_are_looked_for_again(stage: Stage) -> None:
    stage.send("a1", "a2")
    (first,) = stage.read()
    ahead = RunAhead(stage.sources, SharedRoom())
    stage.sources.isolation.begin_reading()
    stage.loop.do(_call, partial(ahead.end, first.token[2], 0, [b"no entry"], is_lost=False))
    assert stage.sources.must_recover
    (trouble,) = [event for event in stage.node.events if isinstance(event, BrokerTrouble)]
    assert "beginning with what is pending" in trouble.next


def test_the_state_of_a_message_that_comes_along_is_the_one_that_a_user_has_put(stage: Stage) -> None:
    stage.send("a1", "a2")
    (first,) = stage.read()
    stage.put("a", b"7", force=True)
    (second,) = stage.settle_all([(first, Ack(), ())])
    assert stage.node.stamps[id(second)] not in ("", "?")
    assert stage.ack(second, version=1) == []


def test_with_priorities_the_reader_decides_what_comes_next(stage: Stage) -> None:
    stage.send("a1", "a2")
    (first,) = stage.read()
    stage.send("u1", priority=Priority.HIGH)
    stage.loop.do(_call, partial(stage.sources.learn, {SOURCE: [b"high"]}))
    assert stage.ack(first) == []
    assert [delivery.id for delivery in stage.read(room=1)] == ["u1"]


@pytest.mark.parametrize("why", ["paused", "ending", "something was lost", "something to take over"])
def test_nothing_comes_along_while_the_reader_may_not_read(stage: Stage, why: str) -> None:
    stage.send("a1", "a2")
    (first,) = stage.read()
    match why:
        case "paused":
            stage.loop.do(_call, partial(stage.sources.pause_sources, [SOURCE]))
        case "ending":
            stage.loop.do(stage.node.node.stop_intake)
        case "something was lost":
            stage.sources.must_recover = True
        case _:
            stage.sources.has_more = True
    assert stage.ack(first) == []
    assert stage.place("a2") == Ready()


def test_an_actor_that_is_no_entity_gets_nothing_along(stage: Stage) -> None:
    stage.node.node._settler.ahead.clear()
    stage.send("a1", "a2")
    (first,) = stage.read()
    assert stage.ack(first) == []


async def _call(function: Any) -> None:
    function()
