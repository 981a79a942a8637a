"""The ledger of the harness: a SQLite file, written by the effects of handlers and by producers, and its audit.

    sent      what each producer was about to send, and whether it was accepted
    effects   what handlers did, in the order in which they did it: `seq` is the order of all processes together

A handler writes `begun` first and `ended` last, before its settlement: so a second run of the same delivery shows as
such, and the order of rows is the order of effects. Receipts are published with the settlement of the last stage, and
counted apart: of one message there must be one.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

SCHEMA: Final = """
create table if not exists sent (
    number integer primary key, kind text not null, route text not null, key text, at real not null,
    accepted integer not null default 0);
create table if not exists effects (
    seq integer primary key autoincrement, stage text not null, what text not null, number integer not null,
    delivery text not null, value integer, pid integer not null, at real not null);
create index if not exists effects_by_number on effects (number);
create index if not exists effects_by_stage on effects (stage, what);
"""


GUILTY: Final = frozenset({"bad", "poison"})
"""The kinds of messages that are to become dead letters."""


class Effects:
    """One process's connection to the ledger. Each row is written at once; nothing else is kept in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # The ledger survives the death of any process, and need not survive the machine's.
        self._connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = off")
        self._connection.executescript(SCHEMA)

    def __repr__(self) -> str:
        return f"<Effects in {self.path}>"

    def close(self) -> None:
        self._connection.close()

    def note(self, stage: str, what: str, number: int, delivery: str, pid: int, value: int | None = None) -> None:
        self._connection.execute(
            "insert into effects (stage, what, number, delivery, value, pid, at) values (?, ?, ?, ?, ?, ?, ?)",
            (stage, what, number, delivery, value, pid, time.time()),
        )

    def sending(self, number: int, kind: str, route: str, key: str | None = None) -> None:
        self._connection.execute(
            "insert into sent (number, kind, route, key, at) values (?, ?, ?, ?, ?)",
            (number, kind, route, key, time.time()),
        )

    def accepted(self, number: int) -> None:
        self._connection.execute("update sent set accepted = 1 where number = ?", (number,))

    def rows(self, statement: str, *arguments: object) -> list[Any]:
        return self._connection.execute(statement, arguments).fetchall()

    def count(self, stage: str, what: str) -> int:
        found: int = self.rows("select count(*) from effects where stage = ? and what = ?", stage, what)[0][0]
        return found


@attrs.frozen(kw_only=True)
class Audit:
    """What became of the messages; the first five must be empty."""

    lost: Sequence[int]
    """Accepted, and neither handled to the end nor a dead letter."""
    doubled: Sequence[int]
    """Two receipts, or two deliveries with different ids at a later stage: a settlement had its effect twice."""
    disordered: Sequence[tuple[str, int, int]]
    """Of one key: a message that began although an earlier one had not ended."""
    contradictory: Sequence[int]
    """A dead letter of which there is a receipt, or a receipt of a message that was never sent."""
    overwritten: Sequence[int]
    """Values that two holders of the lock have written: one of them overwrote the other."""
    routes: Mapping[str, tuple[int, int]]
    """Of each route, how many messages were sent and how many of them accepted for certain."""
    handled: int
    dead: Counter[str]
    """Dead letters by the kind of the message."""
    innocent: Counter[str]
    """Those that were neither bad nor poison, by their error: they were in flight at several deaths of processes."""
    again: int
    """Runs of handlers beyond the first of a delivery."""

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.disordered or self.contradictory or self.overwritten)


def audit(effects: Effects, receipts: Sequence[int], dead: Mapping[int, str]) -> Audit:
    """Compare what was sent with what has happened; `dead` holds, of all dead letters, the number and the error."""
    sent = {number: (kind, route, key) for number, kind, route, key in effects.rows(
        "select number, kind, route, key from sent")}  # fmt: skip
    accepted = {number for (number,) in effects.rows("select number from sent where accepted = 1")}
    twice = {number for number, count in Counter(receipts).items() if count > 1}
    twice |= {
        number
        for (number,) in effects.rows(
            "select number from effects where stage in ('second', 'third') group by stage, number"
            " having count(distinct delivery) > 1"
        )
    }
    seen = set(receipts)
    written = Counter(value for (value,) in effects.rows("select value from effects where what = 'written'"))
    routes: dict[str, tuple[int, int]] = {}
    for number, (_, route, _) in sent.items():
        count, certain = routes.get(route, (0, 0))
        routes[route] = count + 1, certain + (number in accepted)
    begun, first = effects.rows(
        "select count(*), count(distinct stage || ' ' || delivery) from effects where what = 'begun'"
    )[0]
    return Audit(
        lost=sorted(accepted - seen - set(dead)),
        doubled=sorted(twice),
        disordered=disordered(effects, set(dead)),
        contradictory=sorted((seen & set(dead)) | (seen - sent.keys())),
        overwritten=sorted(value for value, count in written.items() if count > 1),
        routes=routes,
        handled=len(seen),
        dead=Counter(sent[number][0] if number in sent else "unknown" for number in dead),
        innocent=Counter(why for number, why in dead.items() if number in sent and sent[number][0] not in GUILTY),
        again=begun - first,
    )


def disordered(effects: Effects, dead: set[int]) -> list[tuple[str, int, int]]:
    """Return pairs of one key of which the later one began before the earlier one had ended."""
    rows = effects.rows(
        "select s.key, s.number, min(case when e.what = 'begun' then e.seq end),"
        " min(case when e.what = 'ended' then e.seq end) from sent s join effects e using (number)"
        " where s.key is not null and e.stage = 'first' group by s.number order by s.key, s.number"
    )
    found: list[tuple[str, int, int]] = []
    key, before, latest = None, 0, -1
    for of_key, number, began, ended in rows:
        if of_key != key:
            key, before, latest = of_key, 0, -1
        if began is not None and began < latest:
            found.append((of_key, before, number))
        # A dead letter frees its key without an effect; what is behind it may begin at any time after its last run.
        if ended is not None and number not in dead and ended > latest:
            before, latest = number, ended
    return found
