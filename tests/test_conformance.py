"""Both brokers keep what every broker promises."""

from functools import partial
from pathlib import Path

import pytest

from actorwork.embedded.broker import open_broker as open_embedded
from actorwork.events import Event
from actorwork.streams.broker import open_broker as open_redis
from actorwork.testing.conformance import BrokerConformance, Opener


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
