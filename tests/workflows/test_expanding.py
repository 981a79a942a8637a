"""Groups that grow: the handler of a member adds others to its group, with its settlement."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
import trio.testing

from actorwork import Actor, Message, MessageFailed, Settings, receive
from actorwork.policy.runs.values import MOST_OF_EXPANSION
from actorwork.testing import open_test_system, run_eagerly
from actorwork.workflows import Flow, Status, Step, chain, group, signal, step, together
from tests.patience import PATIENCE
from tests.workflows.conftest import OpenStage
from tests.workflows.shop import Calculator, Clerk, Note, Square, Text, Undo
from tests.workflows.test_runs import until


@attrs.frozen
class Crawl(Message["Crawler", str]):
    """A page with those that it names; some of them are visited in two steps."""

    page: str
    links: dict[str, Any] = attrs.field(factory=dict)
    in_two_steps: bool = False


@attrs.frozen
class Copied(Message["Crawler", str]):
    page: str


@attrs.frozen
class Add(Message["Crawler", str]):
    """Adds what it is told to, in its own way."""

    how: str


class Crawler(Actor):
    settings = Settings(title="crawler", sources={"pages"}, concurrency=2)

    @receive
    async def crawl(self, message: Crawl) -> str:
        for page, links in message.links.items():
            found = step(Crawler, Crawl(page, links))
            if message.in_two_steps:
                found = step(Crawler, Copied(found.result), undo=lambda page: step(Clerk, Undo(page)))
            self.context.expand([found])
        return message.page

    @receive
    async def copied(self, message: Copied) -> str:
        return f"copy of {message.page}"

    @receive
    async def add(self, message: Add) -> str:
        expand = self.context.expand
        match message.how:
            case "another type":
                expand([step(Calculator, Square(2))])
            case "not a step":
                expand([group([step(Calculator, Square(2))])])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
            case "a signal":
                expand([step(Crawler, Copied("x"), after=[signal("go", bool)])])
            case "too many":
                expand([step(Crawler, Copied("x")) for _ in range(MOST_OF_EXPANSION + 1)])
            case "twice":
                expand([step(Crawler, Copied("x"))] * 2)
            case "and continues":
                expand([step(Crawler, Copied("x"))])
                return self.context.continue_with(step(Crawler, Copied("y")))
            case _:
                expand([step(Crawler, Copied("x"))])
                raise ValueError("after all")
        return "added"


def crawl(page: str, *, in_two_steps: bool = False, **links: Any) -> Step[str]:
    return step(Crawler, Crawl(page, links, in_two_steps), name=page)


TREE = (Crawler, Calculator, Clerk)
SITE: dict[str, Any] = {"about": {"team": {}, "jobs": {"remote": {}}}, "news": {}}


async def test_a_group_grows_by_what_its_members_add_and_the_body_gets_all_results(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system(TREE):
        run = await stage.client.start(step(Calculator, Text(group([crawl("home", **SITE), crawl("end")]).results)))
        home, end, *others = await run.result()
        assert (home, end) == ("home", "end")
        assert others[:2] == ["about", "news"]
        assert sorted(others) == ["about", "jobs", "news", "remote", "team"]
        info = await run.info()
        assert (info.status, info.done, info.total) == (Status.SUCCESS, 8, 8)
        steps = await run.steps()
        assert [one.number for one in steps] == list(range(8))
        assert steps[2].needs == (0, 1, 3, 4, 5, 6, 7), "the body needs all members, those of members included"
        assert steps[3].name == "crawler 0.1"


async def test_the_watcher_of_a_run_that_grows_sees_neither_number_shrink_nor_more_done_than_there_is(
    open_stage: OpenStage,
) -> None:
    async with open_stage() as stage, stage.open_system(TREE):
        run = await stage.client.start(group([crawl(f"page {n}") for n in range(9)] + [crawl("home", a={}, b={})]))
        async with run.watch() as updates:
            seen = [(update.done, update.total) async for update in updates]
        assert all(done <= total for done, total in seen)
        assert seen == sorted(seen)
        assert [total for _, total in seen] == sorted(total for _, total in seen)
        assert seen[-1] == (12, 12)


async def test_what_a_member_needs_is_added_with_it_and_undone_as_any_other_step(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system(TREE):
        pages = group([crawl("home", in_two_steps=True, about={})])
        run = await stage.client.start(chain(pages, signal("never", str)))

        async def are_done() -> bool:
            return (await run.info()).done == 3

        await until(are_done)
        home, _, about, copy = await run.steps()
        assert (about.needs, copy.needs) == ((), (about.number,))
        assert copy.end is not None
        assert copy.end.value == '"copy of about"'
        assert home.needs == ()
        assert await run.cancel("enough")

        async def is_undone() -> bool:
            return Clerk.book == [("undo", "copy of about")]

        await until(is_undone)


async def test_what_comes_after_a_group_in_a_chain_comes_after_what_was_added_to_it(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system(TREE):
        run = await stage.client.start(chain(group([crawl("home", a={"b": {}})]), step(Clerk, Note("after"))))
        assert await run.result() == "noted after"
        steps = await run.steps()
        assert steps[1].needs == (0, 2, 3)
        assert {one.status for one in steps} == {Status.SUCCESS}


async def test_members_of_an_inner_group_stay_in_the_inner_list(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system(TREE):
        inner = group([crawl("inner", a={})])
        run = await stage.client.start(step(Calculator, Text(group([inner, group([crawl("other")])]).results)))
        assert await run.result() == [["inner", "a"], ["other"]]


async def test_outcomes_of_members_that_were_added_come_with_the_others(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system(TREE):
        members: list[Step[Any]] = [crawl("home", a={}), step(Crawler, Add("and fails"), name="bad")]
        run = await stage.client.start(step(Calculator, Text(group(members).outcomes)))
        failed = {"step": "bad", "kind": "failed", "error": "ValueError", "reason": "after all"}
        assert await run.result() == [{"value": "home"}, failed, {"value": "a"}]
        assert (await run.info()).total == 4, "a handler that fails adds nothing"


async def test_a_group_grows_once_though_its_members_are_delivered_twice_and_settlements_are_lost(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with open_test_system(list(TREE)) as system:
        system.faults.deliver_twice(Crawler, times=100)
        system.faults.lose_settlement(Crawler, times=1)
        system.faults.lose_settlement(Crawler, times=2, applied=True)
        run = await system.client.start(group([crawl("home", **SITE)]))
        assert sorted(await run.result()) == ["about", "home", "jobs", "news", "remote", "team"]
        await system.drain()
        assert (await run.info()).total == 6


async def test_a_run_that_was_cancelled_does_not_grow(open_stage: OpenStage) -> None:
    begun, go_on = trio.Event(), trio.Event()

    class Slow(Crawler):
        settings = Crawler.settings

        async def crawl(self, message: Crawl) -> str:
            begun.set()
            await go_on.wait()
            return await super().crawl(message)

    async with open_stage() as stage, stage.open_system((Slow, Calculator, Clerk)):
        run = await stage.client.start(group([crawl("home", about={})]))
        with trio.fail_after(PATIENCE):
            await begun.wait()
        assert await run.cancel("enough")
        go_on.set()
        await stage.client.ref(Crawler).ask(Copied("x"))
        info = await run.info()
        assert (info.status, info.done, info.total) == (Status.CANCELLED, 1, 1)


async def test_only_a_member_of_a_group_adds_to_it() -> None:
    with pytest.raises(MessageFailed, match="the message in flight is no step of a workflow"):
        await run_eagerly(Add("x"), TREE)
    for alone in (step(Crawler, Add("x")), together(step(Crawler, Add("x")), crawl("home"))):
        with pytest.raises(MessageFailed, match=r"this step is in none: make it a member of a group\(…\)"):
            await run_eagerly(alone, TREE)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("another type", "the results of the group are of type str, but step 'calculator' returns int"),
        ("not a step", "expand wants steps with messages, as members of the group, got <the group of 1>"),
        ("a signal", "what is added to a group cannot wait for a signal"),
        ("too many", "expand adds at most 1,000 steps"),
        ("twice", "expand wants each step once"),
        ("and continues", "a step that continues with a flow has not ended yet, and cannot add to its group"),
    ],
)
async def test_what_cannot_be_added_fails_the_step(how: str, why: str) -> None:
    with pytest.raises(MessageFailed, match=why):
        await run_eagerly(Flow(group([step(Crawler, Add(how)), crawl("home")])), TREE)
