"""What an actor declares about itself: title, sources, limits, triggers.

Every bound is checked when the value is created; the error names the field, the value and the bound. The identity
(`id`, `default_source`) is derived from the title alone, so it is the same on every host and for every version of the
program that keeps the title.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, cast

import attrs

from actorwork.durations import as_seconds
from actorwork.errors import SettingsError
from actorwork.message import Priority
from actorwork.policy.bounds import as_tuple, callables, instance_of, one_of, seconds, takes, text, whole, wrong
from actorwork.policy.identity import default_source as default_source, identity as identity
from actorwork.policy.retry import DefaultRetryPolicy, RetryPolicy
from actorwork.policy.settlement import ON_FAILURES, OnFailure
from actorwork.shown import Shown, Value

if TYPE_CHECKING:
    from actorwork.policy.decoding import DecodeHook, Decoder
    from actorwork.policy.limits import Limit
    from actorwork.policy.trigger import Trigger

SOURCE: Final = re.compile(r"(?!actorwork:)[a-zA-Z0-9_\-:]{1,300}")
"""A valid name of a source. A stream whose name begins as our own keys do could take the place of one of them."""
SOURCE_IN_WORDS: Final = "1 to 300 characters out of a-z A-Z 0-9 _ - :, not beginning with 'actorwork:'"

Overflow: TypeAlias = Literal["block", "fail", "drop_new", "drop_oldest"]
EventLoop: TypeAlias = Literal["trio", "asyncio"]
EVENT_LOOPS: Final[tuple[EventLoop, ...]] = ("trio", "asyncio")
OVERFLOWS: Final[tuple[Overflow, ...]] = ("block", "fail", "drop_new", "drop_oldest")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class EventSettings(Value):
    """Bounds on the messages that one delivery publishes.

    Messages beyond `max_events_in_memory` wait in a temporary file; up to `max_batch_size` of them
    travel in the script that settles the delivery.
    """

    max_events_in_memory: int = attrs.field(default=5000, validator=whole(1, 10_000))
    max_batch_size: int = attrs.field(default=500, validator=whole(1, 10_000))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class MailboxSettings(Value):
    """How much a mailbox holds: `capacity` messages from local senders, and as many from the broker.

    Of deliveries it holds fewer while handlers are slow (`policy/intake`), and always as many as may run at once.
    `overflow` decides what happens to a local message beyond `capacity`: with "block", `tell` waits; "fail" refuses it
    (`MailboxFull`); "drop_new" and "drop_oldest" drop one, which is reported as undelivered. `stash` bounds the number
    of messages that an actor sets aside.
    """

    capacity: int = attrs.field(default=1000, validator=whole(1, 1_000_000))
    overflow: Overflow = attrs.field(default="block", validator=one_of(OVERFLOWS))
    stash: int = attrs.field(default=1000, validator=whole(1, 1_000_000))


_SIZE: Final = r"(\d+(?:\.\d+)?) ?(B|KB|MB|KiB|MiB)"
_SIZES: Final = {"B": 1, "KB": 1000, "MB": 1_000_000, "KiB": 1024, "MiB": 1_048_576}


def _as_bytes(value: int | str) -> int:
    found = re.fullmatch(_SIZE, value) if isinstance(value, str) else None
    return round(float(found[1]) * _SIZES[found[2]]) if found else cast("int", value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Entities(Value):
    """How the instances and states of an `Entity` are kept.

    A node keeps an instance `idle` seconds after its last message, and at most `most` of them. The JSON of a state has
    at most `limit` bytes, which may be text such as "256KB"; a message that makes it larger fails. The broker keeps a
    state for `ttl` seconds after its last change (None: for ever), and its last `history` changes beside it, each as
    large as the state itself.
    """

    idle: float = attrs.field(default=300.0, converter=as_seconds, validator=seconds(0, above=True))
    most: int = attrs.field(default=50_000, validator=whole(1, 10_000_000))
    limit: int = attrs.field(default=256_000, converter=_as_bytes, validator=whole(1, 536_870_912))
    ttl: float | None = attrs.field(
        default=None, converter=as_seconds, validator=seconds(0, 3_153_600_000, above=True, optional=True)
    )
    history: int = attrs.field(default=0, validator=whole(0, 100_000))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class DeadLetterSettings(Value):
    """How many dead letters of an actor are kept, and for how long.

    Whenever one of its messages becomes a dead letter, the oldest letters of the same source beyond `max_count` (to
    within about one percent) and those older than `max_age` seconds are deleted. Actors that share a source share them.
    """

    max_count: int = attrs.field(default=10_000, validator=whole(1, 10_000_000))
    max_age: float = attrs.field(default=2_592_000.0, converter=as_seconds, validator=seconds(1, 315_360_000))


# A converter passes on unchanged what it cannot convert, for the validator to refuse.


MOST_SHARDS: Final = 256
is_own_source: Final = re.compile(r"worker:[0-9a-f]{16}:source").fullmatch
"""Whether a name is that of an actor's own source, which is never divided."""


