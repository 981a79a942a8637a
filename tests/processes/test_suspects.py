"""Suspects beside the messages of other actors, of a system in one process."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from actorwork import Actor, MailboxSettings, Settings, System, open_client, open_system, receive
from actorwork.brokers import open_broker
from actorwork.message import Envelope
from actorwork.policy.crashes import LEFT_TO_OTHERS
from actorwork.testing.conformance.fake_consumer import open_consumer

LONGER = LEFT_TO_OTHERS + 0.5
"""Seconds after which each node has looked at its sources again."""


class Noting(Actor):
    settings = Settings(title="noting", mailbox=MailboxSettings(capacity=1))

    def __init__(self) -> None:
        self.go_on = trio.Event()

    @receive
    async def handle(self, *, n: int) -> None:
        begun.append((self.settings.title, n))
        await gates[self.settings.title].wait()


class Other(Noting):
    settings = Settings(title="other", mailbox=MailboxSettings(capacity=1))


begun: list[tuple[str, int]] = []
gates: dict[str, trio.Event] = {}


@pytest.fixture(autouse=True)
def _anew() -> None:
    begun.clear()
    gates.update(noting=trio.Event(), other=trio.Event())


async def wait_begun(count: int) -> None:
    with trio.fail_after(10):
        while len(begun) < count:  # noqa: ASYNC110 - the handlers are of another system
            await trio.sleep(0.01)


@asynccontextmanager
async def open_with(url: str) -> AsyncGenerator[System]:
    async with open_system([Noting, Other], broker=url) as system:
        try:
            yield system
        finally:
            for gate in gates.values():
                gate.set()


async def make_suspect(url: str, actor: type[Actor], n: int) -> None:
    source = actor.settings.default_source
    async with open_broker(url) as broker:
        await broker.publish([Envelope(source, str(n), b'{"n": %d}' % n)])
        for _ in range(2):
            async with open_consumer(broker, source, group=actor.settings.id) as dying:
                await dying.take_one()


async def test_a_suspect_that_needs_all_room_of_its_actor_keeps_the_node_to_itself(url: str):
    await make_suspect(url, Noting, 1)
    async with open_with(url), open_client(url) as client:
        await wait_begun(1)
        await client.ref(Other).tell({"n": 2})
        await trio.sleep(LONGER)
        assert begun == [("noting", 1)]
        gates["noting"].set()
        await wait_begun(2)


async def test_a_node_whose_actors_are_busy_to_the_last_place_clears_itself_for_a_suspect(url: str):
    async with open_with(url) as system, open_client(url) as client:
        await client.ref(Noting).tell({"n": 1})
        await client.ref(Other).tell({"n": 2})
        await wait_begun(2)
        await client.broker.pauses.pause("actor", "noting")
        await make_suspect(url, Noting, 3)
        await client.broker.pauses.resume("actor", "noting")
        await trio.sleep(LONGER)
        gates["noting"].set()
        await client.ref(Noting).tell({"n": 4})
        await trio.sleep(0.3)
        assert len(begun) == 2, "nothing is begun, or the node might never be free"
        gates["other"].set()
        await wait_begun(4)
        assert begun[2] == ("noting", 3), "the suspect before what came later"
        assert system.tree().state == "running"
