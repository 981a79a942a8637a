"""Urls of Redis: which there are, and what may be shown of one.

A password that is not percent-encoded makes a url mean something else: what follows a `/`, `?` or `#` in it is taken
for a database, for options, or for nothing. So a url is refused that has an `@` where none belongs, and neither the url
nor what a parser says about it is shown whole.

A url of sentinels names several hosts, and the primary by the name that they know it by:
`redis+sentinel://user:password@host1:26379,host2:26379/mymaster/0?sentinel_password=…`. `sentinel_parts` takes it apart
into plain urls: one for each sentinel, and one for the primary, whose host is not known yet.

A url of a cluster names some of its members, from which the others are learned:
`redis+cluster://user:password@host1:6379,host2:6379`. `cluster_parts` makes a plain url for each.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

SCHEMES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+tls": "rediss",
    "redis+ssl": "rediss",
}
"""The schemes that are understood, each with redis-py's name for it."""
SENTINEL_SCHEMES: Final = {
    "redis+sentinel": "redis",
    "rediss+sentinel": "rediss",
    "valkey+sentinel": "redis",
    "valkeys+sentinel": "rediss",
}
"""The schemes of urls that name sentinels, each with the scheme of its connections."""
CLUSTER_SCHEMES: Final = {
    "redis+cluster": "redis",
    "rediss+cluster": "rediss",
    "valkey+cluster": "redis",
    "valkeys+cluster": "rediss",
}
"""The schemes of urls that name members of a cluster, each with the scheme of its connections."""
SENTINEL_PORT: Final = 26379
CLUSTER_PORT: Final = 6379
SENTINEL_ANSWERS_WITHIN: Final = 1.0
"""Seconds for each step of asking a sentinel, unless the url says `sentinel_socket_timeout`."""
FORM: Final = (
    "redis://user:password@host:port/db, rediss://… for TLS, unix:///path/to/socket, redis+sentinel://host,host/name, "
    "or redis+cluster://host,host"
)
CLUSTER_FORM: Final = "redis+cluster://user:password@host1:6379,host2:6379, without a database: a cluster has only one"
SENTINEL_FORM: Final = (
    "redis+sentinel://user:password@host1:26379,host2:26379/name/db, where name is that of the primary at the sentinels"
)
ENCODE: Final = (
    "percent-encode what is not a letter or a digit in the user and the password (# is %23, / is %2F, ? is %3F)"
)
_OF_SENTINELS: Final = "sentinel_"
_OF_READERS: Final = "reader_connections"
_ANY_HOST: Final = "primary.invalid"
_SECRET: Final = re.compile(r"pass|secret|token|credential", re.IGNORECASE)


def canonical(url: str) -> str:
    """Return a url with redis-py's name of its scheme. Raises `ValueError`, without anything secret, if it has no such
    form.
    """
    scheme, separator, rest = url.partition("://")
    known = SCHEMES.get(scheme.lower())
    if known is None or not separator:
        raise ValueError(f"expected {FORM}")
    if not is_readable(url):
        raise ValueError(f"expected {FORM}; {ENCODE}")
    database = unquote(urlsplit(url).path.strip("/"))
    if known != "unix" and database and not database.isdecimal():
        # redis-py would take the database 0 for a name, and 12 for 1/2.
        raise ValueError(f"expected a number as the database behind the host: {FORM}")
    return f"{known}://{rest}"


class SentinelParts(NamedTuple):
    """What a url of sentinels says, as plain urls that hold its passwords."""

    name: str
    sentinels: tuple[tuple[str, str], ...]
    """For each sentinel its `host:port`, and the url of a connection to it."""
    primary: str
    """The url of a connection to the primary, with another host in the place of its own."""


def is_of_sentinels(url: str) -> bool:
    return url.partition("://")[0].lower() in SENTINEL_SCHEMES


def sentinel_parts(url: str) -> SentinelParts:
    """Take a url of sentinels apart. Raises `ValueError`, without anything secret.

    Options that begin with `sentinel_` are those of the connections to the sentinels, without the prefix; these take
    the TLS options of the primary as well. Other options are the primary's.
    """
    if not is_readable(url):
        raise ValueError(f"expected {SENTINEL_FORM}; {ENCODE}")
    plain, hosts = _with_one_host(url)
    parts = urlsplit(plain)
    scheme = SENTINEL_SCHEMES[parts.scheme]
    user, at, host = parts.netloc.rpartition("@")
    name, *rest = parts.path.strip("/").split("/")
    if not name or len(rest) > 1 or not all(map(_host_of, hosts.split(","))):
        raise ValueError(f"expected {SENTINEL_FORM}")
    if rest and not rest[0].isdecimal():
        raise ValueError(f"expected a number as the database behind the name of the primary: {SENTINEL_FORM}")
    options = parse_qsl(parts.query, keep_blank_values=True)
    own = [(key, value) for key, value in options if not key.startswith(_OF_SENTINELS)]
    theirs = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), str(SENTINEL_ANSWERS_WITHIN))
    theirs |= {key: value for key, value in own if key.startswith("ssl_")}
    theirs |= {key.removeprefix(_OF_SENTINELS): value for key, value in options if key.startswith(_OF_SENTINELS)}
    credentials = f"{quote(theirs.pop('username', ''), safe='')}:{quote(theirs.pop('password', ''), safe='')}@"
    credentials = "" if credentials == ":@" else credentials
    sentinels: list[tuple[str, str]] = []
    for one in hosts.split(","):
        place = f"{_host_of(one)}:{urlsplit(f'//{one}').port or SENTINEL_PORT}"
        sentinels.append((place, f"{scheme}://{credentials}{place}?{urlencode(theirs)}"))
    database = "".join(f"/{number}" for number in rest)
    return SentinelParts(unquote(name), tuple(sentinels), f"{scheme}://{user}{at}{host}{database}?{urlencode(own)}")