class Source(str):
    """The name of a source, and into how many `shards` (1 to 256) it is divided, so that it uses all of a cluster.

    A name without a number, or plain text, is the source as it is at the broker. The broker keeps the number from its
    first use on: a program that declares another one is refused when it starts, a client when it publishes. Messages
    with one key go to one shard, where they are handled in their order. An actor's own source has no shards. Raises
    `SettingsError` for a name that is not valid, or another number.
    """

    __slots__ = ("shards",)
    shards: int | None

    def __new__(cls, name: str, *, shards: int | None = None) -> Self:
        given: Any = name
        if not (isinstance(given, str) and SOURCE.fullmatch(given)):
            raise SettingsError(f"Source wants a name of {SOURCE_IN_WORDS}, got {given!r}")
        number: object = shards
        if number is not None and (type(number) is not int or not 1 <= number <= MOST_SHARDS):
            raise SettingsError(f"Source.shards wants a whole number from 1 to {MOST_SHARDS}, or None, got {number!r}")
        if number is not None and is_own_source(given):
            raise SettingsError(
                f"Source.shards wants a source that actors share, got {given!r}, which is an actor's own: give the"
                " actor one more, sources={Source('orders', shards=…)}, and publish to that"
            )
        made = super().__new__(cls, name)
        made.shards = shards
        return made

    def __repr__(self) -> str:
        return f"Source({str(self)!r})" if self.shards is None else f"Source({str(self)!r}, shards={self.shards})"

    def __reduce__(self) -> tuple[object, ...]:
        return _source, (str(self), self.shards)


def _source(name: str, shards: int | None) -> Source:
    return Source(name, shards=shards)


def _as_set(value: Iterable[str]) -> frozenset[str]:
    given: Any = value
    # A str is an iterable of its characters, which is never intended.
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        return cast("Any", given)
    return frozenset(value)


def _as_triggers(value: Sequence[Trigger]) -> tuple[Trigger, ...]:
    return tuple(value) if isinstance(value, list) else cast("Any", value)


def _sources_are_streams(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, frozenset):
        raise wrong(instance, attribute.name, "a set of names, such as {'orders'}", value)
    names = cast("frozenset[object]", value)
    if len(names) > 100:
        raise SettingsError(f"Settings.sources wants at most 100 names, got {len(names)}")
    for name in names:
        if not isinstance(name, str) or not SOURCE.fullmatch(name):
            raise wrong(instance, attribute.name, f"names of {SOURCE_IN_WORDS}, or a Source", name)


def _all_in(value: object, test: Callable[[object], bool]) -> bool:
    return isinstance(value, tuple) and all(test(element) for element in cast("tuple[object, ...]", value))


