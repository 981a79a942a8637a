"""A cell: what of an actor survives its restarts (the word is Akka's).

Identity, mailbox, ref, behaviour, links, timers, stash, and its place at the broker. What ends with a restart belongs
to an `Incarnation`, of which the cell has at most one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from actorwork import events
from actorwork.actors.context.in_flight import inside
from actorwork.actors.context.timers import Timer, Timers
from actorwork.actors.handlers.behaviour import behaviour_of
from actorwork.actors.life.consumer import Consumer
from actorwork.actors.life.incarnation import Incarnation
from actorwork.actors.life.stash import Stash
from actorwork.actors.mailbox.calls import LocalCall, Queue, SystemCall
from actorwork.actors.mailbox.mailbox import Mailbox
from actorwork.actors.refs.links import Links
from actorwork.actors.refs.ref import ActorRef
from actorwork.actors.refs.watching import LinkBroken
from actorwork.actors.tree.spec import Child, label_of
from actorwork.errors import ActorStopped, MailboxFull, MessageRefused
from actorwork.policy.exits import Exit, Kind
from actorwork.policy.settlement import EndReason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from actorwork.actors.context.timers import Expiries
    from actorwork.actors.execution.batches import Batches
    from actorwork.actors.life.consumer import Holding
    from actorwork.actors.life.services import Services
    from actorwork.actors.limits.admission import AdmissionQueue
    from actorwork.actors.mailbox.calls import Item
    from actorwork.actors.supervision.administration import SupervisorRef
    from actorwork.actors.supervision.supervisor import RunningSupervisor

_NEVER_RAN: Final = Exit(Kind.NORMAL)
_KEYLESS: Final = "the entity {!r} takes messages with a key only, from the broker: use client.ref(…, key=…)"


class Cell:
    """An actor's identity, mailbox and ref. Small: there may be a hundred thousand."""

    __slots__ = (
        "_batches",
        "_exit",
        "_links",
        "_quiet",
        "_refusal",
        "_stash",
        "_timers",
        "admission",
        "behaviour",
        "child",
        "consumer",
        "current",
        "handlers",
        "last_exit",
        "mailbox",
        "ref",
        "services",
        "settings",
        "supervisor",
        "title",
    )

    def __init__(self, child: Child, services: Services, *, fed: bool = False) -> None:
        settings = child.settings
        self.child = child
        self.services = services
        self.settings = settings
        self.title = settings.title
        self.behaviour = behaviour_of(cast("type", child.actor))
        self.handlers = self.behaviour.usual
        """The class's handlers, one step nearer for refs."""
        self.mailbox = (_mailbox_of_entity() if fed and self.handlers.is_entity else Mailbox)(
            name=settings.title,
            settings=settings.mailbox,
            concurrency=settings.concurrency,
            on=self,
            usual=settings.priority,
            batch=self.handlers.largest_batch if fed else 1,
        )
        self.ref: ActorRef[Any] = ActorRef(self)
        self.consumer: Consumer | None = Consumer(self, services) if fed else None
        """Its place at the broker; a local actor has none."""
        self.admission: AdmissionQueue | None = None
        """Where deliveries wait for limits, if there are any."""
        if fed and (settings.limits or any(handler.limits for handler in self.handlers)):
            self.admission = _admission_queue(self)
        self.supervisor: SupervisorRef | None = None
        """Whose child it is."""
        self.current: Incarnation | None = None
        """The newest incarnation, also after its end; None before the first."""
        self.last_exit = _NEVER_RAN
        """How an incarnation has ended last."""
        self._exit: Exit | None = None
        """How the actor has ended for good, if it has."""
        self._refusal: str | None = _KEYLESS.format(self.title) if self.handlers.is_entity else None
        # All of this is made on demand: most actors are idle, and have none of it.
        self._batches: Batches | None = None
        self._links: Links | None = None
        self._timers: Timers | None = None
        self._stash: Stash | None = None
        self._quiet: trio.Event | None = None
        if child.name is not None:
            self.links.register(child.name)  # before the actor is anywhere, since it may raise `AlreadyRegistered`
        services.cells[self] = None

    def __repr__(self) -> str:
        return f"<cell of {self.title!r}, incarnation {self.incarnation}: {self.mailbox!r}>"

    @property
    def label(self) -> str:
        """What people tell it from others by, in trees, logs and errors."""
        if self._links is None and self.child.id is None:  # Most actors: this is a part of what a restart costs.
            return self.title
        return label_of(self.child, () if self._links is None else self._links.names)

    @property
    def incarnation(self) -> int:
        """The number of its incarnation, from 1 on; 0 before the first."""
        return 0 if self.current is None else self.current.number

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return self._exit is not None

    @property
    def stopping(self) -> bool:
        """Whether its incarnation begins nothing more."""
        return self.current is not None and self.current.stopping

    # ---- for its supervisor ----

    @property
    def handle(self) -> ActorRef[Any]:
        return self.ref

    def live(self, started: Callable[[], None]) -> CoroutineType[Any, Any, None]:
        """Run one incarnation to its end, as `Incarnation.run` does."""
        # Not `async def`: every idle actor would keep the frame of one more coroutine.
        instance = self._take_instance()
        self.current = Incarnation(self, self.incarnation + 1, instance)
        return self.current.run(started)

    def _take_instance(self) -> Any:
        """Return the newest instance. Its incarnation forgets it: the two are a reference cycle."""
        if self.current is None:
            return None
        instance, self.current.instance = self.current.instance, None
        return instance

    def incarnation_started(self) -> None:
        """Called by the incarnation when its `startup` has returned."""
        self.services.emit(events.ActorStarted(self.settings.id, self.label, self.incarnation))
        if self._links is not None and self.incarnation > 1:
            self._links.restarted(self.incarnation, self.last_exit)

    def incarnation_ended(self) -> None:
        """Called by the incarnation at its end; what it had stashed waits for the next one."""
        self.behaviour = self.behaviour.unbecome()
        if self._timers is not None:
            self._timers.cancel_all()
        if self._links is not None:
            self._links.incarnation_ended()
        self.unstash()

    def stop(self, deadline: float) -> None:
        """Begin nothing more, and end by the deadline once what is in flight has ended."""
        if self.current is not None:
            self.current.stop(deadline)

    def kill(self) -> None:
        """Cancel what runs under shields of the incarnation."""
        if self.current is not None:
            self.current.kill()

    def reopen(self) -> None:
        """Accept messages again, after an end that was not the last one."""
        if self.current is not None:
            self.current.fail_held_replies(over=False)
        if self._exit is not None:
            if self.child.name is not None:
                self.links.register(self.child.name)  # first, since it may raise `AlreadyRegistered`
            self._exit = None
            self.services.cells[self] = None
            self.mailbox.reopen()
            if self._links is not None:
                self._links.reopened()
            self.room_made()

    def end(self, exit: Exit, reason: str) -> None:
        """End for good: refuse senders, fail the asks that wait, release the deliveries."""
        if self._exit is not None:
            return
        self._exit = exit
        self.services.cells.pop(self, None)
        self._refusal = None  # the mailbox refuses from now on, with the last word
        self.mailbox.close(reason)
        told: list[object] = []
        for call in self.mailbox.remove_local():
            if call.reply is not None:
                call.reply.fail(ActorStopped(reason))
            elif call.queue is not Queue.SYSTEM:
                told.append(call.message)
        if self.current is not None:
            self.current.fail_held_replies(over=True)
            self.current.on_undelivered(told)
        self.undelivered(told)
        self._take_instance()
        if self._links is not None:
            self._links.ended(exit)
        if self.consumer is not None and (self.mailbox.held or self.admission):
            self.services.start_soon(self.consumer.release_deliveries)
        self.idle()

    def undelivered(self, messages: Sequence[object], reason: str = "gone") -> None:
        """Report messages that will not be handled."""
        for message in messages:
            self.services.emit(events.Undelivered(self.settings.id, self.label, message, reason))

    # ---- for its mailbox and its admission queue ----

    def room_made(self) -> None:
        if self.consumer is not None:
            self.consumer.resume()

    def crowded(self) -> None:
        if self.current is not None and self.current.wants_executor:
            self.current.add_executor()

    def dropped(self, call: LocalCall) -> None:
        """A local message was dropped for want of room."""
        self.undelivered([call.message], "dropped")
        if call.reply is not None:
            call.reply.fail(MailboxFull(f"the mailbox of {self.title!r} was full, and dropped this message"))

    @property
    def free(self) -> int:
        """How many messages could be begun now."""
        return self.settings.concurrency - self._in_flight

    # ---- for its ref, and for other actors ----

    @property
    def expiries(self) -> Expiries:
        return self.services.expiries

    def admit(self) -> Mailbox:
        """Return the mailbox for a local sender; raises `ActorStopped` while the system shuts down, or
        `MessageRefused` for an entity.
        """
        if self._refusal is not None and (self.handlers.is_entity or not inside.get()):
            raise (MessageRefused if self.handlers.is_entity else ActorStopped)(self._refusal)
        return self.mailbox

    def signal(self, message: object, origin: object) -> None:
        """Put a message of the runtime before those of users; its handler is looked up when its turn comes."""
        if self._exit is None:
            self.mailbox.put(SystemCall(message, None, None, queue=Queue.SYSTEM, origin=origin))

    def link_broken(self, ref: ActorRef[Any], exit: Exit) -> None:
        """End this actor, because one that it is linked to has ended."""
        self.signal(LinkBroken(ref, exit), ("link", ref))

    def forget_signals(self, origin: object) -> None:
        """Drop the signals about another actor, or about a link to it, that wait here."""
        self.mailbox.drop(Queue.SYSTEM, origin)

    # ---- for its context ----

    @property
    def links(self) -> Links:
        if self._links is None:
            self._links = Links(self, self.services.registry, self.services.topics, self._exit)
        return self._links

    @property
    def timers(self) -> Timers:
        if self._timers is None:
            self._timers = Timers(self, self.services.timers)
        return self._timers

    def timer_fired(self, timer: Timer) -> None:
        """Send the actor a timer's message, unless the one before it has not been handled yet."""
        if timer.is_waiting and not (self.current is not None and self.current.handles(timer.sent)):
            return
        timer.sent = SystemCall(timer.message, None, None, queue=Queue.SELF, origin=timer)
        self.mailbox.put(timer.sent)

    @property
    def stash(self) -> Stash:
        if self._stash is None:
            self._stash = Stash(self.title, self.settings.mailbox.stash, self.mailbox)
        return self._stash

    def unstash(self) -> None:
        """Put all stashed messages before those that wait."""
        if self._stash is None:
            return
        if self.consumer is not None and self.consumer.intake_over:
            # No executor takes anything from the mailbox any more: there deliveries would be missed by the release.
            self.consumer.offer(self._stash.take_deliveries())
        self._stash.unstash()

    # ---- for its consumer and its executors ----

    @property
    def batches(self) -> Batches:
        """Where deliveries gather for handlers that take several at once."""
        if self._batches is None:
            from actorwork.actors.execution.batches import Batches  # noqa: PLC0415 - few actors need it

            self._batches = Batches(self.title, self.mailbox, self.admission, self.services.start_soon)
        return self._batches

    def holdings(self) -> Iterator[Holding]:
        """Yield everything in which deliveries wait, those that came first in front."""
        if self._batches is not None:
            yield self._batches
        if self.admission is not None:
            yield self.admission
        yield self.mailbox
        if self._stash is not None:
            yield self._stash

    def revoke_in_flight(self) -> None:
        """Cancel the handlers of deliveries: they belong to other nodes now."""
        if self.current is not None:
            self.current.end_in_flight(EndReason.REVOKED, deliveries_only=True)

    def idle(self) -> None:
        """Called by an executor that finds nothing to do."""
        if self.admission is not None and self.admission.queues:
            self.admission.wake()
        if self._quiet is not None:
            self._quiet.set()

    # ---- for the shutdown of its system, and for those that look at it ----

    def refuse(self, reason: str) -> None:
        """Refuse messages from outside the actors of this system: these may still send each other messages."""
        self._refusal = reason

    def end_in_flight(self) -> None:
        """Cancel what is in flight and begin nothing more; deliveries wait for `release_deliveries`."""
        self.mailbox.pause()
        if self.current is not None:
            self.current.end_in_flight(EndReason.SHUTDOWN)

    @property
    def _in_flight(self) -> int:
        return 0 if self.current is None else self.current.in_flight

    @property
    def in_flight(self) -> bool:
        """Whether a handler runs."""
        return self._in_flight > 0

    def in_flight_since(self) -> list[tuple[Item, float]]:
        """Return what is in flight, each with when it began (Trio's clock)."""
        return [] if self.current is None else self.current.in_flight_since()

    @property
    def waiting(self) -> int:
        """How many messages wait, also for limits and for batches."""
        return len(self.mailbox) + len(self.admission or ()) + len(self._batches or ())

    @property
    def load(self) -> int:
        """How many messages wait or are in flight."""
        return self.waiting + self._in_flight

    @property
    def busy(self) -> bool:
        """Whether something is in flight, or a local message waits."""
        return self.mailbox.local > 0 or self.in_flight

    async def wait_quiet(self) -> None:
        """Wait until it is not `busy`."""
        while self.busy:
            self._quiet = trio.Event()
            await self._quiet.wait()

    @property
    def children(self) -> RunningSupervisor | None:
        """The supervisor of the actors that this one has spawned, if it has."""
        return None if self.current is None else self.current.children


def _mailbox_of_entity() -> type[Mailbox]:
    from actorwork.actors.entities.mailbox import EntityMailbox  # noqa: PLC0415 - most programs have no entities

    return EntityMailbox


def _admission_queue(cell: Cell) -> AdmissionQueue:
    from actorwork.actors.limits.admission import AdmissionQueue  # noqa: PLC0415 - few actors need it

    return AdmissionQueue(cell, cell.services.limiters, cell.services.start_soon)
