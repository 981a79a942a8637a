"""Redis Cluster: which primary has which slots, and a blocking connection that follows them.

    Cluster           asks members for the layout
    Layout            the primary of each slot, as one member sees it
    SlotConnection    one command after the other, each to the primary that has its key

A member may lag behind the others, or be cut off from them. So a layout is accepted only if it has a primary for every
slot for which the last one had one; otherwise the next member is asked. It may still be old: then the primaries it
names answer MOVED, and the layout is asked for again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from random import SystemRandom
from typing import Any, Final, cast

import attrs

from actorwork.errors import BrokerError
from actorwork.streams.transport.redis_py import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    ConnectionError,  # noqa: A004
    MovedError,
    NoPermissionError,
    RedisPyConnection,
    ResponseError,
    TimeoutError,  # noqa: A004
    TryAgainError,
)
from actorwork.streams.transport.slots import SLOTS, key_slot, keys_of

_chance: Final = SystemRandom()
MOST_REDIRECTIONS: Final = 16
_ANSWERS_WITHIN: Final = 1.0
"""Seconds for each step of asking a member for the layout."""
_SILENT_FOR: Final = 10.0
"""Seconds for which a member that did not answer is asked only if no other one answers."""
_AGAIN: Final = 0.1
_LOST: Final = (ConnectionError, TimeoutError, OSError)

Place = tuple[str, int]


@attrs.frozen(eq=False)
class Layout:
    """The primary of each slot: None where there is none."""

    of_slot: Sequence[Place | None] = attrs.field(repr=False)
    primaries: tuple[Place, ...]
    """Sorted."""

    @classmethod
    def parse(cls, reply: Any, asked: str) -> Layout:
        """Read the reply to CLUSTER SLOTS of a member that was reached at the host `asked`. Raises `ValueError`."""
        of_slot: list[Place | None] = [None] * SLOTS
        try:
            for first, last, (host, port, *_), *_ in reply:
                # A member that does not know its own address leaves it out.
                name = (host or b"").decode() or asked
                if name != "?":
                    of_slot[first : last + 1] = [(name, int(port))] * (last + 1 - first)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"CLUSTER SLOTS got {reply!r:.100} as its reply") from error
        if len(of_slot) != SLOTS:
            raise ValueError(f"CLUSTER SLOTS got {reply!r:.100} as its reply")
        return cls(of_slot, tuple(sorted({place for place in of_slot if place is not None})))

    def covers(self, other: Layout | None) -> bool:
        """Whether each slot that has a primary in another layout has one in this one."""
        if other is None:
            return True
        return all(mine is not None or theirs is None for mine, theirs in zip(self.of_slot, other.of_slot, strict=True))

    def moved(self, slot: int, place: Place) -> Layout:
        """Return this layout with one slot at another primary."""
        of_slot = list(self.of_slot)
        of_slot[slot] = place
        return Layout(of_slot, tuple(sorted({*self.primaries, place})))


class Cluster:
    """Some members of a cluster, and all that were learned from them. Safe to use from any number of threads."""

    def __init__(
        self,
        url: str,
        members: Sequence[Place],
        connection_class: Callable[..., RedisPyConnection],
        options: Mapping[str, Any],
    ) -> None:
        self.url = url
        self.connection_class = connection_class
        self._options = options
        self._seeds = tuple(members)
        self._known: tuple[Place, ...] = ()
        self._silent_until: dict[Place, float] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Cluster {self.url}>"

    def options_at(self, place: Place) -> Mapping[str, Any]:
        """Return the options of a connection to one member."""
        return {**self._options, "host": place[0], "port": place[1]}

    def find(self, last: Layout | None = None, avoid: frozenset[Place] = frozenset()) -> Layout:
        """Ask members for the layout, in random order, those in `avoid` last. Blocks.

        Raises `ConnectionError` if none answers with a layout that covers the `last` one, and `BrokerError` if trying
        again cannot help: wrong credentials, a server that is not in a cluster.
        """
        with self._lock:
            places = list(dict.fromkeys((*self._known, *self._seeds)))
        _chance.shuffle(places)
        now = time.monotonic()
        places.sort(key=lambda place: (place in avoid) + 2 * (self._silent_until.get(place, 0.0) > now))
        problems: list[str] = []
        refusal: BrokerError | None = None
        for place in places:
            try:
                layout = self._ask(place)
            except BrokerError as error:
                refusal = error
            except (*_LOST, ValueError) as error:
                self._silent_until[place] = time.monotonic() + _SILENT_FOR
                problems.append(f"{shown(place)}: {error}")
            else:
                if layout.primaries and layout.covers(last):
                    with self._lock:
                        self._known = layout.primaries
                    return layout
                problems.append(f"{shown(place)}: some slots have no primary there")
        if refusal is not None and not problems:
            raise refusal
        if refusal is not None:
            problems.append(str(refusal))
        raise ConnectionError(f"no member of {self.url} tells the layout of the cluster ({'; '.join(problems)})")

    def _ask(self, place: Place) -> Layout:
        limits = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), _ANSWERS_WITHIN)
        opened = self.connection_class(**{"client_name": "actorwork-search", **self.options_at(place), **limits})
        try:
            opened.connect()
            opened.send_command("CLUSTER", "SLOTS")
            reply: Any = opened.read_response()
        except AuthenticationError as error:
            raise BrokerError(
                f"{shown(place)} refuses these credentials ({error}): all members of a cluster want the same user and "
                "password, those in the url"
            ) from error
        except NoPermissionError as error:
            raise BrokerError(f"{shown(place)} refuses CLUSTER SLOTS ({error}): grant +cluster|slots") from error
        except ResponseError as error:
            raise BrokerError(
                f"{shown(place)} is in no cluster ({error}): redis:// names a single server, and redis+cluster:// "
                "members that were started with cluster-enabled yes"
            ) from error
        finally:
            opened.disconnect()
        return Layout.parse(reply, place[0])


def shown(place: Place) -> str:
    return f"[{place[0]}]:{place[1]}" if ":" in place[0] else f"{place[0]}:{place[1]}"


def target_of(error: AskError, asked: Place) -> Place:
    """Return where an answer MOVED or ASK leads to: without a host, to the same one as before."""
    host, port = cast("tuple[str, int]", error.node_addr)
    return host or asked[0], port


class SlotConnection:
    """A blocking connection to a cluster, for one command after the other. Its methods are those of redis-py's.

    A command without a key goes where the last one went, and the first one anywhere.
    """

    def __init__(self, cluster: Cluster, **options: Any) -> None:
        self._cluster = cluster
        self._options = options
        self._layout: Layout | None = None
        self._opened: dict[Place, RedisPyConnection] = {}
        self._place: Place | None = None
        self._command: Sequence[Any] = ()

    def __repr__(self) -> str:
        return f"<SlotConnection to {self._cluster!r}>"

    @property
    def handshake_metadata(self) -> Mapping[Any, Any]:
        return {} if self._place is None else self._opened[self._place].handshake_metadata

    @property
    def _sock(self) -> Any:
        return None

    def connect(self) -> None:
        """Learn the layout. A primary is connected to when it gets its first command."""
        self._layout = self._cluster.find(self._layout)

    def disconnect(self) -> None:
        for opened in self._opened.values():
            opened.disconnect()
        self._opened.clear()
        self._place = None

    def send_command(self, *args: Any) -> None:
        self._command = args
        self._opened_for(args).send_command(*args)

    def read_response(self) -> Any:
        """Return the reply to the last command, after as many redirections as it takes."""
        redirections = 0
        while True:
            assert self._place is not None  # noqa: S101 - a command was sent
            opened = self._opened[self._place]
            try:
                return opened.read_response()
            except MovedError as error:
                self._layout = self._cluster.find(avoid=frozenset((self._place,)))
                opened = self._at(target_of(error, self._place))
            except AskError as error:
                opened = self._at(target_of(error, self._place))
                opened.send_command("ASKING")
                opened.read_response()
            except (ClusterDownError, TryAgainError):
                time.sleep(_AGAIN)
                redirections += 1
                if redirections > MOST_REDIRECTIONS:
                    raise
                opened = self._opened_for(self._command)
                opened.send_command(*self._command)
                continue
            redirections += 1
            if redirections > MOST_REDIRECTIONS:
                raise ConnectionError(f"{self._cluster.url} redirects a command for ever")
            opened.send_command(*self._command)

    def _opened_for(self, args: Sequence[Any]) -> RedisPyConnection:
        if self._layout is None:
            raise ConnectionError("the connection is closed")
        keys = keys_of(args)
        place = (
            self._layout.of_slot[key_slot(keys[0])] if keys else self._place or _chance.choice(self._layout.primaries)
        )
        if place is None:
            raise ConnectionError(f"no primary of {self._cluster.url} has the slot of {keys[0]!r} now")
        return self._at(place)

    def _at(self, place: Place) -> RedisPyConnection:
        opened = self._opened.get(place)
        if opened is None:
            opened = self._cluster.connection_class(**{**self._options, "host": place[0], "port": place[1]})
            opened.connect()
            self._opened[place] = opened
        self._place = place
        return opened
