"""What the runtime offers to an actor, on the one attribute `self.context`.

Some of it belongs to the incarnation (`ref`, `nursery`, `log`), some to the delivery in hand (`delivery`,
`publish`). Which delivery that is, is known by the task: a helper task started within a handler speaks for the same
delivery, and once that is settled it is told so instead of being mistaken for the next one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Unpack, overload

from actorwork.actors.context.in_flight import InFlight, Stop, in_flight
from actorwork.actors.context.logger import ContextLogger
from actorwork.actors.mailbox.calls import CallState, LocalCall
from actorwork.actors.refs.watching import Watch
from actorwork.errors import NotRunning
from actorwork.state.lock import Lock
from actorwork.state.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from actorwork.abc import Values
    from actorwork.actors.actor import Actor
    from actorwork.actors.context.nursery import ActorNursery
    from actorwork.actors.context.timers import Timers
    from actorwork.actors.life.cell import Cell
    from actorwork.actors.refs.ref import ActorRef
    from actorwork.actors.supervision.administration import SupervisorRef
    from actorwork.actors.tree.spec import Child
    from actorwork.actors.wakeups import Reply
    from actorwork.message import Delivery
    from actorwork.policy.sending import SendOptions

A = TypeVar("A", bound="Actor")
T = TypeVar("T")


class Context:
    """What an actor may use while it runs; made anew for every incarnation."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def __repr__(self) -> str:
        return f"<context of {self.ref!r}>"

    @property
    def ref(self) -> ActorRef[Any]:
        """The actor's own ref."""
        return self._cell.ref

    @property
    def nursery(self) -> ActorNursery:
        """For helper tasks of this incarnation: they are cancelled when it ends, and an error in one is its crash."""
        return self._cell.helpers

    @property
    def log(self) -> ContextLogger:
        """A logger that names the actor and the message in hand."""
        extra = {"actor_id": self._cell.settings.id, "actor": self._cell.title}
        return ContextLogger(logging.getLogger("actorwork.actor"), extra)

    # ---- the delivery in hand ----

    @property
    def delivery(self) -> Delivery:
        """The delivery in hand: id, source, attempt, headers.

        Raises `NotRunning` outside of a handler, and in one that handles a local message.
        """
        return self._in_hand("delivery")[1]

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """The deliveries in hand, in the order of the messages that the handler of a batch was given.

        Elsewhere that is the one in hand. Raises `NotRunning` as `delivery` does.
        """
        current, delivery = self._in_hand("deliveries")
        return current.deliveries or (delivery,)

    def publish(self, target: str | object, message: object, **options: Unpack[SendOptions]) -> None:
        """Keep a message to be sent atomically with the settlement of the delivery in hand.

        `target` is the name of a source, an actor class, or a durable ref; the options are those of `SendOptions`. Sent
        only if the delivery ends as handled, and only if it is still ours then. A message whose `unique` key is taken
        then is dropped. Raises `CodecError` for what is no message.
        """
        current, _ = self._in_hand("publish")
        outgoing = current.outgoing
        if outgoing is None:
            outgoing = current.outgoing = self._cell.new_outgoing()
        outgoing.add(target, message, options)

    def _in_hand(self, name: str) -> tuple[InFlight, Delivery]:
        current = in_flight.get()
        if current is None:
            raise NotRunning(f"context.{name} belongs to a delivery; there is none in hand here")
        if current.ended:
            raise NotRunning(f"context.{name}: the delivery that this task was started for is settled")
        if isinstance(current, LocalCall):
            raise NotRunning(
                f"context.{name} belongs to a delivery from a broker; this handler has a local message in hand"
            )
        return current, current.delivery

    # ---- the message in hand ----

    def stash(self) -> None:
        """Set the message in hand aside until `unstash`; it is neither settled nor answered meanwhile.

        Raises `MailboxFull` when `settings.mailbox.stash` messages are aside. They survive a restart, in the mailbox.
        """
        current = self._current("stash")
        if isinstance(current, InFlight) and current.deliveries:
            raise NotRunning("context.stash sets one message aside; a batch ends as a whole, message by message")
        self._cell.check_stash()
        current.state = CallState.STASHED

    def unstash(self) -> None:
        """Put all messages that were set aside before those that wait, in their order."""
        self._cell.unstash()

    def become(self, *handlers: Callable[..., Any]) -> None:
        """From the next message on, handle with these methods alone, until `unbecome` or a restart.

        A method need not be marked with `receive`; its annotation says what it takes. A message that none of them
        takes is refused, as by an actor without a handler for it.
        """
        self._cell.become(handlers)

    def unbecome(self) -> None:
        """Handle with the class's own handlers again."""
        self._cell.unbecome()

    def defer(self) -> Reply:
        """Take the reply of the local message in hand, to `give` or `fail` it later.

        What the handler returns is dropped. Only the first answer counts; if the incarnation ends without one, the
        asker is told so (`ActorCrashed`, `ActorStopped`).
        Raises `NotRunning` for a delivery from a broker, and for a message whose sender did not ask.
        """
        current = self._current("defer")
        if current.call is None or current.call.reply is None:
            raise NotRunning("context.defer: nobody waits for a reply to the message in hand in this process")
        current.state = CallState.DEFERRED
        self._cell.owe(current.call.reply)
        return current.call.reply

    def forward(self, ref: ActorRef[Any]) -> None:
        """Pass the local message in hand on to another actor, which answers the asker.

        Raises `MailboxFull`, `ActorStopped`, `MessageRefused` as `tell_nowait` does, and `NotRunning` for a delivery.
        """
        current = self._current("forward")
        if current.call is None:
            raise NotRunning("context.forward passes on local messages; publish a message that came from a broker")
        ref.forward(current.call)
        current.state = CallState.DEFERRED

    def pipe(
        self, function: Callable[..., Awaitable[object]], *args: object, to: Callable[[Any], object] | None = None
    ) -> None:
        """Run `function(*args)` as a helper task, and tell its result to this actor, as `to(result)` if given.

        The actor goes on meanwhile. An error in the function is the actor's crash; the end of the incarnation cancels
        it.
        """
        self._cell.pipe(function, args, to)

    # ---- other actors ----

    async def spawn(self, child: Child | type[A] | Callable[[], A], *, name: str | None = None) -> ActorRef[A]:
        """Start an actor below this one and return its ref, once its `startup` has returned.

        It is local: it does not read from the broker. It ends with this incarnation, before `shutdown`. Restarted as
        its `Child` says; beyond three restarts in five seconds this actor crashes. Raises `StartError`,
        `AlreadyRegistered`.
        """
        return await self._cell.spawn(child, name)

    def watch(self, ref: ActorRef[Any], *, restarts: bool = False, message: object = None) -> None:
        """Be told when an actor ends for good: `Terminated` (or `message`), once; with `restarts`, `Restarted` too.

        An actor that has ended already is told at once. Kept over restarts of this actor; to watch again replaces what
        it asked for before. Without a handler for what it is told, it is this actor's crash (`DeathPact`).
        """
        self._cell.watch(ref.cell, Watch(restarts=restarts, message=message))

    def unwatch(self, ref: ActorRef[Any]) -> None:
        """Take back `watch`, and what it brought that was not handled yet."""
        self._cell.unwatch(ref.cell)

    def link(self, ref: ActorRef[Any]) -> None:
        """Tie two actors together: the abnormal end of one, for good, is the crash of the other.

        Kept over restarts of both. Each dies of it after the message in hand, whatever handlers it has.
        """
        self._cell.links.link(ref.cell)

    def unlink(self, ref: ActorRef[Any]) -> None:
        """Take back `link`, for both; from now on the end of the other one does nothing to this actor."""
        self._cell.unlink(ref.cell)

    def register(self, name: str) -> None:
        """Take a name within the system, kept over restarts; raises `AlreadyRegistered`."""
        self._cell.links.register(name)

    def unregister(self, name: str) -> None:
        """Give up a name; do nothing if it is not this actor's."""
        self._cell.links.unregister(name)

    def whereis(self, name: str) -> ActorRef[Any] | None:
        """Return the ref of the actor with a name, or None."""
        return self._cell.services.registry.whereis(name)

    def subscribe(self, topic: str) -> None:
        """Be told every message that is broadcast to a topic, until this incarnation ends."""
        self._cell.links.subscribe(topic)

    def unsubscribe(self, topic: str) -> None:
        self._cell.links.unsubscribe(topic)

    def broadcast(self, topic: str, message: object) -> int:
        """Tell a message to all subscribers of a topic, without waiting; return how many took it."""
        return self._cell.services.topics.publish(topic, message)

    # ---- what all nodes see ----

    @overload
    def shared(self, name: str, type: type[T], *, default: T, ttl: float | None = None) -> Shared[T]: ...
    @overload
    def shared(self, name: str, type: type[T], *, ttl: float | None = None) -> Shared[T | None]: ...
    def shared(self, name: str, type: Any, *, default: Any = None, ttl: float | None = None) -> Shared[Any]:
        """Return a value that all nodes see, by its name; `default` stands for it where there is none.

        With `ttl` it is forgotten so many seconds after its last write.
        """
        return Shared(self._values("shared"), name, type, default=default, ttl=ttl)

    def lock(self, name: str, *, ttl: float = 10.0) -> Lock:
        """Return a lock among all nodes: `async with self.context.lock("ledger") as held`.

        A process that dies lets go of it after `ttl` seconds.
        """
        return Lock(self._values("lock"), name, ttl=ttl, random=self._cell.services.random)

    def _values(self, name: str) -> Values:
        if self._cell.services.values is None:
            raise NotRunning(f"context.{name} lies at the broker, and this actor runs without one")
        return self._cell.services.values()

    # ---- the actor itself ----

    @property
    def timers(self) -> Timers:
        """Messages to itself later, by key; cancelled when the incarnation ends."""
        return self._cell.timers

    @property
    def supervisor(self) -> SupervisorRef:
        """The actor's own supervisor: its siblings can be looked at, started and stopped.

        Waiting here for one's own end is a deadlock that only the shutdown bound ends: `stop()` is the way to do that.
        """
        if self._cell.supervisor is None:
            raise NotRunning(f"{self._cell.title!r} has no supervisor: it does not run in a system")
        return self._cell.supervisor

    def stop(self) -> NoReturn:
        """End this actor: the message in hand ends as if its handler had returned; a permanent child starts again.

        From a helper task or `startup`, too: the message in hand ends first.
        """
        raise Stop

    def _current(self, name: str) -> InFlight | LocalCall:
        current = in_flight.get()
        if current is None:
            raise NotRunning(f"context.{name} belongs to a message; there is none in hand here")
        if current.ended:
            raise NotRunning(f"context.{name}: the message that this task was started for has ended")
        return current
