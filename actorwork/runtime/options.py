"""The options of a system, written once: as the caller gives them, and as one checked value.

    TreeOptions      the keyword arguments that `run`, `open_system`, `serve` and `open_test_system` share
    SystemOptions    these, and those of a system at a broker of its own
    RunOptions       these, and those of a program of its own: `run`
    Options          those that each process of the tree needs too, checked

An error names the argument alone, as the caller wrote it: `run(tree, lease=0)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypedDict, cast

import attrs

from actorwork.durations import Duration, as_seconds
from actorwork.errors import SettingsError
from actorwork.policy.bounds import FINITE, as_tuple, callables, having, instance_of, number, seconds
from actorwork.runtime.firing import cron_schedule_from
from actorwork.shown import Value

if TYPE_CHECKING:
    import os

    from actorwork.abc import AbstractCronSchedule, Broker, EventSink, Middleware, PublishMiddleware, Telemetry
    from actorwork.actors.tree.spec import Supervisor
    from actorwork.policy.restart import Intensity
    from actorwork.telemetry.configuring import LogFormat
    from actorwork.telemetry.resources import ResourceBounds


if TYPE_CHECKING:

    class Configured(Protocol):
        """A configuration that has been loaded."""

        @property
        def options(self) -> Mapping[str, Any]:
            """The options of `run` that are set."""
            ...

        @property
        def read_again(self) -> Callable[[], Any] | None:
            """Reads the files again; None if there are none."""
            ...

        def applied_to(self, root: Supervisor) -> Supervisor:
            """Return a tree with what is set of its actors, processes and limits."""
            ...


Config: TypeAlias = "str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Configured | None"

SHARE_FOR_THE_END = 0.2
"""The part of `grace` that is kept for the stages after the drain, at most `LONGEST_END` seconds."""
LONGEST_END = 5.0
SHORTEST_END = 0.5
"""Seconds that each step after the drain may take at least, whatever the grace: a release is worth that."""


class TreeOptions(TypedDict, total=False):
    """How a tree is started and stopped."""

    lease: Duration
    """For how long a node owns its deliveries without a renewal; 10 seconds by default, at least 0.2."""
    grace: Duration
    """How long the whole staged shutdown may take; 25 seconds by default. With `math.inf` it waits for
    `execution_timeout` alone."""
    intensity: Intensity | None
    """How many restarts the root supervisor allows, and in which time."""
    emit: EventSink | None
    """Takes the events; by default they become logs of the logger `actorwork`."""
    middleware: Iterable[Middleware]
    """Wraps the deliveries of all actors, outside of their own middleware, the first one outermost."""
    publish_middleware: Iterable[PublishMiddleware]
    """Processes all that the actors publish. With a `Process`, this and `middleware` are pickled."""
    telemetry: Telemetry | Iterable[Telemetry]
    """Observes the system, in each of its processes; with a `Process` it is pickled too."""
    metrics: bool
    """Counts metrics, in the processes of the tree too: by default if there is a `monitor`, which serves them under
    /metrics. `System.metrics` has them."""
    cron_schedule: AbstractCronSchedule | type[AbstractCronSchedule] | None
    """Reads the cron expressions of triggers in another way than the built-in one."""
    only: Iterable[str]
    """The names of the parts of the tree to start; all others are left out."""
    excluding: Iterable[str]
    """The names of the parts of the tree to leave out."""
    sources: Iterable[str]
    """Starts only the actors that read one of these sources, and what reads none; `actor:TITLE` is an actor's own."""
    paused_sources: Iterable[str]
    """The sources of which the system reads nothing, whatever is paused at the broker; `actor:TITLE` is an actor's own.
    `System.change_paused_sources` changes that."""
    solo: bool
    """Runs everything in this process: children of a `Process` become those of a supervisor."""
    config: Config
    """What an operator has set, below the other options of the call: files, or what `load_configuration` returned. With
    it the environment is read as well, also with no files at all: `config=[]`."""


