"""The protocol for programs in other languages: its vectors are what the code writes, and what the code reads.

messages.json   what a client stores, by its options: the command that stores the same, and the delivery it becomes
entries.json    entries as any producer may write them, and what becomes of them
outcomes.json   the records of what has become of a message, by what its handler did
"""

import json
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from actorwork import Actor, Settings, errors, open_system, receive
from actorwork.message import (
    ATTEMPT,
    FAILED,
    FLOW,
    HISTORY,
    REPLY_TO,
    RESULT_TTL,
    TIME_POINT,
    TRIGGER_ID,
    Delivery,
    Envelope,
    MessageIds,
    Priority,
    Unique,
)
from actorwork.policy.settlement import Ack
from actorwork.streams import scripts
from actorwork.streams.transport.client import open_client
from actorwork.testing.conformance.fake_consumer import true_of, until
from tests.patience import PATIENCE
from tests.streams.bench_of_actors import Scene, inbox, open_scene, subscription

HERE = Path(__file__).parent
CHAPTER = HERE.parents[1] / "docs" / "protocol.md"
SCRIPTS = {"publish": scripts.PUBLISH, "publish_unique": scripts.PUBLISH_UNIQUE}
GROUP = "00112233aabbccdd"


def vectors(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return found


@contextmanager
def named(vector: Mapping[str, Any]) -> Generator[None]:
    """Name the vector in an error."""
    try:
        yield
    except Exception as error:
        error.add_note(f"vector: {vector['name']}")
        raise


def envelope_of(message: Mapping[str, Any]) -> Envelope:
    named = {**message, "data": message["data"].encode()}
    if "priority" in named:
        named["priority"] = Priority[named["priority"].upper()]
    if "unique" in named:
        named["unique"] = Unique(**named["unique"])
    return Envelope(**named)


async def now_of(scene: Scene) -> float:
    seconds, microseconds = await scene.call("TIME")
    return int(seconds) * 1000 + int(microseconds) / 1000


async def run_command(scene: Scene, command: Mapping[str, Any]) -> Any:
    return await scene.broker.client.run_script(SCRIPTS[command["script"]], command["keys"], command["args"])


async def names_of_keys(scene: Scene) -> set[str]:
    # Where a client looks for a message of which it knows the id alone: that is beside the message.
    return {name.decode() for name in await scene.call("KEYS", "*") if not name.startswith(b"actorwork:sent:")}


def check_moment(written: str, wanted: str, before: float, after: float) -> None:
    """Check a time that is either absolute, or `+` so many milliseconds after the script has run."""
    if wanted.startswith("+"):
        assert int(before) + int(wanted) <= float(written) <= after + int(wanted) + 1
    else:
        assert float(written) == float(wanted)


async def check_stored(scene: Scene, stored: Mapping[str, Any], before: float) -> None:
    after = await now_of(scene)
    if "delayed" in stored:
        due = await scene.call("ZSCORE", "actorwork:{orders}:delayed", stored["delayed"])
        check_moment(due if isinstance(due, str) else str(float(due)), stored["due"], before, after)
        assert await scene.call("EXISTS", "orders") == 0
        return
    ((_, flat),) = await scene.call("XRANGE", stored["stream"], "-", "+")
    found, wanted = [one.decode() for one in flat], list(stored["fields"])
    # All fields are in any order: a reader goes by their names.
    written = dict(zip(found[::2], found[1::2], strict=True))
    expected = dict(zip(wanted[::2], wanted[1::2], strict=True))
    if "claim" in expected:
        assert re.fullmatch("[0-9a-f]{16}", written.pop("claim"))
        del expected["claim"]
    if "expires" in expected:
        check_moment(written.pop("expires"), expected.pop("expires"), before, after)
    assert written == expected


async def test_what_a_client_stores_is_what_the_command_of_the_vector_stores_and_each_is_a_repetition_of_the_other(
    redis_url: str,
) -> None:
    async with open_scene(redis_url) as scene:
        for vector in vectors("messages"):
            with named(vector):
                envelope = envelope_of(vector["message"])
                command = vector["command"]
                is_unique = command["script"] == "publish_unique"
                new, known = (envelope.id.encode(),) * 2 if is_unique else (1, 0)

                await scene.call("FLUSHDB")
                before = await now_of(scene)
                assert await run_command(scene, command) == new
                await check_stored(scene, vector["stored"], before)
                names = await names_of_keys(scene)
                assert await run_command(scene, command) == known
                assert await scene.broker.publish([envelope]) == 0

                await scene.call("FLUSHDB")
                before = await now_of(scene)
                if is_unique:
                    assert await scene.broker.publish_unique(envelope) == envelope.id
                else:
                    assert await scene.broker.publish([envelope]) == 1
                await check_stored(scene, vector["stored"], before)
                assert await names_of_keys(scene) == names
                assert await run_command(scene, command) == known


def seen_of(delivery: Delivery) -> dict[str, Any]:
    payload = delivery.payload
    data = payload if isinstance(payload, bytes) else {name.decode(): value.decode() for name, value in payload.items()}
    return {
        "id": delivery.id,
        "data": data.decode() if isinstance(data, bytes) else data,
        "type": delivery.type,
        "headers": dict(delivery.headers),
        "attempt": delivery.attempt,
        "key": delivery.key,
        "priority": delivery.priority.name.lower(),
    }


async def test_a_node_is_given_what_the_commands_of_the_vectors_have_stored(redis_url: str) -> None:
    orders = subscription(group=GROUP)
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        for vector in vectors("messages"):
            with named(vector):
                if (wanted := vector["delivery"]) is None:
                    continue
                before = await now_of(scene)
                await run_command(scene, vector["command"])
                delivery = await inbox(orders).take_one(within=PATIENCE)
                expires = wanted.pop("expires", None)
                assert seen_of(delivery) == wanted
                assert (delivery.expires is None) == (expires is None)
                if delivery.expires is not None:
                    check_moment(f"{delivery.expires * 1000:.0f}", str(expires), before, await now_of(scene))
                node.settle(orders, delivery, Ack())
                await node.wait_settled()
                await scene.call("DEL", *(key for key in vector["command"]["keys"] if ":seen:" in key))


async def test_a_node_is_given_entries_as_the_vectors_say(redis_url: str) -> None:
    orders = subscription(group=GROUP)
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        for vector in vectors("entries"):
            with named(vector):
                entry = (await scene.call("XADD", "orders", "*", *vector["fields"])).decode()
                wanted = vector["delivery"]
                if wanted is None:
                    continue
                delivery = await inbox(orders).take_one(within=PATIENCE)
                seen = seen_of(delivery)
                assert {name: seen[name] for name in wanted} == {**wanted, "id": wanted["id"] or entry}
                node.settle(orders, delivery, Ack())
        await node.wait_settled()
        dead = [vector for vector in vectors("entries") if vector.get("becomes") == "a dead letter"]

        async def are_dead() -> bool:
            return await scene.length("actorwork:{orders}:dead") == len(dead)

        await until(are_dead, "the dead letters")
        letters = await scene.fields("actorwork:{orders}:dead")
        assert {letter[b"m:headers"].decode() for letter in letters} == {
            dict(zip(vector["fields"][::2], vector["fields"][1::2], strict=True))["headers"] for vector in dead
        }
        assert inbox(orders).waiting == []


class Clerk(Actor):
    settings = Settings(title="clerk", sources={"orders"})

    @receive
    async def handle(self, *, returns: Any = None, raises: str = "", reason: str = "", expired: bool = False) -> Any:
        if raises:
            raise {"ValueError": ValueError, "Reject": errors.Reject}[raises](reason)
        return returns


async def test_the_records_of_outcomes_are_published_and_stored_as_the_vectors_say(redis_url: str) -> None:
    told: list[Any] = []
    channel = "actorwork:reply:" + "0" * 32
    async with (
        open_scene(redis_url) as scene,
        open_client(redis_url, on_push=told.append) as listener,
        open_system(Clerk, broker=scene.broker),
    ):
        await listener.subscribe(channel)
        for number, vector in enumerate(vectors("outcomes"), 1):
            with named(vector):
                handler = vector["handler"]
                expires = ("expires", "1") if "expired" in handler else ()
                headers = json.dumps({REPLY_TO: channel, RESULT_TTL: 60})
                fields = (
                    "id",
                    "order-17",
                    "data",
                    json.dumps(handler),
                    "headers",
                    headers,
                    *expires,
                    "claim",
                    "00" * 8,
                )
                prefix = "actorwork:{orders}:"
                keys = ("orders", f"{prefix}delayed", f"{prefix}delayed:messages", f"{prefix}seen:order-17")
                args = (prefix, 4, "", '{"keep":60000}', len(fields), *fields)
                assert await scene.broker.client.run_script(scripts.PUBLISH, keys, args) == 1
                await until(true_of(lambda number=number: len(told) == number), "the record")
                published = told[-1][2]
                assert await scene.call("GET", f"{prefix}result:order-17") == published
                state = await scene.call("HGET", f"{prefix}state:order-17", "status")
                assert state == {"done": b"SUCCESS", "failed": b"FAILURE"}.get(
                    vector["record"]["status"], b"EXPIRED" if expires else b"REJECTED"
                )
                assert without_texts(json.loads(published), vector["record"]) == vector["record"]
                await scene.call("DEL", keys[3])


def without_texts(record: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with `<text>` where the vector has it, and where the record has some text."""
    found = dict(record)
    for name, value in wanted.items():
        if value == "<text>" and isinstance(found.get(name), str):
            found[name] = value
    if "failure" in wanted:
        found["failure"] = without_texts(record["failure"], wanted["failure"])
    return found


def test_the_chapter_names_the_fields_and_the_headers_that_others_read_and_write() -> None:
    chapter = CHAPTER.read_text(encoding="utf-8")
    headers = (REPLY_TO, RESULT_TTL, ATTEMPT, HISTORY, TIME_POINT, TRIGGER_ID, FAILED, FLOW)
    fields = {name for vector in vectors("messages") for name in vector["stored"].get("fields", ())[::2]}
    assert {"id", "data", "type", "headers", "group", "key", "priority", "expires", "unique", "claim"} == fields
    for name in (*headers, *fields):
        assert f"`{name}`" in chapter, name


def test_an_id_of_our_own_form_is_what_our_clients_draw() -> None:
    ids = MessageIds("00112233aabbccdd")
    assert [next(ids) for _ in range(12)][-1] == "00112233aabbccdd-b"


@pytest.mark.parametrize("name", ["messages", "entries", "outcomes"])
def test_every_vector_has_a_name_of_its_own(name: str) -> None:
    names = [vector["name"] for vector in vectors(name)]
    assert len(set(names)) == len(names) > 5
