"""What newer commands would save the server, where scripts could use them: its CPU, by turns with what they do today.

    python -m benchmarks.commands [--messages 20000] [--repeat 5]

    settle      XACKDEL (Redis 8.2) in the place of XACK and XDEL, in the script that settles plain acks of one group
    settle one  the same, a message at a time
    delete      XDELEX (Redis 8.2) in the place of XDEL, and nothing else
    mark        a field with a lifetime (HSETEX, Redis 8.0, Valkey 9.0) in the place of a key with one, for an id that
                is a text of its sender

The server is that of ACTORWORK_REDIS_SERVER, or on the PATH; what it does not have is left out, by COMMAND INFO.
CPU is that of the server (INFO cpu), so the figures hold on a machine that is busy; a row is the median of the repeats,
each of which does both ways, in turns. Memory is what the server uses for the marks alone. Prints a table.

XREADGROUP CLAIM (Redis 8.4) is not here: it claims what was idle for long, and nodes take over from the dead alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import redis

from actorwork.streams import keys, scripts
from actorwork.streams.transport.commands import Script
from actorwork.testing.redis_server import RedisServer, open_redis_server

SOURCE: Final = "work"
GROUP: Final = "workers"
NODE: Final = "node"
AT_ONCE: Final = 100
A_DAY: Final = 86_400
BOTH: Final = """  for first = 1, count, CHUNK do
    redis.call('XACK', stream, group, unpack(ids, first, math.min(first + CHUNK - 1, count)))
  end
  if #found == 1 then
    call_with('XDEL', stream, ids)
    return ids
  end
"""
AS_ONE: Final = """  if #found == 1 then
    for first = 1, count, CHUNK do
      local last = math.min(first + CHUNK - 1, count)
      redis.call('XACKDEL', stream, group, 'KEEPREF', 'IDS', last - first + 1, unpack(ids, first, last))
    end
    return ids
  end
  for first = 1, count, CHUNK do
    redis.call('XACK', stream, group, unpack(ids, first, math.min(first + CHUNK - 1, count)))
  end
