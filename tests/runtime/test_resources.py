"""A system that watches what its process uses."""

import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from actorwork import Actor, MissingExtra, ResourceBounds, Settings, events, open_system, receive
from actorwork.errors import SettingsError
from actorwork.runtime.resources import paths_of
from actorwork.runtime.system import System
from actorwork.testing.memory import MemoryBroker
from tests.doubles import forget_home
from tests.patience import PATIENCE


class Worker(Actor):
    settings = Settings(title="worker", sources={"work"})

    @receive
    async def work(self, *, n: int) -> None: ...


async def wait_read(system: System) -> None:
    with trio.fail_after(PATIENCE):
        while system.resources is None:  # noqa: ASYNC110 - a thread reads
            await trio.sleep(0.01)


async def test_a_system_knows_what_its_process_uses(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    async with open_system(Worker, broker=url, resources=True) as system:
        await wait_read(system)
        assert system.resources is not None
        assert system.resources.memory > 1_000_000
        assert str(tmp_path / "store.sqlite3") in {disk.path for disk in system.resources.disks}


async def test_a_resource_that_is_low_is_an_event():
    seen: list[events.Event] = []
    low = ResourceBounds(memory=1e-9, every=0.1)
    async with open_system(Worker, broker=MemoryBroker(), resources=low, emit=seen.append) as system:
        await wait_read(system)
        first = system.resources
        with trio.fail_after(PATIENCE):
            while system.resources is first:  # noqa: ASYNC110 - a thread reads
                await trio.sleep(0.01)
    lows = [event for event in seen if isinstance(event, events.ResourceLow)]
    assert [event.resource for event in lows] == ["memory"]


@pytest.mark.parametrize("off", [{}, {"resources": False}])
async def test_without_the_option_nothing_is_read(off: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    async with open_system(Worker, broker=MemoryBroker(), **off) as system:
        assert system.resources is None


async def test_without_psutil_the_start_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MissingExtra, match="actorwork\\[monitor\\]"):
        async with open_system(Worker, broker=MemoryBroker(), resources=True):
            pass


async def test_what_is_no_bounds_is_refused():
    wrong: Any = 0.9
    with pytest.raises(SettingsError, match=r"resources wants True, False or ResourceBounds\(…\), got 0.9"):
        async with open_system(Worker, broker=MemoryBroker(), resources=wrong):
            pass


def test_the_disks_that_matter_are_those_of_the_store_and_of_spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACTORWORK_HOME", str(tmp_path))
    assert paths_of("redis://localhost") == []
    assert paths_of("sqlite://") == []
    assert paths_of("sqlite:////var/lib/shop/a%20b.sqlite3") == [Path("/var/lib/shop/a b.sqlite3")]
    (tmp_path / "spool-0123456789abcdef.sqlite3").touch()
    assert paths_of("redis://localhost") == [tmp_path]


def test_a_user_without_a_home_directory_has_no_spools_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    forget_home(monkeypatch)
    assert paths_of(f"sqlite:///{tmp_path / 'messages.db'}") == [tmp_path / "messages.db"]
