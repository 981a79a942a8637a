"""How many seconds of work wait, for each actor and source: what scalers outside of this machine go by.

    work_seconds    messages that are not settled × seconds that the actor's handlers took for one, lately

Ten thousand messages that take a millisecond are less work than a hundred that take a minute. Messages count from when
they are due, also while no node is there to promote them; those in flight count too, or a scaler would end their node.

The nodes report how long a delivery takes. Where none has handled one yet, the route takes the last that it knew, and
before that `GUESS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import attrs
import trio

from actorwork.inspection.gathering import gather
from actorwork.inspection.routes import FreshRoute
from actorwork.settings import identity
from actorwork.shown import Value
from actorwork.telemetry.metrics.registry import MOST_OF_ANY
from actorwork.telemetry.monitor import Answer, Request, json_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from actorwork.abc import Broker
    from actorwork.inspection.gathering import Gathered

GUESS: Final = 1.0
"""Seconds that a message takes, as long as nothing is known."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Waiting(Value):
    """What waits for one actor in one source.

    `messages` are those that it has not settled and that are due, `oldest` the age in seconds of the oldest that it has
    not read. `seconds_each` is how long its deliveries take; None if no node knows. `nodes` read it now, and handle
    `concurrency` of its messages at once, all together.
    """

    actor: str
    source: str
    messages: int
    oldest: float | None
    seconds_each: float | None
    nodes: int
    concurrency: int


async def work_waiting(broker: Broker) -> list[Waiting]:
    """Read what waits, for each actor and each of its sources, by actor. Raises `BrokerError`.

    Costs a few commands, and two for each actor of each source, at most a thousand of these.
    """
    gathered = await gather(broker)
    counts = {one.source: one for one in await broker.reports.count(gathered.sources)}
    found: list[Waiting] = []

    async def read(source: str, title: str, *, is_shared: bool) -> None:
        count, group = counts[source], identity(title)
        backlog = await broker.backlog(source, group) if is_shared else count.backlog
        # Only that there is one is known: how many are due, the next node to promote them finds out.
        is_due = count.due is not None and count.due <= gathered.as_of
        oldest = await broker.oldest(source, group)
        found.append(_waiting(gathered, title, source, backlog + is_due, oldest))

    pairs = [(source, title, len(titles) > 1) for source, titles in gathered.readers.items() for title in titles]
    async with trio.open_nursery() as nursery:
        for source, title, is_shared in pairs[:MOST_OF_ANY]:
            nursery.start_soon(partial(read, source, title, is_shared=is_shared))
    return sorted(found, key=lambda one: (one.actor, one.source))


def _waiting(gathered: Gathered, title: str, source: str, messages: int, oldest: float | None) -> Waiting:
    places = gathered.by_title.get(title, ())
    here = [place for place in places if source in place.part.sources and place.state not in ("lease lost", "late")]
    each = [place.part.seconds_each for place in places if place.part.seconds_each is not None]
    return Waiting(
        actor=title,
        source=source,
        messages=messages,
        oldest=oldest,
        seconds_each=sum(each) / len(each) if each else None,
        nodes=len({place.node for place in here}),
        concurrency=sum(place.part.concurrency for place in here),
    )


def summary(found: Iterable[Waiting], seconds_each: Callable[[Waiting], tuple[float, bool]]) -> dict[str, Any]:
    """Add up what waits: for one actor over its sources, or in one source over its actors.

    `seconds_each` returns what to reckon with for one of them, and whether that is a guess.
    """
    work, oldest, is_guess, messages = 0.0, 0.0, False, 0
    nodes, concurrency = dict[str, int](), dict[str, int]()
    for one in found:
        each, guessed = seconds_each(one)
        work += one.messages * each
        messages += one.messages
        oldest = max(oldest, one.oldest or 0.0)
        is_guess |= guessed
        # An actor reads all of its sources with the same hands.
        nodes[one.actor] = max(one.nodes, nodes.get(one.actor, 0))
        concurrency[one.actor] = max(one.concurrency, concurrency.get(one.actor, 0))
    at_once = sum(concurrency.values())
    return {
        "work_seconds": round(work, 3),
        "messages": messages,
        "oldest_seconds": round(oldest, 3),
        "seconds_each": round(work / messages, 6) if messages else None,
        "is_guess": is_guess,
        "nodes": max(nodes.values(), default=0),
        "concurrency": at_once,
        "drain_seconds": round(work / at_once, 3) if at_once else None,
    }


class ScaleRoute(FreshRoute[list[Waiting]]):
    """Answers `/scale`, `/scale?actor=TITLE` and `/scale?source=NAME`.

    With `&guess=SECONDS`, a message takes so long as long as nothing is known.
    """

    def __init__(self, broker: Callable[[], Broker], **options: Any) -> None:
        super().__init__(broker, **options)
        self._known: dict[str, float] = {}
        """How long deliveries of an actor took when a node last said so: there may be none for a while."""

    async def read(self, broker: Broker) -> list[Waiting]:
        found = await work_waiting(broker)
        self._known.update((one.actor, one.seconds_each) for one in found if one.seconds_each is not None)
        return found

    def answer(self, found: list[Waiting], request: Request) -> Answer:
        query = {name: values[-1] for name, values in parse_qs(request.query, keep_blank_values=True).items()}
        wrong = query.keys() - {"actor", "source", "guess"}
        guess = _seconds(query.get("guess", str(GUESS)))
        if wrong or guess is None:
            problem = "guess wants seconds > 0"
            if wrong:
                problem = f"{', '.join(sorted(wrong))} is none of actor, source, guess"
            return json_answer({"status": "error", "error": f"{problem}: /scale?actor=TITLE&guess=0.2"}, 400)

        def seconds_each(one: Waiting) -> tuple[float, bool]:
            known = self._known.get(one.actor)
            return (guess, True) if known is None else (known, False)

        actors, sources = _grouped(found, "actor"), _grouped(found, "source")
        for name, groups in (("actor", actors), ("source", sources)):
            wanted = query.get(name)
            if wanted is not None and wanted not in groups:
                error = f"no {name} {wanted!r} has run at this broker"
                return json_answer({"status": "error", "error": error, f"{name}s": sorted(groups)}, 404)
        if "actor" in query or "source" in query:
            wanted = (query.get("actor"), query.get("source"))
            chosen = [one for one in found if wanted[0] in (None, one.actor) and wanted[1] in (None, one.source)]
            return json_answer(summary(chosen, seconds_each))
        return json_answer(
            {
                "actors": {title: summary(those, seconds_each) for title, those in actors.items()},
                "sources": {source: summary(those, seconds_each) for source, those in sources.items()},
            }
        )


def _grouped(found: Iterable[Waiting], by: str) -> Mapping[str, list[Waiting]]:
    groups: dict[str, list[Waiting]] = {}
    for one in found:
        groups.setdefault(getattr(one, by), []).append(one)
    return groups


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < 1e9 else None
