"""The users of a dashboard that a program serves: from files, options and the environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from actorwork.web.access import Passwords, Rule, Token, TrustedHeader

TOKEN: Final = "ACTORWORK_WEB_TOKEN"  # noqa: S105 - the name of a variable
"""The variable with the token of all users."""
PASSWORDS: Final = "ACTORWORK_WEB_PASSWORDS"
"""The variable with a line NAME:ROLE:PASSWORD for each user."""


def users(
    *,
    token: str | None = None,
    passwords: str | None = None,
    header: str | None = None,
    proxies: Sequence[str] = (),
    role: str = "admin",
) -> list[Rule]:
    """Return the rules by which users are known; what is not given is taken from the environment.

    Raises `ValueError` for a token that is too short, lines that are no users, and a header without proxies.
    """
    token = os.environ.get(TOKEN, "") if token is None else token
    passwords = os.environ.get(PASSWORDS, "") if passwords is None else passwords
    found: list[Rule] = []
    if passwords.strip():
        found.append(Passwords.read(passwords))
    if token.strip():
        found.append(Token(token.strip(), role=role))
    if header is not None:
        found.append(TrustedHeader(header, proxies=proxies, role=role))
    return found
