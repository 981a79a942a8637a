"""Requests that are refused from every user, and the headers of every response.

A browser sends a user's credentials along with requests that other sites make it send. So what changes anything must
come from our own pages: the browser says so in `Sec-Fetch-Site`, or where it does not know that header, in `Origin`. A
request with a bearer token was made by a program: no browser adds one by itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.requests import Request

LARGEST_BODY: Final = 2_000_000
"""Bytes of a request, at most: of the payload of an edited message."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def host_name(host: str) -> str:
    """Return the name in a `Host` header, without its port; "" if it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_local_host(host: str) -> bool:
    """Whether a `Host` header names this machine by a name that leads nowhere else."""
    name = host_name(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def wrong_host(request: Request, hosts: Collection[str]) -> str | None:
    """Return why a request is refused for its host, if only some are allowed: `*.example.org` allows what is below."""
    name = host_name(request.headers.get("host", ""))
    if not hosts or any(
        name == one.lower() or (one.startswith("*.") and name.endswith(one[1:].lower())) for one in hosts
    ):
        return None
    return f"this dashboard does not answer to the host {name[:100]!r}"


def foreign_write(request: Request) -> str | None:
    """Return why a request that changes something is refused for where it comes from, or None."""
    headers = request.headers
    if headers.get("authorization", "").lower().startswith("bearer "):
        return None
    site = headers.get("sec-fetch-site")
    if site is not None:
        return None if site == "same-origin" else f"a page of another site sent this (Sec-Fetch-Site: {site[:20]})"
    origin = headers.get("origin")
    if origin is None:
        return (
            "a browser says where a request comes from, in Sec-Fetch-Site or Origin; a program sends its token as"
            " Authorization: Bearer, or Origin with the address of the dashboard"
        )
    try:
        place = urlsplit(origin).netloc.lower()
    except ValueError:
        place = ""
    # Only the place: behind a proxy that ends TLS, the scheme is another one.
    if place and place == headers.get("host", "").lower():
        return None
    return f"a page of another site sent this (Origin: {origin[:200]})"
