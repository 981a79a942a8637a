"""A source as lines of JSON: a backup, and a move to another broker, in every direction."""

import io
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from click.testing import CliRunner

from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.cli.commands import actorwork
from actorwork.clients.copying import Copied, export_source, import_source
from actorwork.errors import BrokerError
from actorwork.message import ATTEMPT, FLOW, Envelope, Failure, Priority, Unique
from actorwork.policy.settlement import Fail, Retry
from actorwork.testing.conformance.fake_consumer import open_consumer

FAILURE = Failure("ValueError", "no", "a trace\n")
Opening = Callable[[], AbstractAsyncContextManager[Broker]]


@pytest.fixture(
    params=[
        "redis to file",
        "file to redis",
        "redis to redis",
        "file to file",
        pytest.param("redis to cluster", marks=pytest.mark.long),
        pytest.param("cluster to redis", marks=pytest.mark.long),
        pytest.param("file to cluster", marks=pytest.mark.long),
    ]
)
def brokers(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Opening, Opening]:
    """Two brokers that know nothing of each other."""
    here, _, there = request.param.partition(" to ")
    return _opening(here, "a", request, tmp_path), _opening(there, "b", request, tmp_path)


def _opening(kind: str, name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Opening:
    if kind == "file":
        return partial(open_broker, f"sqlite:///{tmp_path / name}.sqlite3")
    if kind == "cluster":
        cluster = request.getfixturevalue("redis_cluster")
        cluster.flush()
        return partial(open_broker, cluster.url)
    url = request.getfixturevalue("redis_url")
    # Another database of the same server: other keys.
    return partial(open_broker, url if name == "a" else f"{url.partition('?')[0]}?db=7")


async def exported(broker: Broker, source: str = "orders") -> tuple[list[str], Copied]:
    lines: list[str] = []
    done = await export_source(broker, source, lines.append)
    return lines, done


async def fill(broker: Broker) -> None:
    """Send one of each kind to a source."""
    await broker.publish(
        [
            Envelope("orders", "plain", b'{"n": 1}', "Order", {"who": "Ann", "n": 2**60, "none": []}),
            Envelope("orders", "0123456789abcdef-7", b"1"),
            Envelope("orders", "urgent", b"2", priority=Priority.HIGH),
            Envelope("orders", "k1", b"1", key="k"),
            Envelope("orders", "k2", b"2", key="k"),
            Envelope("orders", "k3", b"3", key="k", priority=Priority.LOW),
            Envelope("orders", "later", b"3", at=4_000_000_000.0, headers={"a": 1}),
            Envelope("orders", "only", b"4", expires=4_100_000_000.0, unique=Unique("u", ttl=500)),
        ]
    )


async def take_all(broker: Broker, source: str = "orders") -> list[Any]:
    """Handle what is ready; return it in its order."""
    async with open_consumer(broker, source) as consumer:
        taken: list[Any] = []
        while (left := await broker.backlog(source)) > 0:
            with trio.fail_after(60):
                one = await consumer.take_one()
            taken.append(one)
            await consumer.settle(one)
            assert left > 0
        return taken


async def test_everything_arrives_with_its_id_and_terms(brokers: tuple[Opening, Opening]):
    here, there = brokers
    async with here() as old, there() as new:
        await fill(old)
        lines, done = await exported(old)
        assert (done.messages, done.dead, done.is_whole) == (8, 0, True)
        result = await import_source(new, lines)
        assert (result.messages, result.new_messages, result.is_whole) == (8, 8, True)
        assert await new.backlog("orders") == 7
        (held,) = await new.delayed.list("orders")
        assert (held.id, held.due, held.headers["a"]) == ("later", 4_000_000_000.0, 1)
        taken = await take_all(new)
        by_id = {one.id: one for one in taken}
        assert by_id.keys() == {"plain", "0123456789abcdef-7", "urgent", "k1", "k2", "k3", "only"}
        plain = by_id["plain"]
        assert (plain.payload, plain.type) == (b'{"n": 1}', "Order")
        assert (plain.headers["who"], plain.headers["n"], plain.headers["none"]) == ("Ann", 2**60, [])
        assert by_id["urgent"].priority is Priority.HIGH
        assert [one.id for one in taken if one.key == "k"] == ["k1", "k2", "k3"]
        assert by_id["only"].expires == 4_100_000_000.0


async def test_a_second_import_adds_nothing(brokers: tuple[Opening, Opening]):
    here, there = brokers
    async with here() as old, there() as new:
        await fill(old)
        async with open_consumer(old, "letters") as consumer:
            await old.publish([Envelope("letters", "bad", b"1")])
            await consumer.settle(await consumer.take_one(), Fail(FAILURE))
        for source in ("orders", "letters"):
            lines, _ = await exported(old, source)
            await import_source(new, lines)
            again = await import_source(new, lines)
            assert (again.new_messages, again.new_dead) == (0, 0)
            assert again.messages + again.dead > 0
        # Not even after they were handled there.
        await take_all(new)
        lines, _ = await exported(old)
        assert (await import_source(new, lines)).new_messages == 0
        assert len(await new.dead_letters.list()) == 1


async def test_an_import_that_was_cut_off_goes_on(brokers: tuple[Opening, Opening]):
    here, there = brokers
    async with here() as old, there() as new:
        await old.publish([Envelope("orders", f"m{n}", b"1") for n in range(1200)])
        lines, _ = await exported(old)
        cut = await import_source(new, lines[:700])
        assert (cut.new_messages, cut.is_whole) == (699, False)
        rest = await import_source(new, lines)
        assert (rest.new_messages, rest.is_whole) == (501, True)
        assert await new.backlog("orders") == 1200


async def test_what_is_in_hand_comes_too_and_so_do_attempts_and_the_turn_of_a_key(brokers: tuple[Opening, Opening]):
    here, there = brokers
    async with here() as old, there() as new:
        async with open_consumer(old, "orders") as consumer:
            await old.publish([Envelope("orders", name, name.encode(), key="k") for name in ("1", "2", "3")])
            await old.publish([Envelope("orders", "held", b"4")])
            first, held = sorted([await consumer.take_one(), await consumer.take_one()], key=lambda one: one.id)
            assert (first.id, held.id) == ("1", "held")
            # It waits for its next attempt, and the others of its key for it.
            await consumer.settle(first, Retry(1000.0, FAILURE))
            lines, done = await exported(old)
            assert done.messages == 4
        await import_source(new, lines)
        taken = await take_all(new)
        assert [one.id for one in taken if one.key == "k"] == ["1", "2", "3"]
        (again,) = [one for one in taken if one.id == "1"]
        assert (again.attempt, again.headers[ATTEMPT]) == (2, 2)
        assert "held" in {one.id for one in taken}


async def test_dead_letters_arrive_and_can_be_replayed(brokers: tuple[Opening, Opening]):
    here, there = brokers
    async with here() as old, there() as new:
        async with open_consumer(old, "orders") as consumer:
            await old.publish([Envelope("orders", "bad", b'{"n": 1}', "Order", {"who": "Ann"})])
            await consumer.settle(await consumer.take_one(), Fail(FAILURE))
        (before,) = await old.dead_letters.list("orders")
        lines, done = await exported(old)
        assert (done.messages, done.dead) == (0, 1)
        assert (await import_source(new, lines)).new_dead == 1
        (letter,) = await new.dead_letters.list("orders")
        facts = ("id", "group", "actor", "failure", "attempt", "payload", "type")
        assert [getattr(letter, fact) for fact in facts] == [getattr(before, fact) for fact in facts]
        assert letter.at == pytest.approx(before.at, abs=0.001)
        assert await new.dead_letters.replay("orders", [letter.entry]) == 1
        (taken,) = await take_all(new)
        assert (taken.id, taken.payload, taken.headers["who"]) == ("bad", b'{"n": 1}', "Ann")


async def test_ids_that_were_seen_are_not_taken_again_if_the_source_was_paused(brokers: tuple[Opening, Opening]):
    here, there = brokers
    ids = ["own", *(f"0123456789abcdef-{n:x}" for n in (0, 1, 2, 1023, 1024, 70000))]
    async with here() as old, there() as new:
        await old.publish([Envelope("orders", name, b"1") for name in ids])
        await take_all(old)
        _, done = await exported(old)
        assert (done.has_marks, done.seen) == (False, 0), "it is not paused"
        await old.pauses.pause("source", "orders")
        lines, done = await exported(old)
        assert done.has_marks
        await import_source(new, lines)
        assert await new.publish([Envelope("orders", name, b"1") for name in ids]) == 0
        assert await new.publish([Envelope("orders", "0123456789abcdef-3", b"1")]) == 1


async def test_a_move_while_producers_go_on_loses_and_doubles_nothing(brokers: tuple[Opening, Opening]):
    here, there = brokers
    async with here() as old, there() as new:
        await old.publish([Envelope("orders", f"a{n}", b"1") for n in range(30)])
        await old.pauses.pause("source", "orders")
        lines, _ = await exported(old)
        # Producers go on at the old broker; one repeats at the new one what it is not sure of.
        await old.publish([Envelope("orders", f"b{n}", b"1") for n in range(20)])
        await import_source(new, lines)
        await new.publish([Envelope("orders", name, b"1") for name in ("a29", "c0")])
        lines, _ = await exported(old)
        assert (await import_source(new, lines)).new_messages == 20
        taken = [one.id for one in await take_all(new)]
        assert sorted(taken) == sorted([f"a{n}" for n in range(30)] + [f"b{n}" for n in range(20)] + ["c0"])


async def test_under_another_name_and_without_steps_of_runs(brokers: tuple[Opening, Opening]):
    here, there = brokers
    async with here() as old, there() as new:
        await old.publish([Envelope("orders", "1", b"1"), Envelope("orders", "step", b"1", headers={FLOW: ["run", 1]})])
        lines, done = await exported(old)
        assert (done.messages, done.steps) == (1, 1)
        assert (await import_source(new, lines, source="copies")).source == "copies"
        assert (await new.backlog("orders"), await new.backlog("copies")) == (0, 1)


async def test_what_a_foreign_producer_wrote_arrives_as_the_object_of_its_fields(redis_url: str, tmp_path: Path):
    async with open_broker(redis_url) as old, open_broker(f"sqlite:///{tmp_path / 'b.sqlite3'}") as new:
        entry = await cast("Any", old).client.call("XADD", "orders", "*", "name", "Ann")
        lines, _ = await exported(old)
        await import_source(new, lines)
        assert (await import_source(new, lines)).new_messages == 0
        (taken,) = await take_all(new)
        assert (taken.id, taken.payload) == (entry.decode(), b'{"name": "Ann"}')


async def test_what_one_of_two_actors_has_settled_is_for_the_other_alone(redis_url: str, tmp_path: Path):
    async with open_broker(redis_url) as old, open_broker(f"sqlite:///{tmp_path / 'b.sqlite3'}") as new:
        for here, there in ((old, new), (new, old)):
            source = f"from {here.url.partition(':')[0]}"
            async with (
                open_consumer(here, source, group="group-a") as one,
                open_consumer(here, source, group="group-b") as other,
            ):
                await here.publish([Envelope(source, "1", b"1")])
                await one.settle(await one.take_one())
                await other.take_one()
                lines, done = await exported(here, source)
                assert done.messages == 1
            await import_source(there, lines)
            assert '"group": "group-b"' in lines[1]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["{}"], "line 1 wants a JSON object as `actorwork export` writes it"),
        (["nonsense"], "line 1 wants a JSON object"),
        (['{"message": {"id": "1", "data": "1"}}'], "line 1 wants the beginning of an export of version 1"),
        (['{"actorwork": 2, "source": "orders"}'], "line 1 wants the beginning of an export of version 1"),
        (
            ['{"actorwork": 1, "source": "orders"}', '{"message": {"id": "1"}}'],
            "line 2 is no message .KeyError: 'data'",
        ),
        (['{"actorwork": 1, "source": "orders"}', '{"seen": {"stem": "a", "ranges": 3}}'], "line 2 is no seen"),
    ],
)
async def test_a_file_that_is_none_is_refused_with_the_number_of_the_line(lines: list[str], complaint: str):
    async with open_broker("sqlite://") as broker:
        with pytest.raises(BrokerError, match=complaint):
            await import_source(broker, lines)
        assert await broker.backlog("orders") == 0


