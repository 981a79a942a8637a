"""What handlers report of how far they are.

    handler or its thread ──Progress──▶ consumer ──the newest, now and then──▶ the message's life at the broker

Nothing here waits. The broker's node writes the newest report of a delivery at most every 50 ms, and the last one goes
with the settlement at the latest; reports of a delivery that has ended, or is another node's by now, are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from actorwork.codec import encode_value, loads
from actorwork.message import NO_HEADERS, Json, Status
from actorwork.policy.bounds import is_number
from actorwork.records import Progress

if TYPE_CHECKING:
    from actorwork.actors.context.in_flight import InFlight, ReportTaker

LONGEST_NOTE: Final = 1000
"""Characters; a longer note is cut."""
LONGEST_STATE: Final = 100
MOST_META: Final = 16_384
"""Bytes of JSON."""


class Reports:
    """The reports of one delivery, or of all of a batch."""

    __slots__ = ("_consumer", "_current", "_newest")

    def __init__(self, consumer: ReportTaker, current: InFlight) -> None:
        self._consumer = consumer
        self._current = current
        self._newest: Progress | None = None

    def give(self, progress: Progress) -> None:
        """Take a report, from any thread. Never waits."""
        token = self._consumer.token
        self._newest = progress
        if token is None:
            return
        if _is_here(token):
            self._pass_on()
            return
        with suppress(trio.RunFinishedError):  # The node has ended, and an abandoned thread reports still.
            token.run_sync_soon(self._pass_on, idempotent=True)

    def _pass_on(self) -> None:
        current = self._current
        if current.ended:
            return
        for delivery in current.deliveries or (current.delivery,):
            self._consumer.note(delivery, Status.STARTED, self._newest)


def _is_here(token: trio.lowlevel.TrioToken) -> bool:
    return trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is token


def progress_of(done: object, total: object, note: object, state: object, meta: Mapping[str, object]) -> Progress:
    """Check a report; `meta` is copied. Raises `TypeError`, `ValueError`, and `CodecError` for what is no JSON."""
    if not is_number(done) or not math.isfinite(done):
        raise TypeError(f"done wants a number, got {done!r:.100}")
    if total is not None and not (is_number(total) and math.isfinite(total)):
        raise TypeError(f"total wants a number, or None if it is not known, got {total!r:.100}")
    if not isinstance(note, str):
        raise TypeError(f"note wants a str, got {note!r:.100}")
    if not isinstance(state, str) or not 0 < len(state) <= LONGEST_STATE:
        raise ValueError(f"state wants a word of at most {LONGEST_STATE} characters, got {state!r:.200}")
    if len(note) > LONGEST_NOTE:
        note = f"{note[: LONGEST_NOTE - 1]}…"
    copied: Mapping[str, Json] = NO_HEADERS
    if meta:
        data = encode_value(meta)
        if len(data) > MOST_META:
            raise ValueError(
                f"what a handler reports beside done, total and note is at most {MOST_META:,} bytes of JSON, got"
                f" {len(data):,}: keep what is large elsewhere, and report where"
            )
        copied = cast("dict[str, Any]", loads(data))
    return Progress(done, total, note, state, copied)
