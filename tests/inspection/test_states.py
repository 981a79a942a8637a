"""What several processes report of one entity is told as one."""

from actorwork.inspection.states import together
from actorwork.policy.reports import EntityReport, HotKey


def hot(**counts: int) -> tuple[HotKey, ...]:
    return tuple(HotKey(key=key, count=count) for key, count in counts.items())


def test_counts_are_added_and_the_hottest_keys_of_all_come_first():
    one = EntityReport(kept=2, activations=3, commits=5, conflicts=1, hot=hot(ann=10, ben=9), history=3, ttl=60)
    other = EntityReport(kept=1, activations=1, commits=2, refused=4, hot=hot(ben=8, cem=7), history=5, ttl=90)
    assert together([one, other]) == EntityReport(
        kept=3,
        activations=4,
        commits=7,
        conflicts=1,
        refused=4,
        hot=hot(ben=17, ann=10, cem=7),
        history=5,
        ttl=90,
    )


def test_a_key_that_stalls_at_several_nodes_is_one():
    one = EntityReport(stalled=2, stalled_keys=("ann", "ben"))
    other = EntityReport(stalled=1, stalled_keys=("ann",))
    found = together([one, other])
    assert found is not None
    assert (found.stalled, found.stalled_keys) == (2, ("ann", "ben"))


def test_without_a_report_there_is_none_and_what_one_keeps_for_ever_is_kept():
    assert together([]) is None
    found = together([EntityReport(ttl=60), EntityReport()])
    assert found is not None
    assert found.ttl is None
