"""Watching: an actor learns that another one has ended.

    watch(ref)                  Terminated(ref, exit), exactly once, when the actor ends for good (not at a restart)
    watch(ref, restarts=True)   besides, Restarted(ref, incarnation, exit) at every restart
    watch(ref, message=m)       m instead of Terminated
    unwatch(ref)                takes back the watch, and what it brought that was not handled yet
    link(ref)                   the abnormal end of one, for good, is the crash of the other
    unlink(ref)                 takes back the link, for both

Watching an actor that has ended already brings `Terminated` at once. An actor that watches and has no handler for
`Terminated` dies of it (`DeathPact`), as in Akka: who watches must care. The names an actor had are free before its
end is told. OTP's monitors fire at every incarnation, since there a process is its incarnation; here a ref outlives
them. For the same reason a watch and a link belong to the cell of who made them, as in Akka: they outlive its
restarts, and an incarnation that watches again in its `startup` is still told once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

from actorwork.policy.exits import Exit

if TYPE_CHECKING:
    from actorwork.actors.refs.ref import ActorRef


@attrs.frozen
class Terminated:
    """A watched actor has ended for good."""

    ref: ActorRef[Any]
    exit: Exit


@attrs.frozen
class Restarted:
    """A watched actor has been started again after `exit`; `incarnation` is the new one."""

    ref: ActorRef[Any]
    incarnation: int
    exit: Exit


@attrs.frozen
class Watch:
    """What a watcher wants to be told."""

    restarts: bool = False
    message: object = None


@attrs.frozen
class LinkBroken:
    """What an actor dies of that is linked to one that has ended abnormally; no handler is asked."""

    ref: ActorRef[Any]
    exit: Exit


class Watcher(Protocol):
    """An actor that watches another one."""

    def signal(self, message: object, origin: object) -> None: ...


def tell_end(watcher: Watcher, watch: Watch, ref: ActorRef[Any], exit: Exit) -> None:
    """Tell one watcher that an actor has ended for good."""
    watcher.signal(Terminated(ref, exit) if watch.message is None else watch.message, ref)
