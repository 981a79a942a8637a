"""A value that all nodes see: its type, its default, what is lost and what is not."""

from functools import partial

import attrs
import pytest
import trio

from actorwork import Actor, CodecError, LockLost, Settings, receive
from actorwork.clients import Client, open_client
from actorwork.testing import open_test_system
from actorwork.testing.memory import MemoryBroker


@attrs.frozen
class Limits:
    rate: float
    hosts: list[str]


class Counter(Actor):
    settings = Settings(title="counter", concurrency=4)

    @receive
    async def count(self, *, by: int) -> int:
        return await self.context.shared("count", int, default=10).increment(by)


async def test_what_an_actor_writes_a_client_reads():
    async with open_test_system(Counter) as system:
        assert await system.client.ref(Counter).ask({"by": 5}, timeout=3) == 15
        assert await system.ref(Counter).ask({"by": 1}, timeout=3) == 16
        assert await system.client.shared("count", int).get() == 16


async def test_a_value_has_a_type_and_a_default():
    async with open_client(MemoryBroker()) as client:
        limits = client.shared("limits", Limits, default=Limits(1.5, ["a"]))
        assert await limits.get() == Limits(1.5, ["a"])
        await limits.set(Limits(2.0, []))
        assert await client.shared("limits", Limits).get() == Limits(2.0, [])
        assert await client.shared("nothing", Limits).get() is None
        with pytest.raises(CodecError, match="the shared value 'limits': not an int"):
            await client.shared("limits", int).get()
        assert await limits.delete()
        assert not await limits.delete()
        assert await limits.get() == Limits(1.5, ["a"])


async def test_nobody_leaves_behind_what_the_others_cannot_read():
    async with open_client(MemoryBroker()) as client:
        with pytest.raises(CodecError, match="'rate'"):
            await client.shared("rate", float).set("fast")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        with pytest.raises(CodecError, match="'rate'"):
            client.shared("rate", int, default="slow")
        with pytest.raises(TypeError, match="whole number"):
            await client.shared("rate", int, default=0).increment(0.5)
        assert await client.shared("rate", float).get() is None


async def test_a_change_of_a_mutable_default_is_not_everybodys():
    async with open_client(MemoryBroker()) as client:
        hosts = client.shared("hosts", list[str], default=["a"])
        (await hosts.get()).append("b")
        assert await hosts.get() == ["a"]


async def test_no_update_is_lost_whoever_comes_between():
    async with open_client(MemoryBroker()) as client:
        shared = client.shared("hosts", list[int], default=[])

        async def add(number: int) -> None:
            assert number in await shared.update(lambda hosts: [*hosts, number])

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(add, number)
        assert sorted(await shared.get()) == list(range(20))


async def test_an_update_whose_function_raises_changes_nothing():
    async with open_client(MemoryBroker()) as client:
        shared = client.shared("rate", int, default=1)
        with pytest.raises(ZeroDivisionError):
            await shared.update(lambda rate: rate // 0)
        assert await shared.get() == 1


async def test_what_is_no_number_is_not_incremented():
    async with open_client(MemoryBroker()) as client:
        await client.shared("word", str).set("many")
        with pytest.raises(CodecError, match="'word' cannot be incremented by 1"):
            await client.shared("word", int).increment()
        assert await client.shared("count", int).increment(2) == 2
        assert await client.shared("count", float, default=0.0).increment(0.5) == 2.5


async def test_a_value_is_forgotten_after_its_ttl(mock_clock: object):
    async with open_client(MemoryBroker()) as client:
        shared = client.shared("code", str, ttl=60)
        await shared.set("x")
        await trio.sleep(59)
        assert await shared.get() == "x"
        await shared.set("y")
        await trio.sleep(59)
        assert await shared.get() == "y"
        await trio.sleep(2)
        assert await shared.get() is None


async def test_a_former_owner_of_a_lock_changes_nothing(mock_clock: object):
    broker = MemoryBroker()
    async with open_client(broker) as client:
        state = client.shared("state", int, default=0)
        async with client.lock("state").acquire() as former:
            pass
        async with client.lock("state").acquire() as held:
            assert held.token > former.token
            await state.set(1, fence=held)
            for write in (
                partial(state.set, 7, fence=former),
                partial(state.update, lambda _: 7, fence=former),
                partial(state.increment, fence=former),
                partial(state.delete, fence=former),
            ):
                with pytest.raises(LockLost, match="'state'"):
                    await write()
            assert await state.increment(2, fence=held) == 3


@pytest.mark.parametrize("wrong", [{"name": ""}, {"name": "x", "ttl": 0.0}, {"name": "x", "ttl": float("inf")}])
async def test_what_cannot_be_is_refused(wrong: dict[str, object]):
    async with open_client(MemoryBroker()) as client:
        ask: Client = client
        with pytest.raises(ValueError, match="wants"):
            ask.shared(type=int, **wrong)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
