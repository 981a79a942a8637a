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
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Protocol

from actorwork.policy.runs.values import RESULT, End, Expansion, Status, Wants

OPEN: Final = frozenset({Status.STARTED, Status.PAUSED, Status.HELD})
HOLDING: Final = frozenset({"failed", "rejected", "expired", "lost"})
"""The ends that hold a run with `hold_on_failure`."""


class Book(Protocol):
    """One run in a store, while a transaction is open."""

    @property
    def status(self) -> Status: ...
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

    def dependents(self, step: int) -> Mapping[int, Wants]: ...

    def meet(self, step: int) -> int:
        """Note that one of a step's needs has ended; return how many are left."""
        ...

    def unended(self) -> Iterable[int]:
        """Return the steps without an end, the result not among them."""
        ...

    def left(self) -> int:
        """Return how many steps have no end."""
        ...

    def ready(self) -> Iterable[int]:
        """Return the steps that have all they need and were not sent."""
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

    def reopen(self, steps: Collection[int] | None) -> None:
        """Forget the ends of these steps of a held or failed run, or all that are not done; count the needs anew."""
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
    takers = book.dependents(step)
    is_taken = "outcome" in takers.values()
    if book.holds and end.kind in HOLDING and not is_taken:
        book.hold(step, end)
        if book.status is Status.STARTED:
            _continue(book)
        return True
    book.record(step, end, is_failure=end.kind != "done" and not is_taken)
    _spread(book, step, end)
    if book.status is Status.HELD:
        _continue(book)
    if book.left():
        _send_ready(book)
    else:
        _finish(book)
    return True


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

    With `steps`, run only these again, and what was cancelled because of them. Nothing is done, and False returned, if
    one of them has not ended without success, or needs the result of another one that stays without.
    """
    if book.status not in (Status.HELD, Status.FAILURE):
        return False
    again = None if steps is None else _with_what_follows(book, steps)
    if again is not None and not again:
        return False
    book.reopen(again)
    book.set_status(Status.STARTED)
    _continue(book)  # Of several held steps some may be left.
    _send_ready(book)
    return True


def _with_what_follows(book: Book, steps: Collection[int]) -> set[int]:
    """Return steps and the cancelled ones that can run again with them; none if one of `steps` cannot."""
    ends = book.unsuccessful()
    if not ends.keys() >= set(steps):
        return set()
    again, todo = set(steps), list(steps)
    while todo:
        for dependent in book.dependents(todo.pop()):
            end = ends.get(dependent)
            if dependent not in again and end is not None and end.kind == "cancelled":
                again.add(dependent)
                todo.append(dependent)
    # What needs the result of a step that stays as it is stays, too. A held one is no such step: it may be retried.
    todo = [step for step in ends if step not in again and book.held_end(step) is None]
    while todo:
        for dependent, wants in book.dependents(todo.pop()).items():
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


def _spread(book: Book, step: int, end: End) -> None:
    """Cancel what needs the result of a step that has none, and count the needs of the others down."""
    ended = deque([(step, end)])
    while ended:
        number, how = ended.popleft()
        for dependent, wants in book.dependents(number).items():
            if book.has_ended(dependent):
                continue
            if how.kind == "done" or wants == "outcome":
                book.meet(dependent)
                continue
            caused = End.cancelled(f"needs {book.name_of(number)!r}, which {said(how)}", is_caused=True)
            book.record(dependent, caused, is_failure=dependent == RESULT)
            ended.append((dependent, caused))


def _send_ready(book: Book) -> None:
    for step in book.ready():
        # A signal that has come already ends its step at once, with all that follows: the run may be over by then.
        if book.status in (Status.STARTED, Status.HELD) and not book.is_sent(step):
            book.send(step)


def _close(book: Book, status: Status, reason: str) -> bool:
    if book.status not in OPEN:
        return False
    for step in book.unended():
        held = book.held_end(step)  # It has ended before, and is retried no more.
        book.withdraw(step, reason)
        book.record(step, held or End.cancelled(reason), is_failure=held is not None)
    book.finish(status, reason)
    return True


def _finish(book: Book) -> None:
    book.finish(Status.FAILURE if book.has_failed() else Status.SUCCESS)


def said(end: End) -> str:
    """Return an end as the verb of a sentence: "failed", "was cancelled"."""
    verbs = {"done": "is done", "failed": "failed", "lost": "was lost", "expired": "expired"}
    return verbs.get(end.kind, f"was {end.kind}")
