"""The spool of this machine: messages that wait in a local file for their broker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread

from actorwork.errors import SpoolError
from actorwork.inspection.words import moment
from actorwork.web.request import Page, Sight

if TYPE_CHECKING:
    from actorwork.embedded.spool import Spooled, SpoolStatus

MOST: Final = 1000


async def view(sight: Sight) -> dict[str, Any]:
    """Show what waits in the spool, oldest first."""
    path = sight.spool
    found: dict[str, Any] = {"file": None if path is None else str(path), "messages": [], "total": 0, "bytes": 0}
    found |= {"set_aside": 0, "oldest": None, "problem": "", "limit": MOST}
    if path is None or not path.exists():
        return found
    try:
        status, messages = await anyio.to_thread.run_sync(_look, path)
    except SpoolError as error:
        return found | {"problem": str(error)}
    return found | {
        "total": status.messages,
        "bytes": status.bytes,
        "set_aside": status.refused,
        "oldest": None if status.oldest is None else round(max(0.0, time.time() - status.oldest), 1),
        "messages": [
            {
                "source": one.source,
                "message_id": one.id,
                "told_at": moment(one.born),
                "bytes": len(one.data),
                "set_aside": one.refused,
            }
            for one in messages
        ],
    }


def _look(path: Path) -> tuple[SpoolStatus, Sequence[Spooled]]:
    from actorwork.embedded.spool import SpoolFile  # noqa: PLC0415 - only a machine with a spool needs SQLite for it

    file = SpoolFile(path)
    try:
        return file.status(), file.list(limit=MOST)
    finally:
        file.close()


PAGES = (Page("/spool", "Spool", "spool.html", view),)
