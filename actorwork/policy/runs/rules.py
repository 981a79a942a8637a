"""What follows from the end of a step: which steps are sent, which are cancelled, and when the run is over.

The rules are written over a `Book`, which is how a store keeps one run. The embedded broker runs them as they are,
within the transaction that settles the step's message; Redis has the same in `lua/run_rules.lua`, and one table of
cases checks both.

    end of a step ─▶ what needs its result, if it is not done: cancelled, and so on downstream
                  ─▶ what has all that it needs: sent
                  ─▶ nothing left: the run is over

Invariants:

- A step ends once. Every later end changes nothing (`end_step` returns False). All counting is behind this check, so it
  cannot drift.
- A run has failed if a step has not succeeded and no step takes its outcome, or if its result needs such a step. A step
  that was cancelled because of another one is not a failure of its own.
- The result is one more step, with the number `RESULT`: it is never sent, but waits for its needs as others do.

One transaction does only so much (`Room`), however large the run is, so that others wait for it no longer. What is left
is noted in the book, and done by `go_on` in transactions that follow, of clients and nodes:

    spread   steps have ended, and not all dependents know: these still lack one need, so none of them is sent, and the
             run cannot end before they know
    ready    more steps have all they need than one transaction sends
    closed   the run's status is that of its end, no end counts any more, and `finish` comes once all steps have ended
    RETRY    the run's status: what has failed is put back, and what each step lacks counted anew. Nothing is sent
             meanwhile, and what ends does not spread
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

import attrs

from actorwork.policy.runs.values import RESULT, End, Expansion, Kind, Status, Wants

OPEN: Final = frozenset({Status.STARTED, Status.PAUSED, Status.HELD, Status.RETRY})
_SENDING: Final = frozenset({Status.STARTED, Status.HELD})
AT_ONCE = 500
"""How much of its runs one transaction does."""
HOLDING: Final = frozenset({"failed", "rejected", "expired", "lost"})
"""The ends that hold a run with `hold_on_failure`."""


@attrs.define
class Room:
    """What a transaction may still do for runs: how many dependents it looks at, how many steps it sends and ends."""

    looks: int = attrs.Factory(lambda: AT_ONCE)
    sends: int = attrs.Factory(lambda: AT_ONCE)
    closes: int = attrs.Factory(lambda: AT_ONCE)

    @property
    def is_used_up(self) -> bool:
        return min(self.looks, self.sends, self.closes) <= 0


class Book(Protocol):
    """One run in a store, while a transaction is open."""

    @property
    def status(self) -> Status: ...
    @property
    def reason(self) -> str: ...
    @property
    def is_closing(self) -> bool:
        """Whether the run is over, and steps of it have not ended."""
        ...

    @property
    def room(self) -> Room:
        """Of the transaction."""
        ...

    def leave_more(self) -> None:
        """Note that `go_on` is to be called in the next transaction."""
        ...

    def spread_later(self, step: int, after: int) -> None:
        """Note that the dependents of a step that come after this one do not know that it has ended."""
        ...

    def take_spreading(self, most: int) -> Sequence[tuple[int, int, End]]:
        """Return what was noted with `spread_later`, with the ends, and forget that it was."""
        ...

    def is_spreading(self) -> bool: ...
    @property
    def holds(self) -> bool:
        """Whether a failed step holds the run, to be retried, instead of ending it."""
        ...

    def set_status(self, status: Status, reason: str = "") -> None: ...

    def name_of(self, step: int) -> str: ...

    def has_ended(self, step: int) -> bool: ...

    def record(self, step: int, end: End, *, is_failure: bool) -> None:
        """Store an end; `is_failure`: the run fails by it."""
        ...

    def dependents(self, step: int, after: int = -1, most: int = -1) -> Mapping[int, Wants]:
        """Return the steps that wait for this one, by number: those after one of them, and no more than `most`."""
        ...

    def is_taken(self, step: int) -> bool:
        """Whether a step takes the outcome of this one."""
        ...

    def meet(self, step: int) -> int:
        """Note that one of a step's needs has ended; return how many are left."""
        ...

    def unended(self, most: int) -> Sequence[int]:
        """Return the last steps without an end, the result not among them."""
        ...

    def left(self) -> int:
        """Return how many steps have no end."""
        ...

    def ready(self, most: int) -> Sequence[int]:
        """Return the first steps that have all they need and were not sent."""
        ...

    def is_sent(self, step: int) -> bool: ...

    def send(self, step: int) -> None:
        """Send a step's message, or begin to wait for its signal or its time."""
        ...

    def withdraw(self, step: int, reason: str) -> None:
        """Cancel a step's message, wherever it is."""
        ...

    def hold(self, step: int, end: End) -> None:
        """Note that a step waits to be retried, because of this end."""
        ...

    def grow(self, step: int, expansion: Expansion) -> None:
        """Store steps, and the members among them in the groups of `step`: who waits for these waits for all."""
        ...

    def held_end(self, step: int) -> End | None:
        """Return how a step ended that waits to be retried."""
        ...

    def first_held(self) -> tuple[int, End] | None:
        """Return the first step that waits to be retried, and its end."""
        ...

    def unsuccessful(self) -> Mapping[int, End]:
        """Return the steps that have ended and are not done, and those that wait to be retried; the result, too."""
        ...

    def begin_putting_back(self, steps: Collection[int] | None) -> None:
        """Note that the ends of these steps are to be forgotten, or all of those that are not done."""
        ...

    def put_back(self, most: int) -> bool:
        """Forget such ends, and count what steps lack, for so many steps; return whether that is done."""
        ...

    def has_failed(self) -> bool:
        """Whether an end was recorded as a failure, or the result was cancelled."""
        ...

    def finish(self, status: Status, reason: str = "") -> None:
        """Store how the run ended, answer the callers that wait, send what `on_error` and `undo` name."""
        ...


