"""Descriptions of a tree: how its children are made, restarted and stopped.

    an actor class                a child with everything by default
    Child(factory, …)             an actor made by a factory, or a task: async fn(*, task_status)
    Supervisor([…], strategy=…)   children kept alive together
    DynamicSupervisor(template)   children that come and go while the tree runs
    Process([…], replicas=…)      children in an OS process of their own, or in several
    a list                        a one_for_one supervisor: the root

Everything here is a frozen description. The rules are those of OTP's child specifications and supervisor flags;
unknown fields are refused, which OTP does not do.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeAlias, cast, get_args

import attrs
from attrs.validators import optional

from actorwork.actors.tree import checks
from actorwork.actors.tree.hooks import Hooks, has_settings, no_title, settings_of
from actorwork.durations import Duration, as_seconds
from actorwork.errors import SettingsError
from actorwork.policy.bounds import FINITE, instance_of, number, one_of, seconds, whole
from actorwork.policy.exits import Restart
from actorwork.policy.restart import AUTO_SHUTDOWNS, STRATEGIES, AutoShutdown, Intensity, Strategy
from actorwork.settings import Settings
from actorwork.shown import Shown

if TYPE_CHECKING:
    # Type checkers bring it; `typing` has defaults from Python 3.13 on.
    from typing_extensions import TypeVar

    from actorwork.policy.backoffs import Backoff
    from actorwork.policy.scaling import Scale

    A_co = TypeVar("A_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    A_co = TypeVar("A_co", covariant=True)

ShutdownTime: TypeAlias = float | Literal["brutal_kill"]


_LONGEST_ID: Final = 80
"""The number of characters of an id that logs and trees show."""


def as_shutdown(value: Duration) -> ShutdownTime:
    """Convert a duration; "brutal_kill" is text too."""
    return as_seconds(value)


def innermost(factory: object) -> object:
    """Return what a (nested) functools.partial calls in the end."""
    while isinstance(factory, partial):
        factory = factory.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return factory  # pyright: ignore[reportUnknownVariableType]


def _may_read(factory: object) -> bool:
    """Whether a broker can feed what a factory makes: no broker knows an actor without a title."""
    inner = innermost(factory)
    return not (isinstance(inner, type) and issubclass(inner, Hooks)) or has_settings(inner)


if TYPE_CHECKING:

    class SettingsChanges(Protocol):
        """What an operator changes in the settings that an actor class declares."""

        def applied_to(self, settings: Settings) -> Settings:
            """Return the changed settings."""
            ...


@attrs.frozen(eq=False, repr=False)
class Child(Shown, Generic[A_co]):
    """An actor, or a task, in a tree: how to make it, whether to restart it, how long it may take to stop.

    `factory` is run for every incarnation: an actor class, a `functools.partial` of one, or an async function which
    calls `task_status.started()` once it is up. `restart` is OTP's: a permanent child is always restarted, a
    transient one when it ended abnormally, a temporary one never. `shutdown` bounds its end in seconds, and
    `"brutal_kill"` cancels it at once; `startup_timeout` bounds its start. `id` is unique among siblings: the actor's
    title by default. A `significant` child may end its supervisor (`auto_shutdown`). With a `backoff`, restarts wait.
    An actor that is in the tree from the start reads from the broker, unless `reads` is False or it has no settings; of
    those that read, there is one for each title. A configuration sets `changes` of the settings; they are pickled.
    """

    factory: Callable[..., A_co]
    restart: Restart = attrs.field(default="permanent", kw_only=True, validator=checks.restart)
    shutdown: ShutdownTime = attrs.field(default=5.0, kw_only=True, converter=as_shutdown, validator=checks.shutdown)
    startup_timeout: float = attrs.field(default=30.0, kw_only=True, converter=as_seconds, validator=seconds(0))
    id: Hashable = attrs.field(default=None, kw_only=True, validator=checks.hashable)
    significant: bool = attrs.field(default=False, kw_only=True, validator=checks.significant)
    backoff: Backoff | None = attrs.field(default=None, kw_only=True, validator=checks.backoff)
    name: str | None = attrs.field(default=None, kw_only=True)
    reads: bool = attrs.field(
        default=attrs.Factory(lambda self: _may_read(self.factory), takes_self=True),
        kw_only=True,
        validator=instance_of(bool, "True or False"),
    )
    changes: SettingsChanges | None = attrs.field(default=None, kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        actor = self.actor
        if actor is None:
            if not inspect.iscoroutinefunction(innermost(self.factory)):
                raise SettingsError(
                    "Child wants an actor class, a functools.partial of one, or an async function,"
                    f" got {self.factory!r}"
                )
        elif hasattr(actor, "__make__") and self.factory is not actor:
            raise SettingsError(
                f"{actor.__qualname__} is a function, whose arguments come with its messages: write"
                f" Child({actor.__qualname__}), without a partial"
            )
        elif self.reads and not has_settings(actor):
            raise SettingsError(f"Child(…, reads=True): {no_title(actor)}")

    @cached_property
    def actor(self) -> type[Hooks] | None:
        """The actor class, or None for a task."""
        inner = innermost(self.factory)
        return inner if isinstance(inner, type) and issubclass(inner, Hooks) else None

    def make(self) -> Any:
        """Make the actor of one incarnation."""
        # To call a function that is an actor is to call the function.
        make = getattr(self.actor, "__make__", self.factory)
        return make()

    @property
    def settings(self) -> Settings:
        """The actor's settings; a task has none."""
        actor = self.actor
        if actor is None:
            raise SettingsError(f"{self.title!r} is a task: it has no settings")
        return settings_of(actor) if self.changes is None else self._changed_settings

    @cached_property
    def _changed_settings(self) -> Settings:
        actor, changes = cast("type[Hooks]", self.actor), cast("SettingsChanges", self.changes)
        return changes.applied_to(settings_of(actor))

    @cached_property
    def title(self) -> str:
        """The actor's title, or the name of the function."""
        actor = self.actor
        if actor is not None:
            return settings_of(actor).title
        return getattr(innermost(self.factory), "__qualname__", "task")

    @property
    def child_id(self) -> Hashable:
        return self.title if self.id is None else self.id

    @property
    def is_supervisor(self) -> bool:
        return False


