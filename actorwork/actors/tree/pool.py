"""The description of a pool: several local actors of one kind, and how a message is routed to one of them.

    round_robin        one after the other
    random             any of them
    smallest_mailbox   the one with the least to do: what waits, and what is in flight
    consistent_hash    always the same one for the same `key(message)`
    broadcast          all of them; `ask` returns the list of their replies

A pool is a one_for_one supervisor of its members. No broker feeds them, so they may share a title. `refs/pool` routes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs

from actorwork.actors.tree.hooks import Hooks
from actorwork.actors.tree.spec import Child, Supervisor, as_spec
from actorwork.errors import SettingsError
from actorwork.policy.restart import Intensity

Routing: TypeAlias = Literal["round_robin", "random", "smallest_mailbox", "consistent_hash", "broadcast"]
ROUTINGS: Final[tuple[Routing, ...]] = get_args(Routing)
Key: TypeAlias = Callable[[Any], Hashable]


@attrs.frozen(eq=False, init=False, repr=False)
class Pool(Supervisor):
    """`size` local actors of one kind, restarted one by one; `system.pool(…)` returns their ref.

    `routing` chooses the member for each message; `consistent_hash` wants a `key`, a function of the message. More than
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
