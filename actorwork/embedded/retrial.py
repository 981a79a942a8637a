"""How a run is tried again, in the embedded broker's file: what has failed in it is put back.

Of a large run this takes several transactions. `putting`, of its row, is what is done, and from which step on:

    back    the ends of the steps that run again are forgotten, and what all steps lack
    clear   only the latter: steps were added to the run after `back`
    count   for each step that has not ended, or whose dependents do not all know it, these lack one more
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from actorwork.embedded.transaction import Transaction
from actorwork.policy.runs import rules
from actorwork.policy.runs.values import RESULT

_AFTER: Final = {"back": "count", "clear": "count", "count": ""}


class Retrial:
    """Puts back what has failed in one run. Needs an open transaction."""

    def __init__(self, transaction: Transaction, run: str) -> None:
        self._transaction = transaction
        self._execute = transaction.execute
        self._run = run

    def __repr__(self) -> str:
        return f"<Retrial of {self._run}>"

    def version(self) -> str:
        """Return how often the run was tried again, and how many steps have ended without success since."""
        retries, ended = self._execute(
            "select retries, (select count(*) from steps s where s.run = runs.run and s.state = 2 and s.how <> 'done')"
            " from runs where run = ?",
            (self._run,),
        ).fetchone()
        return f"{retries}.{ended}"

    def begin(self, steps: Collection[int] | None) -> None:
        """Note that these steps are to be put back, or all that have ended without success."""
        run = self._run
        if steps is not None:
            self._execute("update steps set again = 0 where run = ? and again", (run,))
            self._transaction.executemany(
                "update steps set again = 1 where run = ? and step = ?", [(run, step) for step in steps]
            )
        self._execute(
            "update runs set finished = null, expires = null, result = null, retries = retries + 1, some = ?,"
            " deadline = case when finished is null then deadline end where run = ?",
            (steps is not None, run),
        )
        self._note("back", 0)
        self._forget_ends(RESULT, RESULT)

    def go_on(self, total: int, most: int) -> bool:
        """Put back so many of the steps, of which there are `total`; return whether all is done."""
        (putting,) = self._execute("select putting from runs where run = ?", (self._run,)).fetchone()
        what, _, at = putting.partition(" ")
        first = int(at or 0)
        while what and most > 0:
            last = min(first + min(most, rules.AT_ONCE), total) - 1
            if what == "count":
                self._count_needs(first, last)
            elif what == "back":
                self._forget_ends(first, last)
            else:
                self._forget_needs(first, last)
            most -= max(1, last + 1 - first)
            first = last + 1
            if first >= total:
                what, first = _AFTER[what], 0
        self._note(what, first)
        return not what

    def count_again(self) -> None:
        """Count anew what steps lack, as some were added."""
        self._execute("update runs set putting = 'clear 0' where run = ? and putting not like 'back %'", (self._run,))
        self._forget_needs(RESULT, RESULT)

    def _note(self, what: str, step: int) -> None:
        self._execute("update runs set putting = ? where run = ?", (f"{what} {step}", self._run))

    def _forget_ends(self, first: int, last: int) -> None:
        """Put those steps of a span back that are to run again, and forget what all of it lacks."""
        chosen = (
            "run = ? and step between ? and ? and (state = 3 or (state = 2 and how <> 'done'))"
            " and (again or not (select some from runs r where r.run = steps.run))"
        )
        span = (self._run, first, last)
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
            "update steps set needs = 0 where run = ? and step between ? and ? and state <> 2", (self._run, first, last)
        )

    def _count_needs(self, first: int, last: int) -> None:
        """Count, for each step of a span that has not ended, or has not spread, that its dependents lack it."""
        run, span = self._run, (self._run, first, last)
        self._execute("update steps set told = -1 where run = ? and step between ? and ? and told is not null", span)
        lacking = self._execute(
            "select w.dependent, count(*) from steps s join waits w on w.run = s.run and w.step = s.step"
            " where s.run = ? and s.step between ? and ? and (s.state <> 2 or s.told is not null) group by 1",
            span,
        ).fetchall()
        self._transaction.executemany(
            "update steps set needs = needs + ? where run = ? and step = ? and state <> 2",
            [(count, run, dependent) for dependent, count in lacking],
        )
