"""The children of a supervisor, as its `SupervisorRef` shows them; imported when a program first asks."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import attrs

from actorwork.shown import Value


@attrs.frozen(eq=False, repr=False)
class ChildInfo(Value):
    """A child, as `which_children` shows it: `handle` is its ref, None (not running), or "restarting"."""

    id: Hashable
    handle: Any
    type: str
    """`worker` or `supervisor`."""


@attrs.frozen(eq=False, repr=False)
class ChildCounts(Value):
    """How many children there are: defined, running, and of which kind."""

    specs: int
    active: int
    supervisors: int
    workers: int
