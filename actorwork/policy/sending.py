"""The options with which a sender sends a message: when, how urgently, in what order, and whether at all.

    delay, at     the broker holds the message back: for a number of seconds, or until a moment
    expires       the message is not started later than a number of seconds from now, or after a moment
    priority      more urgent messages are delivered first
    key           messages with the same key are handled one after another, in their order
    unique        of all messages with the same unique key only one is alive
    headers, id   values that travel beside the message, and the id under which the broker stores it once
    durability    the sender waits until replicas, or disks, have the message
    results_ttl   of a message that is submitted: for how many seconds its result is kept

Every function that sends takes the same options, so they are checked here, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal, TypedDict, cast

import attrs

from actorwork.durations import Duration, as_seconds, seconds_of
from actorwork.message import NO_HEADERS, Durability, Envelope, Json, Priority, Unique, as_durability
from actorwork.policy.bounds import check_name, is_number
from actorwork.shown import Value

OURS: Final = "actorwork-"
"""The prefix of the headers that belong to the runtime."""

SHORTEST_RESULT: Final = 1.0
LONGEST_RESULT: Final = 365 * 86_400.0
"""Seconds for which results may be kept."""

LONGEST_WAIT: Final = 100 * 365 * 86_400.0
"""Seconds. A delay of a century is a mistake in the unit."""


class SendOptions(TypedDict, total=False):
    """The options of a message; times are durations, or datetimes with a timezone."""

    delay: Duration
    at: datetime | float | None
    expires: datetime | Duration | None
    priority: Priority | None
    key: str | None
    unique: str | Unique | None
    headers: Mapping[str, Json] | None
    id: str | None
    durability: Durability | Literal["replicated", "fsynced"] | None


class SubmitOptions(SendOptions, total=False):
    """The options of a message whose result is kept, and for how long: for the actor's `results_ttl` if it is None."""

    results_ttl: Duration | None


def results_ttl_of(options: SubmitOptions, otherwise: float) -> tuple[SendOptions, float]:
    """Return options without `results_ttl`, and its seconds; raises `ValueError` or `TypeError`."""
    ttl = options.get("results_ttl")
    rest = cast("SendOptions", {name: value for name, value in options.items() if name != "results_ttl"})
    if ttl is None:
        return rest, otherwise
    seconds = seconds_of("results_ttl", ttl)
    if not is_number(seconds) or not SHORTEST_RESULT <= seconds <= LONGEST_RESULT:
        wanted = f"seconds from {SHORTEST_RESULT:g} to {LONGEST_RESULT:.10g} (a year)"
        raise ValueError(f"results_ttl wants {wanted}, got {ttl!r}")
    return rest, float(seconds)


def _as_moment(value: datetime | Duration | None) -> datetime | float | None:
    return value if value is None or isinstance(value, datetime) else as_seconds(value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Sending(Value):
    """The same options, checked; raises `ValueError` or `TypeError` for invalid ones."""

    delay: float = attrs.field(default=0.0, converter=as_seconds)
    at: datetime | float | None = None
    expires: datetime | float | None = attrs.field(default=None, converter=_as_moment)
    priority: Priority | None = None
    key: str | None = None
    unique: str | Unique | None = None
    headers: Mapping[str, Json] | None = None
    id: str | None = None
    durability: Durability | None = attrs.field(default=None, converter=as_durability)

    @classmethod
    def of(cls, options: SendOptions) -> Sending:
        """Check options given by name; the error for an unknown name lists those that exist."""
        for name in options:
            if name not in NAMES:
                if name == "results_ttl":
                    raise TypeError("results_ttl=… is for a message that is submitted: no result is kept of others")
                said = f"but unique=Unique(…, {name}=…)" if name in OF_UNIQUE else f"but {', '.join(NAMES)}"
                raise TypeError(f"a message has no {name}=…, {said}")
        return cls(**options)

    def __attrs_post_init__(self) -> None:
        if not is_number(self.delay) or not 0 <= self.delay <= LONGEST_WAIT:
            raise ValueError(f"delay wants seconds from 0 to {LONGEST_WAIT:.10g} (a century), got {self.delay!r}")
        if self.at is not None and self.delay:
            raise ValueError(f"a message takes delay or at, not both; got delay={self.delay!r}, at={self.at!r}")
        _check_moment("at", self.at, "seconds since the epoch")
        _check_moment("expires", self.expires, "seconds from now")
        if not isinstance(self.expires, datetime) and self.expires == 0:
            raise ValueError("expires wants more than 0 seconds from now: this message would never be handled")
        if self.priority is not None and not isinstance(self.priority, Priority):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"priority wants a Priority, such as Priority.HIGH, got {self.priority!r}")
        check_name("key", self.key, optional=True)
        check_name("unique", self.unique.key if isinstance(self.unique, Unique) else self.unique, optional=True)
        check_name("id", self.id, optional=True)
        if self.headers is not None and not isinstance(self.headers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"headers wants a mapping of names to JSON, got {self.headers!r}")
        for name in self.headers or ():
            if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"headers wants names that are str, got {name!r}")
            if name.startswith(OURS):
                raise ValueError(f"headers that begin with {OURS!r} belong to the runtime, got {name!r}")

    def envelope(
        self,
        source: str,
        message_id: str,
        data: bytes,
        wire: str | None,
        *,
        ours: Mapping[str, Json] = NO_HEADERS,
        priority: Priority = Priority.NORMAL,
    ) -> Envelope:
        """Put a message into an envelope. `priority` applies if the sender has given none."""
        is_moment = isinstance(self.expires, datetime)
        return Envelope(
            source=source,
            id=message_id if self.id is None else self.id,
            data=data,
            type=wire,
            headers={**self.headers, **ours} if self.headers else ours,
            delay=float(self.delay),
            at=_epoch(self.at),
            key=self.key,
            priority=priority if self.priority is None else self.priority,
            expires=_epoch(self.expires) if is_moment else None,
            lifetime=None if is_moment or self.expires is None else _epoch(self.expires),
            unique=Unique(self.unique) if isinstance(self.unique, str) else self.unique,
            durability=self.durability,
        )


def _check_moment(name: str, value: object, wanted: str) -> None:
    if value is None:
        return
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{name} wants a time with a timezone, got {value!r}")
    elif not is_number(value) or not 0 <= value <= LONGEST_WAIT:
        raise ValueError(f"{name} wants {wanted}, or a datetime, got {value!r}")


def _epoch(moment: datetime | float | None) -> float | None:
    if isinstance(moment, datetime):
        return moment.timestamp()
    return None if moment is None else float(moment)


PLAIN: Final = Sending()
NAMES: Final = tuple(field.name for field in attrs.fields(Sending))
OF_UNIQUE: Final = ("ttl", "on_conflict")
