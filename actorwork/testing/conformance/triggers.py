"""Each nominal time of a trigger fires once, and nothing paused begins."""

from __future__ import annotations

from typing import Any

import attrs
import trio

from actorwork.message import Envelope, Unique
from actorwork.records import Pause, TriggerChanges, TriggerDefinition
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import open_consumer, true_of, until

NIGHTLY = TriggerDefinition(
    source="shop",
    id="0123456789abcdef",
    actor="shop",
    title="nightly",
    schedule='{"cron": "0 3 * * *", "timezone": "UTC"}',
    data=b'{"kind": "full"}',
    details={"catchup": "all", "lifetime": None},
)
HOURLY = attrs.evolve(NIGHTLY, id="fedcba9876543210", title="hourly", schedule='{"every": 3600.0}', type="Hour")


def message_of(definition: TriggerDefinition, nominal: int, **more: Any) -> Envelope:
    return Envelope(definition.source, f"{definition.id}-{nominal:x}", definition.data, definition.type, **more)


class TriggerTests(ContractTests):
    async def test_a_trigger_keeps_its_first_registration(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            first, _ = await broker.triggers.register("shop", [NIGHTLY, HOURLY])
            assert first.last == first.registered
            assert first.definition == NIGHTLY
            await trio.sleep(0.002)
            changed = attrs.evolve(NIGHTLY, data=b"{}", details={"catchup": "one"})
            again, hourly = await other.triggers.register("shop", [changed, HOURLY])
            assert (again.registered, again.last) == (first.registered, first.last)
            assert await broker.triggers.list() == [hourly, again], "in the order of their titles"
            assert again.definition == changed

    async def test_a_trigger_that_is_declared_no_more_is_kept_as_such(self) -> None:
        async with self.open_broker() as broker:
            await broker.triggers.register("shop", [NIGHTLY, HOURLY])
            await broker.triggers.register("elsewhere", [attrs.evolve(NIGHTLY, source="elsewhere", actor="other")])
            await broker.triggers.register("shop", [HOURLY])
            found = {
                (one.definition.actor, one.definition.title): one.is_declared for one in await broker.triggers.list()
            }
            assert found == {("shop", "nightly"): False, ("shop", "hourly"): True, ("other", "nightly"): True}
            assert await broker.triggers.forget("shop", NIGHTLY.id)
            assert not await broker.triggers.forget("shop", NIGHTLY.id)
            assert len(await broker.triggers.list()) == 2
            back, _ = await broker.triggers.register("shop", [NIGHTLY, HOURLY])
            assert back.is_declared

    async def test_of_all_who_fire_a_nominal_time_one_does(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other, open_consumer(broker, "shop") as consumer:
            (record,) = await broker.triggers.register("shop", [NIGHTLY])
            outcomes: list[str] = []

            async def fire(which: Any, decided: int, nominal: int) -> None:
                firing = await which.triggers.fire(
                    NIGHTLY, decided=decided, last=nominal, messages=[message_of(NIGHTLY, nominal)]
                )
                assert firing.last == nominal
                outcomes.append(firing.outcome)

            decided = record.last
            for nominal in (decided + 1000, decided + 2000):
                async with trio.open_nursery() as nursery:
                    for which in (broker, other) * 5:
                        nursery.start_soon(fire, which, decided, nominal)
                decided = nominal
            assert sorted(outcomes) == ["decided"] * 18 + ["fired"] * 2
            found = await consumer.take(2)
            assert [one.id for one in found] == [f"{NIGHTLY.id}-{decided - ms:x}" for ms in (1000, 0)]
            assert found[0].payload == NIGHTLY.data
            await consumer.expect_nothing()
            (record,) = await other.triggers.list()
            assert (record.last, record.fired) == (decided, 2)

    async def test_several_missed_times_fire_in_one_step(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "shop") as consumer:
            (record,) = await broker.triggers.register("shop", [HOURLY])
            times = [record.last + n for n in range(1, 11)]
            messages = [message_of(HOURLY, nominal, headers={"n": nominal}) for nominal in times]
            firing = await broker.triggers.fire(HOURLY, decided=record.last, last=times[-1], messages=messages)
            assert (firing.outcome, firing.kept) == ("fired", 10)
            found = await consumer.take(10)
            assert [one.headers["n"] for one in found] == times
            assert {one.type for one in found} == {"Hour"}

    async def test_a_message_that_may_not_overlap_counts_as_decided(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "shop") as consumer:
            (record,) = await broker.triggers.register("shop", [HOURLY])
            last, unique = record.last, Unique("trigger", 60, "first")
            for expected in (1, 0):
                message = message_of(HOURLY, last + 1, unique=unique)
                firing = await broker.triggers.fire(HOURLY, decided=last, last=last + 1, messages=[message])
                last += 1
                assert (firing.outcome, firing.last, firing.kept) == ("fired", last, expected)
            await consumer.settle(await consumer.take_one())
            firing = await broker.triggers.fire(
                HOURLY, decided=last, last=last + 1, messages=[message_of(HOURLY, last + 1, unique=unique)]
            )
            assert firing.kept == 1

    async def test_a_changed_schedule_begins_now_and_who_has_the_one_before_is_told(self) -> None:
        async with self.open_broker() as broker:
            (record,) = await broker.triggers.register("shop", [NIGHTLY])
            await trio.sleep(0.005)
            changed = attrs.evolve(NIGHTLY, schedule='{"every": 60.0}')
            (after,) = await broker.triggers.register("shop", [changed])
            assert after.registered == record.registered
            assert after.last > record.last
            message = message_of(NIGHTLY, record.last + 1)
            firing = await broker.triggers.fire(NIGHTLY, decided=after.last, last=after.last + 1, messages=[message])
            assert firing.outcome == "superseded"
            assert await broker.backlog("shop") == 0

    async def test_an_unknown_trigger_does_not_fire(self) -> None:
        async with self.open_broker() as broker:
            firing = await broker.triggers.fire(NIGHTLY, decided=0, last=1, messages=[message_of(NIGHTLY, 1)])
            assert firing.outcome == "unknown"
            assert await broker.backlog("shop") == 0
            assert not await broker.triggers.skip("shop", NIGHTLY.id)

    async def test_what_is_skipped_is_decided(self) -> None:
        async with self.open_broker() as broker:
            (record,) = await broker.triggers.register("shop", [NIGHTLY])
            await trio.sleep(0.005)
            assert await broker.triggers.skip("shop", NIGHTLY.id)
            (after,) = await broker.triggers.list()
            assert after.last > record.last
            firing = await broker.triggers.fire(
                NIGHTLY, decided=record.last, last=record.last + 1, messages=[message_of(NIGHTLY, 1)]
            )
            assert (firing.outcome, firing.last) == ("decided", after.last)

    async def test_what_users_change_stays_in_force_when_the_code_registers_again(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            (record, hourly) = await broker.triggers.register("shop", [NIGHTLY, HOURLY])
            before = await broker.triggers.changes()
            changes = TriggerChanges(schedule='{"every": 60.0}', details={"catchup": "one"}, by="ann", reason="a test")
            await trio.sleep(0.005)
            changed = await other.triggers.amend(NIGHTLY, changes, revision=0, is_put=False, begins_now=True)
            assert changed is not None
            assert await broker.triggers.changes() != before
            assert changed.changes is not None
            assert changed.changes.at > 1
            assert attrs.evolve(changed.changes, at=0) == changes
            assert changed.revision > 0
            assert changed.last > record.last
            assert (changed.code, changed.is_declared, changed.is_put) == (NIGHTLY, True, False)
            assert changed.definition == attrs.evolve(
                NIGHTLY, schedule='{"every": 60.0}', details={"catchup": "one", "lifetime": None}
            )
            assert await broker.triggers.list() == [hourly, changed]
            assert await other.triggers.amend(NIGHTLY, None, revision=0, is_put=False) is None, "another was quicker"
            newer = attrs.evolve(NIGHTLY, schedule='{"every": 7200.0}', data=b"{}")
            (again, _) = await broker.triggers.register("shop", [newer, HOURLY])
            assert (again.last, again.revision) == (changed.last, changed.revision)
            assert (again.code, again.changes) == (newer, changed.changes)
            assert (again.definition.schedule, again.definition.data) == ('{"every": 60.0}', b"{}")
            reset = await other.triggers.amend(newer, None, revision=again.revision, is_put=False)
            assert reset is not None
            assert (reset.definition, reset.changes, reset.code) == (newer, None, None)
            assert reset.revision > again.revision

    async def test_a_trigger_that_is_put_is_there_whether_or_not_code_declares_it(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            all_of_it = TriggerChanges(
                schedule=NIGHTLY.schedule, data=NIGHTLY.data, details=NIGHTLY.details, is_on=False
            )
            put = await broker.triggers.amend(NIGHTLY, all_of_it, revision=0, is_put=True)
            assert put is not None
            assert (put.definition, put.is_put, put.is_declared, put.is_on) == (NIGHTLY, True, False, False)
            assert (put.last, put.fired) == (put.registered, 0)
            assert await other.triggers.list() == [put]
            code = attrs.evolve(NIGHTLY, schedule='{"every": 5.0}', data=b"{}", type="Hour")
            (declared,) = await other.triggers.register("shop", [code])
            assert (declared.definition, declared.code, declared.is_declared) == (NIGHTLY, code, True)
            await other.triggers.register("shop", [])
            (dropped,) = await broker.triggers.list()
            assert (dropped.definition, dropped.is_put, dropped.is_declared) == (NIGHTLY, True, False)
            before = await broker.triggers.changes()
            assert await broker.triggers.forget("shop", NIGHTLY.id)
            assert await broker.triggers.changes() != before
            assert await other.triggers.list() == []

    async def test_who_does_not_know_a_change_fires_nothing(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "shop") as consumer:
            (record,) = await broker.triggers.register("shop", [NIGHTLY])
            changes = TriggerChanges(data=b'{"kind": "changed"}')
            changed = await broker.triggers.amend(NIGHTLY, changes, revision=0, is_put=False)
            assert changed is not None
            nominal = record.last + 1000
            for revision, expected in ((0, "changed"), (changed.revision, "fired"), (changed.revision, "decided")):
                firing = await broker.triggers.fire(
                    changed.stored,
                    decided=record.last,
                    last=nominal,
                    messages=[message_of(changed.definition, nominal)],
                    revision=revision,
                )
                assert firing.outcome == expected
            assert (await consumer.take_one()).payload == b'{"kind": "changed"}'
            await consumer.expect_nothing()

    async def test_who_watches_is_told_that_a_user_has_changed_a_trigger(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other, open_consumer(broker, "shop"):
            await broker.triggers.register("shop", [NIGHTLY])
            told: list[None] = []
            async with broker.pauses.watch(lambda: told.append(None)):
                record = await other.triggers.amend(NIGHTLY, TriggerChanges(is_on=False), revision=0, is_put=False)
                assert record is not None
                await until(true_of(lambda: bool(told)), "to be told of a change")
                told.clear()
                await other.triggers.forget("shop", NIGHTLY.id)
                await until(true_of(lambda: bool(told)), "to be told of an end")


class PauseTests(ContractTests):
    async def test_what_is_paused_is_listed_with_its_reason_until_it_is_resumed(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            assert await broker.pauses.list() == []
            pause = await broker.pauses.pause("actor", "shöp", reason="stock-taking", by="ann")
            assert attrs.evolve(pause, at=0) == Pause("actor", "shöp", "stock-taking", "ann")
            assert pause.at > 1
            assert await other.pauses.pause("actor", "shöp", reason="another") == pause
            everything = await other.pauses.pause("everything")
            assert {str(one) for one in await broker.pauses.list()} == {"everything", "actor 'shöp'"}
            assert everything in await broker.pauses.list()
            assert await other.pauses.resume("actor", "shöp")
            assert not await broker.pauses.resume("actor", "shöp")
            assert await broker.pauses.list() == [everything]

    async def test_who_watches_is_told_of_changes_by_anybody(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other, open_consumer(broker, "shop"):
            told: list[None] = []
            async with broker.pauses.watch(lambda: told.append(None)):
                # None of them undoes the one before: an unchanged state need not be reported.
                for change, source in (
                    (other.pauses.pause, "shop"),
                    (other.pauses.pause, "mail"),
                    (broker.pauses.pause, "till"),
                    (other.pauses.resume, "shop"),
                ):
                    told.clear()
                    await change("source", source)
                    await until(true_of(lambda: bool(told)), "to be told")

    async def test_from_a_source_that_is_withheld_nothing_is_taken(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "shop", "mail") as consumer:
            # Both sources have a reader before one of them is withheld.
            await broker.publish([*self.envelopes("shop", 1), *self.envelopes("mail", 1)])
            for delivery in await consumer.take(2):
                await consumer.settle(delivery)
            consumer.node.pause_sources(consumer.subscription, {"shop"})
            # A delivery already read may still be offered, and sources in several slots are read independently of each
            # other: it is released whenever it comes. What is sent after it was not read yet.
            (early,) = self.envelopes("shop", 1)

            async def expect_mail(wanted: str) -> None:
                while (one := await consumer.take_one()).source == "shop":
                    assert one.id == early.id
                    await consumer.release_deliveries(one)
                assert one.id == wanted
                await consumer.settle(one)

            await broker.publish([early])
            await broker.publish([Envelope("mail", "probe", b"1")])
            await expect_mail("probe")
            await broker.publish(self.envelopes("shop", 5))
            for envelope in self.envelopes("mail", 3):
                await broker.publish([envelope])
                await expect_mail(envelope.id)
            consumer.node.pause_sources(consumer.subscription, {"shop", "mail"})
            await trio.sleep(0.05)
            consumer.node.pause_sources(consumer.subscription, ())
            found = await consumer.take(6)
            # One that was released comes again before or after those that were not read yet.
            assert early.id in {one.id for one in found}
            assert [one.payload for one in found if one.id != early.id] == [b"0", b"1", b"2", b"3", b"4"]

    async def test_the_times_of_a_trigger_that_pass_during_its_pause_are_decided_at_its_end(self) -> None:
        async with self.open_broker() as broker:
            for kind, name in (("trigger", "shop/nightly"), ("triggers", "shop")):
                (record, untouched) = await broker.triggers.register("shop", [NIGHTLY, HOURLY])
                await broker.pauses.pause(kind, name)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
                await trio.sleep(0.005)
                await broker.pauses.resume(kind, name)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
                found = {one.definition.id: one.last for one in await broker.triggers.list()}
                assert found[NIGHTLY.id] > record.last
                assert (found[HOURLY.id] > untouched.last) is (kind == "triggers")
