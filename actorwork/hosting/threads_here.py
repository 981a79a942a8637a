"""Whether threads run in this program: a system in a thread that never runs would fail without a word.

uWSGI          runs no threads but its own, unless it is told to
gevent,        replace threads by greenlets of one thread, which Trio's loop would block
eventlet
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from actorwork.errors import NotRunning

_NO: Final = {"", "0", "false", "no", "off", "none"}


def refuse_without_threads() -> None:
    """Raise `NotRunning` where a new thread would not run."""
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is not None and not _has_threads(uwsgi.opt):
        raise NotRunning(
            "a SystemThread needs threads, and this uWSGI runs without: start it with --enable-threads, or run the"
            " actors in a program of their own (actorwork run)"
        )
    for library, module in (("gevent", "gevent.monkey"), ("eventlet", "eventlet.patcher")):
        patching: Any = sys.modules.get(module)
        if patching is not None and _is_patched(library, patching):
            raise NotRunning(
                f"a SystemThread needs threads, and {library} has replaced them by greenlets, which Trio's loop would"
                " block: run the actors in a program of their own (actorwork run)"
            )


def _has_threads(options: Mapping[str, object]) -> bool:
    if "threads" in options:
        return True  # implies the other option
    value = options.get("enable-threads", False)
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.lower() not in _NO


def _is_patched(library: str, patching: Any) -> bool:
    return bool(
        patching.is_module_patched("threading") if library == "gevent" else patching.is_monkey_patched("thread")
    )
