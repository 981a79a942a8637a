"""What a delivery publishes, kept until it is settled.

The first `max_events_in_memory` messages are kept in memory, the rest in a temporary file, as JSON lines. At the
end they are taken out in batches of `max_batch_size`: the last batch travels in the script that settles the delivery;
the ones before it are sent ahead, under ids derived from the delivery, so that running it again does not double them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO

import attrs

from actorwork.actors.handlers import handlers_of
from actorwork.codec import encode, encode_value
from actorwork.errors import SettingsError
from actorwork.message import NO_HEADERS, Delivery, Envelope, Json, MessageIds
from actorwork.settings import SOURCE, EventSettings, Settings


def source_of(target: object) -> str:
    """Return the source that a target stands for: a name, an actor class, or a ref that has a `source`."""
    if isinstance(target, str):
        if not SOURCE.fullmatch(target):
            raise SettingsError(f"a source is named with a-z A-Z 0-9 _ - :, got {target!r}")
        return target
    settings = getattr(target, "settings", None)
    if isinstance(settings, Settings):
        return settings.default_source
    source = getattr(target, "source", None)
    if isinstance(source, str):
        return source
    raise SettingsError(f"publish(…) wants the name of a source, an actor class or a durable ref, got {target!r}")


class Outgoing:
    """The messages that one delivery publishes."""

    def __init__(self, settings: EventSettings) -> None:
        self._settings = settings
        self._kept: list[Envelope] = []
        self._spilled: IO[bytes] | None = None
        self._spilled_count = 0

    def __len__(self) -> int:
        return len(self._kept) + self._spilled_count

    def add(self, target: object, message: object, *, headers: Mapping[str, Json] | None, delay: float) -> None:
        if not 0 <= delay < float("inf"):
            raise SettingsError(f"publish(delay=…) wants finite seconds >= 0, got {delay!r}")
        if headers:
            encode_value(headers)  # what no broker can carry is an error here, not at the settlement
        if isinstance(target, type) and isinstance(getattr(target, "settings", None), Settings):
            handlers_of(target).check(message)
        data, wire = encode(message)
        envelope = Envelope(source_of(target), "", data, wire, dict(headers) if headers else NO_HEADERS, float(delay))
        if len(self._kept) < self._settings.max_events_in_memory:
            self._kept.append(envelope)
        else:
            self._spill(envelope)

    def _spill(self, envelope: Envelope) -> None:
        if self._spilled is None:
            self._spilled = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`, with the delivery
        row = [envelope.source, envelope.data.decode(), envelope.type, dict(envelope.headers), envelope.delay]
        self._spilled.write(json.dumps(row).encode() + b"\n")
        self._spilled_count += 1

    def _all(self) -> Iterator[Envelope]:
        yield from self._kept
        if self._spilled is not None:
            self._spilled.seek(0)
            for line in self._spilled:
                source, data, wire, headers, delay = json.loads(line)
                yield Envelope(source, "", data.encode(), wire, headers or NO_HEADERS, delay)

    @property
    def fits_one_script(self) -> bool:
        return len(self) <= self._settings.max_batch_size

    def batch(self, ids: MessageIds) -> list[Envelope]:
        """Return all messages, for the script that settles; their ids are fresh, since that script runs once."""
        return [attrs.evolve(envelope, id=next(ids)) for envelope in self._all()]

    def batches(self, delivery: Delivery, group: str) -> Iterator[list[Envelope]]:
        """Yield all messages in batches, under ids derived from the delivery."""
        found: list[Envelope] = []
        for number, envelope in enumerate(self._all()):
            if len(found) == self._settings.max_batch_size:
                yield found
                found = []
            found.append(attrs.evolve(envelope, id=f"{delivery.source}/{delivery.id}/{group}/{number}"))
        yield found

    def close(self) -> None:
        if self._spilled is not None:
            self._spilled.close()
