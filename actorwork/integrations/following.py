"""The events that a response follows: what the responses of Starlette and Litestar have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actorwork.asynchronous.server_sent import Watched, events
from actorwork.errors import NotRunning
from actorwork.message import Status

if TYPE_CHECKING:
    from actorwork.asynchronous.server_sent import EventStream
    from actorwork.durations import Duration


async def known_events(
    watched: Watched[Any], data: Callable[[Any], object] | None, keep_alive: Duration
) -> EventStream | None:
    """Return the events of a receipt or a run, or None for one that the broker does not know.

    Follows on asyncio only: raises `NotRunning` on Trio.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise NotRunning("event_response follows on asyncio only, and this application runs on Trio") from None
    if (await watched.info()).status is Status.UNKNOWN:
        return None
    options: dict[str, Any] = {} if data is None else {"data": data}
    return events(watched, keep_alive=keep_alive, **options)
