"""Events on their way from a process to its parent, where `emit=` receives them: typed there as they are here.

They travel as JSON: nothing is unpickled from a process that runs other people's code. What has no form in JSON:

    an error             as text, and a `RemoteError` there (or the class of ours that it was)
    a delivery's token   left out: it is the broker's own handle, and of no use elsewhere
    any other object     as the text of its repr

A process may have more events than its parent can take. It never waits for that: what is beyond the bound is dropped
and counted, and the count is an event too, `EventsDropped`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, Final, cast, get_args

import attrs

from actorwork import events
from actorwork.message import Delivery, Failure, Priority
from actorwork.policy.exits import Exit, Kind
from actorwork.policy.settlement import Settlement
from actorwork.records import Pause
from actorwork.runtime.processes.control import Frame, RemoteFailure, packed

LONGEST: Final = 256 * 1024
"""Bytes of an event, at most: a larger one is dropped."""
_LONGEST_REPR: Final = 1000
_PLAIN: Final = frozenset({bool, int, float, str, type(None)})
_CLASSES: Final[Mapping[str, type[Any]]] = {
    made.__name__: made
    for made in (*get_args(events.Event), *get_args(Settlement), Delivery, Exit, Failure, Pause, events.Origin)
}
_ENUMS: Final[Mapping[str, type[enum.Enum]]] = {"Kind": Kind, "Priority": Priority}


class EventForwarding:
    """Sends the events of a process to its parent, and counts those that it had to drop."""

    def __init__(self, send: Callable[[bytes], bool]) -> None:
        self._send = send
        self._dropped = 0

    def __repr__(self) -> str:
        return f"<forwarding of events: {self._dropped} dropped since the last report>"

    def __call__(self, event: events.Event) -> None:
        try:
            frame = packed("event", **self.facts_of(event))
        except Exception:  # noqa: BLE001 - a handler's error, whose `__str__` raises: no reason to end this process
            self._dropped += 1
            return
        if len(frame) > LONGEST or not self._send(frame):
            self._dropped += 1

    def facts_of(self, event: events.Event) -> Mapping[str, object]:
        """Return what the frame of an event holds."""
        return {"event": written(event), "origin": written(event.origin)}

    def take_dropped(self) -> int:
        """Return how many events were dropped since this was called last."""
        count, self._dropped = self._dropped, 0
        return count


def event_from(frame: Frame, origin: events.Origin) -> events.Event | None:
    """Return the event of a frame, as one of `origin` unless that process only passed it on; None if it has none."""
    try:
        event, further = read(frame["event"]), read(frame.get("origin"))
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(event, get_args(events.Event)):
        return None
    found = cast("events.Event", event)
    found.come_from(further if isinstance(further, events.Origin) else origin)
    return found


def written(value: object) -> object:
    """Return a value as JSON; what is no JSON value itself becomes an object with its kind, `$`."""
    if type(value) in _PLAIN:
        return value
    if type(value) is bytes:
        return {"$": "bytes", "of": value.decode("latin-1")}
    if isinstance(value, enum.Enum) and type(value).__name__ in _ENUMS:
        return {"$": type(value).__name__, "of": value.value}
    if isinstance(value, BaseException):
        return {"$": "error", "of": attrs.asdict(RemoteFailure.of(value))}
    if _CLASSES.get(type(value).__name__) is type(value):
        fields = {
            field.name: None if field.name == "token" else written(getattr(value, field.name))
            for field in attrs.fields(type(value))
        }
        return {"$": type(value).__name__, "of": fields}
    return _written_collection(value)


def _written_collection(value: object) -> object:
    match value:
        case tuple():
            return {"$": "tuple", "of": [written(one) for one in cast("tuple[object, ...]", value)]}
        case list():
            return [written(one) for one in cast("list[object]", value)]
        case Mapping():
            pairs = cast("Mapping[object, object]", value).items()
            return {"$": "mapping", "of": [[written(key), written(one)] for key, one in pairs]}
        case _:
            return repr(value)[:_LONGEST_REPR]


def read(value: Any) -> Any:
    """Return the value that `written` made this JSON of."""
    if isinstance(value, list):
        return [read(one) for one in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    tagged = cast("dict[str, Any]", value)
    kind, of = tagged["$"], tagged["of"]
    match kind:
        case "bytes":
            return of.encode("latin-1")
        case "error":
            return RemoteFailure.read(of).error("")
        case "tuple":
            return tuple(read(one) for one in of)
        case "mapping":
            return {read(key): read(one) for key, one in of}
        case _ if kind in _ENUMS:
            return _ENUMS[kind](of)
        case _:
            return _CLASSES[kind](**{name: read(one) for name, one in of.items()})
