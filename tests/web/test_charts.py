"""The last two hours, as SVG."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given, strategies as st

from actorwork.inspection import as_json
from actorwork.policy.minutes import BOUNDS, MinuteCounts
from actorwork.policy.series import series_of
from actorwork.web.charts import HEIGHT, LEAST, duration_chart, rate_chart, scale_of, short

buckets = st.dictionaries(st.integers(0, len(BOUNDS)), st.integers(1, 10**9), max_size=5)
counted = st.dictionaries(st.integers(1, 8), st.builds(MinuteCounts, st.integers(0, 10**6), buckets))


def series(counts: dict[int, MinuteCounts], minutes: int = 8) -> dict[str, Any]:
    return as_json(series_of(counts, 8 * 60.0, minutes))


def path(drawn: str, kind: str) -> str:
    found = re.search(rf'class="{kind}" d="([^"]*)"', drawn)
    assert found is not None
    return found.group(1)


def test_each_minute_is_as_high_as_it_is_beside_the_largest():
    drawn = rate_chart(series({8: MinuteCounts(0, {1: 10}), 6: MinuteCounts(0, {1: 5})}))
    assert path(drawn, "area") == f"M20 {HEIGHT}V50.0H24V{HEIGHT}ZM28 {HEIGHT}V0.0H32V{HEIGHT}Z"
    assert "15 in all, at most 10 in one; 0 failed" in drawn
    assert "failed" not in re.findall('class="([^"]*)"', drawn)


def test_failures_are_drawn_by_themselves_also_few_of_them():
    drawn = rate_chart(series({8: MinuteCounts(1, {1: 10_000})}))
    assert path(drawn, "failed") == f"M28 {HEIGHT}V{HEIGHT - LEAST}H32V{HEIGHT}Z"


def test_counts_that_another_program_has_spoiled_are_drawn_all_the_same():
    drawn = rate_chart(series({8: MinuteCounts(3, {}), 7: MinuteCounts(9, {1: 2})}))
    assert path(drawn, "failed") == f"M24 {HEIGHT}V0.0H28V0.0H32V{HEIGHT}Z"


def test_a_minute_without_any_is_a_gap_in_the_lines_of_durations():
    drawn = duration_chart(
        series({8: MinuteCounts(0, {40: 1}), 7: MinuteCounts(0, {40: 1}), 5: MinuteCounts(0, {40: 1})})
    )
    assert re.fullmatch(r"M16 ([\d.]+)H20M24 \1H28V\1H32", path(drawn, "line p50"))


def test_longer_durations_are_higher():
    drawn = duration_chart(series({8: MinuteCounts(0, {20: 90, 40: 8, 60: 2})}))
    low, middle, high = (float(path(drawn, f"line {name}").split("H")[0].split()[1]) for name in ("p50", "p95", "p99"))
    assert HEIGHT >= low > middle > high >= 0


@given(counted)
def test_any_minutes_are_pictures_with_words_for_them(counts: dict[int, MinuteCounts]):
    for drawn in (rate_chart(series(counts)), duration_chart(series(counts))):
        picture = ET.fromstring(drawn)
        assert picture.attrib["role"] == "img"
        assert "last 8 minutes" in picture.attrib["aria-label"]
        for number in re.findall(r"[ MHV](-?[\d.]+)", " ".join(one.attrib["d"] for one in picture)):
            assert 0 <= float(number) <= HEIGHT
    low, high = scale_of(series(counts))
    assert 0 < low < high


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.00004, "40 µs"),
        (0.0004, "400 µs"),
        (0.0123, "12 ms"),
        (0.9996, "1 s"),
        (3.14, "3.1 s"),
        (119.6, "2 min"),
        (250, "4.2 min"),
        (9000, "2.5 h"),
    ],
)
def test_durations_are_written_with_two_digits(seconds: float | None, text: str):
    assert short(seconds) == text


def test_two_hours_of_everything_take_few_bytes():
    counts = {minute: MinuteCounts(minute, {30: minute, 45: 7, 60: 3}) for minute in range(1, 121)}
    facts = as_json(series_of(counts, 120 * 60.0))
    assert len(rate_chart(facts)) + len(duration_chart(facts)) < 12_000
