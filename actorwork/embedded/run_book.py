"""One run in the embedded broker's file, as the rules of `policy.runs.rules` see it.

RunBook        what the rules read and write: the run's row, and which of its steps may end, be sent, be undone
StepMessages   the messages of its steps: templates, filled in with what other steps returned
StepRows       reads the rows of its steps
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

import attrs

from actorwork.embedded.loose_rows import BODY, LooseRows, Page
from actorwork.embedded.retrial import Retrial
from actorwork.embedded.rows import EnvelopeRow, OptionalFields
from actorwork.embedded.transaction import Transaction
from actorwork.message import FLOW, RUN_SECRET, Failure, Json, Outcome, Priority
from actorwork.policy.runs import rules
from actorwork.policy.runs.values import (
    ON_ERROR,
    RESULT,
    Dependent,
    End,
    Expansion,
    Heir,
    Kind,
    Numbering,
    Status,
    StepPlan,
    Template,
    Wants,
    filled,
    groups_in,
    grown,
    message_id,
    needs_of,
    number_of_group,
    step_from,
    step_header,
    step_row,
    template_from,
)

if TYPE_CHECKING:
    import sqlite3

WAITS: Final = 0
SENT: Final = 1
ENDED: Final = 2
HELD: Final = 3


class RunOutlets(Protocol):
    """What a run does to messages."""

    def publish(self, rows: Iterable[EnvelopeRow], *, may_repeat: bool = True) -> int: ...

    def cancel_anywhere(self, source: str, id: str, reason: str) -> bool:
        """Cancel a message wherever it is; return whether it was open, and not cancelled before."""
        ...

    def answer(self, source: str, id: str, headers: Mapping[str, Json], outcome: Outcome) -> None:
        """Store an outcome if its sender asked for that, and send it to whom it concerns."""
        ...


class RunBook:
    """One run; implements `policy.runs.rules.Book`."""

    def __init__(self, transaction: Transaction, outlets: RunOutlets, run: str) -> None:
        self._transaction = transaction
        self._execute = transaction.execute
        self._outlets = outlets
        self._run = run
        status, self.reason, self._finished, self.home, self.total, holds, ttl, self.secret, rows = self._execute(
            "select status, reason, finished, home, total, holds, ttl, secret, coalesce(rows, run)"
            " from runs where run = ?",
            (run,),
        ).fetchone()
        self.status = Status(status)
        if transaction.room is None:
            transaction.room = rules.Room()
        self.room = transaction.room
        self.holds = bool(holds)
        self.rows: str = rows
        """What the rows of its steps have in their column `run`."""
        self._rows = StepRows(self._execute, rows)
        self._retrial = Retrial(transaction, run, rows)
        self._messages = StepMessages(self._rows, outlets, Sender(run, self.home, ttl, self.secret))

    def __repr__(self) -> str:
        return f"<RunBook {self._run} {self.status}>"

    def set_status(self, status: Status, reason: str = "") -> None:
        self._execute("update runs set status = ?, reason = ? where run = ?", (status, reason, self._run))
        self.status, self.reason = status, reason

    @property
    def is_closing(self) -> bool:
        return self.status.is_final and self._finished is None

    def leave_more(self) -> None:
        self._execute("update runs set more = 1 where run = ?", (self._run,))
        self._transaction.is_delayed_until(self._transaction.now)

    def take_more(self) -> bool:
        """Return whether `leave_more` was called, and forget it."""
        return self._execute("update runs set more = 0 where run = ? and more", (self._run,)).rowcount == 1

    def spread_later(self, step: int, after: int) -> None:
        self._execute("update steps set told = ? where run = ? and step = ?", (after, self.rows, step))

    def take_spreading(self, most: int) -> Sequence[tuple[int, int, End]]:
        rows = self._execute(
            "select step, told, how, value, failure, caused from steps indexed by steps_spreading"
            " where run = ? and told is not null order by step limit ?",
            (self.rows, most),
        ).fetchall()
        self._transaction.executemany(
            "update steps set told = null where run = ? and step = ?", [(self.rows, step) for step, *_ in rows]
        )
        return [(step, told, end_from(*end)) for step, told, *end in rows]

    def is_spreading(self) -> bool:
        row = self._execute(
            "select 1 from steps indexed by steps_spreading where run = ? and told is not null limit 1", (self.rows,)
        ).fetchone()
        return row is not None

    def name_of(self, step: int) -> str:
        return self._rows.row("name", step)[0]

    def has_ended(self, step: int) -> bool:
        return self._rows.row("state", step)[0] == ENDED

    def message_of(self, step: int) -> str | None:
        """Return the id of the message of a step that was sent and has not ended; a held one may be replayed."""
        state, attempt = self._rows.row("state, attempt", step) or (WAITS, 0)
        return message_id(self._run, step, attempt) if state in (SENT, HELD) else None

    def record(self, step: int, end: End, *, is_failure: bool) -> None:
        failure = None if end.failure is None else json.dumps(attrs.asdict(end.failure))
        if step < RESULT:
            self._execute("update runs set open = open - 1, ends = ends + 1 where run = ?", (self._run,))
        self._execute(
            "update steps set state = 2, due = null, how = ?, value = ?, failure = ?, caused = ?, fails = ?,"
            " place = (select ends from runs where runs.run = ?) where run = ? and step = ?",
            (end.kind, end.value, failure, end.is_caused, is_failure, self._run, self.rows, step),
        )

    def dependents(self, step: int, after: int = -1, most: int = -1) -> Mapping[int, Wants]:
        rows = self._execute(
            "select dependent, wants from waits where run = ? and step = ? and dependent > ?"
            " order by dependent limit ?",
            (self.rows, step, after, most),
        )
        return dict(rows.fetchall())

    def is_taken(self, step: int) -> bool:
        row = self._execute(
            "select 1 from waits where run = ? and step = ? and wants = 'outcome' limit 1", (self.rows, step)
        ).fetchone()
        return row is not None

    def meet(self, step: int) -> int:
        self._execute("update steps set needs = needs - 1 where run = ? and step = ?", (self.rows, step))
        return self._rows.row("needs", step)[0]

    def unended(self, most: int) -> Sequence[int]:
        # From where the transaction before has come to: those behind have ended, and are not looked at again.
        found = self._execute(
            "select step from steps where run = ? and state <> 2"
            " and step < (select coalesce(closed, ?) from runs where run = ?) order by step desc limit ?",
            (self.rows, RESULT, self._run, most),
        ).fetchall()
        if found:
            self._execute("update runs set closed = ? where run = ?", (*found[-1], self._run))
        return [step for (step,) in found]

    def left(self) -> int:
        return self._execute("select open from runs where run = ?", (self._run,)).fetchone()[0]

    def ready(self, most: int) -> Sequence[int]:
        rows = self._execute(
            "select step from steps indexed by steps_ready"
            " where run = ? and state = 0 and needs = 0 and step < ? order by step limit ?",
            (self.rows, RESULT, most),
        ).fetchall()
        return [step for (step,) in rows]

    def is_sent(self, step: int) -> bool:
        return self._rows.row("state", step)[0] != WAITS

    def grow(self, step: int, expansion: Expansion) -> None:
        rows, first, count = self.rows, self.total, len(expansion.steps)
        numbering = Numbering(lambda number: first + number, group=lambda group: number_of_group(first, group))
        groups = self._rows.plan(step)[0].groups
        page = Page(rows)
        for number, dependents in expansion.dependents().items():
            for dependent in dependents:
                page.add_wait(first + number, attrs.evolve(dependent, step=first + dependent.step))
        gathering = self._execute(
            "select dependent, wants from waits where run = ? and step = ? and gathers", (rows, step)
        ).fetchall()
        for member in expansion.members:
            for row in gathering:
                page.add_wait(first + member, Dependent(*row, is_gathering=True))
        for number, plan in enumerate(expansion.steps):
            body = step_row(plan, numbering)
            if number in expansion.members:
                body["groups"] = [*groups, *cast("list[Json]", body.get("groups", []))]
            page.add_step(first + number, plan, body)
        LooseRows(self._transaction).write(page)
        if self.status is not Status.RETRY:
            self._transaction.executemany(
                "update steps set needs = needs + ? where run = ? and step = ? and state <> 2",
                [(len(expansion.members), rows, dependent) for dependent, _ in gathering],
            )
        else:
            self._retrial.count_again()
        self._transaction.executemany(
            "insert into grown (run, grp, step) values (?, ?, ?)",
            [(rows, group, first + member) for group in groups for member in expansion.members],
        )
        self._execute("update runs set total = total + ?, open = open + ? where run = ?", (count, count, self._run))
        self.total += count

    def held_end(self, step: int) -> End | None:
        state, *end = self._rows.row("state, how, value, failure, caused", step)
        return end_from(*end) if state == HELD else None

    def first_held(self) -> tuple[int, End] | None:
        row = self._execute(
            "select step, how, value, failure, caused from steps indexed by steps_held"
            " where run = ? and state = 3 order by step limit 1",
            (self.rows,),
        ).fetchone()
        return None if row is None else (row[0], end_from(*row[1:]))

    def send(self, step: int) -> None:
        plan, attempt = self._rows.plan(step)
        due: float | None = None
        if plan.kind != "message" and plan.seconds is not None:
            due = self._transaction.now + plan.seconds
            self._transaction.is_delayed_until(due)
        self._execute("update steps set state = 1, due = ? where run = ? and step = ?", (due, self.rows, step))
        if plan.kind == "message":
            self._messages.publish(plan, step, message_id(self._run, step, attempt))
        elif plan.kind == "signal":
            row = self._execute("select value from signals where run = ? and name = ?", (self.rows, plan.name))
            given = row.fetchone()
            if given is not None:
                rules.end_step(self, step, End("done", given[0]))

    def withdraw(self, step: int, reason: str) -> None:
        message = self.message_of(step)
        if message is None:
            return
        (child,) = self._rows.row("child", step)
        if child is not None and self._is_kept(child):
            book = RunBook(self._transaction, self._outlets, child)
            if rules.cancel(book, f"its run {self._run!r} has ended"):
                return
        plan, _ = self._rows.plan(step)
        if plan.kind == "message":
            self._outlets.cancel_anywhere(plan.source, message, reason)

    def _is_kept(self, run: str) -> bool:
        return self._execute("select 1 from runs where run = ?", (run,)).fetchone() is not None

    def hold(self, step: int, end: End) -> None:
        failure = None if end.failure is None else json.dumps(attrs.asdict(end.failure))
        self._execute(
            "update steps set state = 3, due = null, how = ?, value = ?, failure = ?, caused = 0, fails = 0"
            " where run = ? and step = ?",
            (end.kind, end.value, failure, self.rows, step),
        )

    def unsuccessful(self) -> dict[int, End]:
        rows = self._execute(
            "select step, how, value, failure, caused from steps"
            " where run = ? and (state = 3 or (state = 2 and how <> 'done')) order by step",
            (self.rows,),
        )
        return {step: end_from(*end) for step, *end in rows.fetchall()}

    def begin_putting_back(self, steps: Collection[int] | None) -> None:
        self._retrial.begin(steps)
        self._finished = None

    def put_back(self, most: int) -> bool:
        return self._retrial.go_on(self.total, most)

    def version(self) -> str:
        """Return what changes when more steps have ended without success, and for good; "" if this cannot be retried.

        None of them succeeds later: so if this is the same, they are.
        """
        return self._retrial.version() if rules.may_retry(self) else ""

    def has_failed(self) -> bool:
        row = self._execute(
            "select 1 from steps indexed by steps_failing where run = ? and fails limit 1", (self.rows,)
        ).fetchone()
        return row is not None

    def finish(self, status: Status, reason: str = "") -> None:
        now = self._transaction.now
        rest = self._rest()
        result: str | None = None
        if status is Status.SUCCESS:
            result = self._messages.text(template_from(rest["result"]))
        elif not reason:
            reason = self._first_failure()
        self.status, self.reason, self._finished = status, reason, now
        self._execute(
            "update runs set status = ?, reason = ?, finished = ?, expires = ? + ttl, result = ? where run = ?",
            (status, reason, now, now, result, self._run),
        )
        self._execute("delete from signals where run = ?", (self.rows,))
        if rest["heir"] is not None:
            self._bequeath(Heir(**rest["heir"]), status, reason, result)
        if status is Status.FAILURE and rest["on_error"] is not None:
            # Another id after a retry: the same one would be taken for the message that was sent before.
            (retries,) = self._execute("select retries from runs where run = ?", (self._run,)).fetchone()
            suffix = f".{retries}" if retries else ""
            self._messages.publish(step_from(rest["on_error"]), ON_ERROR, f"{self._run}/error{suffix}")
        if status is not Status.SUCCESS:
            self._undo_next()
            self._keep()

    # ---- the end of a run ----

    def _rest(self) -> Mapping[str, Any]:
        """Return what is needed at the end."""
        (rest,) = self._execute(
            "select case when rest <> '' then rest else"
            " (select body from bodies b where b.run = ? and b.step = ?) end from runs where run = ?",
            (self.rows, RESULT, self._run),
        ).fetchone()
        return json.loads(rest)

    def undone(self, number: int, message: str) -> None:
        """Send the next message that undoes something, after the last one has ended, however it did.

        Only if the run has not been retried meanwhile: what is done then stays.
        """
        step = number - RESULT - 1
        if message != self._undo_id(step):
            return
        done = self._execute(
            "update steps set undoes = 1, place = null where run = ? and step = ? and undoes = 2", (self.rows, step)
        )
        if done.rowcount and self.status in (Status.FAILURE, Status.CANCELLED):
            self._undo_next()
            self._keep()

    def _keep(self) -> None:
        """Let the run expire after its time, which begins when the last step is undone."""
        self._execute(
            "update runs set expires = case when exists (select 1 from steps indexed by steps_undoing where run = ?"
            " and undoes = 2) then null else ? + ttl end where run = ?",
            (self.rows, self._transaction.now, self._run),
        )

    def _undo_id(self, step: int) -> str:
        return f"{self._run}/undo/{step}"

    def _undo_next(self) -> None:
        row = self._execute(
            f"select step, {BODY} from steps indexed by steps_undoable"
            " where run = ? and undoes = 1 and how = 'done' and place is not null"
            " and not exists (select 1 from steps s indexed by steps_undoing where s.run = ? and s.undoes = 2)"
            " order by place desc limit 1",
            (self.rows, self.rows),
        ).fetchone()
        if row is None:
            return
        step, body = row
        self._execute("update steps set undoes = 2 where run = ? and step = ?", (self.rows, step))
        undo = step_from(json.loads(body)).undo
        if undo is not None:
            self._messages.publish(undo, RESULT + 1 + step, self._undo_id(step))

    def _first_failure(self) -> str:
        row = self._execute(
            "select name, how, value, failure, caused from steps indexed by steps_failing"
            " where run = ? and fails order by step limit 1",
            (self.rows,),
        ).fetchone()
        if row is None:
            return ""
        end = end_from(*row[1:])
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


class Sender(NamedTuple):
    """What the messages of a run's steps say of it."""

    run: str
    home: str
    keep_for: float
    secret: str | None


