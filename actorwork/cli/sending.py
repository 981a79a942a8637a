"""`actorwork send`: messages from the command line, or from a file of them."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, Self

import attrs
import click

from actorwork.cli.brokers import (
    Step,
    broker_option,
    force_option,
    refuse_unknown_actor,
    speak,
    timeout_option,
    unknown_source_of,
)
from actorwork.cli.durations import Duration
from actorwork.cli.imports import SPEC, has_module, load_actor
from actorwork.cli.output import as_json, console, many, one_line, print_json, printable
from actorwork.cli.send_options import send_options
from actorwork.cli.waiting import LifeBar, in_words, life_in_json, wait_for_outcome
from actorwork.inspection.words import duration

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.actors.handlers.table import HandlerTable
    from actorwork.message import Envelope, Outcome
    from actorwork.policy.sending import Sending
    from actorwork.records import MessageInfo

BATCH: Final = 500
YEAR: Final = 365 * 86_400.0
CHUNK: Final = 1 << 20
"""Bytes read from a file at once."""


@attrs.frozen
class Target:
    """The destination of messages: a source, its description, and the actor's handlers if its class is known.

    With a `title`, the actor is known by that alone, so it may be misspelt; with `is_source`, the source may be.
    """

    source: str
    words: str
    handlers: HandlerTable | None = None
    title: str | None = None
    is_source: bool = False
    priority: int = 2
    """That of `Priority.NORMAL`, or of the actor's class."""


def target_of(name: str, kind: Literal["actor", "source"] | None) -> Target:
    """Interpret ACTOR_OR_SOURCE by the rule in `actorwork send --help`."""
    from actorwork.actors.handlers.table import handlers_of
    from actorwork.actors.tree.hooks import has_settings, no_title
    from actorwork.settings import SOURCE, SOURCE_IN_WORDS, Settings

    is_source = SOURCE.fullmatch(name) is not None
    if kind == "source" and not is_source:
        raise click.UsageError(f"a source is {SOURCE_IN_WORDS}, got {name!r}")
    title = name.removeprefix("actor:")
    if kind is None and title == name and SPEC.fullmatch(name) and has_module(name):
        kind = "actor"
    if kind == "source" or (kind is None and is_source and title == name):
        return Target(name, f"the source {name!r}", is_source=True)
    if not title:
        raise click.UsageError(f"ACTOR_OR_SOURCE wants a source, the title of an actor or MODULE:CLASS, got {name!r}")
    if title == name and SPEC.fullmatch(name):
        actor = load_actor(name)
        if not has_settings(actor):
            raise click.UsageError(no_title(actor))
        settings = actor.settings
        words = f"the actor {settings.title!r}"
        return Target(settings.default_source, words, handlers_of(actor), priority=settings.priority)
    settings = Settings(title=title)
    return Target(settings.default_source, f"the actor {title!r}", title=title)


def source_named(name: str) -> str:
    """Return the source that a command is given: by its own name, or as actor:TITLE."""
    from actorwork.settings import SOURCE, SOURCE_IN_WORDS

    if name.startswith("actor:"):
        return target_of(name, None).source
    if not SOURCE.fullmatch(name):
        wanted = f"a source is {SOURCE_IN_WORDS}; that of an actor is written actor:TITLE"
        raise click.UsageError(f"{wanted}; got {name!r}")
    return name


@attrs.frozen
class InputLine:
    """One line of a file that is not blank."""

    number: int
    text: bytes


@attrs.define
class SendProgress:
    """How much of a file has been read and sent."""

    read: int = 0
    sent: int = 0
    new: int = 0
    last: int = 0
    """The last line that the broker has stored; it has every good line before it, too."""
    bad: list[tuple[int, str]] = attrs.field(factory=list[tuple[int, str]])


