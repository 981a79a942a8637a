"""The tables of the embedded broker's file, and how a file of an earlier version becomes one of this version.

All statements may be repeated: when a file is opened, whatever it lacks is created, in one transaction. A new
table or index is one more statement in `SCHEMA`, a new column of a table one more line in `COLUMNS`. `VERSION` counts
up when a program of an earlier version would do damage in such a file, so that it refuses the file. Tables are never
changed in another way, and no column is given another meaning.
"""

from __future__ import annotations

import sqlite3
from typing import Final

APPLICATION: Final = 0x61637477
"""SQLite's application id of our files: "actw"."""
VERSION: Final = 3
LEVEL: Final = 1 << 40
"""The number of a channel is that of its source, plus this for each rank of its priority: see `rows.channel_number`."""
SOURCE: Final = f"source & {LEVEL - 1}"
"""The number of the source, computed from that of a channel."""

SCHEMA: Final = (
    "create table if not exists sources (source integer primary key, name text not null unique)",
    """create table if not exists entries (
        seq integer primary key autoincrement, source integer not null, id text not null, type text,
        data blob not null, headers text, born real not null, addressee text)""",
    "create index if not exists entries_of_source on entries (source)",
    """create table if not exists groups (
        grp integer primary key autoincrement, source integer not null, name text not null,
        cursor integer not null default 0, unique (source, name))""",
    """create table if not exists pending (
        seq integer not null, grp integer not null, node integer not null, count integer not null,
        primary key (seq, grp)) without rowid""",
    "create index if not exists pending_free on pending (grp, seq) where node <= 0",
    """create table if not exists nodes (
        node integer primary key autoincrement, incarnation text not null unique, expires real not null, ended real)""",
    """create table if not exists delayed (
        place integer primary key autoincrement, source integer not null, id text not null, type text,
        data blob not null, headers text, born real not null, addressee text, due real not null)""",
    "create index if not exists delayed_by_due on delayed (due)",
    """create table if not exists dead (
        entry integer primary key autoincrement, source integer not null, id text not null, type text,
        data blob not null, headers text, grp text not null, actor text not null, attempt integer not null,
        at real not null, failure text not null)""",
    "create index if not exists dead_of_source on dead (source)",
    """create table if not exists outcomes (
        source integer not null, id text not null, status text not null, value blob not null, failure text,
        expires real not null, primary key (source, id)) without rowid""",
    """create table if not exists replies (
        reply integer primary key, address text not null, source text not null, id text not null,
        status text not null, value blob not null, failure text, at real not null)""",
    "create index if not exists replies_to on replies (address)",
    # Ids that were seen. Those of MessageIds share a row by blocks of 1024 numbers, one bit each; any other id has
    # a row of its own, with block -1.
    """create table if not exists seen (
        source integer not null, stem text not null, block integer not null, bits blob,
        touched real not null, alive real not null default 0,
        primary key (source, stem, block)) without rowid""",
    # Shared values (values.py). A row without data remembers a token.
    """create table if not exists shared (
        name text primary key, data blob, version integer not null, fence integer not null, expires real)
        without rowid""",
    """create table if not exists locks (
        name text primary key, token integer not null, owner text, until real not null) without rowid""",
    # Triggers, and what is paused (triggers.py). The times of triggers are in milliseconds.
    """create table if not exists triggers (
        source text not null, id text not null, actor text not null, title text not null, schedule text not null,
        data blob not null, type text, details text not null, registered integer not null, last integer not null,
        fired integer not null, declared integer not null, primary key (source, id)) without rowid""",
    """create table if not exists pauses (
        kind text not null, name text not null, reason text not null, by text not null, at real not null,
        primary key (kind, name)) without rowid""",
    # Messages that wait behind others of their key, and which message holds a unique key.
    """create table if not exists behind (
        place integer primary key autoincrement, source integer not null, id text not null, type text,
        data blob not null, headers text, born real not null, addressee text, key text not null, expires real,
        uniq text)""",
    """create table if not exists uniques (
        source integer not null, name text not null, id text not null, expires real not null,
        primary key (source, name)) without rowid""",
    # Runs of workflows (runs.py). The step whose number is `total` is the result. `state`: 0 waits, 1 sent, 2 ended,
    # 3 held; `place` orders the ends. `undoes`: 1 it can be undone, 2 the message that undoes it is on its way.
    """create table if not exists runs (
        run text primary key, home text not null, title text not null, status text not null, reason text not null,
        total integer not null, open integer not null, holds integer not null, ttl real not null, deadline real,
        rest text not null, started real not null, finished real, expires real, result text) without rowid""",
    "create index if not exists runs_by_start on runs (started)",
    "create index if not exists runs_by_deadline on runs (deadline) where deadline is not null and finished is null",
    "create index if not exists runs_by_expiry on runs (expires) where expires is not null",
    """create table if not exists steps (
        run text not null, step integer not null, name text not null, kind text not null, body text not null,
        needs integer not null, undoes integer not null default 0, state integer not null default 0,
        attempt integer not null default 0, due real, how text, value text, failure text,
        caused integer not null default 0, fails integer not null default 0,
        place integer, child text, primary key (run, step)) without rowid""",
    "create index if not exists steps_ready on steps (run) where state = 0 and needs = 0",
    "create index if not exists steps_by_due on steps (due) where due is not null",
    # Those who wait for a run look again and again for the few that say why it does not go on. SQLite does not choose
    # these by itself: queries name them.
    "create index if not exists steps_failing on steps (run, step) where fails",
    "create index if not exists steps_held on steps (run, step) where state = 3",
    "create index if not exists steps_asking on steps (run, step) where kind = 'signal' and state = 1",
    """create table if not exists waits (
        run text not null, step integer not null, dependent integer not null, wants text not null,
        primary key (run, step, dependent)) without rowid""",
    # Rows that belong to no run, by the name that their column `run` has: of a run that is about to be started, or that
    # was deleted. They are deleted a page at a time, from `until` on (loose_rows.py).
    "create table if not exists loose (rows text primary key, until real not null) without rowid",
    # What steps and runs have in `body` and `rest`, if that is long: there it is '' then, for what is counted in these
    # rows changes with each end of a step. That of a run has the number of its result (loose_rows.py).
    """create table if not exists bodies (
        run text not null, step integer not null, body text not null, primary key (run, step)) without rowid""",
    # The steps that were added to groups later on, beside those in the templates.
    """create table if not exists grown (
        run text not null, grp integer not null, step integer not null, primary key (run, grp, step)) without rowid""",
    """create table if not exists signals (
        run text not null, name text not null, value text not null, primary key (run, name)) without rowid""",
    # The lives of tracked messages (states.py).
    """create table if not exists states (
        id text not null, source integer not null, status text not null, rank integer not null,
        attempt integer not null default 0, count integer not null default 0, version integer not null default 1,
        actor text not null default '', node text not null default '', keep real not null, sent real not null,
        received real, started real, ended real, expires real, progress text, failure text,
        reason text not null default '', primary key (id, source)) without rowid""",
    "create index if not exists states_by_age on states (source, sent)",
    "create index if not exists states_by_expiry on states (expires) where expires is not null",
    # How often users have changed triggers by hand: one row, once they have (triggers.py).
    "create table if not exists trigger_changes (only integer primary key, number integer not null)",
    # What users did (audit.py).
    """create table if not exists audit (
        entry integer primary key autoincrement, at real not null, who text not null, role text not null,
        action text not null, what text not null, reason text not null, ip text not null,
        outcome text not null default '', how_many integer)""",
    # What nodes report of themselves, commands to them, and their answers (reports.py). The row of "" says until when
    # the reports are watched.
    "create table if not exists reports (node text primary key, data blob not null, until real not null) without rowid",
    """create table if not exists asks (
        ask integer primary key autoincrement, id text not null, node text not null, data blob not null,
        until real not null)""",
    """create table if not exists answers (
        id text primary key, data blob not null, until real not null) without rowid""",
    # What was handled in each minute (minutes.py); the source is a name, "" for all of them together.
    """create table if not exists minutes (
        source text not null, minute integer not null, field text not null, count integer not null,
        primary key (source, minute, field)) without rowid""",
    "create index if not exists minutes_by_age on minutes (minute)",
    # The states of entities, and their last changes (entities.py).
    """create table if not exists entities (
        source integer not null, grp text not null, key text not null, version integer not null, data blob not null,
        at real not null, author text not null, node text not null, schema integer not null, stamp text not null,
        expires real, primary key (source, grp, key)) without rowid""",
    "create index if not exists entities_by_change on entities (source, grp, at, key)",
    "create index if not exists entities_by_expiry on entities (expires) where expires is not null",
    """create table if not exists pasts (
        source integer not null, grp text not null, key text not null, version integer not null, data blob not null,
        at real not null, author text not null, node text not null, schema integer not null, stamp text not null,
        primary key (source, grp, key, version)) without rowid""",
    # Which handlers of keys wait for others (waits.py): the delivery that asks, and what it asks whom.
    """create table if not exists key_waits (
        source integer not null, key text not null, message text not null, to_source text not null,
        to_key text not null, seq integer not null, grp integer not null, node integer not null,
        count integer not null, until real not null, primary key (source, key, message)) without rowid""",
    # Limits over all processes (limiter.py).
    "create table if not exists rates (name text primary key, tat real not null) without rowid",
    "create index if not exists rates_by_tat on rates (tat)",
    """create table if not exists slots (
        name text not null, holder text not null, until real not null, primary key (name, holder)) without rowid""",
)