"""


def with_xackdel(script: Script) -> Script:
    assert script.source.count(BOTH) == 1, "the script settles in another way by now"
    return Script(script.name, script.source.replace(BOTH, AS_ONE))


@attrs.frozen
class Server:
    """A server, and a connection to it."""

    client: Any

    @classmethod
    def at(cls, server: RedisServer) -> Server:
        return cls(redis.Redis(unix_socket_path=str(server.socket_path), protocol=2))

    def has(self, command: str) -> bool:
        return self.client.execute_command("COMMAND INFO", command)[0] is not None

    def cpu(self, work: Callable[[], object]) -> float:
        """Return the seconds of CPU that the server takes for some work."""
        before = self._used()
        work()
        return self._used() - before

    def _used(self) -> float:
        facts = self.client.info("cpu")
        return float(facts["used_cpu_user"] + facts["used_cpu_sys"])

    def memory(self) -> int:
        return int(self.client.info("memory")["used_memory"])

    def together(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute()


def fill(server: Server, messages: int) -> list[bytes]:
    """Add messages, and deliver them to a node."""
    server.client.flushall()
    server.client.xgroup_create(SOURCE, GROUP, "0", mkstream=True)
    server.client.sadd(f"{keys.prefix(SOURCE)}groups", GROUP)
    for first in range(0, messages, AT_ONCE):
        server.together(
            [("XADD", SOURCE, "*", "id", f"{first + number}", "data", "{}") for number in range(AT_ONCE)]
            + [("XREADGROUP", "GROUP", GROUP, NODE, "COUNT", AT_ONCE, "STREAMS", SOURCE, ">")]
        )
    return [entry for entry, _ in server.client.xrange(SOURCE)]


def settling(server: Server, script: Script, messages: int, at_once: int) -> float:
    """Return the microseconds of CPU for each message that is settled."""
    entries = fill(server, messages)
    sha = server.client.script_load(script.source)
    record = f"{keys.prefix(SOURCE)}record"
    calls: list[tuple[Any, ...]] = []
    for number, first in enumerate(range(0, messages, at_once)):
        some = entries[first : first + at_once]
        acks = [part for entry in some for part in (entry, 1)]
        args = (keys.prefix(SOURCE), GROUP, NODE, number, some[0], some[-1], len(some), len(some), *acks)
        calls.append(("EVALSHA", sha, 2, SOURCE, record, *args))

    def settle() -> None:
        for first in range(0, len(calls), 20):
            for reply in server.together(calls[first : first + 20]):
                assert reply[1] == [], "a settlement was refused"

    seconds = server.cpu(settle)
    assert server.client.xlen(SOURCE) == 0, "all of them are settled"
    return seconds * 1e6 / messages


def deleting(server: Server, command: Callable[[Sequence[bytes]], Sequence[Any]], messages: int) -> float:
    entries = fill(server, messages)
    server.client.xack(SOURCE, GROUP, *entries)
    calls = [command(entries[first : first + AT_ONCE]) for first in range(0, messages, AT_ONCE)]
    seconds = server.cpu(lambda: server.together(calls))
    assert server.client.xlen(SOURCE) == 0, "all of them are deleted"
    return seconds * 1e6 / messages


def marking(server: Server, command: Callable[[str], Sequence[Any]], messages: int) -> tuple[float, float]:
    """Return the microseconds of CPU and the bytes for each mark."""
    server.client.flushall()
    before = server.memory()
    names = [f"order-{number:012}" for number in range(messages)]

    def mark() -> None:
        for first in range(0, messages, AT_ONCE):
            server.together([command(name) for name in names[first : first + AT_ONCE]])

    seconds = server.cpu(mark)
    return seconds * 1e6 / messages, (server.memory() - before) / messages


def compared(name: str, now: Callable[[], float], new: Callable[[], float], repeat: int) -> None:
    found = [(now(), new()) for _ in range(repeat)]
    old, other = (statistics.median(one) for one in zip(*found, strict=True))
    print(f"| {name} | {old:.2f} µs | {other:.2f} µs | {other / old - 1:+.0%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    messages = options.messages - options.messages % AT_ONCE
    with open_redis_server() as running:
        server = Server.at(running)
        facts = server.client.info("server")
        print(facts.get("server_name", "redis"), facts.get("valkey_version", facts["redis_version"]))
        print("\n| | today | with the newer command | |\n|---|---|---|---|")
        if server.has("XACKDEL"):
            today, newer = scripts.SETTLE_PLAIN, with_xackdel(scripts.SETTLE_PLAIN)
            for name, at_once in (
                ("settle, a hundred at once", AT_ONCE),
                ("settle, ten at once", 10),
                ("settle one", 1),
            ):
                compared(
                    name,
                    lambda at_once=at_once: settling(server, today, messages, at_once),
                    lambda at_once=at_once: settling(server, newer, messages, at_once),
                    options.repeat,
                )
        if server.has("XDELEX"):
            compared(
                "delete, a hundred at once",
                lambda: deleting(server, lambda some: ("XDEL", SOURCE, *some), messages),
                lambda: deleting(server, lambda some: ("XDELEX", SOURCE, "KEEPREF", "IDS", len(some), *some), messages),
                options.repeat,
            )
        if server.has("HSETEX"):
            seen = f"{keys.prefix(SOURCE)}seen"

            def as_key(name: str) -> Sequence[Any]:
                return "SET", f"{seen}:{name}", "", "NX", "EX", A_DAY

            def as_field(name: str) -> Sequence[Any]:
                return "HSETEX", seen, "FNX", "EX", A_DAY, "FIELDS", 1, name, ""

            compared(
                "a mark",
                lambda: marking(server, as_key, messages)[0],
                lambda: marking(server, as_field, messages)[0],
                options.repeat,
            )
            of_key, of_field = marking(server, as_key, messages)[1], marking(server, as_field, messages)[1]
            print(f"| memory of a mark | {of_key:.0f} bytes | {of_field:.0f} bytes | {of_field / of_key - 1:+.0%} |")


if __name__ == "__main__":
    main()
