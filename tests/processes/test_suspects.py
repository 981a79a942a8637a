"""Suspects beside the messages of other actors, of a system in one process."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from actorwork import Actor, MailboxSettings, Settings, System, open_client, open_system, receive
from actorwork.brokers import open_broker
from actorwork.embedded import isolation as embedded
from actorwork.message import Envelope
from actorwork.streams import isolation as at_redis, reclaimer
from actorwork.testing.conformance.fake_consumer import open_consumer

from .conftest import PATIENCE, until

A_WHILE = 0.3
"""Seconds in which a node would long have begun what it must not begin."""


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


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Return whether a node has closed itself for a suspect, which it now does at once, though it is busy."""
    is_closed: list[bool] = []
    decide, close = embedded.Isolation.decide, at_redis.Isolation.close

    def deciding(self: embedded.Isolation, now: float, **facts: bool) -> bool:
        decision = decide(self, now, **facts)
        if self.is_closed:
            is_closed.append(True)
        return decision

    def closing(self: at_redis.Isolation, holder: "at_redis.Holder") -> None:
        close(self, holder)
        is_closed.append(True)

    monkeypatch.setattr(embedded, "LEFT_TO_OTHERS", 0.0)
    monkeypatch.setattr(reclaimer, "LEFT_TO_OTHERS", 0.0)
    monkeypatch.setattr(embedded.Isolation, "decide", deciding)
    monkeypatch.setattr(at_redis.Isolation, "close", closing)
    return lambda: bool(is_closed)


async def wait_begun(count: int) -> None:
    with trio.fail_after(PATIENCE):
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
        await trio.sleep(A_WHILE)
        assert begun == [("noting", 1)]
        gates["noting"].set()
        await wait_begun(2)


async def test_a_node_whose_actors_are_busy_to_the_last_place_clears_itself_for_a_suspect(
    url: str, closed: Callable[[], bool]
):
    async with open_with(url) as system, open_client(url) as client:
        await client.ref(Noting).tell({"n": 1})
        await client.ref(Other).tell({"n": 2})
        await wait_begun(2)
        await client.broker.pauses.pause("actor", "noting")
        await make_suspect(url, Noting, 3)
        await client.broker.pauses.resume("actor", "noting")
        await until(closed, "the node to close itself")
        gates["noting"].set()
        await client.ref(Noting).tell({"n": 4})
        await trio.sleep(A_WHILE)
        assert len(begun) == 2, "nothing is begun, or the node might never be free"
        gates["other"].set()
        await wait_begun(4)
        assert begun[2] == ("noting", 3), "the suspect before what came later"
        assert system.tree().state == "running"
