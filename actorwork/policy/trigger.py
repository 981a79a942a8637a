"""The declaration of a trigger: what it sends, when, and how missed times are treated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs

from actorwork.durations import as_seconds
from actorwork.errors import SettingsError
from actorwork.policy.bounds import instance_of, one_of, seconds, text
from actorwork.policy.catchup import CATCHUPS, OVERLAPS, CatchUp, Overlap
from actorwork.policy.identity import identity
from actorwork.policy.schedule import LONGEST, Cron, Interval
from actorwork.shown import Shown

if TYPE_CHECKING:
    from actorwork.message import Json


def _are_keywords(_: object, __: attrs.Attribute[Any], value: object) -> None:
    names = cast("Iterable[object]", value)
    if value is not None and not (isinstance(value, Mapping) and all(isinstance(name, str) for name in names)):
        raise SettingsError(f"Trigger.kwargs wants a mapping of names to JSON, or None, got {value!r}")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Trigger(Shown):
    """Sends keyword arguments or a message to its actor, by a schedule.

    Times missed while no node ran fire afterwards (`is_catchup`), or do not; `catchup` is more precise: "all" of them,
    "one", or "skip". Times older than `catchup_window` seconds never fire. With `overlap="skip"` a time does not fire
    while a message of the trigger waits or is in flight. `jitter` spreads the times over that many seconds, `lifetime`
    ends the trigger that many seconds after its first registration.

    The broker notifies nodes of pauses at once. In case a notification is lost, nodes also look every
    `status_check_interval` seconds, and before the trigger fires if what they know is older than `status_cache_ttl`
    seconds (None: any age will do).
    """

    title: str = attrs.field(validator=text(1, 300))
    schedule: Interval | Cron = attrs.field(validator=instance_of((Interval, Cron), "an Interval or a Cron"))
    description: str = attrs.field(default="", validator=text(0, 1000))
    kwargs: Mapping[str, Json] | None = attrs.field(default=None, validator=_are_keywords)
    message: object = None
    is_catchup: bool = attrs.field(default=True, validator=instance_of(bool, "True or False"))
    catchup: CatchUp | None = attrs.field(default=None, validator=one_of(CATCHUPS, optional=True))
    catchup_window: float = attrs.field(default=86_400.0, converter=as_seconds, validator=seconds(0, 31_536_000))
    overlap: Overlap = attrs.field(default="allow", validator=one_of(OVERLAPS))
    jitter: float = attrs.field(default=0.0, converter=as_seconds, validator=seconds(0, 86_400))
    lifetime: float | None = attrs.field(
        default=None, converter=as_seconds, validator=seconds(0, LONGEST, above=True, optional=True)
    )
    status_check_interval: float = attrs.field(default=60.0, converter=as_seconds, validator=seconds(0.1, 3600))
    status_cache_ttl: float | None = attrs.field(default=5.0, converter=as_seconds, validator=seconds(0, optional=True))

    def __attrs_post_init__(self) -> None:
        if self.kwargs is not None and self.message is not None:
            raise SettingsError(f"Trigger {self.title!r} wants kwargs or a message, not both")

    @property
    def policy(self) -> CatchUp:
        """How missed times are treated: `catchup`, or its default by `is_catchup`."""
        return self.catchup or ("all" if self.is_catchup else "skip")

    @property
    def id(self) -> str:
        return identity(self.title)
