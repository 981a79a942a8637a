"""What tests are made with, those of users and those of this package.

system           a system in virtual time: `open_test_system`
eager            a workflow or a message, run to its end: `run_eagerly`
clock            `advance`, and what else lets virtual time pass
probe            `TestProbe`, an actor whose messages the test reads and answers
faults           `Faults`: crashes at the start, lost settlements, messages that come twice
memory           `MemoryBroker`, the embedded broker on Trio's clock
conformance      the suite that every broker passes
redis_server     a private Redis server
proxy, ledger    what drills need: a network that fails, and the books of several processes
pytest_plugin    fixtures, and a runner for async tests
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from actorwork.testing.clock import advance as advance
    from actorwork.testing.eager import run_eagerly as run_eagerly
    from actorwork.testing.faults import Faults as Faults, InjectedCrash as InjectedCrash
    from actorwork.testing.memory import MemoryBroker as MemoryBroker, MemoryNode as MemoryNode, Settled as Settled
    from actorwork.testing.probe import TestProbe as TestProbe
    from actorwork.testing.redis_server import RedisServer as RedisServer, open_redis_server as open_redis_server
    from actorwork.testing.system import Sent as Sent, TestSystem as TestSystem, open_test_system as open_test_system

_AT_FIRST_USE: Final = {
    "Faults": "actorwork.testing.faults",
    "InjectedCrash": "actorwork.testing.faults",
    "MemoryBroker": "actorwork.testing.memory",
    "MemoryNode": "actorwork.testing.memory",
    "RedisServer": "actorwork.testing.redis_server",
    "Sent": "actorwork.testing.system",
    "Settled": "actorwork.testing.memory",
    "TestProbe": "actorwork.testing.probe",
    "TestSystem": "actorwork.testing.system",
    "advance": "actorwork.testing.clock",
    "open_redis_server": "actorwork.testing.redis_server",
    "open_test_system": "actorwork.testing.system",
    "run_eagerly": "actorwork.testing.eager",
}
"""The modules of all names. Each is imported when it is used first: pytest loads the plugin in every run of an
environment that has this package installed, whether its tests use actors or not.
"""


def __getattr__(name: str) -> object:
    module = _AT_FIRST_USE.get(name)
    if module is None:
        raise AttributeError(f"module 'actorwork.testing' has no attribute {name!r}")
    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_AT_FIRST_USE})
