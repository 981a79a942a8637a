"""The mailbox: where an actor's messages wait, in three queues.

    SYSTEM   signals of the runtime: Terminated, Restarted, a broken link
    SELF     from the actor itself: timers, piped results, messages that it had stashed
    USER     from other actors, and deliveries from the broker, in the order in which they came

A queue is served only while those before it are empty. Stop, kill and pause are no items: they are flags that an
executor looks at before every item.

The user queue is one deque until an item comes whose priority is not the actor's own; from then until it is empty it is
a `PriorityDeque`. Local messages in it are bounded by `capacity`, and `overflow` decides what happens beyond: the
sender waits, or is refused, or a message is dropped and reported. Deliveries are bounded by what the actor will have
handled in a moment (`policy/intake`), counting those in flight: a reader that finds no credit waits until it is
resumed, and that is the backpressure which reaches the broker. Urgent deliveries have some credit of their own, so that
they come although the mailbox is full of others.

The mailbox survives restarts of its actor. Nothing here waits except `tell`, `deliver` and `wait_item`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from actorwork.actors.mailbox.calls import Item, LocalCall, Queue, RankedCall, SystemCall
from actorwork.actors.mailbox.priority_deque import PriorityDeque
from actorwork.errors import ActorStopped, MailboxFull
from actorwork.message import Delivery, Priority
from actorwork.policy.intake import FIRST_GUESS, prefetch, smoothed, urgent_room

if TYPE_CHECKING:
    from actorwork.settings import MailboxSettings


if TYPE_CHECKING:

    class MailboxOwner(Protocol):
        """What a mailbox reports to its owner; none of it waits."""

        def room_made(self) -> None:
            """A reader that found no credit may read again."""
            ...

        def crowded(self) -> None:
            """Items come, and no executor waits for them."""
            ...

        def dropped(self, call: LocalCall) -> None:
            """A local message was dropped for want of room."""
            ...


_EMPTY: Final[deque[Item]] = deque(maxlen=0)
"""The user queue of an idle actor, shared by all: a deque takes 760 bytes, also while it is empty.

