"""How a message whose processes die is treated: it runs alone, and then becomes a dead letter.

    crashes so far        what happens to it
    0                     it runs among others
    from `alone_from`     it is a suspect: it runs with nothing beside it in its process
    `max_crashes`         it is a dead letter, without another run

A process dies with everything it has in flight, and one message of these killed it. So all of them are counted, and the
last run before the limit is one alone: then only the guilty one gets there. With a limit of 1 there is no such run.

A suspect that ran beside other messages could be counted once more for what another one did. So a node that is to take
a suspect reads nothing more, of any source of any of its actors, until what it has in flight has ended; then it takes
one suspect, and nothing else until that has ended.

A node without anything in flight does this at once, so a process that has just started comes first. One that is busy
waits for a second, in which another node may take the suspect. Both waits are bounded, since what an actor has in
flight may itself wait for a message (a stash): then the node reads again, and tries later. A suspect that has not ended
by then keeps all others out, but no longer all messages.
"""

from __future__ import annotations

from typing import Final

SUSPICIOUS: Final = 2
"""Crashes from which on a message runs alone at the latest: the first one may be any message's doing."""
LEFT_TO_OTHERS: Final = 1.0
"""Seconds for which a busy node leaves a suspect to a node that has nothing in flight."""
CLEARING: Final = 60.0
"""Seconds for which a node reads nothing, so that what it has in flight ends and a suspect can run alone."""
ALONE: Final = 600.0
"""Seconds for which a suspect has a node for itself."""
TRY_AGAIN: Final = 120.0
"""Seconds in which a node reads as usual, after one of these times is over."""


def limit_of(max_crashes: int) -> int:
    """Return after how many crashes a message is dead. 0 means 1: a message is known to kill only once it has."""
    return max(1, max_crashes)


def alone_from(max_crashes: int) -> int:
    """Return the number of crashes from which on a message runs alone."""
    return max(1, min(SUSPICIOUS, max_crashes - 1))
