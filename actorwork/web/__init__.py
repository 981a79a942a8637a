"""The dashboard: pages and a JSON API on what runs at a broker, and actions on it.

    from actorwork.web import app
    dashboard = app("redis://localhost:6379/0")      an ASGI application, for Trio and asyncio

Each page is a view: a function that returns JSON, from which a template is drawn; `/api` has the JSON itself. Each
action is planned first, which checks it, counts, and words the question; then it is recorded, done, and recorded again.

    serving       `serve_pages`: the server of `actorwork web` and of a node, Hypercorn on Trio
    dashboard     `app`: the ASGI application, from a request to a response
    live          pages that follow, by server-sent events
    pages/        the views and the actions
    templates/, static/
                  what a browser is sent: templates of Jinja, one style sheet, one script
    rendering     templates and their filters
    opening       the broker that the pages show, kept open, on either loop
    access        who may do what: roles, tokens, passwords, trusted headers
    guarding      which requests are refused from every user: hosts, foreign sites, sizes; headers of responses
    request       what a view and an action are given
    masking       values that look like secrets

It needs Starlette and Jinja2, and Hypercorn to serve, which the extra `web` installs; nothing else imports them.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from actorwork.errors import MissingExtra

if TYPE_CHECKING:
    from actorwork.web.access import (
        PERMISSIONS as PERMISSIONS,
        ROLES as ROLES,
        Access as Access,
        Passwords as Passwords,
        Token as Token,
        TrustedHeader as TrustedHeader,
    )
    from actorwork.web.dashboard import Dashboard as Dashboard, app as app

__all__ = ["PERMISSIONS", "ROLES", "Access", "Dashboard", "Passwords", "Token", "TrustedHeader", "app"]

_OF_ACCESS = frozenset({"PERMISSIONS", "ROLES", "Access", "Passwords", "Token", "TrustedHeader"})


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require()
    # Imported when it is used, so that a program that may serve pages starts without them.
    if name in _OF_ACCESS:
        from actorwork.web import access as module  # noqa: PLC0415 - see above
    else:
        from actorwork.web import dashboard as module  # noqa: PLC0415 - see above
    return getattr(module, name)


def require(*more: str) -> None:
    """Raise `MissingExtra`, with the command that helps, unless what the dashboard needs is installed."""
    missing = [name for name in ("starlette", "jinja2", *more) if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"the dashboard needs {' and '.join(missing)}, from the extra 'web'. Install it with:"
            ' pip install "actorwork[web]"'
        )
