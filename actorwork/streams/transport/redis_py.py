"""The parts of redis-py that are used, imported without the rest.

`import redis` loads the asyncio client, the cluster client and every command of both: 54 ms, more than half of what
Trio costs, before a node has done anything; its connection alone costs 38 ms. A node needs the exceptions: 1 ms. So
this module puts the package `redis` into `sys.modules` *unexecuted* (PEP 562) and imports the exceptions below it.
Any other request (`redis.Redis`, `from redis import asyncio`, `import redis.client`) executes the package first, under
the import system's own lock, and finds it as it always is. Where `redis` has been imported already, nothing is done.

Only `actorwork.streams` imports redis, and only through here or after it.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final, Protocol, cast

from actorwork.errors import BrokerError

_ASKED_BY_USERS = frozenset(
    {"__all__", "__path__", "__version__"}
)  # Other dunders are what introspection asks of every module.


def _postpone(package: str) -> ModuleType | None:
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None:
        return None
    module = importlib.util.module_from_spec(spec)
    names = vars(module)

    def get(name: str) -> object:
        if not name.startswith("__") or name in _ASKED_BY_USERS:
            importlib.reload(module)  # Executes it in place; within itself it does nothing.
            if name in names:
                names.pop("__getattr__", None)
                return names[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    names["__getattr__"] = get
    sys.modules[package] = module
    return module


_postponed = _postpone("redis")

# The order is the point: these come after the postponement.
from redis.exceptions import (  # noqa: E402
    AskError as AskError,
    AuthenticationError as AuthenticationError,
    BusyLoadingError as BusyLoadingError,
    ClusterCrossSlotError as ClusterCrossSlotError,
    ClusterDownError as ClusterDownError,
    ConnectionError as ConnectionError,  # noqa: A004
    DataError as DataError,
    ExecAbortError,
    InvalidResponse as InvalidResponse,
    MasterDownError as MasterDownError,
    MovedError as MovedError,
    NoPermissionError as NoPermissionError,
    NoScriptError as NoScriptError,
    OutOfMemoryError,
    ReadOnlyError as ReadOnlyError,
    RedisError as RedisError,
    ResponseError as ResponseError,
    TimeoutError as TimeoutError,  # noqa: A004
    TryAgainError as TryAgainError,
)

if _postponed is not None:
    vars(_postponed).pop("__path__", None)  # An import of anything below it asks for this first, and so executes it.


class NoReplicasError(ResponseError):
    """The server has fewer replicas than it needs to accept writes (`min-replicas-to-write`)."""


OUTAGES: Final = frozenset({BusyLoadingError, MasterDownError, NoReplicasError, ReadOnlyError})
"""The types of errors by which a server refuses every command, or every write, whatever it is: it loads its data, is a
replica, or has too few. The command was not executed, and will be accepted later, here or by another primary.
"""


class RedisPyConnection(Protocol):
    """The part of redis-py's connection that is used here."""

    @property
    def handshake_metadata(self) -> Mapping[Any, Any]: ...

    @property
    def _sock(self) -> Any: ...

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def send_command(self, *args: Any) -> None: ...
    def read_response(self) -> Any: ...


_BY_CODE: Mapping[str, type[RedisError]] = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "CROSSSLOT": ClusterCrossSlotError,
    "ERR": ResponseError,
    "EXECABORT": ExecAbortError,
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "MOVED": MovedError,
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "NOREPLICAS": NoReplicasError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": TryAgainError,
    "WRONGPASS": AuthenticationError,
}


_WITHIN_SCRIPT: Final = r"(?s)^Error running script .*: -(READONLY|NOREPLICAS|MASTERDOWN) "
"""How 6.2 writes that a command was refused within a script; later versions begin with the code."""


def parse_error(reply: str) -> Exception:
    """Return an error reply as the exception that redis-py makes of it, as far as a difference matters here."""
    code, _, text = reply.partition(" ")
    kind = _BY_CODE.get(code)
    if kind is ResponseError and (within := re.search(_WITHIN_SCRIPT, text)) is not None:
        kind = _BY_CODE[within[1]]
    if kind is None:
        return ResponseError(reply)
    if text == "max number of clients reached":
        kind = ConnectionError
    return kind(text, status_code=code)


def outage_in(replies: list[Any]) -> Exception | None:
    """Return the first of the replies by which a server refuses what it will accept later, or None."""
    return next((reply for reply in replies if type(reply) in OUTAGES), None)


_STATES = (
    "OOM",
    "BUSY",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "READONLY",
    "NOPERM",
    "TRYAGAIN",
    "The user executing the script",
    "ACL failure in script",
    "Script killed by user",
)
"""Words in errors about the state of the server or the rights of the user, not about the command.

6.2 has the codes in the middle of the text, and no version has one where a right is missing within a script: 7.0 and
earlier say so in other words than 7.2 and later.
"""


def may_pass(error: RedisError) -> bool:
    """Return whether the same command may succeed another time."""
    text = str(error)
    return type(error) is not ResponseError or any(state in text for state in _STATES)


_NOT_LOCAL: Final = "attempted to access a non local key"
"""In what a script raises that reaches for a key which is not, or not only, at this member of a cluster. In Valkey 9.1
the text begins here, with a capital letter.
"""
_FORCED: Final = "UNBLOCKED force unblock"
"""How the error begins with which a member that becomes a replica ends blocked reads."""


def is_of_moving_slot(error: Exception) -> bool:
    """Return whether a member of a cluster has refused what it, or another one, will accept soon."""
    if isinstance(error, AskError | ClusterDownError | TryAgainError):
        return True
    return type(error) is ResponseError and (_NOT_LOCAL in str(error).lower() or str(error).startswith(_FORCED))


def is_wrong_type(error: RedisError) -> bool:
    """Return whether a key holds something else than what the command is for."""
    return "WRONGTYPE" in str(error)


@contextmanager
def cannot(what: str) -> Generator[None]:
    """Raise errors of the server or the connection as a `BrokerError` that names what could not be done."""
    try:
        yield
    except RedisError as error:
        raise BrokerError(f"cannot {what}: {error}", may_pass=may_pass(error)) from error


def checked(replies: list[Any]) -> list[Any]:
    """Return the replies to several commands; raise the first one that is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def connection_options(url: str) -> dict[str, Any]:
    """Parse a `redis://`, `rediss://` or `unix://` url into the options of a connection and its `connection_class`."""
    # Needed only for what `direct` leaves to redis-py: it executes the whole package.
    from redis.connection import Connection, parse_url  # pyright: ignore[reportUnknownVariableType]  # noqa: PLC0415

    return {"connection_class": Connection} | cast("Callable[[str], dict[str, Any]]", parse_url)(url)
