"""Replies that an incarnation still owes when it ends: deferred ones, and those of messages that its end cut off.

If it has crashed, or ended by itself, the askers learn of it at once. If its supervisor has ended it, only the
supervisor knows whether the actor is over or starts again (with a sibling, say): the reply is held until it says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from actorwork.errors import ActorCrashed, ActorStopped

if TYPE_CHECKING:
    from actorwork.actors.wakeups import Reply
    from actorwork.policy.exits import Exit


class OpenReplies:
    """Made for the first of them: most incarnations have none."""

    __slots__ = ("_deferred", "_held", "_title")

    def __init__(self, title: str) -> None:
        self._title = title
        self._deferred: set[Reply] = set()
        self._held: list[tuple[Reply, str]] = []

    def __repr__(self) -> str:
        return f"<replies of {self._title!r}: {len(self._deferred)} deferred, {len(self._held)} cut off>"

    def defer(self, reply: Reply) -> None:
        """Remember a reply that the actor will give later."""
        reply.deferred_in = self._deferred
        self._deferred.add(reply)

    def hold(self, reply: Reply, what: str) -> None:
        """Keep a reply until `fail_held`; `what` has happened."""
        self._held.append((reply, what))

    def incarnation_ended(self, ended: Exit, *, expected: bool) -> None:
        """Fail, or hold, the deferred replies that were not given: the askers must not wait for good."""
        for reply in list(self._deferred):  # a copy: each reply discards itself from the set
            what = f"{self._title!r} ended before it gave the reply that it had deferred: {ended}"
            if ended.error is None and expected:
                self.hold(reply, what)
                continue
            failure = ActorStopped(what) if ended.error is None else ActorCrashed(what)
            failure.__cause__ = ended.error
            reply.fail(failure)

    def fail_held(self, *, over: bool) -> None:
        """Fail what is held: with `ActorStopped` if the actor is over, with `ActorCrashed` if it runs again."""
        held, self._held = self._held, []
        for reply, what in held:
            reply.fail(ActorStopped(what) if over else ActorCrashed(f"{what}; it is started again"))
