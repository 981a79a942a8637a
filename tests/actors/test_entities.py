"""An entity has one instance for every key, and its state is committed with the message that changed it, or not."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import attrs
import pytest
import trio
import trio.testing

from actorwork import (
    Actor,
    Entities,
    Entity,
    EntityState,
    Fail,
    MessageFailed,
    MessageRefused,
    NotRunning,
    Reject,
    Retry,
    RetryPolicy,
    Settings,
    SettingsError,
    StateConflict,
    Trigger,
    WouldWaitForItself,
    migrates,
    receive,
)
from actorwork.actors.entities.activation import Activation
from actorwork.actors.entities.schema import StateSchema
from actorwork.embedded.store import Store
from actorwork.events import ActorTrouble, EntityLarge, EntityStalled, StaleState, StateForgotten
from actorwork.message import Envelope
from actorwork.policy.entities import StateChange, StoredState
from actorwork.policy.schedule import Interval
from actorwork.policy.settlement import Ack, Fail as FailSettlement, Reject as RejectSettlement
from actorwork.testing import MemoryBroker, open_test_system

T = TypeVar("T")


@attrs.define
class Balance:
    amount: int = 0
    steps: list[int] = attrs.field(factory=list[int])


@attrs.frozen
class Deposit:
    amount: int = 1


@attrs.frozen
class Break:
    how: str


@attrs.frozen
class Booked:
    key: str
    amount: int


class Ledger(Actor):
    settings = Settings(title="ledger")

    @receive
    async def book(self, message: Booked) -> None: ...


class Account(Entity[Balance]):
    settings = Settings(
        title="account",
        concurrency=8,
        retry=RetryPolicy(attempts=2),
        execution_timeout=5,
        entities=Entities(idle=60, most=3, limit="20KB", history=3),
    )
    log: list[str]

    def __init__(self) -> None:
        self.log = LOG

    async def startup(self) -> None:
        self.log.append(f"{self.key} up at {self.state.amount}")

    async def shutdown(self) -> None:
        self.log.append(f"{self.key} down at {self.state.amount}")
        self.state.amount = -1  # It is lost.

    @receive
    async def deposit(self, message: Deposit) -> int:
        self.state.amount += message.amount
        self.context.publish(Ledger, Booked(self.key, message.amount))
        return self.state.amount

    @receive
    def in_a_thread(self, *, amount: int) -> int:
        self.state.amount += amount
        return self.state.amount

    @receive
    async def broken(self, message: Break) -> None:
        self.state.amount += 1000
        match message.how:
            case "reject":
                raise Reject("no")
            case "fail":
                raise Fail("no")
            case "retry":
                raise Retry(1, "no")
            case "slow":
                await trio.sleep(10_000)
            case "large":
                self.state.steps = list(range(5_000))
            case "strange":
                self.state.steps = [{1, 2}]  # type: ignore[list-item] # pyright: ignore[reportAttributeAccessIssue]
            case _:
                raise ValueError(message.how)


LOG: list[str] = []


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    LOG.clear()


# ---- states ----


async def test_what_a_handler_changes_is_committed_with_its_message(mock_clock: trio.testing.MockClock):
    async with open_test_system([Account, Ledger]) as system:
        ann, ben = (system.client.ref(Account, key=key) for key in ("ann", "ben"))
        assert await ann.ask(Deposit(5)) == 5
        assert await ben.ask(Deposit(2)) == 2
        assert await ann.ask(Deposit(2)) == 7
        state = await ann.state()
        assert (state.value, state.version, state.schema) == (Balance(7), 2, 1)
        assert (await ben.state()).value == Balance(2)
        assert [one.value.amount for one in await ann.history()] == [7, 5]
        assert {one.key async for one in system.client.entities(Account)} == {"ann", "ben"}
        assert LOG == ["ann up at 0", "ben up at 0"]
        await system.drain()
    assert sorted(LOG[2:]) == ["ann down at 7", "ben down at 2"]


async def test_a_handler_without_async_runs_in_a_thread_on_the_same_state():
    async with open_test_system([Account, Ledger]) as system:
        ann = system.client.ref(Account, key="ann")
        await ann.ask(Deposit(5))
        assert await ann.ask({"amount": 2}) == 7
        assert (await ann.state()).value == Balance(7)


async def test_a_key_without_a_state_begins_with_the_first_one_and_has_none_until_something_changes(
    mock_clock: trio.testing.MockClock,
):
    async with open_test_system([Account, Ledger]) as system:
        ann = system.client.ref(Account, key="ann")
        assert await ann.ask(Deposit(0)) == 0
        assert await ann.state() == EntityState(value=Balance(), version=0)
        assert [one async for one in system.client.entities(Account)] == []


@pytest.mark.parametrize("how", ["reject", "fail", "retry", "slow", "large", "strange", "other"])
async def test_a_state_is_as_it_was_after_anything_but_an_accepted_ack(how: str, mock_clock: trio.testing.MockClock):
    async with open_test_system([Account, Ledger]) as system:
        ann = system.client.ref(Account, key="ann")
        await ann.ask(Deposit(5))
        with pytest.raises(MessageFailed):
            await ann.ask(Break(how), timeout=1000)
        assert (await ann.state()).version == 1
        assert await ann.ask(Deposit(1)) == 6
        await system.drain()
        assert "ann down at 1005" in LOG, "the instance whose state was undone is let go of"
        assert LOG[-1] == "ann up at 5"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("large", "bytes, and the limit is 20,000 (Entities.limit); most of them are in state.steps: "),
        ("strange", "the state cannot be kept: state.steps[0] "),
    ],
)
async def test_a_state_that_cannot_be_kept_fails_its_message_at_once_with_the_path(
    how: str, reason: str, mock_clock: trio.testing.MockClock
):
    async with open_test_system([Account, Ledger]) as system:
        await system.client.ref(Account, key="ann").tell(Break(how))
        await system.drain()
        (settled,) = system.broker.settled
        assert isinstance(settled.settlement, FailSettlement)
        assert reason in settled.settlement.failure.reason


async def test_a_state_that_grows_to_half_its_limit_is_reported_once(mock_clock: trio.testing.MockClock):
    class Small(Entity[list[int]]):
        settings = Settings(title="small", entities=Entities(limit="100B"))

        @receive
        async def add(self, *, n: int) -> int:
            self.state.append(n)
            return len(self.state)

    async with open_test_system(Small) as system:
        for number in range(30):
            assert await system.client.ref(Small, key="k").ask({"n": number}) == number + 1
        (event,) = system.of(EntityLarge)
        assert (event.key, event.size, event.limit) == ("k", 51, 100)


async def test_a_settlement_that_was_lost_leaves_no_instance_ahead_of_the_store(mock_clock: trio.testing.MockClock):
    async with open_test_system([Account, Ledger]) as system:
        ann = system.client.ref(Account, key="ann")
        await ann.ask(Deposit(5))
        system.faults.lose_settlement(Account)
        assert await ann.ask(Deposit(1), timeout=600) == 6, "it was run again, on the committed state"
        assert (await ann.state()).version == 2
        assert len(system.broker.sent) == 4, "and its effects came once"


async def test_a_state_put_by_a_user_is_what_the_next_message_sees(mock_clock: trio.testing.MockClock):
    async with open_test_system([Account, Ledger]) as system:
        ann = system.client.ref(Account, key="ann")
        await ann.ask(Deposit(5))
        with pytest.raises(StateConflict):
            await ann.put(Balance(1), version=7)
        assert await ann.put(Balance(100), version=1, reason="a gift") == 2
        assert await ann.ask(Deposit(1)) == 101
        (entry,) = await system.broker.audit.list(limit=1)
        assert (entry.action, entry.what, entry.reason, entry.outcome) == ("put-state", "account/ann", "a gift", "done")
        by_title = system.client.ref("account", key="ann")
        assert (await by_title.state()).value == {"amount": 101, "steps": []}
        await by_title.put({"amount": 3, "steps": []})
        assert await ann.ask(Deposit(1)) == 4


async def test_a_state_is_forgotten_in_its_turn(mock_clock: trio.testing.MockClock):
    async with open_test_system([Account, Ledger]) as system:
        ann = system.client.ref(Account, key="ann")
        await ann.ask(Deposit(5))
        assert await ann.forget()
        assert not await ann.forget()
        assert await ann.history() == []
        assert await ann.ask(Deposit(1)) == 1
        assert await ann.forget_now()
        assert (await ann.state()).version == 0


async def test_a_state_that_changed_under_a_handler_has_its_message_run_again(mock_clock: trio.testing.MockClock):
    begun = trio.Event()
    go_on = trio.Event()

    class Slow(Entity[int]):
        settings = Settings(title="slow")

        @receive
        async def add(self, *, n: int) -> int:
            self.state += n
            begun.set()
            await go_on.wait()
            return self.state

    async with open_test_system(Slow) as system, trio.open_nursery() as nursery:
        answers: list[int] = []

        answered = trio.Event()

        async def ask() -> None:
            answers.append(await system.client.ref(Slow, key="k").ask({"n": 1}, timeout=600))
            answered.set()

        nursery.start_soon(ask)
        await begun.wait()
        with pytest.raises(StateConflict, match="a node is handling a message of this key"):
            await system.client.ref(Slow, key="k").put(10)
        assert await system.client.ref(Slow, key="k").put(10, force=True) == 1
        go_on.set()
        await answered.wait()
        assert answers == [11]
        (event,) = system.of(StaleState)
        assert (event.expected, event.found) == (0, 1)
        assert (await system.client.ref(Slow, key="k").state()).version == 2


# ---- committing on the way ----


class Auditor(Entity[dict[str, Any]]):
    settings = Settings(title="auditor", retry=RetryPolicy(attempts=3))

    @receive
    async def audit(self, *, pages: int) -> int:
        while (page := self.state.get("page", 0)) < pages:
            self.state["page"] = page + 1
            self.context.publish(Ledger, Booked(self.key, page))
            await self.commit()
            if page == 1 and self.context.delivery.attempt == 1:
                self.state["page"] = 77
                raise ValueError("half-way")
        await self.commit()
        return self.state["page"]


async def test_a_commit_keeps_what_was_done_so_far_with_what_it_published(mock_clock: trio.testing.MockClock):
    async with open_test_system([Auditor, Ledger]) as system:
        ref = system.client.ref(Auditor, key="k")
        assert await ref.ask({"pages": 3}, timeout=600) == 3
        state = await ref.state()
        assert (state.value, state.version) == ({"page": 3}, 3)
        assert [one.message for one in system.sent(Ledger)] == [{"key": "k", "amount": page} for page in range(3)]


async def test_a_commit_of_a_delivery_that_is_anothers_by_now_raises(mock_clock: trio.testing.MockClock):
    caught: list[StateConflict] = []
    both = trio.Event()

    class Careless(Entity[int]):
        settings = Settings(title="careless")

        @receive
        async def add(self, *, n: int) -> None:
            self.state += n
            if self.context.delivery.crashes == 0:
                take_away()
            for _ in range(2):
                try:
                    await self.commit()
                except StateConflict as error:
                    caught.append(error)
            both.set()

    async with open_test_system(Careless) as system:

        def take_away() -> None:
            statement = "update pending set node = 1000000"
            system.broker._writer.change(lambda store: store.execute(statement))

        await system.client.ref(Careless, key="k").tell({"n": 1})
        await both.wait()
        assert len(caught) == 2
        assert (await system.client.ref(Careless, key="k").state()).version == 0
        await trio.testing.wait_all_tasks_blocked()
        assert system.broker.settled == []


# ---- activations ----


async def test_instances_are_passivated_when_idle_and_beyond_the_most(mock_clock: trio.testing.MockClock):
    async with open_test_system([Account, Ledger]) as system:
        for key in ("a", "b", "c", "a", "d"):
            await system.client.ref(Account, key=key).ask(Deposit())
        await trio.testing.wait_all_tasks_blocked()
        assert LOG == ["a up at 0", "b up at 0", "c up at 0", "d up at 0", "b down at 1"]
        await trio.sleep(50)
        await system.client.ref(Account, key="a").ask(Deposit())
        await trio.sleep(40)
        assert sorted(LOG[5:]) == ["c down at 1", "d down at 1"]
        await trio.sleep(60)
        assert LOG[7:] == ["a down at 3"]
        assert await system.client.ref(Account, key="a").ask(Deposit()) == 4


async def test_an_error_of_a_hook_is_one_of_its_message_or_is_reported(mock_clock: trio.testing.MockClock):
    class Fragile(Entity[int]):
        settings = Settings(title="fragile", entities=Entities(idle=1))
        tries = 0

        async def startup(self) -> None:
            type(self).tries += 1
            if type(self).tries == 1:
                raise OSError("no database")

        async def shutdown(self) -> None:
            raise OSError("the database is gone")

        @receive
        async def add(self, *, n: int) -> int:
            self.state += n
            return self.state

    async with open_test_system(Fragile) as system:
        ref = system.client.ref(Fragile, key="k")
        with pytest.raises(MessageFailed, match="no database"):
            await ref.ask({"n": 1})
        assert await ref.ask({"n": 1}) == 1
        await trio.sleep(10)
        assert [str(event.error) for event in system.of(ActorTrouble)] == ["the database is gone"] * 2
        assert await ref.ask({"n": 1}) == 2


# ---- messages ----


async def test_a_message_without_a_key_is_refused_at_its_sender(mock_clock: trio.testing.MockClock):
    class Teller(Actor):
        settings = Settings(title="teller")

        @receive
        async def tell(self, *, keyed: bool) -> None:
            if keyed:
                self.context.publish(Account, Deposit(1), key="ann")
                self.context.publish(self.context.client.ref(Account, key="ann"), Deposit(1))
            else:
                self.context.publish(Account, Deposit(1))

    async with open_test_system([Account, Ledger, Teller]) as system:
        keyless = system.client.ref(Account)
        for send in (keyless.tell, keyless.ask, keyless.submit):
            with pytest.raises(MessageRefused, match="needs a key"):
                await send(Deposit())
        with pytest.raises(MessageRefused, match="needs a key"):
            await keyless.tell_many([Deposit()])
        with pytest.raises(MessageRefused, match="with a key only"):
            await system.ref(Account).tell(Deposit())
        with pytest.raises(MessageRefused, match="'ann'"):
            await system.client.ref(Account, key="ann").tell(Deposit(), key="ben")
        with pytest.raises(TypeError, match="is no entity"):
            system.client.ref(Ledger, key="ann")
        await keyless.tell(Deposit(), key="ann")
        await system.client.ref(Account, key="ann").tell_many([Deposit(), Deposit()])
        with pytest.raises(MessageFailed, match="needs a key"):
            await system.client.ref(Teller).ask({"keyed": False})
        await system.client.ref(Teller).ask({"keyed": True})
        await system.drain()
        assert (await system.client.ref(Account, key="ann").state()).value.amount == 5


async def test_a_message_without_a_key_from_a_stream_is_a_dead_letter_that_says_so(mock_clock: trio.testing.MockClock):
    async with open_test_system([Account, Ledger]) as system:
        await system.broker.publish([Envelope(Account.settings.default_source, "x", b'{"amount": 1}', "Deposit")])
        await system.drain()
        (letter,) = system.dead_letters
        assert "needs a key" in letter.failure.reason


async def test_two_messages_of_one_key_at_once_are_not_both_committed(mock_clock: trio.testing.MockClock):
    """A foreign producer may name a key that another message holds."""
    async with open_test_system([Account, Ledger]) as system:
        source = Account.settings.default_source

        def add(store: Any) -> None:
            for name in ("1", "2"):
                store.put(source, name, b'{"amount": 1}', "Deposit", {})
            store.execute("update entries set key = 'ann'")

        system.broker._writer.change(add)
        await system.drain()
        assert (await system.client.ref(Account, key="ann").state()).value.amount == 2


async def test_an_ask_that_would_wait_for_itself_raises_at_once(mock_clock: trio.testing.MockClock):
    class Friend(Entity[int]):
        settings = Settings(title="friend", concurrency=4)

        @receive
        async def call(self, *, others: list[str]) -> int:
            if not others:
                return 0
            other = self.context.client.ref(Friend, key=others[0])
            return 1 + await other.ask({"others": others[1:]}, timeout=600)

    async with open_test_system(Friend) as system:
        ann = system.client.ref(Friend, key="ann")
        assert await ann.ask({"others": ["ben", "cid"]}) == 2
        with pytest.raises(MessageFailed) as caught:
            await ann.ask({"others": ["ben", "ann"]})
        assert "WouldWaitForItself" in caught.value.reason
        assert trio.current_time() < 5
        with pytest.raises(MessageFailed) as caught:
            await ann.ask({"others": ["ann"]})
        assert caught.value.type == WouldWaitForItself.__name__


class Rival(Entity[int]):
    settings = Settings(title="rival", concurrency=8)

    @receive
    async def call(self, *, after: float = 0, others: Sequence[str] = (), stay: float = 0) -> str:
        await trio.sleep(after)
        async with trio.open_nursery() as nursery:
            for other in others:
                nursery.start_soon(self.ask, other)
        await trio.sleep(stay)
        return self.key

    async def ask(self, other: str) -> None:
        await self.context.client.ref(Rival, key=other).ask({}, timeout=600)


async def ends_of(system: Any, calls: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Have keys ask others at the same time; return what is known of the error of each key, "" for none."""
    receipts = {
        key: await system.client.ref(Rival, key=key).submit({"after": 1, "others": list(others)})
        for key, others in calls.items()
    }
    found: dict[str, str] = {}
    for key, receipt in receipts.items():
        try:
            assert await receipt.result(timeout=1000) == key
            found[key] = ""
        except MessageFailed as error:
            found[key] = f"{error.type} {error.reason}"
    return found


