"""`actorwork pause`, `resume` and `paused`: what no node may begin for now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from actorwork.cli.brokers import (
    Step,
    broker_option,
    force_option,
    pasted,
    refuse_unknown_actor,
    speak,
    timeout_option,
    unknown_source_of,
)
from actorwork.cli.output import as_json, one_line, print_json, print_table
from actorwork.cli.selecting import valid_source
from actorwork.inspection.words import moment

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.records import Pause, PauseKind


def _of_what(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that select what it pauses."""
    for option in (
        click.option(
            "--node",
            metavar="NAME",
            help="All actors on a host, or in one program (host:pid).",
            allow_from_autoenv=False,
        ),
        click.option("--process", metavar="TITLE", help="All actors in a Process of a tree.", allow_from_autoenv=False),
        click.option("--all", "everything", is_flag=True, help="Every actor, every source.", allow_from_autoenv=False),
        click.option("--source", metavar="NAME", help="A source, for every actor.", allow_from_autoenv=False),
        click.option("--actor", metavar="TITLE", help="All sources of an actor.", allow_from_autoenv=False),
    ):
        function = option(function)
    return function


def _what(
    actor: str | None, source: str | None, *, node: str | None, process: str | None, everything: bool
) -> tuple[PauseKind, str]:
    if sum((*(one is not None for one in (actor, source, node, process)), everything)) != 1:
        raise click.UsageError("choose one of --actor TITLE, --source NAME, --node NAME, --process TITLE and --all")
    if everything:
        return "everything", ""
    if actor == "":
        raise click.UsageError("--actor wants the title of an actor")
    if source is not None:
        return "source", valid_source(source)
    if node is not None or process is not None:
        kind, name = ("process", process) if node is None else ("node", node)
        if not name:
            raise click.UsageError(f"--{kind} wants a name")
        return kind, name
    return "actor", actor or ""


@click.command(short_help="Stop nodes from beginning messages: of an actor, a source, or all.")
@_of_what
@click.option("--reason", default="", help="The reason, which `paused` and the logs show.")
@force_option("Pause also an actor that has not run, or a source that no actor has read, so far.")
@broker_option
@timeout_option
def pause(
    actor: str | None,
    source: str | None,
    *,
    node: str | None,
    process: str | None,
    everything: bool,
    reason: str,
    force: bool,
    broker: str | None,
    timeout: float,
) -> None:
    """Pause an actor, a source, a node, a process, or everything.

    A node is named by its host, or as host:pid for one program; a process by its title, for all of its replicas, or
    with the number of one. The host and the title stay as they are when a program is started again, and so does the
    pause.

    All nodes obey within a second. Waiting messages keep their place, messages in flight finish, and triggers still
    fire (`triggers pause` stops them). A name that no actor has had at this broker is refused: it may be misspelt.
    """
    kind, name = _what(actor, source, node=node, process=process, everything=everything)
    found = pause_at(broker, timeout, kind, name, reason, force=force)
    before = f"{found} was paused before ({one_line(found.reason)})"
    click.echo(f"paused {found}" if found.reason == reason else before)
    if kind in ("node", "process") and not _is_running(broker, timeout, found):
        click.echo("note: no node that reports itself now is meant by this name", err=True)


@click.command(short_help="End a pause.")
@_of_what
@broker_option
@timeout_option
def resume(
    actor: str | None,
    source: str | None,
    *,
    node: str | None,
    process: str | None,
    everything: bool,
    broker: str | None,
    timeout: float,
) -> None:
    """End a pause, named as in `pause`. Other pauses stay."""
    resume_at(broker, timeout, *_what(actor, source, node=node, process=process, everything=everything))


@click.command(short_help="List what is paused.")
@broker_option
@timeout_option
@as_json
def paused(*, broker: str | None, timeout: float, json_output: bool) -> None:
    """List what is paused, oldest first."""

    async def talk(opened: Broker, step: Step) -> Sequence[Pause]:
        with step():
            return await opened.pauses.list()

    found = speak(broker, timeout, talk)
    if json_output:
        print_json(
            [
                {"kind": one.kind, "name": one.name, "reason": one.reason, "by": one.by, "at": moment(one.at)}
                for one in found
            ]
        )
    elif not found:
        click.echo("nothing is paused")
    else:
        rows = [(one.kind, one.name, moment(one.at), one.by, one.reason) for one in found]
        print_table(("WHAT", "NAME", "SINCE", "BY", "REASON"), rows)


def _is_running(broker: str | None, timeout: float, pause: Pause) -> bool:
    """Whether a node reports itself that the pause of a node or a process is about."""
    from actorwork.inspection.gathering import gather
    from actorwork.policy.pauses import is_there

    async def talk(opened: Broker, step: Step) -> bool:
        with step():
            nodes = (await gather(opened)).nodes
        reports = [node.report for node in nodes if node.report is not None]
        return any(is_there(pause, node=report.name, process=report.process) for report in reports)

    return speak(broker, timeout, talk)


def pause_at(
    broker: str | None, timeout: float, kind: PauseKind, name: str, reason: str, *, force: bool = True
) -> Pause:
    """Pause something at a broker, in the name of the user who runs the command.

    Without `force`, an actor or a source that no node has had ends the command.
    """
    from actorwork.clients.auditing import audited
    from actorwork.clients.identity import whoami
    from actorwork.records import Pause

    async def talk(opened: Broker, step: Step) -> Pause:
        if kind == "actor" and not force:
            await refuse_unknown_actor(opened, step, name)
        if kind == "source" and not force:
            problem = await unknown_source_of(opened, step, name)
            if problem is not None:
                raise click.ClickException(f"{problem} (--force if one is to read it later)")
        async with audited(opened.audit, "pause", str(Pause(kind, name)), reason=reason, step=step):
            with step():
                return await opened.pauses.pause(kind, name, reason=reason, by=whoami())

    return speak(broker, timeout, talk, creates=force or kind in ("everything", "node", "process"))


def resume_at(broker: str | None, timeout: float, kind: PauseKind, name: str) -> None:
    """Resume something at a broker; it is an error if it was not paused."""
    from actorwork.clients.auditing import audited
    from actorwork.records import Pause

    what = Pause(kind, name)

    async def talk(opened: Broker, step: Step) -> None:
        async with audited(opened.audit, "resume", str(what), step=step):
            with step():
                was_paused = await opened.pauses.resume(kind, name)
            if not was_paused:
                raise click.ClickException(f"{what} was not paused; what is: {pasted('paused')}")

    speak(broker, timeout, talk)
    click.echo(f"resumed {what}")
