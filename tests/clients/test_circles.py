"""Entities of two sources that ask each other at the same time: one of them is told so at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from actorwork import Entity, MessageFailed, Settings, open_client, open_system, receive, sync
from tests.patience import PATIENCE


class Meeting:
    """Where handlers wait for each other before they ask."""

    def __init__(self, count: int) -> None:
        self.ask: Callable[[type, str], Any]
        self.barrier = threading.Barrier(count, timeout=PATIENCE)

    async def come(self) -> None:
        await trio.to_thread.run_sync(self.barrier.wait)


MEETING = Meeting(2)


class Buyer(Entity[list[str]]):
    settings = Settings(title="buyer", concurrency=4)

    @receive
    async def deal(self, *, other: str = "") -> str:
        if other:
            await MEETING.come()
            await self.context.client.ref(Seller, key=other).ask({}, timeout=3600)
        self.state.append(other)
        return self.key


class Seller(Entity[list[str]]):
    settings = Settings(title="seller", concurrency=4)

    @receive
    async def deal(self, *, other: str = "") -> str:
        if other:
            await MEETING.come()
            await self.context.client.ref(Buyer, key=other).ask({}, timeout=3600)
        self.state.append(other)
        return self.key


class BuyerInThread(Entity[list[str]]):
    settings = Settings(title="buyer in a thread", concurrency=4)

    @receive
    def deal(self, *, other: str = "") -> str:
        if other:
            MEETING.barrier.wait()
            MEETING.ask(SellerInThread, other)
        return self.key


class SellerInThread(Entity[list[str]]):
    settings = Settings(title="seller in a thread", concurrency=4)

    @receive
    def deal(self, *, other: str = "") -> str:
        if other:
            MEETING.barrier.wait()
            MEETING.ask(BuyerInThread, other)
        return self.key


@pytest.fixture(params=["sqlite", "redis", pytest.param("cluster", marks=pytest.mark.long)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    MEETING.barrier.reset()
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'messages.db'}"
    if request.param == "cluster":
        cluster = request.getfixturevalue("redis_cluster")
        cluster.flush()
        return str(cluster.url)
    return str(request.getfixturevalue("redis_url"))


async def meet(url: str, buyer: Any, seller: Any) -> list[str]:
    """Have a buyer and a seller ask each other; return how the message of each has ended."""
    ends: list[str] = []
    async with (
        open_client(url) as client,
        open_system(buyer, broker=url),
        open_system(seller, broker=url),
    ):
        receipts = [
            await client.ref(buyer, key="ann").submit({"other": "ben"}),
            await client.ref(seller, key="ben").submit({"other": "ann"}),
        ]
        for receipt in receipts:
            try:
                ends.append(await receipt.result(timeout=PATIENCE))
            except MessageFailed as error:
                ends.append(error.type)
        # The message that was taken back is gone; whatever comes next is handled at once.
        for ref in (client.ref(buyer, key="ann"), client.ref(seller, key="ben")):
            assert await ref.ask({}, timeout=PATIENCE) in ("ann", "ben")
    return ends


async def test_of_two_nodes_whose_entities_ask_each_other_one_is_told_and_the_other_goes_on(url: str) -> None:
    ends = await meet(url, Buyer, Seller)
    assert ends in (["ann", "WouldWaitForItself"], ["WouldWaitForItself", "ben"])
    async with open_client(url) as client:
        states = [
            (await client.ref(Buyer, key="ann").state()).value,
            (await client.ref(Seller, key="ben").state()).value,
        ]
        # The one that went on, once; and the other was asked, by the first and by the test.
        assert sorted(len(state) for state in states) == [2, 2]


async def test_handlers_in_threads_that_ask_by_a_client_without_an_event_loop_are_told_as_well(url: str) -> None:
    with ExitStack() as clients:
        here = threading.local()

        def ask(actor: Any, key: str) -> Any:
            if not hasattr(here, "client"):
                here.client = clients.enter_context(sync.open_client(url))
            return here.client.ref(actor, key=key).ask({}, timeout=3600)

        MEETING.ask = ask
        ends = await meet(url, BuyerInThread, SellerInThread)
    assert ends in (["ann", "WouldWaitForItself"], ["WouldWaitForItself", "ben"])