def begin(book: Book) -> None:
    """Send the first steps of a new run."""
    book.set_status(Status.STARTED)
    if book.left():
        _send_ready(book)
    else:
        _finish(book)


def end_step(book: Book, step: int, end: End) -> bool:
    """Record how a step ended, with all that follows; return False for a step that has ended before."""
    if book.status not in OPEN or book.has_ended(step):
        return False
    takers = book.dependents(step, -1, AT_ONCE)
    is_taken = "outcome" in takers.values() or (len(takers) == AT_ONCE and book.is_taken(step))
    if book.holds and end.kind in HOLDING and not is_taken:
        book.hold(step, end)
        if book.status is Status.STARTED:
            _continue(book)
        return True
    book.record(step, end, is_failure=end.kind != "done" and not is_taken)
    _spread(book, step, end)
    _conclude(book)
    return True


def go_on(book: Book) -> None:
    """Do what earlier transactions have left."""
    if book.is_closing:
        _close_more(book)
    elif book.status is Status.RETRY:
        _put_back(book)
    elif book.status in OPEN:
        if book.room.looks > 0:
            _spread_all(book, deque(book.take_spreading(book.room.looks)))
        if book.is_spreading():
            book.leave_more()
        _conclude(book)


def expand(book: Book, step: int, expansion: Expansion) -> bool:
    """Add steps to a run by order of one that has not ended; return False if it has, or if the run is over."""
    if book.status not in OPEN or book.has_ended(step):
        return False
    book.grow(step, expansion)
    _send_ready(book)
    return True


def begin_in_vain(book: Book, reason: str) -> None:
    """End a new run before it sends anything: the run in whose step's place it is has ended."""
    book.set_status(Status.STARTED)
    cancel(book, reason)


def cancel(book: Book, reason: str) -> bool:
    """End an open run: what has not begun is dropped, what runs is cancelled, and ends too late to count."""
    return _close(book, Status.CANCELLED, reason)


def overrun(book: Book) -> bool:
    """End an open run whose deadline has passed."""
    return _close(book, Status.FAILURE, "deadline")


def pause(book: Book) -> bool:
    """Send no further steps; return whether this changed anything."""
    if book.status is not Status.STARTED:
        return False
    book.set_status(Status.PAUSED)
    return True


def resume(book: Book) -> bool:
    if book.status is not Status.PAUSED:
        return False
    _continue(book)
    _send_ready(book)
    return True


def retry(book: Book, steps: Collection[int] | None = None) -> bool:
    """Run again what has not succeeded in a run that is held or has failed; return whether there is such a run.

    With `steps`, run only these again: all that `that_run_again` has returned since the last end without success.
    """
    if not may_retry(book) or (steps is not None and not steps):
        return False
    book.begin_putting_back(steps)
    book.set_status(Status.RETRY, "what has failed is put back")
    _put_back(book)
    return True


def may_retry(book: Book) -> bool:
    return book.status is Status.HELD or (book.status is Status.FAILURE and not book.is_closing)


def that_run_again(book: Book, steps: Collection[int]) -> set[int]:
    """Return these steps and what runs again with them; nothing if one of them cannot."""
    ends = book.unsuccessful()
    held = {step for step in ends if book.held_end(step) is not None}
    return with_what_follows(steps, {step: end.kind for step, end in ends.items()}, held, book.dependents)


