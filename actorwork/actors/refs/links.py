"""What connects an actor with others: watches in both directions, links, names, topics.

Made on demand, since most actors have none. Both ends know of a watch or a link, so the one that ends first can remove
itself from the other: otherwise long-lived actors would keep every short-lived one that ever watched them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from actorwork.actors.refs.watching import Restarted, Watch, tell_end
from actorwork.policy.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from actorwork.actors.refs.ref import ActorRef
    from actorwork.actors.refs.registry import Registry
    from actorwork.actors.refs.topics import Topics
    from actorwork.actors.refs.watching import Watcher


if TYPE_CHECKING:

    class Partner(Watcher, Protocol):
        """An actor at one end of a link or a watch."""

        ref: ActorRef[Any]

        @property
        def over(self) -> bool: ...
        @property
        def links(self) -> Links: ...
        def link_broken(self, ref: ActorRef[Any], exit: Exit) -> None: ...
        def forget_signals(self, origin: object) -> None: ...
        def undelivered(self, messages: Sequence[object], reason: str = ...) -> None: ...


class Links:
    """The watches, links, names and topics of one actor."""

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
        """How the actor ended for good, if it has."""

    # ---- watching ----

    def add_watcher(self, watcher: Partner, watch: Watch) -> None:
        """Notify another actor of this one's end; at once, if it has ended already."""
        if self._exit is not None:
            # It may have watched before, with that notice still in its mailbox: exactly one may arrive.
            watcher.forget_signals(self._owner.ref)
            tell_end(watcher, watch, self._owner.ref, self._exit)
        elif not watcher.over:
            self._watchers[watcher] = watch
            watcher.links._watching.add(self._owner)  # noqa: SLF001 - the other end of the connection

    def remove_watcher(self, watcher: Partner) -> None:
        """Undo `add_watcher`, and drop its notices that were not handled yet."""
        self._watchers.pop(watcher, None)
        watcher.links._watching.discard(self._owner)  # noqa: SLF001 - the other end of the connection
        watcher.forget_signals(self._owner.ref)

    def restarted(self, incarnation: int, exit: Exit) -> None:
        """Notify the watchers that asked for restarts."""
        for watcher, watch in self._watchers.items():
            if watch.restarts:
                watcher.signal(Restarted(self._owner.ref, incarnation, exit), self._owner.ref)

    # ---- links ----

    def link(self, other: Partner) -> None:
        """Link two actors, both ways; a partner that has ended abnormally crashes this one at once."""
        if other is self._owner or self._exit is not None:
            return
        theirs = other.links
        if theirs._exit is None:  # noqa: SLF001 - the other end of the connection
            self._links[other] = theirs._links[self._owner] = None  # noqa: SLF001 - (as above)
        elif theirs._exit.abnormal:  # noqa: SLF001 - (as above)
            self._owner.link_broken(other.ref, theirs._exit)  # noqa: SLF001 - (as above)

    def unlink(self, other: Partner) -> None:
        """Remove a link, for both; what is known here of its end and was not handled yet is dropped."""
        self._links.pop(other, None)
        other.links._links.pop(self._owner, None)  # noqa: SLF001 - the other end of the connection
        self._owner.forget_signals(("link", other.ref))

    # ---- names and topics ----

    @property
    def names(self) -> Collection[str]:
        """The registered names."""
        return self._names

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
        """Leave the topics: a subscription belongs to the incarnation that made it."""
        for topic in self._topics:
            self._topics_of.unsubscribe(topic, self._owner.ref)
        self._topics.clear()

    def ended(self, exit: Exit) -> None:
        """Free the names, then break the links, then notify the watchers.

        In this order: a watcher that reacts by starting a successor finds the names free, and linked actors have got
        their signal before any watcher can react.
        """
        self._exit = exit
        self.incarnation_ended()
        for name in self._names:
            self._registry.unregister(name, self._owner.ref)
        self._names.clear()
        for watched in self._watching:
            watched.links._watchers.pop(self._owner, None)  # noqa: SLF001 - the other end of the connection
        self._watching.clear()
        # The tables are emptied before anything is sent: what follows must not find this actor in them again.
        partners, self._links = self._links, {}
        for partner in partners:
            partner.links._links.pop(self._owner, None)  # noqa: SLF001 - the other end of the connection
            if exit.abnormal:
                partner.link_broken(self._owner.ref, exit)
        watchers, self._watchers = self._watchers, {}
        for watcher, watch in watchers.items():
            watcher.links._watching.discard(self._owner)  # noqa: SLF001 - the other end of the connection
            tell_end(watcher, watch, self._owner.ref, exit)

    def reopened(self) -> None:
        """Forget the end: the actor runs again. Actors that were notified of it have to watch or link again."""
        self._exit = None
