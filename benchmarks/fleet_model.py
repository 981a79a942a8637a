"""What a fleet costs its server by a model, beside what it costs: for 1, 10, 100 and 1,000 nodes of one source.

    python -m benchmarks.fleet_model [--nodes 1,10,100,1000] [--rate 50] [--seconds 10]

The model is a sum: how often each kind of work comes, times what it costs the CPU of the server each time.

    kind        how often in a second                           measured
    base        once                                            a server without clients
    connection  2 for each node: what they cost while idle      400 connections that say nothing
    lease       0.3 for each node: SET, and TIME                alone, at an even rate
    read        0.2 for each node: a parked read runs out       the same
    look        1 for each of up to 16 nodes, 0.53 of more      the same, in a group of 50
    look-after  1 for each source                               the same
    message     the rate: sent, read and settled                a fleet of one node
    parked      the rate for each node that is parked           a fleet of 200, less all of the above

A call costs several times as much if the server has slept before as if it comes among others. So each kind is measured
at a calm and at a brisk rate, and a fleet is reckoned between them, by how many calls come from it in a second.

None of the figures of a fleet without messages goes into what is predicted for it. All of them are INFO cpu of the
server, so they hold on a machine that is busy. Then come predictions for fleets that do not fit on one machine, with
the first limit that they meet.
"""

import argparse
import json
import math
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import attrs
import redis
import trio

from actorwork.abc import Subscription
from actorwork.streams import keys, node, scripts
from actorwork.streams.broker import open_broker
from actorwork.streams.reclaimer import Reclaimer
from actorwork.testing.redis_server import RedisServer, open_redis_server
from benchmarks.fleet import GROUP, Settling, ThinLease, fleet

PACES = (0.01, 0.0007)
"""Seconds between two calls that are measured: calm, and brisk."""
MEASURED_FOR = 4.0
RATES = (50.0, 500.0)
"""Messages a second, the same."""
BEHIND = 4
"""Calls for each message: it is sent, read and settled, and its node looks sooner."""
FEW = 16
CONNECTIONS = 2
"""Of a simulated node; a real one has one more, of the thread that renews its lease."""
MAXCLIENTS = 10_000
READERS = 50
PARKED_AT = 200
PARKED_RATE = 200.0


@attrs.define
class Costs:
    """Microseconds of the server's CPU: of each second for `base` and each `connection`, else of each time."""

    base: float = 0.0
    connection: float = 0.0
    lease: float = 0.0
    read: float = 0.0
    look: float = 0.0
    look_after: float = 0.0
    message: float = 0.0
    parked: float = 0.0


@attrs.define
class Model:
    calm: Costs = attrs.field(factory=Costs)
    brisk: Costs = attrs.field(factory=Costs)

    def predicted(self, nodes: int, rate: float) -> dict[str, float]:
        """Return per cent of a core, by kind."""
        counts = times(nodes, 1, rate)
        calls = 2 * counts["lease"] + counts["read"] + counts["look"] + counts["look_after"] + BEHIND * rate
        slow, fast = (math.log(1 / pace) for pace in PACES)
        briskness = min(1.0, max(0.0, (math.log(max(calls, 1e-9)) - slow) / (fast - slow)))
        calm, brisk = attrs.asdict(self.calm), attrs.asdict(self.brisk)
        return {
            kind: count * (calm[kind] + briskness * (brisk[kind] - calm[kind])) / 1e4 for kind, count in counts.items()
        }


def times(nodes: int, sources: int, rate: float) -> dict[str, float]:
    """Return how often each kind of work comes in a second."""
    return {
        "base": 1.0,
        "connection": CONNECTIONS * nodes,
        "lease": 0.3 * nodes,
        "read": 0.2 * nodes,
        "look": max(0.0, nodes - 1) if nodes <= FEW else nodes / 1.9,
        "look_after": sources,
        "message": rate,
        "parked": rate * nodes,
    }


def used(client: Any) -> float:
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


def idle(client: Any, seconds: float) -> float:
    """Return the microseconds of CPU that a server uses in a second, left alone."""
    began, before = time.monotonic(), used(client)
    time.sleep(seconds)
    return (used(client) - before) / (time.monotonic() - began) * 1e6


def each(client: Any, base: float, pace: float, call: Callable[[], object]) -> float:
    """Return the microseconds of CPU that a call costs, at an even rate."""
    began, before, count = time.monotonic(), used(client), 0
    while (now := time.monotonic()) < began + MEASURED_FOR:
        call()
        count += 1
        time.sleep(max(0.0, began + count * pace - now))
    return ((used(client) - before) * 1e6 - base * (time.monotonic() - began)) / count


def opened(server: RedisServer) -> Any:
    return redis.Redis(unix_socket_path=str(server.socket_path))


