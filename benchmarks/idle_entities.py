"""What entities cost that nobody sends anything: CPU of the server and of a node, and memory of the server.

    python -m benchmarks.idle_entities [--entities 1000000] [--size 100] [--seconds 30] [--history 0]

First a node of the entity runs beside an empty private Redis; then as many states are written into it as are asked for,
by the very part of the scripts that a settlement writes them with, in scripts of a thousand; then a node runs again.
Before each measurement the node has rested for three seconds. At the end one of the entities gets a message, which is
to be handled on the state that was written. Prints one JSON object.
"""

import argparse
import json
import time
from typing import Any, cast

import attrs
import redis
import trio

from actorwork import Entities, Entity, Settings, open_client, open_system, receive
from actorwork.settings import default_source, identity
from actorwork.streams import keys
from actorwork.streams.scripts import part
from actorwork.testing.redis_server import RedisServer, open_redis_server

TITLE = "idle bench"
AT_ONCE = 1000
REST = 3.0
LOAD = """
local prefix, group = ARGV[1], ARGV[2]
for number = ARGV[3], ARGV[4] do
  ARGV[6] = number
  entities.version(prefix, group, 'key ' .. number)
  entities.change(prefix, group, 'key ' .. number, 5, 'a message', 'a node')
end
entities.list(prefix, group)
"""


@attrs.define
class Kept:
    amount: int = 0
    pad: str = ""


class Idle(Entity[Kept]):
    settings = Settings(title=TITLE, concurrency=64, entities=Entities())

    @receive
    async def add(self, *, amount: int) -> int:
        self.state.amount += amount
        return self.state.amount


def connect(server: RedisServer) -> Any:
    return redis.Redis(unix_socket_path=str(server.socket_path), socket_timeout=None)


def cpu_of(connection: Any) -> float:
    info = connection.info("cpu")
    return cast("float", info["used_cpu_user"] + info["used_cpu_sys"])


def load(connection: Any, count: int, size: int, history: int) -> dict[str, float]:
    """Write so many states."""
    group = identity(TITLE)
    prefix = keys.prefix(default_source(group))
    script = connection.script_load("\n".join((part("clock"), part("entities"), LOAD)))
    data = json.dumps({"amount": 7, "pad": "x" * max(0, size - len('{"amount": 7, "pad": ""}'))})
    before, there, began = connection.info("memory")["used_memory"], cpu_of(connection), time.perf_counter()
    for first in range(1, count + 1, AT_ONCE):
        last = min(count, first + AT_ONCE - 1)
        connection.evalsha(script, 0, prefix, group, first, last, 0, "", 0, "", history, "12345678", data)
    after = connection.info("memory")["used_memory"]
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "server_us_each": round((cpu_of(connection) - there) / count * 1e6, 1),
        "bytes_each": round((after - before) / count),
        "bytes_of_the_json": len(data),
    }


async def idle(server: RedisServer, connection: Any, seconds: float) -> dict[str, float]:
    """Run a node that has nothing to do; return its CPU and the server's, in ms for each second."""
    async with open_system(Idle, broker=server.url):
        await trio.sleep(REST)
        there, commands = cpu_of(connection), connection.info("stats")["total_commands_processed"]
        here, began = time.process_time(), time.perf_counter()
        await trio.sleep(seconds)
        took, node = time.perf_counter() - began, time.process_time() - here
        return {
            "node_ms": round(1000 * node / took, 2),
            "server_ms": round(1000 * (cpu_of(connection) - there) / took, 2),
            "commands": round((connection.info("stats")["total_commands_processed"] - commands) / took, 1),
        }


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"entities": options.entities}
    with open_redis_server() as server, connect(server) as connection:
        found["without"] = await idle(server, connection, options.seconds)
        found["load"] = load(connection, options.entities, options.size, options.history)
        found["with"] = await idle(server, connection, options.seconds)
        async with open_system(Idle, broker=server.url), open_client(server.url) as client:
            one = client.ref(Idle, key=f"key {options.entities}")
            assert await one.ask({"amount": 1}, timeout=60) == 8
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What entities cost that nobody sends anything.")
    parser.add_argument("--entities", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=100, help="bytes of the JSON of a state")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--history", type=int, default=0)
    print(json.dumps(trio.run(measure, parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
