"""How a node is given entries of a channel: first what is orphaned or released, then what its group was never given.

A message that several processes died with is a suspect: it is run with nothing beside it (isolation), and dead-lettered
once `max_crashes` have died. Its crashes are counted when it is read, so no process has to survive it to report them.
"""

from __future__ import annotations

import json
from typing import Any, Final

from actorwork.embedded.dead_letters import DeadLetterTable
from actorwork.embedded.rows import GroupChannel, Taken, Token, channel_number, delivery_from
from actorwork.embedded.settling import Settlements
from actorwork.embedded.sources import SourceNumbers
from actorwork.embedded.transaction import Transaction
from actorwork.message import NO_HEADERS, Delivery, Failure, Outcome

MANY: Final = 1000
FREE: Final = (
    "select p.seq, p.count, p.node, e.id, e.type, e.data, e.headers, e.key, e.expires, e.uniq"
    " from pending p join entries e using (seq) where p.grp = ? and p.node <= 0"
)
"""The entries of a group that belong to no node."""


class Reading:
    def __init__(
        self, transaction: Transaction, sources: SourceNumbers, settlements: Settlements, dead_letters: DeadLetterTable
    ) -> None:
        self._execute = transaction.execute
        self._sources = sources
        self._settlements = settlements
        self._dead_letters = dead_letters

    def __repr__(self) -> str:
        return "<Reading>"

    def open_channel(self, channel: GroupChannel) -> None:
        """Find the group of a channel; if it is new, make it, at the beginning of what is there."""
        channel.number = channel_number(self._sources.number(channel.name), channel.priority)
        channel.grp = self._group(channel)

    def _group(self, channel: GroupChannel) -> int:
        self._execute("insert or ignore into groups (source, name) values (?, ?)", (channel.number, channel.group))
        row = self._execute(
            "select grp from groups where source = ? and name = ?", (channel.number, channel.group)
        ).fetchone()
        return row[0]

    def _restore_group(self, channel: GroupChannel) -> int:
        """Make the group of a channel again, after its row was deleted by hand; return its number."""
        # It reads from the beginning, so what the old one had in flight is delivered again. Left behind, those rows
        # would keep their entries for ever: no group of theirs could settle them.
        self._execute("delete from pending where grp not in (select grp from groups)")
        return self._group(channel)

    def take(self, channel: GroupChannel, node: int, limit: int) -> Taken:
        """Give entries of a channel to a node: orphaned and released ones first, then those after the cursor."""
        grp, restored = channel.grp, False
        group = self._execute("select cursor from groups where grp = ?", (grp,)).fetchone()
        if group is None:
            grp, restored = self._restore_group(channel), True
            group = self._execute("select cursor from groups where grp = ?", (grp,)).fetchone()
        taken = Taken(grp, restored=restored)
        free_of: str = FREE
        which: list[Any] = [grp]
        if channel.aside:
            free_of += " and p.seq not in (select value from json_each(?))"
            which.append(json.dumps(list(channel.aside)))
        free = self._execute(f"{free_of} order by p.seq limit ?", (*which, limit)).fetchall()
        if channel.suspects or any(count >= channel.alone_from for _, count, *_ in free):
            suspected = (channel.alone_from, channel.dead_from - 1)
            free = self._execute(
                f"{free_of} and not p.count between ? and ? order by p.seq limit ?", (*which, *suspected, limit)
            ).fetchall()
            taken.held = self.has_suspects(channel, grp)
        self._give(free, channel, node, taken)
        room = limit - len(free)
        if room <= 0:
            return taken
        cursor = group[0]
        rows = self._execute(
            "select seq, id, type, data, headers, addressee, coalesce(key, expires, uniq), coalesce(ready, born)"
            " from entries"
            " where source = ? and seq > ? order by seq limit ?",
            (channel.number, cursor, room),
        ).fetchall()
        if rows:
            last = rows[-1][0]
            self._execute("update groups set cursor = ? where grp = ?", (last, grp))
            self._execute(
                "insert into pending (seq, grp, node, count) select seq, ?, ?, 1 from entries"
                " where source = ? and seq > ? and seq <= ? and (addressee is null or addressee = ?)",
                (grp, node, channel.number, cursor, last, channel.group),
            )
            mine, name, priority, append = channel.group, channel.name, channel.priority, taken.deliveries.append
            for seq, message_id, kind, data, headers, addressee, optional, ready in rows:
                if addressee is not None and addressee != mine:
                    continue
                if headers is None and optional is None:
                    # Most are like this, and must not pay for what few messages have.
                    token = Token(seq, grp, node, 1, False, ready)  # noqa: FBT003 - by name it costs more
                    append(Delivery(message_id, name, data, token, kind, NO_HEADERS, 1, 0, None, priority))
                    continue
                key, expires, unique = (None, None, None) if optional is None else self._optional_fields(seq)
                token = Token(seq, grp, node, 1, key is not None or unique is not None, ready)
                taken.add(delivery_from(channel, message_id, kind, data, headers, token, key, expires))
        taken.emptied = len(rows) < room
        return taken

    def take_suspect(self, channel: GroupChannel, node: int) -> Taken:
        """Give one suspect of a channel to a node that has nothing else in flight."""
        taken = Taken(channel.grp)
        suspected = (channel.alone_from, channel.dead_from - 1)
        free = self._execute(
            f"{FREE} and p.count between ? and ? order by p.seq limit 1", (channel.grp, *suspected)
        ).fetchall()
        self._give(free, channel, node, taken)
        taken.held = self.has_suspects(channel, channel.grp)
        return taken

    def has_suspects(self, channel: GroupChannel, grp: int) -> bool:
        """Whether suspects of a channel, whose group is `grp`, belong to no node."""
        return bool(
            self._execute(
                "select exists (select 1 from pending where grp = ? and node <= 0 and count between ? and ?)",
                (grp, channel.alone_from, channel.dead_from - 1),
            ).fetchone()[0]
        )

    def is_idle(self, node: int) -> bool:
        """Whether a node has nothing in flight."""
        return not self._execute("select exists (select 1 from pending where node = ?)", (node,)).fetchone()[0]

    def _give(self, free: list[Any], channel: GroupChannel, node: int, taken: Taken) -> None:
        """Give entries that belong to no node to this one; those that crashed too often become dead letters."""
        grp = taken.grp
        again: list[int] = []
        owners: dict[int, int] = {}
        for seq, count, owner, message_id, kind, data, headers, key, expires, unique in free:
            bound = key is not None or unique is not None
            if headers is not None:
                token = Token(seq, grp, 0, count, bound)
                delivery = delivery_from(channel, message_id, kind, data, headers, token, key, expires)
                if self._settlements.end_cancelled(delivery):
                    self._execute("delete from pending where seq = ? and grp = ?", (seq, grp))
                    self._settlements.end(token)
                    continue
            if count >= channel.dead_from:
                token = Token(seq, grp, 0, count, bound)
                self._dead_letter(channel, delivery_from(channel, message_id, kind, data, headers, token, key, expires))
                taken.dead_lettered.append((message_id, count))
                continue
            again.append(seq)
            owners[-owner] = owners.get(-owner, 0) + 1
            token = Token(seq, grp, node, count + 1, bound)
            taken.add(delivery_from(channel, message_id, kind, data, headers, token, key, expires))
        if again:
            self._execute(
                "update pending set node = ?, count = count + 1"
                " where grp = ? and seq in (select value from json_each(?))",
                (node, grp, json.dumps(again)),
            )
            taken.reclaimed = list(owners.items())

    def _optional_fields(self, seq: int) -> tuple[str | None, float | None, str | None]:
        """Return the key, the expiry and the unique key of an entry."""
        return self._execute("select key, expires, uniq from entries where seq = ?", (seq,)).fetchone()

    def _dead_letter(self, channel: GroupChannel, delivery: Delivery) -> None:
        token: Token = delivery.token
        failure = Failure("Crashed", f"{token.given} processes died while they handled this message")
        self._execute("delete from pending where seq = ? and grp = ?", (token.seq, token.grp))
        self._dead_letters.keep(delivery, channel.group, channel.actor, failure, channel.bounds)
        if channel.is_told_failures:
            self._settlements.tell_failure(delivery, channel.group, failure)
        self._settlements.answer(delivery, Outcome("failed", failure=failure))
        self._settlements.end(token)

    def news_since(self, seq: int) -> tuple[int, list[int]]:
        """Return the last `seq` and the channels with entries after `seq`. Needs no transaction."""
        last = self._execute("select seq from sqlite_sequence where name = 'entries'").fetchone()
        if not last or last[0] <= seq:
            return seq, []
        # Reading every entry pays only for a few; if there are more, all channels count as changed.
        few = last[0] - seq <= MANY
        rows = self._execute(
            "select distinct source from entries where seq > ?"
            if few
            else "select distinct source from groups where ? is not null",
            (seq,),
        ).fetchall()
        return last[0], [row[0] for row in rows]

    def groups_with_free(self) -> set[int]:
        """Return the groups with released or orphaned deliveries. Needs no transaction."""
        return {row[0] for row in self._execute("select distinct grp from pending where node <= 0")}