@pytest.mark.parametrize("length", [2, 3, 7])
async def test_of_those_that_ask_each_other_at_the_same_time_one_is_told_soon_and_the_others_go_on(
    length: int, mock_clock: trio.testing.MockClock
):
    names = "abcdefg"[:length]
    async with open_test_system(Rival) as system:
        found = await ends_of(system, {key: names[(at + 1) % length] for at, key in enumerate(names)})
        (failed,) = [text for text in found.values() if text]
        assert "WouldWaitForItself" in failed
        assert failed.count("→") == length
        assert trio.current_time() < 30, "long before any ask times out"
        assert await system.broker._writer.ask(lambda store: store.execute("select * from key_waits").fetchall()) == []


async def test_a_circle_is_found_in_which_handlers_of_what_was_asked_ask_others(mock_clock: trio.testing.MockClock):
    """Of four: ann has asked ben, and eve fay; ben asks eve and fay asks ann, for these messages."""

    class Link(Entity[int]):
        settings = Settings(title="link", concurrency=8)

        @receive
        async def call(self, *, path: list[str]) -> str:
            if path:
                await trio.sleep(1)
                await self.context.client.ref(Link, key=path[0]).ask({"path": path[1:]}, timeout=600)
            return self.key

    async with open_test_system(Link) as system:
        paths = {"ann": ["ben", "eve"], "eve": ["fay", "ann"]}
        receipts = [await system.client.ref(Link, key=key).submit({"path": path}) for key, path in paths.items()]
        failed: list[str] = []
        for receipt in receipts:
            try:
                await receipt.result(timeout=1000)
            except MessageFailed as error:
                failed.append(error.reason)
        (reason,) = failed
        assert "WouldWaitForItself" in reason
        assert trio.current_time() < 30


