"""Metrics of processes: added up in the root, and kept when a process dies."""

import os
import signal
from collections.abc import Mapping

from actorwork import Process, System, open_client, open_system

from .conftest import Said, until
from .workers import Worker


def values(system: System, name: str) -> Mapping[tuple[str, ...], float]:
    assert system.metrics is not None
    return {
        tuple(one.labels.values()): one.count if one.kind == "histogram" else one.value
        for one in system.metrics.read()
        if one.name == name
    }


def acked(system: System) -> float:
    return values(system, "actorwork_deliveries_total").get(("worker", "ack"), 0)


async def test_a_killed_process_leaves_its_counters_and_takes_its_gauges(file_url: str, said: Said):
    async with open_system(Process([Worker], name="w", replicas=1), broker=file_url, metrics=True) as system:
        async with open_client(file_url) as client:
            for number in range(3):
                await client.publish("work", {"what": f"first {number}"})
            await until(lambda: acked(system) == 3, "three messages in the metrics")
            assert values(system, "actorwork_process_duration_seconds") == {("worker", "ack"): 3}
            before = values(system, "process_cpu_seconds_total")
            capacity = values(system, "actorwork_mailbox_capacity")
            assert list(capacity) == [("worker", "w")]
            (first,) = said.pids("up")
            os.kill(first, signal.SIGKILL)
            counted: list[float] = []

            def is_restarted() -> bool:
                counted.append(acked(system))
                return len(said.pids("up")) == 2

            await until(is_restarted, "a second process")
            await client.publish("work", {"what": "second"})

            def has_four() -> bool:
                counted.append(acked(system))
                return counted[-1] == 4

            await until(has_four, "a fourth message in the metrics")
            # Each process costs for itself, and what the one that died had cost stays.
            spent = values(system, "process_cpu_seconds_total")
            assert set(spent) == {(), ("w",)}
            assert spent["w",] >= before["w",] > 0
            assert set(values(system, "process_resident_memory_bytes")) == {(), ("w",)}
        assert counted == sorted(counted)
        assert values(system, "actorwork_process_exits_total") == {("w", "oom"): 1}
        assert values(system, "actorwork_restarts_total") == {("w", "ProcessLost"): 1}
        assert values(system, "actorwork_processes") == {("w", "running"): 1}
        metrics = system.metrics
    # The last report of a process that ends in order comes with its end.
    assert metrics is not None
    found = {one.name for one in metrics.read()}
    assert "actorwork_deliveries_total" in found
