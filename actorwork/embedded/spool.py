"""The spool's file: messages that wait for their broker, one row each, in the order in which they came.

    messages    what waits, by `seq`; one with `refused` is set aside: the broker has refused it
    totals      their number and their size in all; kept by SQL triggers, since every new message looks at them

A message is in the file until its broker has confirmed it. Adding and removing are on the disk when the call returns
(write-ahead log, synchronous=FULL). Several processes may have the file open: all of them add, but only the one that
holds the claim replays. The claim is a lock on `<file>-claim`, which the kernel releases when its process ends, however
it ends.

Every method blocks, and is called by one thread at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import attrs

from actorwork.embedded.files import (
    OpenedFile,
    advised,
    expect_writable,
    make_private,
    opened,
    stamp_of,
    use_write_ahead,
    writing,
)
from actorwork.errors import SpoolError
from actorwork.message import Envelope, Priority, Unique

T = TypeVar("T")

APPLICATION: Final = 0x61637370
"""SQLite's application id of our spools: "acsp"."""
VERSION: Final = 1

SCHEMA: Final = (
    """create table messages (
        seq integer primary key autoincrement, source text not null, id text not null, fields text not null,
        data blob not null, size integer not null, born real not null, refused text)""",
    "create unique index messages_by_id on messages (source, id)",
    "create index messages_waiting on messages (source, seq) where refused is null",
    "create index messages_refused on messages (seq) where refused is not null",
    "create table totals (one integer primary key check (one = 1), messages integer not null, bytes integer not null)",
    "insert into totals values (1, 0, 0)",
    """create trigger came after insert on messages begin
        update totals set messages = messages + 1, bytes = bytes + new.size; end""",
    """create trigger went after delete on messages begin
        update totals set messages = messages - 1, bytes = bytes - old.size; end""",
)

_COLUMNS: Final = frozenset({"source", "id", "data"})
"""The fields of an envelope that have a column of their own."""


class Row(NamedTuple):
    """An envelope in columns; `born` is by this machine's clock, in seconds since the epoch."""

    source: str
    id: str
    fields: str
    data: bytes
    size: int
    born: float


@attrs.frozen
class Spooled:
    """A message in the spool; with `refused`, set aside for that reason."""

    seq: int
    source: str
    id: str
    fields: str
    data: bytes
    born: float
    refused: str | None = None

    def envelope(self, now: float) -> Envelope:
        """Return the envelope as it is to be sent now. Raises TypeError or ValueError if the row is damaged."""
        return _restored(self, now)


@attrs.frozen
class SpoolStatus:
    """The messages and bytes in a spool, how many of them are set aside, and when the oldest that waits came."""

    messages: int
    bytes: int
    refused: int
    oldest: float | None

    @property
    def waiting(self) -> int:
        return self.messages - self.refused


def row_of(envelope: Envelope, now: float) -> Row:
    """Put an envelope into columns. Raises TypeError or ValueError for what JSON or the file cannot hold."""
    fields: dict[str, Any] = {}
    # All of its fields, by introspection: one that is added to Envelope later must not get lost here.
    for attribute in attrs.fields(Envelope):
        value: Any = getattr(envelope, attribute.name)
        if attribute.name in _COLUMNS or value == attribute.default:
            continue
        if attribute.name == "headers":
            value = dict(value)
        elif isinstance(value, Unique):
            value = attrs.asdict(value)
        fields[attribute.name] = value
    text = json.dumps(fields, allow_nan=False)
    names = len(f"{envelope.source}{envelope.id}".encode())
    return Row(envelope.source, envelope.id, text, envelope.data, len(envelope.data) + len(text) + names, now)


def _restored(spooled: Spooled, now: float) -> Envelope:
    fields: dict[str, Any] = json.loads(spooled.fields)
    passed = max(0.0, now - spooled.born)
    # Both count from the moment when the message was accepted. One that has expired is sent all the same: the broker
    # counts it, and answers the client that waits for its outcome.
    if "delay" in fields:
        fields["delay"] = max(0.0, fields["delay"] - passed)
    if fields.get("lifetime") is not None:
        fields["lifetime"] = max(0.001, fields["lifetime"] - passed)
    if "priority" in fields:
        fields["priority"] = Priority(fields["priority"])
    if fields.get("unique") is not None:
        fields["unique"] = Unique(**fields["unique"])
    return Envelope(source=spooled.source, id=spooled.id, data=spooled.data, **fields)


