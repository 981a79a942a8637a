"""The cases: what happens in each, and the figures it yields (README.md has the table)."""

import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.benchkit import procfs
from benchmarks.benchkit.procfs import Sampler
from benchmarks.benchkit.registry import LIMIT
from benchmarks.benchkit.trial import Trial

Figures = dict[str, Any]


def percentile(values: list[float], q: float) -> float | None:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 3) if ordered else None


def enqueue(trial: Trial) -> Figures:
    before = trial.redis.info()["used_memory"]
    single = trial.client("enqueue", n=trial.n)
    memory = trial.redis.info()["used_memory"] - before
    trial.redis.command("FLUSHALL")
    i0 = trial.redis.info()
    batch = trial.client("batch", n=trial.n, skip_single=True)
    i1 = trial.redis.info()
    trial.redis.command("FLUSHALL")
    in_flight = trial.client("in_flight", n=trial.n)
    return {
        "ok": True,
        "n": trial.n,
        "rate": round(single["rate"], 1),
        "in_flight_rate": round(in_flight["rate"], 1) if in_flight["rate"] else None,
        "cpu_ms_per_1000": round(single["cpu_ms_per_1000"], 1),
        "batch_rate": round(batch["rate"], 1) if batch["rate"] else None,
        "batch_how": batch["how"],
        "batch_reads_per_job": round((i1["total_reads_processed"] - i0["total_reads_processed"]) / trial.n, 3),
        "redis_bytes_per_job": round(memory / trial.n),
    }


def drain_preloaded(trial: Trial, operation: str = "batch", **arguments: Any) -> Figures:
    """Preload the jobs, start the workers, and measure from the first job's start to the last job's end."""
    n, recorder = trial.n, trial.recorder
    preload = trial.client(operation, n=n, **arguments)
    loaded = trial.redis.info()["used_memory"] / 1e6
    trial.redis.command("CONFIG", "RESETSTAT")
    i0, (busy0, steal0) = trial.redis.info(), procfs.machine_cpu()
    spawned = trial.start_workers()
    sampler = Sampler(trial.worker_pids(), trial.redis.process.pid)
    sampler.start()
    ok = trial.wait_done(0, n, LIMIT[trial.case])
    time.sleep(0.15)  # the last acks go out, and the sampler passes the end
    sampler.finish()
    i1, (busy1, steal1) = trial.redis.info(), procfs.machine_cpu()

    done = n - trial.undone()
    first = min(moment for moment in recorder.t_start[:n] if moment)
    last = max(recorder.t_done[:n])
    (worker0, redis0), (worker1, redis1) = sampler.at(first), sampler.at(last)
    seconds = last - first
    calls = {name[8:]: (count - i0.get(name, 0)) / n for name, count in i1.items() if name.startswith("cmdstat_")}
    calls = {name: round(count, 3) for name, count in calls.items() if count > 0.004 and name != "info"}
    others = (busy1 - busy0) - sampler.cpu[-1][1] - (sampler.cpu[-1][2] - sampler.cpu[0][2])
    return {
        "ok": ok,
        "n": n,
        "done": done,
        "dups": sum(1 for count in bytes(recorder.done[:n]) if count > 1),
        "s": round(seconds, 4),
        "rate": round(done / seconds, 1),
        "worker_cpu_s_per_1000": round((worker1 - worker0) / n * 1000, 4),
        "worker_cores": round((worker1 - worker0) / seconds, 2),
        "redis_cpu_s_per_1000": round((redis1 - redis0) / n * 1000, 4),
        "rss_peak_mb": round(sampler.rss_peak, 1),
        "first_after_spawn_s": round(first - spawned, 3),
        "redis_cmds_per_job": round(sum(calls.values()), 2),
        "redis_cmds": calls,
        "redis_reads_per_job": round((i1["total_reads_processed"] - i0["total_reads_processed"]) / n, 3),
        "redis_mem_preload_mb": round(loaded, 1),
        "preload": preload,
        "redis_mem_left_mb": round(i1["used_memory"] / 1e6, 1),
        "other_cpu_s": round(others, 2),
        "steal_s": round(steal1 - steal0, 2),
    }


def drain(trial: Trial) -> Figures:
    return drain_preloaded(trial, task="noop")


def members(trial: Trial) -> Figures:
    """As `drain`, of the members of one group that was started before."""
    return drain_preloaded(trial, "start_group")


def io(trial: Trial) -> Figures:
    figures = drain_preloaded(trial, task="io")
    starts = [(moment, 1) for moment in trial.recorder.t_start[: trial.n]]
    ends = [(moment, -1) for moment in trial.recorder.t_done[: trial.n]]
    running = peak = 0
    for _, change in sorted(starts + ends):
        running += change
        peak = max(peak, running)
    ideal = trial.n / trial.conc * 0.05
    return figures | {
        "ideal_s": round(ideal, 3),
        "over_ideal": round(figures["s"] / ideal, 2),
        "peak_concurrency": peak,
    }


def latency(trial: Trial) -> Figures:
    trial.warm_up()
    sent = trial.client("paced", n=trial.n, rate=50)
    ok = trial.wait_done(0, trial.n, 10)
    pairs = zip(trial.recorder.t_start[: trial.n], trial.recorder.t_ts[: trial.n], strict=True)
    ms = [(started - sent_at) * 1e3 for started, sent_at in pairs if started]
    return {
        "ok": ok,
        "n": trial.n,
        "got": len(ms),
        "p50_ms": percentile(ms, 0.5),
        "p95_ms": percentile(ms, 0.95),
        "p99_ms": percentile(ms, 0.99),
        "max_ms": round(max(ms), 2),
        "max_late_ms": round(sent["max_late_ms"], 2),
    }


