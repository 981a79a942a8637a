"""What tasks of this process want to hear of: changes of pauses, triggers, messages and runs.

What this process changes itself is known when it is committed. What another process changes is found by comparing
versions, after its commit has been noticed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from actorwork.embedded.store import Store

Topic: TypeAlias = "tuple[str, str]"
"""The source and the id of a message; of a run the source is ""."""
Tell: TypeAlias = Callable[[], None]


class Watched:
    """Changed by the Trio thread alone; single operations of dicts and lists are atomic, so the turns may look."""

    def __init__(self) -> None:
        self.pauses: list[Callable[[], object]] = []
        """Called when another process has paused or resumed something, or changed a trigger."""
        self.asked: list[tuple[str, Callable[[], object]]] = []
        """The nodes of this process that listen for commands, and what is called for each."""
        self._topics: dict[Topic, tuple[Tell, ...]] = {}
        self._versions: dict[Topic, object] = {}
        self._pauses: object = None
        self._asks: object = None

    def __repr__(self) -> str:
        return f"<Watched: {len(self._topics)} messages and runs>"

    def __bool__(self) -> bool:
        """Whether a message or a run is watched, or a node listens for commands."""
        return bool(self._topics or self.asked)

    def add(self, topic: Topic, tell: Tell) -> None:
        self._topics[topic] = (*self._topics.get(topic, ()), tell)

    def remove(self, topic: Topic, tell: Tell) -> None:
        others = tuple(one for one in self._topics.get(topic, ()) if one is not tell)
        if others:
            self._topics[topic] = others
        else:
            self._topics.pop(topic, None)
            self._versions.pop(topic, None)

    def those_of(self, changed: Iterable[Topic]) -> list[Tell]:
        """Return whom to tell of changes."""
        return [tell for topic in changed for tell in self._topics.get(topic, ())]

    def look(self, store: Store) -> list[Tell]:
        """Return whom to tell of what another process may have changed. Needs no transaction."""
        told: list[Tell] = []
        if self.pauses:
            pauses = store.execute(
                "select count(*), total(at), (select total(number) from trigger_changes) from pauses"
            ).fetchone()
            if pauses != self._pauses:
                self._pauses = pauses
                told.append(self._tell_of_pauses)
        if self.asked:
            asks = store.execute(_ASKS).fetchone()
            if asks != self._asks:
                self._asks = asks
                told.append(self._tell_all_asked)
        if self._topics:
            told += self.those_of(self._changed(store))
        return told

    def _tell_of_pauses(self) -> None:
        for changed in self.pauses:
            changed()

    def tell_asked(self, node: str) -> None:
        """Have a node of this process look for commands; with no name, each."""
        for name, called in list(self.asked):
            if node in ("", name):
                called()

    def _tell_all_asked(self) -> None:
        self.tell_asked("")

    def _changed(self, store: Store) -> list[Topic]:
        ids = json.dumps([topic[1] for topic in list(self._topics)])
        found: dict[Topic, object] = {}
        for name, message, *version in store.execute(_VERSIONS, (ids,)):
            found[name, message] = version
        for run, *version in store.execute(_VERSIONS_OF_RUNS, (ids,)):
            found["", run] = version
        changed = [topic for topic, version in found.items() if self._versions.get(topic) != version]
        # One that is gone has changed, too.
        changed += [topic for topic in self._versions if topic not in found]
        self._versions = found
        return changed


_ASKS: Final = "select (select max(ask) from asks), (select until from reports where node = '')"
_VERSIONS: Final = (
    "select s.name, id, version, rank from states join sources s using (source)"
    " where id in (select value from json_each(?))"
)
_VERSIONS_OF_RUNS: Final = (
    "select run, status, open, total, finished, (select group_concat(step) from steps s"
    " where s.run = coalesce(runs.rows, runs.run) and kind = 'signal' and state = 1)"
    " from runs where run in (select value from json_each(?))"
)
