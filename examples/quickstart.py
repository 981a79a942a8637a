"""The smallest useful program: one actor, fed by one source, with keyword arguments.

    python examples/quickstart.py --broker redis://localhost:6379/0

and, from any program that reaches the same Redis, with or without Python:

    redis-cli XADD orders '*' x 1 message hi

Without `--broker` the embedded broker is used; then send with

    actorwork send orders '{"x": 1, "message": "hi"}'
"""

from __future__ import annotations

import argparse

from actorwork import Actor, Settings, receive, run


class Orders(Actor):
    """Takes orders from the source `orders`, within thirty seconds each."""

    settings = Settings(title="orders desk", sources={"orders"}, execution_timeout=30)

    @receive
    async def take(self, *, x: int, message: str = "") -> None:
        self.context.log.warning("order %d: %s", x, message)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", help="such as redis://localhost:6379/0; default: the embedded broker")
    run(Orders, broker=options.parse_args().broker)
