"""What an operator should know about a store's file: its size, its durability, and what is wrong with it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from actorwork.abc import Finding

LITTLE_DISK: Final = 256 * 1024 * 1024


def examine(path: Path, mode: str, synchronous: str) -> Sequence[Finding]:
    """Examine the file with a connection of its own, so that the writer does not have to wait."""
    if not path.exists():
        return (
            Finding(
                "file", "error", f"{path} was deleted, moved or replaced while in use", "move it back, or start anew"
            ),
        )
    size = sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.exists())
    findings = [Finding("file", "ok", f"{path}, {size / 1e6:.1f} MB")]
    if mode == "wal":
        findings.append(Finding("journal", "ok", "write-ahead log"))
    else:
        findings.append(
            Finding(
                "journal", "warning", f"mode {mode}, not wal: slow", "put the file on a local disk, not on a network's"
            )
        )
    if synchronous == "full":
        findings.append(Finding("durability", "ok", "every commit is on the disk before it is acknowledged"))
    else:
        findings.append(
            Finding(
                "durability",
                "ok",
                "survives the end of any process; a power loss may cost the last commits",
                "add ?synchronous=full to the url if that matters more than speed",
            )
        )
    free = shutil.disk_usage(path.parent).free
    if free < LITTLE_DISK:
        findings.append(Finding("disk", "error", f"{free / 1e6:.0f} MB left on {path.parent}", "free some space"))
    else:
        findings.append(Finding("disk", "ok", f"{free / 1e9:.1f} GB left"))
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        findings.append(Finding("permissions", "ok", "the file and its directory can be written"))
    else:
        findings.append(
            Finding("permissions", "error", f"{path} or its directory cannot be written", "change their owner or mode")
        )
    if path.stat().st_mode & stat.S_IROTH and path.parent.stat().st_mode & stat.S_IXOTH:
        findings.append(
            Finding("privacy", "warning", f"every user of this machine can read {path}", f"chmod 600 {path}*")
        )
    try:
        with closing(sqlite3.connect(path, timeout=5)) as connection:
            problems = [row[0] for row in connection.execute("pragma quick_check(5)")]
    except sqlite3.Error as error:
        problems = [str(error)]
    if problems == ["ok"]:
        findings.append(Finding("integrity", "ok", "nothing is damaged"))
    else:
        advice = "stop everything that uses it, and save what is left with `sqlite3 FILE .recover`"
        findings.append(Finding("integrity", "error", "; ".join(problems), advice))
    findings.append(Finding("sqlite", "ok", f"SQLite {sqlite3.sqlite_version}"))
    return findings
