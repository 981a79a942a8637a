"""Tasks of a real producer of Celery's are handled by actors, and their callers get the results."""

import json
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actorwork import (
    Actor,
    Child,
    Message,
    MessageFailed,
    Settings,
    actor,
    current_context,
    open_client,
    open_system,
    receive,
)
from actorwork.bridges.celery import CeleryBridge, CeleryQueue, CeleryTask, bridge, open_celery, wire
from actorwork.bridges.celery.bridge import Mover
from actorwork.bridges.celery.wire import NotTaken, TaskMessage
from actorwork.errors import AskTimeout, CodecError, Reject, SettingsError
from actorwork.message import RESULT_TTL, Failure, Outcome, Priority, Status
from actorwork.streams.entries import encoded_outcome
from actorwork.streams.transport.client import RedisClient, open_client as open_redis
from actorwork.testing.conformance.fake_consumer import true_of, until
from tests.bridges.conftest import Producer
from tests.patience import PATIENCE
from tests.streams.bench_of_actors import Scene, open_scene

WAITING = "actorwork:celery:celery:waiting"
MOVING = "actorwork:celery:celery:moving"
REFUSED = "celery.actorwork-refused"
SOURCE = Settings(title="shop.add").default_source


# ---- actors ----

seen: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


@actor(title="shop.add")
async def add(x: int, y: int = 0) -> int:
    delivery = current_context().delivery
    assert delivery is not None
    seen.append((x, y, delivery))
    return x + y


@actor(title="shop.fail")
async def fail(reason: str) -> None:
    raise Reject(reason) if reason == "rejected" else ValueError(reason)


@attrs.frozen
class Book(Message["Shelf", str]):
    title: str
    copies: int = 1


class Shelf(Actor):
    settings = Settings(title="shop.shelf")

    @receive
    async def take(self, message: Book) -> str:
        return f"{message.copies} × {message.title}"


class Clock(Actor):
    settings = Settings(title="shop.clock")

    @receive
    async def note(self, *, when: datetime, what: str = "nothing") -> str:
        return f"{what} at {when:%H:%M}"


class Several(Actor):
    settings = Settings(title="shop.several")

    @receive
    async def text(self, message: str) -> str:
        return message

    @receive
    async def number(self, message: int) -> int:
        return message


TASKS: Mapping[str, Any] = {
    "shop.add": add,
    "shop.fail": fail,
    "shop.book": Shelf,
    "shop.clock": Clock,
    "shop.titled": "shop.add",
    "shop.text": CeleryTask(Several, message=lambda args, kwargs: f"{args} {kwargs}"),
}


@asynccontextmanager
async def open_bridge(url: str, redis_url: str, **options: Any) -> AsyncGenerator[Scene]:
    """Run a bridge and the actors on one server."""
    queue = CeleryQueue(url, TASKS, **options)
    tree = [add, fail, Shelf, Clock, Several, Child(partial(CeleryBridge, queue))]
    async with open_scene(redis_url) as scene, open_system(tree, broker=scene.broker, emit=scene.events.append):
        yield scene


async def are_gone(redis: RedisClient, *keys: str) -> bool:
    """Return whether there are no such keys where Celery's queue is."""
    return await redis.call("EXISTS", *keys) == 0


async def value_of(celery: Producer, task: str) -> Any:
    """Return what a caller gets for a task that it has sent."""
    answer = await celery.get(task)
    assert answer.get("state") == "SUCCESS", answer
    assert answer["value"] == answer["result"]
    return answer["value"]