async def test_circles_that_share_a_key_are_told_one_by_one(mock_clock: trio.testing.MockClock):
    async with open_test_system(Rival) as system:
        found = await ends_of(system, {"a": "bc", "b": "a", "c": "a", "d": "a"})
        assert found["d"] == ""
        assert found["a"] or (found["b"] and found["c"]), "which of the asks of a circle fails depends on their ids"
        assert trio.current_time() < 60


async def test_none_is_told_that_waits_for_others_without_a_circle(mock_clock: trio.testing.MockClock):
    async with open_test_system(Rival) as system:
        busy = await system.client.ref(Rival, key="z").submit({"stay": 50})
        found = await ends_of(system, {"a": "bcz", "b": "cz", "c": "z", "d": "abc"})
        assert found == dict.fromkeys("abcd", "")
        assert await busy.result() == "z"


async def test_one_whose_ask_was_answered_waits_for_nobody_any_more(mock_clock: trio.testing.MockClock):
    """It asks for long, and stays in its handler for long after; meanwhile the one that it has asked asks it."""
    async with open_test_system(Rival) as system:
        ann, ben = (system.client.ref(Rival, key=key) for key in ("ann", "ben"))
        first = await ben.submit({"stay": 5})
        asks = await ann.submit({"others": ["ben"], "stay": 60})
        await trio.sleep(1)
        second = await ben.submit({"others": ["ann"]})
        assert [await one.result(timeout=1000) for one in (first, asks, second)] == ["ben", "ann", "ben"]


