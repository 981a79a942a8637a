"""The embedded store in memory, which also records what is kept, settled and released, once it is committed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

import attrs
import trio

from actorwork.embedded.location import connect_to_memory, empty
from actorwork.embedded.rows import CARRIED, EnvelopeRow, SettleOrder, Token, channel_number, headers_from
from actorwork.embedded.schema import LEVEL
from actorwork.embedded.store import Store
from actorwork.message import Delivery, Envelope, Json, Priority
from actorwork.policy.settlement import Settlement

_SPARE: Final[list[Any]] = []
"""Connections of brokers that have ended. A new one costs a test 1.5 ms, most of it for compiling the statements that a
used one remembers; only it is emptied before it is used again.
"""
MOST_SPARE: Final = 8

Payload: TypeAlias = bytes | Mapping[bytes, bytes]


@attrs.frozen
class Settled:
    """A settlement that took effect: of which actor's delivery, and when (Trio's time)."""

    actor: str
    delivery: Delivery
    settlement: Settlement
    published: tuple[Envelope, ...]
    at: float


class Records:
    """What the store has committed, for tests to look at."""

    def __init__(self) -> None:
        self.sent: list[Envelope] = []
        self.settled: list[Settled] = []
        self.released: list[Delivery] = []
        self.has_settled = trio.Event()
        """Set, and replaced by another one, with each settlement."""

    def settle(self, settled: Settled) -> None:
        self.settled.append(settled)
        self.has_settled.set()
        self.has_settled = trio.Event()


class MemoryStore(Store):
    def __init__(self, connection: Any, records: Records) -> None:
        super().__init__(connection)
        self._records = records
        self._unrecorded: list[Callable[[], None]] = []
        """What to record once the transaction is committed."""

    # ---- what is recorded ----

    def commit(self) -> None:
        super().commit()
        unrecorded, self._unrecorded = self._unrecorded, []
        for record in unrecorded:
            record()

    def rollback(self) -> None:
        super().rollback()
        self._unrecorded.clear()

    def publish(self, rows: Iterable[EnvelopeRow], *, may_repeat: bool = True) -> int:
        new = 0
        for row in rows:
            # One by one: this is how to know which of them are new.
            if super().publish((row,), may_repeat=may_repeat):
                new += 1
                self._unrecorded.append(partial(self._records.sent.append, envelope_of(row)))
        return new

    def settle(self, order: SettleOrder) -> bool:
        if not super().settle(order):
            return False
        published = tuple(map(envelope_of, order.published))
        settled = Settled(order.actor, order.delivery, order.settlement, published, trio.current_time())
        self._unrecorded.append(partial(self._records.settle, settled))
        return True

    def release(self, delivery: Delivery) -> bool:
        if not super().release(delivery):
            return False
        self._unrecorded.append(partial(self._records.released.append, delivery))
        return True

    # ---- what tests do ----

    def put(self, source: str, id: str, payload: Payload, type: str | None, headers: Mapping[str, Json]) -> None:
        """Add an entry as a foreign producer does: its id is not looked at."""
        text = json.dumps(dict(headers)) if headers else None
        number = self.source(source)
        self._execute(
            f"insert into entries ({CARRIED}, ready) values (?, ?, ?, ?, ?, ?, null, null, null, null, ?)",
            (number, id, type, payload_column(payload), text, self.now, self.now),
        )
        self.transaction.touched.add(number)

    def double(self, delivery: Delivery, group: str) -> None:
        """Send the entry of a delivery once more, to one group alone."""
        self._execute(
            f"insert into entries ({CARRIED}, ready)"
            " select source, id, type, data, headers, born, ?, key, expires, uniq, ? from entries where seq = ?",
            (group, self.now, delivery.token.seq),
        )
        self.transaction.touched.add(channel_number(self.source(delivery.source), delivery.priority))

    def orphan(self, token: Token) -> None:
        """Take a delivery from its node, as if that were dead."""
        self._execute(
            "update pending set node = -node where seq = ? and grp = ? and node = ? and count = ?", token.owned
        )
        self.transaction.orphaned = True

    def waiting(self, source: str | None, group: str | None) -> list[str]:
        """Return the ids of what is ready and not taken: of a source, of a group, or of all. Needs no transaction."""
        rows = self._execute(_WAITING, {"source": source, "group": group}).fetchall()
        return [row[0] for row in rows]


def take_connection() -> Any:
    """Return a connection to an empty store in memory."""
    try:
        connection = _SPARE.pop()
    except IndexError:
        return connect_to_memory()
    empty(connection)
    return connection


def give_connection(connection: Any) -> None:
    """Keep a connection that is no longer used. Called by the garbage collector, in any thread: it does no more."""
    if len(_SPARE) < MOST_SPARE:
        _SPARE.append(connection)
    else:
        connection.close()


def envelope_of(row: EnvelopeRow) -> Envelope:
    more = {} if row.optional is None else row.optional._asdict()
    headers = headers_from(row.headers)
    return Envelope(row.source, row.id, row.data, row.type, headers, row.delay, row.due, row.addressee, **more)


def payload_column(payload: Payload) -> bytes | str:
    """Return what the column `data` holds: bytes, or a str for the fields of a foreign producer."""
    if isinstance(payload, bytes):
        return payload
    return json.dumps({name.decode("latin-1"): value.decode("latin-1") for name, value in payload.items()})


def payload_of(data: Any) -> Payload:
    """Return what `payload_column` was given."""
    if not isinstance(data, str):
        return data
    fields: dict[str, str] = json.loads(data)
    return {name.encode("latin-1"): value.encode("latin-1") for name, value in fields.items()}


_RANK: Final = " ".join(
    f"when {channel_number(0, level) // LEVEL} then {rank}" for rank, level in enumerate(sorted(Priority))
)
_WAITING: Final = (
    "select e.id from groups g"
    f" join sources s on s.source = g.source & {LEVEL - 1}"
    " join entries e on e.source = g.source and (e.addressee is null or e.addressee = g.name)"
    " left join pending p on p.seq = e.seq and p.grp = g.grp"
    " where (p.node <= 0 or p.seq is null and e.seq > g.cursor)"
    " and (:source is null and :group is null or s.name = :source or g.name = :group)"
    f" order by s.source, g.name, case g.source / {LEVEL} {_RANK} end, e.seq"
)
