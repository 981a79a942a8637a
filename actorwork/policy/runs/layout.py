"""Where the nodes of a graph without circles are drawn: in layers, with few crossings, each near those it belongs to.

    layers       the length of the longest path that leads to a node
    order        within a layer, by the mean place of the neighbours, back and forth some times
    places       as near to that mean as the distance between neighbours in a layer allows

An edge that passes layers has a bend in each of them, which takes some room: so it does not pass behind a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

SWEEPS: Final = 6
MOST_BENDS: Final = 3000
"""Further edges are drawn straight: their bends would cost more time than they are worth."""
ROOM_OF_BEND: Final = 0.3
"""The room that a bend takes, in the rooms of nodes."""


@attrs.frozen
class Layout:
    """`layer` and `place` of each node, in rooms of one node; `bends` are those of an edge, as (layer, place)."""

    layer: Sequence[int]
    place: Sequence[float]
    bends: Mapping[tuple[int, int], Sequence[tuple[int, float]]]


def layers_of(needs: Sequence[Iterable[int]]) -> list[int]:
    """Return the length of the longest path to each node; `needs` are the nodes from which edges lead to it."""
    waits = [len(set(some)) for some in needs]
    after: list[list[int]] = [[] for _ in needs]
    for node, some in enumerate(needs):
        for need in set(some):
            after[need].append(node)
    layers = [0] * len(needs)
    ready = [node for node, count in enumerate(waits) if not count]
    while ready:
        node = ready.pop()
        for other in after[node]:
            layers[other] = max(layers[other], layers[node] + 1)
            waits[other] -= 1
            if not waits[other]:
                ready.append(other)
    return layers


def lay_out(needs: Sequence[Sequence[int]]) -> Layout:
    """Return where the nodes of a graph are drawn; `needs` are the nodes from which edges lead to it."""
    layers = layers_of(needs)
    graph = _Graph(layers)
    paths = {(need, node): graph.connect(need, node) for node, some in enumerate(needs) for need in dict.fromkeys(some)}
    graph.sort()
    graph.arrange()
    least = min(graph.place, default=0.0)
    place = [one - least for one in graph.place]
    bends = {edge: [(graph.layer[bend], place[bend]) for bend in path] for edge, path in paths.items() if path}
    return Layout(layers, place[: len(needs)], bends)


class _Graph:
    """Nodes, and after them bends, each connected with others in the layers before and after its own."""

    def __init__(self, layers: Sequence[int]) -> None:
        self.layer = list(layers)
        self.place = [0.0] * len(layers)
        self._nodes = len(layers)
        self._before: list[list[int]] = [[] for _ in layers]
        self._after: list[list[int]] = [[] for _ in layers]
        self._columns: list[list[int]] = [[] for _ in range(max(layers, default=-1) + 1)]
        for node, layer in enumerate(layers):
            self._columns[layer].append(node)

    def connect(self, first: int, last: int) -> list[int]:
        """Connect two nodes; return the bends on the way."""
        gap = range(self.layer[first] + 1, self.layer[last])
        path: list[int] = []
        if len(self.layer) - self._nodes + len(gap) <= MOST_BENDS:
            for layer in gap:
                path.append(len(self.layer))
                self._columns[layer].append(path[-1])
                self.layer.append(layer)
                self.place.append(0.0)
                self._before.append([])
                self._after.append([])
        for one, other in zip([first, *path], [*path, last], strict=True):
            self._after[one].append(other)
            self._before[other].append(one)
        return path

    def sort(self) -> None:
        """Order each layer by the mean rank of the neighbours, in the layers before and after it in turn."""
        rank = [0.0] * len(self.layer)
        for column in self._columns:
            for number, node in enumerate(column):
                rank[node] = number - (len(column) - 1) / 2
        for sweep in range(SWEEPS):
            is_forward = sweep % 2 == 0
            for column in self._columns if is_forward else reversed(self._columns):
                near = self._before if is_forward else self._after
                wanted = {node: _mean([rank[one] for one in near[node]], rank[node]) for node in column}
                column.sort(key=wanted.__getitem__)
                for number, node in enumerate(column):
                    rank[node] = number - (len(column) - 1) / 2

    def arrange(self) -> None:
        """Give each node a place near its neighbours, in the order of its layer."""
        for column in self._columns:
            self._put(column, [0.0] * len(column))
        for sweep in range(2 * SWEEPS):
            is_forward = sweep % 2 == 0
            for column in self._columns if is_forward else reversed(self._columns):
                wanted = [
                    _mean([self.place[one] for one in (*self._before[node], *self._after[node])], self.place[node])
                    for node in column
                ]
                self._put(column, wanted)

    def _put(self, column: Sequence[int], wanted: Sequence[float]) -> None:
        """Put nodes as near to where they want to be as their order and their rooms allow (isotonic regression)."""
        offsets: list[float] = []
        at = 0.0
        for node in column:
            half = (1.0 if node < self._nodes else ROOM_OF_BEND) / 2
            offsets.append(at + half)
            at += 2 * half
        blocks: list[list[float]] = []  # The mean of what the nodes of a block want, and how many they are.
        for want, offset in zip(wanted, offsets, strict=True):
            blocks.append([want - offset, 1])
            while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
                mean, count = blocks.pop()
                last = blocks[-1]
                last[0] = (last[0] * last[1] + mean * count) / (last[1] + count)
                last[1] += count
        means = [mean for mean, count in blocks for _ in range(int(count))]
        for node, mean, offset in zip(column, means, offsets, strict=True):
            self.place[node] = mean + offset


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
