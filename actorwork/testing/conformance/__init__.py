"""The promises of every broker as tests: for the brokers shipped here, and for those written by others.

Subclass `BrokerConformance` in a test module and define how your broker is opened:

    class TestMyBroker(BrokerConformance):
        @pytest.fixture(autouse=True)
        def _store(self, tmp_path):
            self.url = f"mine://{tmp_path}"

        def opener(self):
            return functools.partial(my_broker.open_broker, self.url)

The tests are `async def`: run them under Trio (pytest-trio does). Tests call `opener` several times, also in other
processes, so its result must be picklable; within a test it must open the same store each time, and a new, empty one
for each test. The tests kill processes, and stop one beyond its lease (SIGSTOP): they need POSIX.

    fake_consumer  an actor as a broker sees it, in this process or in another
    contract       the base of all groups of tests
    publishing     a published message arrives, once and in its order
    reading        which consumer receives a message, and how many at a time
    settling       how a delivery ends, with all its effects
    ownership      which node owns a delivery: releasing, reclaiming, and the fence
    delays         a delayed message arrives on time
    cancelling     delayed messages can be listed and cancelled
    expiry         the broker's clock decides whether a message has expired
    keys           messages with the same key are handled one after another
    entities       a state changes with the settlement of a message, on the version that its handler saw
    waits          what handlers of keys wait for is known, as long as they do
    priorities     urgent messages are delivered first, and the others get turns
    uniqueness     of all messages with the same unique key only one is alive
    outcomes       the outcome of a message reaches the sender that asked for it
    lives          the life of a tracked message is known, and watchers learn of it
    dead_letters   failed messages are kept, and may be replayed
    failures       an actor learns of its messages that have failed
    endings        how a node ends: it offers nothing more, and loses nothing
    values         shared values and locks
    waiting        the age of the oldest waiting message is known
    limits         limits over all nodes: rates, and messages at once
    reports        what nodes report, and commands to them
    minutes        what was handled in each minute, counted by all nodes
    triggers       each nominal time fires once, and pauses hold
    whole          everything together
"""

from __future__ import annotations

from actorwork.testing.conformance.auditing import AuditTests
from actorwork.testing.conformance.cancelling import CancellingTests
from actorwork.testing.conformance.dead_letters import DeadLetterTests
from actorwork.testing.conformance.delays import DelayTests
from actorwork.testing.conformance.endings import EndingTests
from actorwork.testing.conformance.entities import EntityTests
from actorwork.testing.conformance.expiry import ExpiryTests
from actorwork.testing.conformance.failures import FailureTests
from actorwork.testing.conformance.fake_consumer import (
    PATIENCE as PATIENCE,
    FakeConsumer as FakeConsumer,
    Opener as Opener,
    RemoteConsumer as RemoteConsumer,
    open_consumer as open_consumer,
    open_remote_consumer as open_remote_consumer,
    until as until,
)
from actorwork.testing.conformance.keys import KeyTests
from actorwork.testing.conformance.limits import LimitTests
from actorwork.testing.conformance.lives import LifeTests
from actorwork.testing.conformance.minutes import MinuteTests
from actorwork.testing.conformance.outcomes import OutcomeTests
from actorwork.testing.conformance.ownership import OwnershipTests
from actorwork.testing.conformance.priorities import PriorityTests
from actorwork.testing.conformance.publishing import PublishingTests
from actorwork.testing.conformance.purging import PurgeTests
from actorwork.testing.conformance.reading import ReadingTests
from actorwork.testing.conformance.reports import ReportTests
from actorwork.testing.conformance.settling import SettlingTests
from actorwork.testing.conformance.triggers import PauseTests, TriggerTests
from actorwork.testing.conformance.uniqueness import UniquenessTests
from actorwork.testing.conformance.values import ValueTests
from actorwork.testing.conformance.waiting import WaitingTests
from actorwork.testing.conformance.waits import KeyWaitTests
from actorwork.testing.conformance.whole import WholeTests


class SourceConformance(
    PublishingTests,
    ReadingTests,
    SettlingTests,
    OwnershipTests,
    DelayTests,
    CancellingTests,
    ExpiryTests,
    PriorityTests,
    UniquenessTests,
    DeadLetterTests,
    FailureTests,
    EndingTests,
    PurgeTests,
    WaitingTests,
    WholeTests,
):
    """What becomes of messages between a sender and a settlement, but for keys, outcomes and lives."""


class BrokerConformance(
    SourceConformance,
    KeyTests,
    EntityTests,
    KeyWaitTests,
    OutcomeTests,
    LifeTests,
    ValueTests,
    LimitTests,
    TriggerTests,
    PauseTests,
    ReportTests,
    MinuteTests,
    AuditTests,
):
    """Every sentence of `actorwork.abc` on brokers that can be seen from outside."""
