"""Runs of workflows in the embedded broker's file: the tables `runs`, `steps`, `waits` and `signals`.

The rules are those of `policy.runs.rules`, over one run as a `Book`. Whatever ends a message notes it in the
transaction (`step_ends`), and `RunTable.join` draws the conclusions before the same transaction is committed: a step's
settlement, its end in the run and the messages that it releases are one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from actorwork.embedded.loose_rows import BODY, LooseRows, Page, new_name, pages_of
from actorwork.embedded.run_book import (
    ENDED,
    HELD,
    SENT,
    WAITS,
    RunBook,
    RunOutlets,
    StepRows,
    end_from,
)
from actorwork.embedded.states import OVER
from actorwork.embedded.transaction import StepEnd, Transaction
from actorwork.message import FLOW, RUN_SECRET, Failure, Json
from actorwork.policy.runs import rules
from actorwork.policy.runs.values import (
    MOST_FAILURES,
    RESULT,
    STATUS_OF_KIND,
    End,
    Expansion,
    Heir,
    Plan,
    RunInfo,
    Status,
    StepInfo,
    lived,
    message_id,
    read_step_header,
    step_from,
    step_row,
    template_row,
)

_INFO: Final = "select run, title, status, reason, total, open, started, finished, result, late from runs"


class RunTable:
    """All runs of a file. Needs an open transaction, but where it says otherwise."""

    def __init__(self, transaction: Transaction, outlets: RunOutlets) -> None:
        self._transaction = transaction
        self._execute = transaction.execute
        self._outlets = outlets
        self.loose = LooseRows(transaction)

    def __repr__(self) -> str:
        return "<RunTable>"

    # ---- what begins and ends them ----

    def start(self, plan: Plan) -> bool:
        """Store a run and send its first steps; return False if there is a run with this id.

        The steps of a large one were kept before, under the name `plan.ahead`.
        """
        rows = plan.ahead
        if self._execute("select 1 from runs where run = ?", (plan.id,)).fetchone() is not None:
            if rows is not None:
                self.loose.leave(rows)
            return False
        is_whole = rows is None or self.loose.take(rows)
        if rows is None:
            rows = new_name()
            for page in pages_of(plan, rows):
                self.loose.write(page)
        now = self._transaction.now
        deadline = None if plan.deadline is None else now + plan.deadline
        rest = {
            "result": template_row(plan.result),
            "on_error": None if plan.on_error is None else step_row(plan.on_error),
            "heir": None if plan.heir is None else _heir_row(plan.heir),
        }
        total = len(plan.steps)
        page = Page(rows)
        page.add_result(len(plan.needs_of_result))
        kept_rest = page.put(RESULT, json.dumps(rest))
        self._execute(
            "insert into runs"
            " (run, home, title, status, reason, total, open, holds, ttl, deadline, rest, started, secret, rows)"
            " values (?, ?, ?, ?, '', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                plan.id, plan.home, plan.title, Status.PENDING, total, total, plan.holds, plan.results_ttl, deadline,
                kept_rest, now, os.urandom(8).hex(), rows,
            ),
        )  # fmt: skip
        self.loose.write(page)
        if deadline is not None:
            self._transaction.is_delayed_until(deadline)
        book = self._book(plan.id)
        if plan.heir is not None and not self._adopt(plan.id, plan.heir):
            rules.begin_in_vain(book, f"the run of {plan.heir.id!r} has ended")
        elif is_whole:
            rules.begin(book)
        else:
            book.finish(Status.FAILURE, "its steps were kept too long before it was started, and were deleted")
        return True

    def _adopt(self, child: str, heir: Heir) -> bool:
        """Note that a run is in the place of a step, to be cancelled with its run; return False if that is over.

        The header may have been copied by a foreign producer: only the message that the run has sent is a step of it.
        """
        home, run, number = read_step_header(heir.headers.get(FLOW)) or ("", "", 0)
        book = self._find(run)
        if book is None or book.home != home or not heir.id.startswith(message_id(run, number)):
            return True
        if book.secret != heir.headers.get(RUN_SECRET, book.secret):
            return True
        if book.message_of(number) != heir.id:
            return False
        self._execute("update steps set child = ? where run = ? and step = ?", (child, book.rows, number))
        return book.status in rules.OPEN

    def join(self) -> None:
        """Draw the conclusions from all ends, and start all runs, that this transaction has noted."""
        transaction = self._transaction
        while transaction.step_ends or transaction.starts or transaction.expansions:
            if transaction.starts:
                self.start(transaction.starts.pop(0))
            elif transaction.expansions:  # Before the end of the step by whose order they come.
                self._expand(*transaction.expansions.pop(0))
            else:
                self._end(transaction.step_ends.pop(0))

    def _expand(self, message: str, expansion: Expansion) -> None:
        book = self._find(expansion.run)
        if book is not None and book.home == expansion.home and book.message_of(expansion.step) == message:
            rules.expand(book, expansion.step, expansion)

    def _end(self, noted: StepEnd) -> None:
        read = read_step_header(noted.header)
        if read is None:
            return
        home, run, number = read
        book = self._find(run)
        if book is None or book.home != home:
            return
        if number > RESULT:
            book.undone(number, noted.id)
            return
        # The header may have been copied by a foreign producer: only the message that this run has sent counts.
        if not noted.id.startswith(message_id(run, number)):
            return
        end = End.of(noted.outcome)
        is_late = book.message_of(number) != noted.id or not rules.end_step(book, number, end)
        if is_late and end.kind != "cancelled":  # That a message was cancelled is what follows from the end of its run.
            self._execute("update runs set late = late + 1 where run = ?", (run,))

    def promote(self) -> None:
        """End what waited for a time: naps, signals that did not come, runs past their deadlines."""
        now = self._transaction.now
        due = self._execute(
            "select r.run, s.run, step, kind, name from steps s join runs r on coalesce(r.rows, r.run) = s.run"
            " where due <= ? order by due",
            (now,),
        ).fetchall()
        for run, rows, step, kind, name in due:  # No more than there are naps and signals that have a limit.
            self._execute("update steps set due = null where run = ? and step = ?", (rows, step))
            end = End("done") if kind == "nap" else End("expired", failure=Failure("Expired", f"no signal {name!r}"))
            rules.end_step(self._book(run), step, end)
        late = self._execute("select run from runs where deadline <= ? and finished is null", (now,)).fetchall()
        for (run,) in late:
            rules.overrun(self._book(run))
        for (run,) in self._execute("select run from runs where more").fetchall():
            if self._transaction.room is not None and self._transaction.room.is_used_up:
                break  # In the next transaction.
            self.more(run)

    def first_due(self) -> float | None:
        """Return when `promote` has something to do next. Needs no transaction."""
        found = self._execute(
            "select (select min(due) from steps where due is not null),"
            " (select min(deadline) from runs where deadline is not null and finished is null),"
            " (select 0 from runs where more limit 1)"
        ).fetchone()
        return min((due for due in found if due is not None), default=None)

    def prune(self) -> bool:
        """Delete runs whose results are kept no longer, and a page of their steps; return whether there is more."""
        gone = self._execute("select run from runs where expires <= ?", (self._transaction.now,)).fetchall()
        for (run,) in gone:
            self._delete(run)
        return self.loose.prune()

    # ---- what a client orders ----

    def cancel(self, run: str, reason: str) -> bool:
        book = self._find(run)
        return book is not None and rules.cancel(book, reason)

    def pause(self, run: str) -> bool:
        book = self._find(run)
        return book is not None and rules.pause(book)

    def resume(self, run: str) -> bool:
        book = self._find(run)
        return book is not None and rules.resume(book)

    def has_more(self, run: str) -> bool:
        """Whether something of a run is left to later transactions. Needs no transaction."""
        return self._execute("select more from runs where run = ?", (run,)).fetchone() == (1,)

    def more(self, run: str) -> None:
        """Do what earlier transactions have left of a run."""
        book = self._find(run)
        if book is not None and book.take_more():
            rules.go_on(book)

    def retry(self, run: str, steps: Collection[int] | None = None, version: str | None = None) -> bool | None:
        """Run again what has not succeeded, or some of it; None if the run does not have this version any more."""
        book = self._find(run)
        if book is None or not rules.may_retry(book):
            return False
        if version is not None and version != book.version():
            return None
        return rules.retry(book, steps)

    def that_run_again(self, run: str, steps: Collection[int]) -> tuple[str, Collection[int]]:
        """Return some steps and what runs again with them, and the version of the run for which that is right.

        Needs no transaction.
        """
        if self._execute("select 1 from runs where run = ?", (run,)).fetchone() is None:
            return "", ()
        book = RunBook(self._transaction, self._outlets, run)
        version = book.version()
        return version, rules.that_run_again(book, steps) if version else ()

    def shape_of_signal(self, run: str, name: str) -> str | None:
        """Return what the value of a signal wants, as JSON; None for any value, and if the run takes no such signal."""
        book = self._find(run)
        if book is None or book.status not in rules.OPEN:
            return None
        row = self._execute(
            f"select {BODY} from steps where run = ? and name = ? and kind = 'signal' and state <> 2",
            (book.rows, name),
        ).fetchone()
        return None if row is None else step_from(json.loads(row[0])).type

    def signal(self, run: str, name: str, value: str) -> bool:
        """Give a run the value of a signal; return False if there is no open run that may take it."""
        book = self._find(run)
        if book is None or book.status not in rules.OPEN:
            return False
        row = self._execute(
            "select step, state from steps where run = ? and name = ? and kind = 'signal'", (book.rows, name)
        ).fetchone()
        if row is None or row[1] == ENDED:
            return False
        values = (book.rows, name, value)
        done = self._execute("insert or ignore into signals (run, name, value) values (?, ?, ?)", values)
        if done.rowcount and row[1] == SENT:
            self._execute("update steps set due = null where run = ? and step = ?", (book.rows, row[0]))
            rules.end_step(book, row[0], End("done", value))
        return done.rowcount == 1

    def forget(self, run: str) -> str | None:
        """Delete a run that is over; return under which name its rows are loose now, None if there is no such run."""
        book = self._find(run)
        if book is None or not book.status.is_final or book.is_closing:
            return None
        self._delete(run)
        return book.rows

    def _delete(self, run: str) -> None:
        (rows,) = self._execute("select coalesce(rows, run) from runs where run = ?", (run,)).fetchone()
        self._execute("delete from runs where run = ?", (run,))
        self.loose.leave(rows)

    # ---- what a client reads; needs no transaction ----

    def info(self, run: str) -> RunInfo | None:
        row = self._execute(f"{_INFO} where run = ?", (run,)).fetchone()
        return None if row is None else self._info(row)

    def list(self, statuses: Sequence[str], limit: int) -> Sequence[RunInfo]:
        where, arguments = "", ()
        if statuses:
            where, arguments = " where status in (select value from json_each(?))", (json.dumps(list(statuses)),)
        rows = self._execute(f"{_INFO}{where} order by started desc limit ?", (*arguments, limit)).fetchall()
        return [self._info(row) for row in rows]

    def steps(self, run: str) -> Sequence[StepInfo]:
        name = self._rows_of(run)
        rows = self._execute(
            f"select step, name, kind, state, attempt, {BODY}, how, value, failure, caused from steps"
            " where run = ? and kind <> 'result' order by step",
            (name,),
        ).fetchall()
        added: dict[int, set[int]] = {}
        for dependent, step in self._execute(
            "select dependent, step from waits where run = ? and step in (select step from grown where run = ?)",
            (name, name),
        ):
            added.setdefault(dependent, set()).add(step)
        steps = [_step_info(run, row, added.get(row[0], ())) for row in rows]
        sent = json.dumps([step.message for step in steps if step.is_on_its_way])
        lives = self._execute(
            f"select id, status, progress from states where id in (select value from json_each(?)) and rank < {OVER}",
            (sent,),
        )
        return lived(steps, {message: (status, progress) for message, status, progress in lives.fetchall()})

    def _info(self, row: Sequence[Any]) -> RunInfo:
        run, title, status, reason, total, left, started, finished, result, late = row
        rows = self._rows_of(run)
        failures = StepRows(self._execute, rows).failures(MOST_FAILURES)
        waiting = self._execute(
            "select name from steps indexed by steps_asking"
            " where run = ? and kind = 'signal' and state = 1 order by step",
            (rows,),
        ).fetchall()
        held = self._execute(
            "select name, how, value, failure, caused from steps indexed by steps_held"
            " where run = ? and state = 3 order by step limit ?",
            (rows, MOST_FAILURES - len(failures)),
        ).fetchall()
        return RunInfo(
            id=run,
            title=title,
            status=Status(status),
            reason=reason,
            done=total - left,
            total=total,
            waits_for=tuple(name for (name,) in waiting),
            started=started,
            finished=finished,
            result=result,
            failures=(*failures, *((name, end_from(*end)) for name, *end in held)),
            late_ends=late,
        )

    def _rows_of(self, run: str) -> str:
        """Return what the rows of the steps of a run have in their column `run`; "" if there is no such run."""
        found = self._execute("select coalesce(rows, run) from runs where run = ?", (run,)).fetchone()
        return "" if found is None else found[0]

    def _find(self, run: str) -> RunBook | None:
        row = self._execute("select 1 from runs where run = ?", (run,)).fetchone()
        return None if row is None else self._book(run)

    def _book(self, run: str) -> RunBook:
        self._transaction.changed.add(("", run))  # If nothing changes after all, its watchers look in vain.
        return RunBook(self._transaction, self._outlets, run)


def _heir_row(heir: Heir) -> dict[str, Json]:
    return {"source": heir.source, "id": heir.id, "headers": dict(heir.headers)}


def _step_info(run: str, row: Sequence[Any], added: Iterable[int]) -> StepInfo:
    number, name, kind, state, attempt, body, how, value, failure, caused = row
    plan = step_from(json.loads(body))
    end = None if how is None else end_from(how, value, failure, caused)
    if state == HELD:
        status = Status.HELD
    elif end is not None:
        status = STATUS_OF_KIND[end.kind]
    else:
        status = Status.PENDING if state == WAITS else Status.STARTED if kind != "message" else Status.PENDING
    return StepInfo(
        number=number,
        name=name,
        kind=kind,
        status=status,
        needs=tuple(sorted({*plan.needs, *added})),
        actor=plan.actor,
        source=plan.source,
        message=message_id(run, number, attempt) if state != WAITS and kind == "message" else "",
        end=end,
    )
