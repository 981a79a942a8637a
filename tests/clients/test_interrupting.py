"""A sync client, used by what interrupts its calls: a signal handler, or a `__del__` of garbage."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from actorwork import BrokerError, NotRunning, blocking, sync
from actorwork.blocking.driver import Deadlines, run
from actorwork.blocking.store import BlockingStore
from actorwork.embedded.location import Location
from actorwork.embedded.store import Store
from tests.patience import PATIENCE

OURS = str(Path(blocking.__file__).parent)
Interrupt = Callable[[], None]


def interrupted(work: Interrupt, interrupt: Interrupt) -> int:
    """Do something that is interrupted wherever the blocking client calls a function; return how often it was."""
    times = 0

    def hook(frame: FrameType, event: str, _: object) -> None:
        nonlocal times
        if event in {"call", "c_call"} and frame.f_code.co_filename.startswith(OURS):
            sys.setprofile(None)
            times += 1
            try:
                interrupt()
            finally:
                sys.setprofile(hook)

    sys.setprofile(hook)
    try:
        work()
    finally:
        sys.setprofile(None)
    return times


def in_a_thread(work: Callable[[], Any]) -> Any:
    """Return what something returns, if it ever ends."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for itself"
    return found[0]


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/m.db" if request.param == "sqlite" else request.getfixturevalue("redis_url")


def test_what_interrupts_a_call_sends_or_is_refused_and_never_waits_for_that_call(url: str) -> None:
    client = sync.open_client(url)
    sent: list[bool] = []

    def send() -> None:
        try:
            client.publish("orders", {"n": 1})
        except NotRunning as error:
            assert "midst of another call of this client" in str(error)  # noqa: PT017 - at Redis there is none
            sent.append(False)
        else:
            sent.append(True)

    send()
    assert in_a_thread(lambda: interrupted(send, send)) == len(sent) - 2 > 0
    assert sent[-1]
    assert all(sent) or url.startswith("sqlite")
    assert client.purge("orders").dropped == sum(sent)
    client.close()


def test_a_file_that_is_closed_in_the_midst_of_a_call_is_closed_when_that_is_done(tmp_path: Path) -> None:
    store = BlockingStore(Location(tmp_path / "messages.db"), Deadlines())

    def close(_: Store) -> str:
        store.close()
        return "committed"

    assert run(store.ask(close)) == "committed"
    with pytest.raises(BrokerError, match="is closed"):
        run(store.ask(lambda _: None))
