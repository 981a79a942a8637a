"""Changes of triggers by hand, on connections that break and with few rights."""

from actorwork.events import Event
from actorwork.records import TriggerChanges, TriggerDefinition
from actorwork.streams.broker import open_broker
from actorwork.testing.proxy import open_proxy
from actorwork.testing.redis_server import open_redis_server

NIGHTLY = TriggerDefinition(
    source="shop", id="0123456789abcdef", actor="shop", title="nightly", schedule='{"every": 60.0}', data=b"{}"
)
OFF = TriggerChanges(is_on=False, by="ann")


def ignore(_: Event) -> None: ...


async def test_a_change_whose_reply_is_lost_is_made_and_told(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_broker(proxy.url, emit=ignore) as broker:
        await broker.triggers.register("shop", [NIGHTLY])
        (record,) = await broker.triggers.list()
        await broker.client.call("SADD", "actorwork:triggers", "shop 0123456789abcdef")
        for number in range(4):
            proxy.cut_after(number)
            changes = TriggerChanges(is_on=bool(number % 2), by="ann")
            made = await broker.triggers.amend(NIGHTLY, changes, revision=record.revision, is_put=False)
            assert made is not None
            assert made.is_on is bool(number % 2)
            record = made
        assert await broker.triggers.amend(NIGHTLY, OFF, revision=1, is_put=False) is None


async def test_a_change_needs_no_right_to_announce_it():
    with open_redis_server(users=["ann on >secret ~* resetchannels +@all -publish"]) as server:
        async with open_broker(server.url.replace("unix://", "unix://ann:secret@"), emit=ignore) as broker:
            record = await broker.triggers.amend(NIGHTLY, OFF, revision=0, is_put=True)
            assert record is not None
            assert await broker.triggers.changes() == 1
            assert await broker.triggers.forget("shop", NIGHTLY.id)
            assert await broker.triggers.changes() == 2
