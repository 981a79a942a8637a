"""How a delivery ends: which settlement follows from what its handler did.

    the handler                                       settlement
    returns                                           Ack
    raises Retry, attempts left                       Retry, after the delay it names or the actor's backoff
    raises Reject                                     Reject
    raises Fail                                       Fail
    raises Retry, or any Exception, attempts spent    Fail
    raises any other Exception, attempts left         Retry, after the delay it asks for or the actor's backoff
    raises a BaseException (SystemExit, its own)      Fail: a handler cannot end the node

A nursery wraps even one error in a group, so groups are looked through: leaves that are `Cancelled` do not count, and a
verdict among the others decides, the gravest if there are several (Fail, Reject, Retry). `KeyboardInterrupt` and a
cancellation from outside do not settle a delivery: the caller releases it. A message that expires before its handler
begins is rejected, with a failure of type `Expired`.
"""

from __future__ import annotations

import enum
import math
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

import attrs

from actorwork import errors
from actorwork.errors import ExecutionTimeout
from actorwork.groups import is_cancellation, is_group, leaves
from actorwork.message import Failure, Json
from actorwork.policy.retry import BackoffFunction, Dice, RetryPolicy, retry_after, rule_for
from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.policy.entities import StateChange
    from actorwork.policy.runs.values import Expansion, Plan


@attrs.define(eq=False, repr=False)
class Ack(Value):
    """Handled. `result` is the reply's JSON, if the sender asked for it. Not frozen, since one is made for each message
    that is answered or changes a state, and a frozen one takes three times as long; nothing changes one.

    `starts` are the runs that the settlement starts. With `continues` the message has no result yet: it ends as that
    run ends. `expands` are steps that join the group of the message's own step. `state` is what becomes of the state of
    the message's key: if that has another version by then, nothing takes effect, and the delivery is released.
    """

    result: bytes | None = None
    starts: tuple[Plan, ...] = ()
    continues: Plan | None = None
    expands: Expansion | None = None
    state: StateChange | None = None


def with_state(ack: Ack, change: StateChange) -> Ack:
    """Return an ack that also changes the state of its key; `attrs.evolve` would take much longer, for each message."""
    return Ack(ack.result, ack.starts, ack.continues, ack.expands, change)


ACK: Final = Ack()
"""Of a message whose outcome no caller waits for, as of most."""


@attrs.frozen(eq=False, repr=False)
class Retry(Value):
    """Run the message again `delay` seconds from now, as the next attempt, with these headers added to its own."""

    delay: float
    failure: Failure
    headers: Mapping[str, Json] | None = None


@attrs.frozen(eq=False, repr=False)
class Reject(Value):
    """Dropped on purpose."""

    failure: Failure


@attrs.frozen(eq=False, repr=False)
class Fail(Value):
    """Given up: the message becomes a dead letter."""

    failure: Failure


Settlement: TypeAlias = Ack | Retry | Reject | Fail

OnFailure: TypeAlias = Literal["resume", "restart", "stop", "escalate"]
"""What a failed message does to its actor, besides failing."""
ON_FAILURES: Final[tuple[OnFailure, ...]] = ("resume", "restart", "stop", "escalate")

_GRAVITY: tuple[type[errors.Verdict], ...] = (errors.Fail, errors.Reject, errors.Retry)


LONGEST_REASON: Final = 4_000
LONGEST_TEXT: Final = 40_000
"""The most characters of an error and of its traceback: a failure travels, and is stored with every dead letter."""

LONGEST_DELAY: Final = 100 * 365 * 86_400.0
"""Seconds: a century means never, and brokers can still represent it."""

EXPIRED: Final = "Expired"
"""The failure type of a message that was rejected because it expired before it began."""


CANCELLED: Final = "Cancelled"
"""The failure type of a message that was cancelled."""


def expired(at: float) -> Reject:
    """Return the settlement of a message that expired at `at` (seconds since the epoch)."""
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return Reject(Failure(EXPIRED, f"it had not begun by {moment}"))


LOST: Final = Failure("Lost", "its entry was deleted by hand, so it cannot be tried again")
"""Why a message ends whose retry has nothing left to write again."""


def cancelled(reason: str) -> Reject:
    """Return the settlement of a message that was cancelled."""
    return Reject(Failure(CANCELLED, reason))


class EndReason(enum.Enum):
    """Why the runtime cancelled a handler."""

    TIMEOUT = "timeout"
    REVOKED = "revoked"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"
    CRASHED = "crashed"


@attrs.frozen(eq=False, repr=False)
class CrashWanted(Value):
    """The actor ends with its message, because of `cause`."""

    cause: BaseException
    policy: Literal["restart", "stop", "escalate"] | None
    """The actor's `on_failure`; None for a `Shutdown`, which needs none to end the actor."""


@attrs.frozen(eq=False, repr=False)
class Ending(Value):
    """How a delivery ends, and whether its actor ends with it."""

    settlement: Settlement | None
    """None: the delivery has not ended, and returns to the mailbox."""
    crash: CrashWanted | None = None


def to_blame(error: BaseException | None, *, ended: EndReason | None, timeout: float) -> ExecutionTimeout | None:
    """Return the error of a message whose handler the runtime cancelled; None if the handler is not to blame.

    `error` is what the handler raised, if anything. `timeout` is in seconds.
    """
    if ended is not EndReason.TIMEOUT:
        return None
    if isinstance(error, ExecutionTimeout):  # Ours, on its way out through middleware.
        return error
    failure = ExecutionTimeout(f"the handler ran past its execution_timeout of {timeout:g} s")
    failure.__cause__ = None if error is None or is_cancellation(error) else error
    return failure


