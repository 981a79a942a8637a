"""`actorwork result` and `cancel`: messages that a program has submitted, by their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from actorwork.cli.brokers import Step, broker_option, pasted, speak, timeout_option
from actorwork.cli.durations import Duration, duration
from actorwork.cli.output import as_json, print_json, printable
from actorwork.cli.sending import Target, end_unless_done, in_json, target_of, wait_for_outcome

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.message import Outcome


def _of_whom(function: Any) -> Any:
    """Give a command the arguments that name one message."""
    for decorator in (
        click.option("--source", "is_source", is_flag=True, help="ACTOR is a source, to which the message was sent."),
        click.argument("message_id", metavar="ID"),
        click.argument("actor"),
    ):
        function = decorator(function)
    return function


def _target(actor: str, *, is_source: bool) -> Target:
    return target_of(actor, "source" if is_source else "actor")


@click.command(short_help="Print the reply to a message that was submitted.")
@_of_whom
@click.option("--wait", type=Duration(least=0.001), help="Wait at most this long until the message has been handled.")
@broker_option
@timeout_option
@as_json
def result(
    actor: str,
    message_id: str,
    *,
    is_source: bool,
    wait: float | None,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    """Print the reply to a message as JSON; ID is that of its receipt.

    ACTOR is the title of an actor, or MODULE:CLASS. Outcomes are kept for messages that were sent with `submit` or
    `send --wait`, as long as the actor's `results_ttl`. A message that failed or was rejected ends the command with its
    error and exit code 1, and so does one without an outcome.
    """
    target = _target(actor, is_source=is_source)

    async def talk(opened: Broker, step: Step) -> Outcome | None:
        found = await wait_for_outcome(opened, step, target.source, message_id, wait or 0.0)
        if found is None:
            await _expect_actor(opened, step, target)
        return found

    outcome = speak(broker, timeout, talk)
    if json_output:
        print_json({"id": message_id, "source": target.source, **in_json(outcome)})
    elif outcome is not None and outcome.status == "done":
        print_json(in_json(outcome)["reply"])
    if outcome is None:
        within = f" within {duration(wait)}" if wait else ""
        raise click.ClickException(
            printable(
                f"no outcome of message {message_id} to {target.words}{within}: it has not been handled yet, was not"
                " submitted there, or its outcome is kept no longer"
            )
        )
    end_unless_done(target, message_id, outcome)


@click.command(short_help="Cancel a message that was submitted.")
@_of_whom
@click.option("--reason", default="", help="Why; the caller that waits for the outcome gets it.")
@broker_option
@timeout_option
def cancel(actor: str, message_id: str, *, is_source: bool, reason: str, broker: str | None, timeout: float) -> None:
    """Cancel a message that was submitted, wherever it is; ID is that of its receipt.

    If no node has it, it is dropped at once. A handler in flight is cancelled within a second; the message ends as
    cancelled unless the handler returns all the same. If it is over, or was cancelled before, the command ends with
    exit code 1. A message that was sent otherwise is dropped while it is delayed, waits for a retry, or waits behind
    others with its key. `runs cancel` ends a whole workflow.
    """
    target = _target(actor, is_source=is_source)

    async def talk(opened: Broker, step: Step) -> bool:
        with step():
            is_cancelled = await opened.cancel_message(target.source, message_id, reason=reason)
        if not is_cancelled:
            await _expect_actor(opened, step, target)
        return is_cancelled

    if not speak(broker, timeout, talk):
        look = pasted("result", *(["--source"] if is_source else []), actor, message_id)
        raise click.ClickException(
            printable(
                f"message {message_id} to {target.words} cannot be cancelled: it is over, was cancelled before, or was"
                f" not submitted there; see: {look}"
            )
        )
    click.echo(printable(f"cancelled message {message_id} to {target.words}"))


async def _expect_actor(broker: Broker, step: Step, target: Target) -> None:
    """End the command if what the message was sent to is not known here: the name may be misspelt."""
    from actorwork.cli.brokers import unknown_actor_of, unknown_source_of

    if target.is_source:
        problem = await unknown_source_of(broker, step, target.source)
    else:
        problem = None if target.title is None else await unknown_actor_of(broker, step, target.title)
    if problem is not None:
        raise click.ClickException(problem)
