"""Sentry for a system: `run(tree, telemetry=Sentry(configure=…))`, and `sending()` for clients.

    Fail, and the crash of an actor     captured, once, with what the handler had noted in its scope
    Retry                               a breadcrumb of the next event of its message's actor here
    Reject, a cancellation              nothing: the handler's own decision, and a shutdown

Each delivery is handled in an isolation scope of its own. The SDK needs no integration for Trio, and nothing is
patched: its scopes are context variables, and each task of Trio's has its own.

What a message says is sent only with `send_default_pii`, as what users' data may be in it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from actorwork.errors import SettingsError
from actorwork.events import ChildExited, Settled
from actorwork.message import NO_HEADERS
from actorwork.policy.settlement import CANCELLED, Fail, Reject, Retry, decisive
from actorwork.shown import Shown
from actorwork.telemetry.checkins import CheckIns

try:
    import sentry_sdk
    from sentry_sdk.consts import SPANSTATUS
    from sentry_sdk.crons import capture_checkin
    from sentry_sdk.scope import use_isolation_scope
    from sentry_sdk.tracing import TransactionSource
    from sentry_sdk.tracing_utils import has_span_streaming_enabled, has_tracing_enabled
    from sentry_sdk.utils import event_from_exception
except ImportError as error:
    raise ImportError('actorwork.telemetry.sentry needs the SDK of Sentry: pip install "actorwork[sentry]"') from error

if TYPE_CHECKING:
    from sentry_sdk.scope import Scope

    from actorwork.abc import EventSink, PublishMiddleware
    from actorwork.events import Event
    from actorwork.message import Delivery, Envelope, Json
    from actorwork.policy.settlement import Ending
    from actorwork.settings import Settings

ORIGIN: Final = "auto.queue.actorwork"
MECHANISM: Final[Mapping[str, Any]] = {"type": "actorwork", "handled": False}
SENTRY_TRACE: Final = "sentry-trace"
BAGGAGE: Final = "baggage"
_MARK: Final = "__actorwork_captured__"
_REMEMBERED: Final = 20
"""How many failed attempts of an actor are breadcrumbs of its next event."""


def sending() -> PublishMiddleware:
    """Return publish middleware for a client: messages carry the trace in which they are sent."""
    return _Traced()


class _Traced:
    """Puts the trace in which a message is made into its headers. Implements `abc.HeaderMiddleware`."""

    def __repr__(self) -> str:
        return "<traces of Sentry>"

    def __call__(self, envelope: Envelope) -> Envelope:
        if SENTRY_TRACE in envelope.headers:
            return envelope
        found = self.headers()
        return attrs.evolve(envelope, headers={**found, **envelope.headers}) if found else envelope

    def headers(self) -> Mapping[str, Json]:
        if not sentry_sdk.get_client().is_active():
            return {}
        made = {SENTRY_TRACE: sentry_sdk.get_traceparent(), BAGGAGE: sentry_sdk.get_baggage()}
        return {name: value for name, value in made.items() if value}


@attrs.frozen(kw_only=True, repr=False)
class Sentry(Shown):
    """Reports failures of messages and crashes of actors to Sentry. Implements `abc.Telemetry`.

    `configure` calls `sentry_sdk.init` in each process of a tree; with a `Process` it is a function at the top of a
    module. Without it, the process must have called that before. With tracing on (`traces_sample_rate`), each delivery
    is a transaction of the operation `queue.process`, in the trace of its sender. With `crons`, messages of triggers
    check in at Sentry's monitors of crons, which these check-ins make.
    """

    configure: Callable[[], object] | None = None
    crons: bool = False

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.crons, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingsError(f"Sentry.crons wants True or False, got {self.crons!r}")
        if self.configure is not None and not callable(self.configure):  # pyright: ignore[reportUnnecessaryComparison]
            raise SettingsError(f"Sentry.configure wants a function that calls sentry_sdk.init, got {self.configure!r}")

    def open(self, broker: str) -> OpenedSentry:
        """Configure this process. Raises what `configure` raises."""
        if self.configure is not None:
            self.configure()
        return OpenedSentry(broker, crons=self.crons)


class OpenedSentry:
    """What reports from one process. Implements `abc.Instruments`."""

    def __init__(self, broker: str, *, crons: bool = False) -> None:
        self._crons = crons
        is_redis = broker.partition(":")[0] in ("redis", "rediss", "valkey", "valkeys", "unix")
        self._system = "redis" if is_redis else "actorwork"
        self._check_ins: dict[str, CheckIns] = {}
        """By id of the actor."""

    def __repr__(self) -> str:
        return "<opened Sentry>"

    @property
    def publish_middleware(self) -> tuple[PublishMiddleware, ...]:
        return (_Traced(),)

    @property
    def observe(self) -> EventSink | None:
        return self._take

    def of_actor(self, settings: Settings) -> ActorReports:
        check_ins = None
        if self._crons:
            check_ins = self._check_ins[settings.id] = CheckIns(settings, capture_checkin)
        return ActorReports(settings, self._system, check_ins)

    def _take(self, event: Event) -> None:
        """Capture the crash of an actor that is not that of a message: of a start, a task, a local call."""
        if type(event) is Settled and type(event.settlement) is Reject and event.settlement.failure.type == CANCELLED:
            # Wherever it was: no handler has ended, so no other check-in follows.
            check_ins = self._check_ins.get(event.actor_id)
            if check_ins is not None:
                check_ins.note([event.delivery], "error")
            return
        if type(event) is not ChildExited or not event.exit.abnormal:
            return
        error = event.exit.group or event.exit.error
        if error is None or _is_marked(error) or _is_marked(event.exit.error or error):
            return
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("actorwork.actor", event.child)
            scope.set_transaction_name(event.child, source=TransactionSource.TASK)
            _capture(error)

    def close(self, within: float) -> None:
        """Send what has been captured. The client stays open: it is the program's."""
        sentry_sdk.flush(timeout=within)


