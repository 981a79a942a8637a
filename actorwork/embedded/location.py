"""Which store a URL names, how its connection is opened, and what to say when it cannot be used.

    sqlite:////var/lib/app/messages.db      that file
    sqlite:///messages.db                   a file in the current directory
    sqlite://   or   :memory:               memory: gone with the broker that opened it
    …?synchronous=full                      a power loss costs nothing either, at the price of one fsync per commit

With `synchronous=normal`, the default, whatever was acknowledged survives the end of the process, `kill -9`
included. A power loss or a crash of the operating system may undo the last commits (those since the last
checkpoint), but never damages the file: messages published or settled just before are then lost or handled again.
"""

from __future__ import annotations

import functools
import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

import attrs

from actorwork.embedded.files import (
    advised,
    expect_writable,
    make_private,
    may_pass,
    opened,
    stamp_of,
    use_write_ahead,
    writing,
)
from actorwork.embedded.schema import APPLICATION, VERSION, prepare
from actorwork.errors import BrokerError

OLDEST_SQLITE: Final = (3, 31, 0)
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
    """Parse a URL. Raises BrokerError for one that names no store."""
    if url == ":memory:":
        return Location(None)
    if url != url.strip():
        # `urlsplit` drops some of it; the rest would be in the name of another file.
        raise BrokerError(f"{url!r} begins or ends with white space; write %20 for a space in the name of a file")
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc:
        raise BrokerError(f"an embedded broker's url is sqlite:///path/to/file.db, sqlite:// or :memory:, got {url!r}")
    if "#" in url:
        # What follows would be cut off, and the file be another one.
        raise BrokerError(f"{url!r}: write %23 for a # in the name of a file")
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


def connect_for_threads(location: Location) -> sqlite3.Connection:
    """Open the store as `connect` does, for threads that use it in turn."""
    return connect(location, check_same_thread=False)


def connect(location: Location, *, check_same_thread: bool = True) -> sqlite3.Connection:
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
    if path is not None:
        make_private(path)
    try:
        connection = opened(path or ":memory:", check_same_thread=check_same_thread)
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


def connect_to_memory() -> sqlite3.Connection:
    """Open a new store in memory, for any thread, with all its tables: a copy of one that was made before."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, cached_statements=512)
    _template().backup(connection)
    connection.execute("pragma temp_store = memory")
    return connection


def empty(connection: sqlite3.Connection) -> None:
    """Delete everything that a store in memory holds."""
    if connection.in_transaction:
        connection.execute("rollback")
    for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
        connection.execute(f"delete from {table}")


@functools.cache
def _template() -> sqlite3.Connection:
    # Making the tables takes 3 ms, copying them 0.2 ms: tests open hundreds of stores.
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _prepare(connection, Location(None))
    return connection


def _prepare(connection: sqlite3.Connection, location: Location) -> None:
    found = stamp_of(connection)
    if found.tables and found.application != APPLICATION:
        raise BrokerError(f"{location} is a database of another program; name a file of its own for the broker")
    if found.version > VERSION:
        raise BrokerError(
            f"{location} was written by a later version of actorwork (format {found.version}, known is {VERSION}); "
            "upgrade actorwork, or name another file"
        )
    use_write_ahead(connection, location.synchronous)
    connection.execute("pragma temp_store = memory")
    expect_writable(connection)
    with writing(connection):
        prepare(connection)


def gone(location: Location) -> BrokerError:
    """Return the error of a store whose file was taken away while it was in use."""
    return BrokerError(
        f"{location} was deleted, moved or replaced while in use: nothing is stored there any more. Move it back, or"
        " end all programs that use it and start them again, with a new file; what the old one held is lost with it"
    )


def explained(location: Location, error: Exception) -> BrokerError:
    """Return the error that tells what an error of SQLite means for this store, and what to do."""
    if isinstance(error, BrokerError):
        return error
    if not isinstance(error, sqlite3.Error):
        return BrokerError(f"{location}: {type(error).__name__}: {error}")
    return BrokerError(f"{location}: {advised(error)}", may_pass=may_pass(error))
