"""Where outcomes arrive in this process, for a broker that calls back in the Trio thread."""

from __future__ import annotations

import trio

from actorwork.embedded.rows import ReplyAddress
from actorwork.message import Outcome


class LocalReplies:
    """Implements `actorwork.abc.Replies`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._waiting: dict[tuple[str, str], set[LocalWaiting]] = {}

    def __repr__(self) -> str:
        return f"<LocalReplies {self.address}, {len(self._waiting)} awaited>"

    def expect(self, source: str, message_id: str, *, look_from: float = 0.0) -> LocalWaiting:
        # Each outcome arrives by a call: there is nothing to look for.
        waiting = LocalWaiting(self, (source, message_id))
        self._waiting.setdefault((source, message_id), set()).add(waiting)
        return waiting

    def arrived(self, reply: ReplyAddress) -> None:
        _, source, message_id, outcome = reply
        for waiting in self._waiting.pop((source, message_id), ()):
            waiting.arrived(outcome)

    def forget(self, waiting: LocalWaiting) -> None:
        same = self._waiting.get(waiting.key)
        if same is not None:
            same.discard(waiting)
            if not same:
                del self._waiting[waiting.key]


class LocalWaiting:
    """Implements `actorwork.abc.PendingOutcome`."""

    def __init__(self, replies: LocalReplies, key: tuple[str, str]) -> None:
        self.key = key
        self._replies = replies
        self._outcome: Outcome | None = None
        self._event = trio.Event()

    def arrived(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._event.set()

    async def outcome(self) -> Outcome:
        await self._event.wait()
        assert self._outcome is not None  # noqa: S101 - set before the event is
        return self._outcome

    def close(self) -> None:
        self._replies.forget(self)
