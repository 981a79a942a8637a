"""How a command fails: with one sentence on standard error, and exit code 1.

    failure       an error as such a sentence
    user_code     around what runs the user's own code: its traceback is shown, without the frames of this package
    FailingGroup  the group of all commands, which ends every error in this way

No sentence and no traceback shows the password of a URL, or commands a terminal.
`ACTORWORK_TRACEBACK=1` shows the whole traceback instead, for a report of a defect.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, cast

import click

from actorwork.cli.output import printable
from actorwork.groups import leaves
from actorwork.policy.bounds import is_utf8
from actorwork.telemetry.formatting import masked

TRACEBACK: Final = "ACTORWORK_TRACEBACK"
_HERE: Final = str(Path(__file__).parent)


def failure(error: BaseException) -> click.ClickException:
    """Return the sentence with which a command ends because of an error."""
    from actorwork.errors import ActorworkError

    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename is not None else error.strerror
    elif isinstance(error, (ActorworkError, OSError, ValueError)) and str(error):
        text = str(error)
    else:
        text = (
            f"{type(error).__name__}: {error}. This may be a defect of actorwork:"
            f" {TRACEBACK}=1 shows the traceback that a report needs"
        )
    return click.ClickException(printable(masked(text)))


@contextmanager
def user_code(doing: str) -> Generator[None]:
    """Show the traceback of an error in the user's code, and end the command."""
    try:
        yield
    except click.ClickException:
        raise
    except Exception as error:
        lines = traceback.format_exception(type(error), error, _of_the_user(error.__traceback__))
        click.echo(printable(masked("".join(lines).rstrip("\n"))), err=True)
        raise click.ClickException(printable(masked(f"{doing} failed: {type(error).__name__}: {error}"))) from error


def _of_the_user(frames: TracebackType | None) -> TracebackType | None:
    """Leave out the frames before the user's own: those of this room, and of the import system."""
    while frames is not None and frames.tb_next is not None:
        file = frames.tb_frame.f_code.co_filename
        if not (file.startswith((_HERE, "<frozen")) or "importlib" in file):
            break
        frames = frames.tb_next
    return frames


class FailingGroup(click.Group):
    """Ends a command that raises with one sentence instead of a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for one in args:
            # A shell passes on any bytes; names of files may be such, but nothing that a broker stores.
            if not is_utf8(one) and "/" not in one and not os.path.lexists(one):
                raise click.UsageError(f"arguments want to be UTF-8, got {one!r:.200}", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            # Whatever its sentence quotes: an id, a reason, a URL.
            cast("Any", error).message = printable(masked(error.message))
            raise
        except (click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            # Click itself ends quietly when the reader of a pipe has gone.
            if os.environ.get(TRACEBACK) or (isinstance(error, OSError) and error.errno == errno.EPIPE):
                raise
            raise failure(next(leaves(error))) from error