COLUMNS: Final[tuple[tuple[str, str, str], ...]] = (
    ("entries", "key", "text"),
    ("entries", "expires", "real"),
    ("entries", "uniq", "text"),
    ("entries", "ready", "real"),
    ("delayed", "key", "text"),
    ("delayed", "expires", "real"),
    ("delayed", "uniq", "text"),
    ("delayed", "goes_first", "integer not null default 0"),
    ("dead", "key", "text"),
    ("dead", "channel", "integer"),
    ("waits", "gathers", "integer not null default 0"),
    ("runs", "late", "integer not null default 0"),
    # What tells a run from others that have had its id.
    ("runs", "secret", "text"),
    # What the rows of its steps have in their column `run`; null for its id, as an earlier version wrote it.
    ("runs", "rows", "text"),
    # Of a run that is closed: the steps from this one on have ended.
    ("runs", "closed", "integer"),
    # Whether something of a large run is left to later transactions, how far it is put back to be tried again, how
    # often it was, and whether only those steps are that have `again`; `ends` numbers the ends. `told`: of a step that
    # has ended, the last of its dependents that knows.
    ("runs", "more", "integer not null default 0"),
    ("runs", "putting", "text not null default ''"),
    ("runs", "retries", "integer not null default 0"),
    ("runs", "some", "integer not null default 0"),
    ("runs", "ends", f"integer not null default {1 << 32}"),
    ("steps", "told", "integer"),
    ("steps", "again", "integer not null default 0"),
    # What users have changed by hand, as JSON, and when (triggers.py).
    ("triggers", "changes", "text"),
    ("triggers", "changed", "integer"),
    ("triggers", "revision", "integer not null default 0"),
    ("triggers", "put", "integer not null default 0"),
    # Why a message that was in flight then was cancelled, as JSON.
    ("states", "cancelled", "text"),
    # Which messages have changed the state last (policy/entities.py).
    ("entities", "marks", "blob"),
)
"""Columns that came later, as (table, column, declaration): new files are given them in the same way as old ones."""

