"""The supervision tree as SVG."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

from hypothesis import given, strategies as st

from actorwork.policy.reports import HeldMessage, HoldUp, PartReport
from actorwork.web.trees import HEIGHT, MOST_BOXES, MOST_CHILDREN, WIDTH, tree_svg

SVG = "{http://www.w3.org/2000/svg}"
names = st.text(max_size=30)
actors = st.builds(
    PartReport,
    title=names,
    label=names,
    state=st.sampled_from(["running", "starting", "restarting", "stopping", "stopped", "crashed", "odd"]),
    restarts=st.integers(0, 10**6),
    waiting=st.integers(0, 100),
    capacity=st.integers(0, 64),
    handling=st.integers(0, 9),
    in_hand=st.lists(st.builds(HeldMessage, what=names, since=st.floats(0, 2000)), max_size=3).map(tuple),
    hold_ups=st.lists(st.builds(HoldUp, kind=st.just("rate"), name=names), max_size=2).map(tuple),
)
trees = st.recursive(
    actors,
    lambda below: st.builds(
        PartReport, title=names, kind=st.just("one_for_one"), children=st.lists(below, max_size=12).map(tuple)
    ),
    max_leaves=30,
)


def boxes_of(drawn: str) -> list[tuple[float, float, float]]:
    """Return where each box is, and how high."""
    found = re.findall(
        r'translate\(([\d.]+) ([\d.]+)\)"><title>[^<]*</title>(?:<rect class="box" x[^>]*>)*'
        r'<rect class="box" width="226" height="([\d.]+)"',
        drawn,
    )
    return [(float(x), float(y), float(height)) for x, y, height in found]


def shop(*children: PartReport) -> PartReport:
    return PartReport(title="shop", kind="one_for_one", children=children)


def test_each_part_shows_its_state_restarts_mailbox_and_what_it_handles_since_when():
    till = PartReport(
        title="till",
        state="restarting",
        restarts=3,
        waiting=64,
        capacity=64,
        handling=2,
        in_hand=(HeldMessage(what="m-1", since=940.0, source="orders"),),
        hold_ups=(HoldUp(kind="rate", name="slow", waiting=4),),
    )
    drawn = tree_svg(shop(till), 1000.0, "web1:7")
    words = [one.text for one in ET.fromstring(drawn).iter(f"{SVG}text")]
    assert words == [
        "shop",
        "one for one · running",
        "↻ 3",
        "till",
        "restarting · 64 in its mailbox",
        "m-1",
        "rate slow holds 4 back",
    ]
    assert [one.text for one in ET.fromstring(drawn).iter(f"{SVG}tspan")] == [" · 1m (+1)"]
    assert 'class="part-warn"' in drawn
    assert 'class="fill is-full"' in drawn
    assert "<title>Tree of web1:7: 2 parts, 1 not running, 3 restarts." in drawn


def test_of_many_children_those_that_are_well_are_drawn_as_one():
    replicas = [PartReport(title="worker") for _ in range(50)]
    replicas[40] = PartReport(title="worker", state="crashed")
    drawn = tree_svg(shop(*replicas), 0.0, "web1")
    assert len(boxes_of(drawn)) == 1 + MOST_CHILDREN
    assert "43 more × worker" in drawn
    assert drawn.count('class="part-bad"') == 1


def test_a_tree_that_is_too_large_is_drawn_as_far_as_there_is_room():
    pools = [shop(*(PartReport(title=f"a{one}") for one in range(7))) for _ in range(8)]
    drawn = tree_svg(shop(*(shop(*pools) for _ in range(3))), 0.0, "web1")
    assert len(boxes_of(drawn)) <= MOST_BOXES
    assert re.search(r"\d+ parts below", drawn)


@given(trees, st.floats(0, 10_000))
def test_any_tree_is_a_picture_in_which_no_boxes_touch(tree: PartReport, now: float):
    drawn = tree_svg(tree, now, "<web & 1>")
    picture = ET.fromstring(drawn)
    wide, tall = float(picture.attrib["width"]), float(picture.attrib["height"])
    title = picture.find(f"{SVG}title")
    assert picture.attrib["role"] == "img"
    assert title is not None
    assert (title.text or "").startswith("Tree of <web & 1>: ")
    assert " style=" not in drawn
    boxes = sorted(boxes_of(drawn))
    assert 1 <= len(boxes) <= MOST_BOXES
    for x, y, height in boxes:
        assert x >= 0
        assert y >= 0
        assert height >= HEIGHT
        assert x + WIDTH <= wide
        assert y + height <= tall
    for (x, y, height), (next_x, next_y, _) in pairwise(boxes):
        assert next_x > x or next_y >= y + height
