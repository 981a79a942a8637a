"""How a message names a task and its arguments, and how the answer is written.

Imports no Django, so that the broker's tools can read both. The functions of tasks are named by their paths. What they
are called with, and what they return, is JSON.
"""

from __future__ import annotations

from typing import Any, ClassVar

import attrs


@attrs.frozen(kw_only=True)
class Call:
    """A task to be run. `run_after` is in seconds since the epoch."""

    path: str
    args: list[Any]
    kwargs: dict[str, Any]
    backend: str
    queue: str
    priority: int = 0
    run_after: float | None = None


@attrs.frozen(kw_only=True)
class FunctionCall(Call):
    """Of a function, which is run in a thread."""

    __wire_name__: ClassVar[str] = "django.function"


@attrs.frozen(kw_only=True)
class CoroutineCall(Call):
    """Of a coroutine function, which is run on asyncio."""

    __wire_name__: ClassVar[str] = "django.coroutine"


@attrs.frozen(kw_only=True)
class Returned:
    """The reply: what was called, since the message is no longer there, and what it returned."""

    call: Call
    value: Any
