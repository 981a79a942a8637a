"""Which broker a URL names.

None                       the embedded one, in the file of this project below the user's state directory
sqlite:///path/to/file     the embedded one, in that file (sqlite:// keeps everything in memory)
redis:// rediss:// unix:// Redis; so do valkey://, valkeys:// and redis+tls://
redis+sentinel://h1,h2/name the primary that Redis Sentinel knows by this name (rediss+sentinel:// with TLS)
redis+cluster://h1,h2      Redis Cluster, by some of its members (rediss+cluster:// with TLS)
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from actorwork import events
from actorwork.abc import Broker, EventSink
from actorwork.errors import BrokerError
from actorwork.importing import paused_collector

_PROJECT_MARKS: Final = ("pyproject.toml", "setup.py", "setup.cfg", ".git", ".hg")
_SENTINELS: Final = frozenset({"redis+sentinel", "rediss+sentinel", "valkey+sentinel", "valkeys+sentinel"})
_CLUSTERS: Final = frozenset({"redis+cluster", "rediss+cluster", "valkey+cluster", "valkeys+cluster"})
_REDIS: Final = _SENTINELS | _CLUSTERS | {"redis", "rediss", "unix", "valkey", "valkeys", "redis+tls", "redis+ssl"}
_INSTALLED: Final = ("bin", "lib", "lib64", "Scripts", "Lib")
"""Where a Python installation keeps programs and modules."""


def ignore(_: events.Event) -> None:
    """Take an event and do nothing."""


def state_directory() -> Path:
    """Return the directory for files that no program names: `ACTORWORK_HOME`, else `actorwork` below `XDG_STATE_HOME`
    or `~/.local/state`. Raises `BrokerError` for a user without a home directory.
    """
    named = os.environ.get("ACTORWORK_HOME")
    if named:
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME")
    if state:
        return Path(state) / "actorwork"
    home = _home()
    if home is None:
        raise BrokerError(
            f"user {os.getuid()} has no home directory for files that are not named: set ACTORWORK_HOME to a directory"
            " that can be written, or name a broker, and the file of a spool"
        )
    return home / ".local" / "state" / "actorwork"


def _home() -> Path | None:
    """Return the home directory; None for a user who has none, as in a container with any user id."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def default_file() -> Path:
    """Return the default file of the embedded broker: in the state directory, one for each project.

    Two projects may have actors of one title, and would take each other's messages. With `ACTORWORK_HOME` the file is
    `actorwork.sqlite3` in there, for all programs that are given the variable.
    """
    if os.environ.get("ACTORWORK_HOME"):
        return state_directory() / "actorwork.sqlite3"
    project = project_directory()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", project.name) or "root"
    return state_directory() / f"{name}-{hashlib.sha256(os.fsencode(project)).hexdigest()[:8]}.sqlite3"


def project_directory() -> Path:
    """Return the directory of the project to which this program belongs.

    That is the nearest directory with one of `_PROJECT_MARKS`, from the main module's upwards, but not the home
    directory, which may be under version control itself; without any, the main module's own. A main module of the
    Python installation (`actorwork`, `pytest`, `python -m uvicorn`) belongs to no project, and a prompt has none: then
    the search begins in the current directory.
    """
    start, home = _main_directory() or Path.cwd(), _home()
    for directory in (start, *start.parents):
        if directory == home:
            break
        if any((directory / mark).exists() for mark in _PROJECT_MARKS):
            return directory
    return start


def _main_directory() -> Path | None:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if file is None:
        return None
    main = Path(file).absolute()
    installed = (Path(prefix) / folder for prefix in (sys.prefix, sys.base_prefix) for folder in _INSTALLED)
    return None if any(main.is_relative_to(folder) for folder in installed) else main.resolve().parent


def url_of(broker: str | None) -> str:
    """Return the URL of a broker: that of the default file, whose directory is made, if none is named.

    Raises `BrokerError`.
    """
    if broker is not None:
        if not isinstance(broker, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not checked
            raise _no_url(broker, "a URL, a str")
        return broker
    file = default_file()
    _make_folder(file.parent)
    return f"sqlite:///{quote(str(file))}"


def _no_url(given: object, wanted: str) -> BrokerError:
    # Not the value: bytes, or an object of settings, may show a password.
    return BrokerError(f"a broker is named by {wanted}; got {type(given).__name__}")


def is_redis(url: str) -> bool:
    """Whether a URL names a Redis server."""
    return url.partition(":")[0].strip().lower() in _REDIS


def is_file(url: str) -> bool:
    """Whether a URL names a file of the embedded broker, or one that is kept in memory."""
    return url.partition(":")[0].strip().lower() == "sqlite" or url == ":memory:"


def unknown_kind(url: str) -> BrokerError:
    """Return the error for a URL that names no broker."""
    from actorwork.streams.transport.urls import FORM, without_password  # noqa: PLC0415 - as above

    return BrokerError(f"no broker of the kind {without_password(url)!r}; known are {FORM}, sqlite:///path/to/file")


@asynccontextmanager
async def open_broker(
    url: str | Broker | None = None,
    *,
    emit: EventSink = ignore,
    at_first_use: bool = False,
    is_unsafe_allowed: bool = False,
) -> AsyncGenerator[Broker]:
    """Open the broker that a URL names; yield a broker that is open already unchanged.

    Raises `BrokerError` for a URL of an unknown kind. Waits while the broker is unreachable: bound it with a cancel
    scope. With `at_first_use` the default file is neither made nor opened before a call needs it.
    `is_unsafe_allowed` opens also a server that would lose messages, to examine it.
    """
    if url is not None and not isinstance(url, str):
        if not hasattr(url, "publish"):
            raise _no_url(url, "a URL, a str, or is an open one")
        yield url
        return
    if url is None:
        with paused_collector("actorwork.embedded.broker"):
            from actorwork.embedded.broker import open_broker as open_embedded  # noqa: PLC0415 - as below

        file = default_file()
        prepare = partial(_make_folder, file.parent)
        url = f"sqlite:///{quote(str(file))}"
        async with open_embedded(url, emit=emit, prepare=prepare, at_first_use=at_first_use) as broker:
            yield broker
        return
    # Each is imported only when it is needed: a node starts faster without the other one.
    if is_redis(url):
        with paused_collector("actorwork.streams.broker"):
            from actorwork.streams.broker import open_broker as open_redis  # noqa: PLC0415

        async with open_redis(url, emit=emit, is_unsafe_allowed=is_unsafe_allowed) as broker:
            yield broker
    elif is_file(url):
        with paused_collector("actorwork.embedded.broker"):
            from actorwork.embedded.broker import open_broker as open_embedded  # noqa: PLC0415

        async with open_embedded(url, emit=emit) as broker:
            yield broker
    else:
        raise unknown_kind(url)


def _make_folder(folder: Path) -> None:
    from actorwork.embedded.files import make_folder  # noqa: PLC0415 - as above

    try:
        make_folder(folder)
    except OSError as error:
        raise BrokerError(
            f"the embedded broker's directory {folder} cannot be created ({error});"
            " set ACTORWORK_HOME to a directory that can be written, or name a broker"
        ) from error
