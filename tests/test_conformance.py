"""Both brokers keep what every broker promises; the one at Redis also on a cluster."""

from functools import partial
from pathlib import Path

import pytest

from actorwork.embedded.broker import open_broker as open_embedded
from actorwork.events import Event
from actorwork.streams.broker import open_broker as open_redis
from actorwork.testing.conformance import BrokerConformance, Opener, SourceConformance
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.keys import KeyTests
from actorwork.testing.conformance.lives import LifeTests
from actorwork.testing.conformance.outcomes import OutcomeTests
from actorwork.testing.conformance.publishing import PublishingTests
from actorwork.testing.conformance.whole import WholeTests
from actorwork.testing.redis_cluster import RedisCluster
from tests.divided import open_divided


def ignore(_: Event) -> None: ...


class TestRedis(BrokerConformance):
    url: str

    @pytest.fixture(autouse=True)
    def _store(self, redis_url: str) -> None:
        self.url = redis_url

    def opener(self) -> Opener:
        return partial(open_redis, self.url, emit=ignore)


class TestEmbedded(BrokerConformance):
    url: str

    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path / 'messages.db'}"

    def opener(self) -> Opener:
        return partial(open_embedded, self.url, emit=ignore)


class OnCluster(ContractTests):
    url: str

    @pytest.fixture(autouse=True)
    def _store(self, redis_cluster: RedisCluster) -> None:
        redis_cluster.flush()
        self.url = redis_cluster.url

    def opener(self) -> Opener:
        return partial(open_redis, self.url, emit=ignore)


class TestClusterInShort(OnCluster, PublishingTests, WholeTests): ...


@pytest.mark.long
class TestCluster(OnCluster, BrokerConformance):
    """All but the order in which several sources are read: these are in several slots (docs/cluster.md)."""

    lists_locks = False
    test_nothing_is_read_before_what_is_more_urgent_in_another_source = None  # pyright: ignore[reportAssignmentType]


class OnDivided(ContractTests):
    url: str

    @pytest.fixture(autouse=True)
    def _store(self, redis_url: str) -> None:
        self.url = redis_url

    def opener(self) -> Opener:
        return partial(open_divided, self.url)


class TestDividedInShort(OnDivided, KeyTests, OutcomeTests, LifeTests): ...


@pytest.mark.long
class TestDivided(OnDivided, SourceConformance):
    """All that concerns sources but triggers and entities, which have the source of an actor alone.

    Of several sources each that is divided is read by itself, so their order is none.
    """

    test_nothing_is_read_before_what_is_more_urgent_in_another_source = None  # pyright: ignore[reportAssignmentType]
