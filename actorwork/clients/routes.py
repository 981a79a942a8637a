"""Where a client's messages go: the broker, the spool before it, or one of them with a meter before it.

The meter counts how many messages were sent, and how long that took; a client without metrics has none.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from actorwork.abc import Meter
    from actorwork.message import Envelope


class PublishRoute(Protocol):
    """Where a client's messages go: the broker, or the spool before it."""

    async def publish(self, envelopes: Sequence[Envelope]) -> int: ...

    async def publish_new(self, envelope: Envelope) -> None: ...

    async def publish_unique(self, envelope: Envelope) -> str: ...


class MeteredRoute:
    """Sends by another route, and counts. A spool counts itself what it sends and what it keeps."""

    def __init__(self, route: PublishRoute, meter: Meter) -> None:
        self._route = route
        self._meter = meter

    def __repr__(self) -> str:
        return f"<metered {self._route!r}>"

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        began = time.perf_counter()
        try:
            new = await self._route.publish(envelopes)
        except Exception:
            self._count(envelopes, "refused", began)
            raise
        doubles = len(envelopes) - new
        # The broker says how many it had before, and not which.
        self._count(envelopes[doubles:], "sent", began)
        self._count(envelopes[:doubles], "duplicate", None)
        return new

    async def publish_new(self, envelope: Envelope) -> None:
        began = time.perf_counter()
        try:
            await self._route.publish_new(envelope)
        except Exception:
            self._count((envelope,), "refused", began)
            raise
        self._count((envelope,), "sent", began)

    async def publish_unique(self, envelope: Envelope) -> str:
        began = time.perf_counter()
        try:
            kept = await self._route.publish_unique(envelope)
        except Exception:
            self._count((envelope,), "refused", began)
            raise
        self._count((envelope,), "sent" if kept == envelope.id else "duplicate", began)
        return kept

    def _count(self, envelopes: Sequence[Envelope], outcome: str, began: float | None) -> None:
        for source, count in Counter(envelope.source for envelope in envelopes).items():
            self._meter.sent(source, outcome, count)
        if began is not None:
            self._meter.took_to_send(outcome, time.perf_counter() - began)
