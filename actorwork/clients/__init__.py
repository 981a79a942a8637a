"""Clients: programs that run no actors send messages to them, and learn the outcomes.

client          `open_client` and `Client`: refs, publish, pauses, triggers, shared values, locks
refs            refs to actors behind a broker, and receipts
sender          envelopes and ids, and the one place where replies arrive
runs            runs of workflows: started, watched, steered
spool           `Spool` and the task that replays it: messages that wait in a local file
spooled         the spool's file as the tasks of one process see it
lazy_broker     a broker that is opened in the background
dead_letters    reading dead letters page by page
identity        the author of a pause
"""

from actorwork.clients.client import Client as Client, open_client as open_client
from actorwork.clients.refs import Receipt as Receipt, StreamRef as StreamRef
from actorwork.clients.spool import Spool as Spool
