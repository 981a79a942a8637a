"""Urls of Redis: which there are, and what may be shown of one.

A password that is not percent-encoded makes a url mean something else: what follows a `/`, `?` or `#` in it is taken
for a database, for options, or for nothing. So a url is refused that has an `@` where none belongs, and neither the url
nor what a parser says about it is shown whole.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

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
FORM: Final = "redis://user:password@host:port/db, rediss://… for TLS, or unix:///path/to/socket"
ENCODE: Final = (
    "percent-encode what is not a letter or a digit in the user and the password (# is %23, / is %2F, ? is %3F)"
)
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
    return f"{known}://{rest}"


def is_readable(url: str) -> bool:
    """Return whether the parts of a url are what they seem to be."""
    try:
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
