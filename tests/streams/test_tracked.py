"""The list of a source's newest tracked messages stays within its bound, whatever its users may do."""

from actorwork.events import Event
from actorwork.message import RESULT_TTL, Envelope, MessageIds
from actorwork.streams.broker import RedisBroker, open_broker
from actorwork.testing.redis_server import open_redis_server

TRACKED = "actorwork:{orders}:tracked"


def ignore(_: Event) -> None: ...


async def submit(broker: RedisBroker, count: int) -> list[str]:
    ids = MessageIds("0123456789abcdef")
    sent = [Envelope("orders", next(ids), b"1", headers={RESULT_TTL: 60.0}) for _ in range(count)]
    assert await broker.publish(sent) == count
    return [one.id for one in sent]


async def test_only_the_newest_are_listed(redis_url: str):
    async with open_broker(redis_url, emit=ignore) as broker:
        older = [part for number in range(10_050) for part in (number, f"older {number}")]
        await broker.client.call("ZADD", TRACKED, *older)
        ids = await submit(broker, 40)
        assert await broker.client.call("ZCARD", TRACKED) < 10_032
        assert await broker.client.call("TTL", TRACKED) > 86_400
        newest = await broker.states.newest("orders", limit=100)
        assert sorted(one.info.id for one in newest) == sorted(ids)


async def test_who_may_not_shorten_the_list_does_not_let_it_grow_without_end():
    with open_redis_server(users=["ann on >secret ~* &* +@all -zremrangebyrank"]) as server:
        url = server.url.replace("unix://", "unix://ann:secret@")
        async with open_broker(url, emit=ignore) as broker:
            await submit(broker, 64 + 7)
            # It begins anew with each message that would have shortened it.
            assert await broker.client.call("ZCARD", TRACKED) == 6
            keyed = [Envelope("orders", f"k{number}", b"1", headers={RESULT_TTL: 60.0}, key="k") for number in range(9)]
            assert await broker.publish(keyed) == 9
            assert await broker.client.call("ZCARD", TRACKED) <= 6 + 9
