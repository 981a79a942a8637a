"""Pictures of runs: what they say, that nothing covers anything else, and that they stay small."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise
from xml.etree import ElementTree as ET

import hypothesis
import pytest
from hypothesis import strategies as st

from actorwork.message import Failure
from actorwork.policy.runs.drawing import svg
from actorwork.policy.runs.folding import LARGEST_GROUP, MOST_EDGES, MOST_NODES, folded
from actorwork.policy.runs.layout import lay_out, layers_of
from actorwork.policy.runs.values import End, RunInfo, Status, StepInfo, StepKind
from actorwork.workflows import chord
from tests.workflows.conftest import OpenStage
from tests.workflows.shop import Calculator, Sum
from tests.workflows.test_runs import squares

SVG = "{http://www.w3.org/2000/svg}"
INFO = RunInfo(id="words-17", title="words", status=Status.STARTED, done=1, total=3)


def a_step(
    number: int,
    *needs: int,
    name: str = "",
    status: Status = Status.PENDING,
    actor: str = "actor",
    kind: StepKind = "message",
    end: End | None = None,
) -> StepInfo:
    return StepInfo(
        number=number, name=name or f"step {number}", kind=kind, status=status, needs=needs, actor=actor, end=end
    )


def drawn(steps: Sequence[StepInfo], info: RunInfo = INFO) -> ET.Element:
    return ET.fromstring(svg(info, steps))


def texts(picture: ET.Element) -> list[str]:
    return ["".join(one.itertext()) for one in picture.iter(f"{SVG}text")]


def titles(picture: ET.Element) -> list[str]:
    return [one.text or "" for one in picture.iter(f"{SVG}title")]


def nodes_of(picture: ET.Element) -> list[tuple[float, float, float, float]]:
    """Return left, top, width and height of each node."""
    found: list[tuple[float, float, float, float]] = []
    for group in picture.iter(f"{SVG}g"):
        boxes = [one for one in group if one.get("class") == "box"]
        if boxes:
            x, y = map(float, re.findall(r"[-\d.]+", group.get("transform", "")))
            found.append((x, y, float(boxes[-1].get("width", 0)), float(boxes[-1].get("height", 0))))
    return found


def random_steps(seed: int, count: int, width: int) -> list[StepInfo]:
    dice = random.Random(seed)
    statuses = list(Status)
    return [
        a_step(
            number,
            *sorted(
                {dice.randrange(max(0, number - width), number) for _ in range(dice.randrange(3))} if number else ()
            ),
            status=dice.choice(statuses),
            actor=f"actor {dice.randrange(3)}",
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("status", list(Status))
def test_a_status_is_told_by_a_colour_a_mark_and_a_word(status: Status) -> None:
    picture = drawn([a_step(0, status=status)])
    (node,) = [one for one in picture.iter(f"{SVG}g") if any(part.get("class") == "box" for part in one)]
    assert node.get("class") == f"s-{status.lower()}"
    assert any(one.get("class") == "mark" for one in node.iter(f"{SVG}g"))
    assert f"{status.lower()} · actor" in texts(picture)
    assert f"1 {status.lower()}" in texts(picture)
    style = picture.findtext(f"{SVG}style") or ""
    light, dark = style.split("@media (prefers-color-scheme:dark)")
    assert all(f".s-{status.lower()} .box{{fill:" in part for part in (light, dark))


def test_names_are_escaped_cut_to_their_boxes_and_whole_in_the_title() -> None:
    name = "<script>alert(1)</script> & \x1b[2J\ud800 \u009b " + "x" * 500
    failure = Failure("ValueError", "no <b>\x00 here")
    picture = drawn([a_step(0, name=name, status=Status.FAILURE, end=End("failed", failure=failure))])
    (told,) = titles(picture)[1:]
    assert told.startswith("<script>alert(1)</script> & �[2J� �")
    assert len(told) <= 500
    (shown,) = [text for text in texts(picture) if text.startswith("<script>")]
    assert len(shown) < 40
    assert shown.endswith("…")
    short = drawn([a_step(0, name="a", status=Status.FAILURE, end=End("failed", failure=failure))])
    assert titles(short)[1:] == ["a failed: ValueError: no <b>� here"]


def test_the_head_says_which_run_it_is_and_how_far() -> None:
    info = RunInfo(id="r", title="words", status=Status.STARTED, done=1, total=2000, waits_for=("go",))
    head, facts, *_ = texts(drawn([a_step(0)], info))
    assert head == "wordsstarted"
    assert facts == "r · 1 of 2,000 steps have ended · waits for go"
    assert texts(drawn([], RunInfo(id="r", status=Status.SUCCESS)))[:2] == ["rsuccess", "0 of 0 steps have ended"]


def test_a_signal_and_a_nap_look_unlike_a_message() -> None:
    picture = drawn([a_step(0), a_step(1, kind="signal", actor="", name="go"), a_step(2, kind="nap", actor="")])
    radii = [one.get("rx") for one in picture.iter(f"{SVG}rect") if one.get("class") == "box"]
    assert radii == ["6", "23", "23"]
    assert "signal · pending" in texts(picture)


@hypothesis.given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 12))
@hypothesis.settings(max_examples=25, deadline=None)
def test_no_node_covers_another_and_all_are_within_the_picture(seed: int, count: int, width: int) -> None:
    steps = random_steps(seed, count, width)
    picture = drawn(steps)
    nodes = nodes_of(picture)
    assert len(nodes) == len(folded(steps))
    for number, (x, y, w, h) in enumerate(nodes):
        assert x >= 0
        assert y >= 0
        assert x + w <= float(picture.get("width", 0))
        assert y + h <= float(picture.get("height", 0))
        for other_x, other_y, *_ in nodes[:number]:
            assert abs(x - other_x) >= w or abs(y - other_y) >= h
    edges = [one for one in picture.iter(f"{SVG}path") if one.get("class") == "edge"]
    assert len(edges) == sum(len(node.needs) for node in folded(steps))


def test_a_node_is_in_a_later_layer_than_what_it_needs_and_an_edge_bends_around_what_is_between() -> None:
    needs = [(), (0,), (1,), (2, 0)]
    layout = lay_out(needs)
    assert list(layout.layer) == layers_of(needs) == [0, 1, 2, 3]
    bends = layout.bends[(0, 3)]
    assert [layer for layer, _ in bends] == [1, 2]
    assert all(abs(place - layout.place[layer]) > 0.6 for layer, place in bends)


def test_edges_that_need_not_cross_do_not() -> None:
    layout = lay_out([(), (), (), (2,), (1,), (0,)])
    first = sorted(range(3), key=layout.place.__getitem__)
    assert [5 - one for one in first] == sorted(range(3, 6), key=layout.place.__getitem__)


def test_a_large_group_is_one_node_that_counts_its_steps_and_names_those_that_failed() -> None:
    failed = End("failed", failure=Failure("ValueError", "no"))
    size = 1000
    steps = [
        *(a_step(n, status=Status.SUCCESS, actor="fetcher") for n in range(size - 20)),
        *(a_step(n, status=Status.FAILURE, actor="fetcher", end=failed) for n in range(size - 20, size)),
        *(a_step(size + n, n, actor="counter") for n in range(size)),
        a_step(2 * size, *range(size, 2 * size), name="sum"),
    ]
    fetched, counted, body = folded(steps)
    assert [len(node.steps) for node in (fetched, counted, body)] == [size, size, 1]
    assert (fetched.needs, counted.needs, body.needs) == ((), (0,), (1,))
    picture = drawn(steps)
    assert "1,000 × fetcher" in texts(picture)
    told = titles(picture)[1].splitlines()
    assert told[:4] == ["1,000 × fetcher", "20 failure", "980 success", "step 980 failed: ValueError: no"]
    assert told[-1] == "and 10 more"
    assert len(svg(INFO, steps)) < 12_000


def test_a_group_that_can_be_read_is_not_folded() -> None:
    steps = [*(a_step(n) for n in range(LARGEST_GROUP)), a_step(LARGEST_GROUP, *range(LARGEST_GROUP))]
    assert len(folded(steps)) == LARGEST_GROUP + 1
    assert len(folded([*(a_step(n) for n in range(LARGEST_GROUP + 1))])) == 1


@pytest.mark.parametrize("shape", ["chain", "chains of chords", "at random", "nothing alike"])
def test_the_picture_of_a_large_run_stays_small(shape: str) -> None:
    steps: list[StepInfo]
    if shape == "chain":
        steps = [a_step(n, *([n - 1] if n else [])) for n in range(3000)]
    elif shape == "chains of chords":
        steps = []
        for start in range(0, 3150, 21):
            before = [start - 1] if start else []
            steps += [a_step(start + n, *before) for n in range(20)]
            steps.append(a_step(start + 20, *range(start, start + 20), actor="body"))
    elif shape == "at random":
        steps = random_steps(1, 3000, 3000)
    else:
        steps = [a_step(n, *([n - 1] if n % 10 else []), actor=f"actor {n}") for n in range(3000)]
    nodes = folded(steps)
    assert len(nodes) <= MOST_NODES
    assert sum(len(node.needs) for node in nodes) <= MOST_EDGES
    assert sum(len(node.steps) for node in nodes) == len(steps)
    assert len(svg(INFO, steps)) < 150_000


async def test_a_run_is_drawn_as_it_is_now(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(chord(squares(1, 2, 3), Calculator, Sum), id="squares")
        before = await run.to_svg()
        async with stage.open_system():
            await run.result()
        after = ET.fromstring(await run.to_svg())
        assert "4 pending" in before
        assert "4 success" in texts(after)
        lefts = sorted({x for x, *_ in nodes_of(after)})
        assert all(later - earlier > 100 for earlier, later in pairwise(lefts))
        assert len(lefts) == 2