def with_what_follows(
    steps: Collection[int],
    ends: Mapping[int, Kind],
    held: Collection[int],
    dependents: Callable[[int], Mapping[int, Wants]],
) -> set[int]:
    """Return steps and the cancelled ones that can run again with them; none if one of `steps` cannot.

    `ends` are those of the steps that have not succeeded, among them the `held` ones, which wait to be retried.
    """
    if not ends.keys() >= set(steps):
        return set()
    again, todo = set(steps), list(steps)
    while todo:
        for dependent in dependents(todo.pop()):
            if dependent not in again and ends.get(dependent) == "cancelled":
                again.add(dependent)
                todo.append(dependent)
    # What needs the result of a step that stays as it is stays, too. A held one is no such step: it may be retried.
    todo = [step for step in ends if step not in again and step not in held]
    while todo:
        for dependent, wants in dependents(todo.pop()).items():
            if dependent in again and wants == "result":
                again.remove(dependent)
                todo.append(dependent)
    return again if again >= set(steps) else set()


def _continue(book: Book) -> None:
    """Give a run that is not paused its status: it is held as long as a step waits to be retried."""
    held = book.first_held()
    if held is None:
        book.set_status(Status.STARTED)
    elif book.status is not Status.HELD:
        step, end = held
        book.set_status(Status.HELD, f"{book.name_of(step)!r} {said(end)}")


def _put_back(book: Book) -> None:
    if not book.put_back(3 * AT_ONCE):  # So a small run is put back by one transaction.
        book.leave_more()
        return
    book.set_status(Status.STARTED)
    _continue(book)  # Of several held steps some may be left.
    if book.is_spreading():
        book.leave_more()
    _conclude(book)


def _conclude(book: Book) -> None:
    if book.status is Status.HELD:
        _continue(book)
    if book.status is Status.RETRY:
        return
    if book.left():
        _send_ready(book)
    elif not book.is_spreading():
        _finish(book)


def _spread(book: Book, step: int, end: End) -> None:
    _spread_all(book, deque([(step, -1, end)]))


def _spread_all(book: Book, ended: deque[tuple[int, int, End]]) -> None:
    """Cancel what needs the result of a step that has none, and count the needs of the others down."""
    room = book.room
    while ended and room.looks > 0 and book.status is not Status.RETRY:
        number, after, how = ended.popleft()
        most = room.looks
        dependents = book.dependents(number, after, most)
        room.looks -= 1 + len(dependents)
        if len(dependents) == most:
            ended.appendleft((number, max(dependents), how))
        for dependent, wants in dependents.items():
            if book.has_ended(dependent):
                continue
            if how.kind == "done" or wants == "outcome":
                book.meet(dependent)
                continue
            caused = End.cancelled(f"needs {book.name_of(number)!r}, which {said(how)}", is_caused=True)
            book.record(dependent, caused, is_failure=dependent == RESULT)
            if dependent != RESULT:
                ended.append((dependent, -1, caused))
    for number, after, _ in ended:
        book.spread_later(number, after)
    if ended:
        book.leave_more()


def _send_ready(book: Book) -> None:
    if book.status not in _SENDING:
        return
    room = book.room
    most = max(room.sends, 0)
    steps = book.ready(most)
    for step in steps:
        # A signal that has come already ends its step at once, with all that follows: the run may be over by then.
        if book.status in _SENDING and not book.is_sent(step):
            room.sends -= 1
            book.send(step)
    if len(steps) == most:
        book.leave_more()


def _close(book: Book, status: Status, reason: str) -> bool:
    if book.status not in OPEN:
        return False
    book.set_status(status, reason)
    _close_more(book)
    return True


def _close_more(book: Book) -> None:
    room, reason = book.room, book.reason
    most = max(room.closes, 0)
    # The last first: a message that is dropped lets the next one of its key in, which is a later step.
    steps = book.unended(most)
    for step in steps:
        room.closes -= 1  # Also for the runs in the place of steps.
        held = book.held_end(step)  # It has ended before, and is retried no more.
        book.withdraw(step, reason)
        book.record(step, held or End.cancelled(reason), is_failure=held is not None)
    if len(steps) < most or not book.left():
        book.finish(book.status, reason)
    else:
        book.leave_more()


def _finish(book: Book) -> None:
    book.finish(Status.FAILURE if book.has_failed() else Status.SUCCESS)


def said(end: End) -> str:
    """Return an end as the verb of a sentence: "failed", "was cancelled"."""
    verbs = {"done": "is done", "failed": "failed", "lost": "was lost", "expired": "expired"}
    return verbs.get(end.kind, f"was {end.kind}")
