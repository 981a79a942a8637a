"""Watching: an actor is notified that another one has ended.

    watch(ref)                  Terminated(ref, exit), exactly once, when the actor ends for good (not at a restart)
    watch(ref, restarts=True)   in addition, Restarted(ref, incarnation, exit) at every restart
    watch(ref, message=m)       m instead of Terminated
    unwatch(ref)                ends the watch, and drops its notices that were not handled yet
    link(ref)                   the abnormal end of one, for good, crashes the other
    unlink(ref)                 removes the link, for both

Watching an actor that has ended already brings `Terminated` at once. A watcher without a handler for `Terminated`
crashes (`DeathPact`), as in Akka: a notice that is ignored would hide a failure. The names of an actor are free before
its watchers are notified. OTP's monitors fire at every incarnation, since there a process is its incarnation; here a
ref outlives them. For the same reason a watch and a link belong to the cell of the actor that made them, as in Akka:
they outlive its restarts, and an incarnation that watches again in its `startup` is still notified once. The actors
that an incarnation has spawned end with it: the next one, which does not know them, is not notified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

from actorwork.policy.exits import Exit
from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.actors.refs.ref import ActorRef


@attrs.frozen(eq=False, repr=False)
class Terminated(Value):
    """A watched actor has ended for good."""

    ref: ActorRef[Any]
    exit: Exit


@attrs.frozen(eq=False, repr=False)
class Restarted(Value):
    """A watched actor has been started again after `exit`; `incarnation` is the new one."""

    ref: ActorRef[Any]
    incarnation: int
    exit: Exit


@attrs.frozen(eq=False, repr=False)
class Watch(Value):
    """The options of a watch."""

    restarts: bool = False
    message: object = None


@attrs.frozen(eq=False, repr=False)
class LinkBroken(Value):
    """Crashes an actor that is linked to one which has ended abnormally; never reaches a handler."""

    ref: ActorRef[Any]
    exit: Exit


if TYPE_CHECKING:

    class Watcher(Protocol):
        """An actor that watches another one."""

        def signal(self, message: object, origin: object) -> None: ...


def tell_end(watcher: Watcher, watch: Watch, ref: ActorRef[Any], exit: Exit) -> None:
    """Notify one watcher that an actor has ended for good."""
    watcher.signal(Terminated(ref, exit) if watch.message is None else watch.message, ref)