def test_the_command_line_moves_a_source_and_says_what_it_did(tmp_path: Path):
    here, there = (f"sqlite:///{tmp_path / name}.sqlite3" for name in ("a", "b"))

    async def send() -> None:
        async with open_broker(here) as broker:
            await broker.publish([Envelope("orders", f"m{n}", b"1") for n in range(3)])

    trio.run(send)
    runner = CliRunner()
    done = runner.invoke(actorwork, ["export", "orders", "--broker", here], catch_exceptions=False)
    assert done.exit_code == 0
    assert "exported 3 messages and 0 dead letters of 'orders'" in done.stderr
    assert "without the ids that it has seen, since it was not paused" in done.stderr
    lines = io.StringIO(done.stdout)
    for said in (
        "added 3 messages and 0 dead letters to 'orders'",
        "added 0 messages and 0 dead letters to 'orders'; 3",
    ):
        lines.seek(0)
        taken = runner.invoke(actorwork, ["import", "--broker", there], input=lines.read(), catch_exceptions=False)
        assert taken.exit_code == 0
        assert said in taken.output
    cut = runner.invoke(actorwork, ["import", "--broker", there], input=done.stdout.rpartition('{"end"')[0])
    assert cut.exit_code == 1
    assert "the file is incomplete" in cut.output


def test_a_file_is_named_in_errors_and_written_and_read(tmp_path: Path):
    here, file = f"sqlite:///{tmp_path / 'a.sqlite3'}", tmp_path / "orders.jsonl"
    runner = CliRunner()
    missing = runner.invoke(actorwork, ["import", str(file), "--broker", here])
    assert (missing.exit_code, "No such file" in missing.output) == (1, True)
    file.write_bytes(b"\xff\n")
    assert "is no file that `actorwork export` writes" in runner.invoke(actorwork, ["import", str(file)]).output
    assert runner.invoke(actorwork, ["export", "orders", "-o", str(file), "--broker", here]).exit_code == 0
    done = runner.invoke(actorwork, ["import", str(file), "--broker", here])
    assert "added 0 messages and 0 dead letters to 'orders'" in done.output
