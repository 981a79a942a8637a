"""Whether a cluster of many primaries is as good as many servers: what a message costs with 3, 10, 30 and 100 of them.

    python -m benchmarks.masters [--primaries 3,10,30,100] [--each 600] [--idle 10]
                                [--fleet 32,64] [--out FILE]

Each cluster is real: as many processes as primaries, on this machine, with one shard of a source at each. They share
its cores, so how many messages a second they handle says nothing. What says something is how the costs of one message
change with the number of primaries: if they do not, and all primaries have equal shares, then as many cores handle as
many times the messages.

    alone      as many servers that are in no cluster, 20 XADD to each at a time: what the machine adds, on whose cores
               and caches so many processes take turns
    gossip     the members of the cluster alone: they talk to each other
    client     one client, which sends nothing: its commands and its CPU in a second
    node       one node, which reads all shards, with nothing to do: commands, CPU and connections
    nodes      the same of fleets: what grows with the nodes, and what is done for each shard however many there are
    send       20 tasks for each primary that send one message after the other
    batches    150 messages for each primary in one call, by id to all shards
    drain      what was sent, read and settled by one node that handles it by doing nothing
    ask        64 tasks that ask one after the other: a reply each, to the client that asked
    submit     64 tasks that submit; the node handles it, and no caller waits for the result
    result     64 tasks that submit and wait for the result

So a primary gets as many messages at a time with each number of them: what a message costs a server depends on how many
come together. Those that are asked and submitted go to the source of one actor, at one primary.

Server CPU is INFO cpu of all primaries together, less what they use in the same time without messages, and less what it
costs to ask them. Commands are those of clients and scripts (INFO commandstats). Figures are JSON, one line for each
number of primaries; `masters_model` makes tables of them, and says what they come to on as many cores.
"""

import argparse
import json
import os
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import redis
import trio

from actorwork import Actor, Child, Settings, Source, open_client, open_system, receive
from actorwork.brokers import open_broker
from actorwork.message import Envelope, MessageIds
from actorwork.policy.shards import Layout
from actorwork.testing.redis_cluster import RedisCluster, open_redis_cluster
from actorwork.testing.redis_server import open_redis_server

ORDERS = "orders"
TASKS = 64
TASKS_EACH = 20
AT_ONCE_EACH = 150
JOINING = 15.0
"""The timeout of nodes at first: they hear of each other within half of it."""
TIMEOUT = "60000"
"""The same later, in ms: so many processes on few cores may be slow to answer, and talk less."""
NOT_COUNTED = ("info", "ping", "client", "hello", "cluster", "config")


@attrs.frozen
class Reading:
    """What all primaries have done so far, each in its place."""

    at: float
    client: float
    cpu: Sequence[float]
    calls: Sequence[Counter[str]]


