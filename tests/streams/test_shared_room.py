"""How the readers of several slots share the room of one sink."""

from typing import Any

import trio
import trio.testing

from actorwork.streams.source_set import SharedRoom


class Sink:
    room = 0

    def credit(self) -> int:
        return self.room


class Sources:
    """What waits for room is woken by all that may have made some, and may find none."""

    def __init__(self, sink: Sink) -> None:
        self.credit = sink.credit
        self.lot = trio.lowlevel.ParkingLot()

    async def wait_room(self) -> None:
        await self.lot.park()


class Readers:
    """Readers that take all the room in turn, each over and over."""

    def __init__(self, count: int) -> None:
        self.sink = Sink()
        self.room = SharedRoom()
        self.room.readers = count
        self.sources = [Sources(self.sink) for _ in range(count)]
        self.took: list[int] = []

    async def run(self, number: int) -> None:
        sources: Any = self.sources[number]
        while True:
            turn = await self.room.wait_turn(sources)
            self.took.append(number)
            await trio.lowlevel.checkpoint()  # The read, whose reply fills the sink.
            self.sink.room = 0
            turn.set()

    async def make_room(self) -> None:
        self.sink.room = 100
        await self.wake()

    async def wake(self) -> None:
        for sources in self.sources:
            sources.lot.unpark_all()
        await trio.testing.wait_all_tasks_blocked()


async def test_readers_take_all_the_room_one_after_the_other(mock_clock: trio.testing.MockClock):
    mock_clock.autojump_threshold = 0
    readers = Readers(3)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(readers.run, number)
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(4):
            await readers.make_room()
            await readers.wake()  # In vain: the room is taken.
        nursery.cancel_scope.cancel()
    assert readers.took == [0, 1, 2, 0]
    assert trio.current_time() == began, "nobody was waited for that had read already"


async def test_a_read_without_an_answer_holds_up_the_others_once(mock_clock: trio.testing.MockClock):
    mock_clock.autojump_threshold = 0
    readers = Readers(3)
    readers.sink.room = 100
    sources: Any = readers.sources[0]
    await readers.room.wait_turn(sources)  # And its server is silent.
    began = trio.current_time()
    others: list[float] = []
    for number in (1, 2):
        sources = readers.sources[number]
        (await readers.room.wait_turn(sources)).set()
        others.append(trio.current_time() - began)
    assert 0 < others[0] < 1
    assert others[1] == others[0]


async def test_a_reader_that_is_interrupted_leaves_its_turn_to_the_next(mock_clock: trio.testing.MockClock):
    mock_clock.autojump_threshold = 0
    readers = Readers(2)
    interrupted = trio.CancelScope()

    async def run_interrupted() -> None:
        with interrupted:
            await readers.run(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_interrupted)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(readers.run, 1)
        await trio.testing.wait_all_tasks_blocked()
        interrupted.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await readers.make_room()
        nursery.cancel_scope.cancel()
    assert readers.took == [1]


def test_shares_add_up_to_the_room_and_nobody_goes_without():
    room = SharedRoom()
    assert room.share(1000) == 1000
    room.readers = 3
    assert room.share(1000) == 333
    assert room.share(2) == 1
    assert room.share(0) == 0
