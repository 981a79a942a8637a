"""The hook `failed` of entities: it sees the key and a copy of the state, and changes neither."""

import copy
from typing import Any

import attrs
import pytest
import trio

from actorwork import Entity, Fail, NotRunning, RetryPolicy, Settings, receive
from actorwork.embedded.store import Store
from actorwork.events import ActorTrouble
from actorwork.message import Envelope, Failure, Json
from actorwork.policy.entities import StateChange
from actorwork.testing import open_test_system

pytestmark = pytest.mark.usefixtures("mock_clock")


@attrs.define
class Balance:
    amount: int = 0
    failures: list[str] = attrs.field(factory=list[str])


@attrs.frozen
class Deposit:
    amount: int = 1


@attrs.frozen
class Withdraw:
    amount: int


@attrs.frozen
class NoteFailure:
    reason: str


told: list[tuple[str, object, str, Balance]] = []
refused: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_told() -> None:
    told.clear()
    refused.clear()


class Account(Entity[Balance]):
    settings = Settings(title="account", concurrency=4, retry=RetryPolicy(attempts=2))

    def __init__(self) -> None:
        self.is_started = False

    async def startup(self) -> None:
        self.is_started = True

    @receive
    async def deposit(self, message: Deposit) -> int:
        self.state.amount += message.amount
        return self.state.amount

    @receive
    async def withdraw(self, message: Withdraw) -> None:
        self.state.amount -= message.amount
        raise Fail(f"{message.amount} is not there")

    @receive
    async def note(self, message: NoteFailure) -> None:
        self.state.failures.append(message.reason)

    async def failed(self, message: object, failure: Failure) -> None:
        assert not self.is_started, "it belongs to no activation"
        told.append((self.key, message, failure.reason, copy.deepcopy(self.state)))
        for refusing in (self.commit(), self._remind()):
            try:
                await refusing
            except NotRunning as error:
                refused.append(str(error))
        self.state.amount = -1000
        self.state.failures.append("lost")
        if self.key:
            self.context.publish(Account, NoteFailure(failure.reason), key=self.key)

    async def _remind(self) -> None:
        self.remind("later", Deposit(), after=5)


async def test_it_sees_the_key_and_the_committed_state_and_what_it_does_to_the_state_is_lost():
    async with open_test_system(Account) as system:
        ann: Any = system.client.ref(Account, key="ann")
        assert await ann.ask(Deposit(5)) == 5
        await ann.tell(Withdraw(9))
        await system.drain()
        assert told == [("ann", Withdraw(9), "9 is not there", Balance(5))]
        found = await ann.state()
        assert found.value == Balance(5, ["9 is not there"]), "what it has published is handled in its turn"
        assert await ann.ask(Deposit(1)) == 6
        assert [reason for reason in refused if "belongs to a handler" in reason] == refused
        assert len(refused) == 2
        assert not system.of(ActorTrouble)


async def test_of_a_key_without_a_state_it_sees_the_first_one_and_makes_none():
    async with open_test_system(Account) as system:
        await system.client.ref(Account, key="ben").tell(Withdraw(1))
        await system.drain()
        assert [(key, state) for key, _, _, state in told] == [("ben", Balance())]
        found = await system.client.ref(Account, key="ben").state()
        assert found is not None
        assert (found.version, found.value) == (1, Balance(0, ["1 is not there"]))


async def test_a_message_without_a_key_has_failed_without_one():
    async with open_test_system(Account) as system:
        await system.broker.publish([Envelope(Account.settings.default_source, "1", b'{"amount": 1}', "Deposit")])
        await system.drain()
        ((key, _, reason, state),) = told
        assert (key, state) == ("", Balance())
        assert "needs a key" in reason


async def test_it_is_called_while_another_message_of_the_key_is_handled():
    begun, gate = trio.Event(), trio.Event()
    seen: list[str] = []

    class Slow(Entity[Balance]):
        settings = Settings(title="slow", concurrency=2)

        @receive
        async def take(self, *, n: int) -> None:
            if n == 0:
                raise Fail("no")
            begun.set()
            await gate.wait()
            seen.append("handled")

        async def failed(self, message: object, failure: Failure) -> None:
            await begun.wait()
            seen.append("failed")
            gate.set()

    async with open_test_system(Slow) as system:
        for n in (0, 1):
            await system.client.ref(Slow, key="k").tell({"n": n})
        await system.drain()
    assert seen == ["failed", "handled"]


async def test_a_state_that_it_cannot_be_given_is_reported():
    async with open_test_system(Account) as system:
        await system.client.ref(Account, key="ann").tell(Withdraw(9), delay=1)
        failing = system.broker

        def put_newer(store: Store) -> None:
            source = store.source(Account.settings.default_source)
            change = StateChange(version=0, data=b'{"amount": "none"}', schema=1)
            store.entities.change(source, Account.settings.id, "cat", change, by="", node="")

        await failing._writer.ask(put_newer)
        headers: dict[str, Json] = {"actorwork-failed": {"type": "Fail", "reason": "no", "traceback": "", "key": "cat"}}
        await failing.publish([Envelope(Account.settings.default_source, "2", b"{}", headers=headers)])
        await trio.sleep(0.5)
        assert not told
        (trouble,) = system.of(ActorTrouble)
        assert trouble.doing == "hook `failed`, of message 2,"
        assert "amount" in str(trouble.error)
