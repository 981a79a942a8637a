"""Entries that other programs wrote in formats of their own, read by the hooks of an actor."""

import json
from collections.abc import Mapping
from typing import Any

import attrs

from actorwork import Actor, Failure, Message, Reject, Retry, RetryPolicy, Settings, open_system, receive
from actorwork.events import Event, Settled
from actorwork.policy.backoffs import Fixed
from actorwork.testing.conformance.fake_consumer import true_of, until
from tests.streams.bench_of_actors import open_scene


def everwork(fields: Mapping[bytes, bytes]) -> Any:
    """Read an entry of Everwork's: its field `payload` is an event with `kwargs` and `headers`."""
    event = json.loads(fields[b"payload"])
    if event["kwargs"].get("who") == "nobody":
        raise Reject("not for us")
    return None, event["kwargs"], event["headers"]


class Greeter(Actor):
    settings = Settings(
        title="greeter",
        sources={"greetings", "plain"},
        decode={"greetings": everwork},
        retry=RetryPolicy(attempts=2, backoff=Fixed(seconds=0)),
    )
    seen: list[object]

    @receive
    async def greet(self, *, who: str, times: int = 1) -> None:
        delivery = self.context.delivery
        self.seen.append((who, times, delivery.headers.get("tenant"), delivery.attempt))
        if who == "ann" and delivery.attempt == 1:
            raise Retry(0)


async def test_a_hook_reads_the_entries_of_its_source_at_every_attempt(redis_url: str):
    Greeter.seen = []
    async with open_scene(redis_url) as scene:

        async def add(kwargs: dict[str, object], **headers: str) -> None:
            event = {"kwargs": kwargs, "headers": headers}
            await scene.call("XADD", "greetings", "*", "payload", json.dumps(event))

        await add({"who": "ann", "times": 2}, tenant="blue")
        await add({"who": "nobody"})
        await scene.call("XADD", "greetings", "*", "payload", "no json", "trace", "t")
        await scene.call("XADD", "greetings", "*", "data", '{"who": "ours"}')
        await scene.call("XADD", "plain", "*", "who", "field", "times", "3")

        events: list[Event] = []
        async with open_system(Greeter, broker=scene.broker, emit=events.append):

            async def are_settled() -> bool:
                return len([one for one in events if isinstance(one, Settled)]) == 6

            await until(are_settled, "six settlements")
        assert set(Greeter.seen) == {
            ("ann", 2, "blue", 1), ("ann", 2, "blue", 2), ("ours", 1, None, 1), ("field", 3, None, 1),
        }  # fmt: skip
        (letter,) = await scene.broker.dead_letters.list()
        assert (letter.failure.type, letter.payload) == ("JSONDecodeError", {b"payload": b"no json", b"trace": b"t"})
        assert "the decode hook everwork cannot read the entry: Expecting value" in letter.failure.reason
        assert await scene.length("greetings") == 0


@attrs.frozen
class Row(Message["Table", None]):
    number: int


mended: set[str] = set()


def queued(fields: Mapping[bytes, bytes]) -> object:
    """Read an entry of a queue that names its tasks and counts its rows."""
    text = fields[b"body"].decode()
    if text == "worst":
        raise SystemExit("no such row")
    if text == "worse" and not mended:
        raise LookupError("no such row")
    return Row(9 if text == "worse" else int(text))


class Table(Actor):
    settings = Settings(title="table", sources={"rows", "ends"}, decode=queued)
    rows: list[tuple[set[int], set[str]]]
    told: list[tuple[object, str, str]]

    @receive(batch=5, within=60)
    async def save(self, batch: list[Row]) -> None:
        self.rows.append(({row.number for row in batch}, {one.id for one in self.context.deliveries}))

    async def failed(self, message: object, failure: Failure) -> None:
        self.told.append((message, failure.type, failure.reason))


async def test_entries_in_batches_and_of_every_priority_are_read_and_have_the_ids_of_their_entries(redis_url: str):
    Table.rows, Table.told = [], []
    async with open_scene(redis_url) as scene:
        ids: set[str] = set()
        await scene.call("SADD", "actorwork:{rows}:priorities", "high")
        for number in range(5):
            stream = "actorwork:{rows}:priority:high" if number == 3 else "rows"
            ids.add((await scene.call("XADD", stream, "*", "body", str(number), "id", "of the sender")).decode())
        async with open_system(Table, broker=scene.broker):
            await until(true_of(lambda: len(Table.rows) == 1), "the batch")
        assert Table.rows == [({0, 1, 2, 3, 4}, ids)]


async def test_an_entry_that_no_hook_can_read_is_one_dead_letter_of_which_the_actor_is_told_and_can_be_replayed(
    redis_url: str,
):
    Table.rows, Table.told = [], []
    mended.clear()
    async with open_scene(redis_url) as scene:
        await scene.call("XADD", "rows", "*", "body", "worse")
        await scene.call("XADD", "ends", "*", "body", "worst")
        async with open_system(Table, broker=scene.broker):
            await until(true_of(lambda: len(Table.told) == 2), "both calls of the hook `failed`")
            reason = "the decode hook queued cannot read the entry: no such row"
            assert sorted(Table.told, key=str) == [
                ({b"body": b"worse"}, "LookupError", reason),
                ({b"body": b"worst"}, "SystemExit", reason),
            ]
            assert len(await scene.broker.dead_letters.list("ends")) == 1
            (letter,) = await scene.broker.dead_letters.list("rows")
            assert letter.payload == {b"body": b"worse"}

            mended.add("worse")
            await scene.broker.dead_letters.replay("rows", [letter.entry])
            for number in range(4):  # The reader goes on.
                await scene.call("XADD", "rows", "*", "body", str(number))
            await until(true_of(lambda: len(Table.rows) == 1), "the batch")
        assert Table.rows[0][0] == {0, 1, 2, 3, 9}
        assert letter.id in Table.rows[0][1]
        assert len(Table.told) == 2


class Tasks(Actor):
    settings = Settings(title="tasks", sources={"taskiq"}, decode=queued)
    seen: list[object]

    @receive
    async def run(self, *, task_name: str, kwargs: dict[str, int], **rest: object) -> None:
        self.seen.append((task_name, kwargs, sorted(rest)))


async def test_what_another_program_keeps_in_a_field_data_is_read_without_a_hook(redis_url: str):
    Tasks.seen = []
    async with open_scene(redis_url) as scene:
        task: dict[str, object] = {"task_id": "1", "task_name": "shop:buy", "args": [], "kwargs": {"number": 3}}
        await scene.call("XADD", "taskiq", "*", "data", json.dumps(task))
        async with open_system(Tasks, broker=scene.broker):
            await until(true_of(lambda: bool(Tasks.seen)), "the task")
        assert Tasks.seen == [("shop:buy", {"number": 3}, ["args", "task_id"])]
