"""Where settings come from, each source as a layer: files of TOML, JSON and YAML, variables, flags.

A layer holds values as they are written, and knows the place of each, for errors and for `config show`. What a file
has that is no setting is refused here, and so is what YAML reads in another way than people do:

    on, off, yes, no    booleans
    1:30                90
    *                   the beginning of an alias
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import attrs
from typed_settings.cls_utils import deep_options
from typed_settings.exceptions import TsError
from typed_settings.loaders import EnvLoader, JsonFormat, TomlFormat
from typed_settings.types import LoaderMeta, OptionInfo

from actorwork.errors import MissingExtra
from actorwork.runtime.configuration.fields import TABLES, ProgramFields
from actorwork.runtime.configuration.kinds import Kind
from actorwork.runtime.configuration.problems import Problems, as_written, suggestion

PREFIX: Final = "ACTORWORK_"
NESTED: Final = "__"
FILE: Final = "_FILE"
"""A variable with this ending names the file that holds a secret."""

Values: TypeAlias = "dict[str, Any]"
Path_: TypeAlias = "tuple[str, ...]"


class Text(str):
    """A value without a type of its own: of a variable, or of a flag."""

    __slots__ = ()


class VariableName(str):
    """The name of an actor, a process or a limit as a variable has it: SEND_MAIL for 'send mail'."""

    __slots__ = ()


def variable_name(name: str) -> VariableName:
    """Return how the name of an actor is written in a variable."""
    return VariableName(re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_"))


def is_same(name: str, actual: str) -> bool:
    """Whether a configuration's name is that of a part of a tree."""
    return variable_name(actual) == name if isinstance(name, VariableName) else name == actual


@attrs.frozen
class Mark:
    """The place of a value in a file of YAML, and what YAML has made of it, if that surprises."""

    line: int
    trap: str = ""


@attrs.frozen(eq=False)
class Layer:
    """What one source says. `tables` are by the table and the name, such as "actors" and the actor's title."""

    origin: str
    program: Values = attrs.field(factory=dict[str, Any])
    tables: Mapping[str, dict[str, Values]] = attrs.field(factory=lambda: {name: {} for name in TABLES})
    directory: Path = attrs.field(factory=Path.cwd)
    marks: Mapping[Path_, Mark] = attrs.field(factory=dict[Path_, Mark])

    def place(self, path: Sequence[str]) -> str:
        """Return where a value stands: the file, with the line where that is known, the variable or the flag."""
        mark = self.marks.get(tuple(path))
        return self.origin if mark is None else f"{self.origin}:{mark.line}"

    def trap(self, path: Sequence[str]) -> str:
        mark = self.marks.get(tuple(path))
        return "" if mark is None else mark.trap


class Origin(LoaderMeta):
    """The layer of a value, as typed-settings hands it on."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.origin, layer.directory)
        self.layer = layer


@cache
def options_of(fields: type) -> Mapping[str, OptionInfo]:
    """Return the settings of a class of fields, by their dotted paths."""
    return {option.path: option for option in deep_options(fields)}


def kind_of(option: OptionInfo) -> Kind:
    return cast("Kind", option.converter)


def written(path: Iterable[str]) -> str:
    """Return a path as TOML writes it: `actors."send mail".concurrency`."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in path)


# ---- files ----


def of_file(path: Path, problems: Problems) -> Layer:
    """Read a file; what is wrong with it goes to `problems`. Raises `MissingExtra` for YAML without PyYAML."""
    origin = str(path)
    if path.suffix.lower() not in _FORMATS:
        problems.add(origin, f"the name of a configuration ends in {', '.join(_FORMATS)}")
        return Layer(origin)
    marks: dict[Path_, Mark] = {}
    form = _FORMATS[path.suffix.lower()]
    try:
        values: object = _READERS[form](path)
        if form == "YAML":
            marks = _marks_of(path, origin, problems)
    except RecursionError:
        problems.add(origin, f"is no {form} that can be read: it is nested too deeply")
        return Layer(origin)
    except (TsError, OSError, ValueError) as error:
        problems.add(origin, _why_unread(path, form, error))
        return Layer(origin)
    layer = Layer(origin, directory=path.parent, marks=marks)
    if values is None:
        return layer  # An empty file of YAML.
    if not isinstance(values, Mapping):
        problems.add(origin, f"wants a table of settings, got {as_written(values)}")
        return layer
    _Sorter(layer, problems).sort(cast("Mapping[object, object]", values))
    return layer


def _read_yaml(path: Path) -> object:
    try:
        from typed_settings.loaders import YamlFormat  # noqa: PLC0415 - only YAML needs PyYAML

        read = YamlFormat(None)
    except ModuleNotFoundError:
        raise MissingExtra(
            f"{path}: YAML needs PyYAML, from the extra 'yaml': pip install \"actorwork[yaml]\""
        ) from None
    return read(path, ProgramFields, ())


