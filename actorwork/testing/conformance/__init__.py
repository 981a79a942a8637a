"""What every broker promises, as tests: for the brokers shipped here, and for those written by others.

Subclass `BrokerConformance` in a test module and say how your broker is opened:

    class TestMyBroker(BrokerConformance):
        @pytest.fixture(autouse=True)
        def _store(self, tmp_path):
            self.url = f"mine://{tmp_path}"

        def opener(self):
            return functools.partial(my_broker.open_broker, self.url)

The tests are `async def`: run them under Trio (pytest-trio does). `opener` is called several times in a test, and
by other processes too, so what it returns can be pickled; it must lead to the same store each time, and to an empty one
in each test. The tests kill processes, and stop one past its lease (SIGSTOP): they need POSIX.

    desks         who takes part: an actor as a broker sees it, in this process or in another
    questions     what all questions have in common
    publishing    what is published arrives, once and in its order
    reading       who is given a message, and how many at a time
    settling      how a delivery ends, with all that belongs to it
    ownership     whose a delivery is: handing back, what the dead leave behind, and the fence
    delays        what is to come later comes on time
    held_back     what is held back is known, and can be cancelled
    expiry        how late a message may be begun is said by the broker's clock
    keys          messages of one key are handled one after another
    priorities    what is urgent is given first, and what is not has its turns
    uniqueness    of all messages with one unique key only one is alive
    outcomes      what came of a message reaches whoever asked
    dead_letters  what nobody could handle is kept, and may be sent again
    endings       how a node ends: nothing is offered any more, and nothing is lost
    values        what all nodes see: shared values, and locks
    waiting       for how long messages wait is known
    limits        what all nodes count together: rates, and how many at once
    triggers      what fires by itself, once for each time, and what is paused
    whole         all of it together
"""

from __future__ import annotations

from actorwork.testing.conformance.dead_letters import DeadLetters
from actorwork.testing.conformance.delays import Delays
from actorwork.testing.conformance.endings import Endings
from actorwork.testing.conformance.expiry import Expiry
from actorwork.testing.conformance.fake_consumer import (
    PATIENCE as PATIENCE,
    FakeConsumer as FakeConsumer,
    Opener as Opener,
    RemoteDesk as RemoteDesk,
    open_desk as open_desk,
    open_remote_desk as open_remote_desk,
    until as until,
)
from actorwork.testing.conformance.held_back import HeldBack
from actorwork.testing.conformance.keys import Keys
from actorwork.testing.conformance.limits import Limits
from actorwork.testing.conformance.outcomes import Outcomes
from actorwork.testing.conformance.ownership import Ownership
from actorwork.testing.conformance.priorities import Priorities
from actorwork.testing.conformance.publishing import Publishing
from actorwork.testing.conformance.reading import Reading
from actorwork.testing.conformance.settling import Settling
from actorwork.testing.conformance.triggers import Pauses, Triggers
from actorwork.testing.conformance.uniqueness import Uniqueness
from actorwork.testing.conformance.values import Values
from actorwork.testing.conformance.waiting import Waiting
from actorwork.testing.conformance.whole import Whole


class BrokerConformance(
    Publishing,
    Reading,
    Settling,
    Ownership,
    Delays,
    HeldBack,
    Expiry,
    Keys,
    Priorities,
    Uniqueness,
    Outcomes,
    DeadLetters,
    Endings,
    Values,
    Limits,
    Triggers,
    Pauses,
    Waiting,
    Whole,
):
    """Every sentence of `actorwork.abc` on brokers that can be seen from outside."""
