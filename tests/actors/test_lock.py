"""A lock among nodes: one owner at a time, renewed while it is held, lost in time, given up whatever happens."""

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from actorwork import Actor, BrokerError, Client, LockLost, LockTimeout, Settings, receive
from actorwork.clients import open_client
from actorwork.embedded.values import EmbeddedValues
from actorwork.testing import open_test_system
from actorwork.testing.memory import MemoryBroker

pytestmark = pytest.mark.usefixtures("mock_clock")


class Patchy(EmbeddedValues):
    """A broker that can be away: it does not answer, or it fails."""

    is_away = False
    fails = False

    async def take_lock(self, name: str, owner: str, ttl: float) -> int | None:
        await self._answer()
        return await super().take_lock(name, owner, ttl)

    async def keep_lock(self, name: str, owner: str, ttl: float) -> bool:
        await self._answer()
        return await super().keep_lock(name, owner, ttl)

    async def _answer(self) -> None:
        while self.is_away:  # noqa: ASYNC110 - it says nothing when it comes back, as brokers do
            await trio.sleep(0.5)
        if self.fails:
            raise BrokerError("not now")


class PatchyBroker(MemoryBroker):
    def __init__(self) -> None:
        super().__init__()
        self.patchy = Patchy(self._writer)

    @property
    def values(self) -> EmbeddedValues:
        return self.patchy


@asynccontextmanager
async def open_patchy() -> AsyncGenerator[tuple[Client, Patchy]]:
    broker = PatchyBroker()
    async with open_client(broker) as client:
        yield client, broker.patchy


async def test_it_has_one_owner_at_a_time_and_the_next_one_comes_soon():
    inside: list[int] = []
    tokens: list[int] = []

    class Worker(Actor):
        settings = Settings(title="worker", concurrency=5)

        @receive
        async def work(self, *, n: int) -> None:
            async with self.context.lock("ledger") as held:
                inside.append(n)
                tokens.append(held.token)
                assert len(inside) == 1
                await trio.sleep(30)
                inside.remove(n)

    async with open_test_system(Worker) as system:
        began = trio.current_time()
        for n in range(5):
            await system.client.ref(Worker).tell({"n": n})
        await system.drain()
        assert not system.dead_letters
        assert tokens == sorted(set(tokens))
        assert len(tokens) == 5
        assert trio.current_time() - began < 5 * 30 + 5 * 0.26


async def test_who_waits_too_long_is_told():
    async with open_client(MemoryBroker()) as client:
        async with client.lock("door"):
            began = trio.current_time()
            with pytest.raises(LockTimeout, match="'door' was not free within 3 s: another owner has it") as caught:
                async with client.lock("door").acquire(timeout=3):
                    pytest.fail("it was taken twice")
            assert trio.current_time() - began == pytest.approx(3)
            assert caught.value.name == "door"
            assert isinstance(caught.value, TimeoutError)
            with pytest.raises(LockTimeout):
                async with client.lock("door").acquire(timeout=0):
                    pytest.fail("it was taken twice")
        async with client.lock("door").acquire(timeout=0):
            pass


async def test_it_is_free_again_however_the_block_ends():
    async with open_client(MemoryBroker()) as client:
        with pytest.raises(KeyError, match="x"):
            async with client.lock("door"):
                raise KeyError("x")
        with trio.move_on_after(1) as scope:
            async with client.lock("door").acquire(timeout=0):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        async with client.lock("door").acquire(timeout=0) as held:
            assert not held.lost


async def test_who_is_cancelled_while_waiting_leaves_nothing_behind():
    async with open_patchy() as (client, values):
        values.is_away = True
        with trio.move_on_after(5) as scope:
            async with client.lock("door"):
                pytest.fail("nobody answered")
        assert scope.cancelled_caught
        values.is_away = False
        async with client.lock("door").acquire(timeout=0):
            pass


async def test_while_it_cannot_be_renewed_it_is_ours_until_its_ttl_is_over_and_then_the_block_ends():
    async with open_patchy() as (client, values):
        began = trio.current_time()
        with pytest.raises(LockLost, match=r"'door' was lost: .* ttl of 9 s") as caught:
            async with client.lock("door", ttl=9) as held:
                await trio.sleep(5)
                values.is_away = True
                try:
                    await trio.sleep_forever()
                finally:
                    assert held.lost
        assert caught.value.name == "door"
        # It was renewed after 3 s, for 9 s.
        assert trio.current_time() - began == pytest.approx(12, abs=0.1)


async def test_a_broker_that_comes_back_in_time_finds_it_held():
    async with open_patchy() as (client, values):
        async with client.lock("door", ttl=9) as held:
            await trio.sleep(4)
            values.fails = True
            await trio.sleep(7)
            values.fails = False
            await trio.sleep(60)
            assert not held.lost
        values.fails = True
        with pytest.raises(BrokerError, match="not now"):
            async with client.lock("door"):
                pytest.fail("it was not taken")


async def test_after_a_long_wait_for_the_broker_it_is_whole():
    async with open_patchy() as (client, values):
        values.is_away = True
        async with trio.open_nursery() as nursery:

            async def come_back() -> None:
                await trio.sleep(60)
                values.is_away = False

            nursery.start_soon(come_back)
            async with client.lock("door", ttl=9) as held:
                await trio.sleep(60)
                assert not held.lost


async def test_a_lock_that_somebody_else_has_by_now_is_lost():
    broker = MemoryBroker()
    async with open_client(broker) as client:
        with pytest.raises(LockLost):
            async with client.lock("door", ttl=6):
                broker._writer.change(lambda store: store.execute("delete from locks"))
                await broker.values.take_lock("door", "somebody else", math.inf)
                await trio.sleep_forever()
        with pytest.raises(LockTimeout):
            async with client.lock("door").acquire(timeout=0):
                pytest.fail("it was taken from somebody else")


async def test_what_the_block_raises_is_raised_also_when_the_lock_is_lost():
    async with open_patchy() as (client, values):
        with pytest.raises(KeyError, match="mine"):
            async with client.lock("door", ttl=3):
                values.is_away = True
                try:
                    await trio.sleep_forever()
                finally:
                    raise KeyError("mine")


async def test_a_lock_in_use_is_not_used_a_second_time():
    async with open_client(MemoryBroker()) as client:
        lock = client.lock("door")
        async with lock:
            with pytest.raises(RuntimeError, match="in use already"):
                async with lock:
                    pytest.fail("it is not reentrant")
        async with lock as held:
            assert not held.lost
        assert "held" not in repr(lock)


@pytest.mark.parametrize(
    ("name", "ttl"), [("", 10.0), ("half \ud800", 10.0), ("door", 0.01), ("door", math.inf), ("door", "5")]
)
async def test_what_cannot_be_is_refused(name: str, ttl: float):
    async with open_client(MemoryBroker()) as client:
        with pytest.raises(ValueError, match="wants"):
            client.lock(name, ttl=ttl)
