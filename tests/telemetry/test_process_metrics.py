"""What a process costs, under the names that Prometheus' own clients use."""

import gc
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from actorwork.telemetry.metrics import Registry
from actorwork.telemetry.metrics.process import ProcessCosts


def read(registry: Registry) -> dict[str, float]:
    return {" ".join((one.name, *one.labels.values())): one.value for one in registry.read()}


def costs() -> Registry:
    registry = Registry()
    registry.collectors.append(ProcessCosts(registry.family).collect)
    return registry


def test_the_figures_are_those_of_the_client_of_prometheus():
    theirs = CollectorRegistry()
    ProcessCollector(registry=theirs)
    found = read(costs())
    for name, within in (
        ("process_max_fds", 0.0),
        ("process_start_time_seconds", 1.0),
        ("process_resident_memory_bytes", 50e6),  # Another test may run garbage collection between the two.
    ):
        value = theirs.get_sample_value(name)
        assert value is not None
        assert abs(found[name] - value) <= within
    assert found["process_threads"] >= 1


def test_a_file_that_is_opened_is_counted_until_it_is_closed():
    registry = costs()
    before = read(registry)["process_open_fds"]
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    assert read(registry)["process_open_fds"] == before + 5
    for file in files:
        os.close(file)
    assert read(registry)["process_open_fds"] == before


def test_time_on_a_core_and_collections_of_garbage_are_counted():
    registry = costs()
    before, cpu = read(registry), time.process_time()
    while time.process_time() - cpu < 0.05:
        pass
    gc.collect()
    after = read(registry)
    assert after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"] >= 0.05
    assert after["cpython_gc_collections_total 2"] > before["cpython_gc_collections_total 2"]
    assert after["cpython_gc_uncollectable_objects_total 0"] >= 0


def test_a_limit_that_is_none_is_infinite(monkeypatch: pytest.MonkeyPatch):
    def unlimited(_: int) -> tuple[int, int]:
        return resource.RLIM_INFINITY, resource.RLIM_INFINITY

    monkeypatch.setattr(resource, "getrlimit", unlimited)
    assert read(costs())["process_max_fds"] == float("inf")


def test_what_a_system_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("actorwork.telemetry.metrics.process._FILES", (str(tmp_path / "none"),))
    found = read(costs())
    assert "process_open_fds" not in found
    assert "process_threads" in found


def test_processes_below_have_series_of_their_own_and_what_the_dead_have_cost_stays():
    registry = costs()
    below: list[list[Any]] = [
        ["process_cpu_seconds_total", "", [], 7.5],
        ["process_resident_memory_bytes", "", [], 1000],
    ]
    second: list[list[Any]] = [["process_cpu_seconds_total", "", [], 1.5]]
    again: list[list[Any]] = [["process_cpu_seconds_total", "", [], 0.5]]
    registry.absorb("worker 1", 41, below)
    registry.absorb("worker 2", 42, second)
    registry.retire("worker 1", 41)
    registry.absorb("worker 1", 43, again)
    found = read(registry)
    assert found["process_cpu_seconds_total worker/1"] == 8.0
    assert found["process_cpu_seconds_total worker/2"] == 1.5
    assert found["process_cpu_seconds_total"] > 0
    assert "process_resident_memory_bytes worker/1" not in found
