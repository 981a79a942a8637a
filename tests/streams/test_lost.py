"""Messages whose entries were deleted by hand while a group had them pending: they end as lost, and none in silence."""

import json
from collections.abc import Sequence

import pytest
import trio

from actorwork.abc import Subscription
from actorwork.clients import open_client
from actorwork.errors import MessageFailed
from actorwork.events import MessageLost
from actorwork.message import RESULT_TTL, Envelope, Priority, Status
from actorwork.policy.settlement import Ack, Retry
from actorwork.workflows import Flow, chord, group, step
from tests.patience import PATIENCE
from tests.streams.bench_of_actors import WHY, Scene, inbox, open_scene, subscription
from tests.streams.conftest import wait_until
from tests.workflows.shop import Alarm, Calculator, Clerk, Note, Square, Sum, Undo

NUMBERS, NOTES = Calculator.settings.default_source, Clerk.settings.default_source
TRACKED = {RESULT_TTL: 60}
REASON = "its entry was deleted by hand, so it cannot be delivered again"


async def entries_at(scene: Scene, stream: str) -> list[bytes]:
    return [entry for entry, _ in await scene.call("XRANGE", stream, "-", "+")]


async def lose_all(scene: Scene, of: Subscription) -> list[bytes]:
    """Die with all messages of the source in flight, and delete their entries; return these."""
    (source,) = of.sources
    entries = await entries_at(scene, source)
    await scene.die_with(of, len(entries))
    await scene.call("XDEL", source, *entries)
    return entries


async def wait_told(scene: Scene, *ids: str) -> None:
    """Wait until these messages, and no others, were reported as lost, and nothing is pending at `group-a`."""
    with trio.fail_after(PATIENCE):
        await wait_until(lambda: len(scene.told(MessageLost)) >= len(ids))
    assert sorted(event.message_id for event in scene.told(MessageLost)) == sorted(ids)


async def check_lost(scene: Scene, sent: Sequence[Envelope], reason: str = REASON) -> None:
    for envelope in sent:
        info = await scene.broker.states.find(envelope.source, envelope.id)
        assert info is not None
        assert (info.status, info.reason, info.ended is not None) == (Status.FAILURE, reason, True)
        assert info.failure is not None
        assert info.failure.type == "Lost"
        outcome = await scene.broker.find_outcome(envelope.source, envelope.id)
        assert outcome is not None
        assert (outcome.status, outcome.failure) == ("rejected", info.failure)


