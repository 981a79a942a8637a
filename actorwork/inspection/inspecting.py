"""Questions about what runs at a broker, and commands to nodes.

    overview, nodes, node, tree, actors, actor, sources, source, message, locks    read reports and the broker
    stacks, stop, cancel                                                           ask a node, and wait for its answer

A node answers within a second while its reports are watched, so each question here begins to watch them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from actorwork.errors import BrokerError
from actorwork.inspection.gathering import Gathered, gather, info_of, read_nodes
from actorwork.inspection.locks import LockInfo, held_locks, locks_of
from actorwork.inspection.states import stalled, together
from actorwork.inspection.values import (
    ActorInfo,
    MessageView,
    NodeInfo,
    NodePage,
    Obeyed,
    Overview,
    Problem,
    SourceInfo,
    Stack,
    Stacks,
    TreeInfo,
)
from actorwork.policy import history, idle
from actorwork.policy.minutes import ALL, KEPT
from actorwork.policy.reports import Counts, PartReport
from actorwork.policy.series import Series, series_of

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.policy.idle import Place, Reason
    from actorwork.records import MessageInfo, Pause

ANSWER_WITHIN: Final = 3.0
"""Seconds for a node to answer."""
SHOWN: Final = 200
"""Actors, sources and problems of an overview, at most."""
SEARCHED: Final = 1000
"""Dead letters of a source among which a message is looked for."""
_FIRST_LOOK: Final = 0.02
_RAREST_LOOK: Final = 0.2

Sleep = Callable[[float], Awaitable[object]]


class Inspection:
    """Looks at one broker; `sleep` waits for some seconds (by default as Trio does)."""

    def __init__(self, broker: Broker, sleep: Sleep | None = None) -> None:
        if sleep is None:
            # Imported here: in a program on asyncio there is none.
            import trio

            sleep = trio.sleep
        self._broker = broker
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"<Inspection of {self._broker.url}>"

    @property
    def broker(self) -> Broker:
        """The broker that it looks at."""
        return self._broker

    # ---- what runs where ----

    async def watch(self, seconds: float = 5.0) -> None:
        """Have all nodes report every two seconds for `seconds`. A caller that goes on looking calls it again."""
        try:
            await self._broker.reports.watch(seconds)
        except BrokerError:
            # A user who may only read, and everybody while the server is full, sees reports up to 13 seconds old.
            return
        if self._broker.shared_url is None:
            # The nodes are in this process, and report only now.
            for _ in range(20):
                if (await self._broker.reports.nodes())[1]:
                    break
                await self._sleep(0.001)

    async def nodes(self, after: str = "", limit: int = 100) -> NodePage:
        """Return up to `limit` nodes, by id, after one of them."""
        await self.watch()
        as_of, names = await self._broker.reports.nodes()
        page = [name for name in names if name > after][:limit]
        nodes, _ = await read_nodes(self._broker, page, as_of)
        return NodePage(
            as_of=as_of,
            nodes=tuple(nodes),
            total=len(names),
            next=page[-1] if page and page[-1] != names[-1] else None,
        )

    async def node(self, which: str) -> NodeInfo:
        """Return a node by its id, the beginning of it, its name, its host or its pid.

        Raises `LookupError` if there is none, or more than one.
        """
        await self.watch()
        as_of, names = await self._broker.reports.nodes()
        # By id it is one report; by anything else, all are read.
        exact = [name for name in names if name == which] or [
            name for name in names if which and name.startswith(which)
        ]
        if len(exact) == 1:
            found = await self._broker.reports.get(exact)
            if found:
                return info_of(found[0], as_of)
        nodes, _ = await read_nodes(self._broker, names, as_of)
        return chosen(nodes, which)

    async def tree(self, which: str | None = None) -> Sequence[TreeInfo]:
        """Return the trees of all programs, or of one node. The trees of processes stand in that of their program."""
        gathered = await self._gather()
        by_id = {node.id: node for node in gathered.nodes}
        if which is None:
            roots = [node for node in gathered.nodes if not node.parent and node.report is not None]
        else:
            roots = [chosen(gathered.nodes, which)]
        return [
            TreeInfo(as_of=gathered.as_of, node=node.id, name=node.name, root=_whole(node.report.tree, by_id))
            for node in roots
            if node.report is not None
        ]

    async def overview(self, limit: int = SHOWN) -> Overview:
        """Return everything in one look; of actors, sources and problems, at most `limit` each.

        Costs one command for 200 nodes, one for 2,000 sources, and a few more.
        """
        gathered = await self._gather()
        counts = await self._count(gathered, gathered.sources)
        minutes = await self._minutes(ALL, gathered.as_of)
        gathered.commands += 1
        sources = sorted((self._source(gathered, one) for one in counts.values()), key=_urgency)
        actors = [self._actor(gathered, title, counts) for title in gathered.titles]
        actors.sort(key=lambda one: (one.why is None or one.why.is_fine, -one.handling - one.waiting, one.title))
        places = [place for places in gathered.by_title.values() for place in places]
        return Overview(
            as_of=gathered.as_of,
            broker=self._broker.url,
            nodes=tuple(gathered.nodes),
            actors=tuple(actors[:limit]),
            sources=tuple(sources[:limit]),
            pauses=tuple(gathered.pauses),
            problems=tuple(of_each_kind(_problems(gathered, actors, sources), limit)),
            backlog=sum(one.backlog for one in sources),
            handling=sum(place.part.handling for place in places),
            delayed=sum(one.delayed for one in sources),
            dead=sum(one.dead for one in sources),
            restarts=sum(place.part.restarts for place in places),
            oldest=max((one.oldest for one in sources if one.oldest is not None), default=None),
            actors_left_out=max(0, len(actors) - limit),
            sources_left_out=max(0, len(sources) - limit),
            past=history.summed(
                (
                    past
                    for node in gathered.nodes
                    if node.report is not None and (past := history.read(node.report.history))
                ),
                gathered.as_of,
            ),
            minutes=minutes,
            commands=gathered.commands,
        )

    async def actors(self) -> Sequence[ActorInfo]:
        """Return all actors that run, or have run, by title."""
        gathered = await self._gather()
        counts = await self._count(gathered, gathered.sources)
        return [self._actor(gathered, title, counts) for title in gathered.titles]

    async def actor(self, title: str) -> ActorInfo:
        """Return an actor by its title; raises `LookupError` for one that neither runs nor has run."""
        gathered = await self._gather()
        if title not in gathered.titles:
            raise LookupError(f"no actor {title!r} runs at this broker, or has run; {_known(gathered.titles)}")
        sources = {
            *gathered.known.get(title, ()),
            *(s for p in gathered.by_title.get(title, ()) for s in p.part.sources),
        }
        return self._actor(gathered, title, await self._count(gathered, sorted(sources)))

    async def sources(self) -> Sequence[SourceInfo]:
        """Return all sources that an actor reads, or has read, by name."""
        gathered = await self._gather()
        return [self._source(gathered, one) for one in (await self._count(gathered, gathered.sources)).values()]

    async def source(self, name: str) -> SourceInfo:
        """Return a source, with its last two hours; one that was never used is empty, and not read."""
        gathered = await self._gather()
        found = self._source(gathered, (await self._count(gathered, [name]))[name])
        return attrs.evolve(found, minutes=await self._minutes(name, gathered.as_of))

    async def locks(self) -> Sequence[LockInfo]:
        """Return the locks that are held or waited for: those for which most actors wait first."""
        return locks_of(await self._gather(), await held_locks(self._broker))

    async def message(self, id: str, source: str | None = None) -> MessageView:
        """Return a message by its id. Without a source it is found if it is tracked, or running.

        Raises `LookupError` if there is no source to look in.
        """
        gathered = await self._gather()
        holders = [
            holder
            for places in gathered.by_title.values()
            for holder in gathered.held(places)
            if holder.message.what == id and (source is None or holder.message.source == source)
        ]
        if source is None:
            source = holders[0].message.source if holders else await self._broker.states.locate(id)
        if not source:
            raise LookupError(f"message {id} is not tracked, and not running in an actor: name the source to look in")
        info = await self._broker.states.find(source, id)
        found = await self._broker.reports.find(source, id)
        outcome = await self._broker.find_outcome(source, id)
        dead = None
        if found is None and not holders and (info is None or info.status.is_final):
            letters = await self._broker.dead_letters.list(source, limit=SEARCHED)
            dead = next((letter for letter in letters if letter.id == id), None)
        (counts,) = await self._broker.reports.count([source])
        # Another message with its key, which is running.
        of_key = None
        if found is not None and found.where == "key":
            readers = gathered.by_source.get(source, [])
            of_key = next((one for one in gathered.held(readers) if one.message.key == found.key), None)
        why: Reason
        if holders:
            why = idle.of_held(gathered.place_of(holders[0]), holders[0].message)
        elif info is not None and info.status.is_final:
            why = idle.Reason("over", f"{info.status}: {info.reason}" if info.reason else str(info.status))
        elif found is not None and found.where == "key":
            place = None if of_key is None else gathered.place_of(of_key)
            why = idle.of_key(found.key, place, None if of_key is None else of_key.message)
        elif found is not None and found.due is not None:
            why = idle.of_delayed(found.due)
        elif dead is not None:
            why = idle.Reason("over", f"a dead letter since {idle.at(dead.at)}: {dead.failure.reason}", since=dead.at)
        elif info is not None and info.node and info.status in ("RECEIVED", "STARTED"):
            why = idle.of_received(_place_of(gathered, info), info.node)
        elif info is None and found is None:
            status = "" if outcome is None else f": it is {outcome.status}"
            why = idle.Reason("over" if outcome is not None else "unknown", f"nothing more is known of it{status}")
        else:
            waiting = attrs.evolve(counts, backlog=max(1, counts.backlog))
            readers = gathered.by_source.get(source, [])
            why = idle.of_source(waiting, gathered.pauses, readers, is_whole=gathered.is_whole)
        payload = None if found is None else found.data.decode(errors="replace")
        if dead is not None and isinstance(dead.payload, bytes):
            payload = dead.payload.decode(errors="replace")
        return MessageView(
            as_of=gathered.as_of,
            id=id,
            source=source,
            why=why,
            info=info,
            holder=holders[0] if holders else None,
            key="" if found is None else found.key,
            due=None if found is None else found.due,
            dead="" if dead is None else dead.entry,
            headers={} if found is None else found.headers,
            payload=payload,
            result=None if outcome is None else outcome.value.decode(errors="replace"),
        )

    # ---- asking a node ----

    async def stacks(self, which: str, within: float = ANSWER_WITHIN) -> Stacks:
        """Return where the threads and tasks of a node are; raises `LookupError` for a node that is not there."""
        node = await self.node(which)
        answer, why = await self._ask(node, within, command="stacks")
        as_of, _ = await self._broker.reports.nodes()
        if answer is None:
            return Stacks(as_of=as_of, node=node.id, name=node.name, no_answer=why)
        blocked = answer.get("blocked")
        return Stacks(
            as_of=as_of,
            node=node.id,
            name=node.name,
            stacks=tuple(_stacks(answer.get("stacks"))),
            blocked_for=float(blocked) if isinstance(blocked, (int, float)) else None,
        )

    async def stop(
        self, which: str, *, by: str = "", grace: float | None = None, within: float = ANSWER_WITHIN
    ) -> Obeyed:
        """Have a node begin its staged shutdown, in its own grace or in one of `grace` seconds.

        A process of a tree is started again by its supervisor.
        """
        return await self._command(await self.node(which), within, command="stop", by=by, within=grace)

    async def cancel(self, which: str, source: str, message: str, *, reason: str = "", force: bool = False) -> Obeyed:
        """Have a node cancel a message that it is handling, or has in a mailbox; also one that is not tracked."""
        facts = {"command": "cancel", "source": source, "message": message, "reason": reason, "force": force}
        return await self._command(await self.node(which), ANSWER_WITHIN, **facts)

    async def _command(self, node: NodeInfo, patience: float, **command: Any) -> Obeyed:
        answer, why = await self._ask(node, patience, **command)
        if answer is None:
            return Obeyed(node=node.id, name=node.name, done=False, text=why, is_answered=False)
        text = answer.get("text") or answer.get("refused") or ""
        return Obeyed(node=node.id, name=node.name, done=answer.get("done") is True, text=str(text)[:2000])

    async def _ask(self, node: NodeInfo, patience: float, **command: Any) -> tuple[dict[str, Any] | None, str]:
        """Return the answer of a node, or None and why there is none."""
        asked = await self._broker.commands.ask(node.id, json.dumps(command).encode())
        if asked is None:
            return None, f"{node.name} is gone: it has neither a report nor a lease"
        waited, pause = 0.0, _FIRST_LOOK
        while True:
            data = await self._broker.commands.find_answer(asked)
            if data is not None:
                try:
                    answer = json.loads(data)
                except (ValueError, RecursionError):
                    answer = None
                if isinstance(answer, dict):
                    return cast("dict[str, Any]", answer), ""
                return None, f"{node.name} answered what cannot be read"
            if waited >= patience:
                return None, f"no answer from {node.name} within {patience:g} s"
            await self._sleep(pause)
            waited, pause = waited + pause, min(_RAREST_LOOK, 2 * pause)

    # ---- parts ----

    async def _gather(self) -> Gathered:
        await self.watch()
        return await gather(self._broker)

    async def _count(self, gathered: Gathered, sources: Sequence[str]) -> dict[str, Counts]:
        gathered.commands += math.ceil(len(sources) / 2000)
        return {one.source: one for one in await self._broker.reports.count(sources)}

    async def _minutes(self, source: str, now: float) -> Series | None:
        end = int(now // 60)
        try:
            return series_of(await self._broker.minutes.read(source, end - KEPT + 1, end), now)
        except BrokerError:  # A user with few rights may not run scripts, or read these keys.
            return None

    def _source(self, gathered: Gathered, counts: Counts) -> SourceInfo:
        places = gathered.by_source.get(counts.source, [])
        held = [holder for holder in gathered.held(places) if holder.message.source == counts.source]
        return SourceInfo(
            name=counts.source,
            backlog=counts.backlog,
            delayed=counts.delayed,
            dead=counts.dead,
            oldest=counts.oldest,
            next_due=counts.due,
            actors=tuple(sorted({place.part.title for place in places})),
            nodes=tuple(dict.fromkeys(place.node for place in places)),
            handling=len(held),
            pause=_pause(gathered.pauses, "source", counts.source),
            why=idle.of_source(counts, gathered.pauses, places, is_whole=gathered.is_whole),
        )

    def _actor(self, gathered: Gathered, title: str, counts: dict[str, Counts]) -> ActorInfo:
        places = gathered.by_title.get(title, [])
        sources = sorted({*gathered.known.get(title, ()), *(one for place in places for one in place.part.sources)})
        counted = [counts[source] for source in sources if source in counts]
        return ActorInfo(
            title=title,
            nodes=tuple(dict.fromkeys(place.node for place in places)),
            sources=tuple(sources),
            states=dict(Counter(place.part.state for place in places)),
            waiting=sum(place.part.waiting for place in places),
            capacity=sum(place.part.capacity for place in places),
            concurrency=sum(place.part.concurrency for place in places),
            handling=sum(place.part.handling for place in places),
            in_hand=tuple(gathered.held(places)),
            restarts=sum(place.part.restarts for place in places),
            hold_ups=tuple(hold_up for place in places for hold_up in place.part.hold_ups),
            backlog=sum(one.backlog for one in counted),
            dead=sum(one.dead for one in counted),
            pause=_pause(gathered.pauses, "actor", title),
            why=idle.of_actor(title, counted, gathered.pauses, places, is_whole=gathered.is_whole),
            entities=together([one.part.entities for one in places if one.part.entities is not None]),
        )


def chosen(nodes: Sequence[NodeInfo], which: str) -> NodeInfo:
    """Return the node that is meant; raises `LookupError` if there is none, or more than one."""
    ways: tuple[Callable[[NodeInfo], bool], ...] = (
        lambda node: node.id == which,
        lambda node: node.name == which,
        lambda node: node.report is not None and str(node.report.pid) == which,
        lambda node: node.report is not None and node.report.host == which,
        lambda node: bool(which) and node.id.startswith(which),
    )
    for way in ways:
        found = [node for node in nodes if way(node)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"{node.name} ({node.id[:8]})" for node in found[:10])
            raise LookupError(f"{which!r} means {len(found)} nodes: {names}; give the id of one")
    raise LookupError(f"no node {which!r} reports itself; {_known([node.name for node in nodes])}")


def _known(names: Sequence[str]) -> str:
    return f"known are {', '.join(names[:10])}{' and others' if len(names) > 10 else ''}" if names else "none does"


def _whole(part: PartReport, nodes: dict[str, NodeInfo]) -> PartReport:
    """Put the trees of processes at their places."""
    if part.kind == "process" and part.node in nodes:
        report = nodes[part.node].report
        if report is not None:
            return attrs.evolve(part, children=tuple(_whole(child, {}) for child in report.tree.children))
    return attrs.evolve(part, children=tuple(_whole(child, nodes) for child in part.children))


def _place_of(gathered: Gathered, info: MessageInfo) -> Place | None:
    places = [place for place in gathered.by_title.get(info.actor, ()) if place.node == info.node]
    return places[0] if places else None


def _pause(pauses: Sequence[Pause], kind: str, name: str) -> Pause | None:
    whole = next((pause for pause in pauses if pause.kind == "everything"), None)
    return whole or next((pause for pause in pauses if pause.kind == kind and pause.name == name), None)


def _urgency(source: SourceInfo) -> tuple[bool, float, str]:
    """Order sources: those where nothing happens first, then those with a backlog, the oldest in front."""
    return source.why is None or source.why.is_fine, -(source.oldest or 0.0) if source.backlog else 1.0, source.name


def of_each_kind(problems: Sequence[Problem], limit: int) -> list[Problem]:
    """Return at most `limit` problems, in their order; a thousand of one kind leave room for those of the others."""
    counts: dict[str, int] = {}
    turns: list[tuple[int, int]] = []
    for place, one in enumerate(problems):
        counts[one.kind] = counts.get(one.kind, 0) + 1
        turns.append((counts[one.kind], place))
    return [problems[place] for place in sorted(place for _, place in sorted(turns)[:limit])]


def _problems(gathered: Gathered, actors: Sequence[ActorInfo], sources: Sequence[SourceInfo]) -> list[Problem]:
    found = [
        Problem(kind="node", name=node.name, text=node.problem, node=node.id) for node in gathered.nodes if node.problem
    ]
    reporting = {node.id for node in gathered.nodes}
    found += [
        Problem(kind="node", name=f"{part.title} ({part.pid})", text="it has not reported itself so far")
        for node in gathered.nodes
        for part in (() if node.report is None else node.report.processes)
        if part.node and part.node not in reporting
    ]
    found += [
        Problem(kind="actor", name=actor.title, text=actor.why.text)
        for actor in actors
        if actor.why is not None and actor.why.code in ("circuit", "stopped")
    ]
    found += [
        Problem(kind="actor", name=actor.title, text=stalled(actor.entities))
        for actor in actors
        if actor.entities is not None and actor.entities.stalled
    ]
    found += [
        Problem(kind="source", name=source.name, text=source.why.text)
        for source in sources
        if source.backlog and source.why is not None and source.why.code in ("no reader", "lease lost", "blocked")
    ]
    dead = [source for source in sources if source.dead]
    found += [Problem(kind="dead letters", name=one.name, text=_letters(one.dead)) for one in dead]
    return found


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


def _stacks(facts: object) -> list[Stack]:
    """Read the stacks in an answer; what is none is left out."""
    found: list[Stack] = []
    for one in cast("list[object]", facts) if isinstance(facts, list) else []:
        if not isinstance(one, dict):
            continue
        named = cast("dict[str, Any]", one)
        lines = named.get("lines")
        if isinstance(lines, list):
            shown = tuple(str(line)[:1000] for line in cast("list[object]", lines))
            found.append(Stack(name=str(named.get("name"))[:300], kind=str(named.get("kind"))[:20], lines=shown))
    return found
