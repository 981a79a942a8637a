"""A deque for each priority, served fairly, and within one priority in the order of arrival.

It takes the place of a `deque` in a mailbox in which items of several priorities wait (`policy/turns` decides whose
turn it is), and has as much of a deque's face as a mailbox uses. An item that names no priority has the usual one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from actorwork.message import Priority
from actorwork.policy.turns import FairPriority


class Ranked(Protocol):
    """Something with a priority."""

    @property
    def priority(self) -> Priority | None: ...


T = TypeVar("T", bound=Ranked)

COUNT: Final = len(Priority)


class PriorityDeque(Generic[T]):
    """One queue for each priority."""

    __slots__ = ("_queues", "_turns", "_usual")

    def __init__(self, usual: Priority = Priority.NORMAL, items: Iterable[T] = ()) -> None:
        self._usual = usual
        self._queues: tuple[deque[T], ...] = tuple(deque[T]() for _ in range(COUNT))
        self._turns = FairPriority(COUNT)
        self.extend(items)

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def __bool__(self) -> bool:
        return any(self._queues)

    def __iter__(self) -> Iterator[T]:
        """Yield all items, the most urgent first."""
        for queue in self._queues:
            yield from queue

    def least_urgent_first(self) -> Iterator[T]:
        for queue in reversed(self._queues):
            yield from queue

    def append(self, item: T) -> None:
        self._queue(item).append(item)

    def extend(self, items: Iterable[T]) -> None:
        for item in items:
            self._queue(item).append(item)

    def appendleft(self, item: T) -> None:
        """Insert an item before the others of its priority."""
        self._queue(item).appendleft(item)

    def popleft(self) -> T:
        """Remove and return the item whose turn it is; raises if there is none."""
        waiting = [level for level, queue in enumerate(self._queues) if queue]
        return self._queues[self._turns.next(waiting)].popleft()

    def remove(self, item: T) -> None:
        self._queue(item).remove(item)

    def clear(self) -> None:
        for queue in self._queues:
            queue.clear()

    def _queue(self, item: T) -> deque[T]:
        priority = item.priority
        return self._queues[self._usual if priority is None else priority]