def label_of(child: Child, names: Iterable[str] = ()) -> str:
    """Return what people tell a child from others by: its title, its id if it has one, and its registered names.

    A child of a pool has its title in its id: "worker 2". Others: "account (ann)" or "account (ann, named x)".
    """
    title, own = child.title, "" if child.id is None else _printable(child.id)
    if own == title or own.startswith(f"{title} "):
        title, own = own, ""
    marks = [own] if own else []
    marks += [f"named {_printable(name)}" for name in sorted(names) if _printable(name) not in (title, own)]
    return f"{title} ({', '.join(marks)})" if marks else title


def _printable(id: Hashable) -> str:
    text = str(id)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _LONGEST_ID else f"{text[:_LONGEST_ID]}…"


def _children(value: Iterable[object], whose: str = "Supervisor") -> tuple[Spec, ...]:
    if not isinstance(value, (list, tuple)):
        raise SettingsError(f"{whose} wants a list of children, got {value!r}")
    return tuple(as_spec(spec) for spec in value)  # pyright: ignore[reportUnknownVariableType]


@attrs.frozen(eq=False, repr=False)
class _Supervising(Shown):
    """The fields of both kinds of supervisors."""

    intensity: Intensity = attrs.field(factory=Intensity, kw_only=True, validator=checks.intensity)
    on_exceeded: float | None = attrs.field(
        default=None, kw_only=True, converter=as_seconds, validator=number(0, FINITE, "finite seconds", optional=True)
    )
    name: str | None = attrs.field(default=None, kw_only=True)
    id: Hashable = attrs.field(default=None, kw_only=True, validator=checks.hashable)
    restart: Restart = attrs.field(default="permanent", kw_only=True, validator=checks.restart)
    shutdown: ShutdownTime = attrs.field(
        default=math.inf, kw_only=True, converter=as_shutdown, validator=checks.shutdown
    )
    startup_timeout: float = attrs.field(default=math.inf, kw_only=True, converter=as_seconds, validator=seconds(0))
    significant: bool = attrs.field(default=False, kw_only=True, validator=checks.significant)
    backoff: Backoff | None = attrs.field(default=None, kw_only=True, validator=checks.backoff)

    @property
    def title(self) -> str:
        return self.name or (str(self.id) if self.id is not None else "supervisor")

    @property
    def child_id(self) -> Hashable:
        return self.title if self.id is None else self.id

    @property
    def is_supervisor(self) -> bool:
        return True