async def test_a_submitted_message_whose_entry_is_deleted_at_a_dead_node_ends_as_lost(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene:
        sent = await scene.send("orders", b"1", b"2", headers=TRACKED)
        (plain,) = await scene.send("orders", b"3")
        entries = await lose_all(scene, orders)
        kept = await scene.send("orders", b"4", headers=TRACKED)
        async with scene.node(orders):
            await wait_told(scene, *(one.id for one in sent), f"of the entry {entries[2].decode()}")
            await check_lost(scene, sent)
            assert await scene.broker.find_outcome("orders", plain.id) is None
            assert (await inbox(orders).take_one()).id == kept[0].id
            assert await scene.pending("orders", "group-a") == 1


@pytest.mark.parametrize("max_crashes", [1, 2], ids=["a burial", "a suspect"])
async def test_a_message_that_died_with_processes_and_was_deleted_ends_as_lost(redis_url: str, max_crashes: int):
    orders = subscription(max_crashes=max_crashes)
    async with open_scene(redis_url) as scene:
        sent = await scene.send("orders", b"1", headers=TRACKED)
        await lose_all(scene, orders)
        async with scene.node(orders) as node:
            await wait_told(scene, sent[0].id)
            await check_lost(scene, sent)
            assert await scene.pending("orders", "group-a") == node.statistics()["dead_lettered"] == 0


async def test_an_urgent_message_is_found_in_the_stream_of_its_level(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene:
        sent = await scene.send("orders", b"1", headers=TRACKED, priority=Priority.HIGH)
        stream = "actorwork:{orders}:priority:high"
        (entry,) = await entries_at(scene, stream)
        await scene.call("XGROUP", "CREATE", stream, "group-a", "0")
        await scene.call("XREADGROUP", "GROUP", "group-a", "dead", "STREAMS", stream, ">")
        await scene.call("XDEL", stream, entry)
        async with scene.node(orders):
            await wait_told(scene, sent[0].id)
            await check_lost(scene, sent)
            assert await scene.pending(stream, "group-a") == 0


async def test_a_retry_of_a_submitted_message_whose_entry_is_gone_ends_it_as_lost(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        sent = await scene.send("orders", b"1", headers=TRACKED)
        delivery = await inbox(orders).take_one()
        await scene.call("XDEL", "orders", delivery.token[0])
        node.settle(orders, delivery, Retry(0, WHY))
        await node.wait_settled()
        await wait_told(scene, sent[0].id)
        await check_lost(scene, sent, "its entry was deleted by hand, so it cannot be tried again")


@pytest.mark.parametrize("is_running", [True, False], ids=["while its node runs", "by a node that ends"])
async def test_a_message_that_is_released_after_its_entry_was_deleted_ends_as_lost(redis_url: str, is_running: bool):
    orders = subscription()
    async with open_scene(redis_url) as scene:
        sent = await scene.send("orders", b"1", headers=TRACKED)
        async with scene.node(orders) as node:
            delivery = await inbox(orders).take_one()
            await scene.call("XDEL", "orders", delivery.token[0])
            await node.release_deliveries(orders, [delivery])
            if is_running:
                await wait_told(scene, sent[0].id)
        if not is_running:
            async with scene.node(orders):
                await wait_told(scene, sent[0].id)
        await check_lost(scene, sent)
        assert await scene.pending("orders", "group-a") == 0


async def test_lost_entries_do_not_hold_up_those_behind_them(redis_url: str):
    orders = subscription(capacity=1)
    async with open_scene(redis_url) as scene:
        sent = await scene.send("orders", b"1", b"2", b"3", b"4", headers=TRACKED)
        entries = await entries_at(scene, "orders")
        await scene.die_with(orders, 4)
        await scene.call("XDEL", "orders", *entries[:3])
        await scene.call("SET", "actorwork:{orders}:lost:group-a", "busy")  # Another node searches,
        await scene.call("SET", "actorwork:node:busy", "1")  # and is not done.
        async with scene.node(orders):
            assert (await inbox(orders).take_one()).id == sent[3].id
            assert scene.told(MessageLost) == []
            assert await scene.pending("orders", "group-a") == 4
            await scene.call("DEL", "actorwork:node:busy")  # It dies.
            await wait_told(scene, *(one.id for one in sent[:3]))
            await check_lost(scene, sent[:3])


async def test_a_node_that_ends_while_it_searches_leaves_the_rest_to_the_next(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    orders = subscription()
    async with open_scene(redis_url) as scene:
        sent = await scene.send("orders", b"1", headers=TRACKED)
        (first,) = await entries_at(scene, "orders")
        await scene.send("orders", b"2")
        entries = await lose_all(scene, orders)
        with monkeypatch.context() as patch:
            # It looks at one page, which has the tracked message, and then pauses for ever.
            patch.setattr("actorwork.streams.lost._PAUSE", 1e6)
            async with scene.node(orders):
                await wait_told(scene, sent[0].id)
        assert await scene.pending("orders", "group-a") == 1
        async with scene.node(orders):
            await wait_told(scene, sent[0].id, f"of the entry {entries[1].decode()}")
            assert await scene.pending("orders", "group-a") == 0
        assert first == entries[0]


async def test_the_message_is_found_among_thousands_of_keys_in_small_pages(redis_url: str):
    orders = subscription("or*[d]ers")
    async with open_scene(redis_url) as scene:
        await scene.broker.client.call_many([("SET", f"other:{number}", "1") for number in range(3000)])
        await scene.call("SET", "actorwork:{or*[d]ers}:state:foreign", "no hash")
        sent = await scene.send("or*[d]ers", *[b"%d" % number for number in range(1200)], headers=TRACKED)
        await scene.send("orders", b"of another source", headers=TRACKED)
        await scene.die_with(orders, len(sent))
        entries = await entries_at(scene, "or*[d]ers")
        await scene.call("XDEL", "or*[d]ers", entries[700])
        async with scene.node(orders):
            await wait_told(scene, sent[700].id)
            await check_lost(scene, [sent[700]])
            others = [one for one in sent if one is not sent[700]]
            for one in (others[0], others[699], others[-1]):
                info = await scene.broker.states.find(one.source, one.id)
                assert info is not None
                assert not info.status.is_final


async def test_of_several_groups_the_first_ends_a_lost_message_and_one_that_moved_on_stays_open(redis_url: str):
    one, two = subscription(group="group-a"), subscription(group="group-b")
    async with open_scene(redis_url) as scene:
        async with scene.node(one) as first:
            lost, moved = await scene.send("orders", b"1", b"2", headers=TRACKED)
            entries = await entries_at(scene, "orders")
            await scene.die_with(two, 2)
            got = await inbox(one).take(2)
            first.settle(one, got[1], Retry(600, WHY))
            await first.wait_settled()
            await scene.call("XDEL", "orders", *entries)
        inbox(one).waiting.clear()
        async with scene.node(one, two):
            other = f"of the entry {entries[0].decode()}"
            await wait_told(scene, lost.id, other, f"of the entry {entries[1].decode()}")
            await check_lost(scene, [lost])
            info = await scene.broker.states.find("orders", moved.id)
            assert info is not None
            assert info.status is Status.RETRY
            for group in ("group-a", "group-b"):
                assert await scene.pending("orders", group) == 0


async def test_what_a_node_still_has_in_hand_is_settled_and_is_not_lost(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node, scene.node(subscription(group="group-b")):
        sent = await scene.send("orders", b"1", headers=TRACKED)
        delivery = await inbox(orders).take_one()
        await scene.call("XDEL", "orders", delivery.token[0])
        node.notify(None)
        await trio.sleep(0.05)
        node.settle(orders, delivery, Ack(b"5"))
        await node.wait_settled()
        outcome = await scene.broker.find_outcome("orders", sent[0].id)
        assert outcome is not None
        assert (outcome.status, outcome.value, scene.told(MessageLost)) == ("done", b"5", [])


async def test_the_receipt_of_a_lost_message_raises(redis_url: str):
    clerks = subscription(NOTES)
    async with open_scene(redis_url) as scene, open_client(scene.broker) as client:
        receipt = await client.ref(Clerk).submit(Note("x"))
        await lose_all(scene, clerks)
        async with scene.node(clerks):
            with pytest.raises(MessageFailed, match="deleted by hand") as caught:
                await receipt.result(timeout=PATIENCE)
            assert caught.value.type == "Lost"
            assert await receipt.status() is Status.FAILURE


async def test_a_member_whose_entry_is_deleted_at_a_dead_node_ends_as_lost_and_its_run_fails(redis_url: str):
    numbers, clerks = subscription(NUMBERS), subscription(NOTES, group="group-b")
    async with open_scene(redis_url) as scene, open_client(scene.broker) as client:
        members = chord([step(Calculator, Square(1), name="one")], Calculator, Sum)
        flow = Flow(members, on_error=lambda failures: step(Clerk, Alarm(failures)))
        run = await client.start(flow)
        await lose_all(scene, numbers)
        async with scene.node(numbers, clerks) as node:
            await wait_told(scene, f"{run.id}/0")
            with pytest.raises(MessageFailed, match="'one' was lost: Lost: its entry was deleted by hand"):
                await run.result(timeout=PATIENCE)
            assert [info.status for info in await run.steps()] == [Status.FAILURE, Status.CANCELLED]
            state = await scene.broker.states.find(NUMBERS, f"{run.id}/0")
            assert state is not None
            assert state.status is Status.FAILURE
            alarm = await inbox(clerks).take_one()
            assert isinstance(alarm.payload, bytes)
            (told,) = json.loads(alarm.payload)["failures"]
            assert (told["kind"], told["error"], told["reason"]) == ("lost", "Lost", REASON)
            node.settle(clerks, alarm, Ack())
            assert await scene.pending(NUMBERS, "group-a") == 0


async def test_of_two_steps_whose_entries_have_one_id_in_two_streams_the_one_whose_entry_is_lost_ends(redis_url: str):
    numbers = subscription(NUMBERS)
    async with open_scene(redis_url) as scene, open_client(scene.broker) as client:
        run = await client.start(group([step(Clerk, Note("x")), *(step(Calculator, Square(one)) for one in (1, 2))]))
        state = f"actorwork:{{{NUMBERS}}}:flow:{run.id}:state"
        await scene.call("HSET", state, "p0", await scene.call("HGET", state, "p1"))
        await lose_all(scene, numbers)
        async with scene.node(numbers):
            await wait_told(scene, f"{run.id}/1", f"{run.id}/2")
            statuses = [info.status for info in await run.steps()]
            assert statuses == [Status.PENDING, Status.FAILURE, Status.FAILURE]


async def test_a_retry_of_a_member_whose_entry_is_gone_ends_it_as_lost(redis_url: str):
    numbers = subscription(NUMBERS)
    async with open_scene(redis_url) as scene, open_client(scene.broker) as client, scene.node(numbers) as node:
        run = await client.start(step(Calculator, Square(1), name="one"))
        delivery = await inbox(numbers).take_one()
        await scene.call("XDEL", NUMBERS, delivery.token[0])
        node.settle(numbers, delivery, Retry(0, WHY))
        with pytest.raises(MessageFailed, match="'one' was lost"):
            await run.result(timeout=PATIENCE)


async def test_a_step_that_is_retried_by_hand_after_it_was_lost_is_sent_again(redis_url: str):
    numbers = subscription(NUMBERS)
    async with open_scene(redis_url) as scene, open_client(scene.broker) as client:
        run = await client.start(Flow(step(Calculator, Square(1), name="one"), hold_on_failure=True))
        for attempt in ("0", "0.1"):
            await lose_all(scene, numbers)
            async with scene.node(numbers):
                with trio.fail_after(PATIENCE):
                    while await run.status() is not Status.HELD:  # noqa: ASYNC110 - the server tells nothing
                        await trio.sleep(0.01)
            assert scene.told(MessageLost)[-1].message_id == f"{run.id}/{attempt}"
            assert await run.retry()


async def test_the_undoing_of_a_step_that_is_lost_lets_the_one_before_be_undone(redis_url: str):
    numbers, clerks = subscription(NUMBERS), subscription(NOTES, group="group-b")
    async with open_scene(redis_url) as scene, open_client(scene.broker) as client:
        first = step(Calculator, Square(1), undo=lambda value: step(Clerk, Undo(value)))
        second = step(Calculator, Square(2), after=[first], undo=lambda value: step(Clerk, Undo(value)))
        run = await client.start(Flow(step(Calculator, Square(3), after=[second])))
        async with scene.node(numbers) as node:
            for _ in range(2):
                node.settle(numbers, await inbox(numbers).take_one(), Ack(b"1"))
            await inbox(numbers).take_one()
            assert await run.cancel("enough")
        await lose_all(scene, clerks)
        async with scene.node(clerks):
            await wait_told(scene, f"{run.id}/undo/1")
            assert (await inbox(clerks).take_one()).id == f"{run.id}/undo/0"
