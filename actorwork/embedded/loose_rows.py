"""The rows of steps that belong to no run: of a large run that is about to be started, or of one that was deleted.

The rows of the steps of a run have a name of their own in their column `run`, which its row in `runs` names, too. So a
run begins, or is gone, with that one row, whatever its size, while the others are written before, and deleted after, a
page at a time: no transaction is long. A program that dies in between leaves rows whose name is in `loose`, with the
time from which on `prune` deletes them.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from actorwork.embedded.transaction import Transaction
from actorwork.policy.runs import rules
from actorwork.policy.runs.values import RESULT, Dependent, Plan, StepPlan, step_row

KEPT: Final = 3600.0
"""For how many seconds the rows of a run are kept that is not started."""
LONG: Final = 2000
"""From so many characters on, the body of a step has a row of its own: a step for which a group of thousands is
gathered would take a megabyte to be written, with each of them."""
BODY: Final = (
    "case when body <> '' then body else"
    " (select b.body from bodies b where b.run = steps.run and b.step = steps.step) end"
)
_ADD_STEP: Final = "insert into steps (run, step, name, kind, body, needs, undoes) values (?, ?, ?, ?, ?, ?, ?)"
_ADD_WAIT: Final = "insert into waits (run, step, dependent, wants, gathers) values (?, ?, ?, ?, ?)"
_ADD_BODY: Final = "insert into bodies (run, step, body) values (?, ?, ?)"
_TABLES: Final = (
    ("waits", "step, dependent"), ("steps", "step"), ("bodies", "step"), ("grown", "grp, step"), ("signals", "name"),
)  # fmt: skip


class Page:
    """Rows that are to be written."""

    def __init__(self, rows: str) -> None:
        self._rows = rows
        self.steps: list[tuple[object, ...]] = []
        self.waits: list[tuple[object, ...]] = []
        self.bodies: list[tuple[object, ...]] = []

    def __repr__(self) -> str:
        return f"<Page of {len(self.steps)} steps, and {len(self.waits)} that wait>"

    def add_step(self, number: int, plan: StepPlan, row: Mapping[str, Any]) -> None:
        body = self.put(number, json.dumps(row))
        needs, undoes = len(plan.needs), plan.undo is not None
        self.steps.append((self._rows, number, plan.name, plan.kind, body, needs, undoes))

    def add_result(self, needs: int) -> None:
        self.steps.append((self._rows, RESULT, "the result", "result", "{}", needs, False))

    def add_wait(self, step: int, dependent: Dependent) -> None:
        self.waits.append((self._rows, step, dependent.step, dependent.wants, dependent.is_gathering))

    def put(self, number: int, body: str) -> str:
        """Return what the column gets that is to have a body: '' for a long one, which has a row of its own."""
        if len(body) < LONG:
            return body
        self.bodies.append((self._rows, number, body))
        return ""


class LooseRows:
    """Needs an open transaction, but where it says otherwise."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._execute = transaction.execute

    def __repr__(self) -> str:
        return "<LooseRows>"

    def add(self, rows: str, page: Page) -> None:
        """Keep a page of a run that is about to be started."""
        until = self._transaction.now + KEPT
        self._execute("insert or replace into loose (rows, until) values (?, ?)", (rows, until))
        self.write(page)

    def write(self, page: Page) -> None:
        self._transaction.executemany(_ADD_STEP, page.steps)
        self._transaction.executemany(_ADD_WAIT, page.waits)
        self._transaction.executemany(_ADD_BODY, page.bodies)

    def take(self, rows: str) -> bool:
        """Take rows for a run that is started; return whether they are there."""
        return self._execute("delete from loose where rows = ?", (rows,)).rowcount == 1

    def leave(self, rows: str) -> None:
        """Note that rows are to be deleted."""
        self._execute("insert or replace into loose (rows, until) values (?, ?)", (rows, self._transaction.now))

    def delete(self, rows: str, most: int | None = None) -> int:
        """Delete as many of these rows as a page has; return how many may still be deleted by this transaction."""
        most = 2 * rules.AT_ONCE if most is None else most
        for table, key in _TABLES:
            if most <= 0:
                return 0
            most -= self._execute(
                f"delete from {table} where run = ? and ({key}) in (select {key} from {table} where run = ? limit ?)",
                (rows, rows, most),
            ).rowcount
        if most > 0:
            self.take(rows)
        return most

    def prune(self) -> bool:
        """Delete a page of what is loose for long enough; return whether there is more."""
        due = "select rows from loose where until <= ? order by until limit ?"
        most = 2 * rules.AT_ONCE
        for (rows,) in self._execute(due, (self._transaction.now, most)).fetchall():
            most = self.delete(rows, most)
            if most <= 0:
                return True
        return self.has_due(self._transaction.now)

    def has_due(self, now: float) -> bool:
        """Needs no transaction."""
        return bool(self._execute("select exists (select 1 from loose where until <= ?)", (now,)).fetchone()[0])


def new_name() -> str:
    """Return a name for the rows of a run. It is the id of no run: those have no slash."""
    return f"/{os.urandom(8).hex()}"


def pages_of(plan: Plan, rows: str) -> Iterator[Page]:
    """Yield the rows of the steps of a run, and of what waits for them, in pages."""
    size = rules.AT_ONCE
    for first in range(0, len(plan.steps), size):
        page = Page(rows)
        for number, step in enumerate(plan.steps[first : first + size], first):
            page.add_step(number, step, step_row(step))
        yield page
    waits = ((step, dependent) for step, some in plan.dependents().items() for dependent in some)
    while some := list(itertools.islice(waits, size)):
        page = Page(rows)
        for wait in some:
            page.add_wait(*wait)
        yield page