class ActorReports:
    """The reports of one actor. Implements `abc.ActorInstrument`."""

    def __init__(self, settings: Settings, system: str, check_ins: CheckIns | None = None) -> None:
        self._settings = settings
        self._check_ins = check_ins
        self._system = system
        self._failed: dict[int, tuple[Delivery, Scope]] = {}
        """The scopes of deliveries whose handlers have raised, until that is settled; by identity."""
        self._retries: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)

    def __repr__(self) -> str:
        return f"<reports of {self._settings.title!r}>"

    def begin(self, in_hand: Callable[[], Delivery | None]) -> None:
        """Do nothing: every delivery has a scope of its own."""

    def is_unobserved(self, delivery: Delivery) -> bool:
        return False

    async def handling(self, delivery: Delivery, proceed: Callable[[], Awaitable[object]]) -> object:
        client = sentry_sdk.get_client()
        if not client.is_active():
            return await proceed()
        with sentry_sdk.isolation_scope() as scope:
            self._describe(scope, [delivery])
            if not has_tracing_enabled(client.options) or has_span_streaming_enabled(client.options):
                self._continue(delivery)
                return await self._noting(scope, [delivery], proceed)
            transaction = sentry_sdk.continue_trace(
                _trace_of(delivery),
                op="queue.process",
                name=self._title,
                source=TransactionSource.TASK,
                origin=ORIGIN,
            )
            with sentry_sdk.start_transaction(transaction) as span:
                for name, value in self._facts(delivery).items():
                    span.set_data(name, value)
                try:
                    answer = await self._noting(scope, [delivery], proceed)
                except BaseException:
                    span.set_status(SPANSTATUS.INTERNAL_ERROR)
                    raise
                span.set_status(SPANSTATUS.OK)
                return answer

    async def handling_together(self, deliveries: Sequence[Delivery], proceed: Callable[[], Awaitable[Any]]) -> Any:
        if not sentry_sdk.get_client().is_active():
            return await proceed()
        with sentry_sdk.isolation_scope() as scope:
            self._describe(scope, deliveries)
            answer = await self._noting(scope, deliveries, proceed)
            for delivery, outcome in zip(deliveries, answer, strict=False):
                if isinstance(outcome, BaseException):
                    self._failed[id(delivery)] = delivery, scope
            return answer

    def failed(self, delivery: Delivery, error: BaseException, ending: Ending) -> Mapping[str, Json]:
        kept, scope = self._failed.pop(id(delivery), (None, None))
        settlement = ending.settlement
        if self._check_ins is not None and not isinstance(settlement, Retry):
            is_bad = isinstance(settlement, Fail) or ending.crash is not None
            self._check_ins.note([delivery], "error" if is_bad else "ok")
        if isinstance(settlement, Fail) or ending.crash is not None:
            known = scope if kept is delivery else None
            with use_isolation_scope(known or sentry_sdk.get_isolation_scope().fork()):
                if known is None:
                    self._describe(sentry_sdk.get_isolation_scope(), [delivery])
                for crumb in self._retries:
                    sentry_sdk.add_breadcrumb(crumb)
                self._retries.clear()
                _capture(error)
            if ending.crash is not None:
                _mark(error)
        elif isinstance(settlement, Retry):
            self._retries.append(
                {
                    "category": "actorwork.retry",
                    "level": "warning",
                    "message": f"attempt {delivery.attempt} of message {delivery.id}: {settlement.failure.type}",
                    "data": {"message": delivery.id, "attempt": delivery.attempt, "delay": settlement.delay},
                }
            )
        return NO_HEADERS

    @property
    def _title(self) -> str:
        return self._settings.title or self._settings.id

    async def _noting(self, scope: Scope, deliveries: Sequence[Delivery], proceed: Callable[[], Awaitable[Any]]) -> Any:
        check_ins = self._check_ins
        try:
            if check_ins is None:
                return await proceed()
            check_ins.note(deliveries, "in_progress")
            answer = await proceed()
            check_ins.note([one for one in deliveries if not _has_failed(one, deliveries, answer)], "ok")
            return answer
        except Exception:
            for delivery in deliveries:
                self._failed[id(delivery)] = delivery, scope
            raise

    def _facts(self, delivery: Delivery) -> dict[str, Any]:
        return {
            "messaging.message.id": delivery.id,
            "messaging.destination.name": delivery.source,
            "messaging.message.retry.count": delivery.attempt - 1,
            "messaging.system": self._system,
        }

    def _describe(self, scope: Scope, deliveries: Sequence[Delivery]) -> None:
        """Name the actor and the message in all that is captured while it is handled."""
        scope.clear_breadcrumbs()
        scope.set_transaction_name(self._title, source=TransactionSource.TASK)
        scope.set_tag("actorwork.actor", self._title)
        first = deliveries[0]
        scope.set_tag("actorwork.source", first.source)
        if len(deliveries) > 1:
            scope.set_context("batch", {"messages": [one.id for one in deliveries[:100]], "size": len(deliveries)})
            return
        scope.set_tag("actorwork.attempt", first.attempt)
        said: dict[str, Any] = {"id": first.id, "source": first.source, "attempt": first.attempt, "type": first.type}
        if _sends_payloads():
            said["payload"] = _payload_of(first)
        scope.set_context("message", said)

    def _continue(self, delivery: Delivery) -> None:
        if SENTRY_TRACE in delivery.headers:
            sentry_sdk.get_isolation_scope().generate_propagation_context(_trace_of(delivery))


