"""What an operator may set: one line for each setting.

    ProgramFields    of the program: the keyword arguments of `run`, under their names
    ActorFields      of an actor, by its title: [actors.TITLE]
    ProcessFields    of a process of the tree, by its name: [processes.NAME]
    LimitFields      of the limits that have a name: [limits.NAME]

These classes are declarations, which typed-settings enumerates; no code makes instances. A setting that is not given is
left as the program has it, so none of them has a default of its own. A variable is named after the path of its setting,
`ACTORWORK_ACTORS__EMAIL__MAILBOX__CAPACITY`. Kubernetes makes variables as well, for a service that is called
`actorwork` or `actorwork-web`: these end in `_PORT`, `_PORT_…` or `_SERVICE_…`, so no setting may.
"""

from __future__ import annotations

from typing import Any, Final, cast

import attrs

from actorwork.actors.tree.spec import START_METHODS, Process
from actorwork.policy.bounds import whole
from actorwork.policy.limits import SCOPES, CircuitBreaker, ConcurrencyLimit, RateLimit
from actorwork.policy.restart import Intensity
from actorwork.policy.scaling import Scale
from actorwork.policy.settlement import ON_FAILURES
from actorwork.runtime.configuration.kinds import Kind, address, broker, flag, levels, like, names, word
from actorwork.runtime.options import Options
from actorwork.settings import (
    OVERFLOWS,
    SOFT_BOUNDS,
    SOURCE_IN_WORDS,
    DeadLetterSettings,
    Entities,
    EventSettings,
    MailboxSettings,
    Settings,
)
from actorwork.telemetry.configuring import LOG_FORMATS
from actorwork.telemetry.resources import ResourceBounds


def _of(kind: Kind) -> Any:
    return cast("Any", attrs.field)(default=None, converter=kind)


# ---- actors ----


@attrs.frozen(kw_only=True)
class MailboxFields:
    capacity: int = _of(like(MailboxSettings, "capacity", "whole", "How many messages of each kind the mailbox holds."))
    overflow: str = _of(
        like(MailboxSettings, "overflow", "word", "What happens to a local message beyond that.", words=OVERFLOWS)
    )
    stash: int = _of(like(MailboxSettings, "stash", "whole", "How many messages the actor may set aside."))


@attrs.frozen(kw_only=True)
class DeadLetterFields:
    max_count: int = _of(like(DeadLetterSettings, "max_count", "whole", "How many dead letters are kept."))
    max_age: float = _of(like(DeadLetterSettings, "max_age", "duration", "For how long a dead letter is kept."))


@attrs.frozen(kw_only=True)
class EventFields:
    max_events_in_memory: int = _of(
        like(EventSettings, "max_events_in_memory", "whole", "How many published messages wait in memory.")
    )
    max_batch_size: int = _of(
        like(EventSettings, "max_batch_size", "whole", "How many messages travel in the script that settles.")
    )


@attrs.frozen(kw_only=True)
class EntityFields:
    idle: float = _of(like(Entities, "idle", "duration", "How long an instance without messages stays in memory."))
    most: int = _of(like(Entities, "most", "whole", "How many instances without a running message a node keeps."))
    limit: int = _of(like(Entities, "limit", "size", "How large the JSON of a state may be."))
    ttl: float = _of(like(Entities, "ttl", "duration", "For how long a state is kept after its last change."))
    history: int = _of(like(Entities, "history", "whole", "How many of its last changes are kept beside a state."))


@attrs.frozen(kw_only=True)
class RateFields:
    rate: float = _of(like(RateLimit, "rate", "number", "How many messages may begin in `per`."))
    per: float = _of(like(RateLimit, "per", "duration", "In which time `rate` messages may begin."))
    burst: int = _of(like(RateLimit, "burst", "whole", "How many late messages may begin in addition."))
    scope: str = _of(like(RateLimit, "scope", "word", "Counted for each node, or for all together.", words=SCOPES))


