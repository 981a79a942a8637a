"""The dashboard of a system: `run(tree, web="127.0.0.1:8080")`.

It listens before the system starts, so that an address which is taken is an error of the start, and serves once the
system has started. The staged shutdown ends it first, within a second, and never waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from actorwork.errors import SettingsError
from actorwork.web import require

if TYPE_CHECKING:
    import socket

    from actorwork.runtime.engine import Engine
    from actorwork.web.access import Rule


log = logging.getLogger("actorwork.web")


@attrs.frozen(eq=False)
class Pages:
    """A dashboard that listens, and is not served yet."""

    listening: socket.socket
    rules: list[Rule]

    async def serve(self, engine: Engine, *, task_status: trio.TaskStatus[str]) -> None:
        """Serve the dashboard of the system until that begins to stop; `task_status` gets its URL."""
        from actorwork.web.dashboard import app  # noqa: PLC0415 - see below
        from actorwork.web.serving import serve_pages  # noqa: PLC0415 - see below

        dashboard = app(engine.broker, access=self.rules or None)
        try:
            await serve_pages(dashboard, self.listening, stop=engine.shutdown.wait_asked, task_status=task_status)
        except Exception:
            # Whatever happens to its pages, a node goes on with its work; the start has been told before.
            log.exception("the dashboard has ended")


@contextmanager
def listening_at(address: object) -> Generator[Pages]:
    """Listen at an address; raises `SettingsError` if it cannot, or others could reach a dashboard without users.

    Raises `MissingExtra` without the extra `web`.
    """
    require("hypercorn")
    # Imported here, since the extra may be missing, which has been told above.
    from actorwork.web.serving import check_place, listen, place_of  # noqa: PLC0415
    from actorwork.web.users import users  # noqa: PLC0415

    if not isinstance(address, str):
        raise SettingsError(f"web wants HOST:PORT, such as 127.0.0.1:8080, got {address!r}")
    place = place_of(address)
    try:
        rules = users()
    except ValueError as error:
        raise SettingsError(f"the users of the dashboard: {error}") from error
    check_place(place, has_users=bool(rules))
    try:
        listening = listen(place)
    except OSError as error:
        raise SettingsError(f"the dashboard cannot listen at {place.written}: {error.strerror or error}") from error
    try:
        yield Pages(listening, rules)
    finally:
        listening.close()
