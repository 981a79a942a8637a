"""Which store a url means, how its connection is opened, and what to say when it cannot be used.

    sqlite:////var/lib/app/messages.db      that file
    sqlite:///messages.db                   a file in the current directory
    sqlite://   or   :memory:               memory: gone with the broker that opened it
    …?synchronous=full                      power loss costs nothing either, at the price of one fsync for every commit

With `synchronous=normal`, the default, whatever was acknowledged survives the end of the process, `kill -9`
included. A power loss or a crash of the operating system may take back the last commits (those since the last
checkpoint), but never damages the file: messages published or settled just before are then lost or handled again.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

import attrs

from actorwork.embedded.schema import APPLICATION, VERSION, prepare
from actorwork.errors import BrokerError

OLDEST_SQLITE: Final = (3, 31, 0)
PATIENCE: Final = 5.0
"""Seconds to wait for another process that writes, before an operation fails."""

_SYNCHRONOUS: Final = ("normal", "full")


@attrs.frozen
class Location:
    """A store: `path` is None for memory."""

    path: Path | None
    synchronous: str = "normal"

    @property
    def url(self) -> str:
        if self.path is None:
            return "sqlite://"
        query = "" if self.synchronous == "normal" else f"?synchronous={self.synchronous}"
        return f"sqlite:///{quote(str(self.path))}{query}"

    def __str__(self) -> str:
        return "the store in memory" if self.path is None else str(self.path)


def parse(url: str) -> Location:
    """Read a url; raises BrokerError for one that names no store."""
    if url == ":memory:":
        return Location(None)
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc:
        raise BrokerError(f"an embedded broker's url is sqlite:///path/to/file.db, sqlite:// or :memory:, got {url!r}")
    options = parse_qs(parts.query, keep_blank_values=True)
    synchronous = options.pop("synchronous", ["normal"])[-1].lower()
    if synchronous not in _SYNCHRONOUS or options:
        raise BrokerError(
            f"{url!r}: the only option of an embedded broker's url is synchronous=normal or synchronous=full"
        )
    path = unquote(parts.path).removeprefix("/")
    if path in {"", ":memory:"}:
        return Location(None, synchronous)
    return Location(Path(path).absolute(), synchronous)


def connect(location: Location) -> sqlite3.Connection:
    """Open the store, and make the tables that it lacks. Raises BrokerError, which names the file and what to do."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        raise BrokerError(
            f"the embedded broker needs SQLite {wanted} or later, this Python has {sqlite3.sqlite_version}"
        )
    path = location.path
    if path is not None and path.is_dir():
        raise BrokerError(f"{path} is a directory; name a file in it, such as sqlite:///{path / 'messages.db'}")
    if path is not None and not path.parent.is_dir():
        raise BrokerError(f"{path.parent} is no directory; create it, or name another file than {path}")
    try:
        connection = sqlite3.connect(path or ":memory:", timeout=PATIENCE, isolation_level=None)
    except sqlite3.Error as error:
        raise explained(location, error) from error
    try:
        _prepare(connection, location)
    except sqlite3.Error as error:
        connection.close()
        raise explained(location, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, location: Location) -> None:
    # In one transaction: another process may be making the tables at this moment, and half of that is nobody's store.
    connection.execute("begin")
    tables = connection.execute("select count(*) from sqlite_master").fetchone()[0]
    whose = connection.execute("pragma application_id").fetchone()[0]
    version = connection.execute("pragma user_version").fetchone()[0]
    connection.execute("commit")
    if tables and whose != APPLICATION:
        raise BrokerError(f"{location} is a database of another program; name a file of its own for the broker")
    if version > VERSION:
        raise BrokerError(
            f"{location} was written by a later version of actorwork (format {version}, known is {VERSION}); "
            "upgrade actorwork, or name another file"
        )
    # Switching to WAL wants the file for itself and does not always wait for it: several processes may start at once.
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
            break
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute(f"pragma synchronous = {location.synchronous}")
    connection.execute("pragma journal_size_limit = 67108864")
    connection.execute("pragma temp_store = memory")
    # Even if the tables are there: a file that cannot be written is to be found out now.
    connection.execute("begin immediate")
    try:
        prepare(connection)
        connection.execute("commit")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("rollback")
        raise


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process only held the lock, so that trying again will do."""
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def explained(location: Location, error: Exception) -> BrokerError:
    """Say what an error of SQLite means for this store, and what to do."""
    if isinstance(error, BrokerError):
        return error
    if not isinstance(error, sqlite3.Error):
        return BrokerError(f"{location}: {type(error).__name__}: {error}")
    code = _code(error)
    advice = _ADVICE.get(code, "")
    return BrokerError(f"{location}: {error}" + (f"; {advice}" if advice else ""), may_pass=code in _PASSING)


def _code(error: sqlite3.Error) -> int:
    # The lower byte is the primary code; the rest is detail.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


_PASSING: Final = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM}
)
_ADVICE: Final = {
    sqlite3.SQLITE_BUSY: f"another process has held its lock for {PATIENCE:.0f} s: find out which one hangs",
    sqlite3.SQLITE_CANTOPEN: "see that the directory exists and that this user may read and write in it",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: move it away (with its -wal and -shm), and save what is left "
    "with `sqlite3 FILE .recover`",
    sqlite3.SQLITE_FULL: "the disk is full: free some space; nothing was kept of what was refused",
    sqlite3.SQLITE_IOERR: "the disk or the file system fails: see the system's log",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database: name another file",
    sqlite3.SQLITE_PERM: "this user may not open it: change the file's owner or mode",
    sqlite3.SQLITE_READONLY: "it cannot be written: see the modes of the file and its directory, "
    "and whether the file system is mounted read-only",
}
