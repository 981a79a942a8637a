"""The options with which `actorwork send` sends: those of `client.publish`, as a command line writes them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from actorwork.cli.durations import Duration
from actorwork.durations import parsed

if TYPE_CHECKING:
    from actorwork.message import Json

LONGEST_WAIT: Final = 100 * 365 * 86_400.0
"""That of `policy.sending`, which a command imports only when it runs."""
PRIORITIES: Final = ("critical", "high", "normal", "low")
_OPTIONS: Final = ("delay", "at", "expires", "priority", "key", "unique", "headers", "durability")


class Instant(click.ParamType[datetime]):
    """A date and a time, by default in the local timezone."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return datetime.fromisoformat(str(value)).astimezone()
        except (OverflowError, ValueError):
            self.fail(f"{str(value)!r} is not a time such as 2026-01-31T12:00 or 2026-01-31T12:00:00+00:00", param, ctx)


class DurationOrInstant(click.ParamType["float | datetime"]):
    """A duration from now, or a time."""

    name = "duration or time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | datetime:
        try:
            return parsed(str(value))
        except ValueError:
            pass
        try:
            return datetime.fromisoformat(str(value)).astimezone()
        except (OverflowError, ValueError):
            self.fail(
                f"{str(value)!r} is neither a duration such as 30s or 1h nor a time such as 2026-01-31T12:00",
                param,
                ctx,
            )


def send_options(function: Any) -> Any:
    """Give a command these options; it takes them as one argument, `sending`."""
    from functools import wraps

    @wraps(function)
    def command(*args: Any, **options: Any) -> Any:
        from actorwork.message import Priority
        from actorwork.policy.sending import Sending

        given = {name: options.pop(name) for name in _OPTIONS}
        if given["priority"] is not None:
            given["priority"] = Priority[given["priority"].upper()]
        given["headers"] = headers_from(given["headers"])
        try:
            sending = Sending(**given)
        except (TypeError, ValueError) as error:
            raise click.UsageError(str(error)) from None
        return function(*args, sending=sending, **options)

    for option in (
        click.option(
            "--header",
            "headers",
            metavar="NAME=VALUE",
            multiple=True,
            help="A value that travels beside the message: VALUE is JSON, otherwise a string. May be given again.",
        ),
        click.option(
            "--unique",
            metavar="KEY",
            help="Refuse the message while another one with this unique key waits or is in flight.",
        ),
        click.option("--key", help="Messages with the same key are handled one after another, in their order."),
        click.option(
            "--priority",
            type=click.Choice(PRIORITIES, case_sensitive=False),
            help="More urgent messages are delivered first; without it, the priority of the actor's class, or normal.",
        ),
        click.option(
            "--expires",
            type=DurationOrInstant(),
            help="Do not start the message later than this: a time from now, such as 1h, or 2026-01-31T12:00.",
        ),
        click.option(
            "--durability",
            type=click.Choice(["replicated", "fsynced"]),
            help="Wait until a replica has received the message, or until it is on the disk.",
        ),
        click.option("--at", type=Instant(), help="Deliver the message at this time, such as 2026-01-31T12:00."),
        click.option(
            "--delay",
            type=Duration(most=LONGEST_WAIT),
            default="0s",
            help="Deliver the message after this time, such as 30s or 5m.",
        ),
    ):
        command = option(command)
    return command


def headers_from(given: tuple[str, ...]) -> dict[str, Json] | None:
    """Read NAME=VALUE; a wrong one ends the command."""
    headers: dict[str, Json] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--header wants NAME=VALUE, got {one!r}")
        try:
            headers[name] = json.loads(text, parse_constant=_refuse)
        except ValueError:
            headers[name] = text
    return headers or None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
