"""What becomes of a message whose processes die."""

import pytest

from actorwork.policy.crashes import alone_from, limit_of


@pytest.mark.parametrize(
    ("max_crashes", "alone", "dead"), [(0, 1, 1), (1, 1, 1), (2, 1, 2), (3, 2, 3), (4, 2, 4), (100, 2, 100)]
)
def test_a_message_runs_alone_before_it_becomes_a_dead_letter_where_the_limit_leaves_a_run_for_that(
    max_crashes: int, alone: int, dead: int
):
    assert (alone_from(max_crashes), limit_of(max_crashes)) == (alone, dead)
