"""The lives of tracked messages: of those that were submitted, and of the steps of runs.

A status only goes forward: what is noted later must be of a later attempt, of a later delivery of the same attempt, or
further on in the same delivery. So the report of a node that was taken for dead is refused, as is one that was
overtaken on its way. After the end nothing changes any more, until a dead letter is sent again: a new life.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs

from actorwork.embedded.rows import failure_from
from actorwork.embedded.schema import LEVEL
from actorwork.embedded.transaction import Transaction
from actorwork.message import NO_HEADERS, Delivery, Failure, Json, Outcome, Status

if TYPE_CHECKING:
    from actorwork.records import MessageInfo, Progress, TrackedMessage

RANKS: Final[Mapping[Status, int]] = {Status.PENDING: 0, Status.RECEIVED: 1, Status.STARTED: 2, Status.RETRY: 3}
OVER: Final = 4
"""The rank of all ends."""
_OF_FAILURE: Final = {"Expired": Status.EXPIRED, "Cancelled": Status.CANCELLED, "Lost": Status.FAILURE}


class CancelledMessage(NamedTuple):
    """A message that was cancelled while it was in flight."""

    source: str
    id: str
    reason: str
    force: bool


class StateTable:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._execute = transaction.execute

    def __repr__(self) -> str:
        return "<StateTable>"

    def begin(self, source: int, id: str, keep: float) -> None:
        """Begin the life of a message that is kept; what became of it is known for `keep` seconds after its end."""
        self._execute(
            "insert or replace into states (id, source, status, rank, keep, sent) values (?, ?, 'PENDING', 0, ?, ?)",
            (id, source, keep, self._transaction.now),
        )

    def received(self, deliveries: Iterable[Delivery], source: int, actor: str, node: str) -> None:
        """Note that a node was given deliveries of a source."""
        now = self._transaction.now
        for delivery in deliveries:
            self._note(
                "received = ?, actor = ?, node = ?, started = null, progress = null, failure = null, reason = ''",
                (now, actor, node),
                delivery,
                source,
                Status.RECEIVED,
            )

    def note(self, delivery: Delivery, source: int, started: float | None, progress: Progress | None) -> None:
        """Note that the handler of a delivery has begun, and how far it is."""
        text = None if progress is None else encoded_progress(progress)
        self._note(
            "started = coalesce(started, ?), progress = coalesce(?, progress)",
            (started, text),
            delivery,
            source,
            Status.STARTED,
        )

    def retry(self, delivery: Delivery, source: int, failure: Failure) -> None:
        """Note that a delivery is to be tried again."""
        told = json.dumps(attrs.asdict(attrs.evolve(failure, traceback="")))
        self._note("failure = ?, reason = ?", (told, failure.reason), delivery, source, Status.RETRY)

    def _note(self, what: str, values: tuple[Any, ...], delivery: Delivery, source: int, status: Status) -> None:
        order = (delivery.attempt, delivery.token.given, RANKS[status])
        done = self._execute(
            f"update states set status = ?, attempt = ?, count = ?, rank = ?, version = version + 1, {what}"
            f" where id = ? and source = ? and rank < {OVER} and (attempt, count, rank) <= (?, ?, ?)",
            (status, *order, *values, delivery.id, source, *order),
        )
        if done.rowcount:
            self._transaction.changed.add((delivery.source, delivery.id))

    def finish(self, source: int, name: str, id: str, outcome: Outcome) -> bool:
        """End a life; return False, and change nothing, if it has ended before."""
        failure = outcome.failure
        if outcome.status == "done":
            status = Status.SUCCESS
        elif outcome.status == "failed":
            status = Status.FAILURE
        else:
            status = _OF_FAILURE.get("" if failure is None else failure.type, Status.REJECTED)
        now = self._transaction.now
        told = None if failure is None else json.dumps(attrs.asdict(failure))
        reason = "" if failure is None else failure.reason
        done = self._execute(
            f"update states set status = ?, rank = {OVER}, version = version + 1, ended = ?, expires = ? + keep,"
            f" failure = ?, reason = ? where id = ? and source = ? and rank < {OVER}",
            (status, now, now, told, reason, id, source),
        )
        if done.rowcount:
            self._transaction.changed.add((name, id))
            return True
        return self._execute("select 1 from states where id = ? and source = ?", (id, source)).fetchone() is None

    def revive(self, source: int, name: str, id: str, keep: Json) -> None:
        """Begin another life of a message whose dead letter is sent again; `keep` as in its headers."""
        done = self._execute(
            "update states set status = 'PENDING', rank = 0, version = version + 1, attempt = 0, count = 0,"
            " expires = null, cancelled = null, received = null, started = null, ended = null, progress = null,"
            " failure = null, reason = ''"
            " where id = ? and source = ?",
            (id, source),
        )
        if done.rowcount:
            self._transaction.changed.add((name, id))
        elif isinstance(keep, (int, float)) and keep > 0:
            self.begin(source, id, keep)

    def is_open(self, source: int, id: str) -> bool | None:
        """Whether a message is not over; None if it is not tracked."""
        row = self._execute("select rank from states where id = ? and source = ?", (id, source)).fetchone()
        return None if row is None else row[0] < OVER

    def cancel(self, source: int, id: str, reason: str, *, force: bool) -> bool:
        """Note that a message in flight is cancelled; return whether that is new, and the message not over."""
        row = self._execute(
            f"select cancelled from states where id = ? and source = ? and rank < {OVER}", (id, source)
        ).fetchone()
        if row is None or (row[0] is not None and (not force or json.loads(row[0])["force"])):
            return False
        note = json.dumps({"reason": reason, "force": force})
        self._execute("update states set cancelled = ? where id = ? and source = ?", (note, id, source))
        self._transaction.cancelled = True
        return True

    def cancelled(self) -> list[CancelledMessage]:
        """Return the messages in flight that were cancelled. Needs no transaction."""
        rows = self._execute(
            "select s.name, t.id, t.cancelled from states t join sources s using (source)"
            f" where t.cancelled is not null and t.rank < {OVER}"
        ).fetchall()
        return [CancelledMessage(*row[:2], **json.loads(row[2])) for row in rows]

    def why_cancelled(self, source: int, id: str) -> str | None:
        """Return why a message was cancelled, or None if it was not."""
        row = self._execute(
            f"select cancelled from states where id = ? and source = ? and cancelled is not null and rank < {OVER}",
            (id, source),
        ).fetchone()
        return None if row is None else json.loads(row[0])["reason"]

    def forget(self, source: int, id: str) -> bool:
        """Delete what is kept of a message that is over; return whether there was one."""
        done = self._execute(f"delete from states where id = ? and source = ? and rank = {OVER}", (id, source))
        if done.rowcount:
            self._execute("delete from outcomes where source = ? and id = ?", (source, id))
        return done.rowcount == 1

    def prune(self) -> None:
        """Delete those that are kept no longer."""
        self._execute("delete from states where expires <= ?", (self._transaction.now,))

    # ---- what a client reads; needs no transaction ----

    def find(self, source: str, id: str, now: float) -> MessageInfo | None:
        row = self._execute(
            f"select {_INFO} from states join sources s using (source) where id = ? and s.name = ?"
            " and (expires is null or expires > ?)",
            (id, source, now),
        ).fetchone()
        return None if row is None else _info(source, id, row)

    def newest(self, source: str, limit: int, now: float) -> list[TrackedMessage]:
        from actorwork.records import TrackedMessage  # noqa: PLC0415 - see records.py

        rows = self._execute(
            f"select {_INFO}, id, rank < {OVER} and exists"
            f" (select 1 from delayed d where d.id = t.id and d.source % {LEVEL} = t.source)"
            " from states t join sources s using (source) where s.name = ? and (expires is null or expires > ?)"
            " order by sent desc limit ?",
            (source, now, limit),
        ).fetchall()
        return [
            TrackedMessage(info=_info(source, name, row), is_delayed=bool(is_delayed))
            for *row, name, is_delayed in rows
        ]

    def with_payloads(self, messages: Iterable[TrackedMessage]) -> list[TrackedMessage]:
        found: list[TrackedMessage] = []
        for one in messages:
            row = self._execute(_PAYLOAD, {"id": one.info.id, "source": one.info.source}).fetchone()
            if row is None or not isinstance(row[0], bytes):
                found.append(one)
                continue
            payload, kind, key, unique, headers = row
            told = json.loads(headers) if headers else NO_HEADERS
            found.append(attrs.evolve(one, payload=payload, type=kind, key=key, unique=unique, headers=told))
        return found

    def locate(self, id: str, now: float) -> str | None:
        row = self._execute(
            "select s.name from states join sources s using (source) where id = ? and (expires is null or expires > ?)"
            " limit 1",
            (id, now),
        ).fetchone()
        return None if row is None else row[0]


def encoded_progress(progress: Progress) -> str:
    return json.dumps(
        {
            "done": progress.done,
            "total": progress.total,
            "note": progress.note,
            "state": progress.state,
            "meta": dict(progress.meta),
        }
    )


def _info(source: str, id: str, row: Sequence[Any]) -> MessageInfo:
    from actorwork.records import MessageInfo, Progress  # noqa: PLC0415 - see records.py

    status, attempt, count, actor, node, sent, received, started, ended, progress, failure, reason, version = row
    return MessageInfo(
        id=id,
        source=source,
        status=Status(status),
        attempt=attempt,
        deliveries=count,
        actor=actor,
        node=node,
        sent=sent,
        received=received,
        started=started,
        ended=ended,
        progress=None if progress is None else Progress(**json.loads(progress)),
        failure=None if failure is None else failure_from(failure),
        reason=reason,
        version=version,
    )


_INFO: Final = "status, attempt, count, actor, node, sent, received, started, ended, progress, failure, reason, version"
_CHANNELS: Final = (
    "source in (select s.source + value from sources s, json_each('["
    + ", ".join(str(LEVEL * rank) for rank in range(4))
    + "]') where name = :source)"
)
_PAYLOAD: Final = (
    f"select data, type, key, uniq, headers from entries where id = :id and headers is not null and {_CHANNELS}"
    f" union all select data, type, key, uniq, headers from delayed where id = :id and {_CHANNELS}"
    f" union all select data, type, key, uniq, headers from behind where id = :id and {_CHANNELS}"
    " union all select data, type, key, null, headers from (select * from dead where source ="
    " (select source from sources where name = :source) order by entry desc limit 1000) where id = :id"
)