async def test_one_that_gives_an_ask_up_waits_for_nobody_any_more(mock_clock: trio.testing.MockClock):
    class Hasty(Entity[int]):
        settings = Settings(title="hasty", concurrency=8)

        @receive
        async def call(self, *, other: str = "", wait: float = 600, stay: float = 0) -> str:
            if other:
                with trio.move_on_after(wait):
                    await self.context.client.ref(Hasty, key=other).ask({}, timeout=600)
            await trio.sleep(stay)
            return self.key

    async with open_test_system(Hasty) as system:
        ann, ben = (system.client.ref(Hasty, key=key) for key in ("ann", "ben"))
        first = await ben.submit({"stay": 10})
        asks = await ann.submit({"other": "ben", "wait": 5, "stay": 60})
        await trio.sleep(1)
        second = await ben.submit({"other": "ann"})
        assert [await one.result(timeout=1000) for one in (first, asks, second)] == ["ben", "ann", "ben"]


async def test_a_circle_over_an_actor_without_keys_times_out_with_a_hint(mock_clock: trio.testing.MockClock):
    class Caller(Entity[int]):
        settings = Settings(title="caller", concurrency=4)

        @receive
        async def call(self, *, others: Sequence[str] = ()) -> None:
            if others:
                await trio.sleep(1)
                await self.context.client.ref(Between).ask({"other": others[0]}, timeout=20)

    class Between(Actor):
        settings = Settings(title="between", concurrency=4)

        @receive
        async def call(self, *, other: str) -> None:
            await self.context.client.ref(Caller, key=other).ask({}, timeout=10)

    async with open_test_system([Caller, Between]) as system:
        receipts = [await system.client.ref(Caller, key=key).submit({"others": [other]}) for key, other in ("ab", "ba")]
        for receipt in receipts:
            with pytest.raises(
                MessageFailed, match=r"Or does a handler of '.' ask, too, for what waits for this one \(w"
            ):
                await receipt.result(timeout=600)