class SpoolFile:
    """An open spool. Every method raises `SpoolError`, which names the file and what to do."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._claim: int | None = None
        self._connection = _connect(self.path)
        try:
            self._opened = OpenedFile(self.path)
        except OSError as error:
            self._connection.close()
            raise SpoolError(f"the spool {self.path}: {error}") from error

    def __repr__(self) -> str:
        return f"<SpoolFile {self.path}{', claimed' if self._claim is not None else ''}>"

    def close(self) -> None:
        """Close the file, and release the claim."""
        self.unclaim()
        self._connection.close()

    # ---- adding ----

    def append(self, groups: Sequence[Sequence[Row]], *, max_messages: int, max_bytes: int) -> list[bool]:
        """Keep groups of messages in one commit; return of each whether there was room: it is kept as a whole or not.

        An id that the source has here already is kept once.
        """
        return self._write("keeping messages", lambda: self._append(groups, max_messages, max_bytes))

    def _append(self, groups: Sequence[Sequence[Row]], max_messages: int, max_bytes: int) -> list[bool]:
        messages, size = self._execute("select messages, bytes from totals").fetchone()
        kept: list[bool] = []
        for rows in groups:
            wanted = sum(row.size for row in rows)
            if messages + len(rows) > max_messages or size + wanted > max_bytes:
                kept.append(False)
                continue
            self._connection.executemany(
                "insert or ignore into messages (source, id, fields, data, size, born) values (?, ?, ?, ?, ?, ?)", rows
            )
            messages += len(rows)
            size += wanted
            kept.append(True)
        return kept

    # ---- replaying ----

    def claim(self) -> bool:
        """Take the claim to replay, unless another process has it; return whether it is ours."""
        if self._claim is not None:
            return True
        name = f"{self.path}-claim"
        try:
            # Users who may write to the spool may also replay it.
            mode = self.path.stat().st_mode & 0o666
            claim = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        except OSError as error:
            raise SpoolError(f"the spool {self.path}: {name} cannot be opened: {error}") from error
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(claim)
            if isinstance(error, BlockingIOError):
                return False
            raise SpoolError(f"the spool {self.path}: {name} cannot be locked: {error}") from error
        self._claim = claim
        return True

    def unclaim(self) -> None:
        """Release the claim, so that another process may replay."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def first(self, limit: int, size: int, sources: Iterable[str] | None = None) -> list[Spooled]:
        """Return messages that wait, the oldest first, within a number of messages and about a number of bytes; of
        some sources, or of all.
        """
        found: list[Spooled] = []
        which, values = "", (limit,)
        if sources is not None:
            which, values = "and source in (select value from json_each(?))", (json.dumps(list(sources)), limit)
        with self._explaining():
            for row in self._execute(f"{_READ} where refused is null {which} order by seq limit ?", values):
                found.append(Spooled(*row))
                size -= len(found[-1].data)
                if size <= 0:
                    break
        return found

    def remove(self, seqs: Iterable[int]) -> int:
        """Delete messages; return how many there were."""
        numbers = json.dumps(list(seqs))

        def remove() -> int:
            return self._execute(
                "delete from messages where seq in (select value from json_each(?))", (numbers,)
            ).rowcount

        return self._write("taking messages out", remove)

    def set_aside(self, seq: int, reason: str) -> None:
        """Set a message aside: it is not replayed any more."""
        self._write(
            "setting a message aside",
            lambda: self._execute("update messages set refused = ? where seq = ?", (reason, seq)),
        )

    def take_up_again(self) -> int:
        """Let messages that were set aside wait again, in their old places; return how many there were."""
        return self._write(
            "taking messages up again",
            lambda: self._execute("update messages set refused = null where refused is not null").rowcount,
        )

    # ---- looking ----

    def has_news(self, before: int) -> tuple[bool, int]:
        """Return whether another process has written since this returned `before`, and the next `before`."""
        with self._explaining():
            now: int = self._execute("pragma data_version").fetchone()[0]
        return now != before, now

    def status(self) -> SpoolStatus:
        with self._explaining():
            messages, size = self._execute("select messages, bytes from totals").fetchone()
            refused = self._execute("select count(*) from messages where refused is not null").fetchone()[0]
            oldest = self._execute("select born from messages where refused is null order by seq limit 1").fetchone()
        return SpoolStatus(messages, size, refused, oldest[0] if oldest else None)

    def sources(self) -> set[str]:
        """Return the sources with messages that wait."""
        with self._explaining():
            return {row[0] for row in self._execute("select distinct source from messages where refused is null")}

    def has_waiting(self, source: str) -> bool:
        with self._explaining():
            found = self._execute("select 1 from messages where source = ? and refused is null limit 1", (source,))
            return found.fetchone() is not None

    def list(self, source: str | None = None, *, limit: int = 100) -> Sequence[Spooled]:
        """Return messages, oldest first, of one source or of all, including those that are set aside."""
        with self._explaining():
            rows = self._execute(
                f"{_READ} where ? is null or source = ? order by seq limit ?", (source, source, limit)
            ).fetchall()
        return [Spooled(*row) for row in rows]

    def find(self, message_id: str) -> Sequence[Spooled]:
        """Return the messages with an id; several sources may have one."""
        with self._explaining():
            rows = self._execute(f"{_READ} where id = ? order by seq", (message_id,)).fetchall()
        return [Spooled(*row) for row in rows]

    # ---- the file ----

    @property
    def _execute(self) -> Callable[..., sqlite3.Cursor]:
        return self._connection.execute

    def _write(self, doing: str, work: Callable[[], T]) -> T:
        self._expect_the_file()
        with self._explaining(doing), writing(self._connection):
            return work()

    def _expect_the_file(self) -> None:
        """Raise if the file was deleted: what is written to it would be lost with this process, without an error."""
        if not self._opened.is_there(time.monotonic()):
            raise SpoolError(
                f"the spool {self.path} was deleted or moved while in use: nothing is kept there; open the client anew"
            )

    @contextlib.contextmanager
    def _explaining(self, doing: str = "reading") -> Any:
        try:
            yield
        except sqlite3.Error as error:
            raise _problem(self.path, error, f"{doing} failed: ") from error


