"""Purging a source, in portions: what no node has been given is dropped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

import attrs

from actorwork.abc import Broker
from actorwork.clients.auditing import audited
from actorwork.records import Purgeable
from actorwork.shown import Value

PORTION: Final = 500

Step = Callable[[], AbstractContextManager[object]]
"""Makes a context manager around one wait for the broker."""


@attrs.frozen(eq=False, repr=False)
class Purge(Value):
    """A purge: what there was to drop, and how many were dropped; 0 for a dry run."""

    source: str
    found: Purgeable
    dropped: int = 0


async def purge(broker: Broker, source: str, *, reason: str = "", step: Step = contextlib.nullcontext[None]) -> Purge:
    """Drop what is in a source now and no node has been given, and record it at the broker.

    As many messages are dropped as there were at the beginning, so that it ends though others are sent meanwhile. If
    cancelled, any part of them may have been dropped.
    """
    with step():
        found = await broker.purging.count(source)
    dropped = 0
    async with audited(broker.audit, "purge", source, reason=reason) as action:
        while dropped < found.total:
            most = min(PORTION, found.total - dropped)
            with step():
                some = await broker.purging.drop(source, reason=reason or "its source was purged", most=most)
            dropped += some
            action.how_many = dropped
            if some == 0:
                break
        action.how_many = dropped
    return Purge(source, found, dropped)