class SystemOptions(TreeOptions, total=False):
    """How a system runs: at which broker, and how it is watched."""

    broker: str | Broker | None
    """A URL, an open broker, or None for the embedded one."""
    loop_stall: Duration
    """For how long the loop may be blocked until that is reported; 0.5 seconds by default, `math.inf` for never."""
    monitor: str | None
    """Where the health of the system is served by HTTP: "127.0.0.1:9464"; nowhere by default."""
    web: str | None
    """Where the dashboard is served: "127.0.0.1:8080"; nowhere by default. It needs the extra `web`. Its users are
    taken from the environment; without any it answers this machine alone."""
    hang_timeout: Duration
    """For how long the loop may be blocked until the monitor calls the system dead; 60 seconds by default."""
    resources: bool | ResourceBounds
    """Watches what this process uses, and reports memory and disks that become low; needs the extra `monitor`."""


class RunOptions(SystemOptions, total=False):
    """How a program of its own runs: also how it logs, unless its logging is configured already."""

    log_level: int | str
    """Logs what is as grave as this, or graver; "INFO" by default. "INFO,actorwork.streams=DEBUG" sets the level of a
    logger, too."""
    log_format: LogFormat
    """Lines for people ("text", the default), or a JSON object for each record ("json")."""


def refuse_unknown(
    function: str, given: Mapping[str, object], known: Collection[str] = SystemOptions.__optional_keys__
) -> None:
    """Raise `TypeError` for options that do not exist, as Python does for parameters that are written out."""
    for name in given:
        if name not in known:
            raise TypeError(
                f"{function}() got an unexpected keyword argument {name!r}; its options are {', '.join(sorted(known))}"
            )


def source_names(given: object) -> tuple[str, ...]:
    """Return a list of the names of sources; raises `SettingsError`."""
    found = () if isinstance(given, (str, bytes)) or not isinstance(given, Iterable) else tuple(cast("Any", given))
    if (given and not found) or not all(isinstance(name, str) and name for name in found):
        raise SettingsError(f"paused_sources wants a list of the names of sources, got {given!r}")
    return tuple(dict.fromkeys(found))


def _as_telemetry(given: Telemetry | Iterable[Telemetry]) -> tuple[Telemetry, ...]:
    return (given,) if hasattr(given, "open") else as_tuple(given)  # pyright: ignore[reportReturnType, reportArgumentType]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Options(Value):
    """How a system runs. `lease`, `grace`, `loop_stall` and `hang_timeout` are in seconds; `grace` and `loop_stall` may
    be infinite.
    """

    fields_are_arguments: ClassVar = True

    lease: float = attrs.field(default=10.0, converter=as_seconds, validator=seconds(0.2, 3600))
    grace: float = attrs.field(default=25.0, converter=as_seconds, validator=seconds(0.0))
    loop_stall: float = attrs.field(default=0.5, converter=as_seconds, validator=seconds(0.05))
    hang_timeout: float = attrs.field(
        default=60.0, converter=as_seconds, validator=number(0, FINITE, "finite seconds", above=True)
    )
    middleware: tuple[Middleware, ...] = attrs.field(
        default=(), converter=as_tuple, validator=callables("delivery", "proceed")
    )
    publish_middleware: tuple[PublishMiddleware, ...] = attrs.field(
        default=(), converter=as_tuple, validator=callables("envelope")
    )
    telemetry: tuple[Telemetry, ...] = attrs.field(
        default=(), converter=_as_telemetry, validator=having("open", "a telemetry, or a list of these")
    )
    cron_schedule: AbstractCronSchedule | None = attrs.field(default=None, converter=cron_schedule_from)
    metrics: bool = attrs.field(default=False, validator=instance_of(bool, "True or False"))
    paused_sources: tuple[str, ...] = attrs.field(default=(), converter=source_names)

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Options:
        """Pick these options out of all that the caller gave; raises `SettingsError`."""
        names = [field.name for field in attrs.fields(cls)]
        return cls(**{name: given[name] for name in names if name in given})  # pyright: ignore[reportArgumentType] - what the validators are for

    @property
    def drain(self) -> float:
        """Seconds for stage 2 of the shutdown."""
        if math.isinf(self.grace):
            return math.inf
        return self.grace - min(LONGEST_END, self.grace * SHARE_FOR_THE_END)

    @property
    def ending(self) -> float:
        """Seconds for each step of the shutdown beside stage 2."""
        return max(SHORTEST_END, min(LONGEST_END, self.grace * SHARE_FOR_THE_END))
