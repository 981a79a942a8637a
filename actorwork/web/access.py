"""Who may do what: permissions, roles, and the ways in which a request says whose it is.

A rule is a function from a request to an `Access`, or to None if it does not know the request's user; the host of the
dashboard may give one of its own. With several, the first that knows the user decides. Without any, only requests from
this machine are answered, and only those that are addressed to it: a page elsewhere whose name leads here is refused.

    Local            everybody on this machine
    Token            those who have a token: as `Authorization: Bearer`, or as a password with any name
    Passwords        users with passwords of their own
    TrustedHeader    those whom a proxy in front has identified

Secrets are compared in constant time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import attrs
from starlette.requests import Request

from actorwork.shown import Value
from actorwork.web.guarding import is_local_host

PERMISSIONS: Final = (
    "see",
    "see_payloads",
    "pause",
    "replay",
    "edit",
    "drop",
    "run_trigger",
    "send",
    "cancel",
    "stop_node",
    "take_stack",
)
"""What there is to be permitted. `see` is every page, without the contents of messages."""

ROLES: Final[Mapping[str, frozenset[str]]] = {
    "viewer": frozenset({"see"}),
    "operator": frozenset({"see", "see_payloads", "pause", "replay", "run_trigger", "cancel"}),
    "admin": frozenset(PERMISSIONS),
}
"""Sets of permissions with a name; an `Access` may have any other set, under any other name."""


def _permissions(value: Iterable[str]) -> frozenset[str]:
    found = frozenset(value)
    unknown = sorted(found - set(PERMISSIONS))
    if unknown:
        raise ValueError(f"no permission is called {unknown[0]!r}; known are {', '.join(PERMISSIONS)}")
    return found


@attrs.frozen(eq=False, repr=False)
class Access(Value):
    """A user and what they may do; with the name of one of `ROLES`, `permissions` need not be given."""

    who: str
    role: str = "viewer"
    permissions: frozenset[str] = attrs.field(
        default=attrs.Factory(lambda self: permissions_of(self.role), takes_self=True), converter=_permissions
    )

    def may(self, permission: str) -> bool:
        """Whether this user may do it."""
        return permission in self.permissions


def permissions_of(role: str) -> frozenset[str]:
    """Return the permissions of a role; raises `ValueError` for a name that is not one of `ROLES`."""
    if role not in ROLES:
        raise ValueError(f"no role is called {role!r}; known are {', '.join(ROLES)}")
    return ROLES[role]


Rule: TypeAlias = Callable[[Request], "Access | Awaitable[Access | None] | None"]
"""Returns the access of a request, or None for a user that it does not know."""


async def access_of(rules: Sequence[Rule], request: Request) -> Access | None:
    """Return the access that the first rule grants which knows the request's user."""
    for rule in rules:
        found = rule(request)
        if inspect.isawaitable(found):
            found = await found
        if found is not None:
            return found
    return None


class Local:
    """Everybody on this machine: requests from it that are addressed to it, and have come through no proxy."""

    def __init__(self, role: str = "admin") -> None:
        self._access = Access("local", role)

    def __repr__(self) -> str:
        return f"<Local {self._access.role}>"

    def __call__(self, request: Request) -> Access | None:
        headers = request.headers
        if "forwarded" in headers or "x-forwarded-for" in headers:
            return None  # It comes from elsewhere, through a proxy on this machine.
        host = request.client.host if request.client else ""
        # Servers on unix sockets name no client.
        is_here = host in ("", "testclient", "localhost") or _is_loopback(host)
        return self._access if is_here and is_local_host(headers.get("host", "")) else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _digest(text: str) -> bytes:
    # Of one length, so that not even the length of a secret shows in the time that a comparison takes.
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


class Token:
    """Those who have a token: as `Authorization: Bearer TOKEN`, or as the password of any name in a browser."""

    def __init__(self, token: str, *, role: str = "admin", who: str = "token") -> None:
        if len(token) < 16:
            raise ValueError("a token has 16 characters or more; make one with: python -m secrets")
        self._digest = _digest(token)
        self._who = who
        self._role = role
        permissions_of(role)

    def __repr__(self) -> str:
        return f"<Token of a {self._role}>"

    def __call__(self, request: Request) -> Access | None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        name, given = self._who, value.strip()
        if scheme.lower() == "basic":
            name, given = _basic(value)
        elif scheme.lower() != "bearer":
            return None
        return Access(name or self._who, self._role) if hmac.compare_digest(_digest(given), self._digest) else None


def _basic(value: str) -> tuple[str, str]:
    try:
        name, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return name, password


class Passwords:
    """Users with passwords of their own: by name, a role and a password."""

    def __init__(self, users: Mapping[str, tuple[str, str]]) -> None:
        self._users = {_digest(name): (name, role, _digest(password)) for name, (role, password) in users.items()}
        for role, _ in users.values():
            permissions_of(role)

    def __repr__(self) -> str:
        return f"<Passwords of {len(self._users)} users>"

    @classmethod
    def read(cls, text: str) -> Passwords:
        """Read lines `NAME:ROLE:PASSWORD`; empty lines and those that begin with `#` are ignored. Raises ValueError."""
        users: dict[str, tuple[str, str]] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, rest = line.partition(":")
            role, _, password = rest.partition(":")
            if not name or not password or role not in ROLES:
                raise ValueError(f"line {number} is not NAME:ROLE:PASSWORD with one of the roles {', '.join(ROLES)}")
            users[name] = (role, password)
        if not users:
            raise ValueError("there is no user in it; a line is NAME:ROLE:PASSWORD")
        return cls(users)

    def __call__(self, request: Request) -> Access | None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        name, given = _basic(value)
        # A name that does not exist takes as long as a wrong password.
        known, role, digest = self._users.get(_digest(name), ("", "viewer", b"\0" * 32))
        return Access(known, role) if hmac.compare_digest(_digest(given), digest) else None


class TrustedHeader:
    """Those whom a proxy in front has identified, by a header that it sets, such as `X-Forwarded-User`.

    `proxies` are the addresses, or networks, from which the header is believed. `roles` has the roles of users by
    name; all others have `role`, or no access with None.
    """

    def __init__(
        self,
        header: str = "X-Forwarded-User",
        *,
        proxies: Iterable[str],
        role: str | None = "viewer",
        roles: Mapping[str, str] | None = None,
    ) -> None:
        self._header = header
        self._networks = [ipaddress.ip_network(one, strict=False) for one in proxies]
        if not self._networks:
            raise ValueError("a header is trusted only from named proxies: proxies wants at least one address")
        self._role = role
        self._roles = dict(roles or {})
        for one in (*self._roles.values(), *([] if role is None else [role])):
            permissions_of(one)

    def __repr__(self) -> str:
        return f"<TrustedHeader {self._header} from {', '.join(map(str, self._networks))}>"

    def __call__(self, request: Request) -> Access | None:
        user = request.headers.getlist(self._header)
        # Two of them: one is the client's own, which the proxy should have removed.
        if len(user) != 1 or not user[0] or request.client is None:
            return None
        try:
            address = ipaddress.ip_address(request.client.host.partition("%")[0])
        except ValueError:
            return None
        if not any(address in network for network in self._networks):
            return None
        role = self._roles.get(user[0], self._role)
        return None if role is None else Access(user[0], role)