async def test_callers_of_celery_get_what_the_actors_return(celery: Producer, celery_url: str, redis_url: str) -> None:
    async with open_bridge(celery_url, redis_url) as scene:
        tasks = {
            await celery.send("shop.add", 1, 2): 3,
            await celery.send("shop.add", 1, kwargs={"y": 4}): 5,
            await celery.send("shop.titled", kwargs={"x": 2}): 2,
            await celery.send("shop.book", "Emma", 2): "2 × Emma",
            await celery.send("shop.book", kwargs={"title": "Emma"}): "1 × Emma",
            await celery.send("shop.clock", datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "tea"): "tea at 03:04",
            await celery.send("shop.text", 1, kwargs={"a": None}): "[1] {'a': None}",
        }
        for task, wanted in tasks.items():
            assert await value_of(celery, task) == wanted
            assert 80_000 < await scene.call("TTL", f"celery-task-meta-{task}") <= 86_400

        async def is_forgotten() -> bool:
            return await scene.call("EXISTS", WAITING, MOVING, REFUSED, "celery") == 0

        await until(is_forgotten, "nothing to be left at Redis")


async def test_callers_of_celery_get_the_errors_of_the_actors(
    celery: Producer, celery_url: str, redis_url: str
) -> None:
    async with open_bridge(celery_url, redis_url) as scene:
        failed = await celery.send("shop.fail", "no stock")
        told = await celery.get(failed)
        assert (told["error"], told["module"], told["text"]) == ("ValueError", "builtins", "no stock")
        assert told["state"] == "FAILURE"
        assert "raise Reject" in told["traceback"]
        (letter,) = await scene.broker.dead_letters.list()
        assert letter.id == failed

        told = await celery.get(await celery.send("shop.fail", "rejected"))
        assert (told["error"], told["text"], told["state"]) == ("TaskRevokedError", "rejected", "REVOKED")
        told = await celery.get(await celery.send("shop.add", 1, expires=datetime(2026, 1, 1, tzinfo=UTC)))
        assert (told["error"], told["text"], told["state"]) == ("TaskRevokedError", "expired", "REVOKED")
        assert seen == []
        told = await celery.get(await celery.send("shop.add", "one"))
        assert told["error"] == "CodecError"
        assert "wants a whole number" in told["text"]


async def test_a_caller_of_celery_is_told_that_a_task_was_cancelled_here(
    celery: Producer, celery_url: str, redis_url: str
) -> None:
    async with open_bridge(celery_url, redis_url) as scene, open_client(scene.broker) as client:
        await client.pause(actor="shop.add")
        task = await celery.send("shop.add", 1)

        async def is_cancelled() -> bool:
            return await client.receipt(task).cancel("not needed")

        await until(is_cancelled, "the bridge to have passed it on")
        told = await celery.get(task)
        assert (told["error"], told["state"]) == ("TaskRevokedError", "REVOKED")


@pytest.mark.parametrize("broker", ["redis", "embedded"])
async def test_a_caller_of_celery_is_told_at_once_that_a_task_with_an_eta_was_cancelled(
    celery: Producer, celery_url: str, redis_url: str, broker: str, tmp_path: Path
) -> None:
    url = redis_url if broker == "redis" else f"sqlite:///{tmp_path}/broker.sqlite3"
    tree = [add, Child(partial(CeleryBridge, CeleryQueue(celery_url, TASKS)))]
    async with open_system(tree, broker=url), open_client(url) as client:
        later = await celery.send("shop.add", 1, eta=datetime(2100, 1, 1, tzinfo=UTC))

        async def is_cancelled() -> bool:
            return await client.receipt(later).cancel("not needed")

        await until(is_cancelled, "the bridge to have passed it on")
        told = await celery.get(later)
        assert (told["error"], told["state"]) == ("TaskRevokedError", "REVOKED")


async def test_a_message_has_the_id_the_priority_the_expiry_and_the_headers_of_its_task(
    celery: Producer, celery_url: str, redis_url: str
) -> None:
    expires = datetime(2100, 1, 1, tzinfo=UTC)
    headers = {"tenant": "blue", "actorwork-flow": "a/b/1"}
    async with open_bridge(celery_url, redis_url):
        task = await celery.send(
            "shop.add", 1, task_id="order-17", priority=6, expires=expires, retries=2, parent_id="p", headers=headers
        )
        assert await value_of(celery, task) == 1
        assert await value_of(celery, await celery.send("shop.add", 2)) == 2
    delivery = seen[0][2]
    assert (delivery.id, delivery.priority, delivery.expires) == ("order-17", Priority.LOW, expires.timestamp())
    ours = {name: value for name, value in delivery.headers.items() if not name.startswith("actorwork-")}
    of_celery = {"task": "shop.add", "root_id": "order-17", "parent_id": "p", "retries": 2}
    assert ours == {"tenant": "blue", "celery": of_celery}
    assert "actorwork-flow" not in delivery.headers
    assert seen[1][2].priority is Priority.NORMAL


