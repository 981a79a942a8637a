"""`context.client`: what an actor sends at once stays sent, whatever becomes of its delivery, to the system's end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio

from actorwork import (
    Actor,
    BrokerError,
    Fail,
    MessageFailed,
    NotRunning,
    Settings,
    actor,
    current_context,
    open_client,
    open_system,
    receive,
)
from actorwork.events import ShutdownStage
from actorwork.testing.conformance.fake_consumer import true_of, until
from actorwork.workflows import Status, step
from tests.doubles import FakeBroker, Kept
from tests.patience import PATIENCE

SOON = PATIENCE
"""Seconds within which everything here ends, also on a busy machine."""


@pytest.fixture(params=["memory", "embedded", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return FakeBroker()
    if request.param == "embedded":
        return f"sqlite:///{tmp_path}/db.sqlite3"
    return request.getfixturevalue("redis_url")


class Adder(Actor):
    settings = Settings(title="adder", concurrency=4)
    added: ClassVar[list[int]] = []

    @receive
    async def add(self, *, a: int, b: int) -> int:
        self.added.append(a + b)
        return a + b


@actor(title="double")
async def double(number: int) -> int:
    return 2 * number


class Starter(Actor):
    """Starts runs in a handler that fails."""

    settings = Settings(title="starter")
    said: ClassVar[list[object]] = []

    @receive
    async def do(self, *, what: str) -> None:
        client = self.context.client
        run = await client.start(step(Adder, {"a": 1, "b": 2}), id="at-once")
        same = await client.start(step(Adder, {"a": 1, "b": 2}), id="at-once")
        self.said.append(await same.result(timeout=SOON))
        self.said.append(await run.status())
        self.said.append(await client.call(double, 5))
        receipt = await client.submit(double, 6)
        self.said.append(await client.receipt(receipt.id).result(timeout=SOON))
        self.context.start(step(Adder, {"a": 10, "b": 10}), id="with-the-settlement")
        raise Fail(what)


async def test_a_run_that_is_started_at_once_stays_started_though_its_delivery_fails(broker: Any) -> None:
    Starter.said.clear()
    Adder.added.clear()
    async with open_system([Starter, Adder, double], broker=broker) as system, open_client(system.broker) as client:
        with pytest.raises(MessageFailed, match="Fail: it"):
            await client.ref(Starter).ask({"what": "it"}, timeout=SOON)
        assert await client.run("at-once").result(timeout=SOON) == 3
        assert await client.run("with-the-settlement").status() is Status.UNKNOWN
    assert Starter.said == [3, Status.SUCCESS, 10, 12]
    assert Adder.added == [3]


class Caller(Actor):
    """Asks through the broker, in a handler and in a helper task."""

    settings = Settings(title="caller")
    asked: ClassVar[list[int]] = []
    said: ClassVar[list[object]] = []

    @receive
    async def call(self, *, a: int) -> None:
        self.asked.append(a)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.note, a)
        self.said.append(await self.context.client.ref(Adder).ask({"a": a, "b": 1}, timeout=1000))

    async def note(self, a: int) -> None:
        await self.context.client.publish("notes", {"a": a})


async def test_an_ask_that_the_end_of_its_system_cuts_off_is_asked_again_and_what_was_sent_remains(broker: Any) -> None:
    Caller.asked.clear()
    Caller.said.clear()
    Adder.added.clear()
    with trio.fail_after(4 * SOON):
        async with open_system(Caller, broker=broker, grace=0.5) as system, open_client(system.broker) as client:
            receipt = await client.ref(Caller).submit({"a": 1})
            backlog = partial(system.broker.backlog, Adder.settings.default_source)

            async def is_asked() -> bool:
                return await backlog() == 1

            await until(is_asked, "the message that asks", within=SOON)
        assert (Caller.asked, Caller.said, Adder.added) == ([1], [], [])

        async with open_system([Caller, Adder], broker=broker) as system:
            async with open_client(system.broker) as client:
                await client.receipt(receipt.id).result(timeout=SOON)
            await until(true_of(lambda: len(Adder.added) == 2), "both messages that ask", within=SOON)
            assert await system.broker.backlog("notes") == 2
    assert (Caller.asked, Caller.said, Adder.added) == ([1, 1], [2], [2, 2])


async def test_an_ask_while_its_system_ends_is_answered_by_another_node(broker: Any) -> None:
    Caller.said.clear()
    Adder.added.clear()
    kept = Kept()

    def drains() -> bool:
        return "drain" in [event.stage for event in kept.of(ShutdownStage)]

    async def start_another_node_then(broker: Any, is_answered: trio.Event) -> None:
        await until(true_of(drains), "the drain", within=SOON)
        async with open_system(Adder, broker=broker):
            await is_answered.wait()

    with trio.fail_after(4 * SOON):
        async with trio.open_nursery() as nursery:
            is_answered = trio.Event()
            async with open_system(Caller, broker=broker, grace=4 * SOON, emit=kept) as system:
                async with open_client(system.broker) as client:
                    await client.ref(Caller).submit({"a": 1})
                backlog = partial(system.broker.backlog, Adder.settings.default_source)

                async def is_asked() -> bool:
                    return await backlog() == 1

                await until(is_asked, "the message that asks", within=SOON)
                nursery.start_soon(start_another_node_then, broker, is_answered)
            is_answered.set()
    assert (Caller.said, Adder.added) == ([2], [2])
    assert [event.stage for event in kept.of(ShutdownStage)] == ["intake", "drain", "shutdown"]


async def test_a_client_that_outlives_its_system_refuses_every_call(broker: Any) -> None:
    kept: list[Any] = []

    @actor(title="keeper")
    async def keep() -> None:
        kept.extend((current_context(), current_context().client))

    async with open_system(keep, broker=broker) as system, open_client(system.broker) as client:
        await client.call(keep)
    context, client = kept
    with pytest.raises(NotRunning, match="the system has not started, or has ended"):
        _ = context.client
    with pytest.raises(NotRunning, match="is closed: its block, or the system that it belongs to, has ended"):
        await client.ref(Adder).ask({"a": 1, "b": 1}, timeout=SOON)
    if isinstance(broker, FakeBroker):
        return  # It stays open, and so takes what does not wait for a reply.
    calls: list[Callable[[], Any]] = [
        lambda: client.publish("notes", {}),
        lambda: client.ref(Adder).tell({"a": 1, "b": 1}),
        lambda: client.ref(Adder).submit({"a": 1, "b": 1}),
        lambda: client.start(step(Adder, {"a": 1, "b": 1})),
        lambda: client.call(double, 1),
    ]
    for call in calls:
        with trio.fail_after(SOON), pytest.raises((BrokerError, NotRunning), match="closed"):
            await call()
