"""The mailbox: where an actor's messages wait, in four lanes.

    control   stop, kill, pause: flags that are looked at before every item
    signals   what the system tells: Terminated, Restarted
    own       what the actor tells itself: timers, results piped to it, messages it had stashed
    users     what others tell, and deliveries from the broker, in the order in which they came

A lane is empty before the next one has its turn. The lane of the users is one queue until something with another
priority than usual comes; then it is one queue for each priority (`levels`), until it is empty. Local messages of users
are bounded by `capacity`, and `overflow` says what happens beyond: the sender waits, or is refused, or a message is
dropped (which is reported). Deliveries are bounded by what the actor will have handled in a moment (`policy/intake`),
counting those in hand: a reader that finds no room waits until it is resumed, and that is the backpressure which
reaches the broker. Urgent ones have some room of their own, so that they come though the mailbox is full of others.

The mailbox survives restarts of its actor. Nothing here waits but `tell` and `wait_item`.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import trio

from actorwork.actors.mailbox.priority_deque import PriorityDeque
from actorwork.errors import ActorStopped, AskTimeout, MailboxFull
from actorwork.message import Delivery, Priority
from actorwork.policy.intake import FIRST_GUESS, prefetch, smoothed, urgent_room

if TYPE_CHECKING:
    from actorwork.actors.handlers.table import Handler
    from actorwork.settings import MailboxSettings


class Reply:
    """Where an asker waits: one task, which is woken directly."""

    __slots__ = ("_answered", "_error", "_task", "_value", "about", "owed_by")

    def __init__(self) -> None:
        self.about: tuple[str, object, float] | None = None
        """Who was asked what, and for how long it is waited: for an asker with a timeout."""
        self.owed_by: set[Reply] | None = None
        """Where an actor keeps the replies that it will give later."""
        self._task: trio.lowlevel.Task | None = None
        self._answered = False
        self._value: object = None
        self._error: BaseException | None = None

    def give(self, value: object) -> None:
        """Answer; only the first answer counts."""
        self._answer(value, None)

    def fail(self, error: BaseException) -> None:
        """Answer with an error, which is raised at the asker; only the first answer counts."""
        self._answer(None, error)

    def expire(self) -> None:
        """Fail, since the time is up."""
        title, message, timeout = self.about or ("", None, 0.0)
        self.fail(AskTimeout(f"{title!r} gave no reply to {type(message).__name__} within {timeout:g} s"))

    def _answer(self, value: object, error: BaseException | None) -> None:
        if not self._answered:
            self._answered, self._value, self._error = True, value, error
            if self.owed_by is not None:
                self.owed_by.discard(self)
            if self._task is not None:
                trio.lowlevel.reschedule(self._task)
                self._task = None

    async def wait(self) -> object:
        """Wait for the reply; cancelled: the message is still handled, its reply is dropped."""
        if self._answered:
            await trio.lowlevel.checkpoint()
        else:
            self._task = trio.lowlevel.current_task()

            def abort(_: object) -> trio.lowlevel.Abort:
                self._task = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        if self._error is not None:
            raise self._error
        return self._value


class Lane(enum.IntEnum):
    """Which queue an item waits in; control is no queue."""

    SIGNALS = 0
    OWN = 1
    USERS = 2


class Mark(enum.IntEnum):
    """What became of a local message that was in hand."""

    OPEN = 0
    ENDED = 1
    KEPT = 2
    """Passed on, or answered later: its end is not the end of the handler."""
    STASHED = 3


OPEN: Final = Mark.OPEN
"""By a name of its own, which is found faster than a member of an enumeration: it is wanted for every message."""


class LocalCall:
    """A message from within the process, and where its asker waits (None for a tell).

    While it is in hand it stands for itself in the context, so that no second object is made for every message.
    """

    __slots__ = ("handler", "keywords", "mark", "message", "reply")

    lane = Lane.USERS
    priority: Priority | None = None
    """None: as usual for its actor."""
    origin: object = None
    delivery = None
    outgoing = None

    def __init__(
        self, message: object, handler: Handler | None, reply: Reply | None, keywords: dict[str, Any] | None = None
    ) -> None:
        self.message = message
        self.handler = handler
        self.reply = reply
        self.keywords = keywords
        self.mark = OPEN

    @property
    def call(self) -> LocalCall:
        return self

    @property
    def ended(self) -> bool:
        return self.mark is not Mark.OPEN


class RankedCall(LocalCall):
    """A local message whose sender has named a priority."""

    __slots__ = ("priority",)

    def __init__(
        self,
        message: object,
        handler: Handler | None,
        reply: Reply | None,
        keywords: dict[str, Any] | None = None,
        *,
        priority: Priority,
    ) -> None:
        super().__init__(message, handler, reply, keywords)
        self.priority: Priority | None = priority


class SystemCall(LocalCall):
    """A message from the system, or from the actor itself, in a lane of its own.

    `handler` is None for a signal that the actor has no handler for; `origin` is the timer or the ref that brought it.
    """

    __slots__ = ("lane", "origin")

    def __init__(
        self,
        message: object,
        handler: Handler | None,
        keywords: dict[str, Any] | None,
        *,
        lane: Lane,
        origin: object = None,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(message, handler, reply, keywords)
        self.lane = lane
        self.origin = origin


Item: TypeAlias = Delivery | LocalCall


class MailboxOwner(Protocol):
    """What a mailbox says to whom it belongs; nothing of it waits."""

    def room_made(self) -> None:
        """A reader that found no room may read again."""
        ...

    def crowded(self) -> None:
        """Items come, and no taker waits for them."""
        ...

    def dropped(self, call: LocalCall) -> None:
        """A local message was dropped for want of room."""
        ...


_NOTHING: Final[deque[Item]] = deque(maxlen=0)
"""What waits in the mailbox of an idle actor: a deque of its own takes 760 bytes, also while it is empty."""


class Mailbox:
    """A bounded queue of local calls and deliveries, drained by one or more takers."""

    __slots__ = (
        "_capacity",
        "_closed",
        "_concurrency",
        "_held",
        "_items",
        "_local",
        "_may_grow",
        "_name",
        "_overflow",
        "_owner",
        "_parked",
        "_paused",
        "_seconds_each",
        "_senders",
        "_starved",
        "_starved_of_urgent",
        "_urgent",
        "_usual",
    )

    def __init__(
        self,
        *,
        name: str,
        settings: MailboxSettings,
        concurrency: int,
        on: MailboxOwner,
        usual: Priority = Priority.NORMAL,
        batch: int = 1,
    ) -> None:
        self._name = name
        self._owner = on
        self._may_grow = concurrency > 1
        self._capacity = settings.capacity
        self._overflow = settings.overflow
        self._concurrency = concurrency * batch
        """How many deliveries are in hand at least, before one has to wait."""
        self._usual = usual
        self._items: deque[Item] | PriorityDeque[Item] = _NOTHING
        self._urgent: tuple[deque[Item], deque[Item]] | None = None
        self._parked: list[trio.lowlevel.Task] = []
        self._senders: trio.lowlevel.ParkingLot | None = None
        self._local = 0
        self._held = 0
        self._seconds_each = FIRST_GUESS
        self._starved = False
        self._starved_of_urgent = False
        self._paused = False
        self._closed: str | None = None

    def __repr__(self) -> str:
        return f"<mailbox of {self._name}: {len(self._items)} waiting, {self._held} deliveries held>"

    def __len__(self) -> int:
        if self._urgent is not None:
            return len(self._items) + len(self._urgent[0]) + len(self._urgent[1])
        return len(self._items)

    @property
    def local(self) -> int:
        """How many local messages wait, in all lanes."""
        if self._urgent is None:
            return self._local
        return self._local + sum(isinstance(item, LocalCall) for lane in self._urgent for item in lane)

    @property
    def held(self) -> int:
        """How many deliveries wait or are in hand."""
        return self._held

    # ---- the local senders' side ----

    def tell_nowait(self, call: LocalCall) -> None:
        """Take a local message; raises `MailboxFull` (unless the overflow policy drops) or `ActorStopped`."""
        if self._closed is not None:
            raise ActorStopped(self._closed)
        if self._local >= self._capacity and not self._make_room(call):
            return
        self._local += 1
        if self._items is _NOTHING:
            self._items = deque()
        self._items.append(call)
        if self._parked:
            trio.lowlevel.reschedule(self._parked.pop())
        elif self._may_grow:
            self._owner.crowded()

    def _make_room(self, call: LocalCall) -> bool:
        """Apply the overflow policy; say whether the message is to be taken."""
        if self._overflow == "drop_new":
            self._owner.dropped(call)
            return False
        if self._overflow == "drop_oldest":
            items = self._items
            for item in items.least_urgent_first() if isinstance(items, PriorityDeque) else items:
                if isinstance(item, LocalCall):
                    self._items.remove(item)
                    self._local -= 1
                    self._owner.dropped(item)
                    return True
        hint = "" if self._overflow == "fail" else "; use `await ref.tell(…)` to wait for room"
        held = f"{self._local} of {self._capacity} local messages"
        raise MailboxFull(f"the mailbox of {self._name} holds {held}{hint}")

    async def tell(self, call: LocalCall) -> None:
        """Take a local message, waiting for room if the overflow policy is to block; raises `ActorStopped`.

        Cancelled: it was not taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        await self.deliver(call)
        await trio.lowlevel.cancel_shielded_checkpoint()

    @property
    def has_room(self) -> bool:
        """Whether a message would be taken, refused or dropped without waiting."""
        return self._local < self._capacity or self._overflow != "block" or self._closed is not None

    async def deliver(self, call: LocalCall) -> None:
        """As `tell`, but a checkpoint only where it waits: for a caller who waits next."""
        while self._overflow == "block" and self._local >= self._capacity and self._closed is None:
            if self._senders is None:
                self._senders = trio.lowlevel.ParkingLot()
            await self._senders.park()
            if type(call) is RankedCall:
                self.rank()  # again: meanwhile it may have been empty
        self.tell_nowait(call)

    def put(self, call: SystemCall) -> None:
        """Take what the system or the actor itself says: in its own lane, whatever the room."""
        self._lane(call.lane).append(call)
        self._came(1)

    def rank(self) -> None:
        """Let what waits, and what comes until nothing waits any more, be taken in the order of its priority."""
        if not isinstance(self._items, PriorityDeque):
            self._items = PriorityDeque(self._usual, self._items)

    def _lane(self, lane: Lane) -> deque[Item] | PriorityDeque[Item]:
        if lane is Lane.USERS:
            if self._items is _NOTHING:
                self._items = deque()
            return self._items
        if self._urgent is None:
            self._urgent = (deque(), deque())
        return self._urgent[lane]

    def drop(self, lane: Lane, origin: object) -> bool:
        """Drop what waits in a lane and came from a timer or a ref; say whether there was something."""
        if self._urgent is None:
            return False
        items = self._urgent[lane]
        dropped = [item for item in items if isinstance(item, LocalCall) and item.origin == origin]
        for item in dropped:
            items.remove(item)
        return bool(dropped)

    def close(self, reason: str) -> None:
        """Refuse local messages from now on; who waits for room is refused too."""
        self._closed = reason
        if self._senders is not None:
            self._senders.unpark_all()

    def reopen(self) -> None:
        """Take local messages again."""
        self._closed = None

    # ---- the reader's side: an `abc.DeliverySink` together with `revoke` of the cell ----

    def credit(self, *, urgent: bool = False) -> int:
        target = prefetch(seconds_each=self._seconds_each, concurrency=self._concurrency, capacity=self._capacity)
        room = target - self._held
        if urgent:
            room += urgent_room(self._concurrency)
        if room <= 0:
            self._starved = True
            self._starved_of_urgent |= urgent
            return 0
        return room

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        self._held += len(deliveries)
        usual = self._usual
        for delivery in deliveries:
            if delivery.priority is not usual:
                self.rank()
                break
        self._lane(Lane.USERS).extend(deliveries)
        self._came(len(deliveries))

    def _came(self, count: int) -> None:
        parked = self._parked
        while parked and count:
            trio.lowlevel.reschedule(parked.pop())
            count -= 1
        if count and self._may_grow:
            self._owner.crowded()

    # ---- the actor's side ----

    def take_nowait(self) -> Item | None:
        """Return the next item, or None."""
        if self._paused:
            return None
        if self._urgent is not None:
            signals, own = self._urgent
            if signals:
                return signals.popleft()
            if own:
                return own.popleft()
        if not self._items:
            return None
        item = self._items.popleft()
        if type(item) is not Delivery:
            self._local -= 1
            if self._senders:
                self._senders.unpark()
        return item

    def wait_item(self) -> Coroutine[Any, Any, object]:
        """Wait until there may be an item, or until `wake`. To be awaited at once."""
        # No coroutine of its own: every idle actor would keep its frame.
        task = trio.lowlevel.current_task()
        self._parked.append(task)
        if not self._items:
            self._items = _NOTHING

        def abort(_: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        return trio.lowlevel.wait_task_rescheduled(abort)  # noqa: ASYNC105 - the executor awaits it

    def pause(self) -> None:
        """Give out nothing any more."""
        self._paused = True

    @property
    def paused(self) -> bool:
        return self._paused

    def wake(self) -> None:
        """Let all takers look again."""
        while self._parked:
            trio.lowlevel.reschedule(self._parked.pop())

    def delivery_ended(self, seconds: float) -> None:
        """Count a delivery out that was in hand for so many seconds."""
        self._held -= 1
        self._seconds_each = smoothed(self._seconds_each, seconds)
        self._tell_room()

    def delivery_set_aside(self) -> None:
        """Count out a delivery that was in hand, and is neither ended nor waiting.

        What is set aside has a bound of its own. If it took room here, the reader would stop, and with it what the
        actor waits for before it goes on with the rest.
        """
        self._held -= 1
        self._tell_room()

    def _tell_room(self) -> None:
        """Tell a reader that found no room when there is some again."""
        if self._starved:
            target = prefetch(seconds_each=self._seconds_each, concurrency=self._concurrency, capacity=self._capacity)
            extra = urgent_room(self._concurrency)
            # Half, so that a busy reader reads in batches and is not woken for each single delivery.
            if (
                self._held <= target // 2
                or self._held < self._concurrency
                or (self._starved_of_urgent and self._held <= target + extra // 2)
            ):
                self._starved = self._starved_of_urgent = False
                self._owner.room_made()

    def put_back(self, item: Item) -> None:
        """Put an item that was in hand to the front again."""
        lane = item.lane if isinstance(item, LocalCall) else Lane.USERS
        self._lane(lane).appendleft(item)
        if isinstance(item, LocalCall) and lane is Lane.USERS:
            self._local += 1
        self._came(1)

    def put_first(self, items: Sequence[Item]) -> None:
        """Put items that were set aside to the front of the actor's own lane, in their order."""
        own = [
            SystemCall(item.message, item.handler, item.keywords, lane=Lane.OWN, reply=item.reply)
            if isinstance(item, LocalCall)
            else item
            for item in items
        ]
        self._held += sum(isinstance(item, Delivery) for item in own)
        lane = self._lane(Lane.OWN)
        for item in reversed(own):
            lane.appendleft(item)
        self._came(len(items))

    def remove_deliveries(self) -> list[Delivery]:
        """Take out all waiting deliveries; they are no longer held."""
        found: list[Delivery] = []
        for lane in self._lanes():
            here = [item for item in lane if isinstance(item, Delivery)]
            if here:
                kept = [item for item in lane if not isinstance(item, Delivery)]
                lane.clear()
                lane.extend(kept)
                found += here
        self._held -= len(found)
        # Where all of them are taken away at once, none of them ends, and nothing else would wake the reader.
        if found:
            self._tell_room()
        return found

    def remove_local(self) -> list[LocalCall]:
        """Take out all waiting local messages, signals included."""
        if not len(self):
            return []
        found: list[LocalCall] = []
        for lane in self._lanes():
            found += [item for item in lane if isinstance(item, LocalCall)]
            kept = [item for item in lane if not isinstance(item, LocalCall)]
            lane.clear()
            lane.extend(kept)
        self._local = 0
        return found

    def _lanes(self) -> tuple[deque[Item] | PriorityDeque[Item], ...]:
        return (self._items,) if self._urgent is None else (*self._urgent, self._items)
