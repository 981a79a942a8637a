"""Where a server is, and how a connection to it is opened: by blocking calls, whatever carries the bytes afterwards."""

import contextlib
import re
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs

from actorwork.errors import BrokerError
from actorwork.shown import Value
from actorwork.streams.transport.direct import DirectConnection, direct_options
from actorwork.streams.transport.redis_py import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004
    MasterDownError,
    NoPermissionError,
    RedisError,
    RedisPyConnection,
    TimeoutError,  # noqa: A004
    connection_options,
)
from actorwork.streams.transport.urls import (
    canonical,
    cluster_parts,
    is_of_cluster,
    is_of_sentinels,
    sentinel_parts,
    without_password,
    without_reader_connections,
)

if TYPE_CHECKING:
    from actorwork.streams.transport.cluster_layout import Cluster
    from actorwork.streams.transport.sentinel import Sentinels

HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds for each step of getting in, unless the url says `socket_timeout` or `socket_connect_timeout`."""
_UNKNOWN: Final = r"unexpected keyword argument '(\w+)'"
_ANOTHER_NAME: Final = (62, 64)
_NOT_NOW: Final = (9, 10)
"""Numbers of OpenSSL: a certificate for another host name, or another address; not valid yet, or not any more."""


@attrs.frozen(eq=False, repr=False)
class Address(Value):
    """Where a server is and how to get in. `url` is safe to show: its password is not in it."""

    url: str
    connection_class: Callable[..., RedisPyConnection] = attrs.field(repr=False)
    options: Mapping[str, Any] = attrs.field(repr=False)
    sentinels: "Sentinels | None" = attrs.field(default=None, repr=False)
    """What finds the primary, if the url names sentinels."""
    cluster: "Cluster | None" = attrs.field(default=None, repr=False)
    """What finds the primaries, if the url names members of a cluster."""
    reader_connections: int | None = None
    """How many connections the readers of a node may have; None for one each."""

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Parse a `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or `redis+cluster://` url, with all options
        of redis-py, and `reader_connections` (reader_connections.py). Raises `BrokerError`.
        """
        shown = without_password(url)
        if url != url.strip():
            raise BrokerError(f"cannot use {shown!r} as a Redis url: it begins or ends with white space")
        try:
            url, most = without_reader_connections(url)
        except ValueError as error:
            raise BrokerError(f"cannot use {shown!r} as a Redis url: {error}") from None
        found = cls._of(url, shown)
        return found if most is None else attrs.evolve(found, reader_connections=most)

    @classmethod
    def _of(cls, url: str, shown: str) -> "Address":
        if is_of_sentinels(url):
            return cls._of_sentinels(url, shown)
        if is_of_cluster(url):
            return cls._of_cluster(url, shown)
        try:
            url = canonical(url)
        except ValueError as error:
            # Not `from error`: what parsers say about a url quotes it.
            raise BrokerError(f"cannot use {shown!r} as a Redis url: {error}") from None
        options: dict[str, Any]
        if (direct := direct_options(url)) is not None:
            connection_class: Callable[..., RedisPyConnection] = DirectConnection
            options = {**direct}
        else:
            try:
                options = connection_options(url)
            except ValueError as error:
                raise BrokerError(f"cannot use {shown!r} as a Redis url: {error}") from error
            connection_class = options.pop("connection_class")
            options.pop("max_connections", None)  # An option of pools; there is none.
            # Only the sender can judge what a half-sent command may have done: redis-py must not repeat anything.
            options.update(protocol=3, legacy_responses=False, decode_responses=False, retry=None, retry_on_error=[])
            options["driver_info"] = None
            options.pop("retry_on_timeout", None)
            _try(connection_class, options, shown)
        options.setdefault("socket_timeout", HANDSHAKE_TIMEOUT)
        options.setdefault("socket_connect_timeout", HANDSHAKE_TIMEOUT)
        return cls(shown, connection_class, options)

    @classmethod
    def _of_sentinels(cls, url: str, shown: str) -> "Address":
        # Imported here: a program without sentinels starts faster without.
        from actorwork.streams.transport.sentinel import PrimaryConnection, SentinelPlace, Sentinels  # noqa: PLC0415

        try:
            parts = sentinel_parts(url)
        except ValueError as error:
            raise BrokerError(f"cannot use {shown!r} as a Redis url: {error}") from None
        if len(set(parts.sentinels)) < len(parts.sentinels):
            raise BrokerError(f"cannot use {shown!r} as a Redis url: it names a sentinel twice")
        places: list[SentinelPlace] = []
        try:
            primary = cls.parse(parts.primary)
            for name, place_url in parts.sentinels:
                place = cls.parse(place_url)
                places.append(SentinelPlace(name, place.connection_class, place.options))
        except BrokerError as error:
            reason = str(error).partition("as a Redis url: ")[2]
            raise BrokerError(f"cannot use {shown!r} as a Redis url: {reason}") from None
        sentinels = Sentinels(parts.name, places)
        connection_class = partial(PrimaryConnection, sentinels, primary.connection_class)
        return cls(shown, connection_class, primary.options, sentinels)

    @classmethod
    def _of_cluster(cls, url: str, shown: str) -> "Address":
        # Imported here, as above.
        from actorwork.streams.transport.cluster_layout import Cluster, SlotConnection  # noqa: PLC0415

        try:
            members = [cls.parse(member) for member in cluster_parts(url)]
        except (ValueError, BrokerError) as error:
            reason = str(error).rpartition("as a Redis url: ")[2]
            raise BrokerError(f"cannot use {shown!r} as a Redis url: {reason}") from None
        places = [(member.options["host"], member.options["port"]) for member in members]
        options = {name: value for name, value in members[0].options.items() if name not in ("host", "port")}
        cluster = Cluster(shown, places, members[0].connection_class, options)
        return cls(shown, partial(SlotConnection, cluster), options, cluster=cluster)


