"""The runs that a delivery starts, kept until it is settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs

from actorwork.actors.context.publishing import headers_of
from actorwork.codec import encode_result
from actorwork.errors import NotRunning
from actorwork.message import (
    FLOW,
    GROUP,
    NO_HEADERS,
    REPLY_TO,
    RESULT_TTL,
    RUN_SECRET,
    Delivery,
    Json,
    is_result_wanted,
)
from actorwork.policy.runs.values import Expansion, Heir, Plan, read_step_header
from actorwork.policy.settlement import Ack
from actorwork.workflows.flow import expansion_of, flow_of
from actorwork.workflows.templates import may_fit, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from actorwork.abc import PublishMiddleware
    from actorwork.workflows.flow import Flow
    from actorwork.workflows.steps import Step

_ASKED: Final = (RESULT_TTL, REPLY_TO, FLOW, RUN_SECRET)


class Continuation(NamedTuple):
    """What `context.continue_with` returns: the handler returns it in the place of its reply."""

    plan: Plan
    reply: Any


class StartedRuns:
    """What one delivery starts."""

    __slots__ = ("_added", "_headers", "_layers", "_starts")

    def __init__(self, layers: Sequence[PublishMiddleware] = ()) -> None:
        self._layers = layers
        self._starts: list[Plan] = []
        self._added: list[Step[Any]] = []
        self._headers: Mapping[str, Json] = NO_HEADERS

    def start(self, flow: Flow[Any] | Step[Any], id: str) -> None:
        self._starts.append(flow_of(flow).plan(id, headers_of(self._layers)))

    def continue_with(self, flow: Flow[Any] | Step[Any], id: str) -> Continuation:
        whole = flow_of(flow)
        return Continuation(whole.plan(id, headers_of(self._layers)), whole.reply)

    def expand(self, steps: Sequence[Step[Any]], delivery: Delivery) -> None:
        if read_step_header(delivery.headers.get(FLOW)) is None:
            raise NotRunning(
                "context.expand adds members to the group of a step; the message in flight is no step of a workflow"
            )
        if not isinstance(delivery.headers.get(GROUP), str):
            raise NotRunning(
                "context.expand adds members to the group of a step, and this step is in none: make it a member of a"
                " group(…) whose results another step takes"
            )
        self._headers = headers_of(self._layers)  # Of the handler; the settlement is not in its context.
        self._expansion(steps, delivery)  # What cannot be added is an error here, and not at the settlement.
        self._added += steps

    def ack(self, delivery: Delivery, value: object, returns: object, limit: int) -> Ack:
        """Return the settlement of a delivery whose handler returned `value`, and is annotated to return `returns`.

        Raises `ResultTooLarge` if the value takes more than `limit` bytes, and `TypeError` if the run with which
        the message continues, or a step that it adds to its group, has a result of another type.
        """
        if isinstance(value, Continuation):
            if not may_fit(value.reply, returns):
                raise TypeError(
                    f"the handler returns {type_name(returns)},"
                    f" but the flow with which it continues returns {type_name(value.reply)}"
                )
            if self._added:
                raise TypeError(
                    "a step that continues with a flow has not ended yet, and cannot add to its group: call"
                    " context.expand in a handler that returns its result"
                )
            asked = {name: delivery.headers[name] for name in _ASKED if name in delivery.headers}
            heir = Heir(source=delivery.source, id=delivery.id, headers=asked)
            return Ack(None, tuple(self._starts), attrs.evolve(value.plan, heir=heir))
        is_wanted = delivery.headers and is_result_wanted(delivery.headers)
        expands = None
        if self._added:
            _check_results(self._added, delivery, returns)
            expands = self._expansion(self._added, delivery)
        return Ack(encode_result(value, limit) if is_wanted else None, tuple(self._starts), expands=expands)

    def _expansion(self, steps: Sequence[Step[Any]], delivery: Delivery) -> Expansion:
        step = read_step_header(delivery.headers[FLOW]) or ("", "", 0)
        return expansion_of(steps, step, str(delivery.headers[GROUP]), self._headers)


def _check_results(steps: Sequence[Step[Any]], delivery: Delivery, returns: object) -> None:
    """Refuse members whose results are of another type than those of the group.

    Of that type only the name is known here. If the handler, whose own result is one of them, is annotated with it,
    types are compared as they are wherever a result is passed on.
    """
    wanted = delivery.headers[GROUP]
    for one in steps:
        given = type_name(one.reply)
        if not wanted or one.reply in (Any, object) or given == wanted:
            continue
        if type_name(returns) != wanted or not may_fit(one.reply, returns):
            raise TypeError(f"the results of the group are of type {wanted}, but {one.label} returns {given}")