@attrs.frozen(kw_only=True)
class ConcurrencyFields:
    limit: int = _of(like(ConcurrencyLimit, "limit", "whole", "How many messages may be in flight at once."))
    scope: str = _of(
        like(ConcurrencyLimit, "scope", "word", "Counted for each node, or for all together.", words=SCOPES)
    )


@attrs.frozen(kw_only=True)
class CircuitFields:
    failures: int = _of(like(CircuitBreaker, "failures", "whole", "How many failures open the circuit."))
    within: float = _of(like(CircuitBreaker, "within", "duration", "In which time these failures count."))
    reset: float = _of(like(CircuitBreaker, "reset", "duration", "After which time a probe is let through."))
    share: float = _of(like(CircuitBreaker, "share", "share", "The part of all messages that must have failed."))


@attrs.frozen(kw_only=True)
class ActorFields:
    """The fields of `Settings` that say how an actor runs.

    `title`, `triggers`, `retry`, `middleware`, `decode`, `loop` and what else is code stay in the code; `priority` and
    `results_ttl` are up to those who send.
    """

    sources: tuple[str, ...] = _of(
        like(
            Settings,
            "sources",
            "names",
            "The streams that the actor reads besides its own, instead of those in the code.",
            wanted=f"a list of at most 100 names of {SOURCE_IN_WORDS}",
        )
    )
    concurrency: int = _of(like(Settings, "concurrency", "whole", "How many messages a process handles at once."))
    execution_timeout: float = _of(
        like(Settings, "execution_timeout", "duration", "After which time a handler is cancelled.")
    )
    soft_timeout: float = _of(
        like(Settings, "soft_timeout", "duration", "After which time a handler is asked to end.", validator=SOFT_BOUNDS)
    )
    status_check_interval: float = _of(
        like(Settings, "status_check_interval", "duration", "How often the actor checks whether it is paused.")
    )
    status_cache_ttl: float = _of(
        like(Settings, "status_cache_ttl", "duration", "How old that knowledge may be when a trigger fires.")
    )
    on_failure: str = _of(like(Settings, "on_failure", "word", "What an error does to the actor.", words=ON_FAILURES))
    max_crashes: int = _of(
        like(Settings, "max_crashes", "whole", "How many processes may die of a message until it is a dead letter.")
    )
    max_result_bytes: int = _of(like(Settings, "max_result_bytes", "size", "How large the JSON of a result may be."))
    mailbox: MailboxFields = attrs.field(factory=MailboxFields)
    dead_letters: DeadLetterFields = attrs.field(factory=DeadLetterFields)
    event_settings: EventFields = attrs.field(factory=EventFields)
    entities: EntityFields = attrs.field(factory=EntityFields)
    rate_limit: RateFields = attrs.field(factory=RateFields)
    concurrency_limit: ConcurrencyFields = attrs.field(factory=ConcurrencyFields)
    circuit_breaker: CircuitFields = attrs.field(factory=CircuitFields)


# ---- processes and limits ----


@attrs.frozen(kw_only=True)
class ScaleFields:
    min: int = _of(like(Scale, "min", "whole", "The least number of replicas."))
    max: int = _of(like(Scale, "max", "whole", "The greatest number of replicas."))
    target_backlog: float = _of(like(Scale, "target_backlog", "number", "How many messages there may be per replica."))
    target_wait: float = _of(like(Scale, "target_wait", "duration", "How long the oldest message may wait."))
    cooldown: float = _of(like(Scale, "cooldown", "duration", "How long the number stays before a replica is removed."))


@attrs.frozen(kw_only=True)
class ProcessFields:
    """The fields of `Process` that say how it runs."""

    replicas: int = _of(like(Process, "replicas", "whole", "How many of it are started.", validator=whole(1)))
    scale: ScaleFields = attrs.field(factory=ScaleFields)
    shutdown_timeout: float = _of(
        like(Process, "shutdown_timeout", "duration", "How long it may take to end before it is killed.")
    )
    hang_timeout: float = _of(
        like(Process, "hang_timeout", "duration", "For how long its loop may stand still before it is killed.")
    )
    max_messages: int = _of(like(Process, "max_messages", "whole", "After how many messages it is replaced."))
    max_memory: int = _of(like(Process, "max_memory", "size", "Above how much memory it is replaced."))
    start_method: str = _of(like(Process, "start_method", "word", "How it is started.", words=START_METHODS))
    startup_timeout: float = _of(like(Process, "startup_timeout", "duration", "How long its start may take."))


