"""What runs where: the overview, nodes, actors in their trees, sources; the stacks of a node, and its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import anyio

from actorwork.clients.purging import PORTION
from actorwork.inspection import Inspection, PartReport, SourceInfo, as_json
from actorwork.inspection.gathering import read_nodes
from actorwork.inspection.inspecting import of_each_kind
from actorwork.inspection.words import source_in_words
from actorwork.policy import history
from actorwork.policy.pauses import is_there
from actorwork.settings import SOURCE, SOURCE_IN_WORDS, default_source, identity
from actorwork.state.known_actors import known_actors
from actorwork.web.rendering import word
from actorwork.web.request import Action, Done, Form, Page, Plan, Refused, Sight, not_found
from actorwork.web.trees import tree_svg

MOST: Final = 3000
"""Sources and actors on a page, at most."""
SHOWN: Final = 200
"""Rows that a page shows unless it asks for more: a page that follows is sent again each second."""
NODES: Final = 100
"""Nodes on a page."""
MOST_PURGED: Final = 100_000
"""Messages that one action drops."""
MOST_NAMED: Final = 50
"""Nodes that the page of an actor names."""
PARTS: Final = 600
"""Parts of a tree on a page."""
PROGRAMS: Final = 20
"""Programs on a page, with their trees."""
FIRST: Final = 8
"""Problems that the overview shows at first."""
OPEN: Final = 40
"""Stacks that are open at first."""
DRAWN: Final = 4
"""Trees that are drawn on a page; those of others are lists."""


def inspection_of(sight: Sight) -> Inspection:
    """Return an inspection of the broker, on either loop."""
    return Inspection(sight.broker, anyio.sleep)


async def view(sight: Sight) -> dict[str, Any]:
    """Show everything in one look: what runs, what waits, and what needs a person."""
    found = await inspection_of(sight).overview(limit=100)
    facts: dict[str, Any] = as_json(found)
    titles = [actor.title for actor in found.actors]
    for source in facts["sources"]:
        source["label"] = source_in_words(source["name"], [*source["actors"], *titles])
    stalled = {actor.title for actor in found.actors if actor.entities is not None and actor.entities.stalled}
    first = set(map(id, of_each_kind(found.problems, FIRST)))
    for one, problem in zip(found.problems, facts["problems"], strict=True):
        problem["is_first"] = id(one) in first
        problem["is_of_entity"] = problem["kind"] == "actor" and problem["name"] in stalled
        problem["label"] = (
            source_in_words(problem["name"], titles) if problem["kind"] in _OF_SOURCES else problem["name"]
        )
    return facts


_OF_SOURCES: Final = ("source", "dead letters")


async def view_sources(sight: Sight) -> dict[str, Any]:
    """Show sources: those where nothing happens first, then those with the oldest messages."""
    limit = sight.number("limit", SHOWN, most=MOST)
    inspection = inspection_of(sight)
    everything = list(await inspection.sources())
    everything.sort(key=_urgency)
    titles = [actor.title for actor in await inspection.actors()] if len(everything) <= MOST else []
    of_titles = {default_source(identity(title)): f"actor:{title}" for title in titles}
    return {
        "sources": [{**as_json(one), "label": of_titles.get(one.name, one.name)} for one in everything[:limit]],
        "total": len(everything),
        "backlog": sum(one.backlog for one in everything),
        "oldest": max((one.oldest for one in everything if one.oldest is not None), default=None),
        "paused": sum(one.why is not None and one.why.code == "paused" for one in everything),
        "limit": limit,
    }


def _urgency(source: SourceInfo) -> tuple[bool, float, str]:
    return source.why is None or source.why.is_fine, -(source.oldest or 0.0) if source.backlog else 1.0, source.name


async def view_source(sight: Sight) -> dict[str, Any]:
    """Show one source: what is in it, who reads it, why nothing happens, and its last two hours."""
    name = sight.needed("name")
    if not SOURCE.fullmatch(name):
        raise Refused(f"a source is {SOURCE_IN_WORDS}, got {name[:300]!r}")
    found = await inspection_of(sight).source(name)
    return {**as_json(found), "label": source_in_words(name, [*found.actors, *await _titles(sight)])}


async def view_nodes(sight: Sight) -> dict[str, Any]:
    """Show nodes by id, a page of them after another."""
    found: dict[str, Any] = as_json(await inspection_of(sight).nodes(after=sight.text("after"), limit=NODES))
    for node in found["nodes"]:
        if node["report"] is not None:
            # The trees of a hundred nodes are what the page of actors is for.
            node["report"]["tree"] = None
    return found


async def view_node(sight: Sight) -> dict[str, Any]:
    """Show one node: how it does, and its tree."""
    try:
        node = await inspection_of(sight).node(sight.needed("id"))
    except LookupError as error:
        raise not_found(str(error)) from None
    facts: dict[str, Any] = as_json(node)
    if facts["report"] is not None and node.report is not None:
        facts["report"]["tree"] = None
        facts["pause"] = await _pause_of(sight, node.name, node.report.process)
        past = history.read(node.report.history)
        facts["past"] = None if past is None else as_json(history.summed([past], node.report.at))
        facts["parts"] = list(_rows(node.report.tree, node.id))[:PARTS]
        facts["graph"] = tree_svg(node.report.tree, node.report.at, node.name)
    return facts


async def _pause_of(sight: Sight, node: str, process: str) -> dict[str, str] | None:
    found = await sight.broker.pauses.list()
    one = next((pause for pause in found if is_there(pause, node=node, process=process)), None)
    return None if one is None else {"kind": one.kind, "name": one.name}


async def view_actors(sight: Sight) -> dict[str, Any]:
    """Show the trees of programs, a page of them after another, and each actor on all nodes."""
    limit = sight.number("limit", SHOWN, most=MOST)
    first = sight.number("first", 1, most=1_000_000)
    inspection = inspection_of(sight)
    trees = await inspection.tree()
    programs: list[dict[str, Any]] = []
    left = PARTS
    for tree in trees[first - 1 : first - 1 + PROGRAMS]:
        rows = list(_rows(tree.root, tree.node))
        if left > 0:
            graph = tree_svg(tree.root, tree.as_of, tree.name) if len(programs) < DRAWN else ""
            programs.append(
                {"node": tree.node, "name": tree.name, "graph": graph, "parts": rows[:left], "total": len(rows)}
            )
        left -= len(rows)
    actors = list(await inspection.actors())
    actors.sort(key=lambda one: (one.why is None or one.why.is_fine, -one.handling - one.waiting, one.title))
    return {
        "programs": programs,
        "programs_total": len(trees),
        "first": first,
        "next": first + PROGRAMS if len(trees) >= first + PROGRAMS else None,
        "is_cut": left < 0,
        "most_parts": PARTS,
        "most_drawn": DRAWN,
        "limit": limit,
        "actors": as_json([*actors[:limit]]),
        "total": len(actors),
    }


async def view_actor(sight: Sight) -> dict[str, Any]:
    """Show one actor on all nodes: what it is handling, what it reads, and why nothing happens."""
    title = sight.needed("title")
    try:
        found = await inspection_of(sight).actor(title)
    except LookupError as error:
        raise not_found(str(error)) from None
    facts: dict[str, Any] = as_json(found)
    labels = {source: source_in_words(source, [title]) for source in found.sources}
    facts["labelled"] = [{"name": name, "label": label} for name, label in labels.items()]
    for one in facts["in_hand"]:
        one["label"] = labels.get(one["message"]["source"], one["message"]["source"])
    nodes, _ = await read_nodes(sight.broker, found.nodes[:MOST_NAMED], 0.0)
    facts["named"] = [{"id": one.id, "name": one.name} for one in nodes]
    facts["triggers"] = sum(one.definition.actor == title for one in await sight.broker.triggers.list())
    return facts


def _rows(part: PartReport, node: str, depth: int = 0, path: str = "") -> Iterator[dict[str, Any]]:
    """Yield a part and all below it, each with its depth, for a list that is indented."""
    here = part.node or node
    facts: dict[str, Any] = as_json(part)
    del facts["children"]
    yield {**facts, "depth": depth, "on": here, "key": path or "root", "has_children": bool(part.children)}
    for number, child in enumerate(part.children):
        yield from _rows(child, here, depth + 1, f"{path}/{number}")


async def view_stacks(sight: Sight) -> dict[str, Any]:
    """Show where the threads and tasks of a node are now; those of an actor first, if one is given."""
    try:
        facts: dict[str, Any] = as_json(await inspection_of(sight).stacks(sight.needed("id")))
    except LookupError as error:
        raise not_found(str(error)) from None
    actor = facts["actor"] = sight.text("actor")
    stacks: list[dict[str, Any]] = facts["stacks"]
    for number, one in enumerate(stacks):
        # As executors and incarnations name their tasks.
        is_of_actor = one["kind"] == "task" and (one["name"] == actor or one["name"].startswith(f"{actor} executor "))
        one["is_open"] = is_of_actor if actor else number < OPEN
    stacks.sort(key=lambda one: bool(actor) and not one["is_open"])
    return facts


# ---- actions ----


async def plan_stop(sight: Sight, form: Form) -> Plan:
    """Plan the staged shutdown of a node."""
    inspection = inspection_of(sight)
    try:
        node = await inspection.node(form.needed("id"))
    except LookupError as error:
        raise not_found(str(error)) from None

    async def do() -> Done:
        obeyed = await inspection.stop(node.id, by=sight.access.who)
        if not obeyed.done:
            raise Refused(obeyed.text or f"{node.name} refused", 409)
        return Done(f"{node.name} stops", 1)

    is_process = node.report is not None and node.report.process
    again = " Its supervisor starts it again." if is_process else " Nothing of ours starts it again."
    return Plan(
        question=f"Stop node {node.name}? What it handles may finish; what waits goes to other nodes.{again}",
        what=f"node {node.name} {node.id}",
        do=do,
        is_grave=True,
        back="/nodes",
    )


async def plan_cancel_in_hand(sight: Sight, form: Form) -> Plan:
    """Plan to cancel a message that a node is handling, also one that is not tracked."""
    node, source, message = form.needed("node"), form.needed("source"), form.needed("message")

    async def do() -> Done:
        reason = form.text("reason")
        try:
            obeyed = await inspection_of(sight).cancel(node, source, message, reason=reason, force=form.flag("force"))
        except LookupError as error:
            raise not_found(str(error)) from None
        if not obeyed.done:
            raise Refused(obeyed.text or "the node refused", 409)
        return Done(f"cancelled message {message}", 1)

    what = f"message {message} of {source} at {node}"
    return Plan(question=f"Cancel message {message}?", what=what, do=do, is_grave=True, back="/actors")


async def plan_purge(sight: Sight, form: Form) -> Plan:
    """Plan to drop what is in a source and no node has been given."""
    source = form.needed("source")
    if not SOURCE.fullmatch(source):
        raise Refused(f"a source is {SOURCE_IN_WORDS}, got {source[:300]!r}")
    purging = sight.broker.purging
    found = await purging.count(source)
    if not found.total:
        raise not_found(f"{source!r} has no message to drop: it is empty, or nodes have all of its messages")
    most = min(found.total, MOST_PURGED)
    reason = form.text("reason") or "its source was purged"

    async def do() -> Done:
        dropped = 0
        while dropped < most:
            some = await purging.drop(source, reason=reason, most=min(PORTION, most - dropped))
            dropped += some
            sight.progress.count = dropped
            if some == 0:
                break
        return Done(f"dropped {dropped:,} {word(dropped, 'message')} of {source!r}", dropped)

    kinds = {"ready": found.ready, "delayed": found.delayed, "behind others with their key": found.behind}
    parts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    steps = f" {found.steps:,} of them are steps of runs, which end with them." if found.steps else ""
    more = f" There are {found.total:,}; one action drops {MOST_PURGED:,} at most." if found.total > most else ""
    return Plan(
        question=f"Drop {most:,} {word(most, 'message')} of {source_in_words(source, await _titles(sight))!r} for good"
        f" ({parts})?{steps}{more} What a node has been given stays.",
        what=f"source {source}",
        do=do,
        how_many=most,
        is_grave=True,
        back="/sources",
    )


async def _titles(sight: Sight) -> Sequence[str]:
    return sorted(await known_actors(sight.broker.values))


PAGES = (
    Page("/overview", "Overview", "overview.html", view),
    Page("/nodes", "Nodes", "nodes.html", view_nodes),
    Page("/node", "Node", "node.html", view_node),
    Page("/node/stacks", "Stacks", "stacks.html", view_stacks, permission="take_stack", is_live=False),
    Page("/actors", "Actors", "actors.html", view_actors),
    Page("/actor", "Actor", "actor.html", view_actor),
    Page("/sources", "Sources", "sources.html", view_sources),
    Page("/source", "Source", "source.html", view_source),
)
ACTIONS = (
    Action("/nodes/stop", "stop node", "stop_node", plan_stop),
    Action("/nodes/cancel", "cancel", "cancel", plan_cancel_in_hand),
    Action("/sources/purge", "purge", "drop", plan_purge),
)
