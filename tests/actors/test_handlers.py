"""Which handler takes a message, and which declarations cannot work."""

import dataclasses
import json
from typing import Any

import attrs
import pytest

from actorwork import (
    Actor,
    CodecError,
    Message,
    MessageRefused,
    Settings,
    SettingsError,
    open_client,
    open_system,
    receive,
)
from actorwork.actors.handlers.table import handlers_of, table_of
from actorwork.message import Delivery
from actorwork.testing import MemoryBroker
from tests.doubles import FakeBroker, fields


@attrs.frozen
class Greet(Message[Actor, Any]):
    name: str


@dataclasses.dataclass(frozen=True)
class Leave:
    reason: str
    times: int = 1


@attrs.frozen
class Louder(Greet):
    volume: int = 11


@attrs.frozen
class Renamed:
    __wire_name__ = "renamed.v2"
    x: int


@attrs.frozen
class Unknown:
    x: int


class Everything(Actor):
    settings = Settings(title="everything")

    @receive
    async def people(self, message: Greet | Leave) -> str:
        return f"people {message}"

    @receive
    async def renamed(self, message: Renamed) -> str:
        return f"renamed {message.x}"

    @receive
    async def texts(self, message: str) -> str:
        return f"text {message}"

    @receive
    def numbers(self, message: list[int]) -> str:
        return f"numbers {message}"

    @receive
    async def keywords(self, *, kind: str, **rest: Any) -> str:
        return f"{kind} {rest}"


TABLE = handlers_of(Everything)