`maxlen=0` so that an append by mistake loses the item in the first test instead of giving it to another actor.
"""


class Mailbox:
    """A bounded queue of local calls and deliveries, drained by one or more executors."""

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
        "thread",
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
        self.thread = get_ident()
        """That of the event loop. In another one, an executor that is taken off `_parked` could not be woken."""
        self._name = name
        self._owner = on
        self._may_grow = concurrency > 1
        self._capacity = settings.capacity
        self._overflow = settings.overflow
        self._concurrency = concurrency * batch
        """How many deliveries can be in flight at once."""
        self._usual = usual
        self._items: deque[Item] | PriorityDeque[Item] = _EMPTY
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

    def __iter__(self) -> Iterator[Item]:
        for queue in self._queues():
            yield from queue

    @property
    def local(self) -> int:
        """How many local messages wait, in all queues."""
        if self._urgent is None:
            return self._local
        return self._local + sum(isinstance(item, LocalCall) for queue in self._urgent for item in queue)

    @property
    def held(self) -> int:
        """How many deliveries wait or are in flight."""
        return self._held

    # ---- the local senders' side ----

    def tell_nowait(self, call: LocalCall) -> None:
        """Accept a local message; raises `MailboxFull` (unless the overflow policy drops) or `ActorStopped`."""
        if self._closed is not None:
            raise ActorStopped(self._closed)
        if self._local >= self._capacity and not self._make_room(call):
            return
        self._local += 1
        if self._items is _EMPTY:
            self._items = deque()
        self._items.append(call)
        if self._parked:
            trio.lowlevel.reschedule(self._parked.pop())
        elif self._may_grow:
            self._owner.crowded()

    def _make_room(self, call: LocalCall) -> bool:
        """Apply the overflow policy; return whether the message is to be accepted."""
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
        """Accept a local message, waiting for room if the overflow policy is to block; raises `ActorStopped`.

        If cancelled, the message was not accepted.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        await self.deliver(call)
        await trio.lowlevel.cancel_shielded_checkpoint()

    @property
    def has_room(self) -> bool:
        """Whether a message would be accepted, refused or dropped without waiting."""
        return self._local < self._capacity or self._overflow != "block" or self._closed is not None

    async def deliver(self, call: LocalCall) -> None:
        """As `tell`, with a checkpoint only where it waits: for a caller that waits for the reply next."""
        while self._overflow == "block" and self._local >= self._capacity and self._closed is None:
            if self._senders is None:
                self._senders = trio.lowlevel.ParkingLot()
            await self._senders.park()
            if type(call) is RankedCall:
                # Again: while the sender waited, the queue may have been empty, which ends the order by priority.
                self.rank()
        self.tell_nowait(call)

    def put(self, call: SystemCall) -> None:
        """Accept a message of the runtime or of the actor itself: never refused for want of room."""
        self._queue(call.queue).append(call)
        self._came(1)

    def rank(self) -> None:
        """Serve the user queue in the order of priority, until it is empty."""
        if not isinstance(self._items, PriorityDeque):
            self._items = PriorityDeque(self._usual, self._items)

    def _queue(self, queue: Queue) -> deque[Item] | PriorityDeque[Item]:
        if queue is Queue.USER:
            if self._items is _EMPTY:
                self._items = deque()
            return self._items
        if self._urgent is None:
            self._urgent = (deque(), deque())
        return self._urgent[queue]

    def drop(self, queue: Queue, origin: object) -> bool:
        """Drop what waits in a queue and came from a timer or a ref; return whether there was something."""
        return self.drop_if(queue, lambda one: one == origin)

    def drop_if(self, queue: Queue, is_meant: Callable[[object], bool]) -> bool:
        """Drop what waits in a queue, by its origin; return whether there was something."""
        if self._urgent is None:
            return False
        items = self._urgent[queue]
        dropped = [item for item in items if isinstance(item, LocalCall) and is_meant(item.origin)]
        for item in dropped:
            items.remove(item)
        return bool(dropped)

    def close(self, reason: str) -> None:
        """Refuse local messages from now on, also those of senders that wait for room."""
        self._closed = reason
        if self._senders is not None:
            self._senders.unpark_all()

    def reopen(self) -> None:
        """Accept local messages again."""
        self._closed = None

    # ---- the reader's side ----

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
        self._queue(Queue.USER).extend(deliveries)
        self._came(len(deliveries))

    def _came(self, count: int) -> None:
        # One executor for each new item: waking all of them would make most find nothing.
        parked = self._parked
        while parked and count:
            trio.lowlevel.reschedule(parked.pop())
            count -= 1
        if count and self._may_grow:
            self._owner.crowded()

    # ---- the actor's side ----

    def take_nowait(self) -> Item | None:
        """Take out the next item; None if there is none."""
        if self._paused:
            return None
        if self._urgent is not None:
            system, own = self._urgent
            if system:
                return system.popleft()
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
        # Not `async def`: every idle actor would keep the frame of one more coroutine, for as long as it is idle.
        task = trio.lowlevel.current_task()
        self._parked.append(task)
        if not self._items:
            self._items = _EMPTY

        def abort(_: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        return trio.lowlevel.wait_task_rescheduled(abort)  # noqa: ASYNC105 - the executor awaits it

    def pause(self) -> None:
        """Give out nothing more."""
        self._paused = True

    @property
    def paused(self) -> bool:
        return self._paused

    def wake(self) -> None:
        """Let all waiting executors look again."""
        while self._parked:
            trio.lowlevel.reschedule(self._parked.pop())

    @property
    def seconds_each(self) -> float | None:
        """How many seconds a delivery takes, as the latest have shown; None before any has ended."""
        return None if self._seconds_each == FIRST_GUESS else self._seconds_each

    def delivery_ended(self, seconds: float) -> None:
        """Count out a delivery that was in flight for `seconds`."""
        self._held -= 1
        self._seconds_each = smoothed(self._seconds_each, seconds)
        self._tell_room()

    def delivery_set_aside(self) -> None:
        """Count out a delivery that was in flight and is now stashed, batched, or waits for a limit.

        Each of these has a bound of its own. If it used up credit here, the reader would stop, and with it the very
        message for which the actor has stashed the others, or which would fill the batch.
        """
        self._held -= 1
        self._tell_room()

    def _tell_room(self) -> None:
        """Resume a reader that found no credit, once there is enough again."""
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
        """Put an item that was in flight to the front again."""
        queue = item.queue if isinstance(item, LocalCall) else Queue.USER
        self._queue(queue).appendleft(item)
        if isinstance(item, LocalCall) and queue is Queue.USER:
            self._local += 1
        self._came(1)

    def put_first(self, items: Sequence[Item]) -> None:
        """Put stashed or admitted items to the front of the self queue, in their order."""
        own = [
            SystemCall(item.message, item.handler, item.keywords, queue=Queue.SELF, reply=item.reply)
            if isinstance(item, LocalCall)
            else item
            for item in items
        ]
        self._held += sum(isinstance(item, Delivery) for item in own)
        queue = self._queue(Queue.SELF)
        for item in reversed(own):
            queue.appendleft(item)
        self._came(len(items))

    def take_deliveries(self, sources: Collection[str] | None = None) -> list[Delivery]:
        """Remove and return all waiting deliveries, whatever their sources; they are no longer held."""
        found: list[Delivery] = []
        for queue in self._queues():
            here = [item for item in queue if isinstance(item, Delivery)]
            if here:
                kept = [item for item in queue if not isinstance(item, Delivery)]
                queue.clear()
                queue.extend(kept)
                found += here
        self._held -= len(found)
        # None of them will end here, so without this nothing would ever resume a starved reader.
        if found:
            self._tell_room()
        return found

    def remove_local(self) -> list[LocalCall]:
        """Remove and return all waiting local messages, signals included."""
        if not len(self):
            return []
        found: list[LocalCall] = []
        for queue in self._queues():
            found += [item for item in queue if isinstance(item, LocalCall)]
            kept = [item for item in queue if not isinstance(item, LocalCall)]
            queue.clear()
            queue.extend(kept)
        self._local = 0
        return found

    def _queues(self) -> tuple[deque[Item] | PriorityDeque[Item], ...]:
        return (self._items,) if self._urgent is None else (*self._urgent, self._items)
