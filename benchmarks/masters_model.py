"""What the figures of `benchmarks.masters` come to, with a core for each primary: by a simulation.

    python -m benchmarks.masters --out FILE; python -m benchmarks.masters_model FILE

Each kind of traffic is simulated: messages arrive at random moments, each goes to the shard of its id, by the function
that clients use, and to the primary that has the slot of that shard in a cluster whose primaries have equal ranges.
Each primary serves one message after the other, for as long as it was measured to take. What else a primary does for
its nodes, idle or not, and for the cluster, is taken off its time beforehand: a line through two idle fleets gives what
each shard costs whatever the number of nodes, and what each node adds. Nodes and senders are as many as it takes to use
seven tenths of a core each.

More processes that take turns on a few cores cost each other something, as servers in no cluster show; with a core for
each they would not. So each number of primaries is simulated twice: with its costs of a message as they were measured,
which is too little, and with those of the first number, which is right as far as commands are all that a message costs.

The cluster is full when its busiest primary is busy for nine tenths of the time. From that come the messages a second,
how many times those of three primaries they are, the waiting times, and the connections of a primary.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import attrs

from actorwork.policy.shards import Layout
from actorwork.streams.transport.slots import SLOTS, key_slot

FULL = 0.9
"""Part of the time for which the busiest primary is busy."""
OF_A_CORE = 0.7
"""Part of a core that each client uses."""
SHARDS = 3
"""For each primary."""
MESSAGES = 200_000
MAXCLIENTS = 10_000
KINDS = {
    "in batches": ("batches", "drain"),
    "one by one": ("send", "drain"),
    "submitted": ("submit",),
    "asked": ("ask",),
}


@attrs.frozen
class Result:
    rate: float
    nodes: int
    senders: int
    p50_ms: float
    p99_ms: float
    connections: int
    other_work: float
    """Part of a primary's time that goes into what is no message."""


