"""States are loaded ahead: for all deliveries of a read in one round trip, and again where that does not do."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from actorwork import Entity, Settings, receive
from actorwork.actors.entities import ahead
from actorwork.actors.entities.ahead import StatesAhead
from actorwork.errors import BrokerError
from actorwork.events import StaleState
from actorwork.message import Delivery, Envelope
from actorwork.policy.entities import FoundState, StoredState
from actorwork.testing import open_test_system


class Loader:
    """A broker with a state for each key."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.asked: list[list[str]] = []
        self.fails = False

    async def load_states(self, wanted: Sequence[tuple[Delivery, str]]) -> Sequence[FoundState]:
        self.asked.append([delivery.key or "" for delivery, _ in wanted])
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise BrokerError("away")
        return [self._found(delivery.key or "", stamp) for delivery, stamp in wanted]

    def _found(self, key: str, stamp: str) -> FoundState:
        data = self.data.get(key)
        if data is None:
            return None
        return True if stamp == data.decode() else StoredState(version=1, data=data, at=0.0, stamp=data.decode())


def deliveries(*keys: str) -> list[Delivery]:
    return [Delivery(f"message {number}", "source", b"1", (), key=key) for number, key in enumerate(keys)]


@asynccontextmanager
async def open_ahead(loader: Loader, **stamps: str) -> AsyncGenerator[StatesAhead]:
    async with trio.open_nursery() as nursery:
        yield StatesAhead(loader, lambda key: stamps.get(key, ""), nursery.start_soon)


def data_of(found: StoredState | bool | None) -> object:
    return found.data if isinstance(found, StoredState) else found


async def test_the_states_of_one_read_are_loaded_in_one_call():
    loader = Loader()
    loader.data = {"a": b"1", "b": b"2", "c": b"3"}
    one, two, three, four = deliveries("a", "b", "c", "none")
    async with open_ahead(loader, b="2", c="old") as states:
        states.load([one, two, three, four])
        now = trio.current_time()
        found = [
            await states.take(two, "2", now),
            await states.take(one, "", now),
            await states.take(three, "old", now),
        ]
        assert [data_of(state) for state in found] == [True, b"1", b"3"]
        assert await states.take(four, "", now) is None
    assert loader.asked == [["a", "b", "c", "none"]]
    assert len(states) == 0


async def test_a_single_delivery_is_loaded_as_it_begins():
    loader = Loader()
    (one,) = deliveries("a")
    async with open_ahead(loader) as states:
        states.load([one])
        assert loader.asked == []
        assert await states.take(one, "", trio.current_time()) is None
    assert loader.asked == [["a"]]


async def test_an_instance_that_was_passivated_meanwhile_has_its_state_loaded():
    loader = Loader()
    loader.data = {"a": b"1", "b": b"2"}
    one, two = deliveries("a", "b")
    async with open_ahead(loader, a="1") as states:
        states.load([one, two])
        assert data_of(await states.take(one, "", trio.current_time())) == b"1"
    assert loader.asked == [["a", "b"], ["a"]]


async def test_another_delivery_of_the_key_does_not_get_what_was_loaded_for_the_first():
    loader = Loader()
    one, two = deliveries("a", "b")
    (again,) = deliveries("a")
    async with open_ahead(loader) as states:
        states.load([one, two])
        await trio.testing.wait_all_tasks_blocked()
        loader.data = {"a": b"9"}
        assert data_of(await states.take(again, "", trio.current_time())) == b"9"


async def test_what_could_not_be_loaded_ahead_is_loaded_as_it_begins():
    loader = Loader()
    loader.fails = True
    one, two = deliveries("a", "b")
    async with open_ahead(loader) as states:
        states.load([one, two])
        with pytest.raises(BrokerError, match="away"):
            await states.take(one, "", trio.current_time())
        loader.fails = False
        loader.data = {"b": b"2"}
        assert data_of(await states.take(two, "", trio.current_time())) == b"2"


async def test_a_state_that_has_waited_for_long_is_loaded_again(mock_clock: trio.testing.MockClock):
    loader = Loader()
    one, two, three, four = deliveries("a", "b", "c", "d")
    async with open_ahead(loader) as states:
        states.load([one, two])
        await trio.sleep(ahead.FRESH)
        loader.data = {"a": b"1", "b": b"2"}
        assert data_of(await states.take(one, "", trio.current_time())) == b"1"
        loader.data["b"] = b"3"
        await trio.sleep(ahead.FRESH)
        states.load([three, four])
        assert len(states) == 2, "those of the first read are held no longer"
        assert data_of(await states.take(two, "", trio.current_time())) == b"3"