@attrs.frozen(kw_only=True)
class EnvelopeFactory:
    """Makes envelopes for one target of messages that are JSON already, so that they arrive byte for byte."""

    target: Target
    type: str | None
    sending: Sending
    wait: float | None
    """How many seconds the sender waits for the outcome, which is kept for that long."""
    force: bool
    """Whether an actor that has not run is accepted."""
    publisher: str = attrs.field(factory=lambda: secrets.token_hex(8))

    @property
    def creates(self) -> bool:
        """Whether the message is sent to a broker that has never been used."""
        return self.force or self.target.title is None

    def envelope(self, data: bytes, message_id: str) -> Envelope:
        """Return an envelope; raises `CodecError` for invalid JSON, or if the actor's class has no handler."""
        from actorwork import codec
        from actorwork.message import RESULT_TTL, Delivery, Priority

        handlers = self.target.handlers
        if handlers is None:
            codec.loads(data)
        else:
            delivery = Delivery(id=message_id, source=self.target.source, payload=data, token=None, type=self.type)
            handlers.for_delivery(delivery).arguments_of(delivery)
        ours = {} if self.wait is None else {RESULT_TTL: min(YEAR, self.wait + 60)}
        return self.sending.envelope(
            self.target.source, message_id, data, self.type, ours=ours, priority=Priority(self.target.priority)
        )


