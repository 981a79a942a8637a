"""Context variables: each message has those with which its actor started, and no other's."""

import decimal
from contextvars import ContextVar
from typing import Any, cast

import pytest
import trio

from actorwork import Actor, ActorRef, Settings, open_system, receive
from actorwork.policy.settlement import Ack
from tests.doubles import FakeBroker

TENANT: ContextVar[str | None] = ContextVar("tenant", default=None)
REGION: ContextVar[object] = ContextVar("region")


class Unequal:
    """As an array: to ask whether it equals another is an error."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = object.__hash__


EUROPE, ASIA = Unequal(), Unequal()


class Desk(Actor):
    settings = Settings(title="desk")
    seen: list[Any]

    async def startup(self) -> None:
        REGION.set(EUROPE)

    @receive
    async def take(self, *, who: str = "", how: str = "", seconds: float = 0) -> Any:
        before = (TENANT.get(), REGION.get() is EUROPE, decimal.getcontext().prec)
        self.seen.append(before)
        if who:
            TENANT.set(who)
            decimal.setcontext(decimal.Context(prec=3))
        if who and how == "again":
            REGION.set(ASIA)
        await trio.sleep(seconds)
        if how == "helper":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.help)
        if how == "raise":
            raise ValueError(how)
        return [TENANT.get(), REGION.get() is EUROPE, decimal.getcontext().prec]

    async def help(self) -> None:
        self.seen.append((TENANT.get(), "helper"))


def desk(**settings: Any) -> type[Desk]:
    return type("Desk", (Desk,), {"settings": Settings(title="desk", **settings), "seen": []})


CLEAN = (None, True, 28)


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("how", ["", "again", "helper"])
async def test_what_a_local_message_sets_is_not_there_for_the_next(
    how: str, concurrency: int, mock_clock: trio.testing.MockClock
) -> None:
    actor = desk(concurrency=concurrency)
    async with open_system(actor, broker=FakeBroker()) as system:
        ref = cast("ActorRef[Any]", system.ref(actor))
        for who in ("acme", "bolt", ""):
            was = await ref.ask({"who": who, "how": how, "seconds": 1})
            assert was == [who or None, how != "again" or not who, 3 if who else 28], "a message keeps its own"
    assert [seen for seen in actor.seen if "helper" not in seen] == [CLEAN] * 3
    assert [seen[0] for seen in actor.seen if "helper" in seen] == (["acme", "bolt", None] if how == "helper" else [])


@pytest.mark.parametrize("settings", [{}, {"concurrency": 3}, {"execution_timeout": 0.5}])
@pytest.mark.parametrize("how", ["", "again", "raise"])
async def test_what_a_delivery_sets_is_not_there_for_the_next(
    how: str, settings: dict[str, Any], mock_clock: trio.testing.MockClock
) -> None:
    actor, broker = desk(**settings), FakeBroker()
    async with open_system(actor, broker=broker):
        for n in range(3):
            broker.put(actor, {"who": f"{n}", "how": how, "seconds": 1})
        await broker.wait_settled(3)
        broker.put(actor, {}, id="last")
        await broker.wait_settled(4)
    assert actor.seen == [CLEAN] * 4
    assert isinstance(broker.settlement("last"), Ack)
