"""How the headers of a message record its attempts, the same for every broker.

next attempt     counts the attempt up, and appends this error to the history, whose last ten entries are kept
first attempt    of a dead letter that is sent again: removes both
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actorwork.message import ATTEMPT, HISTORY, Delivery, Failure, Json

HISTORY_LENGTH: Final = 10
"""How many failed attempts a message remembers."""


def headers_of_next_attempt(delivery: Delivery, failure: Failure, at: float) -> dict[str, Json]:
    """Return the headers for the next attempt; `at` is in seconds since the epoch."""
    before = delivery.headers.get(HISTORY)
    history: list[Json] = list(before) if isinstance(before, list) else []
    history.append({"attempt": delivery.attempt, "error": failure.type, "reason": failure.reason, "at": round(at, 3)})
    return {**delivery.headers, ATTEMPT: delivery.attempt + 1, HISTORY: history[-HISTORY_LENGTH:]}


def headers_of_first_attempt(headers: Mapping[str, Json]) -> dict[str, Json]:
    """Return the headers without the attempts so far."""
    return {name: value for name, value in headers.items() if name not in (ATTEMPT, HISTORY)}