def shares(primaries: int, random: Random) -> list[int]:
    """Return the primary of each of many messages."""
    layout = Layout("orders", SHARDS * primaries)
    of_shard = {name: key_slot(name) * primaries // SLOTS for name in layout.names}
    return [of_shard[layout.place(f"{random.getrandbits(64):016x}-{number:x}")] for number in range(MESSAGES)]


def simulate(figures: dict[str, Any], costs: dict[str, Any], kinds: tuple[str, ...], random: Random) -> Result:
    primaries = figures["primaries"]
    server = sum(costs[kind]["server_us"] for kind in kinds) / 1e6
    at_node = costs["drain"]["client_us"] / 1e6
    at_sender = max(costs[kinds[0]]["client_us"] / 1e6 - (0 if "drain" in kinds else at_node), 1e-6)
    places = shares(primaries, random)
    most = max(Counter(places).values()) * primaries / len(places)
    of_shards, of_node = (SHARDS * part for part in figures["parts"])
    gossip = figures["gossip"]["server_ms_s"] / 1e3
    rate, nodes, senders, other = 0.0, 1, 1, 0.0
    for _ in range(50):  # More messages want more nodes, which cost the primaries something.
        other = min(0.99, gossip + of_shards + nodes * of_node)
        rate = primaries * max(0.0, FULL - other) / server / most
        nodes = max(1, round(rate * at_node / OF_A_CORE))
        senders = max(1, round(rate * at_sender / OF_A_CORE))
    waits = wait(places, primaries, rate, server / max(0.01, 1 - other), random)
    connections = nodes * (1 + SHARDS) + senders + nodes // primaries
    return Result(
        rate, nodes, senders, waits[len(waits) // 2] * 1e3, waits[-len(waits) // 100] * 1e3, connections, other
    )


def parts_of_fleets(figures: dict[str, Any]) -> tuple[float, float] | None:
    """Return what part of a primary's time one shard takes, and one node that reads it, with nothing to do.

    None if no fleets were measured with this number of primaries: each is one process, of thousands of connections.
    """
    names = [name for name in figures if name.endswith(" nodes")]
    fleets = sorted((figures[name]["nodes"], figures[name]["server_ms_s"]) for name in names)
    if not fleets:
        return None
    (few, least), (many, most) = fleets[0], fleets[-1]
    of_node = max(0.0, (most - least) / (many - few))
    return (least - few * of_node) / 1e3 / figures["primaries"], of_node / 1e3 / figures["primaries"]


def wait(places: list[int], primaries: int, rate: float, service: float, random: Random) -> list[float]:
    """Return the seconds from the arrival of each message to the end of its service, sorted."""
    free_at = [0.0] * primaries
    now = 0.0
    waits: list[float] = []
    for place in places:
        now += random.expovariate(rate)
        free_at[place] = max(now, free_at[place]) + service
        waits.append(free_at[place] - now)
    return sorted(waits)


def grows(figures: list[dict[str, Any]], kind: str, what: str) -> tuple[float, float]:
    """Return the line through figures by the number of primaries: its value at none, and its slope."""
    xs = [one["primaries"] for one in figures]
    ys = [one[kind][what] for one in figures]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0
    return mean_y - slope * mean_x, slope


def print_measured(figures: list[dict[str, Any]]) -> None:
    print("| of each message |" + "".join(f" {one['primaries']} |" for one in figures) + " more for each primary |")
    print("|---|" + "---|" * (len(figures) + 1))
    cells = "".join(f" {one['alone']['server_us']:.1f} |" for one in figures)
    print(f"| XADD, servers in no cluster: µs of the servers |{cells} {grows(figures, 'alone', 'server_us')[1]:.2f} |")
    for kind in ("send", "batches", "drain", "submit", "result", "ask"):
        for what, unit in (
            ("server_us", "µs of the servers"),
            ("client_us", "µs of the clients"),
            ("commands", "commands"),
        ):
            cells = "".join(f" {one[kind][what]:.1f} |" for one in figures)
            print(f"| {kind}: {unit} |{cells} {grows(figures, kind, what)[1]:.2f} |")
    print("\n| share of the busiest primary, 1 is equal |" + "".join(f" {one['primaries']} |" for one in figures))
    print("|---|" + "---|" * len(figures))
    for kind in ("send", "batches"):
        print(f"| {kind} |" + "".join(f" {one[kind]['most_of_mean']:.2f} |" for one in figures))
    print("\n| idle |" + "".join(f" {one['primaries']} |" for one in figures))
    print("|---|" + "---|" * len(figures))
    print("| gossip, ms/s of a primary |" + "".join(f" {one['gossip']['server_ms_s']:.1f} |" for one in figures))
    for who in ("client", *(kind for kind in figures[0] if kind.endswith(("node", "nodes")))):
        for what in ("commands_s", "most_commands_s", "server_ms_s", "client_ms_s", "connections", "most_connections"):
            print(f"| {who}: {what} |" + "".join(f" {one[who][what]:.1f} |" for one in figures if who in one))


def print_simulated(figures: list[dict[str, Any]]) -> None:
    first = figures[0]
    for name, kinds in KINDS.items():
        print(
            f"\n| {name} | messages a second, costs as measured | costs of {first['primaries']} primaries |"
            " times the first, for times the primaries | nodes, senders | median, p99 | connections of a primary |"
            " other work |"
        )
        print("|---|---|---|---|---|---|---|---|")
        begun = simulate(first, first, kinds, Random(1)).rate
        for one in figures:
            least, found = (simulate(one, costs, kinds, Random(1)) for costs in (one, first))
            print(
                f"| {one['primaries']} | {least.rate:,.0f} | {found.rate:,.0f} | {least.rate / begun:.1f} to"
                f" {found.rate / begun:.1f} of {one['primaries'] / first['primaries']:.1f} |"
                f" {found.nodes}, {found.senders} | {found.p50_ms:.2f} ms, {found.p99_ms:.2f} ms |"
                f" {found.connections:,}{' > maxclients' if found.connections > MAXCLIENTS else ''} |"
                f" {found.other_work:.0%} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    by_primaries: dict[int, list[dict[str, Any]]] = {}
    for line in options.file.read_text().splitlines():
        one = json.loads(line)
        by_primaries.setdefault(one["primaries"], []).append(one)
    figures = [least(some) for _, some in sorted(by_primaries.items())]
    parts: tuple[float, float] | None = None
    for one in figures:
        parts = parts_of_fleets(one) or parts
        if parts is None:
            parser.error("no fleets were measured: run benchmarks.masters with --fleet")
        one["parts"] = parts  # If there are none, those of fewer primaries.
    print_measured(figures)
    print_simulated(figures)


def least(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the least of each figure of several runs: what other programs do only adds to it."""
    found: dict[str, Any] = {"primaries": runs[0]["primaries"]}
    for kind, of in runs[0].items():
        if kind != "primaries":
            found[kind] = {
                what: min(run[kind][what] for run in runs)
                for what, value in of.items()
                if isinstance(value, float | int)
            }
    return found


if __name__ == "__main__":
    main()
