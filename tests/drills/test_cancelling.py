"""What was cancelled stays cancelled, whatever dies and is started again meanwhile."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from actorwork.message import Status
from actorwork.testing.redis_server import open_redis_server

from .conftest import Drill, Redis, open_place, until_true


@pytest.mark.parametrize("kind", ["SQLite", "Redis"])
async def test_what_was_cancelled_while_no_node_runs_is_not_run_after_restarts_of_node_and_broker(
    drill: Drill, servers: ExitStack, tmp_path: Path, kind: str
):
    redis = None
    url = f"sqlite:///{tmp_path}/messages.db"
    if kind == "Redis":
        redis = Redis(servers.enter_context(open_redis_server(append_only=True)))
        url = redis.url
    async with open_place(url) as place:
        # One that a node has in flight as it dies, one that waits in that node, and one that no node has read.
        (in_hand,) = await place.send("singles", [{"number": 0, "gate": str(tmp_path / "never")}])
        first = await drill.start_up("single", url, lease=60)
        await drill.wait_notes("begun", 1)
        (waiting,) = await place.send("singles", [{"number": 1}])

        async def is_there() -> bool:
            info = await place.broker.states.find("singles", waiting)
            return info is not None and info.status is Status.RECEIVED

        await until_true(is_there, "the second message to be at the node")
        await place.kill(first)
        (unread,) = await place.send("singles", [{"number": 2}])
        for message_id in (in_hand, waiting, unread):
            assert await place.broker.cancel_message("singles", message_id, reason="too late")
    if redis is not None:
        redis.server.kill()
        redis.server.start()
    async with open_place(url) as place:
        second = await drill.start_up("single", url, lease=60)
        await place.send("singles", [{"number": 3}])
        await drill.wait_notes("ended", 1)
        await place.wait_empty("singles")
        for message_id in (in_hand, waiting, unread):
            info = await place.broker.states.find("singles", message_id)
            assert info is not None
            assert (info.status, info.reason) == (Status.CANCELLED, "too late")
            assert not await place.broker.cancel_message("singles", message_id)
        await second.stop()
        assert [note.facts["number"] for note in drill.ledger.notes("begun")] == [0, 3]
        assert [note.facts["number"] for note in drill.ledger.notes("ended")] == [3]
        assert await place.broker.dead_letters.list() == []
