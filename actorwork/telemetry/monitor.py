"""The monitor: a small HTTP server in a thread of its own, so that a loop that is busy is not taken for a dead one.

    MonitorServer     listens, and answers GET and HEAD on a mapping of paths to routes
    Route             a callable from a `Request` to an `Answer`; runs in a thread of the server, so it must not touch
                      what only the loop may touch
    listening_at      "127.0.0.1:9464" as host and port

It listens at the address that it is given and at no other. What comes in is bounded: a request line and headers as the
standard library bounds them, no body, `MOST` connections, each for `PATIENCE` seconds. If there are too many, the
oldest one is cut off, so clients that open connections and say nothing do not keep out the others.
"""

from __future__ import annotations

import json
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, Self, TypeAlias

import attrs

from actorwork.errors import SettingsError
from actorwork.telemetry.configuring import LOGGER
from actorwork.telemetry.formatting import printable_json

MOST: Final = 32
PATIENCE: Final = 10.0
_STALLED: Final = 5.0
"""Seconds that a client may let pass between two parts of its request, or of what it reads."""
_END_LIMIT: Final = 1.0
_JSON: Final = "application/json"

log = logging.getLogger(f"{LOGGER}.monitor")


@attrs.frozen
class Request:
    """A request: its path, what follows `?`, and its headers, by lower-case names."""

    path: str
    query: str
    headers: Mapping[str, str]


@attrs.frozen
class Answer:
    body: bytes
    status: int = 200
    content_type: str = _JSON


Route: TypeAlias = Callable[[Request], Answer]


def json_answer(value: object, status: int = 200) -> Answer:
    """Return a value as JSON, harmless for a terminal."""
    return Answer(f"{printable_json(json.dumps(value, ensure_ascii=False, default=str))}\n".encode(), status)


def listening_at(address: object) -> tuple[str, int]:
    """Return host and port of an address; raises `SettingsError` for one that does not name both.

    A port alone is refused: it could mean all interfaces, and what should be seen from outside is said in full.
    """
    text = address if isinstance(address, str) else ""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (host and colon and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise SettingsError(
            "monitor wants HOST:PORT, such as '127.0.0.1:9464', '[::1]:9464', or '0.0.0.0:9464' for all interfaces, "
            f"got {address!r}"
        )
    return host, int(port)


class MonitorServer:
    """Serves from `start` to `close`; `tick` is called about every `every` seconds, in the server's thread."""

    def __init__(
        self, address: object, routes: Mapping[str, Route], *, tick: Callable[[], object], every: float = 1.0
    ) -> None:
        host, port = listening_at(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=64)
        except OSError as error:
            raise SettingsError(f"monitor cannot listen at {address}: {error.strerror or error}") from None
        self._listener.settimeout(0)
        self.routes = routes
        host, port = self._listener.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        """The address at which it listens; its port is the real one where 0 was asked for."""
        self._tick = tick
        self._every = every
        self._connections: dict[socket.socket, float] = {}
        """The open ones, oldest first, and when each was accepted."""
        self._lock = threading.Lock()
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="actorwork monitor", daemon=True)

    def __repr__(self) -> str:
        return f"<monitor at {self.address}: {', '.join(self.routes)}>"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waker.close()
        self._thread.join(_END_LIMIT)

    # ---- the thread ----

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener, self._wake:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            due = time.monotonic()
            while True:
                ready = {key.fileobj for key, _ in selector.select(max(0.0, due - time.monotonic()))}
                if self._wake in ready:
                    break
                if time.monotonic() >= due:
                    self._tick()
                    self._cut_off_old()
                    due = time.monotonic() + self._every
                if self._listener in ready:
                    self._accept()
        with self._lock:
            for connection in self._connections:
                _cut_off(connection)

    def _accept(self) -> None:
        try:
            connection, address = self._listener.accept()
        except BlockingIOError:
            return  # The client has left meanwhile.
        except OSError:
            time.sleep(0.1)  # No file descriptors are left: it would be tried again without a pause.
            return
        with self._lock:
            if len(self._connections) >= 2 * MOST:
                connection.close()
                return
            if len(self._connections) >= MOST:
                _cut_off(next(iter(self._connections)))
            self._connections[connection] = time.monotonic()
        try:
            threading.Thread(target=self._answer, args=(connection, address), name=_THREAD, daemon=True).start()
        except RuntimeError:  # No threads are left.
            self._forget(connection)

    def _cut_off_old(self) -> None:
        until = time.monotonic() - PATIENCE
        with self._lock:
            for connection, accepted in self._connections.items():
                if accepted < until:
                    _cut_off(connection)

    # ---- a thread for each connection ----

    def _answer(self, connection: socket.socket, address: Any) -> None:
        try:
            connection.settimeout(_STALLED)
            _Handler(connection, address, self)  # pyright: ignore[reportArgumentType] - it only keeps the server
        except OSError:
            pass  # The client has left, or was too slow.
        finally:
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        # Under the lock: a number that was closed may belong to the next connection, which must not be cut off.
        with self._lock:
            self._connections.pop(connection, None)
            connection.close()


_THREAD: Final = "actorwork monitor request"


def _cut_off(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: MonitorServer  # pyright: ignore[reportIncompatibleVariableOverride] - it is none of socketserver's
    server_version = "actorwork"
    sys_version = ""
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain; charset=utf-8"

    def do_GET(self) -> None:
        self._respond(self._find())

    do_HEAD = do_GET  # noqa: N815 - as http.server calls it

    def _find(self) -> Answer:
        path, _, query = self.path.partition("?")
        route = self.server.routes.get(path.rstrip("/") or "/")
        if route is None:
            return json_answer({"status": "error", "error": "no such page", "pages": list(self.server.routes)}, 404)
        try:
            return route(Request(path, query, {name.lower(): value for name, value in self.headers.items()}))
        except Exception:
            log.exception("the monitor could not answer %s", path)
            return json_answer({"status": "error", "error": "it failed; the log has the reason"}, 500)

    def _respond(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a probe comes every few seconds, and what a client writes is not for a terminal."""
