"""What decorators note on a method that is a handler: how it is retried, and what limits it.

A handler remains a plain function: `retry` and `rate_limit` only note a rule on it, which the broker and the admission
queue carry out. Any other async function they wrap, and carry the rule out themselves. They and `receive` work in any
order: `receive` removes the wrappers of decorators that were applied before it, and notes their rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from actorwork.policy.batches import Batching
    from actorwork.policy.limits import Limit
    from actorwork.policy.retry import RetryPolicy

Rule: TypeAlias = "RetryPolicy | Limit"

HANDLER: Final = "__actorwork_receive__"
"""The attribute that marks a handler; its value is `True`, or a `Batching`."""
LOOP: Final = "__actorwork_loop__"
"""The attribute that says where a handler runs, if not where its actor has all of them."""
RULES: Final = "__actorwork_rules__"
"""The attribute that holds a handler's rules."""
WRAPS: Final = "__actorwork_wraps__"
"""The attribute of a wrapper of ours: the wrapper, the function in it, and its rule or what wraps another function."""

Rewrap: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


def note(function: Callable[..., Any], rule: Rule) -> None:
    """Note a rule on a handler."""
    setattr(function, RULES, (*rules_of(function), rule))


def rules_of(function: Callable[..., Any]) -> tuple[Rule, ...]:
    return getattr(function, RULES, ())


def batching_of(function: Callable[..., Any]) -> Batching | None:
    """Return how a handler takes batches; None for one that takes one message at a time, and for no handler."""
    marked: Batching | bool = getattr(function, HANDLER, False)
    return None if isinstance(marked, bool) else marked


def wrapped(function: Callable[..., Any], wrapper: Callable[..., Any], rule: Rule | Rewrap) -> None:
    """Store on a wrapper what it wraps."""
    # With the wrapper itself, since `functools.wraps` of other decorators copies the attribute to their wrappers.
    setattr(wrapper, WRAPS, (wrapper, function, rule))


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside wrappers of ours, with their rules noted on it.

    A wrapper that the runtime has no rule for (`timeout`) is put around the function again.
    """
    own = getattr(function, WRAPS, None)
    if own is None or own[0] is not function:
        return function
    from actorwork.policy.limits import LIMITS  # noqa: PLC0415 - few handlers have rules
    from actorwork.policy.retry import RetryPolicy  # noqa: PLC0415

    _, inside, rule = own
    bare = unwrapped(inside)
    if isinstance(rule, (RetryPolicy, *LIMITS)):
        note(bare, rule)
        return bare
    return function if bare is inside else rule(bare)
