"""`actorwork inspect`: what runs where, what is late, and why nothing is happening.

inspect                            everything in one look
inspect tree, node, actor,         one part of it, or one thing
source, message, locks, stacks
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from actorwork.cli.brokers import Step, broker_option, speak, timeout_option
from actorwork.cli.output import as_json, many, one_line, print_json, print_table, printable
from actorwork.cli.selecting import named_source, valid_source

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.inspection import ActorInfo, Holder, Inspection, NodeInfo, Overview, SourceInfo
    from actorwork.inspection.locks import LockInfo
    from actorwork.policy.reports import EntityReport, PartReport, StallReport
    from actorwork.policy.series import Series

T = TypeVar("T")

NODES = ("NODE", "ID", "STATE", "PROCESS", "UP", "MEMORY", "CPU", "LAG", "LEASE", "RUNNING")
ACTORS = ("ACTOR", "NODES", "RUNNING", "WAITING", "RESTARTS", "WHY")
LOCKS = ("LOCK", "HELD BY", "SINCE", "WAITING", "THE LONGEST SINCE")
SOURCES = ("SOURCE", "BACKLOG", "OLDEST", "DELAYED", "DEAD", "READERS", "WHY")


def looked(broker: str | None, timeout: float, question: Callable[[Inspection], Awaitable[T]]) -> T:
    """Ask a question about what runs at a broker; what does not exist ends the command with one sentence."""
    from actorwork.inspection import Inspection

    async def talk(opened: Broker, step: Step) -> T:
        with step():
            try:
                return await question(Inspection(opened))
            except LookupError as error:
                raise click.ClickException(printable(str(error.args[0]))) from error

    return speak(_named_before(broker), timeout, talk)


def _named_before(broker: str | None) -> str | None:
    """Return the broker that is named before the name of the command, if it is not named again after it."""
    context = click.get_current_context()
    here, parent = context.get_parameter_source("broker"), context.parent
    if parent is None or here is click.core.ParameterSource.COMMANDLINE:
        return broker
    is_named = parent.get_parameter_source("broker") is click.core.ParameterSource.COMMANDLINE
    return parent.params["broker"] if is_named else broker


def patience(timeout: float) -> float:
    """Return for how many seconds a node is waited for, so that the step ends in time."""
    from actorwork.inspection.inspecting import ANSWER_WITHIN

    return min(ANSWER_WITHIN, timeout * 0.7)


@click.group(short_help="Show what runs where, and why nothing happens.", invoke_without_command=True)
@broker_option
@timeout_option
@as_json
@click.pass_context
def inspect(context: click.Context, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show what runs where, what is late, and what needs a person.

    Without a command: everything in one look. NODE is the id of a node or the beginning of it, its name (host:pid), its
    host, or its pid.

    What is shown is what the nodes report of themselves, at most two seconds old while it is asked. WHY says in one
    line why nothing is happening, or what is.
    """
    if context.invoked_subcommand is not None:
        # What is given before the name of the command holds for it, too.
        given = {"timeout": timeout, "json_output": json_output}
        source = click.core.ParameterSource.COMMANDLINE
        named = {name: value for name, value in given.items() if context.get_parameter_source(name) is source}
        context.default_map = {context.invoked_subcommand: named}
        return
    print_overview(broker, timeout, json_output=json_output)


def print_overview(broker: str | None, timeout: float, *, json_output: bool, rows: int | None = None) -> None:
    """Look at a broker and print what runs there, with at most `rows` rows of each table; None for all."""
    from actorwork.inspection import as_json as in_json

    overview = looked(broker, timeout, lambda look: look.overview())
    if json_output:
        print_json(in_json(overview))
        return
    click.echo(head_of(overview))
    if overview.minutes is not None and overview.minutes.whole.handled:
        click.echo(hours_of(overview.minutes))
    for title, headings, found in tables_of(overview):
        click.echo(f"\n{title}")
        print_table(headings, found[:rows])