@pytest.mark.parametrize(
    ("message", "handler"),
    [
        (Greet("Ann"), "people"),
        (Leave("tired"), "people"),
        (Louder("Ann"), "people"),
        (Renamed(1), "renamed"),
        ("hi", "texts"),
        ([1, 2], "numbers"),
        ({"kind": "x"}, "keywords"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_local_message_goes_to_the_handler_of_its_type(message: object, handler: str):
    assert TABLE.for_message(message).name == handler


@pytest.mark.parametrize(
    "message", [Unknown(1), 3, True, None, b"bytes", {1}, object()], ids=lambda value: type(value).__name__
)
def test_a_local_message_without_a_handler_is_refused_with_what_there_is(message: object):
    with pytest.raises(MessageRefused) as caught:
        TABLE.for_message(message)
    assert isinstance(caught.value, TypeError)
    assert "Everything takes Greet, Leave, Renamed, str, list[int], a JSON object (kind, …)" in str(caught.value)


@pytest.mark.parametrize(
    ("wire", "handler"),
    [("Greet", "people"), ("Leave", "people"), ("renamed.v2", "renamed"), (None, "keywords")],
)
def test_a_message_from_a_stream_is_chosen_by_its_name(wire: str | None, handler: str):
    assert TABLE.for_delivery(Delivery("1", "s", b"{}", None, wire)).name == handler


def test_a_message_of_an_unknown_type_says_what_there_is():
    with pytest.raises(CodecError, match="unknown type 'Renamed'; Everything takes Greet, Leave"):
        TABLE.for_delivery(Delivery("1", "s", b"{}", None, "Renamed"))


def table(**methods: Any) -> Any:
    return table_of(type("Made", (Actor,), {name: receive(method) for name, method in methods.items()}))


async def greets(self: Any, message: Greet) -> None: ...
async def both(self: Any, message: Greet | Leave) -> None: ...
async def greets_again(self: Any, message: Greet) -> None: ...
async def anything(self: Any, message: object) -> str:
    return ""


def test_a_message_without_a_type_goes_to_the_only_handler_there_is():
    assert table(greets=greets).for_delivery(Delivery("1", "s", b"{}", None)).name == "greets"
    assert table(greets=greets, anything=anything).for_delivery(Delivery("1", "s", b"{}", None)).name == "anything"
    for ambiguous in (table(both=both), table(greets=greets, leaves=takes(Leave))):
        with pytest.raises(CodecError, match="the message has no type, and Made takes several: Greet, Leave"):
            ambiguous.for_delivery(Delivery("1", "s", b"{}", None))


def takes(annotation: Any) -> Any:
    async def take(self: Any, message: Any) -> None: ...

    take.__annotations__ = {"message": annotation}
    return take


def test_a_handler_of_anything_takes_what_no_other_does():
    made = table(greets=greets, anything=anything)
    assert made.for_message(Greet("Ann")).name == "greets"
    assert made.for_message(3.5).name == "anything"
    assert made.for_delivery(Delivery("1", "s", b"{}", None, "Whatever")).name == "anything"


def test_an_actor_without_handlers_says_so():
    with pytest.raises(MessageRefused, match="Made takes nothing: it has no method marked with @receive; got int"):
        table().for_message(1)


# ---- inheritance ----


class Base(Actor):
    settings = Settings(title="base")

    @receive
    async def greet(self, message: Greet) -> str:
        return "base"

    @receive
    async def leave(self, message: Leave) -> str:
        return "base leaves"


class Derived(Base):
    settings = Settings(title="derived")

    async def greet(self, message: Greet) -> str:
        return "derived"

    @receive
    async def more(self, *, n: int) -> str:
        return "more"


async def test_handlers_are_inherited_and_overridden():
    async with open_system([Base, Derived], broker=FakeBroker()) as system:
        base, derived = system.ref(Base), system.ref(Derived)
        untyped: Any = derived
        assert await untyped.ask(Greet("Ann")) == "derived"
        assert await derived.ask(Leave("x")) == "base leaves"
        assert await derived.ask({"n": 1}) == "more"
        assert await base.ask(Leave("x")) == "base leaves"
        with pytest.raises(MessageRefused):
            await base.ask({"n": 1})


# ---- reading ----


def arguments(handler: Any, payload: Any, wire: str | None = None) -> Any:
    made = table(take=handler)
    delivery = Delivery("1", "s", payload, None, wire)
    return made.for_delivery(delivery).arguments_of(delivery)


async def keywords(
    self: Any, *, x: int, ratio: float = 0.5, name: str = "nobody", on: bool = False, tags: list[str] | None = None
) -> None: ...


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"x":1}', {"x": 1}),
        (b'{"x":1,"ratio":2,"on":true}', {"x": 1, "ratio": 2.0, "on": True}),
        (b'{"x":1,"tags":["a"]}', {"x": 1, "tags": ["a"]}),
        (b'{"x":1,"tags":null}', {"x": 1, "tags": None}),
        (fields(x="1"), {"x": 1}),
        (fields(x="-7", ratio="1e3", name="007", on="yes"), {"x": -7, "ratio": 1000.0, "name": "007", "on": True}),
        (fields(x="1", tags='["a","b"]'), {"x": 1, "tags": ["a", "b"]}),
        (fields(x="1", on="0"), {"x": 1, "on": False}),
    ],
)
def test_keyword_arguments_are_structured_by_their_annotations(payload: Any, expected: dict[str, object]):
    args, kwargs = arguments(keywords, payload)
    assert args == ()
    assert kwargs == expected
    assert {name: type(value) for name, value in kwargs.items()} == {n: type(v) for n, v in expected.items()}


@pytest.mark.parametrize(
    ("payload", "problems"),
    [
        (b"{}", ["missing argument 'x'"]),
        (b'{"x":1.0}', ["at x: wants a whole number, got 1.0"]),
        (b'{"x":"1"}', ["at x: wants a whole number, got '1'"]),
        (b'{"x":null}', ["at x: wants a whole number, got None"]),
        (
            b'{"y":1}',
            ["unknown argument 'y'; the handler takes 'x', 'ratio', 'name', 'on', 'tags'", "missing argument 'x'"],
        ),
        (b'{"x":1,"on":1,"name":3}', ["at on: wants true or false, got 1", "at name: wants a string, got 3"]),
        (fields(x="1.5"), ["at x: wants a whole number, got '1.5'"]),
        (fields(x="1", on="perhaps"), ["at on: wants true or false, got 'perhaps'"]),
    ],
)
def test_every_defect_is_told_with_its_path(payload: Any, problems: list[str]):
    with pytest.raises(CodecError) as caught:
        arguments(keywords, payload)
    assert list(caught.value.problems) == problems


