"""Steps that are drawn as one: large groups, and whatever else makes a graph too large to be read.

Steps are alike if they are as far from the first step, go to the same actor, and depend on and are needed by steps that
are alike. So the members of a group are alike, and so are all first steps of chains in a group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final

import attrs

from actorwork.policy.runs.layout import layers_of
from actorwork.policy.runs.values import StepInfo

LARGEST_GROUP: Final = 12
"""More steps than this that are alike are drawn as one node."""
MOST_NODES: Final = 120
MOST_EDGES: Final = 3 * MOST_NODES
"""If there are more, those are left out that longer paths stand for."""
ROUNDS: Final = 8
"""How far from a step others are looked at when it is compared."""


@attrs.frozen
class Node:
    """One step, or several that are drawn as one; `needs` are numbers of nodes."""

    steps: tuple[StepInfo, ...]
    needs: tuple[int, ...]


def folded(steps: Sequence[StepInfo]) -> list[Node]:
    """Return the nodes of the graph of a run: at most `MOST_NODES`, in the order of the steps."""
    at = {step.number: index for index, step in enumerate(steps)}
    needs = [[at[need] for need in step.needs if need in at] for step in steps]
    layers = layers_of(needs)
    groups: list[Hashable] = []
    for groups in _foldings(steps, needs, layers):
        if len(set(groups)) <= MOST_NODES:
            break
    return _nodes(steps, needs, groups)


def _foldings(
    steps: Sequence[StepInfo], needs: Sequence[Sequence[int]], layers: Sequence[int]
) -> Iterator[list[Hashable]]:
    """Yield for each step what it is drawn with, coarser and coarser."""
    kinds = [(layer, *_kind(step)) for step, layer in zip(steps, layers, strict=True)]
    yield _split(_alike(kinds, needs), lambda size: size > LARGEST_GROUP)
    yield _split(_alike(kinds, needs), lambda size: size > 1)
    yield list(kinds)
    yield list(layers)
    width = -(-(max(layers, default=0) + 1) // MOST_NODES)
    yield [layer // width for layer in layers]


def _kind(step: StepInfo) -> tuple[str, str]:
    return step.kind, step.actor if step.kind == "message" else step.name


def _alike(kinds: Sequence[Hashable], needs: Sequence[Sequence[int]]) -> list[int]:
    """Return the same number for all steps that are alike."""
    after: list[list[int]] = [[] for _ in needs]
    for step, some in enumerate(needs):
        for need in some:
            after[need].append(step)
    classes = _numbered(kinds)
    for _ in range(ROUNDS):
        finer = _numbered(
            [
                (classes[step], frozenset(classes[one] for one in before), frozenset(classes[one] for one in behind))
                for step, (before, behind) in enumerate(zip(needs, after, strict=True))
            ]
        )
        if len(set(finer)) == len(set(classes)):
            break
        classes = finer
    return classes


def _numbered(values: Sequence[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def _split(classes: Sequence[int], is_folded: Callable[[int], bool]) -> list[Hashable]:
    """Give each step of a class that is not folded a group of its own."""
    sizes: defaultdict[int, int] = defaultdict(int)
    for one in classes:
        sizes[one] += 1
    return [("class", one) if is_folded(sizes[one]) else ("step", step) for step, one in enumerate(classes)]


def _nodes(steps: Sequence[StepInfo], needs: Sequence[Sequence[int]], groups: Sequence[Hashable]) -> list[Node]:
    numbers = _numbered(groups)
    members: list[list[int]] = [[] for _ in range(len(set(numbers)))]
    for step, number in enumerate(numbers):
        members[number].append(step)
    before = [{numbers[need] for step in some for need in needs[step]} - {n} for n, some in enumerate(members)]
    if sum(map(len, before)) > MOST_EDGES:
        before = _thinned(before)
    return [
        Node(tuple(steps[step] for step in some), tuple(sorted(before[number]))) for number, some in enumerate(members)
    ]


def _thinned(needs: Sequence[set[int]]) -> list[set[int]]:
    """Leave out every edge beside which there is a longer path."""
    layers = layers_of(needs)
    reached: list[set[int]] = [set() for _ in needs]
    thin: list[set[int]] = [set() for _ in needs]
    for node in sorted(range(len(needs)), key=layers.__getitem__):
        for need in sorted(needs[node], key=layers.__getitem__, reverse=True):
            if need not in reached[node]:
                thin[node].add(need)
                reached[node] |= reached[need] | {need}
    return thin