def _has_failed(delivery: Delivery, deliveries: Sequence[Delivery], answer: object) -> bool:
    """Whether the handler of a batch has returned an error for one of its messages."""
    if len(deliveries) == 1 or not isinstance(answer, Sequence):
        return False
    outcomes = cast("Sequence[object]", answer)
    return any(one is delivery and isinstance(it, BaseException) for one, it in zip(deliveries, outcomes, strict=False))


def _trace_of(delivery: Delivery) -> dict[str, Any]:
    return {name: value for name in (SENTRY_TRACE, BAGGAGE) if isinstance(value := delivery.headers.get(name), str)}


def _sends_payloads() -> bool:
    """Whether the program has allowed the contents of queues, by `data_collection` or the older `send_default_pii`."""
    client = sentry_sdk.get_client()
    chosen: Any = client.options.get("data_collection")
    if chosen and chosen.get("provided_by_user"):
        return bool(chosen.get("queues"))
    return client.should_send_default_pii()


def _payload_of(delivery: Delivery) -> object:
    payload = delivery.payload
    if not isinstance(payload, bytes):
        return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in payload.items()}
    try:
        return json.loads(payload)
    except ValueError:
        return payload.decode("utf-8", "replace")


def _capture(error: BaseException) -> None:
    event, hint = event_from_exception(error, client_options=sentry_sdk.get_client().options, mechanism=dict(MECHANISM))
    sentry_sdk.capture_event(event, hint=hint)


def _mark(error: BaseException) -> None:
    """Note that an error is captured: if it takes its actor down, its crash is the same one."""
    # Errors cannot be referenced weakly, and need not be hashable.
    with suppress(AttributeError, TypeError):
        setattr(decisive(error), _MARK, True)


def _is_marked(error: BaseException) -> bool:
    found: BaseException | None = error
    while found is not None:
        if getattr(decisive(found), _MARK, False):
            return True
        found = found.__cause__
    return False
