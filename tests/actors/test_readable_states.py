"""A state is committed only if it can be read again: its message fails, and not all those that follow it."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import attrs
import pydantic
import pytest
import trio.testing

from actorwork import Entities, Entity, Fail, MessageFailed, Settings, receive
from actorwork.actors.entities import schema as schemas
from actorwork.actors.entities.readable import quick_look
from actorwork.actors.entities.schema import StateSchema
from actorwork.codec import dumps
from actorwork.testing import open_test_system


class Color(enum.Enum):
    RED = "red"


@attrs.define
class Line:
    name: str = ""
    price: float = 0.0
    parts: "list[Line]" = attrs.field(factory=lambda: list[Line]())  # noqa: PLW0108 - it does not exist yet


@dataclass
class Cart:
    count: int = 0
    note: str | None = None
    lines: list[Line] = field(default_factory=list[Line])
    by_name: dict[str, Line] = field(default_factory=dict[str, Line])
    sizes: dict[int, float] = field(default_factory=dict[int, float])
    since: datetime | None = None
    took: timedelta = timedelta(0)
    total: Decimal = Decimal(0)
    color: Color = Color.RED
    tags: set[str] = field(default_factory=set[str])
    pair: tuple[int, str] = (1, "a")
    kind: Literal["a", "b"] = "a"
    more: Any = None


class Model(pydantic.BaseModel):
    amount: int = 0


FULL = Cart(
    count=1,
    note="n",
    lines=[Line("a", 1, [Line("b")])],
    by_name={"a": Line("a")},
    sizes={1: 2.5, 2: 3},
    since=datetime(2026, 1, 31, tzinfo=UTC),
    took=timedelta(seconds=5),
    total=Decimal("1.10"),
    tags={"x"},
    more=[{"a": 1.5}],
)


def check(value: Any, annotation: Any) -> None:
    StateSchema(annotation, 1_000_000).check(value)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (Cart(), Cart),
        (FULL, Cart),
        (Model(amount=3), Model),
        ([Model()], list[Model]),
        ({"a": 1}, dict[str, int]),
        ({"a": (1, 2)}, Mapping[str, Sequence[int]]),
        ({"a": Line()}, dict[str, Line | None]),
        ({UUID(int=1): 2}, dict[UUID, int]),
        ((1, 2), list[int]),
        (5, float),
        (None, int | None),
        ({"a": [1, "b"]}, Any),
        ({"a": [1, "b"]}, dict),
    ],
    ids=repr,
)
def test_a_state_as_its_type_says_is_kept(value: Any, annotation: Any):
    check(value, annotation)


@pytest.mark.parametrize(
    ("value", "annotation", "problem"),
    [
        (replace(FULL, count=0.5), Cart, "at count: wants a whole number, got 0.5"),
        (replace(FULL, count=True), Cart, "at count: wants a whole number, got True"),
        (replace(FULL, note=5), Cart, "at note: wants a string or null, got 5"),
        (replace(FULL, lines=[Line(), Line(parts=[Line(price="1")])]), Cart, r"at lines\[1\].parts\[0\].price: "),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        (replace(FULL, by_name={"a": Line(price=True)}), Cart, r"at by_name\['a'\].price: "),
        (replace(FULL, sizes={1: "2"}), Cart, r"at sizes\[.?1.?\]: wants a number"),
        (replace(FULL, kind="c"), Cart, "at kind: "),
        (replace(FULL, pair=(1, 2)), Cart, r"at pair\[1\]: wants a string, got 2"),
        (Model.model_construct(amount="much"), Model, "at amount: "),
        ([1, 2.5], list[int], r"at \[1\]: wants a whole number, got 2.5"),
        (1.5, int, "wants a whole number, got 1.5"),
        (None, int, "wants a whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_state_that_could_not_be_read_again_is_refused_with_the_path(value: Any, annotation: Any, problem: str):
    with pytest.raises(Fail, match=f"could not be read again: .*{problem}"):
        check(value, annotation)


def test_what_is_as_annotated_is_not_read_again(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("it was read")

    plain = replace(FULL)
    schema = StateSchema(Line, 1_000_000)
    monkeypatch.setattr(schemas, "structure", refuse)
    schema.check(plain.lines[0])
    assert quick_look(dict[str, list[Line]])({"a": plain.lines})
    assert not quick_look(dict[str, list[Line]])({"a": [Cart()]})


@attrs.define
class Balance:
    amount: int = 0


@attrs.frozen
class Add:
    amount: int


class Account(Entity[Balance]):
    settings = Settings(title="account", entities=Entities(idle=10))

    @receive
    async def halve(self, *, by: float) -> int:
        self.state.amount = 100
        self.state.amount /= by  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
        return self.state.amount

    @receive
    async def add(self, message: Add) -> int:
        self.state.amount += message.amount
        await self.commit()
        return self.state.amount


async def test_the_message_fails_that_has_made_such_a_state_and_the_next_one_goes_on(
    mock_clock: trio.testing.MockClock,
):
    async with open_test_system(Account) as system:
        ann = system.client.ref(Account, key="ann")
        assert await ann.ask(Add(5)) == 5
        with pytest.raises(MessageFailed, match=r"at amount: wants a whole number, got 50\.0"):
            await ann.ask({"by": 2.0})
        assert await ann.ask(Add(1)) == 6
        assert (await ann.state()).value == Balance(6)
        assert (await system.client.ref("account", key="ann").state()).value == {"amount": 6}
        (letter,) = system.dead_letters
        assert letter.payload == dumps({"by": 2.0})
