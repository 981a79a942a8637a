"""Measure local actors and their peers in alternation, and print a table of medians with ratios.

    python -m benchmarks.actors.run                                   all cases, all libraries that are installed
    python -m benchmarks.actors.run --repeat 5 --cases tell,ask
    python -m benchmarks.actors.run --out FILE                        the lines too, one JSON object each
    python -m benchmarks.actors.run --table FILE                      only the table, from earlier lines

Every figure comes from a process of its own. Libraries take turns within a case, and repeats are the outer loop: other
load of the machine affects all of them alike, and a ratio compares two figures of one repeat.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

HERE = Path(__file__).resolve().parent
CASES = ("tell", "tell_waiting", "ask", "ask_timeout", "spawn_stop", "restart", "restart_seen", "life", "memory")
LIBRARIES = {
    "raw_trio": "trio",
    "raw_asyncio": "asyncio",
    "raw_threads": "threading",
    "b_actorwork": "actorwork",
    "b_pykka": "pykka",
    "b_thespian": "thespian",
    "b_xoscar": "xoscar",
}
"""The modules beside this one, and the package that each wants."""
ERLANG_CASES = ("tell", "ask_timeout", "spawn_stop", "restart", "memory")
OURS = "actorwork"

Line: TypeAlias = dict[str, Any]


def commands(case: str, beams: Path | None) -> Iterator[list[str]]:
    """Yield the commands that measure a case, one for each library."""
    for module, package in LIBRARIES.items():
        if importlib.util.find_spec(package) is not None and f'"{case}":' in (HERE / f"{module}.py").read_text():
            yield [sys.executable, "-m", f"benchmarks.actors.{module}", case]
    if beams is not None and case in ERLANG_CASES:
        yield ["erl", "-noshell", "-pa", str(beams), "-eval", f'bench:main("{case}"), halt().']


def compiled_erlang(into: Path) -> Path | None:
    if shutil.which("erlc") is None:
        return None
    subprocess.run(["erlc", "-o", str(into), *map(str, (HERE / "erlang").glob("*.erl"))], check=True)
    return into


def measured(repeat: int, cases: Iterable[str], beams: Path | None) -> Iterator[Line]:
    for case in cases:
        for command in commands(case, beams):
            load = round(os.getloadavg()[0], 1)
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            try:
                line: Line = json.loads(ended.stdout.splitlines()[-1])
            except (IndexError, ValueError):
                print(f"{' '.join(command)} measured nothing:\n{ended.stderr[-2000:]}", file=sys.stderr)
                continue
            yield {**line, "repeat": repeat, "load": load}


def table(lines: list[Line]) -> str:
    """Return medians for each case and library, and ours divided by each: above 1, ours is better."""
    of: dict[tuple[str, str], dict[int, Line]] = defaultdict(dict)
    for line in lines:
        of[line["case"], line["library"]][line["repeat"]] = line
    rows = [("case", "library", "per s", "CPU µs", "bytes", "ours / theirs", "by CPU", "range of that")]
    for case in dict.fromkeys(case for case, _ in of):
        for library in (library for c, library in of if c == case):
            theirs, ours = of[case, library], of.get((case, OURS), {})
            pairs = [(ours[repeat], theirs[repeat]) for repeat in theirs if repeat in ours and library != OURS]
            by_cpu = [t["cpu_us"] / o["cpu_us"] for o, t in pairs if "cpu_us" in o and "cpu_us" in t]
            by_clock = [o["per_s"] / t["per_s"] for o, t in pairs if "per_s" in o and "per_s" in t]
            by_size = [t["bytes_each"] / o["bytes_each"] for o, t in pairs if "bytes_each" in o]
            rows.append((
                case,
                library,
                _median(theirs.values(), "per_s", ",.0f"),
                _median(theirs.values(), "cpu_us", ".2f"),
                _median(theirs.values(), "bytes_each", ",.0f"),
                f"{statistics.median(by_clock or by_size):.2f}" if by_clock or by_size else "",
                f"{statistics.median(by_cpu):.2f}" if by_cpu else "",
                f"{min(by_cpu):.2f} to {max(by_cpu):.2f}" if by_cpu else "",
            ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    loads = [line["load"] for line in lines]
    return (
        "\n".join(texts) + f"\n\nLoad of the machine meanwhile: {min(loads)} to {max(loads)} on {os.cpu_count()} CPUs."
    )


def _median(lines: Iterable[Line], key: str, form: str) -> str:
    found = [line[key] for line in lines if key in line]
    return format(statistics.median(found), form) if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a file to which the lines are added")
    parser.add_argument("--table", type=Path, help="measure nothing: print the table of a file's lines")
    args = parser.parse_args()
    lines: list[Line] = []
    if args.table:
        lines = [json.loads(text) for text in args.table.read_text().splitlines()]
    else:
        with tempfile.TemporaryDirectory(prefix="bench-actors-") as directory:
            beams = compiled_erlang(Path(directory))
            for repeat in range(args.repeat):
                for line in measured(repeat, args.cases.split(","), beams):
                    lines.append(line)
                    print(json.dumps(line), flush=True)
                    if args.out:
                        with args.out.open("a") as file:
                            file.write(f"{json.dumps(line)}\n")
    print(f"\n{table(lines)}" if lines else "nothing was measured")


if __name__ == "__main__":
    main()