@click.command(short_help="Send messages: one, or a file of them.")
@click.argument("target", metavar="ACTOR_OR_SOURCE")
@click.argument("message", metavar="[JSON]", required=False)
@click.option(
    "--from",
    "file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Send every line of a file of JSON lines; - is standard input.",
)
@click.option("--actor", "kind", flag_value="actor", help="ACTOR_OR_SOURCE is a title or MODULE:CLASS.")
@click.option("--source", "kind", flag_value="source", help="ACTOR_OR_SOURCE is a source, whatever it looks like.")
@force_option("Send also to an actor that has not run so far.")
@click.option("--type", help="The message's type, which is the name of its class.")
@click.option(
    "--id",
    "message_id",
    help="The message's id: the broker keeps a message with the same id once. With --from, the prefix of the ids:"
    " line 10 has the id ID-a (hexadecimal), so a file can be sent again after an interruption.",
)
@send_options
@click.option(
    "--wait",
    type=Duration(least=0.001),
    is_flag=False,
    flag_value="30s",
    help="Wait at most this long (30s without a value) until the message has been handled; print the reply as JSON.",
)
@broker_option
@timeout_option
@as_json
def send(
    target: str,
    message: str | None,
    *,
    file: str | None,
    kind: Literal["actor", "source"] | None,
    type: str | None,
    message_id: str | None,
    sending: Sending,
    wait: float | None,
    force: bool,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    """Send a message (JSON), or with --from every line of a file, to an actor or a source.

    \b
    ACTOR_OR_SOURCE is read like this:
      orders               the source 'orders': every actor that reads it gets the message
      actor:greeter        the actor with the title 'greeter', by the source of its own
      shop.staff:Greeter   the actor class Greeter in the module shop.staff (as in `actorwork run`), by the
                           source of its own; messages are checked against its handlers before they are sent
    A name with a colon whose first part is no module that can be imported is a source, as is every other name of
    letters, digits, _ - and :. Use --actor or --source where that is not what you mean.

    An actor that has not run at this broker is refused, since its title may be misspelt: --force sends all the same.

    With --wait, the reply goes to standard output; a message that fails or is rejected ends the command with its
    error and exit code 1, and so does the end of the time. Meanwhile a terminal shows how far the message is, with what
    its handler reports.

    With --from, invalid lines are reported with their number and skipped, and the exit code is 1.
    """  # noqa: D301 - click wants the character itself, to leave the lines below it as they are
    if (message is None) == (file is None):
        raise click.UsageError("give either one message as JSON, or a file with --from")
    if file is not None and (wait is not None or sending.unique is not None):
        raise click.UsageError("--wait and --unique are for one message, not for a file")
    factory = EnvelopeFactory(target=target_of(target, kind), type=type, sending=sending, wait=wait, force=force)
    if message is not None:
        _send_one(factory, message, message_id or f"{factory.publisher}-0", broker, timeout, json_output=json_output)
    else:
        _send_file(factory, str(file), message_id or factory.publisher, broker, timeout, json_output=json_output)


def _send_one(
    factory: EnvelopeFactory, text: str, message_id: str, broker: str | None, timeout: float, *, json_output: bool
) -> None:
    from actorwork.errors import CodecError

    try:
        envelope = factory.envelope(text.encode(errors="surrogateescape"), message_id)
    except CodecError as error:
        refused = "" if factory.target.handlers is None else f"{factory.target.words} does not take this message: "
        raise click.ClickException(printable(f"{refused}{error}")) from None

    async def talk(opened: Broker, step: Step) -> tuple[str, bool, MessageInfo | None, Outcome | None]:
        await _expect_readers(opened, step, factory)
        with step():
            kept, is_new = message_id, bool(await opened.publish([envelope]))
            if not is_new and envelope.unique is not None:
                kept = await opened.publish_unique(envelope)
        if kept != message_id or factory.wait is None:
            return kept, is_new, None, None
        if not json_output:
            click.echo(_sent(factory, message_id, is_new=is_new), err=True)
        source = factory.target.source
        with LifeBar(message_id) as bar:
            found = await wait_for_outcome(opened, step, source, message_id, factory.wait, bar.show, is_sent=is_new)
        return kept, is_new, *found

    kept, is_new, info, outcome = speak(broker, timeout, talk, creates=factory.creates)
    if kept != message_id:
        raise click.ClickException(
            f"message {printable(kept)} has this unique key and waits or is in flight, so this one was not sent"
        )
    if json_output:
        facts = {"id": message_id, "source": factory.target.source, "new": is_new}
        if factory.wait is not None:
            facts |= in_json(outcome) if outcome is not None else in_json(outcome) | life_in_json(info)
        print_json(facts)
    elif factory.wait is None:
        click.echo(_sent(factory, message_id, is_new=is_new))
    elif outcome is not None and outcome.status == "done":
        print_json(in_json(outcome)["reply"])
    if factory.wait is None:
        return
    if outcome is None:
        raise click.ClickException(printable(_no_outcome(factory, message_id, factory.wait, info, is_new=is_new)))
    end_unless_done(factory.target, message_id, outcome)


def _no_outcome(
    factory: EnvelopeFactory, message_id: str, wait: float, info: MessageInfo | None, *, is_new: bool
) -> str:
    from actorwork.message import Status

    if info is None and not is_new:
        return f"the outcome of message {message_id} was not asked for when it was sent, or is kept no longer"
    text = f"no outcome of message {message_id} within {duration(wait)}; it may still be handled"
    if info is not None and info.status is not Status.PENDING:
        return f"{text}. It is {in_words(info)}"
    target = factory.target
    reader = f"that reads {target.source!r}" if target.is_source else f"with {target.words}"
    return f"{text}. Does a node run {reader}?"


def _sent(factory: EnvelopeFactory, message_id: str, *, is_new: bool) -> str:
    message_id = one_line(message_id)
    if is_new:
        return f"sent message {message_id} to {factory.target.words}"
    return f"message {message_id} was sent to {factory.target.words} before; it is kept once"


def in_json(outcome: Outcome | None) -> dict[str, Any]:
    """Return what is known of a message's end: its status, and the reply or the error."""
    from actorwork import codec

    if outcome is None:
        return {"status": "pending"}
    if outcome.status == "done":
        return {"status": "done", "reply": codec.loads(outcome.value)}
    failure = outcome.failure
    return {"status": outcome.status, "error": "" if failure is None else f"{failure.type}: {failure.reason}"}


def end_unless_done(target: Target, message_id: str, outcome: Outcome) -> None:
    """End the command if the message was not handled well."""
    if outcome.status != "done":
        if outcome.status == "rejected" and outcome.failure is not None and outcome.failure.type == "Cancelled":
            reason = one_line(outcome.failure.reason, 1000)
            raise click.ClickException(f"message {message_id} to {target.words} was cancelled ({reason})")
        error = one_line(in_json(outcome)["error"], 1000)
        raise click.ClickException(f"{target.words} {outcome.status} message {message_id} ({error})")


def _send_file(
    factory: EnvelopeFactory, file: str, prefix: str, broker: str | None, timeout: float, *, json_output: bool
) -> None:
    progress = SendProgress()
    ended = "an error"
    try:
        with ExitStack() as stack:
            # Not click.File: unbuffered, so that lines from a pipe are sent without waiting for more.
            if file == "-":
                stdin: Any = sys.stdin.buffer
                source: BinaryIO = getattr(stdin, "raw", stdin)
                bar = stack.enter_context(_Bar(0, "standard input"))
            else:
                source = stack.enter_context(Path(file).open("rb", buffering=0))
                bar = stack.enter_context(_Bar(os.fstat(source.fileno()).st_size, file))

            async def talk(opened: Broker, step: Step) -> None:
                await _expect_readers(opened, step, factory)
                await _send_lines(opened, step, factory, source, prefix, progress, bar)

            speak(broker, timeout, talk, creates=factory.creates)
        ended = ""
    except KeyboardInterrupt:
        ended = "an interrupt"
        raise click.Abort from None
    finally:
        _report(progress, factory.target, prefix, ended, json_output=json_output)
    if progress.bad:
        raise SystemExit(1)


async def _expect_readers(broker: Broker, step: Step, factory: EnvelopeFactory) -> None:
    """End the command if its actor has never run; tell that no actor has read its source."""
    target = factory.target
    if target.title is not None and not factory.force:
        await refuse_unknown_actor(broker, step, target.title)
    if target.is_source:
        problem = await unknown_source_of(broker, step, target.source)
        if problem is not None:
            click.echo(f"note: {problem}", err=True)


async def _send_lines(
    broker: Broker, step: Step, factory: EnvelopeFactory, file: BinaryIO, prefix: str, progress: SendProgress, bar: _Bar
) -> None:
    import trio

    from actorwork.errors import CodecError

    cut = b""
    number = 0
    before = 0
    ended = False
    while not ended:
        # In a thread, which is abandoned on cancellation: a pipe may stay silent forever.
        chunk = await trio.to_thread.run_sync(file.read, CHUNK, abandon_on_cancel=True)
        ended = not chunk
        *lines, cut = (cut + chunk).split(b"\n")
        if ended and cut:
            lines.append(cut)
        batch: list[Envelope] = []
        for line in _numbered(lines, number + 1):
            progress.read += 1
            try:
                batch.append(factory.envelope(line.text, f"{prefix}-{line.number:x}"))
            except CodecError as error:
                progress.bad.append((line.number, str(error)))
                bar.print(f"line {line.number}: {one_line(str(error))}")
                continue
            if len(batch) == BATCH:
                await _publish(broker, step, batch, progress, line.number)
                batch = []
                bar.show(progress, before + len(chunk) * (line.number - number) // len(lines))
        number += len(lines)
        if batch:
            await _publish(broker, step, batch, progress, number)
        before += len(chunk)
        bar.show(progress, before)


async def _publish(broker: Broker, step: Step, batch: Sequence[Envelope], progress: SendProgress, last: int) -> None:
    with step():
        progress.new += await broker.publish(batch)
    progress.sent += len(batch)
    progress.last = last


def _numbered(lines: Sequence[bytes], first: int) -> Iterator[InputLine]:
    for number, text in enumerate(lines, first):
        stripped = text.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else text.strip()
        if stripped:
            yield InputLine(number, stripped)


def _report(progress: SendProgress, target: Target, prefix: str, ended: str, *, json_output: bool) -> None:
    if json_output:
        bad = [{"line": number, "error": error} for number, error in progress.bad]
        print_json(
            {"source": target.source, "sent": progress.sent, "new": progress.new, "ids": f"{prefix}-LINE", "bad": bad}
        )
    else:
        known = progress.sent - progress.new
        click.echo(
            f"sent {many(progress.sent, 'message')} to {target.words}"
            + (f", {known:,} of them were there before" if known else "")
            + (f"; skipped {many(len(progress.bad), 'invalid line')}" if progress.bad else "")
        )
    if ended and progress.last:
        click.echo(
            f"stopped by {ended}: everything up to line {progress.last:,} is sent. Send the file again with"
            f" --id {prefix}: the broker keeps each message once.",
            err=True,
        )
    elif ended:
        # A batch may have arrived without its answer, so the same ids are of use here too.
        click.echo(f"stopped by {ended} before anything was known to be sent; again with --id {prefix}", err=True)


class _Bar:
    """A progress bar on standard error, if that is a terminal; invalid lines are printed above it."""

    def __init__(self, size: int, name: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[sent]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(printable(name), total=size or None, sent="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, progress: SendProgress, done: int) -> None:
        """Show the progress: about `done` bytes are read and sent."""
        bad = f", {len(progress.bad):,} bad" if progress.bad else ""
        self._progress.update(self._task, completed=done, sent=f"{progress.sent:,} sent{bad}")

    def print(self, text: str) -> None:
        self._console.print(text, markup=False)
