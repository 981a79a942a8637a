"""What a process uses of its machine, read by psutil (extra `monitor`).

    ResourceMonitor   reads; synchronous, in any thread
    Resources         what was read, at one moment; `measures` has it under the names of OpenTelemetry
    ResourceBounds    when a resource counts as low
    Lows              tells once when a resource becomes low, and again only after it has recovered: pure

Memory is judged by what ends the process: the limit of its cgroup (v1 or v2, the tightest one up to the root), or that
of the machine. What counts towards it is the memory of the whole cgroup, without file pages that the kernel can drop.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs

from actorwork import events
from actorwork.durations import as_seconds
from actorwork.errors import MissingExtra
from actorwork.policy.bounds import number, seconds
from actorwork.shown import Value

if TYPE_CHECKING:
    from types import ModuleType

RECOVERED: Final[Mapping[str, float]] = {"memory": 0.05, "disk": 0.02}
"""How far a share must be back within its bound until the resource may become low again."""
_GENERATIONS: Final = ("collections", "collected", "uncollectable")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ResourceBounds(Value):
    """When a resource is low: so much of the memory is used, or no more of a disk is free, both from 0 to 1.

    It is looked at every `every` seconds.
    """

    memory: float = attrs.field(default=0.9, validator=number(0, 1, above=True))
    disk: float = attrs.field(default=0.05, validator=number(0, 1))
    every: float = attrs.field(default=10.0, converter=as_seconds, validator=seconds(0.1, 3600))


@attrs.frozen(eq=False, repr=False)
class Disk(Value):
    """The file system of a path, in bytes; `free` is what this user may still write."""

    path: str
    free: int
    total: int


class Measure(NamedTuple):
    """One number, under its name in OpenTelemetry's conventions, with the unit and the attributes given there."""

    name: str
    unit: str
    value: float
    attributes: Mapping[str, str]
    is_counter: bool

    @property
    def prometheus_name(self) -> str:
        """The name in Prometheus: with the unit where it is one of base, and `_total` for a counter."""
        unit = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        return f"{self.name.replace('.', '_')}{unit}{'_total' if self.is_counter else ''}"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Resources(Value):
    """What a process uses: seconds, and bytes.

    `memory` is its resident memory. `memory_used` is what counts towards `memory_limit`, which is that of `limited_by`:
    "cgroup" or "machine". `open_files` and `open_files_limit` are None where the system does not tell. `loop_lag` is by
    how much the loop was late when this was read.
    """

    uptime: float
    cpu_user: float
    cpu_system: float
    memory: int
    memory_used: int
    memory_limit: int
    limited_by: str
    threads: int
    open_files: int | None = None
    open_files_limit: int | None = None
    loop_lag: float = 0.0
    disks: tuple[Disk, ...] = ()
    collections: tuple[Mapping[str, int], ...] = ()
    """For each generation of the garbage collector: `collections`, `collected` and `uncollectable`."""

    @property
    def cpu(self) -> float:
        """Seconds of a core, all in all."""
        return self.cpu_user + self.cpu_system

    @property
    def memory_share(self) -> float:
        """How much of the memory is used, from 0 to 1."""
        return self.memory_used / self.memory_limit if self.memory_limit else 0.0

    def measures(self) -> Sequence[Measure]:
        """Return what has a conventional name, for metrics."""
        found = [
            Measure("process.cpu.time", "s", self.cpu_user, {"cpu.mode": "user"}, is_counter=True),
            Measure("process.cpu.time", "s", self.cpu_system, {"cpu.mode": "system"}, is_counter=True),
            Measure("process.memory.usage", "By", self.memory, {}, is_counter=False),
            Measure("process.thread.count", "{thread}", self.threads, {}, is_counter=False),
            Measure("process.uptime", "s", self.uptime, {}, is_counter=False),
        ]
        if self.open_files is not None:
            name = "process.unix.file_descriptor.count"
            found.append(Measure(name, "{file_descriptor}", self.open_files, {}, is_counter=False))
        for generation, counts in enumerate(self.collections):
            attributes = {"cpython.gc.generation": str(generation)}
            found += [
                Measure(f"cpython.gc.{name}", unit, counts.get(key, 0), attributes, is_counter=True)
                for key, name, unit in (
                    ("collections", "collections", "{collection}"),
                    ("collected", "collected_objects", "{object}"),
                    ("uncollectable", "uncollectable_objects", "{object}"),
                )
            ]
        return found


