"""A cell: what of an actor survives its restarts: identity, mailbox, ref, and its place at the broker.

One incarnation lives like this, in one task of its supervisor:

    construct ── startup ── started ──▶ executors take items ──▶ (told to stop | crash) ── shutdown ── helpers cancelled

`shutdown` is called once for every incarnation that started, also after a crash, always bounded. Helper tasks live in
the incarnation's nursery and end with it; an error in one is the actor's crash.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextvars import copy_context
from random import Random
from typing import TYPE_CHECKING, Any, cast

import attrs
import trio

from actorwork import events
from actorwork.abc import EventSink, Node, Subscription
from actorwork.actors.context import Context, ContextLogger, inside
from actorwork.actors.execution import Ended, Executor
from actorwork.actors.handlers import handlers_of
from actorwork.actors.mailbox import Mailbox
from actorwork.actors.outgoing import Outgoing
from actorwork.actors.ref import ActorRef
from actorwork.errors import ActorStopped, BrokerError, NotRunning
from actorwork.message import Delivery
from actorwork.policy.exits import Exit
from actorwork.policy.settlement import only_leaf

if TYPE_CHECKING:
    from actorwork.actors.child import Child
    from actorwork.actors.watchdog import Watchdog
    from actorwork.message import Envelope, MessageIds
    from actorwork.policy.settlement import Settlement


@attrs.frozen(eq=False)
class Services:
    """What all actors of a system share."""

    emit: EventSink
    watchdog: Watchdog
    ids: MessageIds
    random: Random = attrs.field(factory=Random)
    threads: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(math.inf))
    start_soon: Callable[..., None] = lambda *_: None
    """Starts a task of the system's own; a no-op once it ends."""

    @property
    def dice(self) -> Callable[[], float]:
        return self.random.random


