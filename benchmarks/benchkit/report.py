"""The results as Markdown: every peer by every figure, and our figures beside their goals.

A file holds one JSON line per run. Several files may hold the same peer and case: every good run counts, and the table
shows the medians.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.benchkit.registry import OURS, PEERS

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    head: str
    case: str
    figure: str
    digits: int = 0


COLUMNS = [
    Column("enqueue/s", "enqueue", "rate"),
    Column("batch/s", "enqueue", "batch_rate"),
    Column("in flight/s", "enqueue", "in_flight_rate"),
    Column("submit/s", "submit", "rate"),
    Column("drain/s", "drain", "rate"),
    Column("CPU s/1k", "drain", "worker_cpu_s_per_1000", 3),
    Column("Redis CPU s/1k", "drain", "redis_cpu_s_per_1000", 3),
    Column("cmds/job", "drain", "redis_cmds_per_job", 1),
    Column("reads/job", "drain", "redis_reads_per_job", 2),
    Column("RSS MB", "drain", "rss_peak_mb"),
    Column("drain 2p/s", "drain2", "rate"),
    Column("lat p50", "latency", "p50_ms", 2),
    Column("p95", "latency", "p95_ms", 2),
    Column("p99 ms", "latency", "p99_ms", 2),
    Column("io s (ideal)", "io", "s", 2),
    Column("rpc p50", "rpc", "p50_ms", 2),
    Column("p99 ms", "rpc", "p99_ms", 2),
    Column("members/s", "members", "rate"),
    Column("CPU s/1k", "members", "worker_cpu_s_per_1000", 3),
    Column("Redis CPU s/1k", "members", "redis_cpu_s_per_1000", 3),
    Column("group/s", "group", "rate"),
    Column("group all s", "group", "all_s", 2),
    Column("chord start s", "chord", "start_s", 2),
    Column("chord body ms", "chord", "body_ms"),
    Column("cold ms", "cold", "cold_ms"),
    Column("idle PSS MB", "cold", "idle_pss_mb"),
    Column("idle CPU %", "cold", "idle_cpu_pct", 1),
    Column("idle cmd/s", "cold", "idle_cmds_per_s", 1),
    Column("lost in N kills", "crash", "lost"),
    Column("dup in N kills", "crash", "duplicated"),
    Column("all done s", "crash", "all_done_s_after_kill", 1),
]


class Results:
    """Every run of some files, by peer and case."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.rows: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
        for path in paths:
            for line in Path(path).read_text().splitlines():
                if line.strip():
                    row = json.loads(line)
                    self.rows[row["peer"], row["case"]].append(row)

    @property
    def peers(self) -> list[str]:
        seen = {peer for peer, _ in self.rows}
        return [peer for peer in PEERS if peer in seen]

    def median(self, peer: str, case: str, figure: str) -> float | None:
        rows = self.rows.get((peer, case), [])
        values = [row[figure] for row in rows if row.get("ok") and row.get(figure) is not None]
        return statistics.median(values) if values else None

    def failed(self, peer: str, case: str) -> bool:
        rows = self.rows.get((peer, case), [])
        return bool(rows) and not any(row.get("ok") for row in rows)


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def cell(results: Results, peer: str, column: Column) -> str:
    if column.case == "crash":
        return crash_cell(results.rows.get((peer, "crash"), []), column)
    value = results.median(peer, column.case, column.figure)
    if value is None:
        return "fail" if results.failed(peer, column.case) else "-"
    ideal = results.median(peer, "io", "ideal_s") if column.case == "io" else None
    return number(value, column.digits) + (f" ({number(ideal, 2)})" if ideal else "")


def crash_cell(rows: list[Row], column: Column) -> str:
    """Show kills that lost messages too: here a run that is not ok is the most informative."""
    rows = [row for row in rows if "lost" in row]
    if not rows:
        return "-"
    values = [row[column.figure] for row in rows if row[column.figure] is not None]
    if column.figure == "all_done_s_after_kill":
        return number(statistics.median(values), column.digits) if values else "-"
    return f"{sum(values)}" + (f" in {len(rows)}" if len(rows) > 1 else "")


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [f"| {' | '.join(words)} |" for words in lines]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows])


def table(paths: Iterable[str]) -> str:
    results = Results(paths)
    head = ["peer", *(column.head for column in COLUMNS)]
    return markdown(head, ([peer, *(cell(results, peer, column) for column in COLUMNS)] for peer in results.peers))


@dataclass(frozen=True)
class Goal:
    """What one of our variants is to reach: a bound, or a factor of what others reached in the same run."""

    what: str
    peer: str
    case: str
    figure: str
    bound: float
    unit: str
    against: tuple[str, ...] = ()
    """The bound is a factor of the best of these peers; with none, the bound is the figure itself."""
    of: tuple[str, str] | None = None
    """The case and the figure of those peers, if they are others than ours."""
    more_is_better: bool = False
    digits: int = 2