class StepMessages:
    """Writes the messages of the steps of one run."""

    def __init__(self, rows: StepRows, outlets: RunOutlets, sender: Sender) -> None:
        self._rows = rows
        self._outlets = outlets
        self._sender = sender

    def __repr__(self) -> str:
        return f"<StepMessages of {self._sender.run}>"

    def publish(self, plan: StepPlan, number: int, id: str) -> None:
        sender = self._sender
        headers = {**plan.headers, FLOW: step_header(sender.home, sender.run, number)}
        if sender.secret is not None:  # As in runs that an earlier version has started.
            headers[RUN_SECRET] = sender.secret
        optional = None
        if (plan.key, plan.lifetime, plan.expires, plan.priority) != (None, None, None, Priority.NORMAL):
            optional = OptionalFields(plan.key, plan.priority, plan.expires, plan.lifetime, None)
        text = self.text(plan.template)
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
            sender.keep_for,
        )
        # A run sends each step once. A run that was forgotten may have had its id, and so the ids of its messages.
        self._outlets.publish([row], may_repeat=False)

    def text(self, template: Template) -> str:
        """Fill a template in with what other steps returned."""
        whole = grown(template, self._rows.added()) if set(groups_in(template)) else template
        needs = list(needs_of(whole))
        ends = self._rows.ends({need.step for need in needs})
        return "".join(filled(whole, ends, self._rows.failures))


