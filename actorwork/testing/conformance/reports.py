"""What nodes report of themselves, commands to them, and what is in a source."""

from __future__ import annotations

from functools import partial

import attrs
import trio

from actorwork.abc import Broker
from actorwork.policy.settlement import Fail
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import FAILURE, open_consumer, until


async def now_of(broker: Broker) -> float:
    return (await broker.reports.nodes())[0]


class ReportTests(ContractTests):
    async def test_what_a_node_reports_is_what_it_wrote_last(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            now = await now_of(broker)
            for data in (b"first", b"\xff\x00 second"):
                mail = await broker.reports.write("n1", data, now=now, ttl=60)
                assert (mail.asks, mail.watched) == ([], 0.0)
            await other.reports.write("n2", b"other", now=now, ttl=60)
            as_of, nodes = await other.reports.nodes()
            assert as_of >= now
            assert nodes == ["n1", "n2"]
            found = await other.reports.get(["n2", "n3", "n1"])
            assert [(one.node, one.data, one.has_lease) for one in found] == [
                ("n2", b"other", False),
                ("n1", b"\xff\x00 second", False),
            ]
            assert list(await other.reports.get([])) == []
            await broker.reports.drop("n1")
            assert (await other.reports.nodes())[1] == ["n2"]
            assert [one.node for one in await other.reports.get(["n1", "n2"])] == ["n2"]

    async def test_a_report_is_gone_when_its_time_is_over(self) -> None:
        async with self.open_broker() as broker:
            now = await now_of(broker)
            await broker.reports.write("n1", b"short", now=now, ttl=0.2)
            await broker.reports.write("n2", b"long", now=now, ttl=60)

            async def is_gone() -> bool:
                return [one.node for one in await broker.reports.get(["n1", "n2"])] == ["n2"]

            await until(is_gone, "the report to be gone")

    async def test_a_report_shows_whether_its_node_holds_a_lease(self) -> None:
        async with self.open_broker() as broker:
            async with open_consumer(broker, "shop") as consumer:
                node = consumer.node.incarnation
                await broker.reports.write(node, b"{}", now=consumer.node.now(), ttl=60)
                (found,) = await broker.reports.get([node])
                assert found.has_lease
            (found,) = await broker.reports.get([node])
            assert not found.has_lease

    async def test_a_command_is_taken_once_and_its_answer_is_kept(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            await broker.reports.write("n1", b"{}", now=await now_of(broker), ttl=60)
            first = await other.commands.ask("n1", b'{"command": "stacks"}')
            second = await other.commands.ask("n1", b"\xff more")
            assert first is not None
            assert second is not None
            assert first != second
            assert await other.commands.find_answer(first) is None
            mail = await broker.commands.take("n1")
            assert [(one.id, one.data) for one in mail.asks] == [
                (first, b'{"command": "stacks"}'),
                (second, b"\xff more"),
            ]
            assert (await broker.commands.take("n1")).asks == []
            await broker.commands.answer(first, b"\x00answer")
            assert await other.commands.find_answer(first) == b"\x00answer"
            assert await other.commands.find_answer(second) is None

    async def test_a_report_takes_the_commands_that_wait(self) -> None:
        async with self.open_broker() as broker:
            write = partial(broker.reports.write, "n1", b"{}", now=await now_of(broker), ttl=60)
            await write()
            asked = await broker.commands.ask("n1", b"1")
            assert [one.id for one in (await write()).asks] == [asked]
            assert (await write()).asks == []

    async def test_a_node_that_is_gone_is_not_asked(self) -> None:
        async with self.open_broker() as broker:
            assert await broker.commands.ask("n1", b"{}") is None
            await broker.reports.write("n1", b"{}", now=await now_of(broker), ttl=60)
            await broker.commands.ask("n1", b"left behind")
            await broker.reports.drop("n1")
            assert await broker.commands.ask("n1", b"{}") is None
            assert (await broker.commands.take("n1")).asks == []

    async def test_of_too_many_commands_the_oldest_are_dropped(self) -> None:
        async with self.open_broker() as broker:
            await broker.reports.write("n1", b"{}", now=await now_of(broker), ttl=60)
            for number in range(103):
                await broker.commands.ask("n1", str(number).encode())
            assert [one.data for one in (await broker.commands.take("n1")).asks] == [
                str(number).encode() for number in range(3, 103)
            ]

    async def test_a_node_hears_of_its_commands(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other, open_consumer(broker, "shop"):
            now = await now_of(broker)
            await broker.reports.write("n1", b"{}", now=now, ttl=60)
            for asking in (broker, other):
                called = trio.Event()
                async with broker.commands.listen("n1", called.set):
                    assert await asking.commands.ask("n1", b"{}") is not None
                    with trio.fail_after(30):
                        await called.wait()
                    assert len((await broker.commands.take("n1")).asks) == 1

    async def test_nodes_hear_that_their_reports_are_watched(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other, open_consumer(broker, "shop"):
            write = partial(broker.reports.write, "n1", b"{}", now=await now_of(broker), ttl=60)
            await write()
            called = trio.Event()
            async with broker.commands.listen("n1", called.set):
                await other.reports.watch(50)
                with trio.fail_after(30):
                    await called.wait()
            assert 0 < (await write()).watched <= 50
            assert 0 < (await broker.commands.take("n1")).watched <= 50
            await other.reports.watch(0.05)

            async def is_over() -> bool:
                return (await write()).watched == 0

            await until(is_over, "the watch to be over")
            assert (await broker.reports.nodes())[1] == ["n1"]

    async def test_what_is_in_sources_is_counted(self) -> None:
        async with self.open_broker() as broker:
            assert [attrs.astuple(one) for one in await broker.reports.count(["shop"])] == [
                ("shop", 0, 0, 0, None, None)
            ]
            async with open_consumer(broker, "shop") as consumer:
                now = await now_of(broker)
                await broker.publish(self.envelopes("mail", 2))
                await broker.publish(self.envelopes("mail", 3, delay=60.0))
                await broker.publish(self.envelopes("keyed", 4, key="ann"))
                await broker.publish(self.envelopes("shop", 2))
                first, second = await consumer.take(2)
                await consumer.settle(first, Fail(FAILURE))
                found = {one.source: one for one in await broker.reports.count(["keyed", "none", "mail", "shop"])}
                assert list(found) == ["keyed", "none", "mail", "shop"]
                assert (found["mail"].backlog, found["mail"].delayed, found["mail"].dead) == (2, 3, 0)
                assert found["keyed"].backlog == 4
                assert (found["shop"].backlog, found["shop"].dead) == (1, 1)
                assert found["none"] == attrs.evolve(found["none"], backlog=0, delayed=0, dead=0, oldest=None, due=None)
                oldest, due = found["mail"].oldest, found["mail"].due
                assert oldest is not None
                assert due is not None
                assert 0 <= oldest < 60
                assert now + 59 < due < now + 160
                await consumer.settle(second)

    async def test_a_message_is_found_where_it_waits(self) -> None:
        async with self.open_broker() as broker:
            now = await now_of(broker)
            ready, first, behind, later = [
                *self.envelopes("mail", 1, headers={"who": "ann"}),
                *self.envelopes("keyed", 2, key="ann"),
                *self.envelopes("mail", 1, delay=60.0),
            ]
            await broker.publish([ready])
            await broker.publish([first, behind])
            await broker.publish([later])
            found = await broker.reports.find("mail", ready.id)
            assert found is not None
            assert (found.where, found.data, dict(found.headers), found.due) == ("ready", b"0", {"who": "ann"}, None)
            found = await broker.reports.find("keyed", behind.id)
            assert found is not None
            assert (found.where, found.key, found.data) == ("key", "ann", b"1")
            found = await broker.reports.find("keyed", first.id)
            assert found is not None
            assert (found.where, found.key) == ("ready", "ann")
            found = await broker.reports.find("mail", later.id)
            assert found is not None
            assert found.where == "delayed"
            assert found.due is not None
            assert now + 59 < found.due < now + 160
            assert await broker.reports.find("mail", first.id) is None
            assert await broker.reports.find("none", first.id) is None
