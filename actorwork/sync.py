"""A client for programs without an event loop: scripts, Django, Flask, notebooks.

    from actorwork.sync import open_client

    client = open_client("redis://localhost:6379/0")        # one for the process
    client.ref(Greeter).tell(Greet("Ann"))
    print(client.ref(Greeter).ask(Greet("Ben"), timeout=5))
    run = client.start(words(urls))
    print(run.result(timeout=60))

Names, parameters and exceptions are those of the client for Trio. No event loop runs, no thread is started, and Trio is
not imported.
"""

from actorwork.blocking.client import (
    Client as Client,
    EntityRef as EntityRef,
    Held as Held,
    Lock as Lock,
    Prepared as Prepared,
    Receipt as Receipt,
    Ref as Ref,
    Run as Run,
    Shared as Shared,
)
from actorwork.blocking.opening import open_client as open_client

__all__ = ["Client", "EntityRef", "Held", "Lock", "Prepared", "Receipt", "Ref", "Run", "Shared", "open_client"]
