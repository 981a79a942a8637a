"""How a value is written, and what it may be.

A kind reads a value of a file (`kind(value)`) and text of a variable or a flag (`kind.parsed(text)`); both raise
`Unfit`, which says what was wanted. Files are read strictly: "8" is no number. Text has no types, so it is read as what
is wanted.

    like       as a field of another class: its converter and its bounds
    word       one of a few words
    names      a list of names; in text with commas
    flag       true or false
    address    where a server listens
    levels     a level of the logs, and levels of loggers
    broker     the url of a broker, which may hold a password
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, cast

import attrs

from actorwork.actors.tree.checks import as_bytes
from actorwork.brokers import is_file, is_redis
from actorwork.errors import SettingsError
from actorwork.inspection.words import duration
from actorwork.policy.bounds import FINITE, Validator, bounds_of, is_number, is_whole
from actorwork.streams.transport.urls import FORM, without_password
from actorwork.telemetry.configuring import levels_of

UNITS: Final = "(ms|s|m|h|d)"
DURATION: Final = rf"^(inf|(\d+(\.\d+)?{UNITS})+)$"
SIZE: Final = r"^\d+(\.\d+)?\s*([kKmMgGtT]?[iI]?[bB])?$"
PERCENTAGE: Final = r"^\d+(\.\d+)?\s*%$"
_LEVEL: Final = r"\s*([^=,\s]+\s*=\s*)?(DEBUG|INFO|WARNING|ERROR|CRITICAL|\d+)\s*"
LEVELS: Final = rf"^{_LEVEL}(,{_LEVEL})*$"
PORT: Final = r"[0-9]{1,5}"
MOST_PORTS: Final = 65_535
NONE: Final = "none"
"""What stands for None in a file of TOML and in text, where None cannot be written."""


class Unfit(ValueError):
    """A value is not what a setting wants; the text says what it wants."""


Form = Literal["whole", "number", "duration", "size", "share", "word", "names", "flag", "text", "address", "levels"]


@attrs.frozen(eq=False)
class Kind:
    """How the value of one setting is written.

    Called with a value of a file, as typed-settings calls a converter, it returns the value that the program takes, or
    raises `Unfit`.
    """

    form: Form
    help: str
    check: Callable[[object], object]
    """Converts a value of the right form, and checks its bounds; raises `Unfit`."""
    wanted: str
    default: object = None
    words: Sequence[str] = ()
    is_optional: bool = False
    is_secret: bool = False
    bounds: tuple[float, float] | None = None

    def __call__(self, value: object) -> object:
        if self.is_optional and (value is None or value == NONE):
            return None
        if not _FORMS[self.form](value):
            raise Unfit(self.wanted)
        return self.check(value)

    def parsed(self, text: str) -> object:
        """Return the value of a text that has no types of its own, such as a variable."""
        return self(text if self.is_optional and text == NONE else self._read(text.strip()))

    def _read(self, text: str) -> object:
        match self.form:
            case "names":
                return [name.strip() for name in text.split(",") if name.strip()]
            case "flag":
                return _SWITCHES.get(text.lower(), text)
            case "whole" | "number" | "share" | "size":
                try:
                    found = json.loads(text)
                except ValueError:
                    return text
                return found if is_number(found) else text
            case _:
                return text

    def shown(self, value: object) -> str:
        """Return a value as an operator would write it, without what is secret in it."""
        match value:
            case None:
                return NONE
            case bool():
                return "true" if value else "false"
            case int() | float():
                return duration(value) if self.form == "duration" and value < math.inf else f"{value:.10g}"
            case tuple() | list() | set() | frozenset():
                return ", ".join(map(str, sorted(cast("Iterable[str]", value))))
            case _:
                return without_password(str(value)) if self.is_secret else str(value)

    @property
    def schema(self) -> dict[str, Any]:
        """Return this kind as JSON Schema."""
        schema: dict[str, Any] = {"description": f"{self.help} Wanted: {self.wanted}."}
        numbers: dict[str, Any] = {"type": "integer" if self.form in ("whole", "size") else "number"}
        if self.bounds is not None:
            low, high = self.bounds
            numbers |= {"minimum": low} | ({"maximum": high} if high < FINITE else {})
        patterns = {"duration": DURATION, "size": SIZE, "share": PERCENTAGE}
        choices: list[dict[str, Any]]
        match self.form:
            case "whole" | "number":
                choices = [numbers]
            case "duration" | "size" | "share":
                choices = [numbers, {"type": "string", "pattern": patterns[self.form]}]
            case "word":
                choices = [{"enum": list(self.words)}]
            case "names":
                choices = [{"type": "array", "items": {"type": "string"}}]
            case "flag":
                choices = [{"type": "boolean"}]
            case "text":
                choices = [{"type": "string", "minLength": 1}]
            case "address":
                choices = [{"type": "string", "pattern": f"^(.*:)?{PORT}$"}]
            case "levels":
                choices = [{"type": "string", "pattern": LEVELS}]
        if self.is_optional:
            choices += [{"type": "null"}, {"const": NONE}]
        return schema | (choices[0] if len(choices) == 1 else {"anyOf": choices})


_SWITCHES: Final[Mapping[str, bool]] = {"true": True, "false": False, "1": True, "0": False, "on": True, "off": False}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_names(value: object) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    return all(_is_text(name) for name in cast("Sequence[object]", value))


_FORMS: Final[Mapping[Form, Callable[[object], bool]]] = {
    "whole": is_whole,
    "number": is_number,
    "duration": lambda value: is_number(value) or isinstance(value, str),
    "size": lambda value: is_whole(value) or isinstance(value, str),
    "share": lambda value: is_number(value) or isinstance(value, str),
    "word": lambda value: isinstance(value, str),
    "names": _is_names,
    "flag": lambda value: isinstance(value, bool),
    "text": _is_text,
    "address": _is_text,
    "levels": _is_text,
}
"""Whether a value has the form that a kind reads; its bounds come after that."""


class _Argument:
    """Stands for the object that a validator checks, so that its error names no class."""

    fields_are_arguments: ClassVar = True


def like(
    owner: Any,
    name: str,
    form: Form,
    help: str,
    *,
    words: Sequence[str] = (),
    validator: Validator | None = None,
    wanted: str | None = None,
) -> Kind:
    """Return the kind of a field of another class: what it wants is decided there alone.

    A `validator` takes the place of one that compares the field with others, which is checked when all are known;
    `wanted` are words that fit a file better than those for Python.
    """
    field: attrs.Attribute[Any] = attrs.fields_dict(owner)[name]
    validate = cast("Validator", validator or field.validator)
    convert = cast("Callable[[object], object] | None", field.converter)  # pyright: ignore[reportUnknownMemberType]

    def check(value: object) -> object:
        converted = _fraction(value) if form == "share" else as_bytes(value) if form == "size" else value
        if convert is not None:
            converted = convert(converted)
        try:
            validate(_Argument(), field, converted)
        except SettingsError as error:
            # Text that is a duration has become a number.
            units = "; text wants units" if form == "duration" and isinstance(converted, str) else ""
            raise Unfit(f"{wanted or _wanted_of(error)}{units}") from None
        return converted

    default = None if field.default is attrs.NOTHING or isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
    return Kind(
        form,
        help,
        check,
        wanted or _wanted(validate, field, form),
        default=default,
        words=words,
        is_optional=_accepts_none(validate, field),
        bounds=bounds_of(validate),
    )


def word(help: str, *words: str, default: str | None = None) -> Kind:
    def check(value: object) -> object:
        if value not in words:
            raise Unfit(wanted)
        return value

    wanted = ", ".join(map(repr, words[:-1])) + f" or {words[-1]!r}"
    return Kind("word", help, check, wanted, default=default, words=words)


def names(help: str) -> Kind:
    return Kind("names", help, lambda value: tuple(cast("Sequence[str]", value)), "a list of names")


def flag(help: str, *, default: bool | None = False) -> Kind:
    return Kind("flag", help, lambda value: value, "true or false", default=default)


def address(help: str, *, needs_host: bool) -> Kind:
    def check(value: object) -> object:
        host, colon, port = str(value).rpartition(":")
        is_host = bool(host) or not needs_host
        if not (is_host and (colon or not needs_host) and re.fullmatch(PORT, port) and int(port) <= MOST_PORTS):
            raise Unfit(wanted)
        return value

    wanted = "HOST:PORT, such as '127.0.0.1:8080'"
    return Kind("address", help, check, wanted)


def broker(help: str) -> Kind:
    def check(value: object) -> object:
        url = str(value).strip()
        if not (is_redis(url) or is_file(url)):
            raise Unfit(wanted)
        return url

    wanted = f"{FORM}, or sqlite:///path/to/file"
    return Kind("text", help, check, wanted, is_secret=True)


def levels(help: str) -> Kind:
    def check(value: object) -> object:
        try:
            levels_of(value)
        except SettingsError:
            raise Unfit(wanted) from None
        return value

    wanted = "'DEBUG', 'INFO', 'WARNING' or 'ERROR', perhaps with levels of loggers: 'INFO,actorwork.streams=DEBUG'"
    return Kind("levels", help, check, wanted, default="INFO")


def _fraction(value: object) -> object:
    """Return "50%" as 0.5; anything else unchanged, for a validator to refuse."""
    if isinstance(value, str) and re.match(PERCENTAGE, value.strip()):
        return float(value.strip().removesuffix("%")) / 100
    return value


_IN_WORDS: Final[Mapping[str, str]] = {
    "size": ', or a size such as "512MB" or "1.5GiB"',
    "duration": ', such as "250ms", "30s" or "1h30m"',
    "share": ', or a percentage such as "50%"',
}


def _wanted_of(error: SettingsError) -> str:
    text = str(error).partition(" wants ")[2].rpartition(", got ")[0]
    return text.removesuffix(" None") + f" {NONE!r}" if text.endswith(" None") else text


def _wanted(validate: Validator, field: attrs.Attribute[Any], form: Form) -> str:
    """Return what a validator wants, in its own words: it refuses something that nothing wants."""
    try:
        validate(_Argument(), field, _Argument())
    except SettingsError as error:
        wanted, more = _wanted_of(error), _IN_WORDS.get(form, "")
        return wanted if "such as" in wanted else f"{wanted}{more}"
    raise AssertionError(f"{field.name} is not checked")


def _accepts_none(validate: Validator, field: attrs.Attribute[Any]) -> bool:
    try:
        validate(_Argument(), field, None)
    except SettingsError:
        return False
    return True
