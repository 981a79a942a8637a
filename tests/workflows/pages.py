"""Small pages: what large runs do in several scripts, and transactions, as small ones do it in tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import pytest

from actorwork.embedded import loose_rows
from actorwork.embedded.run_book import RunBook
from actorwork.embedded.sending import EmbeddedRuns
from actorwork.message import Status
from actorwork.policy.runs import rules
from actorwork.streams import keys, plans, runs, scripts
from actorwork.streams.transport.commands import Script

_SIZES = re.compile(r"(?m)((?:SENT_AT_ONCE =|TOLD_AT_ONCE =|FORGOTTEN_AT_ONCE =|\bat_once =|\bcloses =) *)\d+")


@cache  # It reads the texts of sixty scripts.
def _scripts_of(size: int) -> Mapping[str, Script]:
    """Return the scripts of runs as they are with pages of `size`, by their names."""
    found = {name: one for name, one in vars(scripts).items() if isinstance(one, Script) and _SIZES.search(one.source)}
    return {name: Script(one.name, _SIZES.sub(rf"\g<1>{size}", one.source)) for name, one in found.items()}


def let_callers_die(patch: pytest.MonkeyPatch) -> None:
    """End all who give orders to runs after the first page."""

    async def leave(self: object, home: str, run: str) -> None:
        pass

    async def leave_order(self: object, run: str, is_begun: bool) -> bool:
        return is_begun

    patch.setattr(runs.RedisRuns, "_finish", leave)
    patch.setattr(EmbeddedRuns, "_all", leave_order)


def let_nodes_rest(patch: pytest.MonkeyPatch) -> None:
    """Let no node put back what has failed, or tell of failures. Call it after `use_small_pages`."""
    waking = re.compile(r"wake\(r, '(?:more|close)', now_ms\(\)\)\n +return\n")
    for name, one in vars(scripts).copy().items():
        if isinstance(one, Script) and waking.search(one.source):
            source, count = waking.subn("return\n", one.source)
            assert count == 2, "the scripts wait for nodes in other words"
            patch.setattr(scripts, name, Script(one.name, source))
    leave_more = RunBook.leave_more

    def leave(book: RunBook) -> None:
        if book.status is not Status.RETRY:
            leave_more(book)

    patch.setattr(RunBook, "leave_more", leave)


def use_small_pages(patch: pytest.MonkeyPatch, size: int) -> None:
    """Let each script, and transaction, do as much of a run as `size` steps. Call it before a broker is opened."""
    changed = _scripts_of(size)
    assert len(changed) > 5, "the scripts call their sizes by other names"
    for name, script in changed.items():
        patch.setattr(scripts, name, script)
    patch.setattr(rules, "AT_ONCE", size)
    patch.setattr(loose_rows, "LONG", 1)
    patch.setattr(keys, "SENT_AT_ONCE", size)
    patch.setattr(plans, "NEXT_AT_ONCE", size)
    patch.setattr(runs, "_FORGOTTEN_AT_ONCE", size)
