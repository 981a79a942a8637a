"""What runs as the actor in the place of an entity: it activates an instance for each key, and passivates it again.

    delivery ──▶ load the state ──▶ the activation, if it is of this state; else a new one (`startup`)
                                       └──▶ handler ──▶ what has become of the state goes with the settlement
                                                └─ raises, or is cancelled ──▶ the activation is dropped (`shutdown`)

The committed state is looked at before each delivery, in one round trip for all that were read together, so no handler
runs on an old one; of a state that an activation has committed itself only the stamp. Its settlement names the version
that it ran on, in case a user changes the state meanwhile.

Nothing here needs a lock: the broker gives a node one message of a key at a time. If it is given a second one all the
same (a foreign producer may name a key that another message holds), that one finds no activation, has one of its own
made, and is refused at its settlement if it ran on the same version.

Activations are kept in the order of their last use. Beyond `most` the oldest is passivated; a task passivates those
that were idle for long, and ends when none is left.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import attrs
import trio

from actorwork import events
from actorwork.actors.context.in_flight import InFlight, in_flight
from actorwork.actors.entities.activation import Activation
from actorwork.actors.entities.ahead import StatesAhead
from actorwork.actors.entities.counts import EntityCounts
from actorwork.actors.entities.entity import ACTIVATION, Entity, check_settings, state_type_of
from actorwork.actors.entities.schema import StateSchema
from actorwork.actors.execution.failures import key_in
from actorwork.actors.execution.threads import run_in_thread
from actorwork.actors.mailbox.calls import CallState
from actorwork.actors.tree.hooks import hook_of
from actorwork.actors.wakeups import working
from actorwork.errors import ActorworkError, Fail, MessageRefused, NotRunning, Reject, StateConflict
from actorwork.policy.entities import StateChange, has_mark, mark_of
from actorwork.settings import Entities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actorwork.actors.entities.context import EntityContext
    from actorwork.actors.execution.workplace import SharedTools
    from actorwork.actors.tree.spec import Child
    from actorwork.message import Delivery, Envelope, Failure
    from actorwork.policy.entities import FoundState, StoredState

_AT_ONCE: Final = 64
"""How many activations are passivated at once when the actor ends."""
BURST: Final = 128
"""How many messages are handled before other tasks have a turn."""
_RESUMED: Final = 4
"""How many of those that waited for that go on then, each of which lets another one go on."""
_EVERY: Final = 60.0
"""Seconds between two events about the same key whose state cannot be used."""
_MOST_STALLED: Final = 1000


class StateStore(Protocol):
    """The way to the states at the broker: the consumer."""

    def now(self) -> float: ...
    async def load_states(self, wanted: Sequence[tuple[Delivery, str]]) -> Sequence[FoundState]: ...
    async def commit_state(
        self, delivery: Delivery, change: StateChange | None, published: Sequence[Envelope]
    ) -> bool: ...


class HostActor(Protocol):
    """The actor (its cell) that a host works for."""

    child: Child

    @property
    def services(self) -> SharedTools: ...
    @property
    def store(self) -> StateStore | None: ...


class EntityHost:
    """The instance that an incarnation of an entity has; handlers get the activation of their key instead of it."""

    context: EntityContext

    def __init__(self, actor: Any) -> None:
        self._actor: Any = actor
        child: Child = actor.child
        cls: Any = child.actor
        settings = child.settings
        check_settings(cls, settings)
        self._settings = settings
        self._entities = settings.entities or Entities()
        self._most = self._entities.most
        self._schema = StateSchema.of(state_type_of(cls), cls.__qualname__, self._entities.limit)
        base: Any = Entity
        # Of the actor, not of this incarnation.
        counts = None if actor.consumer is None else actor.consumer.entity_counts
        self._counts: EntityCounts = counts or EntityCounts(settings.title, actor.services.emit)
        self._counts.schema = self._schema.version
        self._has_startup = cls.startup is not base.startup
        self._has_shutdown = cls.shutdown is not base.shutdown
        self._active: dict[str, Activation] = {}
        """The activations that no delivery uses, by their keys, the one used longest ago first."""
        self._time = trio.lowlevel.current_clock().current_time
        """`trio.current_time`, without the way to it, since each message asks twice."""
        self._now = self._time
        """The broker's clock, if there is a broker."""
        self._ahead: StatesAhead | None = None
        if actor.consumer is not None:
            self._now = actor.consumer.now
            actor.consumer.entity_counts = self._counts
            self._ahead = StatesAhead(actor.consumer, self._stamp_of, actor.services.start_soon, actor.mailbox)
            actor.consumer.load_ahead = self._ahead.load
            actor.consumer.hold_known = self._ahead.hold
        self._stamp, self._commits = os.urandom(8).hex(), itertools.count()
        """What the stamps of its commits are made of: no two are the same."""
        self._turns = _Turns()
        self._is_sweeping = False
        self._stalled: dict[str, float] = {}
        """When the last event about a key whose state cannot be used was emitted."""

    def __repr__(self) -> str:
        return f"<host of {self._settings.title!r}: {len(self._active)} active>"

    @property
    def active(self) -> int:
        """How many activations wait for a message."""
        return len(self._active)

    # ---- the hooks of the incarnation ----

    async def startup(self) -> None:
        """Each activation has its own."""

    def on_undelivered(self, messages: Sequence[object]) -> None:
        """There are no local messages."""

    async def shutdown(self) -> None:
        """Passivate everything."""
        left, self._active = list(self._active.values()), {}
        if not self._has_shutdown:
            return
        limit = trio.CapacityLimiter(_AT_ONCE)

        async def passivate(activation: Activation) -> None:
            async with limit:
                await self._shut_down(activation)

        async with trio.open_nursery() as nursery:
            for activation in left:
                nursery.start_soon(passivate, activation)

    # ---- deliveries ----

    async def handle(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, is_async: bool
    ) -> Any:
        """Call a handler of the entity for the delivery in flight."""
        current = in_flight.get()
        if not isinstance(current, InFlight):
            raise MessageRefused(_no_local_messages(self._settings.title))
        turns = self._turns
        turns.taken += 1
        if turns.taken > BURST and await turns.give_way():
            self._actor.mailbox.one_too_many()
        now = self._time()
        delivery, warm = current.delivery, None
        state: FoundState | Literal[False] = False
        if (key := delivery.key) is not None and self._ahead is not None:
            warm = self._active.get(key)
            state = self._ahead.known(key, delivery, "" if warm is None else warm.stamp, now)
        if state is True and warm is not None:  # As most are.
            activation = self._taken(warm, delivery)
        else:
            activation = await self._activated(current, now, state)
            if activation is None:
                return None
            now = self._time()
        # What it has waited for the state is no part of the handler's time: after that the mailbox decides how much is
        # read ahead, and with less of it the waits would only grow.
        worker: Any = working.get()
        worker.began = now
        self._counts.hot.note(activation.key, now)
        activation.current = current
        try:
            if is_async:
                value = await function(activation.entity, *args, **kwargs)
            else:
                value = await run_in_thread(worker, self._actor, function, (activation.entity, *args), kwargs)
            change = None if activation.fate else self._change(activation)
        except Exception:
            self._drop(activation)
            if not activation.fate:
                raise
            change, value = None, None
        except BaseException:
            self._drop(activation)
            raise
        activation.current = None
        if activation.fate:
            self._drop(activation)
            current.state = CallState.RELEASED if activation.fate == "stale" else CallState.LOST
            return None
        if change is not None:
            self._committed(activation, change)
            current.change = change
        activation.used = self._time()
        self._active[activation.key] = activation
        if not self._is_sweeping or len(self._active) > self._most:
            self._keep_few()
        return value

    async def failed(self, message: Any, failure: Failure) -> None:
        """Call the hook of the entity for a message that has failed, on an instance that nothing else uses.

        Messages of the key go on meanwhile, so the instance has a copy of the state, and what is made of it is lost.
        """
        current = _current(self._settings.title)
        key = key_in(current.delivery)
        told: Any = self._actor.child.make()
        told.context, told.key, told.state = self.context, key or "", self._schema.first()
        if key is not None:
            (state,) = await self._store().load_states([(attrs.evolve(current.delivery, key=key), "")])
            if state is not None and state is not True:
                told.state, _ = self._schema.read(state.data, state.schema)
        await hook_of(told, "failed")(message, failure)

    async def forget(self) -> bool:
        """Delete the state of the delivery in flight, with its settlement; return whether there is one."""
        current = _current(self._settings.title)
        (state,) = await self._store().load_states([(current.delivery, "")])
        activation = self._active.pop(current.delivery.key or "", None)
        if activation is not None:
            self._drop(activation)
        if state is None or state is True:
            return False
        current.change = StateChange(version=state.version, data=None)
        return True

    async def commit(self, activation: Activation) -> None:
        """Commit the state of a delivery that goes on, with what it has published so far."""
        current, store = activation.current, self._actor.consumer
        if current is None or store is None:
            raise NotRunning("commit belongs to a handler that runs in a system")
        if activation.fate:
            raise _conflict(activation)
        change = self._change(activation, is_last=False)
        published: Sequence[Envelope] = ()
        if current.outgoing is not None:
            published = current.outgoing.of_batch(self._actor.services.ids)
        if change is None and not published:
            await trio.lowlevel.checkpoint()
            return
        try:
            is_ours = await store.commit_state(current.delivery, change, published)
        except StateConflict:
            self._counts.conflicted()
            activation.fate = "stale"
            raise
        if not is_ours:
            activation.fate = "fenced"
            raise _conflict(activation)
        if change is not None:
            self._committed(activation, change)
        if current.outgoing is not None:
            current.outgoing.close()
            current.outgoing = None

    def _change(self, activation: Activation, *, is_last: bool = True) -> StateChange | None:
        """Return what a handler has made of the state; raises `Fail` if that cannot be committed."""
        try:
            stamp = f"{self._stamp}{next(self._commits):x}"
            return activation.change(self._schema, self._entities, stamp, is_last=is_last)
        except Exception:
            self._counts.was_refused()
            raise

    # ---- activations ----

    def _taken(self, warm: Activation, delivery: Delivery) -> Activation:
        """Return the activation that waits, for a delivery that was found to meet the state that it has committed."""
        warm.known, warm.known_at = warm.version, warm.at
        warm.mark = mark = mark_of(delivery.id)
        if mark in warm.marks:  # As no other is, or by chance.
            _refuse_again(delivery, warm.marks, mark)
        del self._active[warm.key]
        return warm

    async def _activated(self, current: InFlight, now: float, state: FoundState | Literal[False]) -> Activation | None:
        """Return the activation for a delivery; None if its state cannot be used here: it is handed back then.

        `state` is what was loaded ahead, False if nothing was.
        """
        delivery = current.delivery
        if delivery.key is None:
            raise Fail(
                f"a message to the entity {self._settings.title!r} needs a key, and this one has none: send it with"
                " key=…, or by client.ref(…, key=…)"
            )
        if self._ahead is None:
            raise NotRunning(_no_local_messages(self._settings.title))
        mark = mark_of(delivery.id)
        if state is False:
            warm = self._active.get(delivery.key)
            try:
                state = await self._ahead.take(delivery, "" if warm is None else warm.stamp, now)
                if state is True and warm is not None:
                    if self._active.get(delivery.key) is warm:
                        return self._taken(warm, delivery)
                    # It was passivated while the broker answered.
                    warm.confirm()
                    _refuse_again(delivery, warm.marks, mark)
                    state = await self._ahead.take(delivery, "", now)
            except ActorworkError as error:
                # What is wrong with a state, or with the rights to read it, is no fault of the message.
                await self._stall(current, delivery.key, None, error)
                return None
        if state is True:
            state = None  # True is the answer to a stamp only.
        if state is not None:
            _refuse_again(delivery, state.marks, mark)
        found = self._active.pop(delivery.key, None)
        if found is not None:
            if found.knows(state):
                found.mark = mark
                return found
            if found.is_ahead_of(state) and (state is not None or self._entities.ttl is None):
                version = 0 if state is None else state.version
                self._actor.services.emit(
                    events.StateForgotten(self._settings.id, self._settings.title, delivery.key, found.known, version)
                )
            self._drop(found)
        made = Activation(self, delivery.key, None)
        made.mark = mark
        try:
            # Read before the instance is made, since it may have to be handed back.
            loaded = made.load(state, self._schema)
        except Exception as error:  # noqa: BLE001 - a migration is the user's, and may raise anything
            await self._stall(current, delivery.key, state, error)
            return None
        self._counts.activated(delivery.key)
        entity: Any = self._actor.child.make()
        entity.context, entity.key, entity.state = self.context, delivery.key, loaded
        object.__setattr__(entity, ACTIVATION, made)  # `vars(entity)` would make a dict, of each one.
        made.entity = entity
        if self._has_startup:
            made.current = current
            try:
                await hook_of(entity, "startup")()
            except BaseException:
                self._drop(made)
                raise
        return made

    def _stamp_of(self, key: str) -> str:
        """Return the stamp of the state that is known of a key, "" for none."""
        return "" if (warm := self._active.get(key)) is None else warm.stamp

    def _store(self) -> StateStore:
        store: StateStore | None = self._actor.consumer
        if store is None:
            raise NotRunning(_no_local_messages(self._settings.title))
        return store

    async def _stall(self, current: InFlight, key: str, state: StoredState | None, error: Exception) -> None:
        """Have a delivery handed back in a moment, since this node cannot use the state of its key.

        A node that can may take it; later messages of the key wait meanwhile.
        """
        now = trio.current_time()
        self._counts.stalled(key, now)
        if now - self._stalled.get(key, -_EVERY) >= _EVERY:
            if len(self._stalled) >= _MOST_STALLED:
                self._stalled.clear()
            self._stalled[key] = now
            version, of = 0 if state is None else state.version, self._settings
            text = f"{type(error).__name__}: {error}"
            self._actor.services.emit(events.EntityStalled(of.id, of.title, key, version, text))
        current.state = CallState.STALLED
        await trio.lowlevel.checkpoint()

    def _keep_few(self) -> None:
        """Passivate the activation used longest ago if there are too many, and have those passivated that get idle."""
        if len(self._active) > self._most:
            self._drop(self._active.pop(next(iter(self._active))))
        if not self._is_sweeping:
            self._is_sweeping = True
            self.context.nursery.start_soon(self._sweep, name=f"{self._settings.title} sweep")

    async def _sweep(self) -> None:
        """Passivate what is idle, until nothing is active."""
        in_flight.set(None)
        while self._active:
            first = next(iter(self._active.values()))
            left = first.used + self._entities.idle - trio.current_time()
            if left > 0:
                # Not for each of them: those that are due soon after are passivated together.
                await trio.sleep(max(left, min(1.0, self._entities.idle / 10)))
                if self._ahead is not None:
                    self._ahead.forget_old(trio.current_time())
                continue
            del self._active[first.key]
            if self._has_shutdown:
                await self._shut_down(first)
        self._is_sweeping = False

    def _drop(self, activation: Activation) -> None:
        """Passivate an activation in the background."""
        activation.current = None
        if self._has_shutdown and getattr(activation.entity, ACTIVATION, None) is activation:
            self.context.nursery.start_soon(self._shut_down, activation)

    async def _shut_down(self, activation: Activation) -> None:
        activation.current = None
        try:
            await hook_of(activation.entity, "shutdown")()
        except Exception as error:  # noqa: BLE001 - its messages are settled: whatever it is, it is reported
            doing = f"shutdown of {activation.key!r}"
            title = self._settings.title
            self._actor.services.emit(events.ActorTrouble(self._settings.id, title, doing, error, goes_on=True))

    def _committed(self, activation: Activation, change: StateChange) -> None:
        """Note a change that is on its way to the store; report a state that has grown to half of what it may have."""
        size, limit, of = len(change.data or b""), self._entities.limit, self._settings
        if 2 * size >= limit > 2 * len(activation.data):
            self._actor.services.emit(events.EntityLarge(of.id, of.title, activation.key, size, limit))
        activation.committed(change, self._now())
        self._counts.committed()


