"""Pools: several local actors of one kind, and a ref that picks one of them for each message.

    round_robin        one after the other
    random             any of them
    smallest_mailbox   the one with the least to do: what waits, and what is in hand
    consistent_hash    always the same one for the same `key(message)`
    broadcast          all of them; `ask` returns the list of their replies

A pool stands in a tree as a one_for_one supervisor of its members. No broker feeds them, so they may share a title. A
member that is restarted keeps its place, and with it its keys; one that has ended for good is passed over.

The same key goes to the member with the highest weight, which is computed from the key and the member's place
(rendezvous hashing). So when a member has ended, only its own keys move, and they spread over all the others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar, cast, get_args, overload

import attrs
import trio

from actorwork.actors.tree.hooks import Hooks
from actorwork.actors.tree.spec import Child, Supervisor, as_spec
from actorwork.errors import ActorStopped, SettingsError
from actorwork.groups import only_leaf
from actorwork.policy.restart import Intensity

if TYPE_CHECKING:
    from actorwork.actors.refs.ref import ActorRef
    from actorwork.message import Message, Untyped

A = TypeVar("A")
R = TypeVar("R")

Routing: TypeAlias = Literal["round_robin", "random", "smallest_mailbox", "consistent_hash", "broadcast"]
ROUTINGS: Final[tuple[Routing, ...]] = get_args(Routing)
Key: TypeAlias = Callable[[Any], Hashable]

_BITS: Final = 0xFFFF_FFFF_FFFF_FFFF


@attrs.frozen(eq=False, init=False)
class Pool(Supervisor):
    """`size` local actors of one kind, restarted one by one; `system.pool(…)` is how to speak to them.

    `routing` says which of them has a message; `consistent_hash` wants a `key`, which is given the message. More than
    `intensity` restarts of all members together end the pool, as any supervisor.
    """

    size: int
    routing: Routing
    key: Key | None

    def __init__(
        self,
        actor: type[Hooks] | Child,
        size: int = 4,
        *,
        routing: Routing = "round_robin",
        key: Key | None = None,
        name: str | None = None,
        intensity: Intensity | None = None,
    ) -> None:
        child = as_spec(actor) if isinstance(actor, (type, Child)) else None  # pyright: ignore[reportUnnecessaryIsInstance]
        if not isinstance(child, Child) or child.actor is None:
            raise SettingsError(f"Pool wants an actor class or a Child of one, got {actor!r}")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingsError(f"Pool.size wants a whole number >= 1, got {size!r}")
        if routing not in ROUTINGS:
            raise SettingsError(f"Pool.routing wants one of {', '.join(ROUTINGS)}, got {routing!r}")
        if (key is not None) is not (routing == "consistent_hash"):
            raise SettingsError(f"Pool.key is for consistent_hash, and that wants one; got {key!r} with {routing}")
        if child.name is not None or child.id is not None:
            raise SettingsError("Pool: its members share one description, so that has neither name nor id")
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "routing", routing)
        object.__setattr__(self, "key", key)
        title = child.title
        members = [attrs.evolve(child, id=f"{title} {number}", reads=False) for number in range(1, size + 1)]
        Supervisor.__init__(self, members, name=name or f"{title} pool", intensity=intensity or Intensity())


class PoolMember(Protocol):
    """What routing looks at in a member."""

    ref: ActorRef[Any]
    over: bool

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

    async def tell(self, message: Message[A, Any] | Untyped) -> None:
        """Send a message, waiting for room in the mailbox of whom the routing picks (of each: broadcast).

        Raises `MessageRefused` if the actor has no handler for it, `ActorStopped` if all members have ended.
        """
        for ref in self._picked(message):
            await ref.tell(message)

    def tell_nowait(self, message: Message[A, Any] | Untyped) -> None:
        """Send a message; raises `MailboxFull` where `tell` would wait (broadcast: once all that have room have it)."""
        problem: Exception | None = None
        for ref in self._picked(message):
            try:
                ref.tell_nowait(message)
            except Exception as error:  # noqa: BLE001 - raised below
                problem = problem or error
        if problem is not None:
            raise problem

    @overload
    async def ask(self, message: Message[A, R], *, timeout: float | None = None) -> R: ...
    @overload
    async def ask(self, message: Untyped, *, timeout: float | None = None) -> Any: ...
    async def ask(self, message: Any, *, timeout: float | None = None) -> Any:
        """Send a message and wait for the reply, as `ActorRef.ask` does.

        A broadcast asks all members at once and returns the list of their replies, in the order of the members; the
        first error is raised, and the other replies are dropped.
        """
        picked = self._picked(message)
        if self._pool.routing != "broadcast":
            return await picked[0].ask(message, timeout=timeout)
        replies: list[Any] = [None] * len(picked)

        async def ask(place: int, ref: ActorRef[A]) -> None:
            replies[place] = await ref.ask(message, timeout=timeout)

        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                for place, ref in enumerate(picked):
                    nursery.start_soon(ask, place, ref)
        except BaseExceptionGroup as group:
            failure = _first(group)
        # Raised out here, so that it arrives as it is and not with the group as its context.
        if failure is not None:
            raise failure
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
                # Among equals in turn, so that an idle pool is not one busy member.
                place = min(live, key=lambda place: (self._members[place].load, self._distance(place)))
                self._next = place + 1
        return (self._members[place].ref,)

    def _distance(self, place: int) -> int:
        """Return how many members have their turn before this one."""
        return (place - self._next) % len(self._members)


def _weight(key: int, place: int) -> int:
    """Return what speaks for a member as the place of a key: as good as random, and always the same (splitmix64)."""
    mixed = (key + (place + 1) * 0x9E37_79B9_7F4A_7C15) & _BITS
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58_476D_1CE4_E5B9) & _BITS
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D0_49BB_1331_11EB) & _BITS
    return mixed ^ (mixed >> 31)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """Return the error that came first, where several members failed at once."""
    leaf = only_leaf(group)
    return _first(cast("BaseExceptionGroup[Any]", leaf).exceptions[0]) if isinstance(leaf, BaseExceptionGroup) else leaf