async def test_states_that_have_waited_for_long_are_loaded_together(mock_clock: trio.testing.MockClock):
    """A node that is slow must not ask for each state alone, or it gets slower."""
    loader = Loader()
    some = deliveries(*(f"k{number}" for number in range(3 * ahead.TOGETHER)))
    async with open_ahead(loader) as states:
        states.load(some)
        await trio.sleep(ahead.FRESH)
        for delivery in some:
            loader.data[delivery.key or ""] = b"1"
        for delivery in some:
            assert data_of(await states.take(delivery, "", trio.current_time())) == b"1"
    assert [len(asked) for asked in loader.asked] == [len(some), ahead.TOGETHER, ahead.TOGETHER, ahead.TOGETHER]
    assert len(states) == 0


async def test_states_are_forgotten_whose_deliveries_seem_never_to_begin(mock_clock: trio.testing.MockClock):
    loader = Loader()
    gone, begins = deliveries("a", "b")
    async with open_ahead(loader) as states:
        states.load([gone, begins])
        await trio.sleep(ahead.FRESH + ahead.GONE)
        await states.take(begins, "", trio.current_time())
    assert loader.asked == [["a", "b"], ["b"]]


async def test_states_that_memory_has_no_room_for_are_loaded_together_later(monkeypatch: pytest.MonkeyPatch):
    loader = Loader()
    keys = [f"k{number}" for number in range(30)]
    loader.data = dict.fromkeys(keys, b"1")
    monkeypatch.setattr(ahead, "MOST_BYTES", 1_000_000)
    monkeypatch.setattr(ahead, "FIRST_GUESS", 100_000.0)
    async with open_ahead(loader) as states:
        some = deliveries(*keys)
        states.load(some)
        for delivery in some:
            assert data_of(await states.take(delivery, "", trio.current_time())) == b"1"
    assert [len(asked) for asked in loader.asked] == [10, 19, 1]


async def test_no_more_is_loaded_ahead_than_a_bounded_memory_holds(monkeypatch: pytest.MonkeyPatch):
    loader = Loader()
    keys = [f"k{number}" for number in range(200)]
    loader.data = dict.fromkeys(keys, b"x" * 49_000)
    monkeypatch.setattr(ahead, "MOST_BYTES", 1_000_000)
    monkeypatch.setattr(ahead, "FIRST_GUESS", 100_000.0)
    async with open_ahead(loader) as states:
        held = 0
        for _ in range(20):
            some = deliveries(*keys)
            states.load(some)
            held = len(states)
            for delivery in some:
                await states.take(delivery, "", trio.current_time())
        assert 18 < held <= 20, "of 50 kB each with what is theirs, a megabyte holds twenty"
    first = [len(asked) for asked in loader.asked if len(asked) > 1]
    assert first[0] == 10, "by the first guess"


@attrs.define
class Numbers:
    all: list[int] = attrs.field(factory=list[int])


async def test_a_put_by_force_while_the_message_waits_has_its_handler_run_on_the_new_state(
    mock_clock: trio.testing.MockClock,
):
    gate = trio.Event()
    seen: list[list[int]] = []

    class Lister(Entity[Numbers]):
        settings = Settings(title="lister", concurrency=1)

        @receive
        async def add(self, *, number: int) -> list[int]:
            if number == 0:
                await gate.wait()
            seen.append(list(self.state.all))
            self.state.all.append(number)
            return self.state.all

    source = Lister.settings.default_source
    sent = [Envelope(source, f"{n}", b'{"number": %d}' % n, key=f"k{n}", headers={}) for n in range(3)]
    async with open_test_system(Lister) as system:
        await system.broker.publish(sent)
        await trio.testing.wait_all_tasks_blocked()
        await system.client.ref(Lister, key="k1").put(Numbers([7]), force=True)
        gate.set()
        await system.drain()
        states = [await system.client.ref(Lister, key=f"k{n}").state() for n in range(3)]
        assert [state.value for state in states if state is not None] == [Numbers([0]), Numbers([7, 1]), Numbers([2])]
        assert len(system.of(StaleState)) == 1
    assert sorted(seen) == [[], [], [], [7]]


async def test_a_state_whose_stamp_came_with_its_delivery_is_not_loaded_again():
    loader = Loader()
    loader.data = {"a": b"1", "b": b"2"}
    mine, changed, new, unknown = deliveries("a", "b", "none", "a")
    async with open_ahead(loader, a="1", b="1") as states:
        now = trio.current_time()
        states.hold([mine, changed, new], ["1", "2", ""])
        states.load([mine, new])
        assert await states.take(mine, "1", now) is True
        assert await states.take(new, "", now) is None
        assert loader.asked == []
        assert data_of(await states.take(changed, "1", now)) == b"2"
        states.hold([unknown], ["?"])
        assert await states.take(unknown, "1", now) is True
    assert loader.asked == [["b"], ["a"]]
    assert len(states) == 0


async def test_a_stamp_that_has_waited_for_long_is_asked_for_again():
    loader = Loader()
    loader.data = {"a": b"2"}
    (late,) = deliveries("a")
    async with open_ahead(loader, a="1") as states:
        states.hold([late], ["1"])
        assert data_of(await states.take(late, "1", trio.current_time() + ahead.FRESH)) == b"2"