async def test_a_task_with_an_eta_is_held_by_the_broker_and_its_result_is_written(
    celery: Producer, celery_url: str, redis_url: str
) -> None:
    async with open_bridge(celery_url, redis_url, ahead=1) as scene:
        later = await celery.send("shop.add", 1, eta=datetime(2100, 1, 1, tzinfo=UTC))
        soon = await celery.send("shop.add", 2, countdown=0.2)
        assert await value_of(celery, soon) == 2
        # What is held does not take the only place of what is due.
        assert await value_of(celery, await celery.send("shop.add", 3)) == 3
        (held,) = await scene.broker.delayed.list()
        assert (held.id, held.due) == (later, datetime(2100, 1, 1, tzinfo=UTC).timestamp())
        assert await celery.state(later) == "PENDING"


async def test_a_task_whose_result_is_ignored_leaves_nothing_at_redis(
    celery: Producer, celery_url: str, redis_url: str
) -> None:
    async with open_bridge(celery_url, redis_url) as scene:
        ignored = await celery.send("shop.add", 1, ignore_result=True)
        assert await value_of(celery, await celery.send("shop.add", 2)) == 2
        await until(true_of(lambda: len(seen) == 2), "both tasks")

        async def is_forgotten() -> bool:
            return await scene.call("EXISTS", WAITING) == 0

        await until(is_forgotten, "the other one")
        assert await scene.call("EXISTS", f"celery-task-meta-{ignored}") == 0
    assert RESULT_TTL not in next(one[2].headers for one in seen if one[0] == 1)


async def test_what_is_for_no_actor_is_set_aside_as_it_is_and_its_caller_told(
    celery: Producer, celery_url: str, redis_url: str
) -> None:
    async with open_bridge(celery_url, redis_url) as scene:
        unknown = await celery.send("shop.unknown", 1)
        told = await celery.get(unknown)
        assert (told["error"], told["module"]) == ("NotRegistered", "celery.exceptions")
        too_many = await celery.send("shop.add", 1, 2, 3)
        assert "takes 2 arguments by position, got 3" in (await celery.get(too_many))["text"]
        pickled = await celery.send("shop.add", 1, serializer="pickle")
        await scene.call("LPUSH", "celery", "no JSON")
        assert await value_of(celery, await celery.send("shop.add", 2)) == 2

        async def are_refused() -> bool:
            return await scene.call("LLEN", REFUSED) == 4 and await scene.call("EXISTS", MOVING) == 0

        await until(are_refused, "all four")
        refused: Sequence[bytes] = await scene.call("LRANGE", REFUSED, 0, -1)
        assert refused[0] == b"no JSON"
        ids = [json.loads(raw)["headers"]["id"] for raw in reversed(refused[1:])]
        assert ids == [unknown, too_many, pickled]


async def test_what_is_for_no_actor_is_passed_on_to_a_queue_where_workers_read(
    celery: Producer, celery_url: str, redis_url: str
) -> None:
    async with open_bridge(celery_url, redis_url, pass_on="old") as scene:
        unknown = await celery.send("shop.unknown", 1, headers={"tenant": "blue"})
        followed = await celery.send("shop.add", 2, link="shop.unknown")
        assert await value_of(celery, await celery.send("shop.add", 2)) == 2

        async def are_passed_on() -> bool:
            return await scene.call("LLEN", "old") == 2 and await scene.call("EXISTS", MOVING) == 0

        await until(are_passed_on, "both")
        assert await scene.call("EXISTS", REFUSED, f"celery-task-meta-{unknown}") == 0
        # What a worker gives back comes to its own queue again, and not to that of the bridge.
        taken = await celery.take("old", 2, reject_first=True)
        assert {one["headers"]["id"]: one["payload"][0] for one in taken} == {unknown: [1], followed: [2]}
        assert [one["headers"].get("tenant") for one in taken if one["headers"]["id"] == unknown] == ["blue"]
        assert await scene.call("LLEN", "celery") == 0


