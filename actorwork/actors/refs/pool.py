"""The ref of a pool: picks one of its members for each message, by the routing that `tree/pool` describes.

A member that is restarted keeps its place, and with it its keys; one that has ended for good is passed over.

With `consistent_hash`, a key goes to the member with the highest weight, which is computed from the key and the
member's place (rendezvous hashing). When a member has ended, only its own keys move, and they spread over all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast, overload

import trio

from actorwork.actors.tree.pool import Key, Pool
from actorwork.errors import ActorStopped

if TYPE_CHECKING:
    from actorwork.actors.refs.ref import ActorRef
    from actorwork.durations import Duration
    from actorwork.message import Message, Priority, Untyped

A = TypeVar("A")
R = TypeVar("R")

_BITS: Final = 0xFFFF_FFFF_FFFF_FFFF


class PoolMember(Protocol):
    """What routing looks at in a member."""

    ref: ActorRef[Any]

    @property
    def over(self) -> bool: ...
    @property
    def load(self) -> int: ...


class PoolRef(Generic[A]):
    """A pool's address: it tells or asks the members as `ActorRef` does, by the pool's routing."""

    __slots__ = ("_members", "_next", "_pool", "_random")

    def __init__(self, pool: Pool, members: Sequence[PoolMember], random: Random) -> None:
        self._pool = pool
        self._members = tuple(members)
        self._random = random
        self._next = 0

    def __repr__(self) -> str:
        return f"<ref of the pool {self._pool.title!r}: {len(self._members)} members, {self._pool.routing}>"

    @property
    def title(self) -> str:
        return self._pool.title

    @property
    def members(self) -> list[ActorRef[A]]:
        """The members that have not ended for good, in their order."""
        return [member.ref for member in self._members if not member.over]

    async def tell(self, message: Message[A, Any] | Untyped, *, priority: Priority | None = None) -> None:
        """Send a message, waiting for room in the mailbox of the member that the routing picks (broadcast: of each).

        With a `priority` it overtakes less urgent messages there, as with `ActorRef.tell`; so with the other calls.
        Raises `MessageRefused` if the actor has no handler for it, `ActorStopped` if all members have ended.
        """
        for ref in self._picked(message):
            await ref.tell(message, priority=priority)

    def tell_nowait(self, message: Message[A, Any] | Untyped, *, priority: Priority | None = None) -> None:
        """Send a message; raises `MailboxFull` where `tell` would wait (broadcast: after telling those with room)."""
        problem: Exception | None = None
        for ref in self._picked(message):
            try:
                ref.tell_nowait(message, priority=priority)
            except Exception as error:  # noqa: BLE001 - raised below
                problem = problem or error
        if problem is not None:
            raise problem

    @overload
    async def ask(
        self, message: Message[A, R], *, timeout: Duration | None = None, priority: Priority | None = None
    ) -> R: ...
    @overload
    async def ask(
        self, message: Untyped, *, timeout: Duration | None = None, priority: Priority | None = None
    ) -> Any: ...
    async def ask(self, message: Any, *, timeout: Duration | None = None, priority: Priority | None = None) -> Any:
        """Send a message and wait for the reply, as `ActorRef.ask` does.

        A broadcast asks all members at once and returns the list of their replies, in the order of the members; the
        first error is raised, and the other replies are dropped.
        """
        picked = self._picked(message)
        if self._pool.routing != "broadcast":
            return await picked[0].ask(message, timeout=timeout, priority=priority)
        replies: list[Any] = [None] * len(picked)
        failures: list[Exception] = []

        async def ask(place: int, ref: ActorRef[A]) -> None:
            try:
                replies[place] = await ref.ask(message, timeout=timeout, priority=priority)
            except Exception as error:  # noqa: BLE001 - the first one is raised below
                failures.append(error)
                nursery.cancel_scope.cancel(reason="another member failed")

        async with trio.open_nursery() as nursery:
            for place, ref in enumerate(picked):
                nursery.start_soon(ask, place, ref)
        # Members may fail at the same time: the list has the order in which they did, a nursery's group has not.
        if failures:
            raise failures[0]
        return replies

    def _picked(self, message: object) -> Sequence[ActorRef[A]]:
        live = [place for place, member in enumerate(self._members) if not member.over]
        if not live:
            raise ActorStopped(f"the pool {self._pool.title!r} has ended")
        match self._pool.routing:
            case "broadcast":
                return [self._members[place].ref for place in live]
            case "random":
                place = self._random.choice(live)
            case "consistent_hash":
                key = hash(cast("Key", self._pool.key)(message))
                place = max(live, key=lambda place: _weight(key, place))
            case "round_robin":
                place = min(live, key=self._distance)
                self._next = place + 1
            case "smallest_mailbox":
                # Members with the same load take turns: otherwise the first member of an idle pool did all the work.
                place = min(live, key=lambda place: (self._members[place].load, self._distance(place)))
                self._next = place + 1
        return (self._members[place].ref,)

    def _distance(self, place: int) -> int:
        """Return how many members come before this one in the round."""
        return (place - self._next) % len(self._members)


def _weight(key: int, place: int) -> int:
    """Return the weight of a place for a key: as good as random, and always the same (splitmix64)."""
    mixed = (key + (place + 1) * 0x9E37_79B9_7F4A_7C15) & _BITS
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58_476D_1CE4_E5B9) & _BITS
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D0_49BB_1331_11EB) & _BITS
    return mixed ^ (mixed >> 31)
