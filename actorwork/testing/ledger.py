"""The books of a drill: which process did what, and whether the account adds up.

    ledger = Ledger(path)                        in any number of processes
    ledger.note("begun", message_id, number=7)   one line, one write: it survives a SIGKILL of its process
    ledger.notes("begun")                        the notes of all processes, in order

    Account(sent=…, handled=…, dead=…).check()   sent = handled + dead + delayed + pending, and nothing twice

A ledger records what handlers did. Only the broker knows which settlements it accepted: let each handler publish a
receipt, which is sent with the settlement or not at all, and count the receipts.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import attrs


@attrs.frozen
class Note:
    """One line: what process `pid` did with the message `id`; `at` is in seconds, by one clock for all processes."""

    what: str
    id: str
    at: float
    pid: int
    facts: Mapping[str, Any]


class Ledger:
    """A file to which any number of processes append, whole lines only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # O_APPEND with one write per line: lines of several processes do not mix, and survive their writer.
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._read: list[Note] = []
        self._offset = 0

    def __repr__(self) -> str:
        return f"<Ledger {self.path}>"

    def note(self, what: str, id: str = "", **facts: object) -> None:
        line = {"what": what, "id": id, "at": time.monotonic(), "pid": os.getpid(), "facts": facts}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def notes(self, *what: str, pid: int | None = None) -> list[Note]:
        """Return the notes so far: all of them, or those of some kinds, or of one process."""
        self._read_on()
        return [note for note in self._read if (not what or note.what in what) and pid in (None, note.pid)]

    def _read_on(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            # A line that is still being written is left for the next read.
            for line in itertools.takewhile(lambda line: line.endswith(b"\n"), file):
                self._read.append(Note(**cast("dict[str, Any]", json.loads(line))))
                self._offset += len(line)

    def count(self, *what: str, pid: int | None = None) -> int:
        return len(self.notes(*what, pid=pid))

    def close(self) -> None:
        os.close(self._file)


def _listed(values: Iterable[object]) -> list[object]:
    return list(values)


@attrs.frozen(kw_only=True)
class Account:
    """Where every message ended up. Any unique name identifies a message, such as its number."""

    sent: list[object] = attrs.field(converter=_listed)
    handled: list[object] = attrs.field(converter=_listed)
    """Messages with an accepted settlement, once for each."""
    dead: list[object] = attrs.field(factory=list[object], converter=_listed)
    delayed: list[object] = attrs.field(factory=list[object], converter=_listed)
    pending: list[object] = attrs.field(factory=list[object], converter=_listed)

    def check(self) -> None:
        """Raise `AssertionError` unless every message that was sent is in exactly one place."""
        places = Counter([*self.handled, *self.dead, *self.delayed, *self.pending])
        twice = {name: count for name, count in places.items() if count > 1}
        lost = set(self.sent) - set(places)
        unknown = set(places) - set(self.sent)
        assert not twice, f"accounted for more than once: {_some(twice)}"
        assert not lost, f"{len(lost)} of {len(self.sent)} are lost: {_some(lost)}"
        assert not unknown, f"never sent: {_some(unknown)}"


def _some(names: Iterable[object]) -> str:
    shown = sorted(names, key=repr)
    return ", ".join(map(repr, shown[:10])) + (f" and {len(shown) - 10} more" if len(shown) > 10 else "")
