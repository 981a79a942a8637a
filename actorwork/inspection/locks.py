"""The locks that are held or waited for, with their owners: as the nodes report of their actors, and the broker lists.

A lock that a program holds which is no node stands at the broker alone, with the user, host and process that took it.
How many such programs wait for a lock is not known: they only ask for it again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs

from actorwork.abc import ListsLocks
from actorwork.errors import BrokerError
from actorwork.policy.reports import LONGEST_KEY
from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.abc import Broker, LockState
    from actorwork.inspection.gathering import Gathered

MOST: Final = 500
"""Locks that are asked for at the broker."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LockOwner(Value):
    """Who holds a lock: an actor on a node, for a message, or (`who`) a program that reports nothing.

    `until` is when the lock is free unless it is renewed, as far as the broker says so.
    """

    actor: str = ""
    node: str = ""
    node_name: str = ""
    message: str = ""
    who: str = ""
    since: float | None = None
    until: float | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LockInfo(Value):
    """A lock, its owner if one is known, and how many actors wait for it."""

    name: str
    owner: LockOwner | None = None
    waiting: int = 0
    waiting_since: float | None = None


async def held_locks(broker: Broker) -> Sequence[LockState]:
    """Return the locks that are held, as far as the broker lists them."""
    values = broker.values
    if not isinstance(values, ListsLocks):
        return ()
    try:
        return await values.held_locks(MOST)
    except BrokerError:  # A user with few rights may not read them; what the nodes report is shown in any case.
        return ()


def locks_of(gathered: Gathered, held: Sequence[LockState]) -> list[LockInfo]:
    """Return all locks, those for which most wait first."""
    found: dict[str, LockInfo] = {}
    for one in held:
        # As nodes report names.
        name = one.name if len(one.name) <= LONGEST_KEY else f"{one.name[: LONGEST_KEY - 1]}…"
        # A token is the moment at which the lock was taken, in microseconds.
        owner = LockOwner(who=one.owner.partition(" ")[2], since=one.token / 1e6, until=one.until)
        found[name] = LockInfo(name=name, owner=owner)
    for node in gathered.nodes:
        for use in () if node.report is None else node.report.locks:
            known = found.get(use.name) or LockInfo(name=use.name)
            if use.is_held:
                until = None if known.owner is None else known.owner.until
                owner = LockOwner(
                    actor=use.actor,
                    node=node.id,
                    node_name=node.name,
                    message=use.message,
                    since=use.since,
                    until=until,
                )
                found[use.name] = attrs.evolve(known, owner=owner)
            else:
                first = min(use.since, use.since if known.waiting_since is None else known.waiting_since)
                found[use.name] = attrs.evolve(known, waiting=known.waiting + 1, waiting_since=first)
    return sorted(found.values(), key=lambda one: (-one.waiting, one.name))
