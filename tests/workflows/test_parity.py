"""The rules of runs are written twice, in Python and in Lua: stories of all kinds end alike at every broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trio
from hypothesis import strategies as st

from actorwork.embedded.run_book import RunBook
from actorwork.policy.runs import rules
from actorwork.policy.runs.values import RESULT, End, Wants
from actorwork.streams import forwarding, plans
from actorwork.testing import MemoryBroker
from actorwork.testing.redis_cluster import RedisCluster
from tests.forms import forms
from tests.workflows import stories as told_to
from tests.workflows.pages import use_small_pages
from tests.workflows.stories import Story, open_teller, stories


async def told(story: Story, urls: dict[str, Any]) -> dict[str, list[object]]:
    seen: dict[str, list[object]] = {}

    async def tell(name: str, url: Any) -> None:
        async with open_teller(url) as teller:
            seen[name] = await teller.tell(story)

    async with trio.open_nursery() as nursery:
        for name, url in urls.items():
            nursery.start_soon(tell, name, url)
    return seen


def check(story: Story, folder: Path, *redis_urls: str) -> None:
    urls = {"memory": MemoryBroker(), "sqlite": f"sqlite:///{folder}/messages.db"}
    urls |= {url.partition(":")[0]: url for url in redis_urls}
    seen = trio.run(told, story, urls)
    for event in zip(*(seen[name] for name in urls), strict=True):
        for name, other in zip(urls, event, strict=True):
            assert other == event[0], f"{name} differs from memory"


def check_in_pages(story: Story, size: int, patch: pytest.MonkeyPatch, folder: Path, *redis_urls: str) -> None:
    """Check that a story ends as ever if no script, and no transaction, does more than `size` steps of it."""
    (whole,) = trio.run(told, story, {"memory": MemoryBroker()}).values()
    with patch.context() as within:
        use_small_pages(within, size)
        urls: dict[str, Any] = {"sqlite": f"sqlite:///{folder}/messages.db"}
        paged = trio.run(told, story, urls | {url.partition(":")[0]: url for url in redis_urls})
    for name, seen in paged.items():
        for one, other in zip(whole, seen, strict=True):
            assert other == one, name


def one_by_one(*needs: Sequence[tuple[int, Wants]], undo: bool = False) -> Any:
    return tuple((tuple(need), False, undo) for need in needs)


STORIES = {
    "an end that comes again": Story(
        one_by_one((), (), [(0, "outcome")]),
        ((1, "outcome"), (2, "outcome")),
        (("failed", 0), ("replay", 0), ("done", 0), ("done", 0), ("done", 0)),
    ),
    "an outcome is taken": Story(
        one_by_one((), [(0, "outcome")]), ((1, "result"),), (("failed", 0), ("done", 0))
    ),
    "a result is missing": Story(
        one_by_one((), [(0, "result")], ()), ((1, "outcome"), (2, "result")), (("failed", 0), ("done", 0))
    ),
    "the result itself is missing": Story(one_by_one(()), ((0, "result"),), (("rejected", 0),)),
    "a result is missing, and the failure is taken": Story(
        one_by_one((), [(0, "result")], [(0, "outcome")]),
        ((1, "result"), (2, "outcome")),
        (("failed", 0), ("done", 0)),
    ),
    "one beside the result has failed": Story(one_by_one((), ()), ((1, "result"),), (("failed", 0), ("done", 0))),
    "a pause": Story(
        one_by_one((), [(0, "result")]), ((1, "result"),), (("pause", 0), ("done", 0), ("resume", 0), ("done", 0))
    ),
    "a retry of what is held": Story(
        one_by_one((), (), [(0, "result"), (1, "outcome")]),
        ((2, "result"),),
        (("failed", 0), ("done", 0), ("retry", 0), ("done", 0), ("done", 0)),
        holds=True,
    ),
    "a cancel of what is held": Story(
        one_by_one((), (), [(0, "result"), (1, "result")]),
        ((2, "result"),),
        (("failed", 0), ("cancel", 0)),
        holds=True, tells_errors=True,
    ),
    "a failure while the run is paused": Story(
        one_by_one(()), ((0, "result"),), (("pause", 0), ("failed", 0), ("resume", 0), ("retry", 0), ("done", 0)),
        holds=True,
    ),
    "undoing that is interrupted": Story(
        one_by_one((), (), (), undo=True),
        ((0, "outcome"),),
        (
            ("failed", 0), ("done", 0), ("failed", 0), ("retry", 0), ("done", 0), ("failed", 0), ("done", 0),
            ("done", 0), ("done", 0),
        ),
        tells_errors=True,
    ),
    "a group grows, and what was added to it grows": Story(
        one_by_one((), (), [(0, "outcome"), (1, "outcome")]),
        ((2, "result"),),
        (("grow", 0), ("failed", 1), ("grow", 2), *[("done", 0)] * 9),
    ),
    "a group grows in a pause, while held, and is retried": Story(
        one_by_one((), (), undo=True),
        ((0, "result"), (1, "result")),
        (
            ("pause", 0), ("grow", 0), ("resume", 0), ("failed", 1), ("grow", 0), ("retry", 0), ("failed", 0),
            ("cancel", 0), *[("done", 0)] * 6,
        ),
        holds=True,
    ),
    "undoing of three": Story(
        one_by_one((), (), (), (), undo=True),
        ((3, "result"),),
        (("done", 1), ("done", 0), ("done", 0), ("failed", 0), ("done", 0), ("done", 0), ("done", 0)),
    ),
}  # fmt: skip


TITLES = list(STORIES)


@pytest.mark.parametrize("title", STORIES)
def test_a_story_ends_alike_at_every_broker(title: str, redis_url: str, cluster: RedisCluster, tmp_path: Path) -> None:
    check(STORIES[title], tmp_path, redis_url, cluster.url)


@pytest.mark.parametrize("title", STORIES)
def test_a_story_ends_alike_where_all_that_goes_to_other_slots_arrives_twice(
    title: str, cluster: RedisCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = forwarding._deliver  # pyright: ignore[reportPrivateUsage] # it has no other seam

    async def deliver_twice(*args: Any, **options: Any) -> None:
        for _ in range(2):
            await deliver(*args, **options)

    monkeypatch.setattr(forwarding, "_deliver", deliver_twice)
    monkeypatch.setattr(forwarding, "AT_ONCE", 1)
    monkeypatch.setattr(told_to, "COUNTS_LATE_ENDS", False)
    check(STORIES[title], tmp_path, cluster.url)


@pytest.mark.parametrize("title", forms(*TITLES[::4], more=TITLES[1::4] + TITLES[2::4] + TITLES[3::4]))
def test_a_story_ends_alike_step_by_step(
    title: str, redis_url: str, cluster: RedisCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_in_pages(STORIES[title], 1, monkeypatch, tmp_path, redis_url, cluster.url)


@pytest.mark.parametrize("title", forms(*TITLES[1::4], more=TITLES[::4] + TITLES[2::4] + TITLES[3::4]))
def test_a_story_of_a_run_that_older_nodes_have_begun_ends_alike(
    title: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go on with it beside nodes of this version, so it is stored as they know it."""
    monkeypatch.setattr(plans, "FORMAT_OF_RUNS", "")
    check(STORIES[title], tmp_path, redis_url)


