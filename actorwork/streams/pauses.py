"""Pauses at Redis: one hash, and a channel that announces every change.

After a lost connection all watchers look at the hash: announcements made meanwhile did not arrive.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from actorwork.abc import EventSink, Pauses, Triggers
from actorwork.errors import BrokerError
from actorwork.policy.pauses import concerned
from actorwork.streams import keys, scripts
from actorwork.streams.transport.commands import Commands, Subscriptions
from actorwork.streams.transport.redis_py import ResponseError, cannot, is_wrong_type
from actorwork.streams.watches import subscribed

if TYPE_CHECKING:
    from actorwork.records import Pause, PauseKind


class RedisPauses(Pauses):
    """Pauses, resumes, and notifies watchers; without `subscriptions`, watchers have to look by themselves."""

    def __init__(
        self, client: Commands, triggers: Triggers, emit: EventSink, subscriptions: Subscriptions | None = None
    ) -> None:
        self._client = client
        self._subscriptions = subscriptions
        self._triggers = triggers
        self._emit = emit
        self._watchers: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<RedisPauses at {self._client!r}, {len(self._watchers)} watching>"

    @property
    def is_certain(self) -> bool:
        return False  # Announcements do not arrive while the connection is lost, or where an ACL forbids them.

    async def pause(self, kind: PauseKind, name: str = "", *, reason: str = "", by: str = "") -> Pause:
        field = _field(kind, name)
        kept: bytes = await self._change("pause", field, reason, by)
        return _pause(field, kept)

    async def resume(self, kind: PauseKind, name: str = "") -> bool:
        field = _field(kind, name)
        if kind in ("trigger", "triggers"):
            # First skip what fell due during the pause: nodes that hear of its end must not find it.
            records = await self._triggers.list()
            for definition in concerned(kind, name, [record.definition for record in records]):
                await self._triggers.skip(definition.source, definition.id)
        # After a lost reply, the second run finds no pause and returns False; that it is over is certain.
        return bool(await self._change("resume", field))

    async def _change(self, operation: str, *args: str) -> Any:
        with cannot(f"{operation} {args[0].strip()}"):
            return await self._client.run_script(
                scripts.PAUSE, [keys.PAUSED], (keys.PAUSES, operation, *args), idempotent=True
            )

    async def list(self) -> Sequence[Pause]:
        with cannot("read what is paused"):
            try:
                kept: dict[bytes, bytes] = await self._client.call("HGETALL", keys.PAUSED, idempotent=True)
            except ResponseError as error:
                if not is_wrong_type(error):
                    raise
                raise BrokerError(
                    f"cannot read what is paused: the key {keys.PAUSED} is no hash: another program has written it; to"
                    f" mend this: DEL {keys.PAUSED}"
                ) from error
        return sorted((_pause(field.decode(), record) for field, record in kept.items()), key=lambda pause: pause.at)

    @asynccontextmanager
    async def watch(self, changed: Callable[[], object]) -> AsyncGenerator[bool]:
        self._watchers.append(changed)
        try:
            otherwise = "the node looks every second what is paused"
            yield self._subscriptions is not None and await subscribed(
                self._subscriptions, keys.PAUSES, self._emit, otherwise=otherwise
            )
        finally:
            self._watchers.remove(changed)

    def tell(self) -> None:
        """Make the watchers look: an announcement arrived, or the connection is new."""
        for changed in self._watchers:
            changed()


def _field(kind: PauseKind, name: str) -> str:
    return f"{kind} {name}"


def _pause(field: str, record: bytes) -> Pause:
    from actorwork.records import Pause  # noqa: PLC0415 - see records.py

    kind, _, name = field.partition(" ")
    kept = json.loads(record)
    return Pause(kind, name, kept["reason"], kept["by"], kept["at"] / 1000)  # pyright: ignore[reportArgumentType] # as `_field` wrote it