class _Turns:
    """Lets other tasks have a turn after a burst of messages: those that settle, and read.

    Executors wait for the states of a read together, and go on in the same turn of the scheduler, each with a burst of
    its own. Without this the broker would settle all it has meanwhile, and then have nothing to do.
    """

    def __init__(self) -> None:
        self.taken = 0
        """How many messages were begun since other tasks had a turn."""
        self._is_giving_way = False
        self._behind = trio.lowlevel.ParkingLot()

    async def give_way(self) -> bool:
        """Wait until other tasks have had a turn; return whether another executor waits for that already."""
        if self._is_giving_way:
            await self._behind.park()
            self._behind.unpark()
            return True
        self._is_giving_way = True
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._is_giving_way, self.taken = False, 0
            self._behind.unpark(count=_RESUMED)
        return False


def _current(title: str) -> InFlight:
    """Return the delivery in flight; raises `MessageRefused` for a local message."""
    current = in_flight.get()
    if not isinstance(current, InFlight):
        raise MessageRefused(_no_local_messages(title))
    return current


def _refuse_again(delivery: Delivery, marks: bytes, mark: bytes) -> None:
    """Raise `Reject` for a message that is among the last ones that have changed a state."""
    if has_mark(marks, mark):
        raise Reject(
            f"this message has changed the state of {delivery.key!r} before, and came once more: it is not applied"
            " again"
        )


def _no_local_messages(title: str) -> str:
    return f"the entity {title!r} takes messages with a key from the broker only: use client.ref(…, key=…)"


def _conflict(activation: Activation) -> StateConflict:
    return StateConflict(
        f"the state of {activation.key!r} cannot be committed: its message belongs to another node by now",
        version=activation.version,
    )
