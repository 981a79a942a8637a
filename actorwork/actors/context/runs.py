"""The runs that a delivery starts, kept until it is settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from actorwork.codec import encode_value
from actorwork.message import FLOW, REPLY_TO, RESULT_TTL, Delivery, is_result_wanted
from actorwork.policy.runs.values import Heir, Plan
from actorwork.policy.settlement import Ack
from actorwork.workflows.flow import flow_of
from actorwork.workflows.templates import may_fit, type_name

if TYPE_CHECKING:
    from actorwork.workflows.flow import Flow
    from actorwork.workflows.steps import Step


class Continuation(NamedTuple):
    """What `context.continue_with` returns: the handler returns it in the place of its reply."""

    plan: Plan
    reply: Any


class StartedRuns:
    """What one delivery starts."""

    __slots__ = ("_starts",)

    def __init__(self) -> None:
        self._starts: list[Plan] = []

    def start(self, flow: Flow[Any] | Step[Any], id: str) -> None:
        self._starts.append(flow_of(flow).plan(id))

    def continue_with(self, flow: Flow[Any] | Step[Any], id: str) -> Continuation:
        whole = flow_of(flow)
        return Continuation(whole.plan(id), whole.reply)

    def ack(self, delivery: Delivery, value: object, returns: object) -> Ack:
        """Return the settlement of a delivery whose handler returned `value`, and is annotated to return `returns`.

        Raises `TypeError` if the run with which the message continues has a result of another type.
        """
        if isinstance(value, Continuation):
            if not may_fit(value.reply, returns):
                raise TypeError(
                    f"the handler returns {type_name(returns)},"
                    f" but the flow with which it continues returns {type_name(value.reply)}"
                )
            asked = {name: delivery.headers[name] for name in (RESULT_TTL, REPLY_TO, FLOW) if name in delivery.headers}
            heir = Heir(source=delivery.source, id=delivery.id, headers=asked)
            return Ack(None, tuple(self._starts), attrs.evolve(value.plan, heir=heir))
        is_wanted = delivery.headers and is_result_wanted(delivery.headers)
        return Ack(encode_value(value) if is_wanted else None, tuple(self._starts))