LIBRARIES = tuple(peer for peer in PEERS if peer not in OURS and not peer.startswith(("raw", "redis")))
SYNC_LIBRARIES = ("huey", "dramatiq", "celery")
ASYNCIO_LIBRARIES = ("taskiq", "streaq", "docket", "faststream")
RAW_TRIO = ("raw-trio-inline",)
RAW_LOOP = ("raw-100",)
GOALS = [
    Goal("typed drain", "actorwork", "drain", "rate", 0.35, "/s", RAW_LOOP, more_is_better=True, digits=0),
    Goal("no-op drain", "actorwork-noop", "drain", "rate", 0.35, "/s", RAW_LOOP, more_is_better=True, digits=0),
    Goal("keyword drain", "actorwork-kwargs", "drain", "rate", 0.35, "/s", RAW_LOOP, more_is_better=True, digits=0),
    Goal("typed drain, 2 nodes", "actorwork", "drain2", "rate", 0.35, "/s", RAW_LOOP, more_is_better=True, digits=0),
    Goal("enqueue one by one", "actorwork", "enqueue", "rate", 0.75, "/s", RAW_TRIO, more_is_better=True, digits=0),
    Goal(
        "enqueue in batches", "actorwork", "enqueue", "batch_rate", 0.5, "/s", RAW_TRIO, more_is_better=True, digits=0
    ),
    Goal("latency p50", "actorwork", "latency", "p50_ms", 1.5, "ms", RAW_TRIO),
    Goal("latency p50 against the peers", "actorwork", "latency", "p50_ms", 1.0, "ms", LIBRARIES),
    Goal("request and reply p50", "actorwork", "rpc", "p50_ms", 1.0, "ms", LIBRARIES),
    Goal(
        "tracked submit",
        "actorwork",
        "submit",
        "rate",
        0.6,
        "/s",
        ("actorwork",),
        ("enqueue", "rate"),
        more_is_better=True,
        digits=0,
    ),
    Goal(
        "members of a group",
        "actorwork",
        "members",
        "rate",
        0.5,
        "/s",
        ("actorwork",),
        ("drain", "rate"),
        more_is_better=True,
        digits=0,
    ),
    Goal("body after the last member", "actorwork", "chord", "body_ms", 50, "ms", digits=0),
    Goal(
        "asyncio: one by one",
        "actorwork-aio",
        "enqueue",
        "rate",
        0.9,
        "/s",
        ("redis-asyncio",),
        more_is_better=True,
        digits=0,
    ),
    Goal(
        "asyncio: 100 in flight",
        "actorwork-aio",
        "enqueue",
        "in_flight_rate",
        3.0,
        "/s",
        ASYNCIO_LIBRARIES,
        more_is_better=True,
        digits=0,
    ),
    Goal("asyncio: request and reply", "actorwork-aio", "rpc", "p50_ms", 1.0, "ms", LIBRARIES),
    Goal(
        "sync: one by one",
        "actorwork-sync",
        "enqueue",
        "rate",
        0.85,
        "/s",
        ("redis-py",),
        more_is_better=True,
        digits=0,
    ),
    Goal(
        "sync: against the peers",
        "actorwork-sync",
        "enqueue",
        "rate",
        1.0,
        "/s",
        SYNC_LIBRARIES,
        more_is_better=True,
        digits=0,
    ),
    Goal("sync: request and reply", "actorwork-sync", "rpc", "p50_ms", 1.0, "ms", LIBRARIES),
    Goal("2,000 sleepers", "actorwork", "io", "s", 0.30, "s"),
    Goal("cold start", "actorwork", "cold", "cold_ms", 200, "ms", digits=0),
    Goal("idle memory", "actorwork", "cold", "idle_pss_mb", 35, "MB", digits=1),
    Goal("idle CPU", "actorwork", "cold", "idle_cpu_pct", 0.3, "%"),
    Goal("lost after kill -9", "actorwork", "crash", "lost", 0, "", digits=0),
]


def goal_line(results: Results, goal: Goal) -> list[str]:
    measured = results.median(goal.peer, goal.case, goal.figure)
    rivals = [(results.median(peer, *(goal.of or (goal.case, goal.figure))), peer) for peer in goal.against]
    present = [(value, peer) for value, peer in rivals if value is not None]
    if goal.against and not present:
        return [goal.what, f"{goal.bound} x", "-", number(measured, goal.digits), "-", "-"]
    best, who = (max if goal.more_is_better else min)(present) if present else (1.0, "")
    wanted = goal.bound * best
    sign = "≥" if goal.more_is_better else "≤"
    met = None if measured is None else (measured >= wanted if goal.more_is_better else measured <= wanted)
    return [
        goal.what,
        f"{sign} {number(wanted, goal.digits)} {goal.unit}".rstrip(),
        f"{goal.bound} x {who} ({number(best, goal.digits)})" if who else "",
        f"{number(measured, goal.digits)} {goal.unit}".rstrip() if measured is not None else "-",
        number(measured / best, 2) if measured is not None and who else "",
        "-" if met is None else "yes" if met else "**no**",
    ]


def goals(paths: Iterable[str]) -> str:
    results = Results(paths)
    head = ["", "goal", "that is", "measured", "ratio", "met"]
    return markdown(head, (goal_line(results, goal) for goal in GOALS))