@attrs.frozen(eq=False, repr=False)
class Supervisor(_Supervising):
    """Children that are started in order, kept alive together, and stopped in reverse order.

    After more than `intensity` restarts it gives up, which is a crash that its own supervisor judges; with
    `on_exceeded` it waits for that many seconds instead, and counts from zero again. `auto_shutdown` ends it in order
    when significant children have ended by themselves. A supervisor is a child like any other: `restart`, `shutdown`,
    `significant`, `backoff`.
    """

    children: tuple[Spec, ...] = attrs.field(converter=_children)
    strategy: Strategy = attrs.field(default="one_for_one", kw_only=True, validator=one_of(STRATEGIES))
    auto_shutdown: AutoShutdown = attrs.field(default="never", kw_only=True, validator=one_of(AUTO_SHUTDOWNS))

    def __attrs_post_init__(self) -> None:
        problems = check_child_specs(self.children, auto_shutdown=self.auto_shutdown)
        if problems:
            raise SettingsError("; ".join(problems))


@attrs.frozen(eq=False, repr=False)
class DynamicSupervisor(_Supervising):
    """Children of one kind that come and go: started with `start_child(*arguments)`, known by their refs.

    `template` describes each of them, and its factory gets the arguments. Without a template, `start_child` takes any
    part of a tree. They start side by side, are restarted one for one, and are stopped in parallel.
    """

    template: Child | None = attrs.field(
        default=None, converter=lambda value: None if value is None else _template(value)
    )
    max_children: float = attrs.field(default=math.inf, kw_only=True, validator=number(0))

    @property
    def title(self) -> str:
        if self.name or self.id is not None:
            return super().title
        return "dynamic supervisor" if self.template is None else f"{self.template.title} supervisor"


LONGEST_SHUTDOWN: Final = 180.0
"""The longest time in seconds that a process may have to end."""

StartMethod: TypeAlias = Literal["spawn", "forkserver"]
START_METHODS: Final[tuple[StartMethod, ...]] = get_args(StartMethod)


@attrs.frozen(eq=False, repr=False)
class Process(Shown):
    """Children in an OS process of their own: another core, separate memory, and an end by force if need be.

    The process is a node like this one, with a lease of its own; its supervisor restarts it by the rules of any child.
    It is asked to end, and killed after `shutdown_timeout` seconds; it is killed and replaced when its loop has stood
    still for `hang_timeout` seconds. `replicas` starts several of it, each with all of the children, which are
    restarted one by one; more than `intensity` restarts of all of them together (by default 3 for each within 5 s) end
    them all, which the supervisor above judges. With a `Scale` their number follows the load. After `max_messages`, or
    above `max_memory` (bytes, or "512MB"), a process is replaced in an orderly way. The factories of the children must
    be picklable: classes and functions of a module, `__main__` included. `start_method` is multiprocessing's:
    "forkserver" starts faster and shares memory.
    """

    children: tuple[Spec, ...] = attrs.field(converter=lambda value: _children(value, "Process"))
    name: str | None = attrs.field(default=None, kw_only=True)
    replicas: int | Scale = attrs.field(default=1, kw_only=True, validator=checks.replicas)
    shutdown_timeout: float = attrs.field(
        default=30.0, kw_only=True, converter=as_seconds, validator=seconds(0, LONGEST_SHUTDOWN)
    )
    hang_timeout: float | None = attrs.field(
        default=60.0,
        kw_only=True,
        converter=as_seconds,
        validator=number(0, FINITE, "finite seconds", above=True, optional=True),
    )
    max_messages: int | None = attrs.field(default=None, kw_only=True, validator=whole(1, optional=True))
    max_memory: int | None = attrs.field(default=None, kw_only=True, converter=checks.as_bytes, validator=checks.memory)
    start_method: StartMethod = attrs.field(default="spawn", kw_only=True, validator=one_of(START_METHODS))
    intensity: Intensity | None = attrs.field(default=None, kw_only=True, validator=optional(checks.intensity))
    restart: Restart = attrs.field(default="permanent", kw_only=True, validator=checks.restart)
    startup_timeout: float = attrs.field(default=60.0, kw_only=True, converter=as_seconds, validator=seconds(0))
    id: Hashable = attrs.field(default=None, kw_only=True, validator=checks.hashable)
    significant: bool = attrs.field(default=False, kw_only=True, validator=checks.significant)
    backoff: Backoff | None = attrs.field(default=None, kw_only=True, validator=checks.backoff)

    def __attrs_post_init__(self) -> None:
        if not self.children:
            raise SettingsError("Process wants at least one child, got an empty list")
        problems = check_child_specs(self.children)
        if problems:
            raise SettingsError("; ".join(problems))

    @property
    def title(self) -> str:
        if self.name or self.id is not None:
            return self.name or str(self.id)
        return f"process of {', '.join(child.title for child in self.children)}"

    @property
    def child_id(self) -> Hashable:
        return self.title if self.id is None else self.id

    @property
    def is_supervisor(self) -> bool:
        return True

    @property
    def shutdown(self) -> ShutdownTime:
        return self.shutdown_timeout

    @property
    def is_group(self) -> bool:
        """Whether it runs as a supervisor of replicas, and not as one process."""
        return self.scale.max > 1 or self.replicas != 1 or self.intensity is not None

    @property
    def scale(self) -> Scale:
        """The bounds for the number of replicas."""
        if not isinstance(self.replicas, int):
            return self.replicas
        from actorwork.policy.scaling import Scale  # noqa: PLC0415 - a start without a Process needs none

        return Scale(min=self.replicas, max=self.replicas)

    def member(self, number: int) -> Process:
        """Return the description of one of its replicas."""
        title = f"{self.title} {number}"
        return attrs.evolve(self, name=title, id=title, replicas=1, intensity=None, significant=False)


