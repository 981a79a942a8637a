"""What a process and its parent agree on before the first frame: the configuration, the signals."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.actors.tree.spec import Spec
    from actorwork.policy.limits import Rates
    from actorwork.runtime.options import Options
    from actorwork.telemetry.metrics.registry import Registry

NOT_OURS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that only the root process acts on."""
ANSWER: Final = 2.0
"""Seconds in which a process has to report its stacks before it is killed for a blocked loop."""


class NodeSystem(Protocol):
    """A running system, as the process that hosts it uses it."""

    @property
    def forced(self) -> bool: ...
    def drain(self, within: float) -> None: ...
    def hurry(self) -> None: ...
    def change_log_levels(self, level: int | str) -> bool: ...
    def change_rates(self, rates: Rates) -> object: ...
    def change_paused_sources(self, names: Iterable[str]) -> object: ...
    def stop(self, reason: str, *, within: float | None) -> None: ...
    async def wait_drained(self) -> None: ...
    async def wait_stopped(self) -> None: ...
    def outline(self) -> dict[str, Any]: ...
    def statistics(self) -> Mapping[str, int]: ...
    @property
    def metrics(self) -> Registry | None: ...


OpenSystem = Callable[..., AbstractAsyncContextManager[NodeSystem]]
"""Opens a system for a tree, as `open_system` does."""


@attrs.frozen(eq=False, repr=False)
class NodeConfig(Value):
    """What a process is to run; pickled on its way to it."""

    title: str
    children: tuple[Spec, ...]
    broker: str
    options: Options
    open: OpenSystem
    """Pickled by its name, so the child imports it only now: the code of a child names no module above it."""
    heartbeat_interval: float
    hang_timeout: float | None
    """Seconds after its deadline at which a handler that does not end is the end of the process."""
    max_messages: int | None
    """How many messages the process may handle."""
    forwards_events: bool
    """Whether the parent takes the events of the process, too."""
    log_level: int | str
    log_format: str | None
    """How this program configured its logs; None if it left that to the application."""
    rates: Rates | None = None
    """Rates that were changed since the program started."""
