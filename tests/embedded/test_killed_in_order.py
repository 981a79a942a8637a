"""The order of keys over processes that share a file, fail at random, and are killed."""

import multiprocessing
import random
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import trio

from actorwork.embedded.broker import open_broker
from actorwork.events import Event
from actorwork.message import Envelope, Failure
from actorwork.policy.settlement import Ack, Fail, Retry
from actorwork.testing.conformance import open_desk, until
from actorwork.testing.ledger import Ledger

KEYS, EACH = 40, 12
FAILURE = Failure("ValueError", "no")


def ignore(_: Event) -> None: ...


def work_until_killed(url: str, path: Path, seed: int) -> None:
    async def work() -> None:
        dice, ledger = random.Random(seed), Ledger(path)
        async with (
            open_broker(url, emit=ignore) as broker,
            open_desk(broker, "orders", room=8, max_crashes=1000, lease=0.5) as desk,
        ):
            while True:
                delivery = await desk.take_one()
                ledger.note("begun", delivery.id, key=delivery.key)
                chance = dice.random()
                if chance < 0.15 and delivery.attempt < 5:
                    desk.node.settle(desk.subscription, delivery, Retry(dice.choice([0.0, 0.01]), FAILURE))
                else:
                    desk.node.settle(desk.subscription, delivery, Fail(FAILURE) if chance > 0.9 else Ack())

    trio.run(work)


@pytest.mark.slow
async def test_messages_of_a_key_stay_in_order_and_none_is_lost_while_processes_fail_and_are_killed(tmp_path: Path):
    url, path = f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "ledger"
    context = multiprocessing.get_context("spawn")
    dice, seeds = random.Random(5), iter(range(100))
    ledger = Ledger(path)

    def start() -> BaseProcess:
        process = context.Process(target=work_until_killed, args=(url, path, next(seeds)), daemon=True)
        process.start()
        return process

    async with open_broker(url, emit=ignore) as broker:
        numbers = [(key, number) for number in range(EACH) for key in range(KEYS)]
        await broker.publish([Envelope("orders", f"{key}-{n}", b"%d" % n, key=f"key {key}") for key, n in numbers])
        assert await broker.backlog("orders") == KEYS * EACH
        workers = [start(), start()]

        async def is_further(than: int) -> bool:
            return len({note.id for note in ledger.notes("begun")}) > than

        async def is_empty() -> bool:
            return await broker.backlog("orders") == 0 and not await broker.delayed.list("orders")

        try:
            for step in range(1, 5):
                await until(lambda step=step: is_further(KEYS * EACH * step // 6), "some to be handled", within=30)
                victim = dice.randrange(2)
                workers[victim].kill()
                workers[victim] = start()
            await until(is_empty, "all to end", within=60)
        finally:
            for worker in workers:
                worker.kill()
                worker.join()
        assert len(await broker.dead_letters.list("orders", limit=1000)) < KEYS * EACH // 4
    for key in range(KEYS):
        notes = [note for note in ledger.notes("begun") if note.facts["key"] == f"key {key}"]
        begun = [int(note.id.partition("-")[2]) for note in notes]
        assert begun == sorted(begun), f"key {key}: {begun}"
        assert set(begun) == set(range(EACH))
    ledger.close()