def is_of_cluster(url: str) -> bool:
    return url.partition("://")[0].lower() in CLUSTER_SCHEMES


def cluster_parts(url: str) -> tuple[str, ...]:
    """Return the url of a connection to each member that a url of a cluster names. Raises `ValueError`, without
    anything secret.
    """
    if not is_readable(url):
        raise ValueError(f"expected {CLUSTER_FORM}; {ENCODE}")
    plain, hosts = _with_one_host(url)
    parts = urlsplit(plain)
    scheme = CLUSTER_SCHEMES[parts.scheme]
    user, at, _ = parts.netloc.rpartition("@")
    named = hosts.split(",")
    if not all(map(_host_of, named)):
        raise ValueError(f"expected {CLUSTER_FORM}")
    if parts.path.strip("/") not in ("", "0") or any(key == "db" and db != "0" for key, db in parse_qsl(parts.query)):
        raise ValueError(f"a cluster has the database 0 only; expected {CLUSTER_FORM}")
    query = f"?{parts.query}" if parts.query else ""
    places = [f"{_host_of(one)}:{urlsplit(f'//{one}').port or CLUSTER_PORT}" for one in named]
    if len(set(places)) < len(places):
        raise ValueError("it names a member twice")
    return tuple(f"{scheme}://{user}{at}{place}{query}" for place in places)


def without_reader_connections(url: str) -> tuple[str, int | None]:
    """Return a url without the option that limits the connections of readers, and the limit. Raises `ValueError`."""
    before, _, query = url.partition("?")
    if _OF_READERS not in query:
        return url, None
    kept: list[str] = []
    most: int | None = None
    for option in query.split("&"):
        name, _, value = option.partition("=")
        if name != _OF_READERS:
            kept.append(option)
        elif value.isascii() and value.isdecimal() and int(value) > 0:
            most = int(value)
        else:
            raise ValueError(
                f"{_OF_READERS} is how many connections the readers of a node may have, 1 or more, got {value!r}:"
                " leave it out, and each reader has one"
            )
    return "?".join((before, "&".join(kept))) if kept else before, most


def _names_several(url: str) -> bool:
    return is_of_sentinels(url) or is_of_cluster(url)


def _with_one_host(url: str) -> tuple[str, str]:
    """Return a url of several hosts with a single host in the place of all, as parsers expect it, and the hosts."""
    scheme, _, rest = url.partition("://")
    end = min((index for index in map(rest.find, "/?#") if index >= 0), default=len(rest))
    user, at, hosts = rest[:end].rpartition("@")
    return f"{scheme}://{user}{at}{_ANY_HOST}{rest[end:]}", hosts


def _host_of(place: str) -> str:
    """Return the host of `host:port`, an IPv6 address in its brackets."""
    host = urlsplit(f"//{place}").hostname or ""
    return f"[{host}]" if ":" in host else host


def is_readable(url: str) -> bool:
    """Return whether the parts of a url are what they seem to be."""
    try:
        if _names_several(url):
            url, hosts = _with_one_host(url)
            for host in hosts.split(","):
                _ = urlsplit(f"//{host}").port
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    elsewhere = (parts.query, parts.fragment, "" if parts.scheme == "unix" and not parts.netloc else parts.path)
    if "@" not in parts.netloc and any("@" in part for part in elsewhere):
        return False
    return not parts.fragment and not url.startswith(" ")


def without_password(url: str) -> str:
    """Return a url as it may be logged."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator or not is_readable(url):
        return _remains(scheme + separator if separator else "", rest if separator else url)
    if _names_several(url):
        plain, hosts = _with_one_host(url)
        start, _, rest = plain.partition("://")
        shown = without_password(f"redis://{rest}").removeprefix("redis://")
        return f"{start}://{shown.replace(_ANY_HOST, hosts, 1)}"
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    if parts.password is None and not any(_SECRET.search(name) for name, _ in options):
        return url
    netloc = parts.netloc
    if parts.password is not None:
        netloc = f"{parts.username or ''}:***@{netloc.rpartition('@')[2]}"
    query = urlencode([(name, "***" if _SECRET.search(name) else value) for name, value in options], safe="*/")
    # By hand: urlunsplit would write unix:/path, which is no Redis url.
    return f"{parts.scheme}://{netloc}{parts.path}{'?' if query else ''}{query}"


def _remains(start: str, rest: str) -> str:
    """Return what of a url is no secret for sure: its scheme, and the host after the last `@`, without options."""
    _, at, host = rest.rpartition("@")
    if at:
        return f"{start}***@{re.split('[/?#]', host)[0]}"
    address = re.split("[/?#]", rest)[0]
    name, colon, port = address.partition(":")
    return f"{start}{address}" if not colon or port.isdecimal() else f"{start}{name}:***"
