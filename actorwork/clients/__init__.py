"""Clients: programs that run no actors send messages to them, and learn the outcomes.

client          `Client`: refs, publish, pauses, triggers, workflows, shared values, locks
opening         `open_client`, for Trio programs
driver          what a client asks of the world around it; `on_trio` is that of Trio programs
refs            refs to actors behind a broker
receipts        receipts for messages that were submitted: their lives and results
sender          envelopes and ids, and the one place where replies arrive
circles         finds handlers that wait for one another, for asks that wait for long
runs            runs of workflows: started, watched, steered
spool           `Spool` and the task that replays it: messages that wait in a local file
spooled         the spool's file as the tasks of one process see it
lazy_broker     a broker that is opened in the background
dead_letters    reading dead letters page by page
identity        the author of a pause
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from actorwork.clients.client import Client as Client
    from actorwork.clients.opening import open_client as open_client
    from actorwork.clients.receipts import Receipt as Receipt
    from actorwork.clients.refs import Prepared as Prepared, StreamRef as StreamRef
    from actorwork.clients.spool import Spool as Spool

_AT_FIRST_USE: Final = {
    "Client": "client",
    "Prepared": "refs",
    "Receipt": "receipts",
    "Spool": "spool",
    "StreamRef": "refs",
    "open_client": "opening",
}
"""The modules of these names, imported when one is used first: clients without Trio use this room, too."""


def __getattr__(name: str) -> object:
    module = _AT_FIRST_USE.get(name)
    if module is None:
        raise AttributeError(f"module 'actorwork.clients' has no attribute {name!r}")
    value: object = getattr(import_module(f"actorwork.clients.{module}"), name)
    globals()[name] = value
    return value
