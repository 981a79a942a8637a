"""Runs of workflows in the embedded broker's file: the tables `runs`, `steps`, `waits` and `signals`.

The rules are those of `policy.runs.rules`, over one run as a `Book`. Whatever ends a message notes it in the
transaction (`step_ends`), and `RunTable.join` draws the conclusions before the same transaction is committed: a step's
settlement, its end in the run and the messages that it releases are one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

import attrs

from actorwork.embedded.rows import EnvelopeRow, OptionalFields
from actorwork.embedded.states import OVER
from actorwork.embedded.transaction import StepEnd, Transaction
from actorwork.message import FLOW, Failure, Json, Outcome, Priority
from actorwork.policy.runs import rules
from actorwork.policy.runs.values import (
    ON_ERROR,
    RESULT,
    STATUS_OF_KIND,
    Dependent,
    End,
    Expansion,
    Failures,
    Gather,
    Heir,
    Kind,
    Need,
    Numbering,
    Plan,
    RunInfo,
    Status,
    StepInfo,
    StepPlan,
    Template,
    Wants,
    groups_in,
    grown,
    lived,
    message_id,
    needs_of,
    number_of_group,
    read_step_header,
    step_from,
    step_header,
    step_row,
    template_from,
    template_row,
)

WAITS: Final = 0
SENT: Final = 1
ENDED: Final = 2
HELD: Final = 3


class RunOutlets(Protocol):
    """What a run does to messages."""

    def publish(self, rows: Iterable[EnvelopeRow]) -> int: ...

    def cancel_anywhere(self, source: str, id: str, reason: str) -> bool:
        """Cancel a message wherever it is; return whether it was open, and not cancelled before."""
        ...

    def answer(self, source: str, id: str, headers: Mapping[str, Json], outcome: Outcome) -> None:
        """Store an outcome if its sender asked for that, and send it to whom it concerns."""
        ...


class RunTable:
    """All runs of a file. Needs an open transaction, but where it says otherwise."""

    def __init__(self, transaction: Transaction, outlets: RunOutlets) -> None:
        self._transaction = transaction
        self._execute = transaction.execute
        self._outlets = outlets

    def __repr__(self) -> str:
        return "<RunTable>"

    # ---- what begins and ends them ----

    def start(self, plan: Plan) -> bool:
        """Store a run and send its first steps; return False if there is a run with this id."""
        if self._execute("select 1 from runs where run = ?", (plan.id,)).fetchone() is not None:
            return False
        now = self._transaction.now
        deadline = None if plan.deadline is None else now + plan.deadline
        rest = {
            "result": template_row(plan.result),
            "on_error": None if plan.on_error is None else step_row(plan.on_error),
            "heir": None if plan.heir is None else _heir_row(plan.heir),
        }
        total = len(plan.steps)
        self._execute(
            "insert into runs (run, home, title, status, reason, total, open, holds, ttl, deadline, rest, started)"
            " values (?, ?, ?, ?, '', ?, ?, ?, ?, ?, ?, ?)",
            (
                plan.id, plan.home, plan.title, Status.PENDING, total, total, plan.holds, plan.results_ttl, deadline,
                json.dumps(rest), now,
            ),
        )  # fmt: skip
        steps = [_step_values(plan.id, number, step, step_row(step)) for number, step in enumerate(plan.steps)]
        steps.append((plan.id, RESULT, "the result", "result", "{}", len(plan.needs_of_result), False))
        self._transaction.executemany(_ADD_STEP, steps)
        self._transaction.executemany(
            _ADD_WAIT,
            [
                _wait_values(plan.id, step, dependent)
                for step, dependents in plan.dependents().items()
                for dependent in dependents
            ],
        )
        if deadline is not None:
            self._transaction.is_delayed_until(deadline)
        if plan.heir is None or self._adopt(plan.id, plan.heir):
            rules.begin(self._book(plan.id))
        else:
            rules.begin_in_vain(self._book(plan.id), f"the run of {plan.heir.id!r} has ended")
        return True

    def _adopt(self, child: str, heir: Heir) -> bool:
        """Note that a run is in the place of a step, to be cancelled with its run; return False if that is over.

        The header may have been copied by a foreign producer: only the message that the run has sent is a step of it.
        """
        home, run, number = read_step_header(heir.headers.get(FLOW)) or ("", "", 0)
        book = self._find(run)
        if book is None or book.home != home or not heir.id.startswith(message_id(run, number)):
            return True
        if book.message_of(number) != heir.id:
            return False
        self._execute("update steps set child = ? where run = ? and step = ?", (child, run, number))
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
        if book.message_of(number) != noted.id:
            return
        rules.end_step(book, number, End.of(noted.outcome))

    def promote(self) -> None:
        """End what waited for a time: naps, signals that did not come, runs past their deadlines."""
        now = self._transaction.now
        due = self._execute("select run, step, kind, name from steps where due <= ? order by due", (now,)).fetchall()
        for run, step, kind, name in due:
            self._execute("update steps set due = null where run = ? and step = ?", (run, step))
            end = End("done") if kind == "nap" else End("expired", failure=Failure("Expired", f"no signal {name!r}"))
            rules.end_step(self._book(run), step, end)
        late = self._execute("select run from runs where deadline <= ? and finished is null", (now,)).fetchall()
        for (run,) in late:
            rules.overrun(self._book(run))

    def first_due(self) -> float | None:
        """Return when `promote` has something to do next. Needs no transaction."""
        found = self._execute(
            "select (select min(due) from steps where due is not null),"
            " (select min(deadline) from runs where deadline is not null and finished is null)"
        ).fetchone()
        return min((due for due in found if due is not None), default=None)

    def prune(self) -> None:
        """Delete runs whose results are kept no longer."""
        gone = self._execute("select run from runs where expires <= ?", (self._transaction.now,)).fetchall()
        for (run,) in gone:
            self._delete(run)

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

    def retry(self, run: str, steps: Collection[int] | None = None) -> bool:
        book = self._find(run)
        return book is not None and rules.retry(book, steps)

    def shape_of_signal(self, run: str, name: str) -> str | None:
        """Return what the value of a signal wants, as JSON; None for any value, and if the run takes no such signal."""
        book = self._find(run)
        if book is None or book.status not in rules.OPEN:
            return None
        row = self._execute(
            "select body from steps where run = ? and name = ? and kind = 'signal' and state <> 2", (run, name)
        ).fetchone()
        return None if row is None else step_from(json.loads(row[0])).type

    def signal(self, run: str, name: str, value: str) -> bool:
        """Give a run the value of a signal; return False if there is no open run that may take it."""
        book = self._find(run)
        if book is None or book.status not in rules.OPEN:
            return False
        row = self._execute(
            "select step, state from steps where run = ? and name = ? and kind = 'signal'", (run, name)
        ).fetchone()
        if row is None or row[1] == ENDED:
            return False
        done = self._execute("insert or ignore into signals (run, name, value) values (?, ?, ?)", (run, name, value))
        if done.rowcount and row[1] == SENT:
            self._execute("update steps set due = null where run = ? and step = ?", (run, row[0]))
            rules.end_step(book, row[0], End("done", value))
        return done.rowcount == 1

    def forget(self, run: str) -> bool:
        """Delete a run that is over; return whether there was one."""
        book = self._find(run)
        if book is None or not book.status.is_final:
            return False
        self._delete(run)
        return True

    def _delete(self, run: str) -> None:
        for table in ("runs", "steps", "waits", "grown", "signals"):
            self._execute(f"delete from {table} where run = ?", (run,))

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
        rows = self._execute(
            "select step, name, kind, state, attempt, body, how, value, failure, caused from steps"
            " where run = ? and kind <> 'result' order by step",
            (run,),
        ).fetchall()
        added: dict[int, set[int]] = {}
        for dependent, step in self._execute(
            "select dependent, step from waits where run = ? and step in (select step from grown where run = ?)",
            (run, run),
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
        run, title, status, reason, total, left, started, finished, result = row
        failures = self._execute(
            "select name, how, value, failure, caused from steps where run = ? and fails and kind <> 'result'"
            " order by step",
            (run,),
        ).fetchall()
        waiting = self._execute(
            "select name from steps where run = ? and kind = 'signal' and state = 1 order by step", (run,)
        ).fetchall()
        held = self._execute(
            "select name, how, value, failure, caused from steps where run = ? and state = 3 order by step", (run,)
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
            failures=tuple((name, _end_from(*end)) for name, *end in (*failures, *held)),
        )

    def _find(self, run: str) -> RunBook | None:
        row = self._execute("select 1 from runs where run = ?", (run,)).fetchone()
        return None if row is None else self._book(run)

    def _book(self, run: str) -> RunBook:
        self._transaction.changed.add(("", run))  # If nothing changes after all, its watchers look in vain.
        return RunBook(self._transaction, self._outlets, run)


_ADD_STEP: Final = "insert into steps (run, step, name, kind, body, needs, undoes) values (?, ?, ?, ?, ?, ?, ?)"
_ADD_WAIT: Final = "insert into waits (run, step, dependent, wants, gathers) values (?, ?, ?, ?, ?)"
_INFO: Final = "select run, title, status, reason, total, open, started, finished, result from runs"


class RunBook:
    """One run; implements `policy.runs.rules.Book`."""

    def __init__(self, transaction: Transaction, outlets: RunOutlets, run: str) -> None:
        self._transaction = transaction
        self._execute = transaction.execute
        self._outlets = outlets
        self._run = run
        status, self.home, self.total, holds, rest, self._keep_for = self._execute(
            "select status, home, total, holds, rest, ttl from runs where run = ?", (run,)
        ).fetchone()
        self.status = Status(status)
        self.holds = bool(holds)
        self._rest = rest

    def __repr__(self) -> str:
        return f"<RunBook {self._run} {self.status}>"

    def set_status(self, status: Status, reason: str = "") -> None:
        self._execute("update runs set status = ?, reason = ? where run = ?", (status, reason, self._run))
        self.status = status

    def name_of(self, step: int) -> str:
        return self._row("name", step)[0]

    def has_ended(self, step: int) -> bool:
        return self._row("state", step)[0] == ENDED

    def message_of(self, step: int) -> str | None:
        """Return the id of the message of a step that was sent and has not ended; a held one may be replayed."""
        state, attempt = self._row("state, attempt", step) or (WAITS, 0)
        return message_id(self._run, step, attempt) if state in (SENT, HELD) else None

    def record(self, step: int, end: End, *, is_failure: bool) -> None:
        failure = None if end.failure is None else json.dumps(attrs.asdict(end.failure))
        if step < RESULT:
            self._execute("update runs set open = open - 1 where run = ?", (self._run,))
        self._execute(
            "update steps set state = 2, due = null, how = ?, value = ?, failure = ?, caused = ?, fails = ?, place = ?"
            " where run = ? and step = ?",
            (end.kind, end.value, failure, end.is_caused, is_failure, self.total - self.left(), self._run, step),
        )

    def dependents(self, step: int) -> Mapping[int, Wants]:
        rows = self._execute("select dependent, wants from waits where run = ? and step = ?", (self._run, step))
        return dict(rows.fetchall())

    def meet(self, step: int) -> int:
        self._execute("update steps set needs = needs - 1 where run = ? and step = ?", (self._run, step))
        return self._row("needs", step)[0]

    def unended(self) -> Iterable[int]:
        return self._numbers("state <> 2 and step < ?", RESULT)

    def left(self) -> int:
        return self._execute("select open from runs where run = ?", (self._run,)).fetchone()[0]

    def ready(self) -> Iterable[int]:
        return self._numbers("state = 0 and needs = 0 and step < ?", RESULT)

    def is_sent(self, step: int) -> bool:
        return self._row("state", step)[0] != WAITS

    def grow(self, step: int, expansion: Expansion) -> None:
        run, first, count = self._run, self.total, len(expansion.steps)
        numbering = Numbering(lambda number: first + number, group=lambda group: number_of_group(first, group))
        groups = self._plan(step)[0].groups
        waits = [
            _wait_values(run, first + number, attrs.evolve(dependent, step=first + dependent.step))
            for number, dependents in expansion.dependents().items()
            for dependent in dependents
        ]
        gathering = self._execute(
            "select dependent, wants from waits where run = ? and step = ? and gathers", (run, step)
        ).fetchall()
        for member in expansion.members:
            waits += [_wait_values(run, first + member, Dependent(*row, is_gathering=True)) for row in gathering]
        steps: list[tuple[object, ...]] = []
        for number, plan in enumerate(expansion.steps):
            row = step_row(plan, numbering)
            if number in expansion.members:
                row["groups"] = [*groups, *cast("list[Json]", row.get("groups", []))]
            steps.append(_step_values(run, first + number, plan, row))
        self._transaction.executemany(_ADD_STEP, steps)
        self._transaction.executemany(_ADD_WAIT, waits)
        self._transaction.executemany(
            "update steps set needs = needs + ? where run = ? and step = ? and state <> 2",
            [(len(expansion.members), run, dependent) for dependent, _ in gathering],
        )
        self._transaction.executemany(
            "insert into grown (run, grp, step) values (?, ?, ?)",
            [(run, group, first + member) for group in groups for member in expansion.members],
        )
        self._execute("update runs set total = total + ?, open = open + ? where run = ?", (count, count, run))
        self.total += count

    def held_end(self, step: int) -> End | None:
        state, *end = self._row("state, how, value, failure, caused", step)
        return _end_from(*end) if state == HELD else None

    def first_held(self) -> tuple[int, End] | None:
        row = self._execute(
            "select step, how, value, failure, caused from steps where run = ? and state = 3 order by step limit 1",
            (self._run,),
        ).fetchone()
        return None if row is None else (row[0], _end_from(*row[1:]))

    def send(self, step: int) -> None:
        plan, attempt = self._plan(step)
        due: float | None = None
        if plan.kind != "message" and plan.seconds is not None:
            due = self._transaction.now + plan.seconds
            self._transaction.is_delayed_until(due)
        self._execute("update steps set state = 1, due = ? where run = ? and step = ?", (due, self._run, step))
        if plan.kind == "message":
            self._publish(plan, step, message_id(self._run, step, attempt))
        elif plan.kind == "signal":
            row = self._execute("select value from signals where run = ? and name = ?", (self._run, plan.name))
            given = row.fetchone()
            if given is not None:
                rules.end_step(self, step, End("done", given[0]))

    def withdraw(self, step: int, reason: str) -> None:
        message = self.message_of(step)
        if message is None:
            return
        (child,) = self._row("child", step)
        if child is not None and self._is_kept(child):
            book = RunBook(self._transaction, self._outlets, child)
            if rules.cancel(book, f"its run {self._run!r} has ended"):
                return
        plan, _ = self._plan(step)
        if plan.kind == "message":
            self._outlets.cancel_anywhere(plan.source, message, reason)

    def _is_kept(self, run: str) -> bool:
        return self._execute("select 1 from runs where run = ?", (run,)).fetchone() is not None

    def hold(self, step: int, end: End) -> None:
        failure = None if end.failure is None else json.dumps(attrs.asdict(end.failure))
        self._execute(
            "update steps set state = 3, due = null, how = ?, value = ?, failure = ?, caused = 0, fails = 0"
            " where run = ? and step = ?",
            (end.kind, end.value, failure, self._run, step),
        )

    def unsuccessful(self) -> dict[int, End]:
        rows = self._execute(
            "select step, how, value, failure, caused from steps"
            " where run = ? and (state = 3 or (state = 2 and how <> 'done')) order by step",
            (self._run,),
        )
        return {step: _end_from(*end) for step, *end in rows.fetchall()}

    def reopen(self, steps: Collection[int] | None) -> None:
        # What ends from now on comes after all that has ended.
        self._execute("update steps set place = place - ? where run = ? and place is not null", (self.total, self._run))
        self._execute(
            "update steps set attempt = attempt + 1, state = 0, how = null, value = null, failure = null, caused = 0,"
            " fails = 0, place = null, due = null, child = null where run = ?"
            " and (state = 3 or (state = 2 and how <> 'done')) and (? or step in (select value from json_each(?)))",
            (self._run, steps is None, json.dumps(sorted(steps or ()))),
        )
        self._execute(
            "update steps set needs = (select count(*) from waits w join steps s on s.run = w.run and s.step = w.step"
            " where w.run = steps.run and w.dependent = steps.step and s.state <> 2)"
            " where run = ? and state = 0",
            (self._run,),
        )
        self._execute(
            "update runs set finished = null, expires = null, result = null,"
            " deadline = case when finished is null then deadline end,"
            " open = (select count(*) from steps s where s.run = runs.run and s.state <> 2 and s.step < ?)"
            " where run = ?",
            (RESULT, self._run),
        )

    def has_failed(self) -> bool:
        row = self._execute("select 1 from steps where run = ? and fails limit 1", (self._run,)).fetchone()
        return row is not None

    def finish(self, status: Status, reason: str = "") -> None:
        now = self._transaction.now
        rest = json.loads(self._rest)
        result: str | None = None
        if status is Status.SUCCESS:
            result = self._text(template_from(rest["result"]))
        elif not reason:
            reason = self._first_failure()
        self.status = status
        self._execute(
            "update runs set status = ?, reason = ?, finished = ?, expires = ? + ttl, result = ? where run = ?",
            (status, reason, now, now, result, self._run),
        )
        self._execute("delete from signals where run = ?", (self._run,))
        if rest["heir"] is not None:
            self._bequeath(Heir(**rest["heir"]), status, reason, result)
        if status is Status.FAILURE and rest["on_error"] is not None:
            # Another id after a retry: the same one would be taken for the message that was sent before.
            (retries,) = self._execute("select sum(attempt) from steps where run = ?", (self._run,)).fetchone()
            suffix = f".{retries}" if retries else ""
            self._publish(step_from(rest["on_error"]), ON_ERROR, f"{self._run}/error{suffix}")
        if status is not Status.SUCCESS:
            self._undo_next()
            self._keep()

    # ---- the end of a run ----

    def undone(self, number: int, message: str) -> None:
        """Send the next message that undoes something, after the last one has ended, however it did.

        Only if the run has not been retried meanwhile: what is done then stays.
        """
        step = number - RESULT - 1
        if message != self._undo_id(step):
            return
        done = self._execute(
            "update steps set undoes = 1, place = null where run = ? and step = ? and undoes = 2", (self._run, step)
        )
        if done.rowcount and self.status in (Status.FAILURE, Status.CANCELLED):
            self._undo_next()
            self._keep()

    def _keep(self) -> None:
        """Let the run expire after its time, which begins when the last step is undone."""
        self._execute(
            "update runs set expires = case when exists"
            " (select 1 from steps where steps.run = runs.run and undoes = 2) then null else ? + ttl end where run = ?",
            (self._transaction.now, self._run),
        )

    def _undo_id(self, step: int) -> str:
        return f"{self._run}/undo/{step}"

    def _undo_next(self) -> None:
        row = self._execute(
            "select step, body from steps where run = ? and undoes = 1 and how = 'done' and place is not null"
            " and not exists (select 1 from steps s where s.run = steps.run and s.undoes = 2)"
            " order by place desc limit 1",
            (self._run,),
        ).fetchone()
        if row is None:
            return
        step, body = row
        self._execute("update steps set undoes = 2 where run = ? and step = ?", (self._run, step))
        undo = step_from(json.loads(body)).undo
        if undo is not None:
            self._publish(undo, RESULT + 1 + step, self._undo_id(step))

    def _first_failure(self) -> str:
        row = self._execute(
            "select name, how, value, failure, caused from steps where run = ? and fails order by step limit 1",
            (self._run,),
        ).fetchone()
        if row is None:
            return ""
        end = _end_from(*row[1:])
        why = "" if end.failure is None else f": {end.failure.type}: {end.failure.reason}"
        return f"{row[0]!r} {rules.said(end)}{why}"

    def _bequeath(self, heir: Heir, status: Status, reason: str, result: str | None) -> None:
        if status is Status.SUCCESS:
            outcome = Outcome("done", (result or "null").encode())
        elif status is Status.CANCELLED:
            outcome = Outcome("rejected", failure=Failure("Cancelled", reason))
        else:
            outcome = Outcome("failed", failure=Failure("RunFailed", reason))
        self._outlets.answer(heir.source, heir.id, heir.headers, outcome)

    # ---- messages ----

    def _publish(self, plan: StepPlan, number: int, id: str) -> None:
        headers = {**plan.headers, FLOW: step_header(self.home, self._run, number)}
        optional = None
        if (plan.key, plan.lifetime, plan.expires, plan.priority) != (None, None, None, Priority.NORMAL):
            optional = OptionalFields(plan.key, plan.priority, plan.expires, plan.lifetime, None)
        text = self._text(plan.template)
        row = EnvelopeRow(
            plan.source,
            id,
            plan.type,
            text.encode(),
            json.dumps(headers),
            plan.group,
            plan.delay,
            plan.at,
            optional,
            self._keep_for,
        )
        self._outlets.publish([row])

    def _text(self, template: Template) -> str:
        """Fill a template in with what other steps returned."""
        whole = grown(template, self._added()) if set(groups_in(template)) else template
        needs = list(needs_of(whole))
        ends = self._ends({need.step for need in needs})
        return "".join(self._pieces(whole, ends))

    def _pieces(self, template: Template, ends: Mapping[int, tuple[str, End]]) -> Iterable[str]:
        for piece in template:
            match piece:
                case str():
                    yield piece
                case Need(step=step, wants="result"):
                    yield ends[step][1].as_result()
                case Need(step=step):
                    name, end = ends[step]
                    yield end.as_outcome(name)
                case Gather(parts=parts):
                    yield "[" + ",".join(self._pieces(parts, ends)) + "]"
                case Failures():
                    yield "[" + ",".join(end.as_failed(name) for name, end in self._failures()) + "]"

    def _added(self) -> Mapping[int, Sequence[int]]:
        """Return the steps that were added to groups, by their groups."""
        found: dict[int, list[int]] = {}
        for group, step in self._execute("select grp, step from grown where run = ? order by step", (self._run,)):
            found.setdefault(group, []).append(step)
        return found

    def _ends(self, steps: set[int]) -> Mapping[int, tuple[str, End]]:
        rows = self._execute(
            "select step, name, how, value, failure, caused from steps"
            " where run = ? and step in (select value from json_each(?))",
            (self._run, json.dumps(sorted(steps))),
        ).fetchall()
        return {step: (name, _end_from(*end)) for step, name, *end in rows}

    def _failures(self) -> Iterable[tuple[str, End]]:
        rows = self._execute(
            "select name, how, value, failure, caused from steps where run = ? and fails and kind <> 'result'"
            " order by step",
            (self._run,),
        ).fetchall()
        return [(name, _end_from(*end)) for name, *end in rows]

    # ---- rows ----

    def _plan(self, step: int) -> tuple[StepPlan, int]:
        body, attempt = self._row("body, attempt", step)
        return step_from(json.loads(body)), attempt

    def _row(self, columns: str, step: int) -> Any:
        return self._execute(f"select {columns} from steps where run = ? and step = ?", (self._run, step)).fetchone()

    def _numbers(self, where: str, *arguments: object) -> list[int]:
        rows = self._execute(
            f"select step from steps where run = ? and {where} order by step", (self._run, *arguments)
        ).fetchall()
        return [number for (number,) in rows]


def _step_values(run: str, number: int, plan: StepPlan, row: Mapping[str, Json]) -> tuple[object, ...]:
    return (run, number, plan.name, plan.kind, json.dumps(row), len(plan.needs), plan.undo is not None)


def _wait_values(run: str, step: int, dependent: Dependent) -> tuple[object, ...]:
    return (run, step, dependent.step, dependent.wants, dependent.is_gathering)


def _heir_row(heir: Heir) -> dict[str, Json]:
    return {"source": heir.source, "id": heir.id, "headers": dict(heir.headers)}


def _end_from(how: Kind, value: str, failure: str | None, caused: int) -> End:
    return End(how, value, None if failure is None else Failure(**json.loads(failure)), bool(caused))


def _step_info(run: str, row: Sequence[Any], added: Iterable[int]) -> StepInfo:
    number, name, kind, state, attempt, body, how, value, failure, caused = row
    plan = step_from(json.loads(body))
    end = None if how is None else _end_from(how, value, failure, caused)
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
