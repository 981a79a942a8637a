"""What a process uses, the limits of control groups, and when a resource is low."""

import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from actorwork.errors import MissingExtra, SettingsError
from actorwork.telemetry.resources import (
    Cgroup,
    Disk,
    Lows,
    ResourceBounds,
    ResourceMonitor,
    Resources,
    cgroups_of,
)

GB = 1_000_000_000
BEFORE = Resources(
    uptime=60.0,
    cpu_user=1.5,
    cpu_system=0.5,
    memory=GB // 4,
    memory_used=GB // 2,
    memory_limit=GB,
    limited_by="cgroup",
    threads=7,
    open_files=12,
    disks=(Disk("/data", 10 * GB, 100 * GB),),
    collections=({"collections": 3, "collected": 20, "uncollectable": 1},),
)


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_process_is_read(tmp_path: Path):
    monitor = ResourceMonitor([tmp_path / "not" / "yet.sqlite3"])
    assert monitor.latest is None
    found = monitor.read(loop_lag=0.25)
    assert monitor.latest is found
    assert found.uptime > 0
    assert found.cpu == found.cpu_user + found.cpu_system > 0
    assert 0 < found.memory < found.memory_limit
    assert 0 < found.memory_share < 1
    assert found.threads >= 1
    assert found.open_files is not None
    assert found.open_files > 0
    assert found.loop_lag == 0.25
    assert len(found.collections) == len(gc.get_stats())
    (disk,) = found.disks
    assert Path(disk.path) == tmp_path
    assert 0 < disk.total >= disk.free
    assert os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize == disk.total


def test_a_path_without_a_file_system_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monitor = ResourceMonitor([tmp_path])

    def fail(path: str) -> object:
        raise OSError(path)

    monkeypatch.setattr("psutil.disk_usage", fail)
    assert monitor.read().disks == ()


V2 = {
    "proc/self/cgroup": "0::/kubepods/pod1/app\n",
    "sys/fs/cgroup/kubepods/pod1/app/memory.max": "max\n",
    "sys/fs/cgroup/kubepods/pod1/app/memory.current": "1\n",
    "sys/fs/cgroup/kubepods/pod1/memory.max": "500000000\n",
    "sys/fs/cgroup/kubepods/pod1/memory.current": "400000000\n",
    "sys/fs/cgroup/kubepods/pod1/memory.stat": "anon 1\ninactive_file 150000000\nactive_file 7\n",
    "sys/fs/cgroup/kubepods/memory.max": "900000000\n",
}
CONTAINER_V2 = {
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.max": "500000000\n",
    "sys/fs/cgroup/memory.current": "400000000\n",
    "sys/fs/cgroup/memory.stat": "inactive_file 150000000\n",
}
V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n",
    "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "500000000\n",
    "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": "400000000\n",
    "sys/fs/cgroup/memory/docker/abc/memory.stat": "inactive_file 9\ntotal_inactive_file 150000000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
}
CONTAINER_V1 = {
    "proc/self/cgroup": "4:memory:/docker/abc\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "500000000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "400000000\n",
    "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 150000000\n",
}


@pytest.mark.parametrize("files", [V2, CONTAINER_V2, V1, CONTAINER_V1], ids=["v2", "own v2", "v1", "own v1"])
def test_the_tightest_limit_of_the_control_groups_counts(files: Mapping[str, str], tmp_path: Path):
    found = ResourceMonitor(root=tree(tmp_path, files)).read()
    assert found.limited_by == "cgroup"
    assert found.memory_limit == 500_000_000
    assert found.memory_used == 250_000_000, "without file pages that can be dropped"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "garbage\n0::\n:::\n"},
        {**CONTAINER_V2, "sys/fs/cgroup/memory.max": "max\n"},
        {**CONTAINER_V2, "sys/fs/cgroup/memory.max": "9223372036854771712\n"},
        {**CONTAINER_V2, "sys/fs/cgroup/memory.current": "none\n"},
    ],
)
def test_without_a_limit_that_of_the_machine_counts(files: Mapping[str, str], tmp_path: Path):
    import psutil

    found = ResourceMonitor(root=tree(tmp_path, files)).read()
    assert found.limited_by == "machine"
    assert found.memory_limit == psutil.virtual_memory().total


def test_a_path_of_a_group_does_not_leave_its_mount(tmp_path: Path):
    tree(tmp_path, {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/memory.max": "5\n"})
    assert cgroups_of(tmp_path) == [Cgroup(tmp_path / "sys/fs/cgroup", 2)]


def test_conventional_names_have_their_units():
    found = {(one.name, *one.attributes.values()): (one.prometheus_name, one.value) for one in BEFORE.measures()}
    assert found == {
        ("process.cpu.time", "user"): ("process_cpu_time_seconds_total", 1.5),
        ("process.cpu.time", "system"): ("process_cpu_time_seconds_total", 0.5),
        ("process.memory.usage",): ("process_memory_usage_bytes", GB // 4),
        ("process.thread.count",): ("process_thread_count", 7),
        ("process.uptime",): ("process_uptime_seconds", 60.0),
        ("process.unix.file_descriptor.count",): ("process_unix_file_descriptor_count", 12),
        ("cpython.gc.collections", "0"): ("cpython_gc_collections_total", 3),
        ("cpython.gc.collected_objects", "0"): ("cpython_gc_collected_objects_total", 20),
        ("cpython.gc.uncollectable_objects", "0"): ("cpython_gc_uncollectable_objects_total", 1),
    }


def lows(*steps: Resources) -> list[list[str]]:
    watch = Lows(ResourceBounds())
    return [[event.resource for event in watch.look(step)] for step in steps]


def memory(share: float) -> Resources:
    return attrs.evolve(BEFORE, memory_used=round(share * GB))


def disk(*shares: float) -> Resources:
    disks = tuple(Disk(f"/{number}", round(share * 100 * GB), 100 * GB) for number, share in enumerate(shares))
    return attrs.evolve(BEFORE, disks=disks)


def test_memory_is_low_once_until_it_has_recovered():
    assert lows(memory(0.5), memory(0.9), memory(0.99), memory(0.87), memory(0.95), memory(0.84), memory(0.9)) == [
        [],
        ["memory"],
        [],
        [],
        [],
        [],
        ["memory"],
    ]


def test_each_disk_is_low_by_itself():
    assert lows(disk(0.5, 0.5), disk(0.05, 0.5), disk(0.06, 0.04), disk(0.08, 0.0), disk(0.01, 0.01)) == [
        [],
        ["disk"],
        ["disk"],
        [],
        ["disk"],
    ]


def test_an_event_says_what_is_left():
    (event,) = Lows(ResourceBounds(memory=0.4)).look(BEFORE)
    assert (event.resource, event.where, event.free, event.total) == ("memory", "cgroup", GB // 2, GB)
    (event,) = Lows(ResourceBounds(disk=0.2)).look(BEFORE)
    assert (event.resource, event.where, event.free, event.total) == ("disk", "/data", 10 * GB, 100 * GB)


@pytest.mark.parametrize("wrong", [{"memory": 0}, {"memory": 90}, {"disk": -0.1}, {"disk": 5}, {"every": 0}])
def test_bounds_are_shares(wrong: dict[str, float]):
    with pytest.raises(SettingsError):
        ResourceBounds(**wrong)  # pyright: ignore[reportArgumentType] - the other fields have other types


def test_without_psutil_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MissingExtra, match=r'pip install "actorwork\[monitor\]"'):
        ResourceMonitor()
