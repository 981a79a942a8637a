"""Run the same work through several job runtimes on one private Redis: a JSON line per run, and a table.

    python -m benchmarks.bench                                     ours, the raw loops, and the peers that are installed
    python -m benchmarks.bench --peers raw-100,actorwork --cases drain --repeat 3
    python -m benchmarks.bench --table a.jsonl b.jsonl

README.md beside this file describes what is measured, and how to create the peers' environments.
"""

import argparse
import fcntl
import json
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import IO, Any

from benchmarks.benchkit import cases, procfs, report
from benchmarks.benchkit.registry import CASES, PEERS, SIDE
from benchmarks.benchkit.trial import MissingPeerError, Options, Trial

HERE = Path(__file__).resolve().parent
REPEATED = {"enqueue", "drain", "drain2"}


class Lock:
    """An flock(2) around every timed run, so that two benches on one machine take turns. Works with flock(1) too.

    Short runs share one hold of up to a minute.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: IO[str] | None = None
        self.since = 0.0

    def take(self) -> float:
        """Wait for the lock; return the seconds it took."""
        if not self.path or self.file:
            return 0.0
        begin = time.time()
        self.file = Path(self.path).open("a")  # noqa: SIM115 - held until it is released
        fcntl.flock(self.file, fcntl.LOCK_EX)
        self.since = time.time()
        return round(self.since - begin, 1)

    def release(self, *, at_once: bool = False) -> None:
        if self.file and (at_once or time.time() - self.since > 60):
            self.file.close()
            self.file = None
            time.sleep(0.5)  # flock is not fair: gives a waiting process a turn


def run_one(
    options: Options, lock: Lock, variant: str, case: str, rep: int, *, patience: float = 0
) -> dict[str, Any] | None:
    """Run one case of one peer. None: it does not take part in this case. A failure is a line too."""
    line: dict[str, Any] = {"peer": variant, "case": case, "rep": rep}
    try:
        line["lock_wait_s"] = lock.take()
        trial = Trial(options, variant, case)
        if case not in trial.description["cases"] and not options.force:
            return None
        line |= {key: trial.description[key] for key in ("settings", "conc", "versions")}
        if patience:
            line["calm_wait_s"] = procfs.wait_calm(patience)
        with trial:
            line |= cases.RUN[case](trial)
    except MissingPeerError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with one peer, the others have their turn
        line |= {"ok": False, "error": f"{type(error).__name__}: {error}"[-1500:]}
    finally:
        lock.release()
    line["at"] = round(time.time())
    return line


def environments(named: list[str]) -> dict[str, str]:
    """Find the Pythons: `.venv-<name>` beside this file, and what --python says."""
    found = {"project": sys.executable}
    for venv in HERE.glob(".venv-*"):
        found[venv.name.removeprefix(".venv-")] = str(venv / "bin" / "python")
    for word in named:
        name, _, path = word.partition("=")
        found[name] = str(Path(path).absolute())  # not resolved: a venv's Python is a link
    return found


def chosen(words: str) -> list[str]:
    if words == "all":
        return list(PEERS)
    if words == "default":
        return [peer for peer in PEERS if peer not in SIDE]
    unknown = set(words.split(",")) - set(PEERS)
    if unknown:
        raise SystemExit(f"no peer named {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    return words.split(",")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--peers", default="default", help="names with commas; default: all but side variants; all")
    add("--cases", default=",".join(CASES))
    add("--repeat", type=int, default=3, help="for enqueue, drain, drain2")
    add("--repeat-other", type=int, default=1)
    add("--n", type=int, default=0, help="override the number of jobs")
    add("--conc", type=int, default=0, help="override the concurrency (tuning)")
    add("--force", action="store_true", help="run cases that the peer does not list")
    add(
        "--python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="the Python of an environment: main, arq",
    )
    add("--redis", default=shutil.which("redis-server"), help="the redis-server to run; default: from PATH")
    add("--port", type=int, default=6399)
    add("--lock", default="", help="flock(2) this file around every timed run")
    add("--calm", type=float, default=0, metavar="SECONDS", help="wait so long at most until the machine is idle")
    add("--wrap", default="", help="words to put before the worker's command, such as a profiler's")
    add("--out", default="", help="where the JSON lines go")
    add("--table", nargs="+", metavar="FILE", help="only print the tables of these files")
    return parser.parse_args()


def print_tables(paths: list[str]) -> None:
    print(report.table(paths), report.goals(paths), sep="\n\n")


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a trial ends what it has started
    args = arguments()
    if args.table:
        print_tables(args.table)
        return
    if not args.redis:
        raise SystemExit("no redis-server on the PATH: install Redis, or name one with --redis")
    options = Options(
        redis=args.redis,
        port=args.port,
        jobs=args.n,
        concurrency=args.conc,
        pythons=environments(args.python),
        wrap=tuple(shlex.split(args.wrap)),
        force=args.force,
    )
    out = Path(args.out or HERE / "results" / time.strftime("%Y%m%d-%H%M%S.jsonl"))
    out.parent.mkdir(parents=True, exist_ok=True)
    lock, missing = Lock(args.lock), set[str]()
    # Repeats outermost: the peers take turns, so that a slow minute of the machine does not hit only one of them.
    for rep in range(max(args.repeat, args.repeat_other)):
        for case in args.cases.split(","):
            if rep >= (args.repeat if case in REPEATED else args.repeat_other):
                continue
            for peer in chosen(args.peers):
                if peer in missing or (rep and peer in SIDE and args.peers in {"all", "default"}):
                    continue
                try:
                    line = run_one(options, lock, peer, case, rep, patience=args.calm)
                except MissingPeerError as error:
                    missing.add(peer)
                    print(f"left out {peer}: {str(error).splitlines()[-1]}", file=sys.stderr)
                    continue
                if line:
                    text = json.dumps(line)
                    print(text, flush=True)
                    with out.open("a") as file:
                        file.write(text + "\n")
    lock.release(at_once=True)
    if out.exists():
        print_tables([str(out)])


if __name__ == "__main__":
    main()
