"""What a node knows of the life of a tracked delivery, and how it is written."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import attrs

from actorwork.message import Delivery, Failure, Status

if TYPE_CHECKING:
    from actorwork.records import Progress


@attrs.define(eq=False)
class Life:
    """What this node knows of the life of a delivery in flight; times in seconds since the epoch."""

    delivery: Delivery
    status: Status
    received: float
    started: float | None = None
    progress: Progress | None = None
    reported: float = -math.inf
    """When progress was written last, by Trio's clock."""

    def times(self) -> tuple[int, int | str]:
        """Return when the delivery was received and begun, in ms; `""` if it was not."""
        return round(self.received * 1000), "" if self.started is None else round(self.started * 1000)

    def fields(self, actor: str, node: str) -> list[str | int]:
        found: list[str | int] = ["received", _ms(self.received), "actor", actor, "node", node]
        if self.started is not None:
            found += ("started", _ms(self.started))
        if self.progress is not None:
            found += ("progress", encoded_progress(self.progress))
        return found


def encoded_failure(failure: Failure) -> str:
    return json.dumps(attrs.asdict(failure), separators=(",", ":"))


def encoded_progress(progress: Progress) -> str:
    return json.dumps(
        {
            "done": progress.done,
            "total": progress.total,
            "note": progress.note,
            "state": progress.state,
            "meta": dict(progress.meta),
        },
        separators=(",", ":"),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
