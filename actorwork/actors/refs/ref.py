"""Local refs: the address of an actor in the same process.

A ref leads to the cell, not to the instance, so it survives restarts.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

import trio

from actorwork.actors.handlers.table import local_keywords
from actorwork.actors.mailbox.calls import LocalCall, RankedCall
from actorwork.actors.mailbox.mailbox import Mailbox
from actorwork.actors.wakeups import Reply, check_deadlock, check_thread, working, wrong_thread
from actorwork.durations import Duration, timeout_of
from actorwork.errors import MessageRefused
from actorwork.message import Priority

if TYPE_CHECKING:
    from actorwork.actors.handlers.behaviour import Behaviour
    from actorwork.actors.handlers.table import HandlerTable
    from actorwork.message import Message, Untyped

A = TypeVar("A")
R = TypeVar("R")


if TYPE_CHECKING:

    class AskTimeouts(Protocol):
        """Fails the replies whose time is up."""

        def add(self, reply: Reply, timeout: float, title: str, message: object) -> set[Reply]:
            """Return the set from which the reply is discarded when it is no longer waited for."""
            ...

    class RefTarget(Protocol):
        """What a ref uses of the cell behind it."""

        title: str
        handlers: HandlerTable
        behaviour: Behaviour

        @property
        def label(self) -> str: ...
        @property
        def expiries(self) -> AskTimeouts: ...
        def admit(self) -> Mailbox: ...


class ActorRef(Generic[A]):
    """A local actor's address; survives restarts. Cheap, hashable, equal for the same actor."""

    __slots__ = ("_cell",)

    def __init__(self, cell: RefTarget) -> None:
        self._cell = cell

    def __repr__(self) -> str:
        return f"<ref of {self._cell.label!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorRef) and other._cell is self._cell  # pyright: ignore[reportUnknownMemberType]

    def __hash__(self) -> int:
        return id(self._cell)

    @property
    def title(self) -> str:
        return self._cell.title

    async def tell(self, message: Message[A, Any] | Untyped, *, priority: Priority | None = None) -> None:
        """Send a message, waiting for room in the mailbox.

        With a `priority` (None: the actor's own) it overtakes less urgent messages. Raises `MessageRefused`
        if the actor has no handler for it, `ActorStopped` if it has ended. Cancelled: not sent.
        """
        mailbox, call = self._cell.admit(), self._call(message, None)
        if priority is not None:
            call = _ranked(call, priority, mailbox)
        await mailbox.tell(call)

    def tell_nowait(self, message: Message[A, Any] | Untyped, *, priority: Priority | None = None) -> None:
        """Send a message; raises `MailboxFull` where `tell` would wait.

        In a thread, a handler's included: `trio.from_thread.run_sync(ref.tell_nowait, message)`, or `NotRunning`.
        """
        mailbox, call = self._cell.admit(), self._call(message, None)
        if get_ident() != mailbox.thread:
            raise wrong_thread("ref.tell_nowait")
        if priority is not None:
            call = _ranked(call, priority, mailbox)
        mailbox.tell_nowait(call)

    @overload
    async def ask(
        self, message: Message[A, R], *, timeout: Duration | None = None, priority: Priority | None = None
    ) -> R: ...
    @overload
    async def ask(
        self, message: Untyped, *, timeout: Duration | None = None, priority: Priority | None = None
    ) -> Any: ...
    async def ask(self, message: Any, *, timeout: Duration | None = None, priority: Priority | None = None) -> Any:
        """Send a message and wait for the reply of its handler.

        Raises `AskTimeout` after `timeout` seconds (None: never), `ActorCrashed` as soon as the actor crashes, or is
        restarted, while it handles this message, `ActorStopped` if it ends for good before, `MessageFailed` if the
        handler raised a verdict, `Deadlock` if all that could answer it wait for it. Cancelled or timed out: the
        message is still handled, its reply is dropped.
        """
        reply = Reply()
        call = self._call(message, reply)
        if working.get() is not None:
            check_deadlock(self._cell, self._cell.title)
        await trio.lowlevel.checkpoint_if_cancelled()
        mailbox = self._cell.admit()
        if priority is not None:
            call = _ranked(call, priority, mailbox)
        if timeout is None:
            await mailbox.deliver(call)
            return await reply.wait()
        timeout = timeout_of(timeout)
        expiry = self._cell.expiries.add(reply, timeout, self._cell.title, message)
        try:
            if mailbox.has_room:
                mailbox.tell_nowait(call)
            else:
                with trio.move_on_after(timeout):
                    await mailbox.deliver(call)
            return await reply.wait()
        finally:
            expiry.discard(reply)

    # ---- for other actors, through their context ----

    @property
    def cell(self) -> Any:
        """The cell behind it, for the runtime; not for users."""
        # Any, since its class is defined above this room, and callers want more of it than a ref does.
        return self._cell

    def forward(self, call: LocalCall) -> None:
        """Accept a local message together with the reply its asker waits for."""
        check_thread("context.forward")
        self._cell.admit().tell_nowait(self._call(call.message, call.reply))

    def _call(self, message: object, reply: Reply | None) -> LocalCall:
        plain = self._cell.handlers.by_class.get(type(message))
        if plain is not None:  # Most are: a short way for them, since this runs for every local message.
            return LocalCall(message, plain, reply)
        try:
            handler = self._cell.handlers.for_message(message)
            if handler.keyword_decoder is None:
                return LocalCall(message, handler, reply)
            return LocalCall(message, handler, reply, local_keywords(handler, message))
        except MessageRefused:
            if not self._cell.behaviour.is_changed:
                raise
        # After `become`, the current handlers may take what the class does not. The executor chooses the handler.
        self._cell.behaviour.check(message)
        return LocalCall(message, None, reply)


def _ranked(call: LocalCall, priority: Priority, mailbox: Mailbox) -> LocalCall:
    """Return a call with a priority, and switch its mailbox to priorities."""
    if not isinstance(priority, Priority):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"priority wants a Priority, such as Priority.HIGH, got {priority!r}")
    mailbox.rank()
    return RankedCall(call.message, call.handler, call.reply, call.keywords, priority=priority)
