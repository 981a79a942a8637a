"""How an actor learns that one of its messages has failed: its hook `failed` is called for a delivery of its own.

In the step in which a message becomes a dead letter the broker adds a delivery with the header `FAILED`. So the hook is
called on whatever node runs the actor, also if the process that has handled the message is gone; what it publishes is
sent with the settlement of that delivery; and if its process dies, another one calls it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actorwork import events
from actorwork.actors.execution.workplace import interrupts, is_from_outside
from actorwork.actors.tree.hooks import hook_of
from actorwork.codec import loads
from actorwork.errors import CodecError
from actorwork.message import FAILED, Failure
from actorwork.policy.settlement import to_blame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actorwork.actors.context.in_flight import InFlight
    from actorwork.actors.execution.workplace import ExecutorActor, Worker
    from actorwork.actors.handlers.table import HandlerTable
    from actorwork.message import Delivery, Envelope


async def call_hook(
    worker: Worker, actor: ExecutorActor, instance: Any, current: InFlight
) -> Sequence[Envelope] | None:
    """Call the hook; return what it has published, or None if it is to be called again. Its error is reported.

    Raises what came from outside: an interrupt, or a cancellation.
    """
    delivery = current.delivery
    published: Sequence[Envelope] = ()
    try:
        await hook_of(instance, "failed")(message_of(delivery, actor.handlers), failure_in(delivery))
        blamed: BaseException | None = to_blame(None, ended=worker.ended, timeout=worker.timeout)
        if blamed is None and current.outgoing is not None:
            published = current.outgoing.of_batch(actor.services.ids)
    except BaseException as error:
        if worker.ended is not None and not interrupts(error):
            blamed = to_blame(error, ended=worker.ended, timeout=worker.timeout)
        elif is_from_outside(error):
            raise
        else:
            blamed = error
    if blamed is not None:
        doing = f"hook `failed`, of message {delivery.id},"
        actor.services.emit(events.ActorTrouble(actor.settings.id, actor.label, doing, blamed, goes_on=True))
        return ()
    return published if worker.ended is None else None


def failure_in(delivery: Delivery) -> Failure:
    told = delivery.headers[FAILED]
    fields: dict[str, Any] = told if isinstance(told, dict) else {}
    return Failure(*(str(fields.get(name, "")) for name in ("type", "reason", "traceback")))


def key_in(delivery: Delivery) -> str | None:
    """Return the key of the message that has failed."""
    told = delivery.headers[FAILED]
    key = told.get("key") if isinstance(told, dict) else None
    return key if isinstance(key, str) else None


def message_of(delivery: Delivery, handlers: HandlerTable) -> Any:
    """Return a message as its handler takes it; if it cannot be read as that, its JSON, or else what the broker has."""
    try:
        args, kwargs = handlers.for_delivery(delivery).arguments_of(delivery)
    except Exception:  # noqa: BLE001 - a converter of the user's may raise anything, and that may be why it has failed
        payload = delivery.payload
        if not isinstance(payload, bytes):
            return payload
        try:
            return loads(payload)
        except CodecError:
            return payload
    return args[0] if args else kwargs