class Cell:
    """An actor's identity, mailbox and ref; an `abc.Inlet` for its deliveries."""

    def __init__(self, child: Child, services: Services) -> None:
        self.child = child
        self.services = services
        self.settings = child.settings
        self.title = self.settings.title
        self.handlers = handlers_of(cast("type", child.actor))
        self.layers: Sequence[Any] = self.settings.middleware
        self.mailbox = Mailbox(
            name=self.title, capacity=self.settings.mailbox.capacity, concurrency=self.settings.concurrency
        )
        self.mailbox.on_room = self._room_made
        self.mailbox.on_crowd = self._crowded
        self.ref: ActorRef[Any] = ActorRef(self)
        self.subscription = Subscription(
            group=self.settings.id,
            actor=self.title,
            sources=self.settings.all_sources,
            inlet=self,
            max_crashes=self.settings.max_crashes,
        )
        self.incarnation = 0
        self.stopping = False
        self._refuses: str | None = None
        self._over = False
        self._ending: trio.CancelScope | None = None
        self._node: Node | None = None
        self._executors: list[Executor] = []
        self._nursery: trio.Nursery | None = None
        self._context = copy_context()
        self._instance: Any = None
        self._given_up: list[Delivery] = []
        self._quiet = trio.Event()

    def __repr__(self) -> str:
        return f"<cell of {self.title!r}, incarnation {self.incarnation}: {self.mailbox!r}>"

    # ---- at the broker ----

    def attach(self, node: Node | None) -> None:
        """Say where deliveries are settled."""
        self._node = node

    def room(self) -> int:
        return 0 if self._over else self.mailbox.room()

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        self.mailbox.offer(deliveries)

    def revoke(self) -> None:
        """Forget the deliveries that wait, cancel those in hand: they belong to others now."""
        self.take_given_up()
        for executor in self._executors:
            if isinstance(executor.item, Delivery):
                executor.end(Ended.REVOKED)

    def _room_made(self) -> None:
        if self._node is not None:
            self._node.resume(self.subscription)

    def settle(self, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope] = ()) -> None:
        if self._node is not None:
            self._node.settle(self.subscription, delivery, settlement, published)

    async def publish_fenced(self, delivery: Delivery, published: Sequence[Envelope]) -> bool:
        return self._node is not None and await self._node.publish_fenced(self.subscription, delivery, published)

    # ---- local senders ----

    def refuse(self, reason: str) -> None:
        """Refuse messages from outside the actors of this system: they may still tell each other."""
        self._refuses = reason

    def admit(self) -> Mailbox:
        """Return the mailbox for a local sender; raises `ActorStopped` while the system shuts down."""
        if self._refuses is not None and not inside.get():
            raise ActorStopped(self._refuses)
        return self.mailbox

    # ---- the life of an incarnation ----

    async def live(self, started: Callable[[], None]) -> None:
        """Run one incarnation to its end; calls `started` once `startup` has returned.

        Returns when it was told to stop. Raises the error it crashed of, out of the groups that wrapped it.
        Cancelled: `shutdown` is still called, bounded by the child's shutdown timeout.
        """
        inside.set(True)
        self.incarnation += 1
        self.stopping = False
        failure: BaseException | None = None
        try:
            instance = self.child.factory()
            async with trio.open_nursery() as nursery:
                instance.context = self._new_context(nursery)
                with trio.move_on_after(self.child.startup_timeout) as limit:
                    await instance.startup()
                if limit.cancelled_caught:
                    raise trio.TooSlowError(f"startup took longer than {self.child.startup_timeout:g} s")
                started()
                self.services.emit(events.ActorStarted(self.settings.id, self.title, self.incarnation))
                try:
                    await self._work(instance)
                finally:
                    await self._shut_down(instance)
                    nursery.cancel_scope.cancel(reason="the actor has ended")
        except BaseExceptionGroup as group:
            failure = only_leaf(group)
        finally:
            self._executors.clear()
        # Raised out here: within the handler above it would get the group as its context, or lose its own cause.
        if failure is not None:
            raise failure

    def _new_context(self, nursery: trio.Nursery) -> Context:
        extra = {"actor_id": self.settings.id, "actor": self.title}
        log = ContextLogger(logging.getLogger("actorwork.actor"), extra)
        return Context(self.ref, nursery, log, lambda: Outgoing(self.settings.event_settings))

    async def _work(self, instance: Any) -> None:
        self._instance = instance
        self._context = copy_context()
        try:
            async with trio.open_nursery() as self._nursery:
                self.add_executor()
        finally:
            self._nursery = None
            self._instance = None

    def _crowded(self) -> None:
        if self.wants_executor:
            self.add_executor()

    @property
    def wants_executor(self) -> bool:
        """Whether one more executor would find something to do."""
        return (
            len(self._executors) < self.settings.concurrency
            and len(self.mailbox) > 0
            and not self.mailbox.paused
            and self._nursery is not None
        )

    def add_executor(self) -> None:
        """Start one more executor, in the incarnation's nursery."""
        if self._nursery is None:
            raise NotRunning(f"{self.title!r} does not run")
        executor = Executor(self, self._instance)
        self._executors.append(executor)
        # In the incarnation's context, whoever's message it was that made one more executor necessary.
        name = f"{self.title} executor {len(self._executors)}"
        self._context.run(self._nursery.start_soon, executor.run, name=name)

    def executor_ended(self) -> None:
        """Start no more executors: the first one ends when the incarnation does."""
        self._nursery = None

    async def _shut_down(self, instance: Any) -> None:
        timeout = self.child.shutdown
        if timeout == "brutal_kill":
            return
        try:
            with trio.fail_after(timeout, shield=True) as self._ending:
                await instance.shutdown()
        except Exception as error:  # noqa: BLE001 - an actor that has ended cannot crash any more; it is reported
            if isinstance(error, trio.TooSlowError):
                error = trio.TooSlowError(f"took longer than {timeout:g} s and was cancelled")
            self.services.emit(events.ActorTrouble(self.settings.id, self.title, "shutdown", error))
        finally:
            self._ending = None

    # ---- stopping ----

    @property
    def handle(self) -> ActorRef[Any]:
        return self.ref

    def stop(self, deadline: float) -> None:
        """Take no further item; the incarnation ends when what is in hand has ended."""
        self.stopping = True
        self.mailbox.wake()

    def end_in_hand(self) -> None:
        """Cancel what is in hand and begin nothing more, for a shutdown; deliveries are kept for `hand_back`."""
        self.mailbox.pause()
        for executor in self._executors:
            executor.end(Ended.SHUTDOWN)

    def interrupted(self, delivery: Delivery) -> None:
        """Take a delivery back from an executor that was ended while it had it in hand."""
        if self.stopping or self.mailbox.paused:
            self._given_up.append(delivery)
            self.mailbox.delivery_ended(0.0)
        else:
            self.mailbox.put_back(delivery)

    def take_given_up(self) -> list[Delivery]:
        """Return the deliveries that will not be handled here: unread ones, and those whose handler was ended."""
        found = self._given_up + self.mailbox.remove_deliveries()
        self._given_up = []
        return found

    async def hand_back(self) -> int:
        """Give back what will not be handled here; return how many that were.

        If the broker fails, or this is cancelled, they stay ours until the lease is released or runs out.
        """
        deliveries = self.take_given_up()
        if deliveries and self._node is not None:
            try:
                await self._node.hand_back(self.subscription, deliveries)
            except BrokerError as error:
                trouble = events.BrokerTrouble(
                    "handing back", str(error), "they are run elsewhere after this node's end"
                )
                self.services.emit(trouble)
        return len(deliveries)

    @property
    def in_hand(self) -> bool:
        """Whether a handler runs."""
        return any(executor.item is not None for executor in self._executors)

    @property
    def busy(self) -> bool:
        """Whether something is in hand, or a local message waits."""
        return self.mailbox.local > 0 or self.in_hand

    async def wait_quiet(self) -> None:
        """Wait until nothing is in hand and no local message waits."""
        while self.busy:
            self._quiet = trio.Event()
            await self._quiet.wait()

    def idle(self) -> None:
        """Called by an executor that finds nothing to do."""
        self._quiet.set()

    def kill(self) -> None:
        """Cancel the `shutdown` that runs under a shield."""
        if self._ending is not None:
            self._ending.cancel(reason="killed by its supervisor")

    def reopen(self) -> None:
        """Take messages again, after an end that was not the last one."""
        if self._over:
            self._over = False
            self.mailbox.reopen()
            self._room_made()

    def end(self, exit: Exit, reason: str) -> None:
        """End the cell for good: refuse senders, tell the askers whose messages will not be handled, hand back the
        rest.
        """
        if self._over:
            return
        self._over = True
        self._refuses = None  # the mailbox does, with the last word
        self.mailbox.close(reason)
        for call in self.mailbox.remove_local():
            if call.reply is not None:
                call.reply.fail(ActorStopped(reason))
            else:
                self.services.emit(events.Undelivered(self.settings.id, self.title, call.message))
        if self.mailbox.held and self._node is not None:
            self.services.start_soon(self.hand_back)
        self._quiet.set()
