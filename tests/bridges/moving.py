"""A program with a bridge and an actor, to be killed: `python -m tests.bridges.moving <broker> <queue's url>`."""

import sys
from functools import partial

from actorwork import Child, actor, current_context, run
from actorwork.bridges.celery import CeleryBridge, CeleryQueue


@actor(title="shop.count", concurrency=4, max_crashes=100)
async def count(number: int) -> int:
    """Count each message once: what is published takes effect with the settlement."""
    current_context().publish("counted", {"number": number})
    return 2 * number


if __name__ == "__main__":
    broker, url = sys.argv[1:]
    queue = CeleryQueue(url, {"shop.count": count}, ahead=10)
    run([count, Child(partial(CeleryBridge, queue))], broker=broker, lease=2)
