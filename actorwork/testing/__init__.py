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

from actorwork.testing.clock import advance as advance
from actorwork.testing.eager import run_eagerly as run_eagerly
from actorwork.testing.faults import Faults as Faults, InjectedCrash as InjectedCrash
from actorwork.testing.memory import MemoryBroker as MemoryBroker, MemoryNode as MemoryNode, Settled as Settled
from actorwork.testing.probe import TestProbe as TestProbe
from actorwork.testing.redis_server import RedisServer as RedisServer, open_redis_server as open_redis_server
from actorwork.testing.system import Sent as Sent, TestSystem as TestSystem, open_test_system as open_test_system
