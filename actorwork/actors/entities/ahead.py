"""States that are loaded ahead: those of all deliveries of one read, in one round trip, before their handlers begin.

    read ──▶ `load`: which of them are as this node knows them, and what the others are ──▶ the mailbox
                                                   └──▶ `take`, once the delivery begins

A delivery that came with the settlement of the one before it brings the stamp of its state along (`hold`): if that is
the one of this node's own commit, as it is unless a user has put a state, nothing has to be loaded.

A state stays what it is while its delivery waits: of one key, one message is in flight. What may change it all the same
(a `put` with force, a key that a foreign producer has named) is found at the settlement, which names the version. A
state that has waited for long is loaded again.

Only as many states are held as take up a bounded memory. Those of the other deliveries, and those that have waited for
long, are loaded once the first of them begins, together with as many that will begin next: a node that falls behind
must not begin to ask for each state alone, or it falls behind further.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

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


@attrs.define(eq=False)
class _Read:
    """What was loaded in one round trip, begun or, once it is there, ended `at` this time.

    `found` is None until it is there, and empty if it could not be loaded.
    """

    at: float
    wanted: list[tuple[Delivery, str]]
    is_there: trio.Event = attrs.field(factory=trio.Event)
    found: Sequence[FoundState] | None = None

    def has(self, place: int, delivery: Delivery) -> bool:
        return self.wanted[place][0] is delivery


class StatesAhead:
    """The states of deliveries that wait in the mailbox. `stamp_of` returns the stamp of what is known of a key."""

    def __init__(self, loader: StateLoader, stamp_of: Callable[[str], str], start_soon: Callable[..., object]) -> None:
        self._loader = loader
        self._stamp_of = stamp_of
        self._start_soon = start_soon
        self._held: dict[str, tuple[_Read, int]] = {}
        """For each key the read that its state belongs to, and its place there; the oldest come first."""
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
            (one, stamp_of(one.key))
            for one in deliveries[:room]
            if one.key is not None and not (one.key in held and held[one.key][0].has(held[one.key][1], one))
        ]
        if len(wanted) < _FEW:
            return
        self._begin(_Read(now, wanted))

    def hold(self, deliveries: Sequence[Delivery], stamps: Sequence[str]) -> None:
        """Note the stamps of the states of deliveries that are about to be put into the mailbox.

        Those are "" for a key without a state, and "?" if not known. What is not as this node knows it is loaded.
        """
        now = trio.current_time()
        self.forget_old(now)
        found: list[FoundState] = []
        read = _Read(now, [], found=found)
        for delivery, stamp in zip(deliveries, stamps, strict=True):
            key = delivery.key
            if key is not None and stamp == self._stamp_of(key):
                self._held[key] = read, len(found)
                read.wanted.append((delivery, stamp))
                found.append(True if stamp else None)

    def _room(self) -> int:
        """Return how many more states may be held."""
        return int(MOST_BYTES / self._bytes_each) - len(self._held)

    def _begin(self, read: _Read) -> None:
        for place, (delivery, _) in enumerate(read.wanted):
            self._held[delivery.key or ""] = read, place
        self._start_soon(self._load, read)

    async def _load(self, read: _Read) -> None:
        try:
            read.found = found = await self._loader.load_states(read.wanted)
            read.at = trio.current_time()
        except ActorworkError:
            # Each is loaded once more as it begins; if that fails, too, its message is handed back.
            return
        finally:
            read.found = read.found or ()
            read.is_there.set()
        sizes = [0 if one is None else len(one.data) for one in found if one is not True]
        if sizes:
            self._bytes_each = smoothed(self._bytes_each, OWN_BYTES + sum(sizes) / len(sizes), weight=0.5)

    def confirms(self, key: str, delivery: Delivery, stamp: str, now: float) -> bool:
        """Whether the state of the key of a delivery that begins is known to have this stamp; then it is taken.

        If not, `take` says what there is.
        """
        held = self._held.get(key)
        if held is None:
            return False
        read, place = held
        if not read.found or read.found[place] is not True or now - read.at >= FRESH:
            return False
        mine, known = read.wanted[place]
        if mine is not delivery or known != stamp:
            return False
        del self._held[key]
        return True

    async def take(self, delivery: Delivery, stamp: str, now: float) -> FoundState:
        """Return the state of the key of a delivery that begins; `stamp` is that of what this node knows of it.

        Raises `BrokerError`. There is a checkpoint only where it has to be waited for.
        """
        self.forget_old(now)
        held = self._held.get(delivery.key or "")
        if held is not None:
            read, place = held
            mine, known = read.wanted[place]
            if mine is delivery:
                del self._held[delivery.key or ""]
                if read.found is None:
                    await read.is_there.wait()
                # If it could not be loaded there is none.
                if read.found and now - read.at < FRESH:
                    state = read.found[place]
                    if state is not True or known == stamp:
                        return state
        later = self._later.pop(delivery.key or "", None)
        if later is not None and later[0] is delivery:
            read = self._with_next(delivery, stamp, now)
            if len(read.wanted) >= _FEW:
                self._begin(read)
                del self._held[delivery.key or ""]
                await read.is_there.wait()
                if read.found:
                    return read.found[0]
        (found,) = await self._loader.load_states([(delivery, stamp)])
        return found

    def _with_next(self, delivery: Delivery, stamp: str, now: float) -> _Read:
        """Return what to load with the state of a delivery that begins: those of the ones that have waited longest."""
        wanted = [(delivery, stamp)]
        room = max(0, min(TOGETHER, self._room()) - 1)
        for key, (one, _) in list(islice(self._later.items(), room)):
            del self._later[key]
            if key not in self._held and key != delivery.key:
                wanted.append((one, self._stamp_of(key)))
        return _Read(now, wanted)

    def forget_old(self, now: float) -> None:
        """Drop states that have waited for too long, and forget deliveries that seem never to begin here."""
        while self._held:
            key, (read, place) = next(iter(self._held.items()))
            if read.found is None or now - read.at < FRESH:
                break
            del self._held[key]
            self._later[key] = read.wanted[place][0], read.at
        while self._later:
            key, (_, since) = next(iter(self._later.items()))
            if now - since < GONE:
                break
            del self._later[key]
