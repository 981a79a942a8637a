"""The frames that a process and its parent exchange, over one socket that the child inherits.

A frame is four bytes of length, the most significant first, and a JSON object. Its `type` names it:

    from the child                                           from the parent
    node       incarnation: its tree is up, and it reads     drain    within: stop the intake, finish what is in flight
    started                                                  hurry    cancel what is in flight
    failed     failure: it did not start                     stop     within: end in order
    heartbeat  age: seconds since the loop's last tick       stacks   report the stacks of all threads
    status     tree, statistics, metrics: if it counts any
    event      event, origin (event_frames.py)
    drained    forced                                        (closed) the parent is gone: end at once
    stacks     text, age
    ended      failure: its tree could not be kept alive; null: it ended in order
    quota      spent: all messages that it may handle are taken, or settled
    suspects   present: whether messages that processes died with are in flight
    stuck      actor, message, seconds, text: a handler has not ended that long after its deadline
    unwanted   why: it is to be replaced now, for a handler that cannot be cancelled

Nothing here waits, and nothing is ever pickled on this way. Frames of an unknown type are ignored.
"""

from __future__ import annotations

import json
import struct
import traceback
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import attrs

from actorwork.errors import ActorworkError, BrokerError, RemoteError, SettingsError, StartError

Frame: TypeAlias = Mapping[str, Any]

LONGEST: Final = 64 * 1024 * 1024
"""Bytes of a frame, at most: a greater length means that these bytes are not a frame."""
_LONGEST_TRACEBACK: Final = 20_000
_HEADER: Final = struct.Struct(">I")


def packed(kind: str, /, **facts: Any) -> bytes:
    """Return a frame as bytes."""
    body = json.dumps({"type": kind, **facts}, separators=(",", ":"), default=str).encode()
    return _HEADER.pack(len(body)) + body


class Frames:
    """Finds the frames in bytes that arrive in any portions."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __repr__(self) -> str:
        return f"<frames: {len(self._bytes)} bytes of the next one>"

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes; return the frames that are complete now. Raises `ValueError` for bytes that are not frames."""
        self._bytes += data
        found: list[Frame] = []
        while len(self._bytes) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._bytes)
            if length > LONGEST:
                raise ValueError(f"a frame of {length} bytes; the longest is {LONGEST}")
            end = _HEADER.size + length
            if len(self._bytes) < end:
                break
            frame = json.loads(bytes(self._bytes[_HEADER.size : end]))
            if not isinstance(frame, dict):
                raise ValueError(f"a frame is a JSON object, got {frame!r:.100}")  # noqa: TRY004 - so is every other defect
            found.append(frame)  # pyright: ignore[reportUnknownArgumentType]
            del self._bytes[:end]
        return found


@attrs.frozen
class RemoteFailure:
    """An error on its way to another process, as text."""

    type: str
    text: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> RemoteFailure:
        lines = "".join(traceback.format_exception(error))
        return cls(type(error).__name__, str(error), lines[-_LONGEST_TRACEBACK:])

    @classmethod
    def read(cls, facts: Frame) -> RemoteFailure:
        return cls(str(facts.get("type", "")), str(facts.get("text", "")), str(facts.get("traceback", "")))

    def error(self, child_id: object) -> ActorworkError:
        """Return it as an error again: of the same class for the few that say whose problem it is."""
        match self.type:
            case "StartError":
                error: ActorworkError = StartError(self.text, child_id=str(child_id))
            case "SettingsError":
                error = SettingsError(self.text)
            case "BrokerError":
                error = BrokerError(self.text)
            case _:
                error = RemoteError(f"{self.type}: {self.text}", type=self.type, reason=self.text)
        if self.traceback:
            error.add_note(f"In that process:\n{self.traceback.rstrip()}")
        return error
