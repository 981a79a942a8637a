"""Values that look like secrets are not shown: those whose names say so, in payloads and headers, at any depth."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final, cast

MASK: Final = "••••••"
SECRETS: Final = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "authorization",
    "cookie",
    "credential",
    "privatekey",
    "accesskey",
    "sessionid",
    "signature",
    "cardnumber",
    "cvv",
    "iban",
)
"""Parts of names that look like those of secrets, without the characters between words, in lower case."""


class Masking:
    """Hides values by the names of their keys; `secrets` are parts of such names."""

    def __init__(self, secrets: Collection[str] = SECRETS) -> None:
        self._parts = tuple(_plain(one) for one in secrets)

    def __repr__(self) -> str:
        return f"<Masking {len(self._parts)} names>"

    def is_secret(self, name: str) -> bool:
        """Whether a name looks like that of a secret."""
        plain = _plain(name)
        return any(part in plain for part in self._parts)

    def masked(self, value: Any) -> Any:
        """Return a copy of a JSON value in which secrets are replaced by `MASK`."""
        if isinstance(value, Mapping):
            return {
                name: MASK if self.is_secret(str(name)) and one not in (None, "", False) else self.masked(one)
                for name, one in cast("Mapping[Any, Any]", value).items()
            }
        if isinstance(value, (list, tuple)):
            return [self.masked(one) for one in cast("list[Any]", value)]
        return value

    def unmasked(self, value: Any, before: Any) -> Any:
        """Put back, into a value that a user has edited, the secrets that they were shown as `MASK`."""
        if value == MASK:
            return before
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            old = cast("Mapping[Any, Any]", before)
            return {
                name: self.unmasked(one, old.get(name, one)) for name, one in cast("Mapping[Any, Any]", value).items()
            }
        if isinstance(value, list) and isinstance(before, list):
            several, were = cast("list[Any]", value), cast("list[Any]", before)
            return [
                self.unmasked(one, were[number] if number < len(were) else one) for number, one in enumerate(several)
            ]
        return cast("Any", value)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
