"""Triggers at Redis: a hash for each, in the slot of the source to which it sends, and one index of all.

The script that keeps the message of a nominal time also records the decision, so a process may die at any moment:
either both have happened, or neither.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import attrs

from actorwork.abc import EventSink, Triggers
from actorwork.events import BrokerTrouble
from actorwork.message import Envelope
from actorwork.streams import keys, scripts
from actorwork.streams.entries import fields_of, mark_of, terms_of
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import ResponseError, cannot, is_wrong_type

if TYPE_CHECKING:
    from actorwork.records import Firing, TriggerChanges, TriggerDefinition, TriggerRecord

_DEFINITION: Final = ("actor", "title", "schedule", "data", "type", "details")
_STATE: Final = ("registered", "last", "fired", "declared", "changes", "changed", "revision", "put")
"""As `trigger.lua` returns it."""


class RedisTriggers(Triggers):
    """Registers, fires and lists triggers."""

    def __init__(self, client: Commands, emit: EventSink) -> None:
        self._client = client
        self._emit = emit

    def __repr__(self) -> str:
        return f"<RedisTriggers at {self._client!r}>"

    async def register(self, source: str, definitions: Sequence[TriggerDefinition]) -> Sequence[TriggerRecord]:
        """Cancelled or failed: any of them may be registered; registering them again changes nothing."""
        with cannot(f"register the triggers of {source!r}"):
            known = await self._list_these(source, definitions)
            declared = {definition.id for definition in definitions}
            for other, name in known:
                if other == source and name not in declared:
                    await self._change(source, name, "vanish")
            return [await self._register(source, definition) for definition in definitions]

    async def _list_these(self, source: str, definitions: Sequence[TriggerDefinition]) -> Sequence[tuple[str, str]]:
        """Add triggers to the index, and return what was in it. Triggers fire without it, too."""
        try:
            known = await self._known()
            if definitions:
                members = [_member(source, definition.id) for definition in definitions]
                await self._client.call("SADD", keys.TRIGGERS, *members, idempotent=True)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            next_step = f"they fire, and are not listed until this is mended: DEL {keys.TRIGGERS}, and start again"
            problem = f"the key {keys.TRIGGERS} is no set: another program has written it"
            self._emit(BrokerTrouble(f"listing the triggers of {source}", problem, next_step))
            return ()
        return known

    async def _register(self, source: str, definition: TriggerDefinition) -> TriggerRecord:
        return _record(
            definition, await self._change(source, definition.id, "register", *_fields_of_definition(definition))
        )

    async def amend(
        self,
        definition: TriggerDefinition,
        changes: TriggerChanges | None,
        *,
        revision: int,
        is_put: bool,
        begins_now: bool = False,
    ) -> TriggerRecord | None:
        from actorwork.policy.amending import changes_as_json  # noqa: PLC0415 - most programs never change one

        made = "" if changes is None else changes_as_json(changes)
        args = (revision, int(is_put), int(begins_now), made, *_fields_of_definition(definition))
        with cannot(f"change the trigger {definition.title!r}"):
            # First into the index: nodes find it there when they are notified.
            await self._client.call("SADD", keys.TRIGGERS, _member(definition.source, definition.id), idempotent=True)
            done = await self._change(definition.source, definition.id, "amend", *args)
            now = await self._get(definition.source, definition.id)
            if done is None and (now is None or not _is_made(now, changes, is_put=is_put, revision=revision)):
                return None  # (If it is made, it was by this call, which was sent again after a lost reply.)
            await self._announce()
        return now

    async def changes(self) -> int:
        with cannot("ask whether triggers were changed"):
            number = await self._client.call("HGET", keys.TRIGGER_CHANGES, "number", idempotent=True)
        return int(number or 0)

    async def _announce(self) -> None:
        await self._client.call("HINCRBY", keys.TRIGGER_CHANGES, "number", 1, idempotent=True)
        # If an ACL forbids that, nodes see the change at their next look.
        with suppress(ResponseError):
            await self._client.call("PUBLISH", keys.PAUSES, "triggers", idempotent=True)

    async def fire(
        self,
        definition: TriggerDefinition,
        *,
        decided: int,
        last: int,
        messages: Sequence[Envelope],
        revision: int = 0,
    ) -> Firing:
        from actorwork.records import Firing  # noqa: PLC0415 - see records.py

        of = keys.SourceKeys.of(definition.source)
        names: list[Any] = [keys.trigger(definition.source, definition.id), of.stream, of.delayed, of.delayed_messages]
        args: list[Any] = [of.prefix, definition.schedule, decided, last, revision]
        for message in messages:
            mark, bit = mark_of(of.prefix, message.id)
            names.append(mark)
            fields = fields_of(message)
            args += (len(names), bit, terms_of(message), len(fields), *fields)
        with cannot(f"fire the trigger {definition.title!r}"):
            # After a lost reply it is sent again, and finds that it has decided this time itself.
            outcome, stands, kept = await self._client.run_script(scripts.FIRE, names, args, idempotent=True)
        return Firing(outcome.decode(), int(stands), kept)

    async def skip(self, source: str, id: str) -> bool:
        with cannot(f"skip times of the trigger {id}"):
            return bool(await self._change(source, id, "skip"))

    async def list(self) -> Sequence[TriggerRecord]:
        with cannot("list the triggers"):
            known = await self._known()
            replies = await self._look(known)
        found = [record for record in replies if record is not None]
        return sorted(found, key=lambda one: (one.definition.actor, one.definition.title))

    async def _get(self, source: str, id: str) -> TriggerRecord | None:
        (record,) = await self._look([(source, id)])
        return record

    async def _look(self, known: Sequence[tuple[str, str]]) -> Sequence[TriggerRecord | None]:
        commands = [("HMGET", keys.trigger(source, name), *_DEFINITION, *_STATE) for source, name in known]
        replies = await self._client.call_many(commands, idempotent=True) if commands else []
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return [
            None
            if reply[0] is None
            else _record(_definition(source, name, reply[: len(_DEFINITION)]), reply[len(_DEFINITION) :])
            for (source, name), reply in zip(known, replies, strict=True)
        ]

    async def forget(self, source: str, id: str) -> bool:
        with cannot(f"forget the trigger {id}"):
            deleted = await self._client.call("DEL", keys.trigger(source, id), idempotent=True)
            await self._client.call("SREM", keys.TRIGGERS, _member(source, id), idempotent=True)
            await self._announce()
        return bool(deleted)

    async def _known(self) -> Sequence[tuple[str, str]]:
        members = await self._client.call("SMEMBERS", keys.TRIGGERS, idempotent=True)
        found: list[tuple[str, str]] = []
        for member in members:
            source, _, name = member.decode().rpartition(" ")
            found.append((source, name))
        return found

    async def _change(self, source: str, id: str, operation: str, *args: Any) -> Any:
        name = keys.trigger(source, id)
        return await self._client.run_script(scripts.TRIGGER, [name], (operation, *args), idempotent=True)


def _member(source: str, id: str) -> str:
    return f"{source} {id}"


def _fields_of_definition(definition: TriggerDefinition) -> list[Any]:
    fields: list[Any] = ["actor", definition.actor, "title", definition.title, "schedule", definition.schedule]
    fields += ("data", definition.data, "details", json.dumps(dict(definition.details)))
    if definition.type is not None:
        fields += ("type", definition.type)
    return fields


def _definition(source: str, id: str, facts: Sequence[Any]) -> TriggerDefinition:
    from actorwork.records import TriggerDefinition  # noqa: PLC0415 - see records.py

    actor, title, schedule, data, kind, details = facts
    return TriggerDefinition(
        source=source,
        id=id,
        actor=actor.decode(),
        title=title.decode(),
        schedule=schedule.decode(),
        data=data,
        type=None if kind is None else kind.decode(),
        details=json.loads(details),
    )


def _record(stored: TriggerDefinition, state: Sequence[Any]) -> TriggerRecord:
    from actorwork.policy.amending import record_of  # noqa: PLC0415 - most nodes have no triggers

    registered, last, fired, declared, changes, changed, revision, put = state
    return record_of(
        stored,
        registered=int(registered),
        last=int(last),
        fired=int(fired),
        is_declared=declared == b"1",
        changes=changes,
        changed=None if changed is None else int(changed),
        revision=int(revision or 0),
        is_put=put == b"1",
    )


def _is_made(record: TriggerRecord, changes: TriggerChanges | None, *, is_put: bool, revision: int) -> bool:
    """Whether a trigger has had these changes made to it, and these last."""
    made = None if record.changes is None else attrs.evolve(record.changes, at=0.0)
    wanted = None if changes is None else attrs.evolve(changes, at=0.0)
    return record.revision > revision and record.is_put is is_put and made == wanted