def calibrate_calls(model: Model) -> None:
    """Measure what does not need a fleet."""
    with open_redis_server(config={"maxclients": "20000"}) as server, ExitStack() as stack:
        client = opened(server)
        base = idle(client, 4)
        many = [stack.enter_context(opened(server)) for _ in range(400)]
        for one in many:
            one.ping()
        connection = max(0.0, (idle(client, 4) - base) / len(many))
        with_all = base + connection * len(many)
        client.xgroup_create("fleet-0", GROUP, "0", mkstream=True)
        for number in range(READERS):
            client.xgroup_createconsumer("fleet-0", GROUP, f"node-{number}")

        def renew() -> None:
            client.execute_command("SET", keys.lease("node-1"), "", "PX", 10_000)
            client.execute_command("TIME")

        def read() -> None:
            client.execute_command(
                "XREADGROUP", "GROUP", GROUP, "node-1", "COUNT", 10, "BLOCK", 1, "STREAMS", "fleet-0", ">"
            )

        for costs, pace in zip((model.calm, model.brisk), PACES, strict=True):
            costs.base, costs.connection = base, connection
            costs.lease = each(client, with_all, 2 * pace, renew)
            costs.read = each(client, with_all, pace, read)
            trio.run(calibrate_looks, server.url, client, with_all, costs, pace)


async def calibrate_looks(url: str, client: Any, base: float, costs: Costs, pace: float) -> None:
    """Measure looks, and looking after a source, as nodes do them."""
    node.Lease = ThinLease  # pyright: ignore[reportAttributeAccessIssue]
    async with open_broker(url, emit=lambda _: None, is_unsafe_allowed=True) as broker:
        ThinLease.broker = broker
        mailbox = Settling()
        subscription = Subscription(GROUP, GROUP, ("fleet-0",), mailbox)
        async with broker.open_node([subscription], lease=3600, emit=lambda _: None) as one:
            mailbox.node, mailbox.subscription = one, subscription
            (part,) = one._intake.parts  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            stream = "fleet-0"
            looked = (GROUP, one.incarnation, 1000, keys.prefix(stream), 1, 0, 0)

            async def cost(call: Callable[[], Any]) -> float:
                began, before, count = trio.current_time(), used(client), 0
                while trio.current_time() < began + MEASURED_FOR:
                    await call()
                    count += 1
                    await trio.sleep_until(began + count * pace)
                return ((used(client) - before) * 1e6 - base * (trio.current_time() - began)) / count

            costs.look = await cost(
                lambda: broker.client.run_script(scripts.LOOK, (keys.lease(one.incarnation), stream), looked)
            )
            costs.look_after = await cost(lambda: Reclaimer.maintain(part.reclaimer))


def calibrate_messages(model: Model, options: argparse.Namespace) -> None:
    """Measure what a message costs with one node, and how much more with many parked ones."""

    def of_each_message(nodes: int, rate: float) -> float:
        without = sum(model.predicted(nodes, 0).values())
        return (run_fleet(nodes, rate, options)["cpu_percent"] - without) * 1e4 / rate

    model.calm.message, model.brisk.message = (of_each_message(1, rate) for rate in RATES)
    known = model.predicted(1, PARKED_RATE)["message"] * 1e4 / PARKED_RATE
    parked = max(0.0, (of_each_message(PARKED_AT, PARKED_RATE) - known) / PARKED_AT)
    model.calm.parked = model.brisk.parked = parked


def run_fleet(nodes: int, rate: float, options: argparse.Namespace) -> dict[str, float]:
    options.rate = rate
    return fleet(nodes, options, ["fleet-0"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", default="1,10,100,1000")
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--settle", type=float, default=5.0)
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rate = options.rate
    model = Model()
    calibrate_calls(model)
    calibrate_messages(model, options)
    for costs in (model.calm, model.brisk):
        print(json.dumps({kind: round(cost, 2) for kind, cost in attrs.asdict(costs).items()}), flush=True)
    print("\n| nodes | messages a second | predicted | measured | of the predicted: what nodes do | messages |")
    print("|---|---|---|---|---|---|")
    for nodes in map(int, options.nodes.split(",")):
        for load in (0.0, rate):
            parts = model.predicted(nodes, load)
            of_messages = parts["message"] + parts["parked"]
            total = sum(parts.values())
            found = run_fleet(nodes, load, options)["cpu_percent"]
            print(
                f"| {nodes:,} | {load:g} | {total:.1f} % | {found:.1f} % | {total - of_messages:.1f} % |"
                f" {of_messages:.1f} % |",
                flush=True,
            )
    print("\n| nodes, idle | predicted | connections of nodes with one actor | breaks first |\n|---|---|---|---|")
    for nodes in (1_000, 10_000, 100_000, 1_000_000):
        cores = sum(model.predicted(nodes, 0).values()) / 100
        connections = 3 * nodes
        first = "nothing"
        if cores > 1 or connections > MAXCLIENTS:
            by = {"the connections": connections / MAXCLIENTS, "the core of the server": cores}
            first = max(by, key=lambda one: by[one])
        print(f"| {nodes:,} | {cores:.2f} cores | {connections:,} | {first} |")


if __name__ == "__main__":
    main()
