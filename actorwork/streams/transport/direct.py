"""A way in without redis-py, for the urls that most programs use: TCP or a unix socket, a user, a password, a database.

redis-py's connection costs a starting process 38 ms, a third of what Trio costs, most of it for features that no url
of these asks for. `DirectConnection` is what is left of it: a blocking socket and the handshake of RESP3. A url that
wants more (TLS, or an option not named in `DirectOptions`) is redis-py's business, as before.
"""

import builtins
import contextlib
import errno
import socket
from collections.abc import Generator, Mapping
from typing import Any, Final, TypedDict, Unpack
from urllib.parse import parse_qs, unquote, urlsplit

from actorwork.streams.transport.redis_py import ConnectionError, RedisError, TimeoutError  # noqa: A004
from actorwork.streams.transport.wire import NOT_ENOUGH, Push, new_reader, pack

NO_MORE_FILES: Final = (
    "this process may open no more files; a node needs one for each actor that reads, and some more: raise the limit "
    "(ulimit -n, LimitNOFILE=)"
)
_READ_SIZE: Final = 65536
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""redis-py's: a server that vanished without a word is noticed after 45 s. Not every platform has all three."""


class DirectOptions(TypedDict, total=False):
    host: str
    port: int
    path: str
    """Of a unix socket; then there is no host."""
    db: int
    username: str
    password: str
    client_name: str
    socket_timeout: float | None
    socket_connect_timeout: float | None


def direct_options(url: str) -> DirectOptions | None:
    """Return the options of a url that `DirectConnection` can serve; None for any other, valid or not."""
    options: DirectOptions = {}
    try:
        parts = urlsplit(url)
        for name, (value, *_) in parse_qs(parts.query).items():
            match name:
                case "db":
                    options["db"] = int(value)
                case "socket_timeout" | "socket_connect_timeout":
                    options[name] = float(value)
                case _:
                    return None
        if parts.username:
            options["username"] = unquote(parts.username)
        if parts.password:
            options["password"] = unquote(parts.password)
        if parts.scheme == "unix" and parts.path:
            options["path"] = unquote(parts.path)
        elif parts.scheme == "redis":
            if parts.hostname:
                options["host"] = unquote(parts.hostname)
            if parts.port:
                options["port"] = parts.port
            if (database := parts.path.strip("/")) and "db" not in options:
                options["db"] = int(unquote(database))
        else:
            return None
    except ValueError:
        return None  # redis-py says what is wrong with it.
    return options


class DirectConnection:
    """A blocking connection, with redis-py's methods as far as they are used here, and its exceptions."""

    def __init__(self, **options: Unpack[DirectOptions]) -> None:
        self._options = options
        self._sock: Any = None
        self._reader = new_reader()
        self.handshake_metadata: Mapping[Any, Any] = {}

    def __del__(self) -> None:
        # A connection that was opened for a cancelled task has no other owner, and an open socket warns when collected.
        # No more than that: at the end of a program the modules that `disconnect` uses may be gone.
        opened = self._sock
        if opened is not None:
            opened.close()

    def connect(self) -> None:
        """Open the socket and do the handshake: RESP3, credentials, name and database.

        Raises `ConnectionError` or `TimeoutError` if there is no server, and else what the server refused.
        """
        options = self._options
        try:
            self._sock = _opened(options)
        except builtins.TimeoutError as error:
            raise TimeoutError("timeout while connecting") from error
        except OSError as error:
            raise ConnectionError(f"{error}{_how_many_files(error)}") from error
        try:
            credentials: list[str] = []
            if "username" in options or "password" in options:
                credentials = ["AUTH", options.get("username", "default"), options.get("password", "")]
            self.handshake_metadata = self._call("HELLO", "3", *credentials)
            if name := options.get("client_name"):
                self._call("CLIENT", "SETNAME", name)
            if database := options.get("db"):
                self._call("SELECT", database)
        except BaseException:
            self.disconnect()
            raise

    def _call(self, *command: str | int) -> Any:
        self.send_command(*command)
        return self.read_response()

    def send_command(self, *command: str | int) -> None:
        """Send a command; after an error the connection is closed, since a part of it may have gone out."""
        with self._closed_on_error("writing to"):
            self._sock.sendall(pack(command))

    def read_response(self) -> Any:
        """Return the next reply, or raise the error that it is; after any other error the connection is closed."""
        with self._closed_on_error("reading from"):
            while (reply := self._reader.gets()) is NOT_ENOUGH or isinstance(reply, Push):
                if reply is NOT_ENOUGH:
                    data = self._sock.recv(_READ_SIZE)
                    if not data:
                        raise ConnectionError("the server closed the connection")
                    self._reader.feed(data)
        if isinstance(reply, RedisError):
            raise reply
        return reply

    @contextlib.contextmanager
    def _closed_on_error(self, doing: str) -> Generator[None]:
        if self._sock is None:
            raise ConnectionError("the connection is closed")
        try:
            yield
        except builtins.TimeoutError as error:
            self.disconnect()
            raise TimeoutError(f"timeout while {doing} the server") from error
        except OSError as error:
            reason = self._last_words()
            self.disconnect()
            if reason is not None:
                raise reason from error
            raise ConnectionError(f"error while {doing} the server: {error}") from error
        except TypeError as error:  # RESP3 allows a map whose keys cannot be hashed; Redis sends none.
            self.disconnect()
            raise ConnectionError(f"the server sent a frame that is not Redis: {error}") from error
        except BaseException:
            self.disconnect()
            raise

    def _last_words(self) -> RedisError | None:
        """Return why the server closed the connection, if it said so: that it takes no more clients, for example."""
        try:
            self._sock.settimeout(0)
            self._reader.feed(self._sock.recv(_READ_SIZE))
            reply = self._reader.gets()
        except (OSError, RedisError, TypeError):
            return None
        return reply if isinstance(reply, RedisError) else None

    def disconnect(self) -> None:
        opened, self._sock = self._sock, None
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()


def _how_many_files(error: OSError) -> str:
    """Return what to do about a connection for which this process, or the machine, may open no file."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return ""
    return f": {NO_MORE_FILES}"


def _opened(options: DirectOptions) -> socket.socket:
    if "path" in options:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.settimeout(options.get("socket_connect_timeout"))
            opened.connect(options["path"])
        except BaseException:
            opened.close()
            raise
    else:
        address = options.get("host", "localhost"), options.get("port", 6379)
        opened = socket.create_connection(address, options.get("socket_connect_timeout"))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            if hasattr(socket, option):
                opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    opened.settimeout(options.get("socket_timeout"))
    return opened
