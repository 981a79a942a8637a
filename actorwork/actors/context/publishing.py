"""What a delivery publishes, kept until the delivery is settled.

The first `max_events_in_memory` messages are kept in memory, the rest in a temporary file, as JSON lines. At the end
they are sent in batches of `max_batch_size`. The last batch travels in the script that settles the delivery; those
those before it are sent ahead, under ids derived from the delivery, so that running it again does not double them.

What the handler of a batch publishes is never sent ahead: if it runs again, it is with other messages, and no id could
be derived. All of it travels in one script.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Final

import attrs

from actorwork.abc import HeaderMiddleware, PublishMiddleware
from actorwork.actors.handlers.table import handlers_of
from actorwork.actors.tree.hooks import Hooks, no_title
from actorwork.codec import encode, encode_value
from actorwork.errors import MessageRefused, SettingsError
from actorwork.message import NO_HEADERS, Delivery, Envelope, Json, MessageIds, Priority, Unique
from actorwork.policy.sending import PLAIN, Sending, SendOptions
from actorwork.settings import SOURCE, SOURCE_IN_WORDS, EventSettings, Settings, Source


def source_of(target: object) -> str:
    """Return the source of a target: a name, an actor class, or a ref that has a `source`."""
    if isinstance(target, str):
        if not SOURCE.fullmatch(target):
            raise SettingsError(f"a source is {SOURCE_IN_WORDS}, got {target!r}")
        return str(target)
    settings = getattr(target, "settings", None)
    if isinstance(settings, Settings):
        return settings.default_source
    source = getattr(target, "source", None)
    if isinstance(source, str):
        return source
    if isinstance(target, type) and issubclass(target, Hooks):
        raise SettingsError(f"publish(…): {no_title(target)}")
    raise SettingsError(f"publish(…) wants the name of a source, an actor class or a durable ref, got {target!r}")


def check_declared(source: Source, declared: Mapping[str, int]) -> None:
    """Refuse a source with a number of shards that the actors of this process do not declare."""
    if (known := declared.get(source)) != source.shards:
        name = str(source)
        what = "declare no number" if known is None else f"declare {known}"
        raise SettingsError(
            f"publish({source!r}, …): the actors of this process {what} for {name!r}, and a handler divides nothing and"
            f" does not ask the broker: publish to {name!r}, which has the shards that it has, or declare"
            f" sources={{{source!r}}} where it is read"
        )


def passed_through(layers: Sequence[PublishMiddleware], envelope: Envelope) -> Envelope:
    """Return the envelope that the middleware makes of one; raises what the middleware raises."""
    for layer in layers:
        shaped: Any = layer(envelope)
        if not isinstance(shaped, Envelope) or shaped.id != envelope.id:
            wanted = "publish middleware returns the envelope, or another one with its id"
            raise TypeError(f"{wanted}; {layer!r} returned {shaped!r}")
        if shaped is not envelope:
            _check(shaped)
        envelope = shaped
    return envelope


def headers_of(layers: Sequence[PublishMiddleware]) -> Mapping[str, Json]:
    """Return the headers that middleware gives to steps of a workflow that is started here and now."""
    found: dict[str, Json] = {}
    for layer in layers:
        if isinstance(layer, HeaderMiddleware):
            found |= {name: value for name, value in layer.headers().items() if name not in found}
    return found or NO_HEADERS


def _check(envelope: Envelope) -> None:
    """Refuse what no broker can keep: at the settlement it would be too late."""
    source_of(envelope.source)
    Sending(
        delay=envelope.delay,
        at=envelope.at,
        expires=envelope.lifetime if envelope.expires is None else envelope.expires,
        priority=envelope.priority,
        key=envelope.key,
        unique=envelope.unique,
    )
    encode_value(dict(envelope.headers))
    if not isinstance(envelope.data, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the data of an envelope is JSON as bytes, got {envelope.data!r:.100}")


MOST_OF_BATCH: Final = 50_000
"""How many messages the handler of a batch may publish: a request to Redis has at most 1,048,576 arguments."""


class PublishBuffer:
    """The messages that one delivery publishes."""

    def __init__(self, settings: EventSettings, layers: Sequence[PublishMiddleware] = ()) -> None:
        self._settings = settings
        self._layers = layers
        self._kept: list[Envelope] = []
        self._spilled: IO[bytes] | None = None
        self._spilled_count = 0

    def __len__(self) -> int:
        return len(self._kept) + self._spilled_count

    def add(self, target: object, message: object, options: SendOptions) -> None:
        key = None if isinstance(target, (str, type)) else getattr(target, "key", None)
        if isinstance(key, str):  # A ref to an entity.
            options = {**options, "key": key}
        sending = Sending.of(options) if options else PLAIN
        if sending.durability is not None:
            raise ValueError(
                "publish takes no durability=…: what it sends is stored with the settlement, after the handler; send it"
                " with context.client instead, which waits"
            )
        if sending.headers:
            encode_value(
                dict(sending.headers)
            )  # so that what no broker can carry is an error of the handler and not of the settlement
        settings = getattr(target, "settings", None)
        is_ours = isinstance(settings, Settings)
        if is_ours and isinstance(target, type):
            table = handlers_of(target)
            table.check(message)
            if table.is_entity and sending.key is None:
                raise MessageRefused(f"a message to the entity {settings.title!r} needs a key: publish(…, key=…)")
        data, wire = encode(message)
        priority = settings.priority if is_ours else Priority.NORMAL
        envelope = sending.envelope(source_of(target), "", data, wire, priority=priority)
        if self._layers:
            envelope = passed_through(self._layers, envelope)
        if len(self._kept) < self._settings.max_events_in_memory:
            self._kept.append(envelope)
        else:
            self._spill(envelope)

    def _spill(self, envelope: Envelope) -> None:
        if self._spilled is None:
            self._spilled = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`, with the delivery
        self._spilled.write(json.dumps(_row_of(envelope)).encode() + b"\n")
        self._spilled_count += 1

    def _all(self) -> Iterator[Envelope]:
        yield from self._kept
        if self._spilled is not None:
            self._spilled.seek(0)
            for line in self._spilled:
                yield _envelope_of(json.loads(line))

    @property
    def fits_one_script(self) -> bool:
        return len(self) <= self._settings.max_batch_size

    def batch(self, ids: MessageIds) -> list[Envelope]:
        """Return all messages, for the script that settles; with fresh ids, since that script takes effect once."""
        return [attrs.evolve(envelope, id=envelope.id or next(ids)) for envelope in self._all()]

    def of_batch(self, ids: MessageIds) -> list[Envelope]:
        """Return all messages that the handler of a batch has published; raise `ValueError` if these are too many."""
        if len(self) > MOST_OF_BATCH:
            raise ValueError(
                f"the handler of a batch publishes at most {MOST_OF_BATCH:,} messages, which are sent in one step; "
                f"this one published {len(self):,}: take smaller batches"
            )
        return self.batch(ids)

    def batches(self, delivery: Delivery, group: str) -> Iterator[list[Envelope]]:
        """Yield all messages in batches, under ids derived from the delivery."""
        found: list[Envelope] = []
        for number, envelope in enumerate(self._all()):
            if len(found) == self._settings.max_batch_size:
                yield found
                found = []
            derived = f"{delivery.source}/{delivery.id}/{group}/{number}"
            found.append(attrs.evolve(envelope, id=envelope.id or derived))
        yield found

    def close(self) -> None:
        if self._spilled is not None:
            self._spilled.close()


def _row_of(envelope: Envelope) -> dict[str, Any]:
    """Return an envelope as JSON, without defaults."""
    fields = attrs.asdict(envelope, filter=lambda field, value: value != field.default)
    fields["data"] = envelope.data.decode()
    if "headers" in fields:
        fields["headers"] = dict(envelope.headers)
    return fields


def _envelope_of(row: dict[str, Any]) -> Envelope:
    row["data"] = row["data"].encode()
    if "priority" in row:
        row["priority"] = Priority(row["priority"])
    if "unique" in row:
        row["unique"] = Unique(**row["unique"])
    return Envelope(**row)
