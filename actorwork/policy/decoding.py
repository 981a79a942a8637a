"""Messages of other formats: how a hook of the user's reads the fields of a foreign stream entry.

    the hook returns                what the actor gets
    (type, data, headers)           a message of that type (None: of none), its JSON (bytes) or a value, and headers
    anything else                   that message: a dict of arguments, an attrs class, a model, …
    raises `Reject`                 nothing: the entry is acknowledged and dropped
    raises anything else            nothing: the entry becomes a dead letter, with its fields as they were

The delivery that reports such a dead letter to its actor (its hook `failed`) has the same fields. If they cannot be
read then either, it comes with the fields themselves.

The hook runs in the task that reads, for each entry once per attempt: it converts, and does not wait.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, TypeAlias, cast

import attrs

from actorwork import codec, errors
from actorwork.message import FAILED, NO_HEADERS, Delivery, Failure, Json
from actorwork.policy.settlement import Fail, Reject, failure_of

DecodeHook: TypeAlias = Callable[[Mapping[bytes, bytes]], object]
Decoder: TypeAlias = Callable[[Delivery], Delivery | Fail | Reject]

_OURS: Final = "actorwork-"


def decoder_of(hook: DecodeHook) -> Decoder:
    """Return what reads foreign deliveries by a hook."""
    return partial(decoded, hook=hook)


def decoded(delivery: Delivery, hook: DecodeHook) -> Delivery | Fail | Reject:
    """Return a foreign delivery as a hook reads it, or how it ends if the hook cannot. Only an interrupt is raised."""
    try:
        kind, data, headers = _read(hook(cast("Mapping[bytes, bytes]", delivery.payload)))
    except KeyboardInterrupt:
        raise
    except errors.Reject as rejection:
        return Reject(failure_of(rejection))
    except BaseException as error:  # noqa: BLE001 - a hook is the user's; even its SystemExit must not end the reader
        return delivery if FAILED in delivery.headers else Fail(_failure_of(error, hook))
    # Those of the runtime come last: it has added its own for a second attempt.
    return attrs.evolve(delivery, payload=data, type=kind, headers={**headers, **delivery.headers})


def _failure_of(error: BaseException, hook: DecodeHook) -> Failure:
    failure = failure_of(error)
    if isinstance(error, errors.Verdict):
        return failure  # Its reason is the hook's own words.
    name = getattr(hook, "__name__", type(hook).__name__)
    return attrs.evolve(failure, reason=f"the decode hook {name} cannot read the entry: {failure.reason}")


def _read(found: object) -> tuple[str | None, bytes, Mapping[str, Json]]:
    if found is None:
        raise TypeError("a decode hook returns a message or (type, data, headers); it returned None")
    if inspect.isawaitable(found):
        if isinstance(found, Coroutine):
            found.close()
        raise TypeError("a decode hook is not async: it returns a message or (type, data, headers), got an awaitable")
    if not isinstance(found, tuple):
        data, kind = codec.encode(found)
        return kind, data, NO_HEADERS
    parts = cast("tuple[Any, ...]", found)
    if len(parts) != 3:
        raise TypeError(f"a decode hook returns a message or (type, data, headers), got a tuple of {len(parts)}")
    kind, data, headers = parts
    if kind is not None and not isinstance(kind, str):
        raise TypeError(f"(type, data, headers) of a decode hook wants a str or None as type, got {kind!r:.100}")
    headers = NO_HEADERS if headers is None else headers
    if not isinstance(headers, Mapping):
        raise TypeError(f"(type, data, headers) of a decode hook wants a mapping of headers, got {headers!r:.100}")
    named = cast("Mapping[Any, Any]", headers)
    for name in named:
        if not isinstance(name, str) or name.startswith(_OURS):
            raise TypeError(f"headers of a decode hook have names that do not begin with {_OURS!r}, got {name!r:.100}")
    # As JSON, which is what a retry stores, so that every attempt has the same ones.
    plain = cast("dict[str, Json]", codec.loads(codec.encode_value(dict(named)))) if named else NO_HEADERS
    return kind, data if isinstance(data, bytes) else codec.encode_value(data), plain
