"""A file of an earlier version becomes one of this version when it is opened, with all that is in it."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from actorwork.embedded import schema
from actorwork.embedded.broker import open_broker
from actorwork.events import Event
from actorwork.message import Envelope, Priority
from actorwork.testing.conformance import open_consumer

FIRST = (
    "create table sources (source integer primary key, name text not null unique)",
    """create table entries (
        seq integer primary key autoincrement, source integer not null, id text not null, type text,
        data blob not null, headers text, born real not null, addressee text)""",
    "create index entries_of_source on entries (source)",
    """create table groups (
        grp integer primary key autoincrement, source integer not null, name text not null,
        cursor integer not null default 0, unique (source, name))""",
    """create table pending (
        seq integer not null, grp integer not null, node integer not null, count integer not null,
        primary key (seq, grp)) without rowid""",
    "create index pending_free on pending (grp, seq) where node <= 0",
    """create table nodes (
        node integer primary key autoincrement, incarnation text not null unique, expires real not null, ended real)""",
    """create table delayed (
        place integer primary key autoincrement, source integer not null, id text not null, type text,
        data blob not null, headers text, born real not null, addressee text, due real not null)""",
    "create index delayed_by_due on delayed (due)",
    """create table dead (
        entry integer primary key autoincrement, source integer not null, id text not null, type text,
        data blob not null, headers text, grp text not null, actor text not null, attempt integer not null,
        at real not null, failure text not null)""",
    "create index dead_of_source on dead (source)",
    """create table outcomes (
        source integer not null, id text not null, status text not null, value blob not null, failure text,
        expires real not null, primary key (source, id)) without rowid""",
    """create table replies (
        reply integer primary key, address text not null, source text not null, id text not null,
        status text not null, value blob not null, failure text, at real not null)""",
    "create index replies_to on replies (address)",
    # Ids that were seen. Those of MessageIds share a row by blocks of 1024 numbers, one bit each; any other id has
    # a row of its own, with block -1.
    """create table seen (
        source integer not null, stem text not null, block integer not null, bits blob,
        touched real not null, alive real not null default 0,
        primary key (source, stem, block)) without rowid""",
)


def ignore(_: Event) -> None: ...


def make_first_version(file: Path) -> None:
    """Write a file of version 1: a message in a dead node's hand, one not read, one delayed, one dead."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        for statement in FIRST:
            connection.execute(statement)
        connection.execute(f"pragma application_id = {schema.APPLICATION}")
        connection.execute("pragma user_version = 1")
        connection.execute("insert into sources (source, name) values (1, 'orders')")
        connection.execute("insert into groups (grp, source, name, cursor) values (1, 1, 'first', 1)")
        entry = "insert into entries (source, id, data, born) values (1, ?, '1', 1.0)"
        connection.executemany(entry, [("orphan",), ("ready",)])
        connection.execute("insert into nodes (node, incarnation, expires, ended) values (1, 'gone', 0, 1.0)")
        connection.execute("insert into pending values (1, 1, -1, 1)")
        connection.execute(
            "insert into delayed (source, id, data, born, due) values (1, 'due', '1', 1.0, ?)", (time.time(),)
        )
        connection.execute(
            "insert into dead (source, id, data, grp, actor, attempt, at, failure)"
            """ values (1, 'dead', '1', 'first', 'actor first', 1, 1.0, '{"type": "Boom", "reason": "no"}')"""
        )
        connection.executemany(
            "insert into seen (source, stem, block, touched) values (1, ?, -1, 1.0)", [("orphan",), ("ready",)]
        )


def tables_of(file: Path) -> dict[str, set[str]]:
    with closing(sqlite3.connect(file)) as connection:
        names = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        return {name: {row[1] for row in connection.execute(f"pragma table_info({name})")} for name in names}


async def test_a_file_of_the_first_version_is_brought_up_to_this_one_with_all_that_is_in_it(tmp_path: Path):
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    make_first_version(old)
    async with open_broker(f"sqlite:///{new}", emit=ignore):
        pass
    async with open_broker(f"sqlite:///{old}", emit=ignore) as broker, open_consumer(broker, "orders") as consumer:
        assert await broker.publish([Envelope("orders", "ready", b"1"), Envelope("orders", "new", b"1")]) == 1
        (letter,) = await broker.dead_letters.list("orders")
        assert await broker.dead_letters.replay("orders", [letter.entry]) == 1
        got = await consumer.take(5)
        assert got[0].id == "orphan"
        assert {one.id for one in got} == {"orphan", "ready", "due", "new", "dead"}
        for one in got:
            await consumer.settle(one)
        assert await broker.backlog("orders") == 0
    assert tables_of(old) == tables_of(new)
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("pragma user_version").fetchone()[0] == schema.VERSION


async def test_a_group_of_the_first_version_that_is_away_is_given_what_is_urgent_all_the_same(tmp_path: Path):
    file = tmp_path / "old.db"
    make_first_version(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for table in ("entries", "pending", "delayed"):
            connection.execute(f"delete from {table}")
    async with open_broker(f"sqlite:///{file}", emit=ignore) as broker:
        async with open_consumer(broker, "orders", group="second") as second:
            await broker.publish([Envelope("orders", "urgent", b"1", priority=Priority.CRITICAL)])
            await second.expect_only("urgent")
        assert await broker.backlog("orders") == 1, "the first group has not had it"
        async with open_consumer(broker, "orders", group="first") as first:
            await first.expect_only("urgent")
        assert await broker.backlog("orders") == 0


async def test_a_file_that_lacks_a_table_is_given_it_at_the_next_opening(tmp_path: Path):
    file = tmp_path / "x.db"
    async with open_broker(f"sqlite:///{file}", emit=ignore):
        pass
    before = tables_of(file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("drop table shared")
    async with open_broker(f"sqlite:///{file}", emit=ignore):
        pass
    assert tables_of(file) == before
