"""Entries that other programs wrote in formats of their own, read by the hooks of an actor."""

import json
from collections.abc import Mapping
from typing import Any

from actorwork import Actor, Reject, Retry, RetryPolicy, Settings, open_system, receive
from actorwork.events import Event, Settled
from actorwork.policy.retry import Fixed
from actorwork.testing.conformance.fake_consumer import until
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
        assert "Expecting value" in letter.failure.reason
        assert await scene.length("greetings") == 0
