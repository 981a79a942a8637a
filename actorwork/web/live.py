"""Pages that follow: one stream of server-sent events for each open page.

A stream draws its page again at most once a second, and sends it if it has changed; otherwise, now and then, a comment.
With more than twenty open, all of them together draw twenty pages a second, so that readers never cost the broker, or
the node that serves them, more than that. There are a few hundred at most.
It ends when its browser has gone, which a server says by a message, or by refusing to write; and when the dashboard
closes. A browser opens it while its page is visible, and asks again after a while if it breaks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

import anyio
from starlette.datastructures import MutableHeaders

from actorwork.groups import leaves
from actorwork.web.request import Refused

EVERY: Final = 1.0
"""Seconds between two looks of one stream."""
LOOKS: Final = 20
"""How many looks a second all streams together take."""
MOST: Final = 400
"""How many streams there are at most."""
CLOSING: Final = 0.2
"""Seconds between two looks at whether the dashboard closes."""
HEARTBEAT: Final = 10.0
"""Seconds after which a comment is sent, so that a browser that has gone is noticed."""


class Streams:
    """How many streams are open."""

    def __init__(self) -> None:
        self.count = 0

    def __repr__(self) -> str:
        return f"<{self.count} streams>"

    @property
    def every(self) -> float:
        """Seconds between two looks of each."""
        return max(EVERY, self.count / LOOKS)

    def expect_room(self) -> None:
        """Refuse another stream if there are too many."""
        if self.count >= MOST:
            raise Refused(f"{self.count:,} pages are followed already; the page itself can be reloaded", 503)


class Stream:
    """An ASGI response that draws a page again and again."""

    def __init__(self, draw: Callable[[], Awaitable[str]], is_closing: Callable[[], bool], streams: Streams) -> None:
        self._draw = draw
        self._is_closing = is_closing
        self._streams = streams
        self._raw: list[tuple[bytes, bytes]] = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"x-accel-buffering", b"no"),
        ]

    def __repr__(self) -> str:
        return "<Stream>"

    @property
    def headers(self) -> MutableHeaders:
        """The headers that it is sent with."""
        return MutableHeaders(raw=self._raw)

    async def __call__(self, _: MutableMapping[str, Any], receive: Callable[[], Any], send: Callable[..., Any]) -> None:
        """Answer a request until its browser has gone, or the dashboard closes."""
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(watch)
            self._streams.count += 1
            try:
                with suppress(OSError):  # The browser has gone.
                    await self._follow(send)
            finally:
                self._streams.count -= 1
            group.cancel_scope.cancel()

    async def _follow(self, send: Callable[..., Any]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._raw})
        last, quiet = b"", 0.0
        await _write(send, "retry: 3000\n\n")
        while not self._is_closing():
            try:
                main = await self._draw()
            except Exception as error:  # noqa: BLE001 - the page says so, and the next look may succeed
                leaf = next(leaves(error))
                if isinstance(leaf, Refused) and leaf.status in (401, 403):
                    break
                event = _event("trouble", str(leaf) if isinstance(leaf, Refused) else "the broker does not answer")
            else:
                event = _event("page", main)
            # Of trouble as well: the page is sent again when it is over, also if nothing else has changed.
            digest = hashlib.sha256(event.encode(errors="backslashreplace")).digest()
            if digest != last:
                await _write(send, event)
                last, quiet = digest, 0.0
            elif quiet >= HEARTBEAT:
                await _write(send, ":\n\n")
                quiet = 0.0
            waited = 0.0
            while waited < self._streams.every and not self._is_closing():
                await anyio.sleep(CLOSING)
                waited += CLOSING
            quiet += waited
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _event(name: str, text: str) -> str:
    # JSON has no line breaks of its own: the data is one line.
    return f"event: {name}\ndata: {json.dumps(text)}\n\n"


async def _write(send: Callable[..., Any], text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