# ---- reminders ----


class Alarm(Entity[list[str]]):
    settings = Settings(title="alarm")

    @receive
    async def set_alarm(self, *, name: str, after: float) -> None:
        self.remind(name, {"type": "ring", "text": f"{name} after {after:g}"}, after=after)

    @receive
    async def drop(self, *, forgets: str) -> None:
        self.forget_reminder(forgets)

    @receive
    async def ring(self, *, text: str) -> None:
        self.state.append(text)
        if len(self.state) == 1:
            self.remind("again", {"type": "ring", "text": "again"}, after="1m")


async def _set(system: Any, name: str, after: float, key: str = "k") -> None:
    await system.client.ref(Alarm, key=key).ask({"type": "set_alarm", "name": name, "after": after})


async def test_a_reminder_comes_once_in_its_time_and_may_set_itself_again(mock_clock: trio.testing.MockClock):
    async with open_test_system(Alarm) as system:
        await _set(system, "again", 100)
        await trio.sleep(99)
        assert (await system.client.ref(Alarm, key="k").state()).value == []
        await system.drain(scheduled=True)
        assert (await system.client.ref(Alarm, key="k").state()).value == ["again after 100", "again"]
        assert trio.current_time() == pytest.approx(160, abs=2)


async def test_a_reminder_sets_itself_again_in_the_middle_of_its_handler(mock_clock: trio.testing.MockClock):
    class Checker(Entity[list[str]]):
        settings = Settings(title="checker")

        @receive
        async def check(self, *, name: str, breaks: bool = False) -> None:
            self.state.append(name)
            self.remind("check", {"name": f"{name}+", "breaks": len(self.state) == 2}, after="1m")
            await self.commit()
            if len(self.state) == 4:
                self.forget_reminder("check")
            if breaks:
                raise ValueError("it was set all the same")

    async with open_test_system(Checker) as system:
        checker = system.client.ref(Checker, key="k")
        await checker.ask({"name": "a"})
        await system.drain(scheduled=True)
        assert (await checker.state()).value == ["a", "a+", "a++", "a+++"]
        assert len(system.dead_letters) == 1


