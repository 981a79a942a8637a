"""Commands that use a broker: the option that names it, the time that it may take, and their errors."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import click

from actorwork.cli.durations import Duration
from actorwork.cli.output import one_line, printable

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.events import Event
    from actorwork.state.known_actors import Known

T = TypeVar("T")

BROKER: Final = "ACTORWORK_BROKER"

Step: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Returns a scope around one wait for the broker: it raises after the `--timeout`."""


def broker_option(function: Any) -> Any:
    """Give a command the option `--broker`."""
    return click.option(
        "--broker",
        callback=_with_password,
        envvar=BROKER,
        show_envvar=True,
        metavar="URL",
        help="redis://HOST:PORT/DB, rediss://... or unix:///SOCKET of a Redis server,"
        " redis+sentinel://HOST,HOST/NAME of a primary that sentinels know, redis+cluster://HOST,HOST, or sqlite:///FILE;"
        " without it, the embedded broker in the default file of the project in the current directory.",
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


def confirm(question: str) -> None:
    """Ask, and end the command unless the answer is yes."""
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo(err=True)
        raise click.ClickException(
            "nothing was done: this command asks first, and was not answered; --yes does not ask"
        ) from None


def force_option(help: str) -> Callable[[Any], Any]:
    """Give a command the option `--force`: names that no actor has are accepted."""
    return click.option("--force", is_flag=True, help=help, allow_from_autoenv=False)


async def refuse_unknown_actor(broker: Broker, step: Step, title: str) -> None:
    """End the command if no actor of this title has run at the broker."""
    problem = await unknown_actor_of(broker, step, title)
    if problem is not None:
        raise click.ClickException(f"{problem} (--force if it is to run later)")


async def unknown_actor_of(
    broker: Broker, step: Step, title: str, *, ids: Callable[[str], str] | None = None
) -> str | None:
    """Return what to tell about an actor that has not run at the broker, or None.

    With `ids`, which returns the id for a title, the actor may be named by its id, too.
    """
    from actorwork.state.known_actors import unknown_actor

    known = await _known_actors(broker, step)
    if known is None or (ids is not None and title in map(ids, known)):
        return None
    problem = unknown_actor(title, known)
    return None if problem is None else printable(problem)


async def unknown_source_of(broker: Broker, step: Step, source: str) -> str | None:
    """Return what to tell about a source that no actor has read, or None."""
    from actorwork.state.known_actors import unknown_source

    known = await _known_actors(broker, step)
    problem = None if known is None else unknown_source(source, known)
    return None if problem is None else printable(problem)


async def _known_actors(broker: Broker, step: Step) -> Known | None:
    """Return the actors that have run, or None where a user with few rights may not read them."""
    from actorwork.errors import BrokerError
    from actorwork.state.known_actors import known_actors

    try:
        with step():
            return await known_actors(broker.values)
    except BrokerError:
        return None


class EventPrinter:
    """Takes the broker's events: prints once that the command waits for it, and keeps the last trouble, which then
    explains why a command failed.
    """

    def __init__(self) -> None:
        self.trouble = ""

    def __call__(self, event: Event) -> None:
        trouble = getattr(event, "error", None)
        if isinstance(trouble, str):
            if not self.trouble:
                click.echo(f"waiting for the broker: {one_line(trouble)}", err=True)
            self.trouble = trouble


def pasted(*words: str) -> str:
    """Return a command that another one recommends, for the same broker, to be pasted into a shell."""
    context = click.get_current_context()
    named: list[str] = []
    # What came from the environment is there when the command is pasted.
    if context.get_parameter_source("broker") is click.core.ParameterSource.COMMANDLINE:
        from actorwork.streams.transport.urls import without_password

        named = ["--broker", without_password(context.params["broker"])]
    return shlex.join(["actorwork", *words, *named])


def _with_password(_: click.Context, __: click.Parameter, url: str | None) -> str | None:
    """Take the url from the file that `ACTORWORK_BROKER_FILE` names, if there is none; and the password from the
    environment if it is masked, as in commands that logs recommend.
    """
    if url is None and (file := os.environ.get(f"{BROKER}_FILE")):
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{BROKER}_FILE: cannot read {file}: {error}") from None
    if url is None or not any(mask in url for mask in (":***@", "=***")):
        return url
    from actorwork.streams.transport.urls import without_password

    whole = os.environ.get(BROKER)
    if whole is not None and without_password(whole) == url:
        return whole
    raise click.UsageError(
        f"the password in --broker is masked: put it in the place of ***, or the whole URL into {BROKER}"
    )


def missing_store(url: str | None) -> Path | None:
    """Return the file of an embedded broker that does not exist yet; a wrong URL ends the command."""
    from actorwork.brokers import default_file
    from actorwork.cli.failing import failure
    from actorwork.errors import BrokerError

    if url is None:
        path: Path | None = default_file()
    elif url.startswith("sqlite:"):
        from actorwork.embedded.location import parse

        try:
            path = parse(url).path
        except BrokerError as error:
            raise failure(error) from error
        if path is not None and not path.parent.is_dir():
            return None  # Opening it says what to do.
    else:
        return None
    return None if path is None or path.exists() else path


def speak(
    url: str | None,
    timeout: float,
    talk: Callable[[Broker, Step], Awaitable[T]],
    *,
    creates: bool = False,
    examines: bool = False,
) -> T:
    """Run `talk` with the broker and the scope for each wait for it; a failure ends the command with one sentence.

    Unless the command `creates` something, the file of an embedded broker that does not exist is not made: `talk` gets
    an empty broker, and a note says so. A command that `examines` also opens a server that would lose messages.
    """
    import trio

    from actorwork.brokers import open_broker
    from actorwork.cli.failing import failure
    from actorwork.errors import ActorworkError
    from actorwork.groups import leaves

    printer = EventPrinter()
    if not creates:
        missing = missing_store(url)
        if missing is not None:
            click.echo(f"note: there is no store {one_line(str(missing), 1000)} yet", err=True)
            url = ":memory:"

    async def talking() -> T:
        # Sending a file may take as long as its input does, so only the single steps are bounded; opening is one.
        with trio.fail_after(timeout) as opening:
            async with open_broker(url, emit=printer, is_unsafe_allowed=examines) as broker:
                opening.deadline = float("inf")
                return await talk(broker, lambda: trio.fail_after(timeout))

    try:
        return trio.run(talking)
    except Exception as raised:  # noqa: BLE001 - sorted out below, together with the groups
        error: BaseException = raised
    except BaseExceptionGroup as group:
        error = group
    for leaf in leaves(error):
        if isinstance(leaf, (click.ClickException, KeyboardInterrupt, BrokenPipeError)):
            raise leaf  # (a pipe whose reader has gone: Click ends quietly)
        if isinstance(leaf, trio.TooSlowError):
            because = f" ({one_line(printer.trouble)})" if printer.trouble else ""
            raise click.ClickException(f"the broker did not answer within {timeout:g} s{because}")
        if isinstance(leaf, (ActorworkError, OSError, ValueError)):
            raise failure(leaf) from error
    raise error
