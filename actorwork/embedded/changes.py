"""Where tasks of this process hear of changes, for a broker that calls back in the Trio thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from actorwork.embedded.orders import Writer
    from actorwork.embedded.turns import Turns
    from actorwork.embedded.watched import Topic


class LocalChanges:
    """Implements `actorwork.abc.Changes`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<LocalChanges at {self._writer.location}>"

    async def watch(self, source: str, id: str) -> LocalWatch:
        await trio.lowlevel.checkpoint()
        return LocalWatch(self._writer, (source, id))


class LocalWatch:
    """Implements `actorwork.abc.Watch`."""

    def __init__(self, writer: Writer, topic: Topic) -> None:
        self._writer = writer
        self._topic = topic
        self._told = trio.Event()
        self._tell: Callable[[], None] = self._has_changed
        writer.turns.watched.add(topic, self._tell)
        # It wakes the writer, which looks for changes of other processes from now on.
        writer.tell(_nothing)

    def __repr__(self) -> str:
        return f"<LocalWatch of {self._topic}>"

    def _has_changed(self) -> None:
        self._told.set()

    async def changed(self) -> None:
        await self._told.wait()
        self._told = trio.Event()

    async def aclose(self) -> None:
        self._writer.turns.watched.remove(self._topic, self._tell)


def _nothing(_: Turns) -> None:
    pass
