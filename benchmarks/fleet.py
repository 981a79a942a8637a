"""What idle nodes cost their server: its CPU time and its commands, by the number of nodes that read one source.

    python -m benchmarks.fleet [--nodes 1,10,100,300,1000] [--seconds 10] [--settle 5] [--processes 4] [--sources 1]
                               [--rate 0]

Each simulated node is a real node of the broker, without an actor: its connections, its parked read, its looks after
the source. Only its lease is renewed over the connection that it has, instead of by a thread with one more. All nodes
join one group, and each gets its consumer at once, as from Redis 7.2 on. With a rate, one more process sends that many
messages a second, one by one, which the nodes settle as they come.

Figures are those of the server (INFO cpu and commandstats), after a pause in which the nodes settle down. The slope is
that of a line through the logarithms: 1 is a cost that grows with the nodes, 2 one that grows with their square.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import redis
import trio

from actorwork.abc import LeaseState, Node, Subscription
from actorwork.message import Delivery, Envelope, MessageIds
from actorwork.policy.settlement import ACK
from actorwork.streams import keys, node
from actorwork.streams.broker import RedisBroker, open_broker
from actorwork.streams.lease import new_incarnation
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.commands import Script
from actorwork.testing.redis_server import open_redis_server

GROUP = "fleet"
LEASE = 10.0


class Settling:
    """A mailbox that has room, and acknowledges what it gets."""

    node: Node
    subscription: Subscription

    def credit(self, *, urgent: bool = False) -> int:
        return 100

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.node.settle(self.subscription, delivery, ACK)

    def cancel(self, source: str, message_id: str, reason: str, *, force: bool = False) -> None: ...

    def revoke(self) -> None: ...


class ThinLease:
    """Takes the place of `actorwork.streams.lease.Lease`, without its thread."""

    broker: RedisBroker
    """The one of the node that is made next."""

    def __init__(self, _address: Address, seconds: float, **_told: Callable[..., object]) -> None:
        self.incarnation = new_incarnation()
        self._seconds = seconds
        self._call = ThinLease.broker.client.call

    async def take(self) -> None:
        await self._call("SET", keys.lease(self.incarnation), "", "PX", round(self._seconds * 1000))

    async def hold(self) -> None:
        while True:
            await trio.sleep(self._seconds / 3)
            await self._call("SET", keys.lease(self.incarnation), "", "XX", "PX", round(self._seconds * 1000))
            await self._call("TIME")

    def check(self) -> None: ...

    def now(self) -> float:
        return trio.current_time()

    def state(self) -> LeaseState:
        return LeaseState(self._seconds)

    async def release(self) -> None: ...


async def run_nodes(url: str, count: int, sources: Sequence[str]) -> None:
    """Run some nodes until the input ends, which is told when they run."""
    node.Lease = ThinLease  # pyright: ignore[reportAttributeAccessIssue]
    troubles: list[object] = []
    done: Counter[str] = Counter()

    async def run_one() -> None:
        async with open_broker(url, emit=troubles.append, is_unsafe_allowed=True) as broker:
            ThinLease.broker = broker
            count_scripts(broker.client, done)
            mailbox = Settling()
            subscription = Subscription(GROUP, GROUP, tuple(sources), mailbox)
            async with broker.open_node([subscription], lease=LEASE, emit=troubles.append) as one:
                mailbox.node, mailbox.subscription = one, subscription
                for source in sources:
                    await broker.client.call("XGROUP", "CREATECONSUMER", source, GROUP, one.incarnation)
                lease: Any = one._lease  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
                await lease.hold()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(run_one)
            await trio.sleep(0.005)
        print("running", flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            print(json.dumps(done), flush=True)
        nursery.cancel_scope.cancel()


def count_scripts(client: Any, done: Counter[str]) -> None:
    """Count the scripts that a client runs, by their names: the server does not tell them apart."""
    run = client.run_script

    async def counted(script: Script, *args: Any, **options: Any) -> Any:
        done[script.name] += 1
        return await run(script, *args, **options)

    client.run_script = counted


async def send(url: str, rate: float, sources: Sequence[str]) -> None:
    """Send messages one by one, at a rate, until the input ends."""
    ids = MessageIds(os.urandom(8).hex())

    async def go_on(broker: RedisBroker) -> None:
        began, number = trio.current_time(), 0
        while True:
            await broker.publish([Envelope(sources[number % len(sources)], next(ids), b"1")])
            number += 1
            await trio.sleep_until(began + number / rate)

    async with open_broker(url, emit=lambda _: None, is_unsafe_allowed=True) as broker, trio.open_nursery() as nursery:
        nursery.start_soon(go_on, broker)
        print("running", flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            print("{}", flush=True)
        nursery.cancel_scope.cancel()


def measured(server: Any) -> tuple[float, Counter[str]]:
    """Return seconds of CPU, and the calls of each command, those within scripts included."""
    cpu = server.info("cpu")
    stats = server.info("commandstats")
    calls = Counter({name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()})
    return cpu["used_cpu_user"] + cpu["used_cpu_sys"], calls


def scripts_of(workers: Sequence["subprocess.Popen[str]"]) -> Counter[str]:
    """Return how often the nodes have run each script."""
    found: Counter[str] = Counter()
    for worker in workers:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
        found.update(json.loads(worker.stdout.readline()))
    return found


def fleet(nodes: int, options: argparse.Namespace, sources: Sequence[str]) -> dict[str, float]:
    with open_redis_server(config={"maxclients": "20000"}) as server:
        shares = [
            nodes // options.processes + (number < nodes % options.processes) for number in range(options.processes)
        ]
        command = [sys.executable, "-m", "benchmarks.fleet", "--worker", server.url]
        workers = [
            subprocess.Popen([*command, str(share), *sources], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for share in shares
            if share
        ]
        if options.rate:
            command = [sys.executable, "-m", "benchmarks.fleet", "--sender", server.url, str(options.rate), *sources]
            workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        client = redis.Redis(unix_socket_path=str(server.socket_path))
        try:
            for worker in workers:
                assert worker.stdout is not None
                assert worker.stdout.readline() == "running\n"
            time.sleep(options.settle)
            run = scripts_of(workers)
            began, (cpu, calls) = time.monotonic(), measured(client)
            time.sleep(options.seconds)
            ended, (cpu_after, calls_after) = time.monotonic(), measured(client)
            run = scripts_of(workers) - run
        finally:
            for worker in workers:
                worker.communicate("")
        elapsed = ended - began
        done = calls_after - calls
        scripts = done["evalsha"] + done["eval"]
        return {
            "nodes": nodes,
            "cpu_percent": 100 * (cpu_after - cpu) / elapsed,
            "commands": sum(done.values()) / elapsed,
            "scripts": scripts / elapsed,
            "exists": done["exists"] / elapsed,
            **{f"script_{name}": count / elapsed for name, count in run.items()},
            **{f"calls_{name}": count / elapsed for name, count in done.most_common(12)},
        }


def slope(found: Sequence[dict[str, float]], figure: str) -> float:
    """Return the slope of a figure against the nodes, both as logarithms, by least squares."""
    points = [(math.log(one["nodes"]), math.log(max(one[figure], 1e-9))) for one in found]
    x = sum(point[0] for point in points) / len(points)
    y = sum(point[1] for point in points) / len(points)
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", default="1,10,100,300,1000")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--settle", type=float, default=5.0)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--sources", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--sender", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.worker:
        url, count, *sources = options.worker
        trio.run(run_nodes, url, int(count), sources)
        return
    if options.sender:
        url, rate, *sources = options.sender
        trio.run(send, url, float(rate), sources)
        return
    sources = [f"fleet-{number}" for number in range(options.sources)]
    found: list[dict[str, float]] = []
    for nodes in map(int, options.nodes.split(",")):
        found.append(fleet(nodes, options, sources))
        print(json.dumps({name: round(value, 2) for name, value in found[-1].items()}), flush=True)
    if len(found) > 1:
        for figure in ("cpu_percent", "commands"):
            print(f"slope of {figure}: {slope(found, figure):.2f}")


if __name__ == "__main__":
    main()
