"""How a run is tried again, in the embedded broker's file: what has failed in it is put back.

Of a large run this takes several transactions. `putting`, of its row, is what is done, from which step on, and after
which of its dependents:

    back    the ends of the steps that run again are forgotten, and what all steps lack
    clear   only the latter: steps were added to the run after `back`
    count   for each step that has not ended, or whose dependents do not all know it, these lack one more
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

from actorwork.embedded.transaction import Transaction
from actorwork.policy.runs import rules
from actorwork.policy.runs.values import RESULT

_AFTER: Final = {"back": "count", "clear": "count", "count": ""}


class Retrial:
    """Puts back what has failed in one run. Needs an open transaction."""

    def __init__(self, transaction: Transaction, run: str, rows: str) -> None:
        self._transaction = transaction
        self._execute = transaction.execute
        self._run = run
        self._rows = rows

    def __repr__(self) -> str:
        return f"<Retrial of {self._run}>"

    def version(self) -> str:
        """Return how often the run was tried again, and how many steps have ended without success since."""
        retries, ended = self._execute(
            "select retries, (select count(*) from steps indexed by steps_unsuccessful"
            " where run = ? and state = 2 and how <> 'done') from runs where run = ?",
            (self._rows, self._run),
        ).fetchone()
        return f"{retries}.{ended}"

    def begin(self, steps: Collection[int] | None) -> None:
        """Note that these steps are to be put back, or all that have ended without success."""
        if steps is not None:
            self._execute("update steps set again = 0 where run = ? and again", (self._rows,))
            self._transaction.executemany(
                "update steps set again = 1 where run = ? and step = ?", [(self._rows, step) for step in steps]
            )
        self._execute(
            "update runs set finished = null, expires = null, result = null, retries = retries + 1, some = ?,"
            " closed = null, deadline = case when finished is null then deadline end where run = ?",
            (steps is not None, self._run),
        )
        self._note("back", 0)
        self._forget_ends(RESULT, RESULT)

    def go_on(self, total: int, most: int) -> bool:
        """Put back so many of the steps, of which there are `total`; return whether all is done."""
        (putting,) = self._execute("select putting from runs where run = ?", (self._run,)).fetchone()
        what, first, after = (*putting.split(" "), "0", "-1")[:3] if putting.strip() else ("", "0", "-1")
        step, dependent = int(first), int(after)
        while what and most > 0:
            last = min(step + min(most, rules.AT_ONCE), total) - 1
            most -= max(1, last + 1 - step)
            if what == "count":
                counted = self._count_needs(step, last, dependent, rules.AT_ONCE)
                most -= len(counted)
                if len(counted) == rules.AT_ONCE:
                    step, dependent = counted[-1]
                    continue
            elif what == "back":
                self._forget_ends(step, last)
            else:
                self._forget_needs(step, last)
            step, dependent = last + 1, -1
            if step >= total:
                what, step = _AFTER[what], 0
        self._note(what, step, dependent)
        return not what

    def count_again(self) -> None:
        """Count anew what steps lack, as some were added."""
        self._execute("update runs set putting = 'clear 0' where run = ? and putting not like 'back %'", (self._run,))
        self._forget_needs(RESULT, RESULT)

    def _note(self, what: str, step: int, dependent: int = -1) -> None:
        putting = f"{what} {step} {dependent}" if what else ""
        self._execute("update runs set putting = ? where run = ?", (putting, self._run))

    def _forget_ends(self, first: int, last: int) -> None:
        """Put those steps of a span back that are to run again, and forget what all of it lacks."""
        chosen = (
            "run = ? and step between ? and ? and (state = 3 or (state = 2 and how <> 'done'))"
            " and (again or not (select some from runs r where r.run = ?))"
        )
        span = (self._rows, first, last, self._run)
        (reopened,) = self._execute(f"select count(*) from steps where {chosen} and state = 2", span).fetchone()
        self._execute(
            "update steps set attempt = attempt + 1, state = 0, how = null, value = null, failure = null, caused = 0,"
            f" fails = 0, place = null, due = null, child = null, told = null, again = 0 where {chosen}",
            span,
        )
        if first < RESULT:
            self._execute("update runs set open = open + ? where run = ?", (reopened, self._run))
        self._forget_needs(first, last)

    def _forget_needs(self, first: int, last: int) -> None:
        self._execute(
            "update steps set needs = 0 where run = ? and step between ? and ? and state <> 2",
            (self._rows, first, last),
        )

    def _count_needs(self, first: int, last: int, after: int, most: int) -> Sequence[tuple[int, int]]:
        """Count, for each step of a span that has not ended, or has not spread, that its dependents lack it.

        Of the first step only those that come after one of them. Return the steps and dependents that were counted, no
        more than `most`.
        """
        rows = self._rows
        self._execute(
            "update steps set told = -1 where run = ? and step between ? and ? and told is not null",
            (rows, first if after < 0 else first + 1, last),
        )
        lacking = self._execute(
            "select w.step, w.dependent from waits w join steps s on s.run = w.run and s.step = w.step"
            " where w.run = ? and (w.step, w.dependent) > (?, ?) and w.step <= ?"
            " and (s.state <> 2 or s.told is not null) order by w.step, w.dependent limit ?",
            (rows, first, after, last, most),
        ).fetchall()
        counts = Counter(dependent for _, dependent in lacking)
        self._transaction.executemany(
            "update steps set needs = needs + ? where run = ? and step = ? and state <> 2",
            [(count, rows, dependent) for dependent, count in counts.items()],
        )
        return lacking