# ---- bridges that die ----


async def test_a_bridge_moves_what_another_one_has_left_and_a_task_is_handled_once(
    celery: Producer, celery_url: str, redis_url: str
) -> None:
    queue = CeleryQueue(celery_url, TASKS)
    async with open_scene(redis_url) as scene:
        tasks = [await celery.send("shop.add", number) for number in range(3)]
        # One bridge has died before it published anything, another one after that.
        raws = [await scene.call("RPOPLPUSH", "celery", MOVING) for _ in range(2)]
        async with trio.open_nursery() as nursery:
            mover = Mover(queue, scene.broker, Silent())
            await nursery.start(mover.run)

            async def are_moved() -> bool:
                return await scene.length(SOURCE) == 3 and await scene.call("EXISTS", MOVING) == 0

            await until(are_moved, "three messages")
            nursery.cancel_scope.cancel()
        for raw in raws:
            await scene.call("LPUSH", MOVING, raw)
        assert await scene.call("HLEN", WAITING) == 3
        tree = [add, Child(partial(CeleryBridge, queue))]
        async with open_system(tree, broker=scene.broker, emit=scene.events.append):
            assert [await value_of(celery, task) for task in tasks] == [0, 1, 2]

            async def is_empty() -> bool:
                return await scene.call("EXISTS", MOVING, WAITING) == 0

            await until(is_empty, "what was left")
        assert sorted(one[0] for one in seen) == [0, 1, 2]


async def test_a_bridge_that_runs_moves_what_another_one_leaves(
    celery: Producer, celery_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "_LOOK_EVERY", 0.05)
    async with open_bridge(celery_url, redis_url) as scene:
        assert await value_of(celery, await celery.send("shop.add", 1)) == 1
        left = await celery.send("shop.add", 2, queue="elsewhere")
        assert await scene.call("RPOPLPUSH", "elsewhere", MOVING) is not None
        assert await value_of(celery, left) == 2
        # Published by a bridge that has died before the result was there.
        await scene.call("DEL", f"celery-task-meta-{left}")
        await scene.call("HSET", WAITING, left, json.dumps([SOURCE, None, 0]))

        async def is_written() -> bool:
            return await scene.call("EXISTS", f"celery-task-meta-{left}") == 1

        await until(is_written, "the result")
        # Of the first the broker has known nothing for longer than results are kept; the others are not a bridge's.
        await scene.call("HSET", WAITING, "unknown", json.dumps([SOURCE, None, 0]), "broken", "{", "other", "[1, 2]")

        async def is_forgotten() -> bool:
            return await scene.call("EXISTS", WAITING, MOVING) == 0

        await until(is_forgotten, "what was left")