@inspect.command(short_help="Show the tree of a program, with its processes.")
@click.argument("node", metavar="[NODE]", required=False)
@broker_option
@timeout_option
@as_json
def tree(node: str | None, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """Draw the trees of all programs, or that of one node: states, restarts, mailboxes, and what is running."""
    from actorwork.inspection import as_json as in_json

    trees = looked(broker, timeout, lambda look: look.tree(node))
    if json_output:
        print_json(in_json(trees))
    elif not trees:
        click.echo("no node reports itself")
    for one in () if json_output else trees:
        click.echo(one_line(f"{one.name}  {one.node}"))
        click.echo("\n".join(drawn(one.root, one.as_of)))


@inspect.command(short_help="Show one node.")
@click.argument("node", metavar="NODE")
@broker_option
@timeout_option
@as_json
def node(node: str, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show one node: its lease, its loop and how often that was blocked, what it costs, its pauses, the locks of its
    actors, and its tree.
    """
    from actorwork.inspection import as_json as in_json

    found = looked(broker, timeout, lambda look: look.node(node))
    if json_output:
        print_json(in_json(found))
        return
    print_table(NODES, [_node_row(found)])
    report = found.report
    if found.problem:
        click.echo(one_line(found.problem, 1000))
    if report is None:
        return
    if report.blocked:
        click.echo(printable(report.blocked))
    click.echo(
        f"actorwork {one_line(report.version)}, {many(report.threads, 'thread')}, {report.cpu_seconds:.1f} s of a core"
        f" so far; reported {found.age:.1f} s ago"
    )
    if report.stalls is not None:
        click.echo(stalls_of(report.stalls))
        click.echo("\n".join(f"    {printable(line)}" for line in report.stalls.stack.splitlines()))
    for pause in report.pauses:
        click.echo(one_line(f"paused: {pause}"))
    for use in report.locks:
        what, of = "holds" if use.is_held else "waits for", f" of {use.message}" if use.message else ""
        click.echo(one_line(f"{use.actor}{of} {what} the lock {use.name!r} for {length(report.at - use.since)}", 400))
    click.echo("\n".join(drawn(report.tree, report.at)))


@inspect.command(short_help="Show one actor, on all nodes.")
@click.argument("title", metavar="TITLE")
@broker_option
@timeout_option
@as_json
def actor(title: str, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show an actor on all nodes: what it is handling and since when, what waits, and why nothing happens.

    Of an entity, also how many instances are in memory, what was committed, and which keys are hot.
    """
    from actorwork.inspection import as_json as in_json
    from actorwork.inspection.words import source_in_words

    found = looked(broker, timeout, lambda look: look.actor(title))
    if json_output:
        print_json(in_json(found))
        return
    print_table(ACTORS, [_actor_row(found)])
    read = ", ".join(source_in_words(source, [title]) for source in found.sources) or "no source"
    click.echo(one_line(f"reads {read}; {many(found.backlog, 'message')} there"))
    if found.entities is not None:
        for line in _entity_lines(found.entities):
            click.echo(one_line(line, 1000))
    _print_held(found.in_hand)


@inspect.command(short_help="Show one source.")
@click.argument("name", metavar="NAME", callback=named_source)
@broker_option
@timeout_option
@as_json
def source(name: str, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show what is in a source, which actors read it, and why nothing happens.

    `actor:TITLE` is the actor's own source.
    """
    from actorwork.inspection import as_json as in_json

    valid_source(name)
    found = looked(broker, timeout, lambda look: look.source(name))
    if json_output:
        print_json(in_json(found))
        return
    print_table(SOURCES, [_source_row(found)])
    click.echo(one_line(f"read by {', '.join(found.actors) or 'no actor'}"))
    if found.minutes is not None and found.minutes.whole.handled:
        click.echo(hours_of(found.minutes))


@inspect.command(short_help="Show the locks that are held or waited for.")
@broker_option
@timeout_option
@as_json
def locks(*, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show the locks that are held or waited for: who holds each and since when, and how many actors wait for it.

    Also those of programs that are no nodes, with the user, host and process that hold them.
    """
    from actorwork.inspection import as_json as in_json

    found = looked(broker, timeout, lambda look: look.locks())
    if json_output:
        print_json(in_json(found))
    elif found:
        print_table(LOCKS, [_lock_row(one) for one in found])
    else:
        click.echo("no lock is held or waited for")


@inspect.command(short_help="Show one message.")
@click.argument("message_id", metavar="ID")
@click.option(
    "--source",
    metavar="NAME",
    callback=named_source,
    help="The source in which to look for a message that is not tracked.",
    allow_from_autoenv=False,
)
@broker_option
@timeout_option
@as_json
def message(message_id: str, source: str | None, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show one message: where it is in its life, which node has it, and why nothing happens.

    A message that was submitted is found by its id alone, as is a running one; others need their source. Of a
    source, the oldest 1,000 entries are looked at.
    """
    from actorwork.inspection import as_json as in_json
    from actorwork.inspection.words import how_far, moment

    if source is not None:
        valid_source(source)
    found = looked(broker, timeout, lambda look: look.message(message_id, source))
    if json_output:
        print_json(in_json(found))
        return
    click.echo(one_line(f"{found.id} in {found.source}: {found.why}", 1000))
    info = found.info
    if info is not None:
        facts = [f"{info.status}", f"attempt {info.attempt}", f"actor {info.actor or '-'}", f"node {info.node or '-'}"]
        facts += [f"progress {how_far(info.progress)}"] * (info.progress is not None)
        click.echo(one_line(", ".join(facts), 1000))
        for what, at in (
            ("sent", info.sent),
            ("received", info.received),
            ("begun", info.started),
            ("over", info.ended),
        ):
            if at is not None:
                click.echo(f"{what:9} {moment(at)}")
    for what, text in (
        ("key", found.key),
        ("dead", found.dead),
        ("headers", "" if not found.headers else str(dict(found.headers))),
        ("payload", found.payload or ""),
        ("result", found.result or ""),
    ):
        if text:
            click.echo(f"{what:9} {one_line(text, 1000)}")


@inspect.command(short_help="Show where the threads and tasks of a node are.")
@click.argument("node", metavar="NODE")
@broker_option
@timeout_option
@as_json
def stacks(node: str, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show the stacks of all threads and tasks of a node, also while its loop is blocked."""
    from actorwork.inspection import as_json as in_json

    found = looked(broker, timeout, lambda look: look.stacks(node, within=patience(timeout)))
    if json_output:
        print_json(in_json(found))
    else:
        if found.blocked_for is not None:
            click.echo(f"the loop has been blocked for {found.blocked_for:.1f} s")
        for one in found.stacks:
            click.echo(one_line(f"{one.kind} {one.name}:", 400))
            click.echo("".join(f"    {printable(line)}\n" for line in one.lines))
    if found.no_answer:
        raise click.ClickException(printable(found.no_answer))


# ------------------------------------------------------------------------------------------------------------ in words


def head_of(overview: Overview) -> str:
    """Return an overview in one line."""
    oldest = "" if overview.oldest is None else f", the oldest {length(overview.oldest)} old"
    facts = [
        many(len(overview.nodes), "node"),
        f"{many(overview.backlog, 'message')} ready or in flight{oldest}",
        f"{overview.handling:,} running",
        f"{overview.delayed:,} delayed",
        many(overview.dead, "dead letter"),
        many(overview.restarts, "restart"),
    ]
    return one_line(f"{overview.broker}: {'; '.join(facts)}", 1000)


def hours_of(series: Series) -> str:
    """Return what was handled in the last two hours in one line."""
    whole = series.whole
    took = [
        f"{name} {length(seconds) if seconds >= 1 else f'{1000 * seconds:.3g}ms'}"
        for name, seconds in (("p50", whole.p50), ("p95", whole.p95), ("p99", whole.p99))
        if seconds is not None
    ]
    return f"last two hours: {whole.handled:,} handled, {whole.failed:,} failed; {', '.join(took)}"


def stalls_of(stalls: StallReport) -> str:
    """Return how often a loop was blocked, and when it was last, in one line."""
    from actorwork.inspection.words import moment

    return (
        f"its loop was blocked {many(stalls.count, 'time')}, for {length(stalls.seconds)} in all; last for"
        f" {length(stalls.last)} until {moment(stalls.at)}, in:"
    )


def tables_of(overview: Overview) -> list[tuple[str, Sequence[str], list[Sequence[str]]]]:
    """Return an overview as tables: title, headings and rows. What is empty is left out."""
    from actorwork.inspection.words import moment, source_in_words

    titles = [actor.title for actor in overview.actors]
    tables: list[tuple[str, Sequence[str], list[Sequence[str]]]] = [
        (
            "needs a person",
            ("KIND", "NAME", "PROBLEM"),
            [(one.kind, source_in_words(one.name, titles), one.text) for one in overview.problems],
        ),
        (
            "paused",
            ("WHAT", "SINCE", "BY", "REASON"),
            [(str(pause), moment(pause.at), pause.by, pause.reason) for pause in overview.pauses],
        ),
        ("nodes", NODES, [_node_row(node) for node in overview.nodes]),
        (f"actors{_left_out(overview.actors_left_out)}", ACTORS, [_actor_row(one) for one in overview.actors]),
        (
            f"sources{_left_out(overview.sources_left_out)}",
            SOURCES,
            [_source_row(one, titles) for one in overview.sources],
        ),
    ]
    return [table for table in tables if table[2]]


def length(seconds: float) -> str:
    """Return a length of time in its two largest units: `3m20s`, `0.4s`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [f"{count}{unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")) if count]
    return "".join(units[:2])


def drawn(part: PartReport, now: float, first: str = "", rest: str = "") -> list[str]:
    """Return a tree as lines."""
    facts = [part.state] if part.kind in ("actor", "task", "left out") else [part.kind, part.state]
    if part.pid is not None:
        facts.append(f"pid {part.pid}")
    if part.restarts:
        facts.append(many(part.restarts, "restart"))
    if part.waiting:
        facts.append(f"{part.waiting:,} waiting")
    if part.entities is not None:
        facts.append(f"{many(part.entities.kept, 'instance')} in memory")
        facts += [f"{many(part.entities.stalled, 'key')} stalled"] * (part.entities.stalled > 0)
    facts += [f"{held.what} for {length(max(0.0, now - held.since))}" for held in part.in_hand]
    facts += [f"{hold_up.kind} {hold_up.name!r} holds {hold_up.waiting:,} back" for hold_up in part.hold_ups]
    lines = [one_line(f"{first}{part.label or part.title}  {', '.join(facts)}", 400)]
    for child in part.children[:-1]:
        lines += drawn(child, now, f"{rest}├─ ", f"{rest}│  ")
    for child in part.children[-1:]:
        lines += drawn(child, now, f"{rest}└─ ", f"{rest}   ")
    return lines


def _left_out(count: int) -> str:
    return f" ({count:,} more are not shown)" if count else ""


def _node_row(node: NodeInfo) -> Sequence[str]:
    report = node.report
    if report is None:
        return (node.name, node.id[:8], node.state, *("" for _ in NODES[3:]))
    lease = "-" if report.lease_margin is None else f"{report.lease_margin:.1f}s"
    return (
        node.name,
        node.id[:8],
        node.state,
        report.process or "-",
        length(report.uptime),
        f"{report.memory / 1e6:,.0f} MB",
        f"{report.cpu:.0%}",
        f"{report.loop_lag * 1000:.0f}ms",
        lease,
        f"{sum(part.handling for part in report.actors):,}",
    )


def _actor_row(actor: ActorInfo) -> Sequence[str]:
    why = "" if actor.why is None else str(actor.why)
    return (
        actor.title,
        str(len(actor.nodes)),
        f"{actor.handling:,}/{actor.concurrency:,}",
        f"{actor.waiting:,}",
        f"{actor.restarts:,}",
        why,
    )


def _source_row(source: SourceInfo, titles: Sequence[str] = ()) -> Sequence[str]:
    """`titles` are those of actors that do not read it now, and may be meant by its name."""
    from actorwork.inspection.words import source_in_words

    shown = source_in_words(source.name, (*source.actors, *titles))
    why = "" if source.why is None else str(source.why)
    return (
        shown,
        f"{source.backlog:,}",
        "-" if source.oldest is None else length(source.oldest),
        f"{source.delayed:,}",
        f"{source.dead:,}",
        str(len(source.nodes)),
        why if shown == source.name else why.replace(repr(source.name), shown),
    )


def _lock_row(one: LockInfo) -> Sequence[str]:
    from actorwork.inspection.words import moment

    owner = one.owner
    who = "-" if owner is None else owner.who or "a program"
    if owner is not None and owner.actor:
        who = f"{owner.actor}{f' of {owner.message}' if owner.message else ''} on {owner.node_name}"
    since = "" if owner is None or owner.since is None else moment(owner.since)
    longest = "" if one.waiting_since is None else moment(one.waiting_since)
    return (one.name, who, since, f"{one.waiting:,}", longest)


def _entity_lines(entities: EntityReport) -> Iterator[str]:
    yield (
        f"{many(entities.kept, 'instance')} in memory; {many(entities.activations, 'activation')},"
        f" {many(entities.commits, 'commit')}, {many(entities.conflicts, 'conflict')}, {entities.refused:,} refused"
    )
    if entities.hot:
        yield f"hot keys: {', '.join(f'{one.key} ({one.count:,})' for one in entities.hot)}"
    if entities.stalled:
        keys = ", ".join(entities.stalled_keys)
        yield f"{many(entities.stalled, 'key')} stalled, since a node cannot read the state: {keys}"


def _print_held(held: Sequence[Holder]) -> None:
    from actorwork.inspection.words import moment

    rows = [
        (one.message.what, one.message.source or "-", one.name, moment(one.message.since), str(one.message.attempt))
        for one in held
    ]
    if rows:
        print_table(("RUNNING", "SOURCE", "NODE", "SINCE", "ATTEMPT"), rows)
