"""What a decorator says of a method that is a handler: how it is retried, and what limits it.

A handler stays the plain function that it is: `retry` and `rate_limit` only note what they say, and the runtime carries
it out, at the broker and at the gate. On any other async function they wrap it, and carry it out themselves. The order
in which they and `receive` stand does not matter: `receive` takes off again what was wrapped before it came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from actorwork.policy.limits import LIMITS, Limit
from actorwork.policy.retry import RetryPolicy

Rule: TypeAlias = RetryPolicy | Limit

HANDLER: Final = "__actorwork_receive__"
"""The attribute that marks a handler; its value is how it is given its messages."""
RULES: Final = "__actorwork_rules__"
"""The attribute in which a handler's rules are noted."""
WRAPS: Final = "__actorwork_wraps__"
"""The attribute of a wrapper of ours: itself, the function in it, and its rule, or what wraps another one likewise."""

Rewrap: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


def note(function: Callable[..., Any], rule: Rule) -> None:
    """Note a rule on a handler."""
    setattr(function, RULES, (*rules_of(function), rule))


def rules_of(function: Callable[..., Any]) -> tuple[Rule, ...]:
    return getattr(function, RULES, ())


def wrapped(function: Callable[..., Any], wrapper: Callable[..., Any], rule: Rule | Rewrap) -> None:
    """Remember what a wrapper wraps. Itself is part of that, since `functools.wraps` copies attributes to others."""
    setattr(wrapper, WRAPS, (wrapper, function, rule))


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function in wrappers of ours, with their rules noted.

    A wrapper that stays, since the runtime has no other way to carry it out (`timeout`), is put around it again.
    """
    own = getattr(function, WRAPS, None)
    if own is None or own[0] is not function:
        return function
    _, inside, rule = own
    bare = unwrapped(inside)
    if isinstance(rule, (RetryPolicy, *LIMITS)):
        note(bare, rule)
        return bare
    return function if bare is inside else rule(bare)
