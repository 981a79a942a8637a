"""`actorwork runs`: look at the runs of workflows, cancel and retry them, give them signals.

ls, show, graph                   what is read; none of them makes a store
cancel, retry, pause, resume,     what is changed: a run that is in no state for it ends the command,
signal, forget                    with a sentence that says in which it is
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from actorwork.cli.brokers import Step, broker_option, pasted, speak, timeout_option
from actorwork.cli.output import as_json, one_line, print_json, print_table, printable
from actorwork.inspection.flows import error, in_json, progress, step_in_json, step_status, waits_for
from actorwork.inspection.words import moment

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.clients.runs import Run
    from actorwork.policy.runs.values import RunInfo, StepInfo

T = TypeVar("T")

STATUSES: Final = ("STARTED", "PAUSED", "HELD", "RETRY", "SUCCESS", "FAILURE", "CANCELLED")
"""Those of a run; `Status` has more, for messages."""


@click.group(short_help="Look at runs of workflows, cancel them, retry them.")
def runs() -> None:
    """Look at runs of workflows: how far they are and how each step ended; cancel, pause, retry and signal them.

    ID is the id of a run, as `runs ls` shows it: the one that its program chose, or that was drawn for it. A run that
    does not exist, or is kept no longer (`results_ttl` after its end), ends a command with exit code 1.
    """


@runs.command("ls", short_help="List runs.")
@click.option(
    "--status",
    "statuses",
    type=click.Choice(STATUSES, case_sensitive=False),
    multiple=True,
    help="Those of a status; may be given several times.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", default=100, show_default=True, help="Show at most this many."
)
@broker_option
@timeout_option
@as_json
def list_them(*, statuses: tuple[str, ...], limit: int, broker: str | None, timeout: float, json_output: bool) -> None:
    """List runs, latest first."""

    async def talk(opened: Broker, step: Step) -> Sequence[RunInfo]:
        with step():
            return await opened.runs.list(statuses=statuses, limit=limit)

    found = speak(broker, timeout, talk)
    if json_output:
        print_json([in_json(info) for info in found])
    elif not found:
        click.echo("no such runs" if statuses else "no runs")
    else:
        print_table(
            ("ID", "TITLE", "STATUS", "ENDED", "STARTED", "FINISHED", "REASON"),
            [
                (
                    info.id,
                    info.title,
                    str(info.status),
                    progress(info),
                    moment(info.started),
                    "" if info.finished is None else moment(info.finished),
                    info.reason,
                )
                for info in found
            ],
        )
        if len(found) == limit:
            click.echo(f"(the latest {limit:,}; --limit shows more)", err=True)


@runs.command(short_help="Show one run and its steps.")
@click.argument("run_id", metavar="ID")
@broker_option
@timeout_option
@as_json
def show(run_id: str, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show a run: its status, how far it is, what it waits for, its result, and how each step ended."""

    async def talk(
        opened: Broker, run: Run[Any], info: RunInfo, step: Step
    ) -> tuple[RunInfo, Sequence[StepInfo], Sequence[str]]:
        with step():
            steps = await run.steps()
        with step():
            return info, steps, await waits_for(opened, info, steps)

    info, steps, awaited = _with_run(broker, timeout, run_id, talk)
    if json_output:
        print_json(in_json(info) | {"steps": [step_in_json(one) for one in steps]})
        return
    facts = [
        ("run", info.id),
        ("title", info.title),
        ("status", str(info.status)),
        ("reason", info.reason),
        ("ended", f"{progress(info)} steps"),
        ("waits for", ", ".join(awaited)),
        ("started", moment(info.started)),
        ("finished", "" if info.finished is None else moment(info.finished)),
        ("result", info.result or ""),
        ("late ends", str(info.late_ends or "")),
    ]
    for name, value in facts:
        if value:
            click.echo(f"{name}: {one_line(value, 2000)}")
    if steps:
        click.echo()
        print_table(
            ("STEP", "NAME", "STATUS", "ACTOR", "MESSAGE", "ERROR"),
            [
                (
                    str(one.number),
                    one.name,
                    step_status(one),
                    one.actor or f"({one.kind})",
                    one.message,
                    error(one.end),
                )
                for one in steps
            ],
        )


