"""The record of what users did to the system."""

from __future__ import annotations

from typing import Any, Final

import attrs

from actorwork.inspection.words import moment
from actorwork.web.request import Page, Sight

MOST: Final = 3000


async def view(sight: Sight) -> dict[str, Any]:
    """Show actions, newest first."""
    limit = sight.number("limit", 100, most=MOST)
    found = await sight.broker.audit.list(limit=limit)
    return {
        "entries": [{**attrs.asdict(one), "at": moment(one.at)} for one in found],
        "limit": limit,
        "is_cut": len(found) == limit,
    }


PAGES = (Page("/audit", "Audit", "audit.html", view),)
