"""Messages that kill their process, with the default settings of all that is between them and the program."""

from typing import Any

import pytest
import trio

from actorwork import MessageFailed, Process, ProcessLost, open_client, open_system
from actorwork.events import ChildExited, Event, GaveUp
from actorwork.workflows import Flow, step
from tests.forms import AT_REDIS

from .conftest import PATIENCE, Said
from .workers import Default, Watched

POISON = ["exit", "break", "kill"] * 3 + ["block"]


@AT_REDIS
@pytest.mark.parametrize("replicas", [1, pytest.param(3, marks=pytest.mark.long)])
async def test_messages_that_kill_their_process_are_dead_letters_before_any_supervisor_gives_up(
    url: str, said: Said, replicas: int
):
    """Each of them kills three processes, far more within seconds than a supervisor tolerates of bugs of its own."""
    seen: list[Event] = []
    # As quick a start as there is, and a short limit for hanging: as many deaths as possible within the period.
    tree = Process([Default], replicas=replicas, start_method="forkserver", hang_timeout=2)
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


@pytest.mark.parametrize("what", ["kill", pytest.param("block", marks=pytest.mark.long)])
async def test_of_a_handler_that_is_the_end_of_its_process_the_actor_is_told_in_another_process(
    redis_url: str, what: str
):
    seen: list[Event] = []
    tree = Process([Watched], start_method="forkserver", hang_timeout=2)
    async with (
        open_client(redis_url) as client,
        open_system(tree, broker=redis_url, lease=60, emit=seen.append),
    ):
        flow = Flow(step(Watched, {"what": what, "n": 60}), on_error=lambda _: step(Watched, {"what": "clean"}))
        run = await client.start(flow)
        with pytest.raises(MessageFailed, match="1 processes died while they handled this message"):
            await run.result(timeout=2 * PATIENCE)
        told, cleaned = client.shared("told", list[Any]), client.shared("cleaned", bool)
        with trio.fail_after(PATIENCE):
            while not (await told.get() and await cleaned.get()):  # noqa: ASYNC110 - another process sets no event
                await trio.sleep(0.01)
        kind, message, pid = await told.get() or []
        assert (kind, message) == ("Crashed", {"what": what, "n": 60})
        exits = [event.exit.error for event in seen if isinstance(event, ChildExited)]
        assert [error.pid != pid for error in exits if isinstance(error, ProcessLost)] == [True]
