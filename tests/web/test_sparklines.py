"""Small charts, as SVG."""

import re
import xml.etree.ElementTree as ET

from hypothesis import given, strategies as st

from actorwork.web.sparklines import HEIGHT, LEAST, STEP, spark


def bars_of(text: str) -> list[tuple[float, float]]:
    """Return the place and the height of each bar."""
    return [(int(x) / STEP, HEIGHT - float(top)) for x, top in re.findall(rf"M(\d+) {HEIGHT}V([\d.]+)h", text)]


def test_each_value_has_a_bar_as_high_as_it_is_beside_the_largest():
    assert bars_of(spark([5, 0, 10], "Settled")) == [(0, HEIGHT / 2), (2, HEIGHT)]


def test_a_value_beside_one_much_larger_is_seen_all_the_same():
    assert bars_of(spark([1, 10**6], "Settled"))[0] == (0, LEAST)


@given(st.lists(st.integers(0, 10**12), max_size=60))
def test_any_values_are_a_picture_with_words_for_it(values: list[int]):
    drawn = ET.fromstring(spark(values, 'a "b" <c>'))
    assert drawn.attrib["aria-label"].startswith('a "b" <c>: ')
    assert f"{sum(values):,} in the last" in drawn.attrib["aria-label"]
    assert len(bars_of(spark(values, "x"))) == sum(one > 0 for one in values)