INDEXES: Final = (
    "create index if not exists runs_with_more on runs (run) where more",
    "create index if not exists runs_by_rows on runs (coalesce(rows, run))",
    "create index if not exists loose_by_time on loose (until)",
    "create index if not exists steps_unsuccessful on steps (run) where state = 2 and how <> 'done'",
    "create index if not exists steps_undoable on steps (run, place) where undoes = 1 and how = 'done'",
    "create index if not exists steps_undoing on steps (run) where undoes = 2",
    "create index if not exists steps_spreading on steps (run, step) where told is not null",
    # Nothing is in them of messages that have neither a key nor a unique key.
    f"create index if not exists entries_of_key on entries (key, {SOURCE}) where key is not null",
    f"create index if not exists delayed_of_key on delayed (key, {SOURCE}) where goes_first",
    f"create index if not exists behind_of_key on behind (key, {SOURCE}, place)",
    f"create index if not exists entries_of_unique on entries (uniq, {SOURCE}) where uniq is not null",
    f"create index if not exists delayed_of_unique on delayed (uniq, {SOURCE}) where uniq is not null",
    f"create index if not exists behind_of_unique on behind (uniq, {SOURCE}) where uniq is not null",
    "create index if not exists delayed_by_id on delayed (id)",
    "create index if not exists behind_by_id on behind (source, id)",
    "create index if not exists states_cancelled on states (source) where cancelled is not null and rank < 4",
    # Only messages with headers can be steps of a run, which are found by their id when it is cancelled.
    "create index if not exists entries_by_id on entries (id) where headers is not null",
)
"""Indexes of columns that came later."""


def prepare(connection: sqlite3.Connection) -> None:
    """Create whatever the file lacks. Needs an open transaction."""
    for statement in SCHEMA:
        connection.execute(statement)
    present: dict[str, set[str]] = {}
    for table, column, declaration in COLUMNS:
        if table not in present:
            present[table] = {row[1] for row in connection.execute(f"pragma table_info({table})")}
        if column not in present[table]:
            connection.execute(f"alter table {table} add column {column} {declaration}")
    for statement in INDEXES:
        connection.execute(statement)
    if connection.execute("pragma user_version").fetchone()[0] != VERSION:
        # A group that is away has not had what is urgent, which is in channels that its version did not know.
        for rank in range(1, 4):
            connection.execute(
                "insert or ignore into groups (source, name) select source + ?, name from groups where source < ?",
                (rank * LEVEL, LEVEL),
            )
        connection.execute(f"pragma application_id = {APPLICATION}")
        connection.execute(f"pragma user_version = {VERSION}")
