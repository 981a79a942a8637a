"""`griffe check … | python -m docs.site.changes`: of all changes that may break a caller, those of public names.

griffe takes every name without an underscore for public. Public here are those that the reference has; the rest of the
package may change. The exit code is 1 if a public name has changed, and 2 for lines that are no changes, such as a
commit that does not exist.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from docs.site import reference

_CHANGE = re.compile(r"(?P<file>actorwork[\w/]*)\.py:\d+: (?P<name>\w+)[\w.]*(?:\(.*?\))?: .+")
_COLOR = re.compile(r"\x1b\[[\d;]*m")


def public(lines: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the lines about public names, and those that are no changes."""
    found: list[str] = []
    others: list[str] = []
    for line in lines:
        text = _COLOR.sub("", line).strip()
        change = _CHANGE.fullmatch(text)
        if change is None:
            others += [text] if text else []
        elif _is_public(change["file"].replace("/", ".").removesuffix(".__init__"), change["name"]):
            found.append(text)
    return found, others


def _is_public(module: str, name: str) -> bool:
    # A name that a public module has lost is in no reference any more.
    return module in ("actorwork", *reference.MODULES) or f"{module}.{name}" in reference.targets()


if __name__ == "__main__":
    changed, unread = public(sys.stdin)
    print("\n".join([*unread, *changed]) or "no public name has lost anything")
    sys.exit(2 if unread else bool(changed))
