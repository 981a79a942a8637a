"""Pydantic models as messages: by every way a message takes, and with errors that name the path to each defect."""

import subprocess
import sys
from datetime import UTC, datetime

import attrs
import pytest
from pydantic import AliasGenerator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from actorwork import Actor, CodecError, Message, MessageFailed, MessageRefused, Settings, receive
from actorwork.actors.handlers.table import handlers_of
from actorwork.codec import decode_value, encode
from actorwork.message import Delivery
from actorwork.testing import open_test_system
from tests.doubles import fields


class Item(BaseModel):
    name: str
    count: int = Field(gt=0)


class Order(BaseModel, Message["Shop", "Bill"]):
    model_config = ConfigDict(extra="forbid")

    items: list[Item]
    at: datetime = datetime(2020, 1, 1, tzinfo=UTC)


class Bill(BaseModel):
    total: float
    paid_at: datetime


class Renamed(BaseModel):
    model_config = ConfigDict(alias_generator=AliasGenerator(alias=to_camel), strict=True)

    first_name: str
    is_new: bool = True


@attrs.frozen
class Wrapped:
    item: Item


class Shop(Actor):
    settings = Settings(title="shop", sources={"orders"})

    @receive
    async def order(self, message: Order) -> Bill:
        return Bill(total=sum(item.count for item in message.items), paid_at=message.at)

    @receive
    async def rename(self, message: Renamed) -> str:
        return message.first_name

    @receive
    async def wrapped(self, message: Wrapped) -> int:
        return message.item.count

    @receive
    async def keywords(self, *, item: Item) -> str:
        return item.name


ANN = Renamed.model_validate({"firstName": "Ann"})
SEVENTEEN = Renamed.model_validate({"firstName": "17", "isNew": False})
ORDER = Order(items=[Item(name="a", count=2), Item(name="b", count=3)], at=datetime(2026, 1, 2, tzinfo=UTC))


async def test_a_model_is_a_message_and_a_reply():
    async with open_test_system(Shop) as system:
        for ref in (system.ref(Shop), system.client.ref(Shop)):
            assert await ref.ask(ORDER) == Bill(total=5, paid_at=ORDER.at)
            assert await ref.ask(ANN) == "Ann"
            assert await ref.ask(Wrapped(Item(name="a", count=4))) == 4
        assert await system.client.ref(Shop).ask({"item": {"name": "x", "count": 1}}) == "x"
        receipt = await system.client.ref(Shop).submit(ORDER)
        assert (await receipt.result()).total == 5


def test_a_model_is_written_under_the_name_of_its_class_and_its_aliases():
    assert encode(ANN) == (b'{"firstName":"Ann","isNew":true}', "Renamed")
    data, wire = encode(ORDER)
    assert wire == "Order"
    assert decode_value(data, Order) == ORDER


@pytest.mark.parametrize(
    ("wire", "payload", "problems"),
    [
        ("Order", b"{}", ["at items: missing"]),
        (
            "Order",
            b'{"items": [{"name": "a", "count": 0}, {"name": 1, "count": 1}], "x": 1}',
            [
                "at items[0].count: Input should be greater than 0, got 0",
                "at items[1].name: Input should be a valid string, got 1",
                "at x: Extra inputs are not permitted, got 1",
            ],
        ),
        ("Renamed", b'{"firstName": "a", "isNew": 1}', ["at isNew: Input should be a valid boolean, got 1"]),
        ("Wrapped", b'{"item": {"name": "a"}}', ["at item.count: missing"]),
        (None, b'{"item": {"count": 1}}', ["at item.name: missing"]),
        ("Order", b"[]", ["Input should be an object, got []"]),
    ],
)
def test_every_defect_of_a_model_is_told_with_its_path(wire: str | None, payload: bytes, problems: list[str]):
    delivery = Delivery("1", "s", payload, None, wire)
    with pytest.raises(CodecError) as caught:
        handlers_of(Shop).for_delivery(delivery).arguments_of(delivery)
    assert list(caught.value.problems) == problems


async def test_a_message_that_its_model_refuses_is_a_dead_letter():
    async with open_test_system(Shop) as system:
        with pytest.raises(MessageFailed, match=r"not an Order: at items\[0\].count: .* greater than 0, got 0"):
            await system.client.ref("shop").ask(Order.model_construct(items=[Item.model_construct(name="", count=0)]))


def test_foreign_fields_are_read_as_the_model_declares_them():
    delivery = Delivery("1", "s", fields(items='[{"name": "a", "count": 1}]', at="2020-01-01T00:00:00Z"), None, "Order")
    assert handlers_of(Shop).for_delivery(delivery).arguments_of(delivery)[0][0].items == [Item(name="a", count=1)]
    delivery = Delivery("1", "s", fields(firstName="17", isNew="false"), None, "Renamed")
    assert handlers_of(Shop).for_delivery(delivery).arguments_of(delivery)[0][0] == SEVENTEEN


def test_what_json_cannot_express_is_refused_where_it_is_sent():
    with pytest.raises(CodecError, match="cannot be written as JSON"):
        encode(Bill(total=float("nan"), paid_at=ORDER.at))


def test_a_model_that_the_actor_does_not_take_is_refused():
    with pytest.raises(MessageRefused, match=r"Shop takes Order, Renamed, Wrapped, .*; got Item"):
        handlers_of(Shop).for_message(Item(name="a", count=1))


def test_pydantic_is_not_imported_by_the_package():
    program = "import sys, actorwork, actorwork.codec; actorwork.codec.encode(1); print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