class StepRows:
    """The rows of the steps of one run, by what they have in their column `run`."""

    def __init__(self, execute: Callable[..., sqlite3.Cursor], rows: str) -> None:
        self._execute = execute
        self._name = rows

    def __repr__(self) -> str:
        return f"<StepRows {self._name}>"

    def row(self, columns: str, step: int) -> Any:
        return self._execute(f"select {columns} from steps where run = ? and step = ?", (self._name, step)).fetchone()

    def numbers(self, where: str, *arguments: object) -> list[int]:
        rows = self._execute(
            f"select step from steps where run = ? and {where} order by step", (self._name, *arguments)
        ).fetchall()
        return [number for (number,) in rows]

    def plan(self, step: int) -> tuple[StepPlan, int]:
        body, attempt = self.row(f"{BODY}, attempt", step)
        return step_from(json.loads(body)), attempt

    def added(self) -> Mapping[int, Sequence[int]]:
        """Return the steps that were added to groups, by their groups."""
        found: dict[int, list[int]] = {}
        for group, step in self._execute("select grp, step from grown where run = ? order by step", (self._name,)):
            found.setdefault(group, []).append(step)
        return found

    def ends(self, steps: set[int]) -> Mapping[int, tuple[str, End]]:
        rows = self._execute(
            "select step, name, how, value, failure, caused from steps"
            " where run = ? and step in (select value from json_each(?))",
            (self._name, json.dumps(sorted(steps))),
        ).fetchall()
        return {step: (name, end_from(*end)) for step, name, *end in rows}

    def failures(self, most: int = -1) -> Sequence[tuple[str, End]]:
        """Return the steps by which the run fails, and their ends: all, or the first `most`."""
        rows = self._execute(
            "select name, how, value, failure, caused from steps indexed by steps_failing"
            " where run = ? and fails and kind <> 'result' order by step limit ?",
            (self._name, most),
        ).fetchall()
        return [(name, end_from(*end)) for name, *end in rows]


def end_from(how: Kind, value: str, failure: str | None, caused: int) -> End:
    return End(how, value, None if failure is None else Failure(**json.loads(failure)), bool(caused))
