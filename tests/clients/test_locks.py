"""Locks of programs that do not run Trio: on asyncio a task renews them, without an event loop the block does."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from actorwork import BrokerError, LockLost, LockTimeout, aio, sync
from actorwork.asynchronous.blocks import Block, beside
from actorwork.asynchronous.driver import AsyncioDriver
from actorwork.blocking.driver import BlockingDriver, run
from actorwork.embedded.values import EmbeddedValues
from tests.clients.programs import run_asyncio
from tests.patience import PATIENCE


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'messages.db'}"
    found: str = request.getfixturevalue("redis_url")
    return found


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'messages.db'}"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    def now(_: BlockingDriver) -> float:
        return clock.time

    monkeypatch.setattr(BlockingDriver, "now", now)
    return clock


# ---- without an event loop ----


def test_a_sync_client_holds_a_lock_for_a_block(url: str) -> None:
    with sync.open_client(url) as client, sync.open_client(url) as other:
        with client.lock("door", ttl=60) as first:
            assert not first.lost
            for timeout in (0, 0.02):
                with pytest.raises(LockTimeout, match="another owner has it"):
                    other.lock("door").acquire(timeout=timeout).__enter__()
            first.extend()
        with other.lock("door").acquire(timeout=0) as second:
            assert second.token > first.token
        value = client.shared("till", int, default=0)
        value.set(1, fence=second)
        with pytest.raises(LockLost):
            value.increment(fence=first)
        assert value.get() == 1


def test_a_lock_of_a_sync_client_is_free_however_its_block_ends(file: str) -> None:
    with sync.open_client(file) as client:
        with pytest.raises(KeyError), client.lock("door", ttl=60):
            raise KeyError
        lock = client.lock("door", ttl=60)
        with lock, pytest.raises(RuntimeError, match="in use already"), lock:
            pass
        with pytest.raises(KeyboardInterrupt), client.lock("door", ttl=60).acquire(timeout=0):
            raise KeyboardInterrupt
        with lock:
            pass


def test_a_lock_of_a_sync_client_that_outlived_its_ttl_is_lost(file: str, clock: Clock) -> None:
    with sync.open_client(file) as client:
        with pytest.raises(LockLost, match="not renewed within its ttl of 60 s"), client.lock("door", ttl=60) as held:
            clock.time += 59
            assert not held.lost
            clock.time += 1
            assert held.lost
        with client.lock("door", ttl=60) as held:
            for _ in range(3):
                clock.time += 59
                held.extend()
        with client.lock("door", ttl=60).acquire() as held, pytest.raises(LockLost):
            clock.time += 60
            try:
                held.extend()
            finally:
                clock.time -= 60
        with pytest.raises(KeyError), client.lock("door", ttl=60):
            clock.time += 60
            raise KeyError


def test_a_lock_of_a_sync_client_that_another_owner_has_by_now_cannot_be_extended(file: str) -> None:
    with sync.open_client(file) as client, pytest.raises(LockLost), client.lock("door", ttl=60) as held:
        assert run(client.broker.values.free_lock("door", held.held._owner))
        with client.lock("door", ttl=60):
            with pytest.raises(LockLost):
                held.extend()
            assert held.lost


def test_a_fork_leaves_the_lock_to_its_parent(file: str) -> None:
    process = os.getpid()
    with sync.open_client(file) as client, sync.open_client(file) as other:
        with pytest.MonkeyPatch.context() as patch, client.lock("door", ttl=60).acquire():
            patch.setattr("actorwork.blocking.client.os.getpid", lambda: process + 1)
            child = client.lock("window", ttl=60)
            with child:
                patch.undo()
        for name, is_free in (("door", True), ("window", False)):
            try:
                with other.lock(name).acquire(timeout=0):
                    assert is_free
            except LockTimeout:
                assert not is_free


# ---- on asyncio ----


def test_an_asyncio_client_keeps_a_lock_for_as_long_as_its_block_takes(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(_: AsyncioDriver, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))

    monkeypatch.setattr(AsyncioDriver, "sleep", sleep)

    async def main() -> None:
        async with aio.open_client(url) as client:
            async with client.lock("door", ttl=60) as held:
                until = held._until
                while held._until < until + 0.03:  # noqa: ASYNC110 - nothing says that the lock was renewed
                    await asyncio.sleep(0.01)
                assert not held.lost
                with pytest.raises(LockTimeout, match="another owner has it"):
                    async with client.lock("door").acquire(timeout=0):
                        pass
                await held.extend()
            async with client.lock("door").acquire(timeout=PATIENCE) as later:
                assert later.token > held.token

    run_asyncio(main)


def test_an_asyncio_client_ends_the_block_of_a_lock_that_it_cannot_renew(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> bool:
        raise BrokerError("not now")

    async def main() -> None:
        async with aio.open_client(file) as client:
            monkeypatch.setattr(EmbeddedValues, "keep_lock", away)
            with pytest.raises(LockLost):
                async with client.lock("door", ttl=0.2) as held:
                    try:
                        await asyncio.sleep(20)
                    finally:
                        assert held.lost
            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()
            with pytest.raises(KeyError):
                async with client.lock("door", ttl=0.2):
                    try:
                        await asyncio.sleep(20)
                    finally:
                        raise KeyError

    run_asyncio(main)


def test_a_lock_of_an_asyncio_client_is_free_when_its_block_is_cancelled(file: str) -> None:
    async def main() -> None:
        async with aio.open_client(file) as client:

            async def hold() -> None:
                async with client.lock("door", ttl=60):
                    begun.set()
                    await asyncio.sleep(20)

            begun = asyncio.Event()
            holding = asyncio.create_task(hold())
            await begun.wait()
            waiting = asyncio.create_task(hold())
            await asyncio.sleep(0.02)
            for task in (waiting, holding):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            async with client.lock("door").acquire(timeout=0):
                pass

    run_asyncio(main)


def test_a_block_that_ends_before_it_notices_its_cancellation_is_not_followed_by_it() -> None:
    async def main() -> None:
        block = Block()
        block.cancel("in the last step")
        assert await block.end(None)
        await asyncio.sleep(0)
        async with beside(lambda: asyncio.sleep(0)):
            await asyncio.sleep(20)
        with pytest.raises(LookupError, match="of the work"):
            async with beside(fail):
                await asyncio.sleep(20)

    async def fail() -> None:
        raise LookupError("of the work")

    run_asyncio(main)


def test_a_cancellation_from_outside_goes_on_when_the_block_was_cancelled_too() -> None:
    async def twice(*, finishes: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        block = Block()
        block.cancel("from beside")
        task.cancel()
        error: BaseException | None = None
        if not finishes:
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError as raised:
                error = raised
        assert not await block.end(error)

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(twice(finishes=True))
        await asyncio.create_task(twice(finishes=False))

    run_asyncio(main)
