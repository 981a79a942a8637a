"""What a handler in a process of its own reports is seen by those who watch its message, and ends with that process."""

import os
import signal

import trio

from actorwork import MessageInfo, Process, Status, open_client, open_system
from actorwork.records import Progress
from tests.forms import AT_REDIS

from .conftest import PATIENCE, Said
from .workers import Worker


def counted(pid: int) -> Progress:
    return Progress(1000, 1000, str(pid), "COUNTING")


@AT_REDIS
async def test_progress_of_a_handler_in_a_process_is_seen_and_gone_with_that_process(url: str, said: Said):
    async with (
        open_system(Process([Worker], name="far"), broker=url, grace=1) as system,
        open_client(system.broker) as client,
    ):
        receipt = await client.ref(Worker).submit({"what": "report", "n": 600})
        seen: list[MessageInfo] = []
        is_killed = False
        async with receipt.watch() as updates:
            with trio.fail_after(2 * PATIENCE):
                async for info in updates:
                    seen.append(info)
                    pids = said.pids("report begins")
                    if pids and info.progress == counted(pids[-1]):
                        if len(pids) == 2:
                            break
                        if not is_killed:
                            os.kill(pids[0], signal.SIGKILL)
                            is_killed = True
        first, second = said.pids("report begins")
        assert first != second
        assert seen[-1].status is Status.STARTED
        assert all(info.progress in (None, counted(second)) for info in seen if info.deliveries == 2)
        assert await receipt.cancel()
        with trio.fail_after(PATIENCE):
            async with receipt.watch() as updates:
                last = [info async for info in updates][-1]
        assert (last.status, last.progress) == (Status.CANCELLED, counted(second))
