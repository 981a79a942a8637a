"""Commands that speak to a broker: the option that names it, the time they give it, and their errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import click

from actorwork.cli.durations import Duration
from actorwork.cli.output import one_line

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.events import Event

T = TypeVar("T")

Step: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Makes a scope around one wait for the broker."""


def broker_option(function: Any) -> Any:
    """Give a command the option `--broker`."""
    return click.option(
        "--broker",
        envvar="ACTORWORK_BROKER",
        show_envvar=True,
        metavar="URL",
        help="redis://, rediss:// or unix:// of a Redis server, sqlite:///FILE; without it, the embedded broker.",
    )(function)


def timeout_option(function: Any) -> Any:
    """Give a command the option `--timeout`."""
    return click.option(
        "--timeout",
        type=Duration(least=0.001),
        default="10s",
        show_default=True,
        envvar="ACTORWORK_TIMEOUT",
        show_envvar=True,
        help="How long the broker may take for each step.",
    )(function)


class EventPrinter:
    """Takes the broker's events: says once that it is waited for, and keeps the last trouble, for the sentence that
    says why a command failed.
    """

    def __init__(self) -> None:
        self.trouble = ""

    def __call__(self, event: Event) -> None:
        trouble = getattr(event, "error", None)
        if isinstance(trouble, str):
            if not self.trouble:
                click.echo(f"waiting for the broker: {one_line(trouble)}", err=True)
            self.trouble = trouble


def speak(url: str | None, timeout: float, talk: Callable[[Broker, Step], Awaitable[T]]) -> T:
    """Run `talk` with the broker, and with what bounds each wait for it; a failure ends the command in a sentence."""
    import trio

    from actorwork.brokers import open_broker
    from actorwork.errors import ActorworkError
    from actorwork.groups import leaves

    ear = EventPrinter()

    async def talking() -> T:
        # The talk as a whole may last as long as its input does: each step has its time, and the opening is one.
        with trio.fail_after(timeout) as opening:
            async with open_broker(url, emit=ear) as broker:
                opening.deadline = float("inf")
                return await talk(broker, lambda: trio.fail_after(timeout))

    try:
        return trio.run(talking)
    except Exception as raised:  # noqa: BLE001 - sorted out below, together with the groups
        error: BaseException = raised
    except BaseExceptionGroup as group:
        error = group
    for leaf in leaves(error):
        if isinstance(leaf, (click.ClickException, KeyboardInterrupt)):
            raise leaf
        if isinstance(leaf, trio.TooSlowError):
            because = f" ({one_line(ear.trouble)})" if ear.trouble else ""
            raise click.ClickException(f"the broker did not answer within {timeout:g} s{because}")
        if isinstance(leaf, (ActorworkError, OSError, ValueError)):
            raise click.ClickException(str(leaf) or type(leaf).__name__) from error
    raise error