async def test_a_reminder_of_the_same_name_replaces_the_other_and_those_of_other_keys_stay(
    mock_clock: trio.testing.MockClock,
):
    async with open_test_system(Alarm) as system:
        for name, after, key in (("a", 100, "k"), ("a", 200, "k"), ("b", 50, "k"), ("a", 10, "other")):
            await _set(system, name, after, key)
        await system.drain(scheduled=True)
        assert (await system.client.ref(Alarm, key="k").state()).value == ["b after 50", "again", "a after 200"]


async def test_a_reminder_that_is_forgotten_does_not_come(mock_clock: trio.testing.MockClock):
    async with open_test_system(Alarm) as system:
        await _set(system, "a", 100)
        for name in ("a", "never set"):
            await system.client.ref(Alarm, key="k").ask({"type": "drop", "forgets": name})
        await system.drain(scheduled=True)
        assert (await system.client.ref(Alarm, key="k").state()).value == []
        assert not system.dead_letters


# ---- schemas ----


@attrs.define
class First:
    cents: int = 0


def _seller(state: type[T], **more: Any) -> type[Entity[T]]:
    class Seller(Entity[state]):  # type: ignore[valid-type] # pyright: ignore[reportInvalidTypeArguments, reportGeneralTypeIssues]
        settings = Settings(title="seller", **more)

        @receive
        async def look(self, *, add: int = 0) -> str:
            value: Any = self.state
            value.cents += add
            return str(self.state)

    return Seller


async def _stored(broker: MemoryBroker, data: bytes, schema: int) -> None:
    settings = _seller(First).settings
    await broker.entities.put(settings.default_source, settings.id, "k", data, schema=schema)


