"""The cost of policies: the typed drain with each of them and with none, and delayed against plain publish.

    python -m benchmarks.policies [--messages 40000] [--repeat 5] [--variants off,retry,…]

    off         nothing declared, as in the typed drain of `benchmarks.bench`
    retry       RetryPolicy(attempts=5), with a rule for a class of errors
    priority    one message in ten is HIGH, one in ten is LOW
    rate        a rate limit that is never reached
    all         these three together
    key         every message has one of 1,000 keys: one after another within each

Every run has its own node and its own server, on which the messages are already stored. Variants take turns, so that
other load affects them alike. The last lines are the batched publish of messages due now and in an hour.
"""

import statistics
import time
from functools import partial
from typing import Any

import attrs
import trio

from actorwork import Actor, Child, Message, RateLimit, RetryPolicy, Settings, open_client, open_system, receive
from actorwork.codec import encode
from actorwork.message import Envelope, MessageIds, Priority
from actorwork.policy.backoffs import Fixed
from actorwork.testing.redis_server import open_redis_server
from benchmarks.variants import Figures, in_turns, options_of, run_drain

PAD = "x" * 56
RETRY = RetryPolicy(attempts=5, on={TimeoutError: RetryPolicy(attempts=9, backoff=Fixed(seconds=1))})
NEVER_REACHED = RateLimit(10_000_000, burst=1_000_000)
SETTINGS: dict[str, dict[str, Any]] = {
    "off": {},
    "retry": {"retry": RETRY},
    "priority": {},
    "rate": {"limits": [NEVER_REACHED]},
    "all": {"retry": RETRY, "limits": [NEVER_REACHED]},
    "key": {},
}
KEYS = 1000


@attrs.frozen
class Mark(Message["Counter", None]):
    """The message: a number, and padding to about 100 bytes."""

    i: int
    ts: float
    pad: str = PAD


class Counter(Actor):
    """Counts, and wakes the task that waits for the last message."""

    settings = Settings(title="counter")

    def __init__(self, began: list[float], expected: int, done: trio.Event) -> None:
        self.began, self.expected, self.done = began, expected, done

    @receive
    async def mark(self, message: Mark) -> None:
        self.began.append(time.perf_counter())
        if len(self.began) == self.expected:
            self.done.set()


def envelopes(count: int, variant: str, **more: Any) -> list[Envelope]:
    """Make messages as a client does; their priorities or keys are those of the variant."""
    ids = MessageIds("feedfacefeedface")
    found: list[Envelope] = []
    for number in range(count):
        data, wire = encode(Mark(number, 1e9))
        said = dict(more)
        if variant in ("priority", "all"):
            said["priority"] = {0: Priority.HIGH, 5: Priority.LOW}.get(number % 10, Priority.NORMAL)
        if variant == "key":
            said["key"] = str(number % KEYS)
        found.append(Envelope(Counter.settings.default_source, next(ids), data, wire, **said))
    return found


async def publish(url: str, messages: list[Envelope]) -> float:
    """Publish in batches of a thousand; return the rate per second."""
    async with open_client(url) as client:
        begin = time.perf_counter()
        for start in range(0, len(messages), 1000):
            await client.broker.publish(messages[start : start + 1000])
        return len(messages) / (time.perf_counter() - begin)


async def drain(url: str, variant: str, expected: int) -> Figures:
    """Handle all stored messages with the variant's policies."""
    actor = type("Counter", (Counter,), {"settings": Settings(title="counter", **SETTINGS[variant])})
    began: list[float] = []
    done = trio.Event()
    cpu = time.process_time()
    async with open_system(Child(partial(actor, began, expected, done)), broker=url):
        with trio.fail_after(300):
            await done.wait()
    return {
        "rate": expected / (began[-1] - began[0]),
        "cpu_us": (time.process_time() - cpu) / expected * 1e6,
    }


def run_publish(messages: int, **more: Any) -> float:
    with open_redis_server() as server:
        return trio.run(publish, server.url, envelopes(messages, "off", **more))


def show(name: str, values: list[float], base: list[float], rest: str = "") -> None:
    ratio = statistics.median(value / other for value, other in zip(values, base, strict=True))
    print(f"{name:<10} {statistics.median(values):>10,.0f}/s   {ratio:5.2f} of the plain one {rest}", flush=True)


def main() -> None:
    if (options := options_of(__doc__ or "", list(SETTINGS), drain)) is None:
        return

    def run(variant: str) -> Figures:
        return run_drain("benchmarks.policies", variant, publish, envelopes(options.messages, variant))

    published: dict[str, list[float]] = {"plain": [], "delayed": []}

    def publish_both() -> None:
        published["plain"].append(run_publish(options.messages))
        published["delayed"].append(run_publish(options.messages, delay=3600.0))

    results = in_turns(options, run, after_round=publish_both)
    base = [run["rate"] for run in results["off"]]
    for variant, runs in results.items():
        cpu = statistics.median(run["cpu_us"] for run in runs)
        show(variant, [run["rate"] for run in runs], base, f"  {cpu:5.1f} us of CPU a message")
    for name, values in published.items():
        show(f"{name} publish", values, published["plain"])


if __name__ == "__main__":
    main()
