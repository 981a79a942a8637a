"""The Lua scripts, each with the parts it begins with. They are files in `lua/`, so that editors recognise them.

Redis 6.2 has EVAL only (FUNCTION came with 7.0), so each script is one text, loaded once per connection. The texts
are read when one is first needed: a client without Trio loads only what it runs. Scripts build the keys of a source
from its prefix: these keys are in the slot of the source, which is declared.
"""

from __future__ import annotations

import hashlib
from functools import cache, cached_property
from pathlib import Path
from typing import Final

from actorwork.streams.transport.commands import Script

_LUA: Final = Path(__file__).with_name("lua")


@cache
def part(name: str) -> str:
    """Return the text of a part, or of a script without its parts."""
    return (_LUA / f"{name}.lua").read_bytes().decode()


@cache
def _digest(parts: tuple[str, ...]) -> hashlib._Hash:  # pyright: ignore[reportPrivateUsage] - it has no other name
    """Return the unfinished digest of the parts that a script begins with: many begin with the same long ones."""
    if not parts:
        return hashlib.sha1(usedforsecurity=False)
    digest = _digest(parts[:-1]).copy()
    digest.update(f"{part(parts[-1])}\n".encode())
    return digest


class _PartedScript(Script):
    """A script of the text of its own, and of the parts that it needs.

    Its own text is a function: a function has at most 200 local variables, and most of them are those of the parts. (It
    refers to at most 60 of them.) A start needs all digests, and the text only of what the server does not know.
    """

    def __init__(self, name: str, *parts: str) -> None:
        super().__init__(name, lambda: "".join((*(f"{part(one)}\n" for one in parts), self._own)))
        self._parts = parts

    @property
    def _own(self) -> str:
        return f"return (function()\n{part(self.name)}\nend)()"

    @cached_property
    def sha(self) -> str:
        digest = _digest(self._parts).copy()
        digest.update(self._own.encode())
        return digest.hexdigest()


_ORDERING = ("clock", "ack", "rights", "away", "state", "order")
_KEEPING = (*_ORDERING, "publish")
_JOINING = (*_KEEPING, "run_book", "run_messages", "run_rules", "run_closing", "run_retrying", "run_starting", "join")

PUBLISH_NOW: Final = _PartedScript("publish_now", "marks")
PUBLISH_LATER: Final = _PartedScript("publish_later", "clock", "rights", "marks")
SUBMIT: Final = _PartedScript("submit")
NOTE: Final = _PartedScript("note", "clock", "rights", "state")
PUBLISH: Final = _PartedScript("publish_batch", *_KEEPING)
PUBLISH_UNIQUE: Final = _PartedScript("publish_unique", *_KEEPING)
SETTLE: Final = _PartedScript("settle", *_JOINING, "entry", "entities", "fence", "targets", "batch", "ending")
SETTLE_KEYED: Final = _PartedScript("settle_keyed", *_ORDERING, "entities", "fence", "batch", "ending")
SETTLE_TOGETHER: Final = _PartedScript("settle_together", *_JOINING, "fence", "targets")
HOLD: Final = _PartedScript("hold", *_ORDERING, "fence")
UNHOLD: Final = _PartedScript("unhold")
KEEP_PAGE: Final = _PartedScript("keep_page", *_JOINING, "fence")
SETTLE_PLAIN: Final = _PartedScript("settle_plain", "ack", "rights", "fence", "batch")
LOOK: Final = _PartedScript("look", "clock", "tended")
MAINTAIN: Final = _PartedScript("maintain", *_JOINING, "entry", "tended")
RECOVER: Final = _PartedScript("recover")
LOST: Final = _PartedScript("lost", *_JOINING)
RELEASE: Final = _PartedScript("release", "fence")
TAKE: Final = _PartedScript("take")
REPLAY: Final = _PartedScript("replay", *_ORDERING, "entry", "resend")
REPLAY_AS: Final = _PartedScript("replay_as", *_ORDERING, "entry", "resend")
VALUE: Final = _PartedScript("value")
OLDEST: Final = _PartedScript("oldest", "ack")
BACKLOG: Final = _PartedScript("backlog", "ack")
COUNT: Final = _PartedScript("count", "clock", "ack")
FIND: Final = _PartedScript("find")
ADD_MINUTES: Final = _PartedScript("add_minutes")
MINUTES: Final = _PartedScript("minutes")
LOCK: Final = _PartedScript("lock")
RATE: Final = _PartedScript("rate")
SLOT: Final = _PartedScript("slot")
TRIGGER: Final = _PartedScript("trigger", "clock")
FIRE: Final = _PartedScript("fire", *_KEEPING)
PAUSE: Final = _PartedScript("pause", "clock")
ENTITY: Final = _PartedScript("entity", "clock", "entities")
LOAD_STATES: Final = _PartedScript("load_states")
WAITS: Final = _PartedScript("waits", "clock")
STAMPS: Final = _PartedScript("stamps")

LIST_DELAYED: Final = _PartedScript("list_delayed")
CANCEL: Final = _PartedScript("cancel", *_JOINING)
PAYLOADS: Final = _PartedScript("payloads", *_ORDERING)
COPY: Final = _PartedScript("copy")
PURGE: Final = _PartedScript("purge", *_JOINING)
DRAIN: Final = _PartedScript("drain", *_ORDERING, "entry")
ARRIVE: Final = _PartedScript("arrive", *_ORDERING)
RUN: Final = _PartedScript("run", *_JOINING)
FORWARD: Final = _PartedScript("forward", *_KEEPING, "forwarded")
EFFECTS: Final = _PartedScript("effects", *_JOINING, "forwarded")

ALL: Final = (
    PUBLISH_NOW,
    PUBLISH_LATER,
    SUBMIT,
    NOTE,
    PUBLISH,
    PUBLISH_UNIQUE,
    SETTLE,
    SETTLE_KEYED,
    SETTLE_TOGETHER,
    SETTLE_PLAIN,
    LOOK,
    MAINTAIN,
    RECOVER,
    LOST,
    RELEASE,
    TAKE,
    REPLAY,
    REPLAY_AS,
    VALUE,
    OLDEST,
    BACKLOG,
    COUNT,
    FIND,
    ADD_MINUTES,
    MINUTES,
    LOCK,
    RATE,
    SLOT,
    TRIGGER,
    FIRE,
    PAUSE,
    LIST_DELAYED,
    CANCEL,
    PAYLOADS,
    COPY,
    PURGE,
    RUN,
)