class Fleet:
    """A cluster, and a connection to each primary."""

    def __init__(self, cluster: RedisCluster, stack: ExitStack) -> None:
        self.cluster = cluster
        self.url = cluster.url
        self._members: list[Any] = [
            stack.enter_context(redis.Redis(host=member.place[0], port=member.port)) for member in cluster.primaries
        ]
        self._asking: float = 0.0
        self.idle: float = 0.0

    def read(self) -> Reading:
        calls: list[Counter[str]] = []
        cpu: list[float] = []
        for member in self._members:
            stats = member.info("commandstats")
            calls.append(Counter({name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}))
        for member in self._members:
            facts = member.info("cpu")
            cpu.append(float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"]))
        return Reading(time.monotonic(), time.process_time(), cpu, calls)

    def settle(self, seconds: float) -> None:
        """Learn what asking costs, and what the servers use without messages."""
        costs: list[float] = []
        for _ in range(5):
            before = self.read()
            after = self.read()
            costs.append(sum(after.cpu) - sum(before.cpu))
        self._asking = min(costs)
        before = self.read()
        time.sleep(seconds)
        after = self.read()
        self.idle = (sum(after.cpu) - sum(before.cpu) - self._asking) / (after.at - before.at)

    def between(self, before: Reading, after: Reading, *, base: float) -> tuple[float, Counter[str], list[int], float]:
        """Return the servers' CPU beyond `base` in a second, the commands, those of each primary, and seconds."""
        seconds = after.at - before.at
        each = [one - other for one, other in zip(after.calls, before.calls, strict=True)]
        for one in each:
            for name in tuple(one):
                if name.startswith(NOT_COUNTED):
                    del one[name]
        total = sum(each, Counter[str]())
        cpu = sum(after.cpu) - sum(before.cpu) - self._asking - base * seconds
        return cpu, total, [one.total() for one in each], seconds

    def connections(self) -> list[int]:
        """Return how many connections of actorwork each primary has."""
        return [sum(one["name"].startswith("actorwork") for one in member.client_list()) for member in self._members]

    def lengths(self, names: Sequence[str]) -> list[int]:
        """Return how many messages wait in each shard: there is one at each primary, in their order."""
        return [member.xlen(name) for member, name in zip(self._members, names, strict=True)]


class Counting(Actor):
    """Counts what it gets."""

    def __init__(self) -> None:
        self.seen = 0
        COUNTERS[:] = [self]

    @receive
    async def take(self, *, i: int) -> int:
        self.seen += 1
        return i


COUNTERS: list[Counting] = []


def tree(shards: int) -> Any:
    settings = Settings(title="counting", sources={Source(ORDERS, shards=shards)}, concurrency=64)
    return Child(type("CountingShards", (Counting,), {"settings": settings}))


async def in_tasks(count: int, job: Callable[[int], Awaitable[object]], tasks: int = TASKS) -> None:
    """Do something so many times, in some tasks, each of which does one after the other."""
    numbers = iter(range(count))

    async def go_on() -> None:
        for number in numbers:
            await job(number)

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(go_on)


def alone(servers: int) -> float:
    """Return the microseconds of CPU that one XADD costs servers that are in no cluster."""
    at_once, rounds = 20, max(5, 1500 // servers)
    with ExitStack() as stack:
        members: list[Any] = []
        for _ in range(servers):
            server = stack.enter_context(open_redis_server())
            members.append(stack.enter_context(redis.Redis(unix_socket_path=str(server.socket_path))))
        sent = [("XADD", "s", "*", "id", "0123456789abcdef-1", "data", "{}")] * at_once

        def used() -> float:
            facts = [member.info("cpu") for member in members]
            return sum(float(one["used_cpu_user"]) + float(one["used_cpu_sys"]) for one in facts)

        def send(times: int) -> float:
            before = used()
            for _ in range(times):
                connections = [member.connection_pool.get_connection() for member in members]
                for connection in connections:
                    connection.send_packed_command(connection.pack_commands(sent))
                for connection, member in zip(connections, members, strict=True):
                    for _ in sent:
                        connection.read_response()
                    member.connection_pool.release(connection)
            return used() - before

        send(3)
        idle = min(send(0) for _ in range(5))
        return (send(rounds) - idle) / (rounds * servers * at_once) * 1e6


async def measure(fleet: Fleet, primaries: int, options: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {"primaries": primaries}
    count = max(options.least, options.each * primaries)
    few = options.few

    async def cost(what: str, messages: int, work: Callable[[], Awaitable[object]], *, base: float = 0.0) -> None:
        before = fleet.read()
        await work()
        after = fleet.read()
        cpu, calls, each, seconds = fleet.between(before, after, base=fleet.idle + base)
        figures[what] = {
            "server_us": cpu / messages * 1e6,
            "client_us": (after.client - before.client) / messages * 1e6,
            "commands": calls.total() / messages,
            "scripts": (calls["evalsha"] + calls["eval"]) / messages,
            "most_of_mean": max(each) * len(each) / max(1, sum(each)),
            "seconds": seconds,
        }

    async def idle(what: str) -> float:
        await trio.sleep(options.idle / 3)
        before = fleet.read()
        await trio.sleep(options.idle)
        after = fleet.read()
        cpu, calls, each, seconds = fleet.between(before, after, base=fleet.idle)
        connections = fleet.connections()
        figures[what] = {
            "server_ms_s": cpu / seconds * 1e3,
            "client_ms_s": (after.client - before.client) / seconds * 1e3,
            "commands_s": calls.total() / seconds,
            "most_commands_s": max(each) / seconds,
            "by_command": {name: round(number / seconds, 2) for name, number in calls.most_common(12)},
            "connections": sum(connections),
            "most_connections": max(connections),
            "least_connections": min(connections),
        }
        return cpu / seconds

    fleet.settle(options.idle)
    figures["gossip"] = {"server_ms_s": fleet.idle * 1e3 / primaries}
    ids = MessageIds(os.urandom(8).hex())

    def envelope(number: int) -> Envelope:
        return Envelope(ORDERS, next(ids), b'{"i":%d}' % number)

    sent = 0

    async with open_broker(fleet.url) as broker:
        await broker.shards.declare(ORDERS, primaries)
        await broker.pauses.pause("source", ORDERS)
        await idle("client")
        names = Layout(ORDERS, primaries).names

        async def send(messages: int) -> None:
            nonlocal sent
            await in_tasks(messages, lambda number: broker.publish_new(envelope(number)), TASKS_EACH * primaries)
            sent += messages

        at_once = AT_ONCE_EACH * primaries

        async def send_many(messages: int) -> None:
            nonlocal sent
            for first in range(0, messages, at_once):
                await broker.publish([envelope(number) for number in range(first, min(first + at_once, messages))])
            sent += messages

        await send(4 * primaries)
        await cost("send", count, partial(send, count))
        lengths = fleet.lengths(names)
        figures["send"]["most_of_mean"] = max(lengths) * len(lengths) / sum(lengths)
        await send_many(8 * primaries)
        await cost("batches", count, partial(send_many, count))

    async with open_client(fleet.url) as client:

        async def drain() -> None:
            await client.broker.pauses.resume("source", ORDERS)
            while COUNTERS[0].seen < sent:  # noqa: ASYNC110 - it sets no event
                await trio.sleep(0.01)
            while any(fleet.lengths(names)):  # noqa: ASYNC110 - servers set none
                await trio.sleep(0.05)

        async with open_system(tree(primaries), broker=fleet.url):
            while not COUNTERS:  # noqa: ASYNC110 - it sets none
                await trio.sleep(0.01)
            base = await idle("node that is paused")
            await cost("drain", sent, drain, base=base)
            base = await idle("node")
            ref = client.ref("counting")
            await in_tasks(TASKS, lambda number: ref.ask({"i": number}))
            await cost("ask", few, lambda: in_tasks(few, lambda number: ref.ask({"i": number})), base=base)

            async def submit(*, waits: bool) -> None:
                async def one(number: int) -> None:
                    receipt = await ref.submit({"i": number})
                    if waits:
                        await receipt.result()

                seen = COUNTERS[0].seen
                await in_tasks(few, one)
                while COUNTERS[0].seen < seen + few:  # noqa: ASYNC110 - it sets no event
                    await trio.sleep(0.01)

            await in_tasks(TASKS, lambda number: ref.submit({"i": number}))
            await cost("submit", few, partial(submit, waits=False), base=base)
            await cost("result", few, partial(submit, waits=True), base=base)
    for nodes in options.fleet:
        async with AsyncExitStack() as stack:
            for _ in range(nodes):
                await stack.enter_async_context(open_system(tree(primaries), broker=fleet.url))
            # As long as a node may look at a shard: by then each knows how many there are.
            await trio.sleep(10)
            await idle(f"{nodes} nodes")
        figures[f"{nodes} nodes"]["nodes"] = nodes
    return figures


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",") if one]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--primaries", type=numbers, default="3,10,30,100")
    parser.add_argument("--each", type=int, default=600, help="messages for each primary, of each kind")
    parser.add_argument("--least", type=int, default=12_000, help="messages at least")
    parser.add_argument("--few", type=int, default=3000, help="messages that are asked, or submitted")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds without messages")
    parser.add_argument("--fleet", type=numbers, default="32,64", help="how many nodes with nothing to do")
    parser.add_argument("--out", type=Path, help="a file to which the figures are added")
    options = parser.parse_args()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    for primaries in options.primaries:
        of_the_machine = alone(primaries)
        with open_redis_cluster(primaries=primaries, node_timeout=JOINING) as cluster, ExitStack() as stack:
            for member in cluster.primaries:
                member.call("CONFIG", "SET", "cluster-node-timeout", TIMEOUT)
            figures = trio.run(measure, Fleet(cluster, stack), primaries, options)
        line = json.dumps(figures | {"alone": {"server_us": of_the_machine}})
        print(line, flush=True)
        if options.out:
            with options.out.open("a") as out:
                out.write(line + "\n")


if __name__ == "__main__":
    main()