@runs.command(short_help="Print the graph of a run: Mermaid, or SVG.")
@click.argument("run_id", metavar="ID")
@click.option("--mermaid", "language", flag_value="mermaid", default=True, help="In the language of Mermaid (default).")
@click.option("--svg", "language", flag_value="svg", help="As a picture, for a browser; large groups are folded.")
@broker_option
@timeout_option
def graph(run_id: str, *, language: str, broker: str | None, timeout: float) -> None:
    """Print the graph of a run as it is now.

    In the language of Mermaid it is for a Markdown file, or mermaid.live; as SVG it is a picture in itself:

        actorwork runs graph ID --svg > run.svg
    """

    async def talk(_: Broker, run: Run[Any], __: RunInfo, step: Step) -> str:
        with step():
            return await (run.to_svg() if language == "svg" else run.to_mermaid())

    drawn = _with_run(broker, timeout, run_id, talk)
    if language == "svg":
        click.echo(drawn.encode(), nl=False)  # In UTF-8, whatever the terminal speaks: that is what SVG is read as.
    else:
        click.echo(printable(drawn), nl=False)


@runs.command(short_help="End a run.")
@click.argument("run_id", metavar="ID")
@click.option("--reason", default="", help="The reason, which `runs show` prints and the caller of the run gets.")
@broker_option
@timeout_option
def cancel(run_id: str, *, reason: str, broker: str | None, timeout: float) -> None:
    """End a run: steps that have not begun never run, and what is done is undone, where a step says how.

    A handler in flight is cancelled within a second; should it return all the same, that counts no more.
    """
    _change(
        broker,
        timeout,
        run_id,
        "cancel run",
        lambda run: run.cancel(reason),
        "cancelled",
        "over already",
        reason=reason,
    )


@runs.command(short_help="Run again what has failed.")
@click.argument("run_id", metavar="ID")
@click.option(
    "--step", "steps", metavar="NAME", multiple=True, help="Only this step: its name, number or message; repeatable."
)
@broker_option
@timeout_option
def retry(run_id: str, *, steps: Sequence[str], broker: str | None, timeout: float) -> None:
    """Run again the steps of a failed or held run that have not succeeded; what is done keeps its results.

    With --step, only that one, and what was cancelled because of it.
    """

    async def act(run: Run[Any]) -> bool:
        if not steps:
            return await run.retry()
        names = {one.name for one in await run.steps()}
        try:
            return await run.retry(steps=[int(one) if one.isdecimal() and one not in names else one for one in steps])
        except (LookupError, ValueError) as error:
            raise click.ClickException(printable(str(error.args[0]))) from None

    _change(
        broker,
        timeout,
        run_id,
        "retry run",
        act,
        f"retrying {', '.join(map(repr, steps))} of" if steps else "retrying what had not succeeded of",
        "neither held nor failed",
    )


@runs.command(short_help="Send no further steps of a run.")
@click.argument("run_id", metavar="ID")
@broker_option
@timeout_option
def pause(run_id: str, *, broker: str | None, timeout: float) -> None:
    """Send no further steps of a run until `runs resume`; what was sent before is handled."""
    _change(broker, timeout, run_id, "pause run", lambda run: run.pause(), "paused", "not under way")


@runs.command(short_help="Continue a paused run.")
@click.argument("run_id", metavar="ID")
@broker_option
@timeout_option
def resume(run_id: str, *, broker: str | None, timeout: float) -> None:
    """Continue a run that was paused."""
    _change(broker, timeout, run_id, "resume run", lambda run: run.resume(), "resumed", "not paused")


@runs.command(short_help="Delete a run that is over.")
@click.argument("run_id", metavar="ID")
@broker_option
@timeout_option
def forget(run_id: str, *, broker: str | None, timeout: float) -> None:
    """Delete a run that is over, with its results, before its `results_ttl` ends."""
    _change(
        broker, timeout, run_id, "forget run", lambda run: run.forget(), "forgot", "not over; `runs cancel` ends it"
    )


