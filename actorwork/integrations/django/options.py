"""The `OPTIONS` of a backend, and the actor of each of its queues."""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet
from difflib import get_close_matches
from typing import Any

import attrs

from actorwork.brokers import is_file, is_redis, unknown_kind
from actorwork.durations import seconds_of
from actorwork.errors import SettingsError
from actorwork.settings import Settings


@attrs.frozen(kw_only=True)
class Options:
    """How a backend is set up, checked.

    `broker` is a URL, or None for the embedded broker. `prefix` begins the titles of the actors: projects that share a
    broker need different ones. `patience` is for how many seconds a call waits for a broker that is away. `settings`
    are those of the actors of all queues, `queues` those of some.
    """

    broker: str | None = None
    prefix: str = "django"
    patience: float = 30.0
    settings: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    queues: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict[str, Mapping[str, Any]])

    @classmethod
    def of(cls, given: Mapping[str, Any], alias: str, queues: AbstractSet[str]) -> Options:
        """Check the options of a backend, and the settings of its queues; raises what is wrong as `SettingsError`."""
        known = [field.name for field in attrs.fields(cls)]
        for name in given:
            if name not in known:
                raise SettingsError(f"OPTIONS of the backend {alias!r} has {name!r}; there are {', '.join(known)}")
        if not queues:
            raise SettingsError(f"QUEUES of the backend {alias!r} is empty: name its queues, each has an actor")
        broker = given.get("broker")
        if broker is not None and not (isinstance(broker, str) and (is_redis(broker) or is_file(broker))):
            raise SettingsError(f"OPTIONS of the backend {alias!r}: {unknown_kind(str(broker))}")
        for name in given.get("queues", ()):
            if name not in queues:
                raise SettingsError(f"OPTIONS of the backend {alias!r}: there is no queue {name!r} in its QUEUES")
        try:
            values: dict[str, Any] = {**given, "patience": seconds_of("patience", given.get("patience", 30))}
            options = cls(**values)
            for queue in queues:
                options.settings_of(queue)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"OPTIONS of the backend {alias!r}: {error}") from error
        return options

    def settings_of(self, queue: str) -> Settings:
        """Return the settings of the actor of a queue."""
        given: dict[str, Any] = {
            "title": f"{self.prefix}:{queue}",
            "description": f"tasks of the queue {queue}",
            **self.settings,
            **self.queues.get(queue, {}),
        }
        known = [field.alias for field in attrs.fields(Settings) if field.init]
        for name in given:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
                raise SettingsError(f"there is no setting {name!r} of an actor; {hint}")
        return Settings(**given)
