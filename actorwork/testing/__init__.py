"""What tests are made with, yours and ours.

A system in virtual time (`open_test_system`, `advance`), an actor whose messages the test reads (`TestProbe`), faults
to be injected (`Faults`). The conformance suite for brokers is in `actorwork.testing.conformance`.
"""

from actorwork.testing.clock import advance as advance
from actorwork.testing.faults import Faults as Faults, InjectedCrash as InjectedCrash
from actorwork.testing.memory import MemoryBroker as MemoryBroker, MemoryNode as MemoryNode, Settled as Settled
from actorwork.testing.probe import TestProbe as TestProbe
from actorwork.testing.redis_server import RedisServer as RedisServer, open_redis_server as open_redis_server
from actorwork.testing.system import Sent as Sent, TestSystem as TestSystem, open_test_system as open_test_system