@runs.command(short_help="Give a run the value of a signal.")
@click.argument("run_id", metavar="ID")
@click.argument("name")
@click.argument("value", metavar="[JSON]", default="null")
@broker_option
@timeout_option
def signal(run_id: str, name: str, value: str, *, broker: str | None, timeout: float) -> None:
    """Give a run the value of its signal NAME: JSON, or null without one. It may come before the run waits for it."""
    from actorwork import codec
    from actorwork.clients.auditing import audited
    from actorwork.errors import CodecError

    try:
        decoded = codec.loads(value.encode(errors="surrogateescape"))
    except CodecError as error:
        raise click.ClickException(
            f"the value of a signal is JSON, such as true or '\"yes\"': {printable(str(error))}"
        ) from None

    async def talk(opened: Broker, run: Run[Any], info: RunInfo, step: Step) -> None:
        async with audited(opened.audit, "signal run", f"run {run_id}: {name}", step=step):
            with step():
                try:
                    if await run.signal(name, decoded):
                        return
                except CodecError as error:
                    raise click.ClickException(printable(str(error))) from None
                names = [one.name for one in await run.steps() if one.kind == "signal"]
            raise click.ClickException(printable(_no_signal(info, name, names)))

    _with_run(broker, timeout, run_id, talk)
    click.echo(printable(f"gave run {run_id!r} the signal {name!r}"))


def _no_signal(info: RunInfo, name: str, names: Sequence[str]) -> str:
    from actorwork.state.known_actors import near

    if name not in names:
        others = near(name, names) if names else "it has none"
        return f"run {info.id!r} has no signal {name!r}; {others}"
    if info.status.is_final:
        return f"run {info.id!r} is over ({info.status})"
    return f"run {info.id!r} has the value of {name!r} already, or waits for it no longer; see: {_shown(info.id)}"


def _change(
    broker: str | None,
    timeout: float,
    run_id: str,
    action: str,
    act: Callable[[Run[Any]], Awaitable[bool]],
    verb: str,
    unless: str,
    *,
    reason: str = "",
) -> None:
    """Change a run, recorded as an action, and say so; end the command if it is in no state for that."""
    from actorwork.clients.auditing import audited

    async def talk(opened: Broker, run: Run[Any], _: RunInfo, step: Step) -> None:
        async with audited(opened.audit, action, f"run {run_id}", reason=reason, step=step):
            with step():
                if await act(run):
                    return
                now = (await run.info()).status
            raise click.ClickException(printable(f"run {run_id!r} is {unless} ({now})"))

    _with_run(broker, timeout, run_id, talk)
    click.echo(printable(f"{verb} run {run_id!r}"))


def _with_run(
    broker: str | None, timeout: float, run_id: str, talk: Callable[[Broker, Run[Any], RunInfo, Step], Awaitable[T]]
) -> T:
    """Run `talk` with a run, as it is now; one that does not exist ends the command."""
    from actorwork.clients.opening import open_client
    from actorwork.policy.runs.values import Status

    of_message, slash, _ = run_id.partition("/")
    if slash:
        raise click.ClickException(
            printable(f"{run_id!r} looks like the id of a step's message; the run of that would be {of_message!r}")
        )

    async def talking(opened: Broker, step: Step) -> T:
        async with open_client(opened) as client:
            run = client.run(run_id)
            with step():
                info = await run.info()
            if info.status is not Status.UNKNOWN:
                return await talk(opened, run, info, step)
            with step():
                others = [one.id for one in await opened.runs.list()]
        raise click.ClickException(printable(_no_run(run_id, others)))

    return speak(broker, timeout, talking)


def _no_run(run_id: str, others: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(run_id, others, n=3, cutoff=0.6)
    meant = f"did you mean {' or '.join(map(repr, near))}?" if near else f"see: {pasted('runs', 'ls')}"
    return f"there is no run {run_id!r}: it was never started, or is kept no longer; {meant}"


def _shown(run_id: str) -> str:
    return pasted("runs", "show", run_id)
