"""Receipts for messages that were submitted: their lives, and their results.

receipt = await greeter.submit(Greet("Ann"))
print(await receipt.result(timeout=60))
receipt = client.receipt(id)                        in another process, by the id alone
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import attrs

from actorwork.clients.driver import OutOfTime
from actorwork.clients.sender import Sender, reply
from actorwork.durations import Duration, timeout_of
from actorwork.errors import AskTimeout
from actorwork.message import Outcome, Status
from actorwork.policy.bounds import is_utf8
from actorwork.records import MessageInfo

R_co = TypeVar("R_co", covariant=True)


@attrs.frozen(eq=False)
class Receipt(Generic[R_co]):
    """The receipt for one submitted message; store its `id` to find the message later.

    `source` is "" if only the id was given: then it is looked for whenever the receipt is used.
    """

    id: str
    source: str
    _sender: Sender = attrs.field(repr=False)
    _whom: str = attrs.field(repr=False)
    _reply_type: Any = attrs.field(repr=False)

    async def info(self, *, timeout: Duration = 30) -> MessageInfo:
        """Return all that is known of the message now; raises `AskTimeout` if the broker does not answer.

        Its status is UNKNOWN if no such message was submitted, or if it is kept no longer: an open one is kept, one
        that is over for its `results_ttl`.
        """
        timeout = timeout_of(timeout)
        try:
            return await self._sender.driver.within(timeout, self._look)
        except OutOfTime:
            raise AskTimeout(
                f"the broker did not return the state of message {self.id} within {timeout:g} s: is it reachable?"
            ) from None

    async def status(self, *, timeout: Duration = 30) -> Status:
        """Return the status of the message; raises `AskTimeout` if the broker does not answer."""
        return (await self.info(timeout=timeout)).status

    async def cancel(self, reason: str = "", *, force: bool = False) -> bool:
        """Cancel the message, wherever it is; return False if it is over, or was cancelled before.

        If no node has been given it, it is dropped at once. A handler in flight is cancelled within a second, and the
        message ends as cancelled unless the handler returns all the same: what it returns is then the result. A message
        that waits in the spool is cancelled as soon as the broker has it; this waits for that.

        With `force`, the `Process` of a handler that has not ended a second later (it shields itself, or runs in a
        thread) is replaced; other nodes run what else was in flight there, and no attempt is counted. Force may follow
        a cancellation without it while the message is not over.
        """
        await self._wait_sent()
        source = await self._find_source()
        broker = await self._sender.reached()
        return bool(source) and await broker.cancel_message(source, self.id, reason=reason, force=force)

    async def result(self, *, timeout: Duration = 30) -> R_co:
        """Wait for the message's outcome and return the reply; may be called again, and from many tasks.

        Raises `MessageFailed` (with the handler's error), `AskTimeout`, and at once `LookupError` for a message that
        was never submitted, or whose result is kept no longer, and for a step of a run that is over: `run.steps()` has
        its result. If cancelled, the outcome is not lost.
        """
        timeout = timeout_of(timeout)
        info = MessageInfo(id=self.id, source=self.source)

        async def look() -> tuple[MessageInfo, Outcome | None]:
            nonlocal info
            info = await self._look()
            return info, await self._outcome_after(info)

        async def wait() -> Outcome:
            await self._wait_sent()
            _, outcome = await look()
            if outcome is not None:
                return outcome
            watch = await (await self._sender.driver.changes()).watch(info.source, self.id)
            try:
                while True:
                    # After the watch has begun: what has changed before is seen now, what changes later is heard of.
                    _, outcome = await look()
                    if outcome is not None:
                        return outcome
                    await watch.changed()
            finally:
                await watch.aclose()

        try:
            outcome = await self._sender.driver.within(timeout, wait)
        except OutOfTime:
            pass
        else:
            value: Any = reply(outcome, self._reply_type, whom=self._whom, message_id=self.id)
            return value  # pyright: ignore[reportUnknownVariableType] # of the type that the handler's annotation names
        raise AskTimeout(
            f"no outcome of message {self.id} from {self._whom} within {timeout:g} s{_state(info, self._whom)}"
        )

    @asynccontextmanager
    async def watch(self) -> AsyncGenerator[AsyncIterator[MessageInfo]]:
        """Follow the message: `async with receipt.watch() as updates: async for info in updates`.

        The first update is the present, the last one the end. Several changes may become one update. Raises
        `LookupError` for a message that was never submitted, or is kept no longer.
        """
        updates = self._updates()
        try:
            yield updates
        finally:
            await self._sender.driver.aclose(updates)

    async def forget(self) -> bool:
        """Delete the result and all that is known of the message, now and not after its `results_ttl`.

        Return False, and delete nothing, if it is not over, or not known.
        """
        source = await self._find_source()
        return bool(source) and await (await self._sender.reached()).states.forget(source, self.id)

    # ---- looking ----

    async def _find_source(self) -> str:
        """Return its source, or "" if there is no such message."""
        return self.source or await (await self._sender.reached()).states.locate(self.id) or ""

    async def _look(self) -> MessageInfo:
        source = await self._find_source()
        found = await (await self._sender.reached()).states.find(source, self.id) if source else None
        return MessageInfo(id=self.id, source=source) if found is None else found

    async def _outcome_after(self, info: MessageInfo) -> Outcome | None:
        """Return the outcome if the message is over. Raises `LookupError` if there is none."""
        if info.status.is_final or info.status is Status.UNKNOWN:
            found = await (await self._sender.reached()).find_outcome(info.source, self.id) if info.source else None
            if found is not None:
                return found
            if info.status.is_final and "/" in self.id:
                run = self.id.rpartition("/")[0]
                raise LookupError(
                    f"message {self.id} is over ({info.status}), and has no result of its own: it is a step of run"
                    f" {run!r}, whose `steps()` have their results"
                )
            raise self._unknown()
        return None

    async def _wait_sent(self) -> None:
        """Wait until the message has left the spool, if it may be there."""
        if self._sender.spooler is not None and self.source:
            await self._sender.spooler.wait_turn(self.source)

    async def _updates(self) -> AsyncGenerator[MessageInfo]:
        await self._wait_sent()
        source = await self._find_source()
        if not source:
            raise self._unknown()
        version = 0
        watch = await (await self._sender.driver.changes()).watch(source, self.id)
        try:
            while True:
                info = await (await self._sender.reached()).states.find(source, self.id)
                if info is None:
                    raise self._unknown()
                if info.version > version:
                    version = info.version
                    yield info
                    if info.status.is_final:
                        return
                await watch.changed()
        finally:
            await watch.aclose()

    def _unknown(self) -> LookupError:
        return LookupError(
            f"there is no result of message {self.id} at {self._sender.url}: it was never submitted, or its result is"
            " kept no longer"
        )


def check_id(id: object) -> None:
    """Raise `TypeError` or `ValueError` for what is no id of a message: None of a database, bytes, lone surrogates."""
    if not isinstance(id, str):
        raise TypeError(f"a receipt wants the id of a message, a str, got {id!r}")
    if not is_utf8(id):
        raise ValueError(f"a receipt wants an id that can be written as UTF-8, got {id!r}")


def _state(info: MessageInfo, whom: str) -> str:
    """Return how far a message is that has not ended in time, and what it may want."""
    match info.status:
        case Status.STARTED:
            return f": attempt {info.attempt} has begun on node {info.node}; it may still be handled"
        case Status.RECEIVED:
            return f": node {info.node} has received it, and has not begun; it may still be handled"
        case Status.RETRY:
            return f": attempt {info.attempt} has failed ({info.reason}), and it is tried again"
        case _:
            return f"; it may still be handled. Does a node run with the actor {whom}?"
