"""An older program keeps what a newer one has written, wherever it stands in a state."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from actorwork.actors.entities.unknown import join, split
from actorwork.codec import encode_as, loads, structure


@attrs.define
class Line:
    name: str = ""
    count: int = 0


@attrs.define
class Cart:
    owner: Line = attrs.field(factory=Line)
    lines: list[Line] = attrs.field(factory=list[Line])
    by_name: dict[str, Line] = attrs.field(factory=dict[str, Line])
    last: Line | None = None
    note: dict[str, Any] = attrs.field(factory=dict[str, Any])


def line(name: str, count: int = 0, **new: Any) -> dict[str, Any]:
    return {"name": name, "count": count, **new}


STORED: Any = {
    "owner": line("o", new=1),
    "lines": [line("a", new=2), line("b"), line("c", new={"x": [3]})],
    "by_name": {"k": line("k", new=4), "l": line("l")},
    "last": line("z", new=5),
    "note": {"anything": 6},
    "added": [7],
}


def changed(change: Callable[[Cart], object]) -> Any:
    known, rest = split(STORED, Cart)
    cart = structure(known, Cart)
    change(cart)
    return join(loads(encode_as(cart, Cart)), rest)


def test_a_state_that_is_written_back_is_what_it_was():
    assert changed(repr) == STORED


def test_what_is_known_entirely_has_no_rest():
    known, rest = split({"owner": line("o"), "lines": [line("a")]}, Cart)
    assert (known, rest) == ({"owner": line("o"), "lines": [line("a")]}, None)


def test_fields_are_kept_while_others_of_the_same_object_change():
    def change(cart: Cart) -> None:
        cart.owner.count, cart.lines[2].count, cart.by_name["k"].count = 10, 30, 40

    got = changed(change)
    assert got["owner"] == line("o", 10, new=1)
    assert got["lines"] == [line("a", new=2), line("b"), line("c", 30, new={"x": [3]})]
    assert got["by_name"] == {"k": line("k", 40, new=4), "l": line("l")}
    assert got["added"] == [7]


EDITS: dict[str, tuple[Callable[[list[Line]], object], list[Any]]] = {
    "without the first": (lambda lines: lines.pop(0), [line("b"), line("c", new={"x": [3]})]),
    "with one before": (
        lambda lines: lines.insert(0, Line("n")),
        [line("n"), line("a", new=2), line("b"), line("c", new={"x": [3]})],
    ),
    "in another order": (lambda lines: lines.reverse(), [line("c", new={"x": [3]}), line("b"), line("a", new=2)]),
    "emptied": (lambda lines: lines.clear(), []),
}


@pytest.mark.parametrize("edit", EDITS)
def test_items_of_a_list_take_their_fields_along(edit: str):
    change, expected = EDITS[edit]
    assert changed(lambda cart: change(cart.lines))["lines"] == expected


def test_what_is_gone_takes_its_fields_along():
    def change(cart: Cart) -> None:
        cart.last = None
        del cart.by_name["k"]

    got = changed(change)
    assert got["last"] is None
    assert got["by_name"] == {"l": line("l")}