def _try(connection_class: Callable[..., RedisPyConnection], options: Mapping[str, Any], url: str) -> None:
    """Raise `BrokerError` if redis-py takes options otherwise. This makes a connection, and opens none."""
    try:
        connection_class(**options)
    except TypeError as error:
        found = re.search(_UNKNOWN, str(error))
        if found is None:
            raise
        raise BrokerError(
            f"cannot use {url!r} as a Redis url: no connection has the option {found[1]!r}; known are db, "
            "socket_timeout, socket_connect_timeout, and what redis-py's connections take (ssl_ca_certs, …)"
        ) from None
    except RedisError as error:
        raise BrokerError(f"cannot use {url!r} as a Redis url: {error}") from error


def open_socket(address: Address, name: str) -> RedisPyConnection:
    """Open one connection and prove that the server answers on it. Blocks; raises as `connect` does."""
    opened = address.connection_class(**{"client_name": name, **address.options})
    try:
        opened.connect()
        # A server that loads its data accepts connections already, and refuses every command: it is not ready yet.
        opened.send_command("PING")
        with contextlib.suppress(NoPermissionError):
            opened.read_response()
    except RedisError as error:
        opened.disconnect()
        raise _explained(error, address) from error
    except BaseException:
        opened.disconnect()
        raise
    return opened


def why_closed(opened: RedisPyConnection) -> str:
    """Return why a connection has ended at which the other side sends no more."""
    return getattr(opened, "why_closed", None) or "the server closed the connection"


def _explained(error: RedisError, address: Address) -> Exception:
    said = f"{getattr(error, 'status_code', None) or ''} {error}".strip()
    if isinstance(error, AuthenticationError):
        return BrokerError(
            f"{address.url} refuses these credentials ({said}): check the user and the password in the url "
            "(redis://user:password@host, percent-encoded), and the user's rights with ACL GETUSER"
        )
    if isinstance(error.__context__, ssl.SSLCertVerificationError):
        problem = error.__context__
        if problem.verify_code in _ANOTHER_NAME:
            advice = "connect to a name that is in the certificate, or have one made for this name"
            return BrokerError(
                f"the certificate of {address.url} is for another name ({problem.verify_message}): {advice}"
            )
        if problem.verify_code in _NOT_NOW:
            advice = "renew it at the server, and see whether the clocks of both machines are right"
            return BrokerError(f"the certificate of {address.url} is out of date ({problem.verify_message}): {advice}")
        return BrokerError(
            f"the certificate of {address.url} is not trusted ({problem.verify_message}): name the authority's file in "
            "the url (?ssl_ca_certs=/path/ca.pem)"
        )
    if isinstance(error, BusyLoadingError | MasterDownError):
        return ConnectionError(f"{address.url} is not ready ({said})")
    if isinstance(error, ConnectionError | TimeoutError):
        return type(error)(f"cannot connect to {address.url}: {said}")
    if isinstance(error, NoPermissionError):
        return BrokerError(
            f"the user of {address.url} lacks rights that a connection needs ({said}): grant +@connection"
        )
    return BrokerError(f"{address.url} refuses the connection ({said})")