async def rest(self: Any, *, kind: str = "light", **others: Any) -> None: ...


def test_what_a_handler_does_not_name_goes_to_its_rest():
    assert arguments(rest, b'{"a":1,"kind":"x"}') == ((), {"a": 1, "kind": "x"})
    assert arguments(rest, fields(a="1")) == ((), {"a": "1"})
    assert arguments(rest, b"{}") == ((), {})


def test_a_typed_message_is_read_from_json_and_from_foreign_fields():
    assert arguments(takes(Leave), b'{"reason":"r","times":3}', "Leave") == ((Leave("r", 3),), {})
    assert arguments(takes(Leave), fields(reason="12", times="3")) == ((Leave("12", 3),), {})
    with pytest.raises(CodecError, match=r"not a Leave: .*unknown field 'why'; Leave has 'reason', 'times'"):
        arguments(takes(Leave), b'{"reason":"r","why":1}', "Leave")
    with pytest.raises(CodecError, match="not a Leave: at reason: missing"):
        arguments(takes(Leave), b"{}", "Leave")


# ---- declarations that cannot work ----


async def takes_args(self: Any, *messages: Greet) -> None: ...
async def takes_two(self: Any, one: Greet, two: Leave) -> None: ...
async def takes_mixed(self: Any, message: Greet, *, x: int) -> None: ...
async def has_no_annotation(self: Any, message) -> None: ...  # type: ignore[no-untyped-def] # pyright: ignore  # noqa: ANN001, PGH003
async def yields(self: Any, message: Greet) -> Any:
    yield 1


def yields_too(self: Any, message: Greet) -> Any:
    yield 1


async def takes_a_set_of_objects(self: Any, *, x: complex) -> None: ...
async def not_a_record(self: Any, message: complex) -> None: ...
async def unreadable(self: Any, message: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@attrs.frozen
class Twin:
    __wire_name__ = "Greet"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"a": greets, "b": greets_again}, "handler Made.greets_again: Greet is handled by greets already"),
    ({"a": both, "b": greets}, "Greet is handled by both already"),
    ({"a": anything, "b": takes(Any)}, "any message is handled by anything already"),
    ({"a": greets, "b": takes(Twin)}, "two messages are called 'Greet' on the wire; give one a __wire_name__"),
    ({"a": takes_args}, "handler Made.takes_args wants one message, or keyword-only parameters .*got \\*args"),
    ({"a": takes_two}, "wants either one message .* or keyword-only parameters"),
    ({"a": takes_mixed}, "wants either one message .* or keyword-only parameters"),
    ({"a": has_no_annotation}, "'message' needs an annotation"),
    ({"a": yields}, "handler Made.yields is a generator"),
    ({"a": yields_too}, "handler Made.yields_too is a generator"),
    ({"a": not_a_record}, "handler Made.not_a_record: "),
    ({"a": unreadable}, "its annotations cannot be read .*Nowhere"),
]


@pytest.mark.parametrize(("methods", "text"), WRONG)
def test_a_declaration_that_cannot_work_is_refused(methods: dict[str, Any], text: str):
    with pytest.raises(SettingsError, match=text):
        table(**methods)


async def test_it_is_refused_before_anything_starts():
    started: list[str] = []

    class Fine(Actor):
        async def startup(self) -> None:
            started.append("fine")

    class Wrong(Actor):
        settings = Settings(title="wrong")

        @receive
        async def take(self, *messages: Greet) -> None: ...

    with pytest.raises(SettingsError, match=r"\*args"):
        async with open_system([Fine, Wrong], broker=FakeBroker()):
            raise AssertionError("it must not come to this")
    assert started == []


