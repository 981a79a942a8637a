"""`actorwork result` and `cancel`: messages that a program has submitted, by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import click

from actorwork.cli.brokers import Step, broker_option, pasted, speak, timeout_option
from actorwork.cli.durations import Duration
from actorwork.cli.output import as_json, print_json, printable
from actorwork.cli.sending import Target, end_unless_done, in_json, target_of
from actorwork.cli.waiting import LifeBar, in_words, life_in_json, wait_for_outcome
from actorwork.inspection.words import duration

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.message import Outcome
    from actorwork.records import MessageInfo


def _of_whom(function: Any) -> Any:
    """Give a command the arguments that name one message."""
    for decorator in (
        click.option("--source", "is_source", is_flag=True, help="ACTOR is a source, to which the message was sent."),
        click.argument("words", metavar="[ACTOR] ID", nargs=-1, required=True),
    ):
        function = decorator(function)
    return function


@attrs.frozen
class Named:
    """What the arguments name: a message, and to whom it was sent, if they say so."""

    id: str
    actor: str | None
    is_source: bool

    @classmethod
    def by(cls, words: Sequence[str], *, is_source: bool) -> Named:
        if len(words) > 2:
            raise click.UsageError(
                f"one message is named by its id, or by its actor and its id; got {len(words)} words"
            )
        if is_source and len(words) == 1:
            raise click.UsageError("--source says that ACTOR is a source: give it before the id")
        return cls(words[-1], words[0] if len(words) == 2 else None, is_source)

    def target(self) -> Target | None:
        if self.actor is None:
            return None
        return target_of(self.actor, "source" if self.is_source else "actor")

    async def find(self, broker: Broker, step: Step, target: Target | None) -> Target:
        """Return to whom the message was sent, as far as that is known."""
        if target is not None:
            return target
        with step():
            source = await broker.states.locate(self.id)
            info = None if source is None else await broker.states.find(source, self.id)
        if source is None or info is None:
            return Target("", "its actor")
        return Target(source, f"the actor {info.actor!r}" if info.actor else f"the source {source!r}")

    async def unknown(self, broker: Broker, step: Step, target: Target | None) -> str:
        """Return what to tell about a message that is not known; a misspelt name of its actor ends the command."""
        if target is not None:
            await _expect_actor(broker, step, target)
        to = "" if target is None else f" to {target.words}"
        text = f"there is no message {self.id}{to}: it was never submitted, or its outcome is kept no longer"
        with step():
            is_run = await broker.runs.info(self.id) is not None
        return f"{text}. A run has this id; see: {pasted('runs', 'show', self.id)}" if is_run else text

    def look(self) -> str:
        """Return the command that shows the outcome."""
        return pasted("result", *(["--source"] if self.is_source else []), *filter(None, [self.actor]), self.id)


@click.command(short_help="Print the reply to a message that was submitted.")
@_of_whom
@click.option(
    "--wait",
    type=Duration(least=0.001),
    is_flag=False,
    flag_value="30s",
    help="Wait at most this long (30s without a value) until the message has been handled.",
)
@broker_option
@timeout_option
@as_json
def result(
    words: tuple[str, ...],
    *,
    is_source: bool,
    wait: float | None,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    """Print the reply to a message as JSON; ID is that of its receipt.

    Outcomes are kept for messages that were sent with `submit`, for the `results_ttl` of their actor, and for those of
    `send --wait`, for a minute longer than that waits. A message that failed or was rejected ends the command with its
    error and exit code 1. So does one that is still open, with where it is, and at once one that is not known.

    ACTOR, the title of an actor or MODULE:CLASS, need not be given: it tells messages of different actors apart that
    have the same id.
    """
    named = Named.by(words, is_source=is_source)
    to = named.target()

    async def talk(opened: Broker, step: Step) -> tuple[Target, MessageInfo | None, Outcome | None, str]:
        target = await named.find(opened, step, to)
        info, outcome = None, None
        if target.source:
            with LifeBar(named.id) as bar:
                info, outcome = await wait_for_outcome(
                    opened, step, target.source, named.id, wait or 0.0, bar.show, is_sent=False
                )
        is_unknown = info is None and outcome is None
        return target, info, outcome, await named.unknown(opened, step, to) if is_unknown else ""

    target, info, outcome, unknown = speak(broker, timeout, talk)
    if json_output:
        end = {"status": "unknown"} if unknown else in_json(outcome)
        print_json({"id": named.id, "source": target.source, **end, **life_in_json(info)})
    elif outcome is not None and outcome.status == "done":
        print_json(in_json(outcome)["reply"])
    if unknown:
        raise click.ClickException(printable(unknown))
    if outcome is not None:
        end_unless_done(target, named.id, outcome)
    elif info is not None:
        raise click.ClickException(printable(_open(named.id, target, wait, info)))


def _open(message_id: str, target: Target, wait: float | None, info: MessageInfo) -> str:
    """Return what to tell about a message without an outcome."""
    if info.status.is_final:
        run, slash, _ = message_id.rpartition("/")
        where = f"; see: {pasted('runs', 'show', run)}" if slash else ""
        return (
            f"message {message_id} to {target.words} has ended as {in_words(info)}; its result is that of a step{where}"
        )
    within = f" within {duration(wait)}" if wait else " yet (--wait waits for it)"
    return f"no outcome of message {message_id} to {target.words}{within}: it is {in_words(info)}"


@click.command(short_help="Cancel a message that was submitted.")
@_of_whom
@click.option("--reason", default="", help="The reason, which the caller that waits for the outcome gets.")
@click.option(
    "--force",
    is_flag=True,
    help="Replace the process if the handler does not end when cancelled; only in a `Process`.",
    allow_from_autoenv=False,
)
@broker_option
@timeout_option
def cancel(
    words: tuple[str, ...], *, is_source: bool, reason: str, force: bool, broker: str | None, timeout: float
) -> None:
    """Cancel a message that was submitted, wherever it is; ID is that of its receipt.

    If no node has it, it is dropped at once. A handler in flight is cancelled within a second; the message ends as
    cancelled unless the handler returns all the same. If it is over, or was cancelled before, the command ends with
    exit code 1. A message that was sent otherwise is dropped while it is delayed, waits for a retry, or waits behind
    others with its key; it is found only with its ACTOR. `runs cancel` ends a whole workflow.

    With --force, the process of a handler that has not ended a second later is replaced: what else was in flight there
    is run by others, and no attempt is counted. It may follow a command without it.
    """
    from actorwork.clients.auditing import audited

    named = Named.by(words, is_source=is_source)
    to = named.target()

    async def talk(opened: Broker, step: Step) -> Target:
        target = await named.find(opened, step, to)
        if not target.source:
            raise click.ClickException(printable(await named.unknown(opened, step, None)))
        what = f"message {named.id} to {target.words}"
        async with audited(opened.audit, "cancel", what, reason=reason, step=step):
            with step():
                is_cancelled = await opened.cancel_message(target.source, named.id, reason=reason, force=force)
            if not is_cancelled:
                await _expect_actor(opened, step, target)
                raise click.ClickException(
                    printable(
                        f"{what} cannot be cancelled: it is over, was cancelled before, or was not submitted there;"
                        f" see: {named.look()}"
                    )
                )
        return target

    target = speak(broker, timeout, talk)
    click.echo(printable(f"cancelled message {named.id} to {target.words}"))


async def _expect_actor(broker: Broker, step: Step, target: Target) -> None:
    """End the command if what the message was sent to is not known here: the name may be misspelt."""
    from actorwork.cli.brokers import unknown_actor_of, unknown_source_of

    if target.is_source:
        problem = await unknown_source_of(broker, step, target.source)
    else:
        problem = None if target.title is None else await unknown_actor_of(broker, step, target.title)
    if problem is not None:
        raise click.ClickException(problem)
