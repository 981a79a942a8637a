"""Events: what happened, as values. Logs, metrics and tests are derived from them, in one place each.

    usual    what all events share; the events of every start and every message
    rare     all others, and `Event`, which is any of them: imported when the first of these names is used

An event does not contain the node's id and the time: its receiver adds them, since every receiver belongs to one node.
Events that occur for every message are as small as possible. Events are distinguished by their class and never
compared, so they have no `__eq__`, and share one `__repr__`: attrs would generate and compile a method per class.

Creating the forty rare classes is a tenth of what a node's start costs, and most nodes start without any of them. So
modules that a start imports name an event as `events.Released`, inside of functions, and import none of them by name.

Events of the processes of a tree arrive at the `emit=` of the program too; their `origin` names the process.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from actorwork.events.usual import (
    ActorStarted as ActorStarted,
    BrokerAdvice as BrokerAdvice,
    BrokerBack as BrokerBack,
    BrokerTrouble as BrokerTrouble,
    LeaseLost as LeaseLost,
    NodeStarted as NodeStarted,
    Origin as Origin,
    Settled as Settled,
)

if TYPE_CHECKING:
    from actorwork.events.rare import *  # noqa: F403 - the names that `__getattr__` finds there


def __getattr__(name: str) -> object:
    if name.startswith("__"):  # Of these Python asks each package for some.
        raise AttributeError(f"module 'actorwork.events' has no attribute {name!r}")
    try:
        value: object = getattr(import_module("actorwork.events.rare"), name)
    except AttributeError:
        raise AttributeError(f"module 'actorwork.events' has no attribute {name!r}") from None
    globals()[name] = value
    return value
