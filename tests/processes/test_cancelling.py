"""Messages in the hands of a process are cancelled."""

import pytest

from actorwork import MessageFailed, Process, open_client, open_system
from actorwork.message import Status

from .conftest import PATIENCE, Said
from .workers import Worker


async def test_a_handler_in_another_process_is_cancelled_and_its_process_goes_on(url: str, said: Said):
    tree = Process([Worker], name="far")
    async with open_system(tree, broker=url), open_client(url) as client:
        receipt = await client.ref(Worker).submit({"what": "sleep", "n": 600})
        (pid,) = await said.wait("sleep begins")
        assert await receipt.cancel("too late")
        with pytest.raises(MessageFailed, match="too late") as caught:
            await receipt.result(timeout=PATIENCE)
        assert caught.value.type == "Cancelled"
        assert await receipt.status() is Status.CANCELLED
        assert said.pids("cancelled") == [pid]
        assert await client.ref(Worker).ask({}, timeout=PATIENCE) == pid
        assert len(said.pids("sleep begins")) == 1
        assert await client.broker.dead_letters.list() == []
