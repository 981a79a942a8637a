"""States that are loaded ahead: those of all deliveries of one read, in one round trip, before their handlers begin.

    read ──▶ `load`: which of them are as this node knows them, and what the others are ──▶ the mailbox
                                                   └──▶ `take`, once the delivery begins

A delivery that came with the settlement of the one before it, or with few others, brings the stamp of its state along
(`hold`): if that is the one of this node's own commit, as it is unless a user has put a state, nothing has to be
loaded.

A state stays what it is while its delivery waits: of one key, one message is in flight. What may change it all the same
(a `put` with force, a key that a foreign producer has named) is found at the settlement, which names the version. A
state that has waited for long is loaded again.

Only as many states are held as take up a bounded memory. Those of the other deliveries, and those that have waited for
long, are loaded once the first of them begins, together with as many that will begin next: a node that falls behind
must not begin to ask for each state alone, or it falls behind further.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, Protocol

import attrs
import trio

from actorwork.errors import ActorworkError
from actorwork.policy.intake import smoothed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from actorwork.message import Delivery
    from actorwork.policy.entities import FoundState

MOST_BYTES: Final = 16_000_000
"""How much the states that are held may take up, as far as the last ones tell."""
FIRST_GUESS: Final = 64_000.0
"""How large a state is assumed to be before one was seen."""
OWN_BYTES: Final = 1_000.0
"""What a state takes up beside its JSON."""
FRESH: Final = 1.0
"""Seconds after which a state that was loaded ahead is loaded again."""
GONE: Final = 60.0
"""Seconds after which a delivery whose state is not held is taken for one that will not begin here."""
TOGETHER: Final = 64
"""How many states are loaded together as the first of their deliveries begins."""
_FEW: Final = 2
"""Fewer deliveries than these are not worth a task: their states are loaded as they begin."""


class StateLoader(Protocol):
    """Loads states: the consumer."""

    async def load_states(self, wanted: Sequence[tuple[Delivery, str]]) -> Sequence[FoundState]: ...


class WaitingDeliveries(Protocol):
    """Where the deliveries wait meanwhile: the mailbox."""

    def hold_back(self, count: int) -> None:
        """Let this many deliveries, which are offered next, wake no executor until `let_go`."""
        ...

    def let_go(self, count: int) -> None: ...


@attrs.define(eq=False)
class _Read:
    """What was loaded in one round trip, begun or, once it is there, ended `at` this time.

    By their keys: the deliveries, the stamps that came with the question, and what was found; that is None until it is
    there, and empty if it could not be loaded. No object is kept for each of them: many are held, and the collector
    of garbage would look at all of these.
    """

    at: float
    deliveries: dict[str, Delivery] = attrs.field(factory=dict["str", "Delivery"])
    stamps: dict[str, str] = attrs.field(factory=dict[str, str])
    found: dict[str, FoundState] | None = None
    is_there: trio.Event = attrs.field(factory=trio.Event)


class StatesAhead:
    """The states of deliveries that wait in the mailbox. `stamp_of` returns the stamp of what is known of a key."""

    def __init__(
        self,
        loader: StateLoader,
        stamp_of: Callable[[str], str],
        start_soon: Callable[..., object],
        waiting: WaitingDeliveries | None = None,
    ) -> None:
        self._loader = loader
        self._stamp_of = stamp_of
        self._start_soon = start_soon
        self._waiting = waiting
        self._held: dict[str, _Read] = {}
        """For each key the read that its state belongs to; the oldest come first."""
        self._later: dict[str, tuple[Delivery, float]] = {}
        """For each key the delivery that waits, and whose state is not held, and since when; the oldest come first."""
        self._bytes_each = FIRST_GUESS

    def __repr__(self) -> str:
        return f"<StatesAhead: {len(self._held)} held>"

    def __len__(self) -> int:
        return len(self._held)

    def load(self, deliveries: Sequence[Delivery]) -> None:
        """Begin to load the states of deliveries that are about to be put into the mailbox. Never waits."""
        if len(deliveries) < _FEW:
            return
        now = trio.current_time()
        self.forget_old(now)
        room = max(0, self._room())
        stamp_of = self._stamp_of
        held = self._held
        for one in deliveries[room:]:
            if one.key is not None:
                self._later[one.key] = one, now
        wanted = [
            (one, stamp_of(key))
            for one in deliveries[:room]
            if (key := one.key) is not None and not (key in held and held[key].deliveries.get(key) is one)
        ]
        if len(wanted) < _FEW:
            return
        self._begin(_Read(now), wanted, held_back=len(deliveries))

    def hold(self, deliveries: Sequence[Delivery], stamps: Sequence[str]) -> None:
        """Note the stamps of the states of deliveries that are about to be put into the mailbox.

        Those are "" for a key without a state, and "?" if not known. What is not as this node knows it is loaded.
        """
        now = trio.current_time()
        self.forget_old(now)
        found: dict[str, FoundState] = {}
        read = _Read(now, found=found)
        for delivery, stamp in zip(deliveries, stamps, strict=True):
            key = delivery.key
            if key is not None and stamp == self._stamp_of(key):
                self._held[key] = read
                read.deliveries[key], read.stamps[key] = delivery, stamp
                found[key] = True if stamp else None

    def _room(self) -> int:
        """Return how many more states may be held."""
        return int(MOST_BYTES / self._bytes_each) - len(self._held)

    def _begin(self, read: _Read, wanted: Sequence[tuple[Delivery, str]], *, held_back: int = 0) -> None:
        held, deliveries, stamps = self._held, read.deliveries, read.stamps
        for delivery, stamp in wanted:
            key = delivery.key or ""
            held[key], deliveries[key], stamps[key] = read, delivery, stamp
        if self._waiting is not None:
            self._waiting.hold_back(held_back)
        self._start_soon(self._load, read, wanted, held_back)

    async def _load(self, read: _Read, wanted: Sequence[tuple[Delivery, str]], held_back: int) -> None:
        try:
            found = await self._loader.load_states(wanted)
            # Of two of one key, which a foreign producer may have named, the second is held.
            read.found = {one.key or "": state for (one, _), state in zip(wanted, found, strict=False)}
            read.at = trio.current_time()
        except ActorworkError:
            # Each is loaded once more as it begins; if that fails, too, its message is handed back.
            return
        finally:
            read.found = read.found or {}
            read.is_there.set()
            if self._waiting is not None:
                self._waiting.let_go(held_back)
        sizes = [0 if one is None else len(one.data) for one in found if one is not True]
        if sizes:
            self._bytes_each = smoothed(self._bytes_each, OWN_BYTES + sum(sizes) / len(sizes), weight=0.5)

    def known(self, key: str, delivery: Delivery, stamp: str, now: float) -> FoundState | Literal[False]:
        """Return the state of the key of a delivery that begins, if it was loaded ahead: True if it is the one that has
        this stamp, None if there is none. Else return False, and `take` it.
        """
        read = self._held.get(key)
        if read is None or read.found is None or now - read.at >= FRESH or read.deliveries.get(key) is not delivery:
            return False
        state = read.found.get(key, False)
        if state is True and read.stamps[key] != stamp:
            return False
        if state is not False:
            del self._held[key]
        return state

    async def take(self, delivery: Delivery, stamp: str, now: float) -> FoundState:
        """Return the state of the key of a delivery that begins; `stamp` is that of what this node knows of it.

        Raises `BrokerError`. There is a checkpoint only where it has to be waited for.
        """
        key = delivery.key or ""
        state = self.known(key, delivery, stamp, now)
        if state is not False:
            return state
        read = self._held.get(key)
        if read is not None and read.deliveries.get(key) is delivery:
            if read.found is None:
                await read.is_there.wait()
                state = self.known(key, delivery, stamp, now)
                if state is not False:
                    return state
            elif now - read.at >= FRESH:
                self.forget_old(now)
            self._forget(key, read)
        later = self._later.pop(key, None)
        if later is not None and later[0] is delivery:
            wanted = self._with_next(delivery, stamp)
            if len(wanted) >= _FEW:
                read = _Read(now)
                self._begin(read, wanted)
                await read.is_there.wait()
                self._forget(key, read)
                if read.found:
                    return read.found[key]
        (found,) = await self._loader.load_states([(delivery, stamp)])
        return found

    def _forget(self, key: str, read: _Read) -> None:
        if self._held.get(key) is read:
            del self._held[key]

    def _with_next(self, delivery: Delivery, stamp: str) -> Sequence[tuple[Delivery, str]]:
        """Return what to load with the state of a delivery that begins: those of the ones that have waited longest."""
        wanted = [(delivery, stamp)]
        room = max(0, min(TOGETHER, self._room()) - 1)
        for key, (one, _) in list(islice(self._later.items(), room)):
            del self._later[key]
            if key not in self._held and key != delivery.key:
                wanted.append((one, self._stamp_of(key)))
        return wanted

    def forget_old(self, now: float) -> None:
        """Drop states that have waited for too long, and forget deliveries that seem never to begin here.

        Not for each message: to find the first of a dict takes as long as what was deleted before it is long.
        """
        while self._held:
            key, read = next(iter(self._held.items()))
            if read.found is None or now - read.at < FRESH:
                break
            del self._held[key]
            if (delivery := read.deliveries.get(key)) is not None:
                self._later[key] = delivery, read.at
        while self._later:
            key, (_, since) = next(iter(self._later.items()))
            if now - since < GONE:
                break
            del self._later[key]