def ending_of(
    error: BaseException, *, attempt: int, retry: RetryPolicy, dice: Dice, on_failure: OnFailure | None
) -> Ending:
    """Decide how a delivery ends after its handler raised `error`, and whether the actor ends too."""
    settlement = settlement_for(error, attempt=attempt, retry=retry, dice=dice)
    cause = decisive(error)
    if isinstance(cause, errors.Shutdown):
        return Ending(settlement, CrashWanted(cause, None))
    # A verdict is the handler's own decision about the message, not a failure of the actor.
    if isinstance(settlement, (Fail, Retry)) and not isinstance(cause, errors.Verdict):
        match on_failure:
            case "restart" | "stop" | "escalate":
                return Ending(settlement, CrashWanted(error, on_failure))
            case "resume" | None:
                pass
    return Ending(settlement)


def settlement_for(error: BaseException, *, attempt: int, retry: RetryPolicy, dice: Dice) -> Settlement:
    """Return the settlement of a delivery whose handler raised `error` in its `attempt`-th run (1, 2, …)."""
    cause = decisive(error)
    failure = failure_of(cause, within=error)
    if isinstance(cause, errors.Reject):
        return Reject(failure)
    try:
        delay = delay_before_next(cause, attempt=attempt, retry=retry, dice=dice)
    except Exception as error_of_backoff:  # noqa: BLE001 - whatever a user's backoff raises, the delivery still ends
        error_of_backoff.__context__ = cause
        return Fail(failure_of(error_of_backoff))
    return Fail(failure) if delay is None else Retry(delay, failure)


def delay_before_next(cause: BaseException, *, attempt: int, retry: RetryPolicy, dice: Dice) -> float | None:
    """Return how long to wait after `cause`, the decisive error, ended the `attempt`-th run; None: do not retry.

    Raises what the policy's backoff raises, and `ValueError` for a delay that is not a finite number.
    """
    match cause:
        case errors.Retry(delay=delay) if attempt < retry.attempts_of_verdicts:
            return _delay(retry.backoff, attempt, dice) if delay is None else min(delay, LONGEST_DELAY)
        case errors.Verdict():
            return None
        case Exception():
            causes = [leaf for leaf in leaves(cause) if not is_cancellation(leaf)]
            rule = rule_for(causes, retry)
            if attempt >= rule.attempts:
                return None
            asked = [after for after in map(retry_after, causes) if after is not None]
            return max(asked) if asked else _delay(rule.backoff, attempt, dice)
        case _:
            return None


def _delay(backoff: BackoffFunction, failures: int, dice: Dice) -> float:
    """Call the backoff, which may be the user's own: its result goes to the broker and must be a finite time."""
    seconds = cast("object", backoff.delay(failures, dice))
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        raise ValueError(f"RetryPolicy.backoff wants to return finite seconds, got {seconds!r} from {backoff!r}")
    return min(max(0.0, seconds), LONGEST_DELAY)


def decisive(error: BaseException) -> BaseException:
    """Return the error that decides: the gravest verdict in the group, the only leaf, or the group itself."""
    if not is_group(error):
        return error
    every = list(leaves(error))
    found = [leaf for leaf in every if not is_cancellation(leaf)]
    for verdict in _GRAVITY:
        for leaf in found:
            if isinstance(leaf, verdict):
                return leaf
    if len(found) == 1:
        return found[0]
    if found and len(found) < len(every):
        # Drop the cancellations: with them the group would be a BaseExceptionGroup and not an Exception.
        whole: BaseException | None = cast("BaseExceptionGroup[Any]", error).split(is_cancellation)[1]
        return whole or error
    return error


def failure_of(error: BaseException, *, within: BaseException | None = None) -> Failure:
    """Turn an error into text; the traceback is that of the group that it came `within`, if any."""
    whole = error if within is None else within
    # A user's `__str__` may raise anything, and `traceback` fails on some errors (a SyntaxError with odd details).
    # Whatever they raise, even a SystemExit, the delivery must still end.
    try:
        text = "".join(traceback.format_exception(whole)) if whole.__traceback__ or whole.__cause__ else ""
    except KeyboardInterrupt:
        raise
    except BaseException as unspeakable:  # noqa: BLE001 - see above
        text = f"(its traceback cannot be formatted: {type(unspeakable).__name__})"
    try:
        reason = str(error.reason if isinstance(error, errors.Verdict) else error)
    except KeyboardInterrupt:
        raise
    except BaseException as unspeakable:  # noqa: BLE001 - see above
        reason = f"(its text cannot be read: {type(unspeakable).__name__})"
    return Failure(
        type(error).__qualname__, _shortened(_as_utf8(reason), LONGEST_REASON), _shortened(_as_utf8(text), LONGEST_TEXT)
    )


def _shortened(text: str, most: int) -> str:
    """Cut the middle out of a str that is too long: its beginning and end say most."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n… ({len(text) - 2 * half} characters left out) …\n{text[-half:]}"


def _as_utf8(text: str) -> str:
    """Return a str that can be encoded: file names and foreign bytes may contain lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