@pytest.fixture(params=["redis", "embedded"])
def broker(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> str:
    return redis_url if request.param == "redis" else f"sqlite:///{tmp_path}/broker.sqlite3"


async def test_the_next_bridge_writes_the_results_of_what_a_stopped_one_has_taken_over(
    celery: Producer, celery_url: str, broker: str
) -> None:
    passing = Child(partial(CeleryBridge, CeleryQueue(celery_url, TASKS)))
    async with open_client(broker) as client:
        await client.pause(actor="shop.add")
        async with open_system([add, passing], broker=broker):
            early, late = await celery.send("shop.add", 1), await celery.send("shop.add", 2)
            held = await celery.send("shop.add", 3, eta=datetime(2100, 1, 1, tzinfo=UTC))
            tasks = [client.receipt(task) for task in (early, late, held)]

            async def are_passed_on() -> bool:
                return all([await one.status() is not Status.UNKNOWN for one in tasks])

            await until(are_passed_on, "the bridge to have passed them on")
        assert await tasks[0].cancel("while no bridge ran")
        async with open_system([add, passing], broker=broker):
            assert (await celery.get(early))["text"] == "while no bridge ran"
            assert await tasks[2].cancel("before its time")
            told = await celery.get(held)
            assert (told["text"], told["state"]) == ("before its time", "REVOKED")
            await client.resume(actor="shop.add")
            assert await value_of(celery, late) == 2


async def test_a_task_that_two_bridges_have_published_is_answered_by_the_one_that_lives(
    celery: Producer, celery_url: str, broker: str
) -> None:
    queue = CeleryQueue(celery_url, TASKS)
    task = await celery.send("shop.add", 1)
    async with open_redis(wire.redis_url(celery_url)) as redis, open_client(broker) as client:
        raw = await redis.call("LINDEX", "celery", 0)
        async with trio.open_nursery() as nursery:
            await nursery.start(Mover(queue, client.broker, Silent()).run)
            await until(partial(are_gone, redis, "celery", MOVING), "the first bridge to have published it")
            nursery.cancel_scope.cancel()
        # It has died before it could note that, also before it had noted whose result is wanted.
        await redis.call("LPUSH", MOVING, raw)
        await redis.call("DEL", WAITING)
        async with open_system([add, Child(partial(CeleryBridge, queue))], broker=broker):
            assert await value_of(celery, task) == 1
            await until(partial(are_gone, redis, MOVING, WAITING), "the second one to be done with it")
    assert len(seen) == 1


async def test_the_actors_may_be_at_another_broker(celery: Producer, celery_url: str) -> None:
    queue = CeleryQueue(celery_url, TASKS)
    async with open_system([add, Child(partial(CeleryBridge, queue))], broker="sqlite://"):
        assert await value_of(celery, await celery.send("shop.add", 1, 2)) == 3


async def test_a_task_that_celery_delivers_again_is_handled_once(
    celery: Producer, celery_url: str, broker: str
) -> None:
    queue = CeleryQueue(celery_url, TASKS)
    # A new id each time: the producer lives longer than a test, and keeps results.
    task = str(uuid.uuid4())
    tree = [add, Child(partial(CeleryBridge, queue))]
    async with open_redis(wire.redis_url(celery_url)) as redis, open_system(tree, broker=broker):
        assert await value_of(celery, await celery.send("shop.add", 1, task_id=task)) == 1
        await until(partial(are_gone, redis, WAITING), "the first delivery")
        await celery.send("shop.add", 1, task_id=task)
        assert await value_of(celery, await celery.send("shop.add", 2)) == 2
        await until(partial(are_gone, redis, "celery", MOVING, WAITING), "the second delivery")
    assert [one[0] for one in seen] == [1, 2]


async def test_two_bridges_share_a_queue(celery: Producer, celery_url: str, redis_url: str) -> None:
    queue = CeleryQueue(celery_url, TASKS, ahead=3)
    bridges = [Child(partial(CeleryBridge, queue), id=number) for number in range(2)]
    async with open_scene(redis_url) as scene, open_system([add, *bridges], broker=scene.broker):
        tasks = [await celery.send("shop.add", number) for number in range(12)]
        assert [await value_of(celery, task) for task in tasks] == list(range(12))
    assert sorted(one[0] for one in seen) == list(range(12))


async def test_no_more_tasks_leave_the_queue_than_may_be_with_the_actors(
    celery: Producer, celery_url: str, redis_url: str
) -> None:
    queue = CeleryQueue(celery_url, TASKS, ahead=2)
    async with open_scene(redis_url) as scene:
        tasks = [await celery.send("shop.add", number) for number in range(4)]
        async with trio.open_nursery() as nursery:
            mover = Mover(queue, scene.broker, Silent())
            await nursery.start(mover.run)

            async def are_stored(count: int) -> bool:
                return await scene.length(SOURCE) == count

            await until(partial(are_stored, 2), "two messages")
            assert await scene.call("LLEN", "celery") == 2
            # No actor runs: a node would publish this.
            for task in tasks[:2]:
                record = encoded_outcome(SOURCE, task, Outcome("done", b"7"))
                await scene.call("PUBLISH", mover._replies.address, record)
            assert [await value_of(celery, task) for task in tasks[:2]] == [7, 7]
            await until(partial(are_stored, 4), "the other two")
            nursery.cancel_scope.cancel()


# ---- sending to Celery ----


async def test_a_task_that_is_sent_is_what_kombu_reads(celery: Producer, celery_url: str) -> None:
    at = datetime(2100, 1, 1, tzinfo=UTC)
    async with open_celery(celery_url) as client:
        first = await client.send("shop.add", [1, at], {"y": Book("Emma")}, headers={"tenant": "blue"}, priority=9)
        second = await client.send("shop.add", at=at, expires=60, id="order-17", ignore_result=True)
        with pytest.raises(CodecError):
            await client.send("shop.add", [object()])
        with pytest.raises(ValueError, match="from 0 to 9"):
            await client.send("shop.add", priority=10)
        with pytest.raises(ValueError, match="timezone"):
            await client.send("shop.add", at=datetime(2100, 1, 1))
        assert await second.status() == "PENDING"

    urgent, other = await celery.take("celery", 2)
    assert (urgent["headers"]["id"], other["headers"]["id"]) == ("order-17", first.id)
    args, kwargs, following = other["payload"]
    assert (args, kwargs) == ([1, "2100-01-01T00:00:00+00:00"], {"y": {"title": "Emma", "copies": 1}})
    assert following == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    assert (other["headers"]["task"], other["headers"]["tenant"]) == ("shop.add", "blue")
    assert (other["properties"]["priority"], other["properties"]["correlation_id"]) == (9, first.id)
    assert (urgent["headers"]["eta"], urgent["headers"]["ignore_result"]) == (at.isoformat(), True)
    assert datetime.fromisoformat(urgent["headers"]["expires"]).tzinfo is not None


async def test_results_of_celery_are_waited_for(celery: Producer, celery_url: str) -> None:
    async with open_celery(celery_url) as client:
        early = client.result("early")
        await celery.store("early", {"when": datetime(2026, 1, 2, tzinfo=UTC)}, "SUCCESS")
        assert await early.result() == {"when": "2026-01-02T00:00:00+00:00"}
        assert await early.status() == "SUCCESS"

        got: list[object] = []

        async def wait() -> None:
            got.append(await client.result("late").result(timeout=PATIENCE))

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(wait)
            await until(true_of(lambda: len(client._waiting.get(b"celery-task-meta-late", ())) == 2), "both")
            await celery.store("late", None, "STARTED")
            await celery.store("late", "again", "RETRY", error="ValueError")
            assert got == []
            await celery.store("late", 5, "SUCCESS")
        assert got == [5, 5]
        assert client._waiting == {}

        await celery.store("failed", "no stock", "FAILURE", error="ValueError")
        with pytest.raises(MessageFailed, match="ValueError: no stock") as failed:
            await client.result("failed").result()
        assert (failed.value.type, failed.value.reason) == ("ValueError", "no stock")
        with pytest.raises(AskTimeout, match="no result of Celery's task nobody"):
            await client.result("nobody").result(timeout=0.01)


# ---- the form of messages ----


def test_a_message_is_read_as_it_was_written() -> None:
    task = TaskMessage(
        name="shop.add", id="1", args=[1, "ü", None], kwargs={"y": [1.5, True]}, eta=4102444800.0, expires=4102444801.5,
        retries=2, priority=3, root_id="0", parent_id="p", is_result_ignored=True, headers={"tenant": "blue"},
    )  # fmt: skip
    assert wire.task_from(wire.encoded_task(task, "celery")) == task


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"__type__": "datetime", "__value__": "2026-01-02T00:00:00"}, "2026-01-02T00:00:00"),
        ({"__type__": "decimal", "__value__": "1.50"}, "1.50"),
        ({"__type__": "uuid", "__value__": {"hex": "0" * 32}}, "00000000-0000-0000-0000-000000000000"),
        ([{"__type__": "base64", "__value__": "AP8="}], ["AP8="]),
        ({"__type__": "datetime", "more": [{"__type__": 1}]}, {"__type__": "datetime", "more": [{"__type__": 1}]}),
    ],
)
def test_values_of_kombus_own_types_are_texts(value: Any, wanted: Any) -> None:
    assert wire.plain(value) == wanted


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"headers": {}}, "protocol 2"),
        ({"headers": None}, "wants a JSON object"),
        ({"content-type": "application/x-python-serialize"}, "only JSON"),
        ({"body": "!"}, "base64"),
        ({"body": "W10="}, "no list of arguments"),
        ({"body": "W3t9LHt9LHt9XQ=="}, "arguments are no list"),
        ({"body": "bm8="}, "its body cannot be read"),
        ({"properties": {"body_encoding": "zip"}}, "encoded as 'zip'"),
    ],
)
def test_a_message_in_another_form_is_not_taken(change: Mapping[str, Any], why: str) -> None:
    whole: dict[str, Any] = json.loads(wire.encoded_task(TaskMessage(name="shop.add", id="1"), "celery"))
    with pytest.raises(NotTaken, match=why):
        wire.task_from(json.dumps({**whole, **change}).encode())


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"eta": "tomorrow"}, "its eta is no time"),
        ({"expires": 5}, "its expires is no time"),
        ({"compression": "application/x-gzip"}, "compressed"),
    ],
)
def test_a_message_whose_headers_cannot_be_used_is_not_taken(headers: Mapping[str, Any], why: str) -> None:
    whole: dict[str, Any] = json.loads(wire.encoded_task(TaskMessage(name="shop.add", id="1"), "celery"))
    whole["headers"] |= headers
    with pytest.raises(NotTaken, match=why):
        wire.task_from(json.dumps(whole).encode())


