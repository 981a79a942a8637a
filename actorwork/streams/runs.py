"""Runs of workflows at Redis: started and changed by one script (`lua/run.lua`), joined by those that settle.

On a cluster a run is in the slot of its home. Its id is claimed first, and what the script has to do in other slots is
forwarded as soon as it has run (`forwarding.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from actorwork.abc import Runs
from actorwork.errors import BrokerError
from actorwork.message import Status
from actorwork.streams import keys, scripts
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import cannot, checked

if TYPE_CHECKING:
    from actorwork.policy.runs.values import Kind, Plan, RunInfo, StepInfo
    from actorwork.streams.formats import Formats

_PAGE: Final = 200
_FORGOTTEN_AT_ONCE: Final = 1000
_STALE: Final = 2
"""What the script returns if it is to be called again, with other arguments."""
_PAGES_KEPT_MS: Final = 3_600_000
_READS: Final = frozenset({"info", "page", "asks", "choose", "version"})
"""What sends nothing."""


class RedisRuns(Runs):
    """The runs of all homes."""

    def __init__(self, client: Commands) -> None:
        self._client = client
        self._formats: Formats | None = None

    def __repr__(self) -> str:
        return f"<RedisRuns at {self._client!r}>"

    async def start(self, plan: Plan) -> bool:
        from actorwork.streams.plans import encoded, pages_of  # noqa: PLC0415 - most programs have no workflows

        with cannot(f"start run {plan.id!r}"):
            await self._refuse_older(plan)
            if self._client.is_of_cluster:
                from actorwork.streams.forwarding import claimed  # noqa: PLC0415 - only on a cluster

                plan = await claimed(self._client, plan)
            if len(plan.steps) <= keys.SENT_AT_ONCE:
                return bool(await self._run(plan.home, plan.id, "start", encoded(plan)))
            pages = os.urandom(8).hex()
            at = f"{keys.run(plan.home, plan.id)}:{pages}"
            for page in pages_of(plan, keys.SENT_AT_ONCE):
                await self._run(plan.home, plan.id, "page", at, page, _PAGES_KEPT_MS)
            is_new = await self._run(plan.home, plan.id, "start", encoded(plan, pages))
            if is_new:
                await self._finish(plan.home, plan.id)
            return bool(is_new)

    async def _finish(self, home: str, run: str) -> None:
        """Do what one script does not do at once of what was ordered; after a death in between, the nodes do."""
        while await self._run(home, run, "more", home, run):
            pass

    async def _refuse_older(self, plan: Plan) -> None:
        """Refuse to start a run whose steps would be read by nodes that may not know how to join them."""
        if self._formats is None:
            from actorwork.streams.formats import FORMAT_OF_RUNS, Formats  # noqa: PLC0415 - most programs have no workflows

            self._formats = Formats(self._client, FORMAT_OF_RUNS)
        sources = {step.source for step in plan.steps if step.source}
        older = await self._formats.older_of(sources)
        if older:
            raise BrokerError(
                f"run {plan.id!r} was not started: nodes of an older version of actorwork read one of"
                f" {', '.join(sorted(sources))}, and may not know how to join its steps ({', '.join(older[:5])}): end"
                " them first"
            )

    async def info(self, run: str) -> RunInfo | None:
        info = await self._look(run)
        if info is None or info.status is not Status.SUCCESS or info.result is not None:
            return info
        from actorwork.streams.joining import result_of  # noqa: PLC0415 - as below

        with cannot(f"look at the result of run {run!r}"):
            home = await self._home(run)
            result = None if home is None else await result_of(self._client, home, run)
        return None if result is None else attrs.evolve(info, result=result)

    async def _look(self, run: str) -> RunInfo | None:
        """Return a run, without a result that is not joined."""
        from actorwork.policy.runs.values import MOST_FAILURES  # noqa: PLC0415 - as below
        from actorwork.streams.plans import INFO_FIELDS, info_from  # noqa: PLC0415

        with cannot(f"look at run {run!r}"):
            home = await self._home(run)
            if home is None:
                return None
            info = info_from(run, await self._run(home, run, "info", home, run, MOST_FAILURES, *INFO_FIELDS))
            return await self._about_to_begin(run) if info is None and self._client.is_of_cluster else info

    async def _about_to_begin(self, run: str) -> RunInfo | None:
        """Return what is known of a run whose start is on its way to its home, or None."""
        from actorwork.policy.runs.values import RunInfo  # noqa: PLC0415
        from actorwork.streams.forwarding import is_claimed  # noqa: PLC0415 - only on a cluster

        return RunInfo(id=run, status=Status.PENDING) if await is_claimed(self._client, run) else None

    async def steps(self, run: str) -> Sequence[StepInfo]:
        from actorwork.policy.runs.values import lived  # noqa: PLC0415
        from actorwork.streams.plans import steps_from  # noqa: PLC0415

        with cannot(f"look at run {run!r}"):
            home = await self._home(run)
            if home is None:
                return []
            at = keys.run(home, run)
            commands = [
                ("HGETALL", f"{at}:{part}") for part in ("steps", "state", "ends", "values", "templates", "grown")
            ]
            hashes: list[dict[bytes, bytes]] = checked(await self._client.call_many(commands, idempotent=True))
            if hashes.pop():
                hashes.append(await self._client.call("HGETALL", f"{at}:next", idempotent=True))
            steps = steps_from(run, *hashes)
            sent = [step for step in steps if step.is_on_its_way]
            states = [keys.SourceKeys.of(step.source).state(step.message) for step in sent]
            commands = [("HMGET", state, "status", "progress") for state in states]
            lives: dict[str, tuple[str, str | None]] = {}
            for step, reply in zip(sent, await self._client.call_many(commands, idempotent=True), strict=True):
                if not isinstance(reply, Exception) and reply[0] is not None and not Status(reply[0].decode()).is_final:
                    lives[step.message] = (reply[0].decode(), None if reply[1] is None else reply[1].decode())
            return lived(steps, lives)

    async def list(self, *, statuses: Sequence[str] = (), limit: int = 100) -> Sequence[RunInfo]:
        with cannot("list the runs"):
            homes = sorted(await self._client.call("SMEMBERS", keys.FLOWS, idempotent=True))
            # All of them where a status is wanted: those that have it may be older than any number of others.
            last = -1 if statuses else max(limit, _PAGE)
            commands = [("ZREVRANGE", keys.runs_of(home.decode()), 0, last, "WITHSCORES") for home in homes]
            found: list[tuple[float, str, str]] = []
            pages = checked(await self._client.call_many(commands, idempotent=True))
            for home, reply in zip(homes, pages, strict=True):
                found += [(float(score), run.decode(), home.decode()) for run, score in reply]
        found.sort(reverse=True)
        runs: list[RunInfo] = []
        for start in range(0, len(found), _PAGE):
            page = [(run, home) for _, run, home in found[start : start + _PAGE]]
            for run in await self._of_statuses(page, statuses):
                if len(runs) == limit:
                    return runs
                info = await self._look(run)
                if info is not None and (not statuses or info.status in statuses):
                    runs.append(info)
        return runs

    async def _of_statuses(self, page: Sequence[tuple[str, str]], statuses: Sequence[str]) -> Sequence[str]:
        """Return the runs of a page that have one of these statuses, by one round trip; all, if none is named."""
        if not statuses:
            return [run for run, _ in page]
        wanted = {status.encode() for status in statuses}
        commands = [("HGET", keys.run(home, run), "status") for run, home in page]
        with cannot("list the runs"):
            replies = checked(await self._client.call_many(commands, idempotent=True))
        return [run for (run, _), status in zip(page, replies, strict=True) if status in wanted]

    async def cancel(self, run: str, reason: str) -> bool:
        return await self._change_all("cancel", run, reason)

    async def pause(self, run: str) -> bool:
        return bool(await self._change("pause", run))

    async def resume(self, run: str) -> bool:
        return await self._change_all("resume", run)

    async def retry(self, run: str, steps: Collection[int] | None = None) -> bool:
        if steps is None:
            return await self._change_all("retry", run)
        with cannot(f"retry run {run!r}"):
            home = await self._home(run)
            while home is not None:
                version: bytes = await self._run(home, run, "version", home, run)
                again = await self._that_run_again(keys.run(home, run), steps) if version else ()
                if not again:
                    return False
                at = f"{keys.run(home, run)}:{os.urandom(8).hex()}"
                for first in range(0, len(again), keys.SENT_AT_ONCE):
                    await self._run(home, run, "choose", at, json.dumps(again[first : first + keys.SENT_AT_ONCE]))
                done = await self._run(home, run, "retry", home, run, version, at)
                if done == 1:
                    await self._finish(home, run)
                if done != _STALE:
                    return bool(done)
        return False

    async def _that_run_again(self, at: str, steps: Collection[int]) -> Sequence[int]:
        """Return these steps of a run and what runs again with them; nothing if one of them cannot."""
        from actorwork.policy.runs.rules import with_what_follows  # noqa: PLC0415 - most programs have no workflows
        from actorwork.streams.plans import NEXT_AT_ONCE, dependents_from, kinds_from  # noqa: PLC0415

        ends: dict[int, Kind] = {}
        cursor: Any = 0
        while True:
            cursor, flat = await self._client.call("HSCAN", f"{at}:ends", cursor, "COUNT", _PAGE, idempotent=True)
            ends.update(kinds_from(dict(zip(flat[::2], flat[1::2], strict=True))))
            if int(cursor) == 0:
                break
        is_of_older_nodes = not await self._client.call("HGET", at, "format", idempotent=True)
        listed = ("SMEMBERS", f"{at}:held") if is_of_older_nodes else ("ZRANGE", f"{at}:held", 0, -1)
        held = {int(step) for step in await self._client.call(*listed, idempotent=True)}
        texts: dict[int, list[bytes]] = {}
        fields = [(step, 0) for step in sorted({*ends, *steps})]
        while fields:
            some, fields = fields[:_PAGE], fields[_PAGE:]
            names = [f"{step}.{page}" if page else step for step, page in some]
            found = await self._client.call("HMGET", f"{at}:next", *names, idempotent=True)
            for (step, page), text in zip(some, found, strict=True):
                if text is not None:
                    texts.setdefault(step, []).append(text)
                    if len(dependents_from([text])) >= NEXT_AT_ONCE:
                        fields.append((step, page + 1))
        return sorted(with_what_follows(steps, ends, held, lambda step: dependents_from(texts.get(step, ()))))

    async def shape_of_signal(self, run: str, name: str) -> str | None:
        with cannot(f"look at run {run!r}"):
            home = await self._home(run)
            row = home and await self._run(home, run, "asks", home, run, name)
        return json.loads(row).get("type") if row else None

    async def signal(self, run: str, name: str, value: bytes) -> bool:
        return bool(await self._change("signal", run, name, value))

    async def forget(self, run: str) -> bool:
        dropped = 0
        while (done := await self._change("forget", run, dropped)) == _STALE:
            dropped += _FORGOTTEN_AT_ONCE
        is_forgotten = bool(done)
        if is_forgotten and self._client.is_of_cluster:
            with cannot(f"forget run {run!r}"):
                await self._client.call("DEL", keys.flow(run), idempotent=True)
        return is_forgotten

    async def _change(self, what: str, run: str, *more: str | bytes | int) -> int:
        with cannot(f"{what} run {run!r}"):
            home = await self._home(run)
            return 0 if home is None else await self._run(home, run, what, home, run, *more)

    async def _change_all(self, what: str, run: str, *more: str) -> bool:
        with cannot(f"{what} run {run!r}"):
            home = await self._home(run)
            if home is None or not await self._run(home, run, what, home, run, *more):
                return False
            await self._finish(home, run)
            return True

    async def _home(self, run: str) -> str | None:
        home = await self._client.call("GET", keys.flow(run), idempotent=True)
        return None if home is None else keys.home_from(home)

    async def _run(self, home: str, run: str, *args: Any) -> Any:
        reply = await self._client.run_script(scripts.RUN, (keys.run(home, run),), args, idempotent=True)
        if self._client.is_of_cluster and args[0] not in _READS:
            from actorwork.streams.forwarding import forward_all  # noqa: PLC0415 - only on a cluster

            await forward_all(self._client, home)
        return reply
