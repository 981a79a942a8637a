"""How the headers of a message record its attempts, the same for every broker.

next attempt     counts the attempt up, and appends this error to the history, whose last ten entries are kept
first attempt    of a dead letter that is sent again: removes both, and the span of the attempt before
failure          for the actor's hook: adds the failure, and removes what asks for an outcome, which it had
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actorwork.message import (
    ATTEMPT,
    FAILED,
    FLOW,
    HISTORY,
    PREVIOUS_SPAN,
    REPLY_TO,
    RESULT_TTL,
    RUN_SECRET,
    Delivery,
    Failure,
    Json,
)

HISTORY_LENGTH: Final = 10
"""How many failed attempts a message remembers."""


def headers_of_next_attempt(
    delivery: Delivery, failure: Failure, at: float, added: Mapping[str, Json] | None = None
) -> dict[str, Json]:
    """Return the headers for the next attempt, with those of the `Retry`; `at` is in seconds since the epoch."""
    before = delivery.headers.get(HISTORY)
    history: list[Json] = list(before) if isinstance(before, list) else []
    history.append({"attempt": delivery.attempt, "error": failure.type, "reason": failure.reason, "at": round(at, 3)})
    return {**delivery.headers, **(added or {}), ATTEMPT: delivery.attempt + 1, HISTORY: history[-HISTORY_LENGTH:]}


def headers_of_failure(headers: Mapping[str, Json], failure: Failure, key: str | None) -> dict[str, Json]:
    """Return the headers of the delivery that makes the hook `failed` of an actor run.

    That delivery has no key, so it does not wait in line; `key` is that of the message that has failed.
    """
    told: dict[str, Json] = {"type": failure.type, "reason": failure.reason, "traceback": failure.traceback}
    if key is not None:
        told["key"] = key
    return {**without_questions(headers), FAILED: told}


def without_questions(headers: Mapping[str, Json]) -> dict[str, Json]:
    """Return the headers without those that ask for an outcome."""
    return {name: value for name, value in headers.items() if name not in (REPLY_TO, RESULT_TTL, FLOW, RUN_SECRET)}


def headers_of_first_attempt(headers: Mapping[str, Json]) -> dict[str, Json]:
    """Return the headers without the attempts so far."""
    return {name: value for name, value in headers.items() if name not in (ATTEMPT, HISTORY, PREVIOUS_SPAN)}