def test_a_result_keeps_the_digits_of_its_numbers() -> None:
    record = wire.encoded_result("1", Outcome("done", b"12345678901234567890.5"), datetime.now(UTC))
    assert b'"result": 12345678901234567890.5,' in record
    assert json.loads(record)["task_id"] == "1"


def test_an_error_that_celery_cannot_import_is_made_there_by_its_name() -> None:
    record = wire.encoded_result("1", Outcome("failed", failure=Failure("NoStock", "none", "trace")), datetime.now(UTC))
    assert json.loads(record)["result"] == {"exc_type": "NoStock", "exc_message": ["none"], "exc_module": None}
    assert wire.result_from(record).failure == Failure("NoStock", "none", "trace")


def test_a_url_of_kombu_is_one_of_ours() -> None:
    assert wire.redis_url("redis+socket:///run/redis.sock?virtual_host=2") == "unix:///run/redis.sock?db=2"
    assert wire.redis_url("redis://h/1") == "redis://h/1"


# ---- declaring ----


@pytest.mark.parametrize(
    ("tasks", "options", "why"),
    [
        ({}, {}, "at least one task"),
        ({"a": Several}, {}, "has 2 handlers"),
        ({"a": add}, {"pass_on": "celery"}, "another queue"),
        ({"a": add}, {"ahead": 0}, "from 1 on"),
        ({"a": add}, {"results_ttl": 0}, "from 1 to a year"),
    ],
)
def test_a_queue_that_cannot_work_is_refused(tasks: Any, options: Any, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        CeleryQueue("redis://localhost", tasks, **options)


class Silent:
    def warning(self, text: str, /, *args: object) -> None:
        raise AssertionError(text % args)