@attrs.frozen(kw_only=True)
class LimitFields:
    """The fields of the limits of one name: of a rate limit, a concurrency limit or bulkhead, a circuit breaker."""

    rate: float = _of(like(RateLimit, "rate", "number", "How many messages may begin in `per`."))
    per: float = _of(like(RateLimit, "per", "duration", "In which time `rate` messages may begin."))
    burst: int = _of(like(RateLimit, "burst", "whole", "How many late messages may begin in addition."))
    limit: int = _of(like(ConcurrencyLimit, "limit", "whole", "How many messages may be in flight at once."))
    scope: str = _of(like(RateLimit, "scope", "word", "Counted for each node, or for all together.", words=SCOPES))
    failures: int = _of(like(CircuitBreaker, "failures", "whole", "How many failures open the circuit."))
    within: float = _of(like(CircuitBreaker, "within", "duration", "In which time these failures count."))
    reset: float = _of(like(CircuitBreaker, "reset", "duration", "After which time a probe is let through."))
    share: float = _of(like(CircuitBreaker, "share", "share", "The part of all messages that must have failed."))


# ---- the program ----


@attrs.frozen(kw_only=True)
class IntensityFields:
    restarts: int = _of(like(Intensity, "restarts", "whole", "How many restarts the root supervisor allows."))
    period: float = _of(like(Intensity, "period", "duration", "In which time these restarts count."))


@attrs.frozen(kw_only=True)
class ResourceFields:
    memory: float = _of(like(ResourceBounds, "memory", "share", "The part of the memory above which little is left."))
    disk: float = _of(like(ResourceBounds, "disk", "share", "The part of a disk below which little is free."))
    every: float = _of(like(ResourceBounds, "every", "duration", "How often memory and disks are looked at."))


@attrs.frozen(kw_only=True)
class ProgramFields:
    broker: str = _of(broker("Which broker."))
    lease: float = _of(like(Options, "lease", "duration", "How long the node owns its messages without a renewal."))
    grace: float = _of(like(Options, "grace", "duration", "How long a stop may take; inf waits for every handler."))
    loop_stall: float = _of(
        like(Options, "loop_stall", "duration", "For how long the loop may be blocked until that is reported.")
    )
    intensity: IntensityFields = attrs.field(factory=IntensityFields)
    only: tuple[str, ...] = _of(names("The parts of the tree to start, by title, class or name."))
    excluding: tuple[str, ...] = _of(names("The parts of the tree to leave out."))
    sources: tuple[str, ...] = _of(names("Start only the actors that read one of these, and what reads none."))
    paused_sources: tuple[str, ...] = _of(
        names("The sources of which nothing is read; may be changed while the program runs.")
    )
    solo: bool = _of(flag("Run everything in one process, whatever processes the tree has."))
    monitor: str = _of(address("Where the health of the node is served by HTTP: 127.0.0.1:9464.", needs_host=True))
    web: str = _of(address("Where the dashboard is served: 127.0.0.1:8080.", needs_host=False))
    hang_timeout: float = _of(
        like(Options, "hang_timeout", "duration", "For how long the loop may be blocked until the node counts as dead.")
    )
    metrics: bool = _of(flag("Count metrics, in the processes of the tree too.", default=None))
    resources: bool = _of(flag("Watch memory and disks, and warn when little is left."))
    resource_bounds: ResourceFields = attrs.field(factory=ResourceFields)
    log_level: str = _of(levels("What is logged: this, and what is graver."))
    log_format: str = _of(word("Lines for people, or JSON.", *LOG_FORMATS, default="text"))


TABLES: Final = {"actors": ActorFields, "processes": ProcessFields, "limits": LimitFields}
"""The tables whose keys are names of the program's own."""
