"""Hosts whose clocks are an hour wrong: what is late, due or dead is told by the server's clock.

`faketime` gives a process another time of day; its monotonic clock stays right, as on a host whose clock is wrong.
"""

import shutil
import subprocess
from collections.abc import Sequence

import pytest

from tests.drills.test_triggers import LEASE, settle_accounts, wait_fired

from .conftest import MANY, Drill, open_place

pytestmark = pytest.mark.long


def wrong_by(hours: int) -> Sequence[str]:
    """Return the command that runs the one after it with a clock that is that far ahead (negative: behind)."""
    if shutil.which("faketime") is None:
        pytest.skip("there is no `faketime`: install the package of that name")
    # `faketime` itself stays between the program and its signals; the library that it preloads does not.
    asked = subprocess.run(
        ["faketime", "-f", "+0s", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
    )
    return ("env", f"LD_PRELOAD={asked.stdout.strip()}", f"FAKETIME={hours:+d}h", "FAKETIME_DONT_FAKE_MONOTONIC=1")


async def test_nodes_whose_clocks_are_wrong_take_over_from_the_dead_and_from_nobody_else(redis_url: str, drill: Drill):
    async with open_place(redis_url) as place:
        gate = drill.folder / "gate"
        dying = await drill.start_up("worker", redis_url, lease=10, max_crashes=MANY)
        await place.send_numbers("work", range(4), gate=str(gate))
        await drill.wait_notes("begun", 4, pid=dying.pid)
        others = [
            await drill.start_up("worker", redis_url, through=wrong_by(hours), lease=10, max_crashes=MANY)
            for hours in (1, -1)
        ]
        number = 4
        while not all(drill.ledger.count("ended", pid=node.pid) > 10 for node in others):
            await place.send_numbers("work", [number])
            number += 1
        begun = [note.id for note in drill.ledger.notes("begun")]
        assert len(begun) == len(set(begun))
        await dying.kill()
        gate.touch()
        await place.wait_empty("work")
        for node in others:
            await node.stop()
        await place.check_account(range(number))


async def test_triggers_fire_once_though_the_clocks_of_nodes_differ_by_two_hours(redis_url: str, drill: Drill):
    async with open_place(redis_url) as place:
        nodes = [await drill.start_up("clock", redis_url, lease=LEASE)]
        nodes += [await drill.start_up("clock", redis_url, through=wrong_by(hours), lease=LEASE) for hours in (1, -1)]
        await wait_fired(place.broker, 10)
        await nodes.pop(0).stop()
        before = (await place.broker.triggers.list())[0].fired
        await wait_fired(place.broker, before + 10)
        await settle_accounts(drill, place.broker, nodes)
