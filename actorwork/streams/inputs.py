"""Inputs of a step that are too many, or too long, for the script that sends it: the node that reads it joins them.

    read, taken over ──▶ in flight ──fetch, in pages──▶ joined ──▶ the sink, as any delivery
                             ├── cancelled meanwhile ──▶ settled as that
                             ├── its run is not kept any more ──▶ a dead letter, which says so
                             └── the node reads no more ──▶ released

The script leaves the message out, and adds the header `actorwork-inputs` (`inputs.message` in lua/run_messages.lua).
What the steps returned is with the run, at its home, which may be in another slot than the source; a run that is open
has no time to live. What is stored in the source stays as it is: a retry, a dead letter and one that is sent again have
the header, and their inputs are fetched anew.

A delivery that waits here takes a place of its actor's room, so no more is read than with it in the mailbox. It is in
flight: the node may lose it with its lease, and the actor's process may die, as with any other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import attrs
import trio

from actorwork.events import BrokerTrouble
from actorwork.failpoints import failpoint
from actorwork.message import FAILED, INPUTS, Delivery, Failure
from actorwork.policy.settlement import Fail, Reject, cancelled
from actorwork.streams.joining import InputsGoneError, joined
from actorwork.streams.settle_calls import pause_after
from actorwork.streams.transport.redis_py import NoPermissionError, RedisError, may_pass

if TYPE_CHECKING:
    from actorwork.abc import DeliverySink, EventSink, Subscription
    from actorwork.streams.in_flight import InFlightEntries
    from actorwork.streams.transport.commands import Commands

    class Settles(Protocol):
        """The settler of the node."""

        def start(self, in_flight: InFlightEntries) -> None:
            """Start to apply the queued settlements of a stream."""
            ...


T = TypeVar("T")
_FETCHED: Final = failpoint("inputs.fetched")


@attrs.define(eq=False)
class _Waiting:
    """A delivery whose inputs are being fetched."""

    in_flight: InFlightEntries
    delivery: Delivery
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    settlement: Reject | None = None
    """How it ends, if it was cancelled."""
    is_released: bool = False


class Inputs:
    """The deliveries of one node that wait for their inputs.

    The nursery is that of the tasks which live as long as the node settles.
    """

    def __init__(
        self,
        client: Commands,
        nursery: trio.Nursery,
        settler: Settles,
        release: Callable[[Sequence[Delivery]], Awaitable[None]],
        resume: Callable[[Subscription], None],
        emit: EventSink,
    ) -> None:
        self._client = client
        self._nursery = nursery
        self._settler = settler
        self._release = release
        self._resume = resume
        self._emit = emit
        self._waiting: dict[_Waiting, None] = {}
        self._is_stopped = False

    def __repr__(self) -> str:
        return f"<Inputs of {len(self._waiting)} deliveries>"

    def take(self, in_flight: InFlightEntries, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Keep those without inputs, and offer each to the sink once it has them; return the others. Never waits."""
        others: list[Delivery] = []
        for delivery in deliveries:
            if INPUTS not in delivery.headers:
                others.append(delivery)
            elif self._is_stopped:
                self._nursery.start_soon(self._release, [delivery])
            else:
                waiting = _Waiting(in_flight, delivery)
                self._waiting[waiting] = None
                self._nursery.start_soon(self._complete, waiting)
        return others

    def count(self, sink: DeliverySink) -> int:
        """Return how many wait that are meant for a sink."""
        return sum(waiting.in_flight.subscription.sink is sink for waiting in self._waiting)

    def cancel(self, sink: DeliverySink, source: str, message_id: str, reason: str) -> bool:
        """Settle a message as cancelled, if it waits here; return whether it does."""
        for waiting in self._waiting:
            delivery = waiting.delivery
            if (delivery.source, delivery.id) == (source, message_id) and waiting.in_flight.subscription.sink is sink:
                waiting.settlement = cancelled(reason)
                waiting.scope.cancel()
                return True
        return False

    async def stop(self) -> None:
        """Release what waits, and from now on what comes. Cancelled: other nodes take it over after this node's end."""
        self._is_stopped = True
        left = [waiting for waiting in self._waiting if waiting.settlement is None]
        for waiting in left:
            waiting.is_released = True  # Its reply may have come already: then the scope is left as if nothing was.
            waiting.scope.cancel()
        await self._release([waiting.delivery for waiting in left])

    async def _complete(self, waiting: _Waiting) -> None:
        delivery, in_flight = waiting.delivery, waiting.in_flight
        payload: bytes | None = None
        settlement: Fail | Reject | None = None
        with waiting.scope:
            try:
                try:
                    payload = await self._patiently(delivery, partial(joined, self._client, delivery.headers[INPUTS]))
                except InputsGoneError as gone:
                    settlement = await self._without(in_flight, delivery, str(gone))
                if _FETCHED is not None:
                    _FETCHED()
            except Exception as error:  # noqa: BLE001 - keys that were changed by hand: no attempt will read them better
                settlement = Fail(Failure("InputsGone", f"its inputs cannot be read: {type(error).__name__}: {error}"))
        # No checkpoint from here on: it is either waiting here or in the sink.
        del self._waiting[waiting]
        if waiting.is_released:
            return
        settlement = waiting.settlement or settlement
        if not in_flight.is_over:
            if settlement is None and payload is not None:
                in_flight.subscription.sink.offer([attrs.evolve(delivery, payload=payload)])
            elif settlement is not None and FAILED in delivery.headers:
                in_flight.subscription.sink.offer([delivery])  # The actor's hook is called all the same.
            elif settlement is not None:
                in_flight.others.append((delivery, settlement, ()))
                in_flight.begun += 1
                in_flight.on_unreadable(delivery, settlement)
                self._settler.start(in_flight)
        self._resume(in_flight.subscription)

    async def _without(self, in_flight: InFlightEntries, delivery: Delivery, problem: str) -> Fail | Reject:
        """Return how a delivery ends that gets no inputs: its run may have been cancelled, and forgotten at once."""
        ask = partial(self._client.call, "HMGET", in_flight.keys.cancelled, delivery.id, idempotent=True)
        (note,) = await self._patiently(delivery, ask)
        # As in lua/order.lua: what is before the reason says whether a handler is ended by force.
        return Fail(Failure("InputsGone", problem)) if note is None else cancelled(note[1:].decode(errors="replace"))

    async def _patiently(self, delivery: Delivery, ask: Callable[[], Awaitable[T]]) -> T:
        """Return an answer of the server; wait as long as it does not give one."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await ask()
            except RedisError as error:
                if isinstance(error, NoPermissionError) or not may_pass(error):
                    raise InputsGoneError(f"its inputs cannot be read: {error}") from error
                pause = pause_after(attempt)
                self._emit(BrokerTrouble(f"fetching the inputs of {delivery.id}", str(error), f"again in {pause:g} s"))
            await trio.sleep(pause)
