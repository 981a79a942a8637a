"""Refs to entities, and their states as they are at the broker.

ann = client.ref(Account, key="ann")
await ann.ask(Deposit(5))
state = await ann.state()           what is committed: no node is asked, and nothing is activated
await ann.put(Balance(7), version=state.version)
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

import attrs

from actorwork.actors.entities.schema import Forget, StateSchema
from actorwork.clients.auditing import audited
from actorwork.clients.identity import whoami
from actorwork.clients.refs import StreamRef
from actorwork.codec import dumps, loads
from actorwork.durations import Duration
from actorwork.errors import BrokerError, CodecError, Fail, MessageRefused
from actorwork.message import NO_HEADERS, Envelope, Json, Message, Untyped
from actorwork.policy.bounds import check_count
from actorwork.policy.entities import EntityInfo, StoredState
from actorwork.policy.sending import SendOptions
from actorwork.settings import Entities, Settings, default_source, identity
from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.actors.handlers.table import HandlerTable
    from actorwork.clients.sender import Sender

A_co = TypeVar("A_co", covariant=True)
R = TypeVar("R")

PAGE = 100
"""How many entities are listed in one call of the broker."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class EntityState(Value):
    """A committed state of an entity; one of the version 0 is that of a key that has none.

    `value` is of the type of the entity's states, or JSON where the actor is named by its title. `at` is in seconds
    since the epoch; `by` is the id of the message that has committed it, or the user who has put it; `node` the
    incarnation of the node. `schema` is the version of its schema (`migrates`).
    """

    value: Any
    version: int
    at: float = 0.0
    by: str = ""
    node: str = ""
    schema: int = 0


