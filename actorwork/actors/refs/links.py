"""What ties an actor to others: who watches it, whom it watches, links, names, topics.

Made on demand, since most actors have none. Both ends know of a tie, so whichever ends first is forgotten by the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from actorwork.actors.refs.watching import Restarted, Watch, Watcher, tell_end
from actorwork.policy.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actorwork.actors.refs.ref import ActorRef
    from actorwork.actors.refs.registry import Registry
    from actorwork.actors.refs.topics import Topics


class Partner(Watcher, Protocol):
    """An actor at one end of a link or a watch."""

    ref: ActorRef[Any]

    @property
    def over(self) -> bool: ...
    @property
    def links(self) -> Links: ...
    def link_broken(self, ref: ActorRef[Any], exit: Exit) -> None: ...
    def forget_signals(self, ref: ActorRef[Any]) -> None: ...
    def undelivered(self, messages: Sequence[object]) -> None: ...


class Links:
    """The ties of one actor."""

    __slots__ = ("_exit", "_links", "_names", "_owner", "_registry", "_topics", "_topics_of", "_watchers", "_watching")

    def __init__(self, owner: Partner, registry: Registry, topics: Topics, exit: Exit | None) -> None:
        self._owner = owner
        self._registry = registry
        self._topics_of = topics
        self._watchers: dict[Partner, Watch] = {}
        self._watching: set[Partner] = set()
        self._links: dict[Partner, None] = {}
        self._names: set[str] = set()
        self._topics: set[str] = set()
        self._exit = exit
        """How the cell ended for good, if it has."""

    # ---- watching ----

    def add_watcher(self, watcher: Partner, watch: Watch) -> None:
        """Tell another cell of this one's end: at once, if that has come already."""
        if self._exit is not None:
            watcher.forget_signals(self._owner.ref)  # it may have watched before, and not have handled that yet
            tell_end(watcher, watch, self._owner.ref, self._exit)
        elif not watcher.over:
            self._watchers[watcher] = watch
            watcher.links._watching.add(self._owner)  # noqa: SLF001 - the other end of the same tie

    def remove_watcher(self, watcher: Partner) -> None:
        self._watchers.pop(watcher, None)
        watcher.links._watching.discard(self._owner)  # noqa: SLF001 - the other end of the same tie

    def restarted(self, incarnation: int, exit: Exit) -> None:
        """Tell those who want to know that the actor runs again."""
        for watcher, watch in self._watchers.items():
            if watch.restarts:
                watcher.signal(Restarted(self._owner.ref, incarnation, exit), self._owner.ref)

    # ---- links ----

    def link(self, other: Partner) -> None:
        """Tie this cell to another one, both ways; a partner that has ended abnormally is a crash at once."""
        if other is self._owner or self._exit is not None:
            return
        theirs = other.links
        if theirs._exit is None:  # noqa: SLF001 - the other end of the same tie
            self._links[other] = theirs._links[self._owner] = None  # noqa: SLF001 - (as above)
        elif theirs._exit.abnormal:  # noqa: SLF001 - (as above)
            self._owner.link_broken(other.ref, theirs._exit)  # noqa: SLF001 - (as above)

    def unlink(self, other: Partner) -> None:
        self._links.pop(other, None)
        other.links._links.pop(self._owner, None)  # noqa: SLF001 - the other end of the same tie

    # ---- names and topics ----

    def register(self, name: str) -> None:
        self._registry.register(name, self._owner.ref)
        self._names.add(name)

    def unregister(self, name: str) -> None:
        self._registry.unregister(name, self._owner.ref)
        self._names.discard(name)

    def subscribe(self, topic: str) -> None:
        self._topics_of.subscribe(topic, self._owner.ref, self._owner.undelivered)
        self._topics.add(topic)

    def unsubscribe(self, topic: str) -> None:
        self._topics_of.unsubscribe(topic, self._owner.ref)
        self._topics.discard(topic)

    # ---- the end ----

    def incarnation_ended(self) -> None:
        """Leave the topics: the next incarnation subscribes anew."""
        for topic in self._topics:
            self._topics_of.unsubscribe(topic, self._owner.ref)
        self._topics.clear()

    def ended(self, exit: Exit) -> None:
        """Free the names first, then tell those it was linked to, then the watchers."""
        self._exit = exit
        self.incarnation_ended()
        for name in self._names:
            self._registry.unregister(name, self._owner.ref)
        self._names.clear()
        for watched in self._watching:
            watched.links._watchers.pop(self._owner, None)  # noqa: SLF001 - the other end of the same tie
        self._watching.clear()
        partners, self._links = self._links, {}
        for partner in partners:
            partner.links._links.pop(self._owner, None)  # noqa: SLF001 - the other end of the same tie
            if exit.abnormal:
                partner.link_broken(self._owner.ref, exit)
        watchers, self._watchers = self._watchers, {}
        for watcher, watch in watchers.items():
            watcher.links._watching.discard(self._owner)  # noqa: SLF001 - the other end of the same tie
            tell_end(watcher, watch, self._owner.ref, exit)

    def reopened(self) -> None:
        """The actor lives on after all; those who were told of its end have to tie themselves to it again."""
        self._exit = None
