"""How a delivery ends, and whether its actor ends with it: `ending_of` and `to_blame`, as tables."""

from typing import Any

import pytest
import trio

from actorwork import Fail, Reject, Retry
from actorwork.errors import ExecutionTimeout, Shutdown
from actorwork.policy.backoffs import Fixed
from actorwork.policy.retry import RetryPolicy
from actorwork.policy.settlement import Ending, EndReason, ending_of, to_blame

BOOM = ValueError("boom")
GROUP = ExceptionGroup("together", [BOOM])
SHUTDOWN = Shutdown("enough")


def ending(error: BaseException, on_failure: Any = None, attempts: int = 1) -> Ending:
    policy = RetryPolicy(attempts=attempts, backoff=Fixed(seconds=1))
    return ending_of(error, attempt=1, retry=policy, dice=lambda: 0.5, on_failure=on_failure)


@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize("error", [BOOM, GROUP, SystemExit(1)], ids=["error", "group", "SystemExit"])
@pytest.mark.parametrize(
    ("on_failure", "crashes"), [(None, False), ("resume", False), ("restart", True), ("stop", True), ("escalate", True)]
)
def test_an_error_ends_the_actor_only_where_on_failure_wants_it(
    on_failure: Any, crashes: bool, error: BaseException, attempts: int
):
    crash = ending(error, on_failure, attempts).crash
    assert (crash is not None) is crashes
    if crash is not None:
        assert (crash.cause, crash.policy) == (error, on_failure)


@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize(
    "verdict", [Fail("no"), Reject("no"), Retry(), ExceptionGroup("wrapped", [Fail("no")])], ids=repr
)
def test_a_verdict_never_ends_the_actor(verdict: BaseException, attempts: int):
    assert ending(verdict, "stop", attempts).crash is None


@pytest.mark.parametrize("error", [SHUTDOWN, ExceptionGroup("wrapped", [SHUTDOWN])], ids=["bare", "group"])
@pytest.mark.parametrize("on_failure", [None, "resume", "restart"])
def test_a_shutdown_ends_the_actor_by_itself(error: BaseException, on_failure: Any):
    crash = ending(error, on_failure).crash
    assert crash is not None
    assert (crash.cause, crash.policy) == (SHUTDOWN, None)


@pytest.mark.parametrize(("attempts", "kind"), [(1, "Fail"), (2, "Retry")])
def test_the_settlement_is_that_of_the_error(attempts: int, kind: str):
    assert type(ending(BOOM, "restart", attempts).settlement).__name__ == kind


@pytest.mark.parametrize("ended", [EndReason.REVOKED, EndReason.SHUTDOWN, EndReason.CRASHED])
@pytest.mark.parametrize("error", [None, BOOM])
def test_only_a_timeout_is_the_handlers_fault(ended: EndReason, error: BaseException | None):
    assert to_blame(error, ended=ended, timeout=3) is None


@pytest.mark.parametrize("error", [None, BOOM])
def test_a_timeout_names_its_bound_and_what_came_out_of_the_handler(error: BaseException | None):
    blamed = to_blame(error, ended=EndReason.TIMEOUT, timeout=3)
    assert isinstance(blamed, ExecutionTimeout)
    assert "execution_timeout of 3 s" in str(blamed)
    assert blamed.__cause__ is error


async def test_the_cancellation_of_a_timeout_is_not_its_cause():
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            blamed = to_blame(error, ended=EndReason.TIMEOUT, timeout=3)
            assert blamed is not None
            assert blamed.__cause__ is None
            raise