_READ: Final = "select seq, source, id, fields, data, born, refused from messages"


def _problem(path: Path, error: sqlite3.Error, doing: str = "") -> SpoolError:
    return SpoolError(f"the spool {doing}{path}: {advised(error)}")


def _connect(path: Path) -> sqlite3.Connection:
    if path.is_dir():
        raise SpoolError(f"the spool {path} is a directory; name a file in it")
    if not path.parent.is_dir():
        raise SpoolError(f"the spool {path}: {path.parent} is no directory; create it, or name another file")
    make_private(path)
    try:
        connection = opened(path, check_same_thread=False)
    except sqlite3.Error as error:
        raise _problem(path, error) from error
    try:
        _prepare(path, connection)
    except sqlite3.Error as error:
        connection.close()
        raise _problem(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    found = stamp_of(connection)
    if found.tables and found.application != APPLICATION:
        raise SpoolError(f"the spool {path} is a database of another program; name a file of its own")
    if found.version > VERSION:
        raise SpoolError(
            f"the spool {path} was written by a later version of actorwork (format {found.version}, known is {VERSION})"
            "; upgrade actorwork, or name another file"
        )
    use_write_ahead(connection, "full")
    if found.tables:
        # A read-only file must fail when the program starts, not in the middle of an outage.
        damage = connection.execute("pragma quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise SpoolError(
                f"the spool {path} is damaged ({' '.join(damage.split())}): move it away (with its -wal and -shm), and"
                " save what is left with `sqlite3 FILE .recover`"
            )
    expect_writable(connection)
    with writing(connection):
        if connection.execute("pragma user_version").fetchone()[0] == 0:
            for statement in SCHEMA:
                connection.execute(statement)
            connection.execute(f"pragma application_id = {APPLICATION}")
            connection.execute(f"pragma user_version = {VERSION}")
