"""Actors on Trio, fed by Redis streams.

    from actorwork import Actor, Settings, receive, run

    class Greeter(Actor):
        settings = Settings(title="greeter", sources={"greetings"})

        @receive
        async def greet(self, *, name: str) -> str:
            return f"Hello {name}"

    run(Greeter, broker="redis://localhost:6379/0")

Define actors, start a tree of them with `run`, or embed them in a Trio application with `open_system` or `serve`, in
any other program with `SystemThread`.
Messages reach an actor through a broker (`open_client`, or any producer that adds entries to a Redis stream) or
through its local ref.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from actorwork.importing import paused_collector as _paused_collector

if TYPE_CHECKING:
    from actorwork.abc import (
        AbstractCronSchedule as AbstractCronSchedule,
        FunctionActor as FunctionActor,
        Middleware as Middleware,
        PublishMiddleware as PublishMiddleware,
    )
    from actorwork.actors.actor import Actor as Actor
    from actorwork.actors.context.context import Context as Context
    from actorwork.actors.context.current import current_context as current_context
    from actorwork.actors.decorators import (
        circuit_breaker as circuit_breaker,
        rate_limit as rate_limit,
        retry as retry,
        timeout as timeout,
    )
    from actorwork.actors.entities.entity import Entity as Entity
    from actorwork.actors.entities.schema import migrates as migrates
    from actorwork.actors.functions import actor as actor
    from actorwork.actors.handlers.table import receive as receive
    from actorwork.actors.refs.pool import PoolRef as PoolRef
    from actorwork.actors.refs.ref import ActorRef as ActorRef
    from actorwork.actors.refs.watching import Restarted as Restarted, Terminated as Terminated
    from actorwork.actors.supervision.administration import SupervisorRef as SupervisorRef
    from actorwork.actors.supervision.children import ChildCounts as ChildCounts, ChildInfo as ChildInfo
    from actorwork.actors.tree.pool import Pool as Pool
    from actorwork.actors.tree.spec import (
        Child as Child,
        DynamicSupervisor as DynamicSupervisor,
        Process as Process,
        Supervisor as Supervisor,
        check_child_specs as check_child_specs,
    )
    from actorwork.clients import (
        Client as Client,
        Prepared as Prepared,
        Receipt as Receipt,
        Spool as Spool,
        StreamRef as StreamRef,
        open_client as open_client,
    )
    from actorwork.clients.entities import EntityRef as EntityRef, EntityState as EntityState
    from actorwork.durations import Duration as Duration
    from actorwork.errors import (
        ActorCrashed as ActorCrashed,
        ActorStopped as ActorStopped,
        ActorworkError as ActorworkError,
        AlreadyRegistered as AlreadyRegistered,
        AskTimeout as AskTimeout,
        BrokerError as BrokerError,
        ChildError as ChildError,
        CircuitOpen as CircuitOpen,
        CodecError as CodecError,
        ConfigurationError as ConfigurationError,
        Deadlock as Deadlock,
        DeathPact as DeathPact,
        ExecutionTimeout as ExecutionTimeout,
        Fail as Fail,
        Ignore as Ignore,
        LockLost as LockLost,
        LockTimeout as LockTimeout,
        MailboxFull as MailboxFull,
        MaxRestartsExceeded as MaxRestartsExceeded,
        MessageFailed as MessageFailed,
        MessageRefused as MessageRefused,
        MissingExtra as MissingExtra,
        NotRunning as NotRunning,
        NotUnique as NotUnique,
        ProcessLost as ProcessLost,
        Reject as Reject,
        RemoteError as RemoteError,
        ResultTooLarge as ResultTooLarge,
        Retry as Retry,
        SettingsError as SettingsError,
        Shutdown as Shutdown,
        SpoolError as SpoolError,
        SpoolFull as SpoolFull,
        StartError as StartError,
        StateConflict as StateConflict,
        Unconfirmed as Unconfirmed,
        WouldWaitForItself as WouldWaitForItself,
    )
    from actorwork.hosting.system_thread import SystemThread as SystemThread
    from actorwork.message import (
        Delivery as Delivery,
        Durability as Durability,
        Envelope as Envelope,
        Failure as Failure,
        Message as Message,
        Priority as Priority,
        Status as Status,
        Unique as Unique,
    )
    from actorwork.policy.backoffs import Backoff as Backoff, Fixed as Fixed, Linear as Linear, Uniform as Uniform
    from actorwork.policy.entities import EntityInfo as EntityInfo
    from actorwork.policy.exits import Exit as Exit
    from actorwork.policy.limits import (
        Bulkhead as Bulkhead,
        CircuitBreaker as CircuitBreaker,
        ConcurrencyLimit as ConcurrencyLimit,
        RateLimit as RateLimit,
    )
    from actorwork.policy.restart import Intensity as Intensity
    from actorwork.policy.retry import Exponential as Exponential, RetryPolicy as RetryPolicy
    from actorwork.policy.scaling import Scale as Scale
    from actorwork.policy.schedule import Cron as Cron, Interval as Interval, next_times as next_times
    from actorwork.policy.sending import SendOptions as SendOptions, SubmitOptions as SubmitOptions
    from actorwork.policy.trigger import Trigger as Trigger
    from actorwork.records import (
        AuditEntry as AuditEntry,
        DeadLetter as DeadLetter,
        Delayed as Delayed,
        MessageInfo as MessageInfo,
        Pause as Pause,
        Progress as Progress,
        TriggerChanges as TriggerChanges,
        TriggerDefinition as TriggerDefinition,
        TriggerRecord as TriggerRecord,
    )
    from actorwork.runtime.main import run as run
    from actorwork.runtime.outline import Branch as Branch
    from actorwork.runtime.system import (
        System as System,
        load_configuration as load_configuration,
        open_system as open_system,
        serve as serve,
    )
    from actorwork.settings import (
        DeadLetterSettings as DeadLetterSettings,
        Entities as Entities,
        EventSettings as EventSettings,
        MailboxSettings as MailboxSettings,
        Settings as Settings,
        Source as Source,
    )
    from actorwork.state.lock import Held as Held, Lock as Lock
    from actorwork.state.shared import Shared as Shared
    from actorwork.telemetry.resources import ResourceBounds as ResourceBounds

_AT_FIRST_USE: Final = {
    "AbstractCronSchedule": "actorwork.abc",
    "Actor": "actorwork.actors.actor",
    "ActorCrashed": "actorwork.errors",
    "ActorRef": "actorwork.actors.refs.ref",
    "ActorStopped": "actorwork.errors",
    "ActorworkError": "actorwork.errors",
    "AlreadyRegistered": "actorwork.errors",
    "AskTimeout": "actorwork.errors",
    "AuditEntry": "actorwork.records",
    "Backoff": "actorwork.policy.backoffs",
    "Branch": "actorwork.runtime.outline",
    "BrokerError": "actorwork.errors",
    "Bulkhead": "actorwork.policy.limits",
    "Child": "actorwork.actors.tree.spec",
    "ChildCounts": "actorwork.actors.supervision.children",
    "ChildError": "actorwork.errors",
    "ChildInfo": "actorwork.actors.supervision.children",
    "CircuitBreaker": "actorwork.policy.limits",
    "CircuitOpen": "actorwork.errors",
    "Client": "actorwork.clients.client",
    "CodecError": "actorwork.errors",
    "ConcurrencyLimit": "actorwork.policy.limits",
    "ConfigurationError": "actorwork.errors",
    "Context": "actorwork.actors.context.context",
    "Cron": "actorwork.policy.schedule",
    "DeadLetter": "actorwork.records",
    "DeadLetterSettings": "actorwork.settings",
    "Deadlock": "actorwork.errors",
    "DeathPact": "actorwork.errors",
    "Delayed": "actorwork.records",
    "Delivery": "actorwork.message",
    "Duration": "actorwork.durations",
    "Durability": "actorwork.message",
    "DynamicSupervisor": "actorwork.actors.tree.spec",
    "Entities": "actorwork.settings",
    "Entity": "actorwork.actors.entities.entity",
    "EntityInfo": "actorwork.policy.entities",
    "EntityRef": "actorwork.clients.entities",
    "EntityState": "actorwork.clients.entities",
    "Envelope": "actorwork.message",
    "EventSettings": "actorwork.settings",
    "ExecutionTimeout": "actorwork.errors",
    "Exit": "actorwork.policy.exits",
    "Exponential": "actorwork.policy.retry",
    "Fail": "actorwork.errors",
    "Failure": "actorwork.message",
    "Fixed": "actorwork.policy.backoffs",
    "FunctionActor": "actorwork.abc",
    "Held": "actorwork.state.lock",
    "Ignore": "actorwork.errors",
    "Intensity": "actorwork.policy.restart",
    "Interval": "actorwork.policy.schedule",
    "Linear": "actorwork.policy.backoffs",
    "Lock": "actorwork.state.lock",
    "LockLost": "actorwork.errors",
    "LockTimeout": "actorwork.errors",
    "MailboxFull": "actorwork.errors",
    "MailboxSettings": "actorwork.settings",
    "MaxRestartsExceeded": "actorwork.errors",
    "Message": "actorwork.message",
    "MessageFailed": "actorwork.errors",
    "MessageInfo": "actorwork.records",
    "MessageRefused": "actorwork.errors",
    "Middleware": "actorwork.abc",
    "MissingExtra": "actorwork.errors",
    "NotRunning": "actorwork.errors",
    "NotUnique": "actorwork.errors",
    "Pause": "actorwork.records",
    "Pool": "actorwork.actors.tree.pool",
    "PoolRef": "actorwork.actors.refs.pool",
    "Prepared": "actorwork.clients.refs",
    "Priority": "actorwork.message",
    "Process": "actorwork.actors.tree.spec",
    "ProcessLost": "actorwork.errors",
    "Progress": "actorwork.records",
    "PublishMiddleware": "actorwork.abc",
    "RateLimit": "actorwork.policy.limits",
    "Receipt": "actorwork.clients.receipts",
    "Reject": "actorwork.errors",
    "RemoteError": "actorwork.errors",
    "ResourceBounds": "actorwork.telemetry.resources",
    "Restarted": "actorwork.actors.refs.watching",
    "ResultTooLarge": "actorwork.errors",
    "Retry": "actorwork.errors",
    "RetryPolicy": "actorwork.policy.retry",
    "Scale": "actorwork.policy.scaling",
    "SendOptions": "actorwork.policy.sending",
    "Settings": "actorwork.settings",
    "SettingsError": "actorwork.errors",
    "Shared": "actorwork.state.shared",
    "Shutdown": "actorwork.errors",
    "Source": "actorwork.settings",
    "Spool": "actorwork.clients.spool",
    "SpoolError": "actorwork.errors",
    "SpoolFull": "actorwork.errors",
    "StartError": "actorwork.errors",
    "StateConflict": "actorwork.errors",
    "Status": "actorwork.message",
    "StreamRef": "actorwork.clients.refs",
    "SubmitOptions": "actorwork.policy.sending",
    "Supervisor": "actorwork.actors.tree.spec",
    "SupervisorRef": "actorwork.actors.supervision.administration",
    "System": "actorwork.runtime.system",
    "SystemThread": "actorwork.hosting.system_thread",
    "Terminated": "actorwork.actors.refs.watching",
    "Trigger": "actorwork.policy.trigger",
    "TriggerChanges": "actorwork.records",
    "TriggerDefinition": "actorwork.records",
    "TriggerRecord": "actorwork.records",
    "Uniform": "actorwork.policy.backoffs",
    "Unconfirmed": "actorwork.errors",
    "Unique": "actorwork.message",
    "WouldWaitForItself": "actorwork.errors",
    "actor": "actorwork.actors.functions",
    "check_child_specs": "actorwork.actors.tree.spec",
    "circuit_breaker": "actorwork.actors.decorators",
    "current_context": "actorwork.actors.context.current",
    "load_configuration": "actorwork.runtime.system",
    "migrates": "actorwork.actors.entities.schema",
    "next_times": "actorwork.policy.schedule",
    "open_client": "actorwork.clients.opening",
    "open_system": "actorwork.runtime.system",
    "rate_limit": "actorwork.actors.decorators",
    "receive": "actorwork.actors.handlers.table",
    "retry": "actorwork.actors.decorators",
    "run": "actorwork.runtime.main",
    "serve": "actorwork.runtime.system",
    "timeout": "actorwork.actors.decorators",
}
"""The modules of all names. Each is imported when it is used first (PEP 562): a program that only sends needs no
runtime, a node needs no client, and a sync program (`actorwork.sync`) needs no Trio.
"""


def __getattr__(name: str) -> object:
    module = _AT_FIRST_USE.get(name)
    if module is None:
        raise AttributeError(f"module 'actorwork' has no attribute {name!r}")
    with _paused_collector(module):
        value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_AT_FIRST_USE})


__all__ = [
    "AbstractCronSchedule",
    "Actor",
    "ActorCrashed",
    "ActorRef",
    "ActorStopped",
    "ActorworkError",
    "AlreadyRegistered",
    "AskTimeout",
    "AuditEntry",
    "Backoff",
    "Branch",
    "BrokerError",
    "Bulkhead",
    "Child",
    "ChildCounts",
    "ChildError",
    "ChildInfo",
    "CircuitBreaker",
    "CircuitOpen",
    "Client",
    "CodecError",
    "ConcurrencyLimit",
    "ConfigurationError",
    "Context",
    "Cron",
    "DeadLetter",
    "DeadLetterSettings",
    "Deadlock",
    "DeathPact",
    "Delayed",
    "Delivery",
    "Durability",
    "Duration",
    "DynamicSupervisor",
    "Entities",
    "Entity",
    "EntityInfo",
    "EntityRef",
    "EntityState",
    "Envelope",
    "EventSettings",
    "ExecutionTimeout",
    "Exit",
    "Exponential",
    "Fail",
    "Failure",
    "Fixed",
    "FunctionActor",
    "Held",
    "Ignore",
    "Intensity",
    "Interval",
    "Linear",
    "Lock",
    "LockLost",
    "LockTimeout",
    "MailboxFull",
    "MailboxSettings",
    "MaxRestartsExceeded",
    "Message",
    "MessageFailed",
    "MessageInfo",
    "MessageRefused",
    "Middleware",
    "MissingExtra",
    "NotRunning",
    "NotUnique",
    "Pause",
    "Pool",
    "PoolRef",
    "Prepared",
    "Priority",
    "Process",
    "ProcessLost",
    "Progress",
    "PublishMiddleware",
    "RateLimit",
    "Receipt",
    "Reject",
    "RemoteError",
    "ResourceBounds",
    "Restarted",
    "ResultTooLarge",
    "Retry",
    "RetryPolicy",
    "Scale",
    "SendOptions",
    "Settings",
    "SettingsError",
    "Shared",
    "Shutdown",
    "Source",
    "Spool",
    "SpoolError",
    "SpoolFull",
    "StartError",
    "StateConflict",
    "Status",
    "StreamRef",
    "SubmitOptions",
    "Supervisor",
    "SupervisorRef",
    "System",
    "SystemThread",
    "Terminated",
    "Trigger",
    "TriggerChanges",
    "TriggerDefinition",
    "TriggerRecord",
    "Unconfirmed",
    "Uniform",
    "Unique",
    "WouldWaitForItself",
    "actor",
    "check_child_specs",
    "circuit_breaker",
    "current_context",
    "load_configuration",
    "migrates",
    "next_times",
    "open_client",
    "open_system",
    "rate_limit",
    "receive",
    "retry",
    "run",
    "serve",
    "timeout",
]
