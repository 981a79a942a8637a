"""Which key waits for which: what brokers note of asks from within handlers.

Messages of one key are handled one after another. So if a handler of the key A asks B, and one of B meanwhile asks A,
each waits until the other has ended: for ever, but for their timeouts. What is noted at the broker tells of that:

    A ──ask──▶ waits behind the message that B handles ──▶ B's handler ──ask──▶ waits behind the message that A handles

A wait is real as long as the delivery that asks is its node's, and the message that is asked waits for its turn, or for
its own handler, which waits in its turn. These are facts of the broker, which it looks at when it is asked for waits; a
note alone means nothing.
"""

from __future__ import annotations

from typing import Final

import attrs

from actorwork.shown import Shown

MOST_WAITS: Final = 16
"""How many asks of one handler are noted at once."""


@attrs.frozen(repr=False)
class KeyWait(Shown):
    """The handler of a message of one key waits for the reply to a message of another one.

    `asking` is the id of the message that is handled, `message` that of the one that is asked, which goes to the key
    `to_key` of `to_source`.
    """

    source: str
    key: str
    asking: str
    message: str
    to_source: str
    to_key: str