class EntityRef(StreamRef[A_co]):
    """One key of an entity, wherever it is active; made by `client.ref(Account, key="ann")`.

    What it sends has this key. Without a key, that of each message is an option: `tell(message, key="ann")`.
    """

    __slots__ = ("_entities", "_schema", "key")

    def __init__(
        self, sender: Sender, settings: Settings, handlers: HandlerTable | None, actor: Any, key: str | None
    ) -> None:
        super().__init__(sender, settings, handlers)
        self.key = key
        self._entities = settings.entities or Entities()
        self._schema: StateSchema | None = None
        if handlers is not None:
            from actorwork.actors.entities.entity import state_type_of  # noqa: PLC0415 - a client without Trio

            self._schema = StateSchema.of(state_type_of(actor), actor.__qualname__, self._entities.limit)

    def __repr__(self) -> str:
        return f"<EntityRef to {self.title!r}, key {self.key!r}, at {self._sender.url}>"

    # ---- sending ----

    async def tell_many(self, messages: Iterable[Message[A_co, Any] | Untyped], **options: Unpack[SendOptions]) -> None:
        await super().tell_many(messages, **self._keyed(options))

    @overload
    async def ask(self, message: Message[A_co, R], *, timeout: Duration = 30, **options: Unpack[SendOptions]) -> R: ...
    @overload
    async def ask(self, message: Untyped, *, timeout: Duration = 30, **options: Unpack[SendOptions]) -> Any: ...
    async def ask(self, message: Any, *, timeout: Duration = 30, **options: Unpack[SendOptions]) -> Any:
        return await super().ask(message, timeout=timeout, **self._keyed(options))

    def _envelope(self, message: object, options: SendOptions, *, ours: Mapping[str, Json] = NO_HEADERS) -> Envelope:
        return super()._envelope(message, self._keyed(options), ours=ours)

    def _keyed(self, options: SendOptions) -> SendOptions:
        """Return options with the key; raises `MessageRefused` if there is none."""
        key = options.get("key")
        if key is None:
            if self.key is None:
                raise MessageRefused(
                    f"a message to the entity {self.title!r} needs a key: client.ref(…, key=…), or the option key=…"
                )
            return {**options, "key": self.key}
        if self.key is not None and key != self.key:
            raise MessageRefused(f"this ref is to the key {self.key!r} of {self.title!r}, and key={key!r} was given")
        return options

    def _check(self, message: object) -> None:
        if not isinstance(message, Forget):
            super()._check(message)

    def _reply_type(self, message: object) -> Any:
        return bool if isinstance(message, Forget) else super()._reply_type(message)

    # ---- the state ----

    async def state(self) -> EntityState:
        """Return the committed state. Raises `CodecError` if it cannot be read.

        A key that has none has the version 0, and what its state would begin with (None, if the actor is named by its
        title). What a handler in flight makes of it is not in it yet.
        """
        broker, group, key = await self._place()
        found = await broker.entities.get(self.source, group, key)
        if found is None:
            return EntityState(value=None if self._schema is None else self._schema.first(), version=0)
        return self._read(found)

    async def history(self, *, limit: int = 20) -> Sequence[EntityState]:
        """Return the last changes that are kept (`Entities.history`), newest first, at most `limit`.

        Raises `CodecError` if one of them cannot be read.
        """
        check_count("limit", limit)
        broker, group, key = await self._place()
        return [self._read(one) for one in await broker.entities.history(self.source, group, key, limit=limit)]

    async def put(self, value: object, *, version: int | None = None, force: bool = False, reason: str = "") -> int:
        """Replace the state; return its new version. For administrators: handlers change their own state.

        With `version`, only if that is the current one (0: there is none); raises `StateConflict` otherwise. It also
        does while a node is handling a message of this key; with `force` that message is handled again, on the new
        state, if it would change it. Recorded in the audit. If the actor is named by its title, `value` is JSON of the
        schema that the state has, and the state is kept for as long as it was to be before. Raises `CodecError` for a
        value that cannot be a state. Cancelled, or the reply was lost (`BrokerError`): it may have taken effect.
        """
        broker, group, key = await self._place()
        if self._schema is None:
            data, before = dumps(cast("Json", value)), await replaced(broker, self.source, group, key, force=force)
            schema, ttl, history = 0 if before is None else before.schema, None, None
        else:
            data, schema = self._written(value, self._schema), self._schema.version
            ttl, history = self._entities.ttl or math.inf, self._entities.history
        async with audited(broker.audit, "put-state", f"{self.title}/{key}", reason=reason) as action:
            new = await broker.entities.put(
                self.source,
                group,
                key,
                data,
                version=version,
                schema=schema,
                ttl=ttl,
                history=history,
                by=whoami(),
                force=force,
            )
            action.how_many = 1
        return new

    async def forget(self, *, timeout: Duration = 30) -> bool:
        """Delete the state and its history, in its turn, as a message of this key; return whether there was one.

        It waits for the messages before it, and those behind it begin with a first state. Raises `AskTimeout` if no
        node has done it by then; it may still be done.
        """
        return bool(await self.ask(Forget(), timeout=timeout))

    async def forget_now(self, *, version: int | None = None, force: bool = False, reason: str = "") -> bool:
        """Delete the state and its history without a node; return whether there was one.

        Raises `StateConflict` as `put` does. Recorded in the audit.
        """
        broker, group, key = await self._place()
        async with audited(broker.audit, "forget-state", f"{self.title}/{key}", reason=reason) as action:
            was_there = await broker.entities.forget(self.source, group, key, version=version, force=force)
            action.how_many = int(was_there)
        return was_there

    async def _place(self) -> tuple[Broker, str, str]:
        if self.key is None:
            raise MessageRefused(f"the states of the entity {self.title!r} have keys: client.ref(…, key=…)")
        return await self._sender.reached(), identity(self.title), self.key

    def _written(self, value: object, schema: StateSchema) -> bytes:
        try:
            data = schema.write(value)
            schema.check(value)
        except Fail as error:
            # Where a handler has called this, it is not the handler's verdict on its message.
            raise CodecError(f"put into {self.title!r}, key {self.key!r}: {error.reason}") from error
        return data

    def _read(self, found: StoredState) -> EntityState:
        try:
            value = loads(found.data) if self._schema is None else self._schema.read(found.data, found.schema)[0]
        except Exception as error:  # a migration is the user's, and may raise anything
            raise CodecError(
                f"version {found.version} of the state of {self.key!r} of {self.title!r} cannot be read:"
                f" {str(error) or type(error).__name__} (`actorwork entities show` prints it as it is)"
            ) from error
        return EntityState(
            value=value, version=found.version, at=found.at, by=found.by, node=found.node, schema=found.schema
        )


async def replaced(broker: Broker, source: str, group: str, key: str, *, force: bool) -> StoredState | None:
    """Return the state that is to be replaced; by force also what others have spoilt, of which nothing is known."""
    try:
        return await broker.entities.get(source, group, key)
    except (BrokerError, CodecError):
        if not force:
            raise
        return None


async def listed(sender: Sender, title: str, changed_since: datetime | float | None) -> AsyncGenerator[EntityInfo]:
    """Yield the entities of an actor, those whose last change is longest ago first."""
    since = changed_since.timestamp() if isinstance(changed_since, datetime) else changed_since
    if since is not None and not (isinstance(since, (int, float)) and math.isfinite(since)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"changed_since wants a datetime, or seconds since the epoch, got {changed_since!r}")
    broker, group, source = await sender.reached(), identity(title), default_source(identity(title))
    after: tuple[float, str] | None = None
    while True:
        page = await broker.entities.list(source, group, changed_since=since, limit=PAGE, after=after)
        for one in page:
            yield one
        if len(page) < PAGE:
            return
        after = page[-1].at, page[-1].key
