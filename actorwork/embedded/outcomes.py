"""The outcomes of messages: stored for the senders that asked for them, and sent to the clients that wait."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final

from actorwork.embedded.rows import ReplyAddress, outcome_columns, outcome_from
from actorwork.embedded.states import StateTable
from actorwork.embedded.transaction import StepEnd, Transaction
from actorwork.message import FLOW, REPLY_TO, RESULT_TTL, RUN_SECRET, Json, Outcome, is_tracked

HOUR: Final = 3600.0


class Outcomes:
    def __init__(self, transaction: Transaction, states: StateTable) -> None:
        self._transaction = transaction
        self._states = states
        self._execute = transaction.execute

    def __repr__(self) -> str:
        return "<Outcomes>"

    def answer(self, source: int, name: str, id: str, headers: Mapping[str, Json], outcome: Outcome) -> None:
        """Store an outcome, send it to its sender, and note the end of a step: each if the headers ask for it.

        Of several groups the first ends the life of a message: an outcome that comes later is not stored. One of a step
        of a run that was forgotten, while another one has its id, is only sent.
        """
        if self.is_of_former_run(headers):
            headers = {name: value for name, value in headers.items() if name == REPLY_TO}
        ttl = headers.get(RESULT_TTL)
        is_first = not is_tracked(headers) or self._states.finish(source, name, id, outcome)
        if isinstance(ttl, (int, float)) and ttl > 0 and is_first:
            self._execute(
                "insert or replace into outcomes (source, id, status, value, failure, expires)"
                " values (?, ?, ?, ?, ?, ?)",
                (source, id, *outcome_columns(outcome), self._transaction.now + ttl),
            )
        address = headers.get(REPLY_TO)
        if isinstance(address, str):
            self._transaction.replies.append((address, name, id, outcome))
        if FLOW in headers:
            self._transaction.step_ends.append(StepEnd(headers[FLOW], id, outcome))

    def is_of_former_run(self, headers: Mapping[str, Json]) -> bool:
        """Whether a message is a step of a run that was forgotten, and whose id another run has by now."""
        secret = headers.get(RUN_SECRET)
        if secret is None:
            return False
        # Imported here: most programs have no runs.
        from actorwork.policy.runs.values import read_step_header  # noqa: PLC0415

        step = read_step_header(headers.get(FLOW))
        if step is None or not isinstance(secret, str):
            return False
        found = self._execute("select secret from runs where run = ?", (step[1],)).fetchone()
        return found is not None and found[0] != secret

    def post(self, replies: Iterable[ReplyAddress]) -> None:
        """Store replies for other processes, which fetch them."""
        self._transaction.executemany(
            "insert into replies (address, source, id, status, value, failure, at) values (?, ?, ?, ?, ?, ?, ?)",
            [(*reply[:3], *outcome_columns(reply[3]), self._transaction.now) for reply in replies],
        )

    def fetch(self, addresses: Iterable[str]) -> list[ReplyAddress]:
        """Take the replies that have come to these addresses."""
        wanted = json.dumps(list(addresses))
        rows = self._execute(
            "select address, source, id, status, value, failure from replies"
            " where address in (select value from json_each(?)) order by reply",
            (wanted,),
        ).fetchall()
        if rows:
            self._execute("delete from replies where address in (select value from json_each(?))", (wanted,))
        return [(row[0], row[1], row[2], outcome_from(*row[3:])) for row in rows]

    def has_replies(self, addresses: Iterable[str]) -> bool:
        """Whether replies have come to these addresses. Needs no transaction."""
        wanted = json.dumps(list(addresses))
        row = self._execute(
            "select 1 from replies where address in (select value from json_each(?)) limit 1", (wanted,)
        ).fetchone()
        return row is not None

    def find(self, source: str, id: str, now: float) -> Outcome | None:
        """Needs no transaction."""
        row = self._execute(
            "select o.status, o.value, o.failure from outcomes o join sources s using (source)"
            " where s.name = ? and o.id = ? and o.expires > ?",
            (source, id, now),
        ).fetchone()
        return outcome_from(*row) if row else None

    def prune(self) -> None:
        """Delete outcomes that have expired, and replies that were not fetched within an hour."""
        now = self._transaction.now
        self._execute("delete from outcomes where expires <= ?", (now,))
        self._execute("delete from replies where at < ?", (now - HOUR,))
