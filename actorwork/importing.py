"""Import parts of the package without collecting garbage on the way.

What a module creates, it keeps: functions, classes, constants. Python looks for garbage among it after every 700 new
objects, 80 times until a node handles its first message: that was a seventh of what a start costs beyond a program that
only runs Trio. So the collector pauses for an import, as it does where Mercurial or Python itself load many objects
at once. It goes on afterwards, and looks at what came in the meantime when it next looks at everything.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def paused_collector(module: str) -> Generator[None]:
    """Pause the garbage collector for a block that imports a module.

    The collector is left alone if the module has been imported, or if the program has disabled the collector.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            # Moves all objects to the oldest generation: otherwise the next collection would look at each of them. What
            # a program has frozen stays so.
            gc.freeze()
            gc.unfreeze()
        gc.enable()
