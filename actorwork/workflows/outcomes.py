"""How a step ended, for a step that takes the outcome of another one and not its result."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

import attrs

R_co = TypeVar("R_co", covariant=True)


@attrs.frozen
class Done(Generic[R_co]):
    """The step succeeded; `value` is its result."""

    value: R_co


@attrs.frozen
class Failed:
    """The step did not succeed: `step` is its name, `error` the type of the error, `reason` its text."""

    step: str
    kind: Literal["failed", "rejected", "cancelled", "expired", "lost"]
    error: str
    reason: str