def rpc(trial: Trial) -> Figures:
    trial.warm_up()
    figures = trial.client("rpc", n=trial.n)
    return {"ok": True} | {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}


def cold(trial: Trial) -> Figures:
    """Start to the first job, five times; the last worker stays, rests for 3 s, and is measured idle for 10 s."""
    took: list[float] = []
    for k in range(5):
        trial.client("enqueue", n=1, start=k)
        spawned = trial.start_workers()
        if not trial.wait_done(k, k + 1, 40):
            raise RuntimeError("no first job in 40 s")
        took.append((trial.recorder.t_start[k] - spawned) * 1e3)
        if k < 4:
            trial.end_workers()
    time.sleep(3)
    pids = procfs.tree(trial.worker_pids())
    cpu0, i0 = procfs.cpu_seconds(pids), trial.redis.info()
    time.sleep(10)
    cpu1, i1 = procfs.cpu_seconds(pids), trial.redis.info()
    commands = i1["total_commands_processed"] - i0["total_commands_processed"] - 1
    return {
        "ok": True,
        "cold_ms": round(statistics.median(took)),
        "all_ms": [round(ms) for ms in took],
        "procs": len(pids),
        "idle_rss_mb": round(procfs.rss_mb(pids), 1),
        "idle_pss_mb": round(procfs.pss_mb(pids), 1),
        "idle_cpu_pct": round((cpu1 - cpu0) * 10, 2),
        "idle_cmds_per_s": round(commands / 10, 1),
    }


def crash(trial: Trial) -> Figures:
    """Kill the whole worker tree one second after its first job, start a new one, and count the jobs."""
    n, recorder = trial.n, trial.recorder
    trial.client("batch", n=n, task="crash")
    trial.start_workers()
    deadline = time.time() + 40
    while time.time() < deadline and trial.undone() == n:
        time.sleep(0.005)
    time.sleep(1.0)
    trial.end_workers(signal.SIGKILL)
    killed = time.time()
    done = n - trial.undone()
    in_flight = n - bytes(recorder.started[:n]).count(0) - done
    if done >= n:
        raise RuntimeError("all jobs were done before the kill")
    trial.start_workers()

    # Settled: all done and nothing for 8 s more (late duplicates), or the time is up.
    deadline = killed + trial.description.get("settle", 60)
    all_done: float | None = None
    total, quiet_since = -1, time.time()
    nudges = missing_before_nudges = 0
    while time.time() < deadline:
        if (now_total := sum(bytes(recorder.done[:n]))) != total:
            total, quiet_since = now_total, time.time()
        if all_done is None and not trial.undone():
            all_done = max(recorder.t_done[:n])
        if all_done and time.time() - quiet_since > 8:
            break
        # Still missing 30 s later: does new traffic bring them back? One extra job every 5 s.
        if not all_done and time.time() - killed > 30 + 5 * nudges and nudges < 6:
            if not nudges:
                missing_before_nudges = trial.undone()
            trial.client("enqueue", n=1, start=n + nudges, task="crash")
            nudges += 1
        time.sleep(0.05)

    counts = bytes(recorder.done[:n])
    left = {} if all_done else {"keys_left": trial.redis.keys_left()}
    return left | {
        "ok": all_done is not None,
        "n": n,
        "done_at_kill": done,
        "in_flight_at_kill": in_flight,
        "missing_after_30s_without_new_traffic": missing_before_nudges,
        "nudges": nudges,
        "lost": counts.count(0),
        "duplicated": sum(1 for count in counts if count > 1),
        "started_twice": sum(1 for count in bytes(recorder.started[:n]) if count > 1),
        "all_done_s_after_kill": round(all_done - killed, 2) if all_done else None,
    }


def submit(trial: Trial) -> Figures:
    figures = trial.client("submit", n=trial.n)
    return {"ok": True, "n": trial.n, "rate": round(figures["rate"], 1)}


def group(trial: Trial) -> Figures:
    """Start a group of jobs that return their number, and await the list of all results."""
    n, recorder = trial.n, trial.recorder
    trial.warm_up()
    figures = trial.client("group", n=n)
    seconds = max(recorder.t_done[:n]) - min(recorder.t_start[:n])
    return {
        "ok": not trial.undone(),
        "n": n,
        "dups": sum(1 for count in bytes(recorder.done[:n]) if count > 1),
        "rate": round(n / seconds, 1),
        "all_s": round(figures["s"], 3),
    }


def chord(trial: Trial) -> Figures:
    """Start a chord; its last job has a slot of its own, behind that of the warm-up."""
    n, recorder = trial.n, trial.recorder
    body = n + 1
    trial.warm_up()
    began = time.time()
    figures = trial.client("chord", n=n, body=body)
    ok = trial.wait_done(0, n, LIMIT["chord"]) and trial.wait_done(body, body + 1, LIMIT["chord"])
    last = max(recorder.t_done[:n])
    return {
        "ok": ok,
        "n": n,
        "start_s": round(figures["s"], 3),
        "body_ms": round((recorder.t_start[body] - last) * 1e3, 1),
        "bodies": recorder.done[body],
        "s": round(recorder.t_done[body] - min(began, *recorder.t_start[:n]), 3),
    }


RUN: dict[str, Callable[[Trial], Figures]] = {
    "enqueue": enqueue,
    "submit": submit,
    "members": members,
    "group": group,
    "chord": chord,
    "drain": drain,
    "drain2": drain,
    "latency": latency,
    "io": io,
    "rpc": rpc,
    "cold": cold,
    "crash": crash,
}