class Lows:
    """Remembers which resources are low."""

    def __init__(self, bounds: ResourceBounds) -> None:
        self._bounds = bounds
        self._low: set[str] = set()

    def __repr__(self) -> str:
        return f"<lows: {', '.join(sorted(self._low)) or 'none'}>"

    def look(self, resources: Resources) -> Sequence[events.ResourceLow]:
        """Return an event for each resource that has become low since the last look."""
        found: list[events.ResourceLow] = []
        used, limit = resources.memory_used, resources.memory_limit
        if limit and self._becomes_low("memory", "memory", resources.memory_share - self._bounds.memory):
            found.append(events.ResourceLow("memory", resources.limited_by, max(0, limit - used), limit))
        for disk in resources.disks:
            beyond = self._bounds.disk - (disk.free / disk.total if disk.total else 1.0)
            if self._becomes_low("disk", disk.path, beyond):
                found.append(events.ResourceLow("disk", disk.path, disk.free, disk.total))
        return found

    def _becomes_low(self, kind: str, name: str, beyond: float) -> bool:
        """Note by how much a share is beyond its bound; return whether it was within it before."""
        if name in self._low:
            if beyond < -RECOVERED[kind]:
                self._low.discard(name)
            return False
        if beyond < 0:
            return False
        self._low.add(name)
        return True


class ResourceMonitor:
    """Reads what this process uses, and the disks of `paths`; raises `MissingExtra` without psutil."""

    def __init__(self, paths: Iterable[Path] = (), *, root: Path = Path("/")) -> None:
        self._psutil: Any = _psutil()
        self._process = self._psutil.Process()
        self.paths: Sequence[Path] = tuple(paths)
        self._cgroups = cgroups_of(root)
        self.latest: Resources | None = None
        """What was read last."""

    def __repr__(self) -> str:
        return f"<resource monitor of process {self._process.pid}>"

    def read(self, *, loop_lag: float = 0.0) -> Resources:
        """Read everything. Takes about a millisecond; a file system of the network may take longer."""
        process = self._process
        with process.oneshot():
            times, memory, threads = process.cpu_times(), process.memory_info().rss, process.num_threads()
            began = process.create_time()
        used, limit, limited_by = self._memory()
        self.latest = Resources(
            uptime=max(0.0, time.time() - began),
            cpu_user=times.user,
            cpu_system=times.system,
            memory=memory,
            memory_used=used,
            memory_limit=limit,
            limited_by=limited_by,
            threads=threads,
            open_files=_or_none(process.num_fds),
            open_files_limit=_or_none(lambda: process.rlimit(self._psutil.RLIMIT_NOFILE)[0]),
            loop_lag=loop_lag,
            disks=tuple(disk for path in self.paths if (disk := self._disk(path)) is not None),
            collections=tuple({key: counts[key] for key in _GENERATIONS} for counts in gc.get_stats()),
        )
        return self.latest

    def _memory(self) -> tuple[int, int, str]:
        """Return the memory that is used, its limit, and what that is a limit of."""
        machine = self._psutil.virtual_memory()
        limits = [(limit, group) for group in self._cgroups if (limit := group.limit()) is not None]
        if limits:
            limit, group = min(limits, key=lambda one: one[0])
            used = group.used()
            if limit < machine.total and used is not None:
                return used, limit, "cgroup"
        return machine.total - machine.available, machine.total, "machine"

    def _disk(self, path: Path) -> Disk | None:
        while not path.exists() and path != path.parent:
            path = path.parent  # The file is not made yet, but its file system is there.
        try:
            usage = self._psutil.disk_usage(str(path))
        except OSError:
            return None
        return Disk(str(path), usage.free, usage.total)


@attrs.frozen(repr=False)
class Cgroup:
    """A control group's memory, by its files."""

    directory: Path
    version: int

    def limit(self) -> int | None:
        """Return the most bytes that it may use; None for one without a limit."""
        return _whole(self.directory / ("memory.max" if self.version == 2 else "memory.limit_in_bytes"))

    def used(self) -> int | None:
        """Return the bytes that count towards the limit, without file pages that can be dropped."""
        name, droppable = (
            ("memory.current", "inactive_file")
            if self.version == 2
            else ("memory.usage_in_bytes", "total_inactive_file")
        )
        used = _whole(self.directory / name)
        if used is None:
            return None
        for line in _text(self.directory / "memory.stat").splitlines():
            key, _, value = line.partition(" ")
            if key == droppable and value.isdigit():
                return max(0, used - int(value))
        return used


def cgroups_of(root: Path = Path("/")) -> Sequence[Cgroup]:
    """Return the control groups that bound this process's memory, from its own up to the root.

    In a container the path of the group may be that of the host, which is not there: then what is mounted is the group.
    """
    found: list[Cgroup] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            mount, version = root / "sys/fs/cgroup", 2
        elif "memory" in controllers.split(","):
            mount, version = root / "sys/fs/cgroup/memory", 1
        else:
            continue
        parts = [part for part in path.split("/") if part]
        if ".." in parts or not mount.joinpath(*parts).is_dir():
            parts = []
        found += [Cgroup(mount.joinpath(*parts[:depth]), version) for depth in range(len(parts), -1, -1)]
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _whole(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max" is no limit.


def _or_none(read: Any) -> int | None:
    """Return what only some systems tell."""
    try:
        value = int(read())
    except (AttributeError, OSError):
        return None
    return value if value >= 0 else None  # -1: unlimited


def _psutil() -> ModuleType:
    try:
        import psutil  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtra('watching resources needs psutil: pip install "actorwork[monitor]"') from None
    return psutil
