"""The leases of this process's nodes, as the writer keeps them, and its watch over those of other processes.

    renew       every third of a lease's length
    lost        another process has ended it, since it was not renewed in time or by order: the node continues under
                a new incarnation, and what it had in flight belongs to others
    expired     of another process: the first one that notices ends it

After the machine has slept, or its clock was set forward, every lease looks expired. Then nothing is ended until all
processes have had the time to renew their leases; this one renews its own first.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from actorwork.abc import LeaseState, Meter
from actorwork.embedded.isolation import Isolation
from actorwork.embedded.store import Store

CHECK_EVERY: Final = 1.0


@attrs.define(eq=False)
class Lease:
    """A node's lease, as the writer keeps it."""

    incarnation: str
    length: float
    lost: Callable[[str, str, str], None]
    """Called in the Trio thread with the incarnation that ended, its successor, and the reason."""
    number: int = 0
    renew_at: float = 0.0
    renewed_at: float = attrs.field(factory=time.monotonic)
    """When it was renewed last, by the monotonic clock."""
    trouble: str = ""
    """Why it could not be renewed."""
    meter: Meter | None = attrs.field(default=None, kw_only=True)
    isolation: Isolation = attrs.field(factory=Isolation)
    """What may be read under it."""

    def state(self) -> LeaseState:
        """Return how it stands; any thread may ask."""
        return LeaseState(self.renewed_at + self.length - time.monotonic(), self.trouble)

    def renewed(self, now: float) -> None:
        self.renewed_at, self.trouble = now, ""
        self.renew_at = now + self.length / 3


@attrs.frozen(eq=False)
class LostLease:
    """A lease that has ended, and the one that replaces it once the transaction is committed."""

    lease: Lease
    incarnation: str
    number: int
    reason: str

    def succeed(self, now: float) -> Callable[[], None]:
        """Continue under the new incarnation; return the notification for the Trio thread."""
        lease, before = self.lease, self.lease.incarnation
        lease.incarnation, lease.number = self.incarnation, self.number
        lease.isolation.reset()
        lease.renewed(now)
        return lambda: lease.lost(before, self.incarnation, self.reason)


class OwnLeases:
    def __init__(self, now: float, wall: float) -> None:
        self._leases: list[Lease] = []
        self._check_at = 0.0
        self._clocks = (wall, now)

    def __repr__(self) -> str:
        return f"<OwnLeases: {len(self._leases)}>"

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def next_at(self) -> float:
        """When a lease must be renewed or looked at, by the monotonic clock."""
        return min((self._check_at, *(lease.renew_at for lease in self._leases))) if self._leases else math.inf

    def add(self, lease: Lease, now: float) -> None:
        lease.renewed(now)
        self._leases.append(lease)
        self._check_at = 0.0

    def remove(self, lease: Lease) -> None:
        if lease in self._leases:
            self._leases.remove(lease)

    def late(self, now: float) -> Sequence[Lease]:
        """Return the leases that must be renewed now."""
        return [lease for lease in self._leases if now >= lease.renew_at]

    def renew(self, store: Store, late: Sequence[Lease], wall: float) -> list[LostLease]:
        """Renew leases; return those that are lost."""
        return [
            self.replace(store, lease, wall, "it was not renewed in time, or another process ended it")
            for lease in late
            if not store.leases.renew(lease.number, wall + lease.length)
        ]

    def replace(self, store: Store, lease: Lease, wall: float, reason: str) -> LostLease:
        """Take a new lease in place of a lost one."""
        incarnation = uuid.uuid4().hex
        return LostLease(lease, incarnation, store.leases.take(incarnation, wall + lease.length), reason)

    def renewed(self, late: Sequence[Lease], now: float) -> None:
        for lease in late:
            if lease.meter is not None:
                lease.meter.lease_renewed(lease.length - (now - lease.renewed_at))
            lease.renewed(now)

    def put_off(self, now: float, pause: float, trouble: str) -> None:
        """Renew a little later, since the turn that should have done it has failed."""
        for lease in self._leases:
            lease.trouble = trouble
            lease.renew_at = max(lease.renew_at, now + min(pause, lease.length / 6))

    def expired(self, store: Store, now: float, wall: float) -> Sequence[int]:
        """Return the nodes of other processes whose leases have expired, if it is time to look."""
        if not self._leases or now < self._check_at:
            return ()
        shortest = min(lease.length for lease in self._leases)
        self._check_at = now + min(CHECK_EVERY, shortest / 3)
        was_wall, was_monotonic = self._clocks
        self._clocks = (wall, now)
        if (wall - was_wall) - (now - was_monotonic) > min(1.0, shortest / 2):
            self._check_at = now + max(lease.length for lease in self._leases)
            for lease in self._leases:
                lease.renew_at = 0.0
            return ()
        mine = {lease.number for lease in self._leases}
        return [node for node in store.leases.expired(wall) if node not in mine]
