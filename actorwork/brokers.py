"""Which broker a URL names.

None                       the embedded one, in a file below the user's state directory
sqlite:///path/to/file     the embedded one, in that file (sqlite:// keeps everything in memory)
redis:// rediss:// unix:// Redis
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from actorwork.abc import Broker, EventSink
from actorwork.errors import BrokerError
from actorwork.events import Event


def ignore(_: Event) -> None:
    """Take an event and do nothing."""


def default_file() -> Path:
    """Return the default file of the embedded broker: `actorwork.sqlite3` in the user's state directory.

    `ACTORWORK_HOME` names another directory; else `XDG_STATE_HOME`, else `~/.local/state`.
    """
    home = os.environ.get("ACTORWORK_HOME")
    if home:
        return Path(home) / "actorwork.sqlite3"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "actorwork" / "actorwork.sqlite3"


@asynccontextmanager
async def open_broker(url: str | Broker | None = None, *, emit: EventSink = ignore) -> AsyncGenerator[Broker]:
    """Open the broker that a URL names; yield a broker that is open already unchanged.

    Raises `BrokerError` for a URL of an unknown kind. Waits while the broker is unreachable: bound it with a cancel
    scope.
    """
    if url is not None and not isinstance(url, str):
        if not hasattr(url, "publish"):
            raise BrokerError(f"a broker is named by a URL, or is an open one, got {url!r}")
        yield url
        return
    if url is None:
        from actorwork.embedded.files import make_folder  # noqa: PLC0415 - as below

        file = default_file()
        try:
            make_folder(file.parent)
        except OSError as error:
            raise BrokerError(
                f"the embedded broker's directory {file.parent} cannot be created ({error});"
                " set ACTORWORK_HOME to a directory that can be written, or name a broker"
            ) from error
        url = f"sqlite:///{quote(str(file))}"
    scheme = url.partition(":")[0]
    # Each is imported only when it is needed: a node starts faster without the other one.
    if scheme in ("redis", "rediss", "unix"):
        from actorwork.streams.broker import open_broker as open_redis  # noqa: PLC0415

        async with open_redis(url, emit=emit) as broker:
            yield broker
    elif scheme == "sqlite" or url == ":memory:":
        from actorwork.embedded.broker import open_broker as open_embedded  # noqa: PLC0415

        async with open_embedded(url, emit=emit) as broker:
            yield broker
    else:
        raise BrokerError(
            f"no broker of the kind {url!r}; known are redis://host:port/db, rediss://…, unix:///path/to/socket, sqlite:///path/to/file"
        )