async def test_an_older_state_is_migrated_step_by_step(mock_clock: trio.testing.MockClock):
    @attrs.define
    class Third:
        cents: int = 0
        currency: str = "EUR"

    @migrates(Third, since=1)
    def in_cents(old: Mapping[str, int]) -> dict[str, int]:
        return {"cents": old["amount"] * 100}

    @migrates(Third, since=2)
    def with_currency(old: Mapping[str, Any]) -> dict[str, Any]:
        return {**old, "currency": "USD"}

    seller = _seller(Third)
    async with open_test_system(seller) as system:
        await _stored(system.broker, b'{"amount": 5}', 1)
        assert await system.client.ref(seller, key="k").ask({}) == str(Third(500, "USD"))
        state = await system.client.ref(seller, key="k").state()
        assert (state.schema, state.version) == (3, 2), "what was migrated is committed with the message"
        await _stored(system.broker, b'{"cents": 7}', 2)
        assert await system.client.ref(seller, key="k").ask({"add": 1}) == str(Third(8, "USD"))


def forget_ids(store: Store) -> None:
    store.execute("delete from seen")


async def test_a_message_that_comes_again_is_not_applied_twice(mock_clock: trio.testing.MockClock):
    async with open_test_system([Account, Ledger]) as system:
        ann = system.client.ref(Account, key="ann")
        receipts = [await ann.submit(Deposit(1)) for _ in range(3)]
        assert [await one.result() for one in receipts] == [1, 2, 3]
        sent = [one.delivery for one in system.broker.settled if one.delivery.key == "ann"]
        # As it is a day later, when the broker itself has forgotten their ids.
        await system.broker._writer.ask(forget_ids)
        again = [
            Envelope(one.source, one.id, one.payload, one.type, headers={}, key="ann")
            for one in sent
            if isinstance(one.payload, bytes)
        ]
        assert await system.broker.publish(again) == 3
        assert await ann.ask(Deposit(10)) == 13
        ends = [one.settlement for one in system.broker.settled if one.delivery.key == "ann"]
        assert [type(one) for one in ends] == [Ack, Ack, Ack, RejectSettlement, RejectSettlement, RejectSettlement, Ack]
        assert "has changed the state of 'ann' before" in str(ends[3])


async def test_a_state_that_has_gone_back_is_told_of(mock_clock: trio.testing.MockClock):
    source, group = Account.settings.default_source, Account.settings.id
    async with open_test_system([Account, Ledger]) as system:
        for key in ("ann", "ben"):
            for _ in range(3):
                await system.client.ref(Account, key=key).ask(Deposit(1))
        await system.broker.entities.forget(source, group, "ann")
        await trio.sleep(5)
        await system.broker.entities.forget(source, group, "ben")
        await system.broker.entities.put(source, group, "ben", b'{"amount": 50}')
        for key, amount in (("ann", 1), ("ben", 51)):
            assert await system.client.ref(Account, key=key).ask(Deposit(1)) == amount
        (event,) = system.of(StateForgotten)
        # Whether its own last commit was accepted, the node has not learned; that of ben is younger than what it knows.
        assert (event.key, event.known, event.found) == ("ann", 2, 0)


async def test_fields_of_a_newer_program_are_kept(mock_clock: trio.testing.MockClock):
    seller = _seller(First)
    async with open_test_system(seller) as system:
        await _stored(system.broker, b'{"cents": 7, "new": [1, 2]}', 1)
        assert await system.client.ref(seller, key="k").ask({"add": 1}) == str(First(8))
        raw = await system.client.ref("seller", key="k").state()
        assert raw.value == {"new": [1, 2], "cents": 8}


@pytest.mark.parametrize(("data", "schema"), [(b'{"cents": 7}', 2), (b'{"cents": "seven"}', 1), (b"{", 1)])
async def test_a_state_that_cannot_be_used_stalls_its_key_and_skips_no_message(
    data: bytes, schema: int, mock_clock: trio.testing.MockClock
):
    seller = _seller(First)
    async with open_test_system(seller) as system:
        await _stored(system.broker, data, schema)
        stalled = await system.client.ref(seller, key="k").submit({"add": 1})
        behind = await system.client.ref(seller, key="k").submit({"add": 10})
        assert await system.client.ref(seller, key="other").ask({"add": 2}) == str(First(2))
        await trio.sleep(30)
        assert len(system.of(EntityStalled)) == 1
        assert system.broker.settled[0].delivery.key == "other"
        assert len(system.broker.settled) == 1
        await system.client.ref(seller, key="k").put(First(1), force=True)
        assert await stalled.result() == str(First(2))
        assert await behind.result() == str(First(12))
        assert all(one.delivery.attempt == 1 and one.delivery.crashes == 0 for one in system.broker.settled)


