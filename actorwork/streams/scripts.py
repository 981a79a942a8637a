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


def _script(name: str, *parts: str) -> Script:
    return _PartedScript(name, *parts)


_ORDERING = ("clock", "ack", "rights", "away", "state", "order")
_KEEPING = (*_ORDERING, "publish")
_JOINING = (*_KEEPING, "join")

PUBLISH_NOW: Final = _script("publish_now", "marks")
PUBLISH_LATER: Final = _script("publish_later", "clock", "rights", "marks")
SUBMIT: Final = _script("submit")
NOTE: Final = _script("note", "clock", "rights", "state")
PUBLISH: Final = _script("publish_batch", *_KEEPING)
PUBLISH_UNIQUE: Final = _script("publish_unique", *_KEEPING)
SETTLE: Final = _script("settle", *_JOINING, "entry", "entities", "fence", "targets", "batch", "ending")
SETTLE_KEYED: Final = _script("settle_keyed", *_ORDERING, "entities", "fence", "batch", "ending")
SETTLE_TOGETHER: Final = _script("settle_together", *_JOINING, "fence", "targets")
HOLD: Final = _script("hold", *_ORDERING, "fence")
UNHOLD: Final = _script("unhold")
SETTLE_PLAIN: Final = _script("settle_plain", "ack", "rights", "fence", "batch")
LOOK: Final = _script("look", "clock", "tended")
MAINTAIN: Final = _script("maintain", *_JOINING, "entry", "tended")
RECOVER: Final = _script("recover")
LOST: Final = _script("lost", *_JOINING)
RELEASE: Final = _script("release", "fence")
TAKE: Final = _script("take")
REPLAY: Final = _script("replay", *_ORDERING, "entry", "resend")
REPLAY_AS: Final = _script("replay_as", *_ORDERING, "entry", "resend")
VALUE: Final = _script("value")
OLDEST: Final = _script("oldest", "ack")
BACKLOG: Final = _script("backlog", "ack")
COUNT: Final = _script("count", "clock", "ack")
FIND: Final = _script("find")
ADD_MINUTES: Final = _script("add_minutes")
MINUTES: Final = _script("minutes")
LOCK: Final = _script("lock")
RATE: Final = _script("rate")
SLOT: Final = _script("slot")
TRIGGER: Final = _script("trigger", "clock")
FIRE: Final = _script("fire", *_KEEPING)
PAUSE: Final = _script("pause", "clock")
ENTITY: Final = _script("entity", "clock", "entities")
LOAD_STATES: Final = _script("load_states")

LIST_DELAYED: Final = _script("list_delayed")
CANCEL: Final = _script("cancel", *_JOINING)
PAYLOADS: Final = _script("payloads", *_ORDERING)
COPY: Final = _script("copy")
PURGE: Final = _script("purge", *_JOINING)
DRAIN: Final = _script("drain", *_ORDERING, "entry")
ARRIVE: Final = _script("arrive", *_ORDERING)
RUN: Final = _script("run", *_JOINING)
FORWARD: Final = _script("forward", *_KEEPING, "forwarded")
EFFECTS: Final = _script("effects", *_JOINING, "forwarded")

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
