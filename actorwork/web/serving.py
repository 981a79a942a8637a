"""The server of the dashboard: Hypercorn, on the Trio loop that runs anyway.

It ends within a second: streams end first, then connections that are still open are closed.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import trio

from actorwork.errors import SettingsError
from actorwork.shown import Value
from actorwork.web import require
from actorwork.web.guarding import host_name, is_local_host

if TYPE_CHECKING:
    from actorwork.web.dashboard import Dashboard

WITHIN: Final = 0.7
"""Seconds that connections may take to end."""

log = logging.getLogger("actorwork.web")


@attrs.frozen(eq=False, repr=False)
class Place(Value):
    """Where a server listens: an address of this machine and a port, 0 for any that is free."""

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_local_host(self.written)

    @property
    def written(self) -> str:
        """The place as it is written: `[::1]:8080`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def place_of(text: str) -> Place:
    """Read `HOST:PORT`, `:PORT` or `PORT`, which mean 127.0.0.1; raises `SettingsError`."""
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise SettingsError(f"a dashboard listens at HOST:PORT, such as 127.0.0.1:8080, got {text!r}")
    return Place(host_name(f"{host}:1") if host.startswith("[") else host or "127.0.0.1", int(port))


def check_place(place: Place, *, has_users: bool) -> None:
    """Refuse to listen where others can reach a dashboard that knows no users; raises `SettingsError`."""
    if not place.is_local and not has_users:
        raise SettingsError(
            f"a dashboard at {place.written} could be reached by others, and has no users: give it a token, passwords"
            " or a trusted header, or let it listen at 127.0.0.1"
        )


async def serve_pages(
    dashboard: Dashboard,
    place: Place | socket.socket,
    *,
    certificate: tuple[Path, Path] | None = None,
    stop: Callable[[], Awaitable[object]] = trio.sleep_forever,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a dashboard until `stop` returns, or until this is cancelled; then end within a second.

    `place` may be a socket of `listen`, which is closed at the end. `task_status` gets the URL once the server listens.
    `certificate` has the files of a certificate and its key. Raises `OSError` if it cannot listen there, and
    `MissingExtra` without Hypercorn.
    """
    require("hypercorn")
    from hypercorn import trio as on_trio  # noqa: PLC0415 - the extra may be missing; see `require`
    from hypercorn.config import Config  # noqa: PLC0415 - see above

    serve = cast("Any", on_trio).serve
    listening = listen(place) if isinstance(place, Place) else place
    host, port = listening.getsockname()[:2]
    config = Config()
    # The server takes the socket, and closes it.
    config.bind = [f"fd://{listening.detach()}"]
    config.graceful_timeout = WITHIN
    config.shutdown_timeout = WITHIN
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = 32_768
    if certificate is not None:
        config.certfile, config.keyfile = map(str, certificate)
        config.ssl_handshake_timeout = 10
    scheme = "http" if certificate is None else "https"
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared
    url = f"{scheme}://{Place(shown, port).written}"

    async def until_stopped() -> None:
        await stop()
        dashboard.close_streams()

    async def run(*, task_status: trio.TaskStatus[Any]) -> None:
        await serve(dashboard, config, shutdown_trigger=until_stopped, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        log.info("the dashboard is at %s", url)
        task_status.started(url)


def listen(place: Place) -> socket.socket:
    """Return a socket that is bound to a place, for `serve_pages`; raises `OSError`."""
    kind = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    listening = socket.socket(kind, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((place.host, place.port))
    except OSError:
        listening.close()
        raise
    return listening


def check_certificate(certificate: tuple[Path, Path]) -> None:
    """Raise `SettingsError` for files that are no certificate with its key."""
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(*certificate)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"the certificate of the dashboard cannot be used: {error}") from error
