"""What a view and an action are given, and what they return.

Sight     the broker, the user, and the parameters of a page
Form      the fields of an action, from JSON or from a form
Page      a view with its path, its template and the permission that it wants
Action    what changes something: `plan` checks it and words the question; `do` of the plan carries it out
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from actorwork import codec
from actorwork.errors import CodecError
from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.web.access import Access
    from actorwork.web.masking import Masking


class Refused(Exception):
    """A request that is answered with an error: a sentence for its user, and a status of HTTP."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


def not_found(text: str) -> Refused:
    """Return the refusal of a request for what does not exist."""
    return Refused(text, 404)


@attrs.define(eq=False)
class Progress:
    """How many of its objects an action has changed so far."""

    count: int = 0


@attrs.frozen(kw_only=True, eq=False)
class Sight:
    """What a view looks at, and with whose eyes."""

    broker: Broker
    access: Access
    masking: Masking
    query: Mapping[str, str] = attrs.field(factory=dict[str, str])
    spool: Path | None = None
    """The file of a spool on this machine."""
    trace_url: str = ""
    """Where traces are shown: an address with `{trace_id}`; without one, traces have no links."""
    sending: str = ""
    """Begins the ids of messages that are sent from here."""
    remembered: MutableMapping[str, Any] = attrs.field(factory=dict[str, Any])
    """What a view keeps for its next look, while a page follows; empty at its first look."""
    progress: Progress = attrs.field(factory=Progress)
    """What an action that takes a while adds to."""

    def text(self, name: str, default: str = "") -> str:
        """Return a parameter of the page."""
        return self.query.get(name, default)

    def needed(self, name: str) -> str:
        """Return a parameter of the page; without it, the request is refused."""
        if not self.query.get(name):
            raise Refused(f"this page wants the parameter {name!r}")
        return self.query[name]

    def number(self, name: str, default: int, *, most: int) -> int:
        """Return a parameter that is a number of at least 1; a larger one than `most` is `most`."""
        text = self.query.get(name, "")
        if not text:
            return default
        if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) < 1:
            raise Refused(f"{name} wants a number from 1 on, got {text[:50]!r}")
        return min(most, int(text))

    def want(self, permission: str) -> None:
        """Refuse the request unless its user has a permission."""
        if not self.access.may(permission):
            raise Refused(f"the role {self.access.role!r} of {self.access.who} does not include {permission!r}", 403)


@attrs.frozen(eq=False)
class Form:
    """The fields of an action: values of JSON, or texts of a form."""

    fields: Mapping[str, Any]

    def text(self, name: str, default: str = "") -> str:
        """Return a field that is a text; the first one of several."""
        value = self.fields.get(name, default)
        if isinstance(value, list):
            several = cast("list[Any]", value)
            value = several[0] if several else default
        if value is None:
            return default
        if not isinstance(value, str):
            raise Refused(f"{name} wants a text, got {str(value)[:50]!r}")
        return value

    def needed(self, name: str) -> str:
        """Return a field that is a text; without it, the request is refused."""
        value = self.text(name)
        if not value:
            raise Refused(f"this request wants the field {name!r}")
        return value

    def texts(self, name: str) -> Sequence[str]:
        """Return all values of a field."""
        value = self.fields.get(name)
        if value is None:
            return []
        several = cast("list[Any]", value) if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in several):
            raise Refused(f"{name} wants texts")
        return cast("list[str]", several)

    def flag(self, name: str) -> bool:
        """Whether a field says yes."""
        value = self.fields.get(name)
        if isinstance(value, list):
            value = cast("list[Any]", value)[0] if value else None
        return value is True or value in ("yes", "true", "on", "1")


def json_of(text: str, what: str) -> Any:
    """Parse what a user has written as JSON; the refusal says where it is none, and `what` it is."""
    try:
        return codec.loads(text.encode())
    except UnicodeEncodeError:
        raise Refused(f"{what} is not JSON: it has a character that is half of one") from None
    except CodecError as error:
        cause = error.__cause__
        where = f": {cause}" if isinstance(cause, json.JSONDecodeError) else f" that can be read: {error}"
        raise Refused(f"{what} is not JSON{where}") from None


@attrs.frozen(eq=False, repr=False)
class Done(Value):
    """What an action has done, in words, and to how many; `problems` are what could not be done."""

    text: str
    how_many: int | None = None
    problems: Sequence[str] = ()


@attrs.frozen(kw_only=True, eq=False)
class Plan:
    """An action that is checked, and not begun.

    `question` is for the user to confirm, `what` names the object in the record, and `back` is the page to return to.
    """

    question: str
    what: str
    do: Callable[[], Awaitable[Done]]
    how_many: int | None = None
    is_grave: bool = False
    """Whether it cannot be undone."""
    back: str = "/"


@attrs.frozen(eq=False)
class Page:
    """A page: `view` returns its JSON, which `template` draws."""

    path: str
    title: str
    template: str
    view: Callable[[Sight], Awaitable[dict[str, Any]]]
    permission: str = "see"
    is_live: bool = True


@attrs.frozen(eq=False)
class Action:
    """What changes something. `name` is the word for it in the record."""

    path: str
    name: str
    permission: str
    plan: Callable[[Sight, Form], Awaitable[Plan]]