@attrs.frozen(eq=False, repr=False)
class Replicas(DynamicSupervisor):
    """The supervisor of the replicas of a `Process`: they start and end side by side."""

    process: Process = attrs.field(kw_only=True)

    @classmethod
    def of(cls, process: Process) -> Replicas:
        """Return the supervisor for the replicas of a process."""
        return cls(
            process=process,
            name=process.title,
            intensity=process.intensity or Intensity(restarts=3 * process.scale.max, period=5.0),
        )

    @property
    def members(self) -> list[Process]:
        """The replicas to start with."""
        return [self.process.member(number) for number in range(1, self.process.scale.min + 1)]


Spec: TypeAlias = Child | Supervisor | DynamicSupervisor | Process


def as_spec(spec: object) -> Spec:
    """Return the description for a part of a tree; raises `SettingsError` for anything else."""
    if isinstance(spec, (Child, Supervisor, DynamicSupervisor, Process)):
        return cast("Spec", spec)
    if isinstance(spec, type) and issubclass(spec, Hooks):
        return Child(spec)
    if isinstance(spec, (list, tuple)):
        return Supervisor(spec)  # pyright: ignore[reportUnknownArgumentType]
    hint = ""
    if isinstance(spec, Hooks):
        hint = "; write the class itself, or Child(partial(…)) for one with arguments"
    elif isinstance(spec, partial) or inspect.iscoroutinefunction(cast("object", spec)):
        name = getattr(innermost(spec), "__name__", "…")  # pyright: ignore[reportUnknownArgumentType]
        hint = f"; write Child({f'partial({name}, …)' if isinstance(spec, partial) else name})"
    raise SettingsError(
        "a tree is made of actor classes, Child(…), Supervisor(…), DynamicSupervisor(…), Pool(…) and Process(…),"
        f" got {spec!r}{hint}"
    )


def _template(value: object) -> Child:
    if isinstance(value, (list, tuple)):
        raise SettingsError(f"DynamicSupervisor wants exactly one template, got {len(value)}")  # pyright: ignore[reportUnknownArgumentType]
    spec = as_spec(value)
    if not isinstance(spec, Child):
        raise SettingsError(f"DynamicSupervisor wants an actor class or a Child as its template, got {value!r}")
    if spec.significant:
        raise SettingsError("DynamicSupervisor: a template cannot be significant, since there is no auto_shutdown here")
    return spec


def check_child_specs(specs: Sequence[object], *, auto_shutdown: AutoShutdown = "never") -> list[str]:
    """Return the defects of a list of children, one sentence each; an empty list if there are none."""
    problems: list[str] = []
    seen: dict[Hashable, Spec] = {}
    for given in specs:
        try:
            spec = as_spec(given)
        except SettingsError as error:
            problems.append(str(error))
            continue
        if spec.child_id in seen:
            problems.append(same_id(seen[spec.child_id], spec))
        seen[spec.child_id] = spec
        if spec.significant and auto_shutdown == "never":
            problems.append(f"{spec.child_id!r} is significant, which has no effect without auto_shutdown")
    return problems


def same_id(one: Spec, other: Spec) -> str:
    are_unnamed = one.id is other.id is None
    if are_unnamed and isinstance(one, Child) and isinstance(other, Child) and one.actor and other.actor and one.reads:
        return (
            f"two actors are titled {one.title!r} ({one.actor.__qualname__} and {other.actor.__qualname__}); a title"
            " must be unique in a tree, since the actor's identity at the broker is derived from it; only one class may"
            " be in several processes, as replicas. To handle more at once, raise Settings.concurrency"
        )
    return f"two children have the id {one.child_id!r}; ids are unique among siblings: give one of them an id=…"
