"""How every SQLite file of this package is opened, and what its errors mean.

make_folder       a folder that only this user can enter
make_private      an empty file that only this user can read
stamp_of          which program made a file, and in which format
use_write_ahead   readers do not wait for writers
expect_writable   raise now what the first write to a read-only file would raise
begin_writing     begin a transaction as soon as no other process has one
writing           one transaction, all of it or nothing
advised           an error as text, with what to do about it
opened            a connection to a file; a child process that is forked leaves it alone
OpenedFile        whether the file that was opened is still the one that its path names
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import stat
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

PATIENCE: Final = 5.0
"""Seconds to wait for another process that writes, before an operation fails."""

LOG_EVERY: Final = 0.02
"""Seconds between two looks at the write-ahead log: looking takes 2 µs, and seldom is the log deleted alone."""


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone. Raises OSError."""
    # One by one: `parents=True` gives the mode to the last one only.
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)


def make_private(path: Path) -> None:
    """Make an empty file that only this user can read, unless there is a file: its mode is left as its owner wants it.

    SQLite, which would make it with the usual mode, gives that of the database to its log and its shared memory.
    """
    try:
        # Not by open and close: closing a file ends all locks that this process has on it, also those of a connection
        # that another thread has opened in the meantime.
        os.mknod(path, 0o600 | stat.S_IFREG)
    except FileExistsError:
        pass
    except OSError:
        # Some systems allow this to root only. If it cannot be made at all, SQLite reports it better.
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


class Stamp(NamedTuple):
    """The numbers of the program that made a file and of its format; `tables` is 0 for a new one."""

    tables: int
    application: int
    version: int


class Connection(sqlite3.Connection):
    """A connection that a child process, forked while it is open, never closes.

    SQLite's connections must not cross a fork. Closing one there, or freeing it at the end of the interpreter, would
    also need locks of SQLite's that a thread of the parent may have held at the fork: the child would wait for ever.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _connections.add(self)


def opened(path: str | Path, *, check_same_thread: bool) -> sqlite3.Connection:
    """Return a connection that begins no transaction by itself; raise what SQLite raises."""
    return sqlite3.connect(
        path, timeout=PATIENCE, isolation_level=None, check_same_thread=check_same_thread, factory=Connection
    )


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """In a child process: let nothing free the connections of its parent."""
    for connection in list(_connections):
        _never_free(connection)
    _connections.clear()


def _never_free(connection: Connection) -> None:
    # A reference that nothing owns: what a module refers to is freed at the end of the interpreter.
    with contextlib.suppress(ImportError):
        import ctypes  # noqa: PLC0415 - only after a fork

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


os.register_at_fork(after_in_child=_leave_to_parent)


def stamp_of(connection: sqlite3.Connection) -> Stamp:
    # In one transaction: another process may be making the tables at this moment, and half of them is no format.
    connection.execute("begin")
    (tables,) = connection.execute("select count(*) from sqlite_master").fetchone()
    (application,) = connection.execute("pragma application_id").fetchone()
    (version,) = connection.execute("pragma user_version").fetchone()
    connection.execute("commit")
    return Stamp(tables, application, version)


def use_write_ahead(connection: sqlite3.Connection, synchronous: str) -> None:
    """Switch to the write-ahead log; `synchronous` says whether a commit waits for the disk."""
    # SQLite needs the file for itself here and does not always wait for it, and several processes may start at once.
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
            break
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute(f"pragma synchronous = {synchronous}")
    connection.execute("pragma journal_size_limit = 67108864")


def expect_writable(connection: sqlite3.Connection) -> None:
    """Raise the error now that the first write would raise: SQLite opens a read-only file without an error."""
    # `begin immediate` alone succeeds, too. The write below changes nothing, and is rolled back.
    (version,) = connection.execute("pragma user_version").fetchone()
    connection.execute("begin immediate")
    try:
        connection.execute(f"pragma user_version = {version}")
    finally:
        connection.execute("rollback")


def begin_writing(connection: sqlite3.Connection) -> None:
    """Begin a transaction that writes, as soon as no other process does.

    SQLite waits in steps of up to 100 ms, which starves one of two busy processes; these are of 5 ms at most.
    """
    deadline = time.monotonic() + PATIENCE
    pause = 0.0002
    while True:
        try:
            connection.execute("begin immediate")
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(pause)
        pause = min(pause * 1.5, 0.005)


@contextmanager
def writing(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("begin immediate")
    try:
        yield
        connection.execute("commit")
    except BaseException:
        # A transaction that found the disk full has rolled back by itself.
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("rollback")
        raise


class OpenedFile:
    """A database that is in use, and its write-ahead log: which files their paths named when they were opened.

    SQLite notices neither that they were deleted nor that others have taken their places. It goes on to write, without
    an error, what no other process sees and what is gone when this one ends.
    """

    def __init__(self, path: Path) -> None:
        """Raise OSError if there is no such file."""
        self._name = str(path)
        self._identity = _identity(self._name)
        # Absent where the file system cannot have one. SQLite deletes it only when no process uses the database.
        log = path.with_name(f"{path.name}-wal")
        self._log = str(log) if log.exists() else None
        self._log_identity = None if self._log is None else _identity(self._log)
        self._log_at = -math.inf

    def __repr__(self) -> str:
        return f"<OpenedFile {self._name}>"

    def is_there(self, now: float) -> bool:
        """Return whether writing makes sense; `now` is by the monotonic clock."""
        try:
            if _identity(self._name) != self._identity:
                return False
            if self._log is not None and now >= self._log_at:
                if _identity(self._log) != self._log_identity:
                    return False
                self._log_at = now + LOG_EVERY
        except OSError:
            return False
        return True


def _identity(name: str) -> tuple[int, int]:
    found = os.stat(name)  # noqa: PTH116 - before each transaction, and a Path takes twice as long
    return found.st_dev, found.st_ino


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process held the lock, so that a second try may succeed."""
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def may_pass(error: sqlite3.Error) -> bool:
    """Whether the error may pass, by itself or once an operator has mended its cause."""
    return _code(error) in _PASSING


def advised(error: sqlite3.Error) -> str:
    """Return the text of an error, with what to do about it."""
    advice = _ADVICE.get(_code(error), "")
    return f"{error}; {advice}" if advice else str(error)


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
