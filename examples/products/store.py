"""Products and their notifications, in one SQLite file.

A product and its notification are one transaction. Without it, a process that is killed between keeping the one and
sending the other would lose the notification, or announce a product that does not exist.
"""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

from .models import NewProduct, Product

SCHEMA = """
pragma journal_mode = wal;
create table if not exists products (
    id integer primary key, name text not null, price text not null, description text not null, task text not null
);
create table if not exists notifications (
    id integer primary key, task text not null unique, text text not null, handed_over integer not null default 0
);
create index if not exists waiting on notifications (id) where not handed_over;
"""


class Store:
    """Opens a connection for each call, so any thread may call it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            database.executescript(SCHEMA)

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path)) as database, database:
            yield database

    def add(self, new: NewProduct) -> Product:
        """Keep a product, and the notification that announces it."""
        task = uuid4().hex
        with self._open() as database:
            added = database.execute(
                "insert into products (name, price, description, task) values (?, ?, ?, ?)",
                (new.name, str(new.price), new.description, task),
            )
            database.execute(
                "insert into notifications (task, text) values (?, ?)",
                (task, f"New in our shop: {new.name} for {new.price}"),
            )
        assert added.lastrowid is not None
        return Product(id=added.lastrowid, task=task, **new.model_dump())

    def products(self) -> Sequence[Product]:
        with self._open() as database:
            rows = database.execute("select id, name, price, description, task from products order by id").fetchall()
        return [Product(id=row[0], name=row[1], price=row[2], description=row[3], task=row[4]) for row in rows]

    def waiting(self, limit: int) -> Sequence[tuple[str, str]]:
        """Return notifications that the broker may not have yet, oldest first: tasks and texts."""
        with self._open() as database:
            return database.execute(
                "select task, text from notifications where not handed_over order by id limit ?", (limit,)
            ).fetchall()

    def mark_handed_over(self, task: str) -> None:
        with self._open() as database:
            database.execute("update notifications set handed_over = 1 where task = ?", (task,))

    def is_handed_over(self, task: str) -> bool | None:
        """Return whether the broker has a notification; None if there is no such task."""
        with self._open() as database:
            row = database.execute("select handed_over from notifications where task = ?", (task,)).fetchone()
        return None if row is None else bool(row[0])
