"""Requests, verdicts and tests, in one SQLite file, which the API and all actors open.

A step may run twice, so that everything is written under a name: the second time changes nothing.
"""

import json
import sqlite3
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Final

from actorwork import Status

from .generation import Candidate, fingerprint
from .sandbox import Verdict

OPEN: Final = Status.STARTED

SCHEMA = """
pragma journal_mode = wal;
create table if not exists requests (
    id text primary key, package text not null, created real not null, status text not null,
    reason text not null default '', is_handed_over integer not null default 0, written integer not null default 0,
    summary text
);
create table if not exists verdicts (
    number integer primary key, request text not null, name text not null, judgement text not null,
    seconds real not null, detail text not null, worker integer not null, unique (request, name)
);
create table if not exists tests (
    request text not null, fingerprint text not null, name text not null, source text not null,
    primary key (request, fingerprint)
);
"""


@dataclass(frozen=True)
class Summary:
    """What a request has brought."""

    functions: int
    written: int
    passed: int
    saved: int


@dataclass(frozen=True)
class Request:
    """A request; times are seconds since the epoch."""

    id: str
    package: str
    created: float
    status: Status
    reason: str
    is_handed_over: bool
    written: int
    summary: Summary | None


@dataclass(frozen=True)
class Tally:
    """How many tests of a request were validated, and found to pass."""

    validated: int
    passed: int


class Store:
    """Opens a connection for each call, so any thread may call it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            database.executescript(SCHEMA)

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=30)) as database, database:
            yield database

    # ---- requests ----

    def add_request(self, id: str, package: str) -> None:
        with self._open() as database:
            database.execute(
                "insert into requests (id, package, created, status) values (?, ?, ?, ?)",
                (id, package, time.time(), OPEN),
            )

    def requests(self, limit: int = 20) -> Sequence[Request]:
        """Return requests, latest first."""
        return self._read("select * from requests order by created desc limit ?", limit)

    def request(self, id: str) -> Request | None:
        found = self._read("select * from requests where id = ?", id)
        return found[0] if found else None

    def waiting(self) -> Sequence[Request]:
        """Return requests of whose start, or cancelling, the broker may not know yet, oldest first."""
        return self._read("select * from requests where not is_handed_over order by created")

    def _read(self, query: str, *values: object) -> Sequence[Request]:
        with self._open() as database:
            database.row_factory = sqlite3.Row
            rows = [dict(row) for row in database.execute(query, values)]
        return [_request(**row) for row in rows]

    def mark_handed_over(self, request: Request) -> None:
        """Note that the broker knows of a request, in the status in which it was handed over."""
        with self._open() as database:
            database.execute(
                "update requests set is_handed_over = 1 where id = ? and status = ?", (request.id, request.status)
            )

    def cancel(self, id: str, reason: str) -> bool:
        """End a request by the wish of its user, and have that handed over; return whether it was open."""
        with self._open() as database:
            changed = database.execute(
                "update requests set status = 'CANCELLED', reason = ?, is_handed_over = 0 where id = ? and status = ?",
                (reason, id, OPEN),
            )
        return changed.rowcount > 0

    def finish(self, id: str, status: Status, *, reason: str = "", summary: Summary | None = None) -> bool:
        """End a request; return whether it was open. The first end is the end."""
        found = None if summary is None else json.dumps(asdict(summary))
        with self._open() as database:
            changed = database.execute(
                "update requests set status = ?, reason = ?, summary = ? where id = ? and status = ?",
                (status, reason, found, id, OPEN),
            )
        return changed.rowcount > 0

    def tally(self, id: str) -> Tally:
        with self._open() as database:
            row = database.execute(
                "select count(*), count(*) filter (where judgement = 'passed') from verdicts where request = ?",
                (id,),
            ).fetchone()
        return Tally(*row)

    # ---- verdicts and tests ----

    def note_written(self, request: str, count: int) -> None:
        with self._open() as database:
            database.execute("update requests set written = ? where id = ?", (count, request))

    def note(self, request: str, verdict: Verdict) -> None:
        with self._open() as database:
            database.execute(
                "insert into verdicts (request, name, judgement, seconds, detail, worker) values (?, ?, ?, ?, ?, ?)"
                " on conflict do nothing",
                (request, *astuple(verdict)),
            )

    def verdicts(self, request: str, after: int = 0) -> Sequence[tuple[int, Verdict]]:
        """Return verdicts with a number above `after`, which grows in the order in which they were noted."""
        with self._open() as database:
            rows = database.execute(
                "select number, name, judgement, seconds, detail, worker from verdicts"
                " where request = ? and number > ? order by number",
                (request, after),
            ).fetchall()
        return [(number, Verdict(*row)) for number, *row in rows]

    def save(self, request: str, tests: Iterable[Candidate]) -> int:
        """Keep tests; return how many the request has."""
        with self._open() as database:
            database.executemany(
                "insert into tests (request, fingerprint, name, source) values (?, ?, ?, ?) on conflict do nothing",
                [(request, fingerprint(test), test.name, test.source) for test in tests],
            )
            return database.execute("select count(*) from tests where request = ?", (request,)).fetchone()[0]

    def tests(self, request: str) -> Sequence[Candidate]:
        with self._open() as database:
            rows = database.execute(
                "select name, source from tests where request = ? order by name", (request,)
            ).fetchall()
        return [Candidate(*row) for row in rows]


def _request(*, status: str, is_handed_over: int, summary: str | None, **row: Any) -> Request:
    kept = None if summary is None else Summary(**json.loads(summary))
    return Request(status=Status(status), is_handed_over=bool(is_handed_over), summary=kept, **row)
