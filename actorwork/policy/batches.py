"""Batches: how many messages a handler takes at once, and the outcome of each.

the handler of a batch          each message
returns None                    is handled
returns a list, one for each    is handled, and that element is its reply; an exception as element (a verdict, or an
                                error) ends the message as if its handler had raised it
raises                          ends as if its handler had raised that
returns anything else           fails: which messages were handled is unknown
"""

from __future__ import annotations

from typing import Any, cast

import attrs

from actorwork.durations import as_seconds
from actorwork.errors import SettingsError
from actorwork.policy.bounds import is_number, is_whole
from actorwork.shown import Value


def _size(_: object, __: attrs.Attribute[int], value: object) -> None:
    if not is_whole(value) or not 1 <= value <= 100_000:
        raise SettingsError(f"@receive(batch=…) wants a whole number from 1 to 100000, got {value!r}")


def _within(_: object, __: attrs.Attribute[float], value: object) -> None:
    if not is_number(value) or not 0 <= value <= 86_400:
        raise SettingsError(f"@receive(within=…) wants seconds from 0 to 86400, got {value!r}")


@attrs.frozen(eq=False, repr=False)
class Batching(Value):
    """A handler takes up to `size` messages at once; none waits longer than `within` seconds for the others."""

    size: int = attrs.field(validator=_size)
    within: float = attrs.field(default=0.5, converter=as_seconds, validator=_within)


def outcomes_of(answer: object, count: int) -> list[Any]:
    """Return the outcome of each of `count` messages; raise `ValueError` if the answer does not contain them."""
    if answer is None:
        return [None] * count
    if isinstance(answer, list):
        found = cast("list[Any]", answer)
        if len(found) == count:
            return list(found)
        answer = f"{len(found)} of them"
    raise ValueError(
        f"the handler of a batch returns None, or a list of outcomes, one for each of {count} messages; got {answer}"
    )