def _triggers_differ(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value == ():
        return
    from actorwork.policy.trigger import Trigger  # noqa: PLC0415 - few actors have one

    if not _all_in(value, lambda trigger: isinstance(trigger, Trigger)):
        raise wrong(instance, attribute.name, "a list of Trigger", value)
    titles = [trigger.title for trigger in cast("tuple[Trigger, ...]", value)]
    for title in titles:
        if titles.count(title) > 1:
            raise SettingsError(f"Settings.triggers wants unique titles, got {title!r} {titles.count(title)} times")


def _ends_before_the_hard_limit(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    SOFT_BOUNDS(instance, attribute, value)
    if isinstance(value, (int, float)) and value >= instance.execution_timeout:
        raise SettingsError(
            f"Settings.soft_timeout wants less than execution_timeout ({instance.execution_timeout:g} s), after which"
            f" the handler is cancelled anyway, got {value:g}"
        )


SOFT_BOUNDS: Final = seconds(0.01, 86_400, optional=True)
"""What a `soft_timeout` may be, whatever the `execution_timeout` is."""


def _are_limits(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value == ():
        return
    from actorwork.policy.limits import LIMITS  # noqa: PLC0415 - few actors need them

    if not _all_in(value, lambda limit: isinstance(limit, LIMITS)):
        raise wrong(instance, attribute.name, f"a list of {', '.join(kind.__name__ for kind in LIMITS)}", value)


def _is_async(value: object) -> bool:
    return inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__)


def _are_hooks(instance: Settings, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    is_divided = isinstance(value, Mapping)
    by_source: Mapping[object, object] = cast("Mapping[object, object]", value) if is_divided else {}
    hooks = list(by_source.values()) if is_divided else [value]
    if not all(takes(hook, 1) and not _is_async(hook) for hook in hooks):
        wanted = "a callable that takes the fields of an entry (not async), or a mapping of sources to such callables"
        raise wrong(instance, attribute.name, wanted, value)
    for source in by_source:
        if source not in instance.all_sources:
            raise wrong(instance, attribute.name, f"sources of the actor, {', '.join(instance.all_sources)}", source)


@attrs.define(frozen=True, kw_only=True, slots=False, eq=False, repr=False)
class Settings(Shown):
    """What an actor declares about itself.

    `title` must be unique in a tree: the identity is derived from it. `sources` are the streams the actor reads besides
    its own: names, or `Source(name, shards=…)` for one that is divided. Times are durations: seconds, a `timedelta`, or
    text such as "30s". `limits` hold deliveries back until they may begin. `middleware` wraps the handling of each
    delivery, first one outermost; `publish_middleware` processes what the actor publishes. `on_failure` overrides what
    an error does: by default a failing delivery fails the message ("resume"), and a failing local call crashes the
    actor ("restart"). Once `max_crashes` processes have died while a message was in flight, it is a dead letter and
    does not run again; from 2 on, its last run before that is one alone, so that only the guilty one gets there. A
    result whose JSON has more than `max_result_bytes` (16 MiB; up to 512 MiB, which is what Redis takes) fails its
    message: it is for values, not for files. With `loop="asyncio"` its async handlers and hooks run on an asyncio loop,
    in a thread of the actor's own. `decode` reads entries that other programs have written to Redis in a format of
    their own (`policy/decoding`): a callable that is not async, or one for each source. What it cannot read becomes a
    dead letter. `entities` is for an `Entity` only.
    """

    title: str = attrs.field(validator=text(1, 300))
    description: str = attrs.field(default="", validator=text(0, 1000))
    sources: frozenset[str] = attrs.field(factory=frozenset[str], converter=_as_set, validator=_sources_are_streams)
    execution_timeout: float = attrs.field(default=180.0, converter=as_seconds, validator=seconds(0.1, 86_400))
    soft_timeout: float | None = attrs.field(default=None, converter=as_seconds, validator=_ends_before_the_hard_limit)
    concurrency: int = attrs.field(default=1, validator=whole(1, 100_000))
    status_check_interval: float = attrs.field(default=60.0, converter=as_seconds, validator=seconds(0.1, 3600))
    status_cache_ttl: float | None = attrs.field(default=5.0, converter=as_seconds, validator=seconds(0, optional=True))
    event_settings: EventSettings = attrs.field(
        factory=EventSettings, validator=instance_of(EventSettings, "an EventSettings")
    )
    triggers: tuple[Trigger, ...] = attrs.field(default=(), converter=_as_triggers, validator=_triggers_differ)
    retry: RetryPolicy = attrs.field(
        factory=DefaultRetryPolicy, validator=instance_of(RetryPolicy, "a RetryPolicy, such as RetryPolicy(attempts=5)")
    )
    limits: tuple[Limit, ...] = attrs.field(default=(), converter=as_tuple, validator=_are_limits)
    middleware: tuple[Any, ...] = attrs.field(
        default=(), converter=as_tuple, validator=callables("delivery", "proceed")
    )
    publish_middleware: tuple[Any, ...] = attrs.field(default=(), converter=as_tuple, validator=callables("envelope"))
    priority: Priority = attrs.field(default=Priority.NORMAL, validator=instance_of(Priority, "a Priority"))
    results_ttl: float = attrs.field(default=86_400.0, converter=as_seconds, validator=seconds(1, 31_536_000))
    max_result_bytes: int = attrs.field(default=16_777_216, validator=whole(1, 536_870_912))
    mailbox: MailboxSettings = attrs.field(
        factory=MailboxSettings, validator=instance_of(MailboxSettings, "a MailboxSettings")
    )
    dead_letters: DeadLetterSettings = attrs.field(
        factory=DeadLetterSettings, validator=instance_of(DeadLetterSettings, "a DeadLetterSettings")
    )
    entities: Entities | None = attrs.field(
        default=None, validator=instance_of((Entities, type(None)), "an Entities, or None")
    )
    on_failure: OnFailure | None = attrs.field(default=None, validator=one_of(ON_FAILURES, optional=True))
    max_crashes: int = attrs.field(default=3, validator=whole(0, 1_000_000))
    loop: EventLoop = attrs.field(default="trio", validator=one_of(EVENT_LOOPS))
    decode: DecodeHook | Mapping[str, DecodeHook] | None = attrs.field(default=None, validator=_are_hooks)

    @cached_property
    def id(self) -> str:
        return identity(self.title)

    @cached_property
    def default_source(self) -> str:
        return default_source(self.id)

    @cached_property
    def decoders(self) -> Mapping[str, Decoder]:
        """What reads foreign entries with the hooks of `decode`, by source."""
        hooks = self.decode
        if hooks is None:
            return {}
        from actorwork.policy.decoding import decoder_of  # noqa: PLC0415 - few actors need it

        if callable(hooks):
            hooks = dict.fromkeys(self.all_sources, hooks)
        return {source: decoder_of(hook) for source, hook in hooks.items()}

    @cached_property
    def all_sources(self) -> tuple[str, ...]:
        """The names of the declared sources and of the actor's own, sorted."""
        return tuple(sorted({*map(str, self.sources), self.default_source}))

    @cached_property
    def shards(self) -> Mapping[str, int]:
        """The sources that are declared with a number of shards, with that number."""
        return {str(name): name.shards for name in self.sources if isinstance(name, Source) and name.shards is not None}