@pytest.mark.parametrize("target", [3, "text", Greet, staticmethod(greets)], ids=lambda value: type(value).__name__)
def test_receive_goes_on_a_method(target: Any):
    with pytest.raises(SettingsError, match="@receive goes on a method"):
        receive(target)


def test_settings_must_be_settings():
    with pytest.raises(SettingsError, match=r"Odd.settings wants a Settings\(title=…\), got \{'title': 'x'\}"):
        type("Odd", (Actor,), {"settings": {"title": "x"}})


def test_a_message_that_says_no_type_goes_by_the_kind_of_its_json():
    class Kinds(Actor):
        settings = Settings(title="kinds")

        @receive
        async def number(self, message: int) -> None: ...

        @receive
        async def text(self, message: str) -> None: ...

        @receive
        async def both(self, message: list[int] | dict[str, int]) -> None: ...

    table = handlers_of(Kinds)
    chosen = [table.for_delivery(Delivery("1", "s", data, None)).name for data in (b"1", b'"a"', b"[1]", b'{"a": 1}')]
    assert chosen == ["number", "text", "both", "both"]
    assert table.for_delivery(Delivery("1", "s", {b"a": b"1"}, None)).name == "both"
    with pytest.raises(CodecError, match="the message has no type"):
        table.for_delivery(Delivery("1", "s", b"null", None))


# ---- several handlers with keyword arguments ----


class Images(Actor):
    settings = Settings(title="images", sources={"images"})

    @receive
    async def resize(self, *, width: int) -> str:
        return f"resized to {width}"

    @receive
    async def crop(self, *, left: int = 0, **more: object) -> str:
        return f"cropped at {left} {more}"

    @receive
    async def label(self, *, type: str, text: str) -> str:
        return f"{type}: {text}"


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        ({"type": "resize", "width": 5}, "resized to 5"),
        ({"type": "crop", "left": 1, "x": 2}, "cropped at 1 {'type': 'crop', 'x': 2}"),
        ({"type": "label", "text": "a"}, "label: a"),
    ],
)
async def test_of_several_handlers_of_objects_the_field_type_names_one(message: dict[str, Any], reply: str):
    async with open_system(Images, broker=MemoryBroker()) as system, open_client(system.broker) as client:
        assert await system.ref(Images).ask(message) == reply
        assert await client.ref(Images).ask(message) == reply
        assert await client.ref("images").ask(message) == reply


def test_foreign_producers_name_a_handler_by_a_field_or_by_the_type_of_the_entry():
    images = handlers_of(Images)
    delivery = Delivery("1", "s", fields(type="resize", width="5"), None)
    assert images.for_delivery(delivery).arguments_of(delivery) == ((), {"width": 5})
    delivery = Delivery("1", "s", b'{"width": 5}', None, "resize")
    assert images.for_delivery(delivery).arguments_of(delivery) == ((), {"width": 5})


@pytest.mark.parametrize("message", [{"width": 5}, {"type": "rotate"}, {"type": ["resize"]}])
def test_an_object_that_names_none_of_several_handlers_is_refused_with_what_there_is(message: dict[str, Any]):
    text = (
        "the message wants a field 'type' that names one of several handlers; Images takes"
        " a JSON object of the type 'resize' (width), a JSON object of the type 'crop' (left=…, …)"
    )
    with pytest.raises(MessageRefused) as caught:
        handlers_of(Images).for_message(message)
    assert text in str(caught.value)
    with pytest.raises(CodecError) as unread:
        handlers_of(Images).for_delivery(Delivery("1", "s", json.dumps(message).encode(), None))
    assert text in str(unread.value)


def test_the_only_handler_of_objects_may_be_named_too():
    only = table(keywords=takes_kind)
    assert only.for_delivery(Delivery("1", "s", b'{"kind": "x"}', None, "takes_kind")).name == "takes_kind"
    delivery = Delivery("1", "s", b'{"type": "takes_kind", "kind": "x"}', None)
    assert only.for_delivery(delivery).arguments_of(delivery) == ((), {"kind": "x"})


async def takes_kind(self: Any, *, kind: str) -> None: ...
