"""Validators and converters that only descriptions of a tree need; the general ones are in `policy/bounds`."""

from __future__ import annotations

import math
import re
from typing import Any, Final, get_args

import attrs

from actorwork.errors import SettingsError
from actorwork.policy.bounds import Validator, instance_of, is_number, is_whole, one_of, wrong
from actorwork.policy.exits import Restart
from actorwork.policy.restart import Intensity

restart: Final[Validator] = one_of(get_args(Restart))
intensity: Final[Validator] = instance_of(Intensity, "Intensity(…)")

_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}


def backoff(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    from actorwork.policy.backoffs import Backoff  # noqa: PLC0415 - few trees have one

    if not isinstance(value, Backoff):
        raise wrong(instance, attribute.name, "Backoff(…), or None", value)


def shutdown(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value != "brutal_kill" and not (is_number(value) and 0 <= value <= math.inf):
        raise wrong(instance, attribute.name, "seconds >= 0, inf or 'brutal_kill'", value)


def hashable(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    try:
        hash(value)
    except TypeError:
        raise wrong(instance, attribute.name, "something hashable", value) from None


def significant(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise wrong(instance, attribute.name, "True or False", value)
    if value and getattr(instance, "restart", None) == "permanent":
        raise SettingsError(
            f"{type(instance).__name__}: a significant child must end for good some day, so it cannot be permanent"
        )


def replicas(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if is_whole(value) and value >= 1:
        return
    from actorwork.policy.scaling import Scale  # noqa: PLC0415 - few trees need it

    if not isinstance(value, Scale):
        raise wrong(instance, attribute.name, "a whole number >= 1, or Scale(…) to follow the load", value)


def memory(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not (is_whole(value) and value >= 1):
        raise wrong(instance, attribute.name, 'a whole number >= 1, or a size such as "512MB" or "1.5GiB"', value)


def as_bytes(value: Any) -> Any:
    """Convert "512MB" to bytes; return anything else unchanged, for the validator to refuse."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip()) if isinstance(value, str) else None
    if found is None or found[2].lower() not in _UNITS:
        return value
    return int(float(found[1]) * _UNITS[found[2].lower()])
