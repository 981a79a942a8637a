"""What the nodes report of an entity, together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from actorwork.policy.reports import SHOWN_KEYS, EntityReport, HotKey


def together(reports: Sequence[EntityReport]) -> EntityReport | None:
    """Return what several processes report of one entity as one report; None if none of them does."""
    if not reports:
        return None
    hot = Counter[str]()
    for report in reports:
        for one in report.hot:
            hot[one.key] += one.count
    stalled = tuple(dict.fromkeys(key for report in reports for key in report.stalled_keys))
    ranked = sorted(hot.items(), key=lambda one: (-one[1], one[0]))
    return EntityReport(
        kept=sum(one.kept for one in reports),
        activations=sum(one.activations for one in reports),
        commits=sum(one.commits for one in reports),
        conflicts=sum(one.conflicts for one in reports),
        refused=sum(one.refused for one in reports),
        # One message of the key goes from node to node, and stalls at each: the keys, where all are named.
        stalled=max(len(stalled), *(one.stalled for one in reports)),
        stalled_keys=stalled[:SHOWN_KEYS],
        hot=tuple(HotKey(key=key, count=count) for key, count in ranked[:SHOWN_KEYS]),
        # A node of an older program may declare less; what is kept longer loses nothing.
        ttl=None if any(one.ttl is None for one in reports) else max(one.ttl or 0.0 for one in reports),
        history=max(one.history for one in reports),
        schema=max(one.schema for one in reports),
    )


def stalled(entities: EntityReport) -> str:
    """Say which keys of an entity stand still; some do."""
    keys, count = ", ".join(map(repr, entities.stalled_keys)), entities.stalled
    more = f" and {count - len(entities.stalled_keys):,} more" if count > len(entities.stalled_keys) else ""
    return f"a node cannot read the state of {keys}{more}: messages wait for one that can"
