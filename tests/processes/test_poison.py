"""Messages that kill their process, with the default settings of all that is between them and the program."""

import pytest

from actorwork import MessageFailed, Process, open_client, open_system
from actorwork.events import Event, GaveUp

from .conftest import PATIENCE, Said
from .workers import Default

POISON = ["exit", "break", "kill"] * 3 + ["block"]


@pytest.mark.parametrize("replicas", [1, 3])
async def test_messages_that_kill_their_process_are_dead_letters_before_any_supervisor_gives_up(
    url: str, said: Said, replicas: int
):
    """Each of them kills three processes, far more within seconds than a supervisor tolerates of bugs of its own."""
    seen: list[Event] = []
    # As quick a start as there is, and a short limit for hanging: as many deaths as possible within the period.
    tree = Process([Default], replicas=replicas, start_method="forkserver", hang_timeout=0.5)
    async with open_client(url) as client:
        sender = client.ref(Default)
        poison = [await sender.submit({"what": what, "n": 60 if what == "block" else 0}) for what in POISON]
        fine = [await sender.submit({"what": "fine"}) for _ in range(10)]
        async with open_system(tree, broker=url, lease=60, emit=seen.append):
            for receipt in fine:
                assert await receipt.result(timeout=3 * PATIENCE)
            for receipt in poison:
                with pytest.raises(MessageFailed, match="3 processes died while they handled this message"):
                    await receipt.result(timeout=3 * PATIENCE)
            assert {letter.id for letter in await client.broker.dead_letters.list()} == {
                receipt.id for receipt in poison
            }
            assert await sender.ask({"what": "fine"}, timeout=PATIENCE)
    assert not [event for event in seen if isinstance(event, GaveUp)]
    assert all(len(said.pids(f"{what} begins")) <= 3 * POISON.count(what) for what in set(POISON))