def _read_json(path: Path) -> object:
    found = JsonFormat(None)(path, ProgramFields, ())
    # Once more, since JSON allows what can only be a mistake: the last one of two values would be taken.
    json.loads(path.read_bytes(), object_pairs_hook=_once_each)
    return found


def _once_each(pairs: Sequence[tuple[str, object]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise ValueError(f"{name!r} is there twice")
        names.add(name)


_FORMATS: Final[Mapping[str, str]] = {".toml": "TOML", ".json": "JSON", ".yaml": "YAML", ".yml": "YAML"}
_READERS: Final[Mapping[str, Callable[[Path], object]]] = {
    "TOML": lambda path: TomlFormat(None)(path, ProgramFields, ()),
    "JSON": _read_json,
    "YAML": _read_yaml,
}


def _why_unread(path: Path, form: str, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            begins_with_mark = file.read(len(BOM_UTF8)) == BOM_UTF8
    except OSError as unread:
        return unread.strerror or str(unread)
    if begins_with_mark:
        return f"is no {form}: it begins with a byte order mark: save it as UTF-8 without one"
    return f"is no {form}: {_explained(str(error))}"


def _explained(text: str) -> str:
    text = " ".join(text.split())
    if "alias" in text:
        text += "; YAML takes what begins with * for an alias: quote it"
    return text


class _Sorter:
    """Sorts the values of a file into its layer, and refuses what is no setting."""

    def __init__(self, layer: Layer, problems: Problems) -> None:
        self._layer = layer
        self._problems = problems

    def sort(self, values: Mapping[object, object]) -> None:
        program = {key: value for key, value in values.items() if key not in TABLES and key != "$schema"}
        self._fill(self._layer.program, program, options_of(ProgramFields), (), ())
        for table, fields in TABLES.items():
            if table in values:
                self._sort_table(table, values[table], options_of(fields))

    def _sort_table(self, table: str, values: object, options: Mapping[str, OptionInfo]) -> None:
        for name, value in self._items(values, (table,), f"a table for each of the {table}").items():
            if not isinstance(name, str):
                self._refuse_key((table,), name)
                continue
            inner = self._items(value, (table, name), "a table of settings")
            self._fill(self._layer.tables[table].setdefault(name, {}), inner, options, (table, name), ())

    def _items(self, values: object, path: Path_, wanted: str) -> Mapping[object, object]:
        if isinstance(values, Mapping):
            return cast("Mapping[object, object]", values)
        self._problems.add(
            self._layer.place(path), f"{written(path)} wants {wanted}, got {as_written(values)}{self._layer.trap(path)}"
        )
        return {}

    def _fill(
        self, into: Values, values: Mapping[object, object], options: Mapping[str, OptionInfo], top: Path_, above: Path_
    ) -> None:
        known = {path.split(".")[len(above)] for path in options if path.split(".")[: len(above)] == list(above)}
        for key, value in values.items():
            if not isinstance(key, str):
                self._refuse_key((*top, *above), key)
                continue
            path = (*above, key)
            if key not in known:
                tables = () if top or above else tuple(TABLES)
                hint = suggestion(key, (*known, *tables))
                place = self._layer.place((*top, *path))
                self._problems.add(place, f"there is no setting {written((*top, *path))}{hint}")
            elif ".".join(path) in options:
                into[key] = value
            else:
                inner = self._items(value, (*top, *path), "a table of settings")
                self._fill(into.setdefault(key, {}), inner, options, top, path)

    def _refuse_key(self, above: Path_, key: object) -> None:
        path = (*above, str(key))
        hint = self._layer.trap(path)
        self._problems.add(self._layer.place(path), f"{written(path)}: a key wants to be text, got {key!r}{hint}")


_WORDS: Final = {"on": "true", "off": "false", "yes": "true", "no": "false", "y": "true", "n": "false"}


def _marks_of(path: Path, origin: str, problems: Problems) -> dict[Path_, Mark]:
    """Return the line of each value of a file of YAML, and what may surprise in it."""
    import yaml  # noqa: PLC0415 - only YAML needs PyYAML

    marks: dict[Path_, Mark] = {}
    looked_at: set[int] = set()

    def look(node: Any, above: Path_) -> None:
        # Once at each: an alias may stand for a table in many places, also in itself.
        if isinstance(node, yaml.MappingNode) and id(node) not in looked_at:
            looked_at.add(id(node))
            seen: set[str] = set()
            for key, value in cast("list[tuple[Any, Any]]", node.value):
                if not isinstance(key, yaml.ScalarNode):
                    continue
                # A key that is no text, such as on, is known by what YAML has made of it.
                name = str(yaml.safe_load(key.value)) if key.tag.endswith(":bool") else str(key.value)
                here = (*above, name)
                line = key.start_mark.line + 1
                if name in seen:
                    problems.add(f"{origin}:{line}", f"{written(here)} is there twice")
                seen.add(name)
                trap = _trap_of(key) or (_trap_of(value) if isinstance(value, yaml.ScalarNode) else "")
                marks[here] = Mark(line, trap)
                if isinstance(value, yaml.ScalarNode) and _is_sexagesimal(value):
                    problems.add(f"{origin}:{line}", f"{written(here)} is {value.value}{_trap_of(value)}")
                look(value, here)

    with path.open("rb") as file:
        look(cast("Any", yaml).compose(file, yaml.SafeLoader), ())
    return marks


def _is_sexagesimal(node: Any) -> bool:
    return node.tag.endswith((":int", ":float")) and ":" in node.value


def _trap_of(node: Any) -> str:
    if _is_sexagesimal(node):
        return ", which YAML reads as a number to the base of 60: write a duration such as '90s', or quote it"
    if node.tag.endswith(":bool") and node.value.lower() in _WORDS:
        return f"; YAML reads {node.value} as {_WORDS[node.value.lower()]}: quote it"
    if node.tag.endswith(":timestamp"):
        return f"; YAML reads {node.value} as a date: quote it"
    if node.tag.endswith(":null"):
        return "; YAML reads nothing and ~ as null"
    return ""


# ---- variables ----


def of_environment(environment: Mapping[str, str], problems: Problems) -> list[Layer]:
    """Return a layer for each variable that is a setting."""
    layers: list[Layer] = []
    program = options_of(ProgramFields)
    for variable, option in variables_of(program).items():
        text = _text_of(variable, kind_of(option), environment, problems)
        if text is not None:
            layers.append(_layer_of(text[1], None, "", option.path, text[0]))
    fields = {table.upper(): table for table in TABLES}
    for variable in sorted(environment):
        table, _, rest = variable.removeprefix(PREFIX).partition(NESTED)
        if not variable.startswith(PREFIX) or not rest:
            continue
        if table in fields:
            layers += _of_table(variable, fields[table], rest, environment, problems)
        elif variable.removesuffix(FILE) not in variables_of(program) and variable not in variables_of(program):
            hint = suggestion(variable, [*variables_of(program), *(f"{PREFIX}{name}__…" for name in fields)])
            problems.add("", f"there is no setting for the variable {variable}{hint}")
    return layers


def variables_of(options: Mapping[str, OptionInfo]) -> Mapping[str, OptionInfo]:
    """Return the settings by the names of their variables."""
    name_of = EnvLoader(PREFIX, NESTED).get_envvar
    return {name_of(option): option for option in options.values()}


def _of_table(
    variable: str, table: str, rest: str, environment: Mapping[str, str], problems: Problems
) -> Iterable[Layer]:
    name, *path = rest.split(NESTED)
    options = options_of(TABLES[table])
    option = options.get(".".join(path).lower())
    if not name or option is None:
        known = [f"{PREFIX}{table.upper()}__{name}__{one.upper().replace('.', NESTED)}" for one in options]
        problems.add("", f"there is no setting for the variable {variable}{suggestion(variable, known)}")
    elif environment[variable].strip():
        yield _layer_of(variable, table, VariableName(name), option.path, environment[variable])


def _text_of(variable: str, kind: Kind, environment: Mapping[str, str], problems: Problems) -> tuple[str, str] | None:
    """Return the text of a variable, or of the file that it names, and its name; None if it is not set."""
    text = environment.get(variable, "").strip()
    file = environment.get(f"{variable}{FILE}", "").strip() if kind.is_secret else ""
    if text and file:
        problems.add("", f"{variable} and {variable}{FILE} are both set: one of them is enough")
    if file and not text:
        try:
            return Path(file).read_text(encoding="utf-8").strip(), f"{variable}{FILE}"
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            problems.add(f"{variable}{FILE}", f"{file}: {reason}")
            return None
    return (text, variable) if text else None


def _layer_of(origin: str, table: str | None, name: str, path: str, value: object) -> Layer:
    """Return a layer with a single value."""
    layer = Layer(origin)
    values = layer.program if table is None else layer.tables[table].setdefault(name, {})
    *above, last = path.split(".")
    for part in above:
        values = values.setdefault(part, {})
    values[last] = Text(value) if isinstance(value, str) else value
    return layer


def of_flag(flag: str, path: str, value: object, *, table: str | None = None, name: str = "") -> Layer:
    """Return the layer of a flag: `flag` is how the user wrote it, `path` the setting, in a table that of a `name`."""
    return _layer_of(flag, table, name, path, value)