# ---- that they would show it ----


def returning(value: object) -> Callable[..., object]:
    def give(*_: object) -> object:
        return value

    return give


def count_ends(patch: pytest.MonkeyPatch) -> None:
    def message_of(self: RunBook, step: int) -> str:
        return f"{self._run}/{step}"  # pyright: ignore[reportPrivateUsage]

    patch.setattr(RunBook, "message_of", message_of)
    patch.setattr(RunBook, "has_ended", returning(False))


def ignore_outcomes(patch: pytest.MonkeyPatch) -> None:
    dependents = RunBook.dependents

    def want_results(self: RunBook, step: int, *page: int) -> dict[int, str]:
        return dict.fromkeys(dependents(self, step, *page), "result")

    patch.setattr(RunBook, "dependents", want_results)


def cancel_nothing(patch: pytest.MonkeyPatch) -> None:
    def spread(book: RunBook, step: int, end: End) -> None:
        for dependent in book.dependents(step):
            book.meet(dependent)

    patch.setattr(rules, "_spread", spread)


def overlook_failures(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RunBook, "has_failed", returning(False))


def overlook_the_result(patch: pytest.MonkeyPatch) -> None:
    record = RunBook.record

    def note(self: RunBook, step: int, end: End, *, is_failure: bool) -> None:
        record(self, step, end, is_failure=is_failure and step < RESULT)

    patch.setattr(RunBook, "record", note)


def send_in_a_pause(patch: pytest.MonkeyPatch) -> None:
    def send_ready(book: RunBook) -> None:
        for step in book.ready(100):
            book.send(step)

    patch.setattr(rules, "_send_ready", send_ready)


def hold_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules, "HOLDING", frozenset[str]())


def forget_what_is_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RunBook, "first_held", returning(None))


def undo_the_same_again(patch: pytest.MonkeyPatch) -> None:
    def undone(self: RunBook, *_: object) -> None:
        self._execute("update steps set undoes = 1")  # pyright: ignore[reportPrivateUsage]
        self._undo_next()  # pyright: ignore[reportPrivateUsage]

    patch.setattr(RunBook, "undone", undone)


MUTANTS = [
    count_ends, ignore_outcomes, cancel_nothing, overlook_failures, overlook_the_result, send_in_a_pause,
    hold_nothing, forget_what_is_held, undo_the_same_again,
]  # fmt: skip


@pytest.mark.parametrize("mutate", MUTANTS, ids=[mutate.__name__ for mutate in MUTANTS])
def test_stories_tell_rules_that_are_wrong_from_those_of_redis(
    mutate: Callable[[pytest.MonkeyPatch], None], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)

    def is_alike(story: Story) -> bool:
        try:
            check(story, tmp_path, redis_url)
        except Exception:  # noqa: BLE001 - the wrong rules may raise anything
            return False
        return True

    assert not all(map(is_alike, STORIES.values()))


# ---- all others ----

HEALTH = [hypothesis.HealthCheck.too_slow]


@pytest.mark.parametrize("examples", [12, pytest.param(50, marks=pytest.mark.long)])
def test_a_run_is_the_same_at_every_broker(
    examples: int, redis_url: str, cluster: RedisCluster, tmp_path: Path
) -> None:
    @hypothesis.given(story=stories())
    @hypothesis.settings(max_examples=examples, suppress_health_check=HEALTH, deadline=None)
    def check_one(story: Story) -> None:
        check(story, tmp_path, redis_url, cluster.url)

    check_one()


@pytest.mark.parametrize("examples", [6, pytest.param(50, marks=pytest.mark.long)])
def test_a_run_is_the_same_in_pages(
    examples: int, redis_url: str, cluster: RedisCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @hypothesis.given(story=stories(), size=st.integers(1, 3))
    @hypothesis.settings(max_examples=examples, suppress_health_check=HEALTH, deadline=None)
    def check_one(story: Story, size: int) -> None:
        check_in_pages(story, size, monkeypatch, tmp_path, redis_url, cluster.url)

    check_one()