def test_migrations_that_leave_a_version_out_are_refused():
    @attrs.define
    class Gap:
        cents: int = 0

    @migrates(Gap, since=2)
    def later(old: Any) -> Any:
        return old

    with pytest.raises(SettingsError, match="already"):
        migrates(Gap, since=2)
    with pytest.raises(SettingsError, match="of your own"):
        migrates(dict, since=1)
    with pytest.raises(SettingsError, match="from 1 on"):
        migrates(First, since=0)
    assert _started(_seller(Gap)).startswith("_seller.<locals>.Seller: there is no migration of the version 1")


# ---- what there is not ----


def _started(entity: type[Any]) -> str:
    """Return why a system with an entity does not start."""

    async def start() -> None:
        async with open_test_system(entity):
            pass

    try:
        trio.run(start)
    except Exception as raised:  # noqa: BLE001 - the cause is looked for
        error: BaseException | None = raised
        while error is not None and not isinstance(error, SettingsError):
            error = error.__cause__
        return str(error)
    return "it starts"


def test_what_an_entity_cannot_be_is_refused_when_its_class_is_made_or_it_starts():
    with pytest.raises(SettingsError, match="its own source alone"):

        class Reader(Entity[int]):  # pyright: ignore[reportUnusedClass]
            settings = Settings(title="reader", sources={"orders"})

    with pytest.raises(SettingsError, match="no key"):

        class Timed(Entity[int]):  # pyright: ignore[reportUnusedClass]
            settings = Settings(title="timed", triggers=[Trigger(title="often", schedule=Interval(seconds=5))])

    with pytest.raises(SettingsError, match="one message at a time"):

        class Many(Entity[int]):  # pyright: ignore[reportUnusedClass]
            @receive(batch=5)
            async def take(self, many: list[Deposit]) -> None: ...

    with pytest.raises(SettingsError, match="is no Entity"):

        class Plain(Actor):  # pyright: ignore[reportUnusedClass]
            settings = Settings(title="plain", entities=Entities())

    class Untyped(Entity):  # type: ignore[type-arg] # pyright: ignore[reportMissingTypeArgument]
        settings = Settings(title="untyped")

        @receive
        async def take(self, *, n: int) -> None: ...

    @attrs.define
    class Wanting:
        name: str

    assert "wants the type of its state" in _started(Untyped)
    assert "all of its fields need defaults" in _started(_seller(Wanting))
    with pytest.raises(SettingsError, match="limit"):
        Entities(limit="large")
    assert Entities(limit="2KiB").limit == 2048


async def test_what_would_not_be_durable_is_not_there(mock_clock: trio.testing.MockClock):
    refused: list[str] = []

    class Curious(Entity[int]):
        settings = Settings(title="curious")

        @receive
        async def look(self, *, n: int) -> None:
            context: Any = self.context
            for name in ("stash", "become", "watch", "spawn", "stop", "subscribe"):
                try:
                    getattr(context, name)()
                except NotRunning as error:
                    refused.append(str(error))
            with pytest.raises(NotRunning):
                _ = context.timers

    async with open_test_system(Curious) as system:
        await system.client.ref(Curious, key="k").ask({"n": 1})
    assert len(refused) == 6
    assert all("belongs into its state" in text for text in refused)


async def test_an_instance_is_a_plain_object_in_a_unit_test():
    account = Account()
    account.key, account.state = "ann", Balance(5)
    with pytest.raises(NotRunning):
        await account.deposit(Deposit(1))  # It publishes.
    assert account.in_a_thread(amount=1) == 7
    with pytest.raises(NotRunning):
        await account.commit()
    with pytest.raises(NotRunning):
        account.remind("x", Deposit(), after=1)


def test_a_commit_that_was_refused_is_not_taken_for_one_that_the_store_has_lost():
    schema = StateSchema.of(dict[str, int], "Seller", 1000)
    host: Any = None
    activation = Activation(host, "k", type("Instance", (), {})())
    stored = StoredState(version=3, data=b"{}", at=100.0, stamp="third")
    activation.load(stored, schema)
    activation.committed(StateChange(version=3, data=b"1", stamp="fourth"), at=200.0)
    assert not activation.is_ahead_of(stored), "the store may never have had the fourth"
    activation.confirm()
    assert activation.is_ahead_of(stored)
    assert activation.is_ahead_of(None)
    assert not activation.is_ahead_of(StoredState(version=1, data=b"{}", at=300.0)), "versions began anew"
