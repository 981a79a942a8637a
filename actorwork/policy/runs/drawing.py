"""The graph of a run as a picture: SVG that needs nothing else, in light and dark.

A status is shown by a colour, by a mark, and by a word. Each node has its whole name, and how its step ended, in a
title that browsers show under the pointer. Where style sheets have no queries (in printers, converters), it is light.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

import attrs

from actorwork.policy.lettering import cut as _cut, number as _n, text as _text, width as _width
from actorwork.policy.runs.folding import Node, folded
from actorwork.policy.runs.layout import Layout, lay_out
from actorwork.policy.runs.rules import said
from actorwork.policy.runs.values import RunInfo, Status, StepInfo

HEIGHT: Final = 46.0
LEAST_WIDTH: Final = 120.0
MOST_WIDTH: Final = 240.0
GAP: Final = 18.0
GAP_OF_LAYERS: Final = 56.0
GAP_DOWN: Final = 40.0
"""Between two layers: curves to the right need more room."""
MARGIN: Final = 24.0
TOP: Final = 96.0
"""Above the graph: the name of the run, and what the marks mean."""
WIDE: Final = 1200.0
"""From this width on, a graph grows downwards, if it is narrower so."""
NAMED_AT_MOST: Final = 10
"""How many steps that have failed are named, of those that are drawn as one."""
NAME_SIZE: Final = 13.0
WORD_SIZE: Final = 11.0
BOLD: Final = 1.12
"""How much wider bold letters are."""
TAKEN: Final = 46.0
"""What the mark of a node and the space around its text take of its width."""


@attrs.frozen
class _Look:
    """How a status is drawn: fill and line in light and dark, and the path of its mark, around (0, 0)."""

    fill: str
    line: str
    dark_fill: str
    dark_line: str
    mark: str


_CROSS: Final = "M-3.2-3.2 3.2 3.2M3.2-3.2-3.2 3.2"
_LOOKS: Final[Mapping[Status, _Look]] = {
    Status.SUCCESS: _Look("#e3f5e8", "#22723c", "#12321d", "#69c987", "M-3.8.3-1.2 3 3.8-3"),
    Status.FAILURE: _Look("#fbe4e2", "#a8281e", "#411714", "#f2938b", _CROSS),
    Status.REJECTED: _Look("#fbe4e2", "#a8281e", "#411714", "#f2938b", "M-3.6 0H3.6"),
    Status.EXPIRED: _Look("#fbe4e2", "#a8281e", "#411714", "#f2938b", "M0-3.8V0L2.8 2"),
    Status.CANCELLED: _Look("#ececee", "#5f6168", "#2b2c31", "#a7a9b2", "M-3.2 3.2 3.2-3.2"),
    Status.HELD: _Look("#fdeecb", "#855300", "#3a2a08", "#e8b75a", "M-1.8-3.4V3.4M1.8-3.4V3.4"),
    Status.PAUSED: _Look("#fdeecb", "#855300", "#3a2a08", "#e8b75a", "M-1.8-3.4V3.4M1.8-3.4V3.4"),
    Status.RETRY: _Look("#fdeecb", "#855300", "#3a2a08", "#e8b75a", "M3.4-1A3.6 3.6 0 1 0 3.2 1.8M3.6-3.8V-.8H.6"),
    Status.STARTED: _Look("#e0edfb", "#1d5c9c", "#11294a", "#7db5f0", "M-2-3.4 3.4 0-2 3.4Z"),
    Status.RECEIVED: _Look("#e0edfb", "#1d5c9c", "#11294a", "#7db5f0", "M0-3.6V3M-2.8.4 0 3.2 2.8.4"),
    Status.PENDING: _Look("#ffffff", "#7b7d85", "#1c1d21", "#8d9099", "M-3 0h.01M0 0h.01M3 0h.01"),
    Status.UNKNOWN: _Look("#ffffff", "#7b7d85", "#1c1d21", "#8d9099", "M-3 0h.01M0 0h.01M3 0h.01"),
}
_ORDER: Final = {status: number for number, status in enumerate(_LOOKS)}


def svg(info: RunInfo, steps: Sequence[StepInfo], *, is_styled: bool = True) -> str:
    """Draw a run: as wide as it has to be, and with no more than some hundred nodes, whatever its size.

    Without `is_styled` it wants the style sheet of `style` in the page that it is a part of.
    """
    nodes = folded(steps)
    layout = lay_out([node.needs for node in nodes])
    frame = _Frame.around(nodes, layout)
    found = Counter(step.status for step in steps)
    head = f"{info.title or info.id}"
    facts = [] if head == info.id else [info.id]
    facts += [f"{info.done:,} of {info.total:,} steps have ended"]
    if info.waits_for:
        facts.append(f"waits for {', '.join(info.waits_for)}")
    if info.reason:
        facts.append(info.reason)
    legend = list(_legend(found))
    width = max(frame.width, 360.0, sum(room for _, room in legend) + 2 * MARGIN)
    room = width - 2 * MARGIN
    described = f"Run {head}: {info.status}, {info.done} of {info.total} steps have ended"
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="actorwork-run" role="img" width="{_n(width)}"'
            f' height="{_n(frame.height)}" viewBox="0 0 {_n(width)} {_n(frame.height)}">'
        ),
        f"<title>{_text(described)}</title>",
        *([f"<style>{style()}</style>"] if is_styled else []),
        f'<rect class="page" width="{_n(width)}" height="{_n(frame.height)}"/>',
        f'<g class="{_class(info.status)}">{_mark(info.status, MARGIN + 9, 28, 9)}</g>',
        (
            f'<text class="head" x="{_n(MARGIN + 26)}" y="33">{_text(_cut(head, 16 * BOLD, room - 26 - 90))}'
            f'<tspan class="word" dx="8">{info.status.lower()}</tspan></text>'
        ),
        f'<text class="word" x="{_n(MARGIN)}" y="54">{_text(_cut(" · ".join(facts), WORD_SIZE, room))}</text>',
    ]
    at = MARGIN
    for one, taken in legend:
        parts.append(f'<g transform="translate({_n(at)} 68)">{one}</g>')
        at += taken
    shift = (width - frame.width) / 2
    parts.append(f'<g transform="translate({_n(shift)} 0)">')
    parts += [
        f'<path class="edge" d="{frame.edge(need, number)}"/>'
        for number, node in enumerate(nodes)
        for need in node.needs
    ]
    parts += [frame.node(number) for number in range(len(nodes))]
    return "\n".join([*parts, "</g>", "</svg>", ""])


@attrs.frozen
class _Frame:
    """From the rooms of a layout to pixels: layers go to the right, or downwards."""

    nodes: Sequence[Node]
    layout: Layout
    is_down: bool
    box: float
    """The width of all nodes."""
    width: float
    height: float

    @classmethod
    def around(cls, nodes: Sequence[Node], layout: Layout) -> _Frame:
        labels = [max(_width(_name(node), NAME_SIZE * BOLD), _width(_word(node), WORD_SIZE)) for node in nodes]
        box = min(MOST_WIDTH, max([LEAST_WIDTH, *(label + TAKEN for label in labels)]))
        places = [*layout.place, *(place for bends in layout.bends.values() for _, place in bends)]
        across, along = max(places, default=0.0) + 1, max(layout.layer, default=0) + 1
        right = along * box + (along - 1) * GAP_OF_LAYERS + 2 * MARGIN
        down = across * (box + GAP) - GAP + 2 * MARGIN
        is_down = right > WIDE and down < right
        gap = GAP_DOWN if is_down else GAP_OF_LAYERS
        rows = along * (HEIGHT + gap) - gap if is_down else across * (HEIGHT + GAP) - GAP
        width, height = down if is_down else right, rows + TOP + MARGIN
        return cls(nodes, layout, is_down=is_down, box=box, width=width, height=height)

    def _center(self, layer: int, place: float) -> tuple[float, float]:
        if self.is_down:
            y = TOP + layer * (HEIGHT + GAP_DOWN) + HEIGHT / 2
            return MARGIN + place * (self.box + GAP) + self.box / 2, y
        y = TOP + place * (HEIGHT + GAP) + HEIGHT / 2
        return MARGIN + layer * (self.box + GAP_OF_LAYERS) + self.box / 2, y

    def _corner(self, number: int) -> tuple[float, float]:
        x, y = self._center(self.layout.layer[number], self.layout.place[number])
        return x - self.box / 2, y - HEIGHT / 2

    def edge(self, first: int, last: int) -> str:
        """Return the path of an edge: curves that run along the layers where they leave, bend and arrive."""
        half_x, half_y = (0.0, HEIGHT / 2) if self.is_down else (self.box / 2, 0.0)
        x, y = self._center(self.layout.layer[first], self.layout.place[first])
        points = [(x + half_x, y + half_y)]
        for layer, place in self.layout.bends.get((first, last), ()):
            x, y = self._center(layer, place)
            points += [(x - half_x, y - half_y), (x + half_x, y + half_y)]
        x, y = self._center(self.layout.layer[last], self.layout.place[last])
        points.append((x - half_x, y - half_y))
        path = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
        for number, ((x, y), (to_x, to_y)) in enumerate(pairwise(points)):
            if number % 2:  # Through the layer of a bend.
                path.append(f"L{_n(to_x)} {_n(to_y)}")
            elif self.is_down:
                middle = (y + to_y) / 2
                path.append(f"C{_n(x)} {_n(middle)} {_n(to_x)} {_n(middle)} {_n(to_x)} {_n(to_y)}")
            else:
                middle = (x + to_x) / 2
                path.append(f"C{_n(middle)} {_n(y)} {_n(middle)} {_n(to_y)} {_n(to_x)} {_n(to_y)}")
        return "".join(path) + self._arrow(*points[-1])

    def _arrow(self, x: float, y: float) -> str:
        if self.is_down:
            return f"M{_n(x - 3.5)} {_n(y - 6)}L{_n(x)} {_n(y)}L{_n(x + 3.5)} {_n(y - 6)}"
        return f"M{_n(x - 6)} {_n(y - 3.5)}L{_n(x)} {_n(y)}L{_n(x - 6)} {_n(y + 3.5)}"

    def node(self, number: int) -> str:
        node, (x, y) = self.nodes[number], self._corner(number)
        status = _worst(node)
        radius = 6 if node.steps[0].kind == "message" else HEIGHT / 2
        rect = f'width="{_n(self.box)}" height="{_n(HEIGHT)}" rx="{_n(radius)}"'
        parts = [
            f'<g class="{_class(status)}" transform="translate({_n(x)} {_n(y)})">',
            f"<title>{_text(_told(node))}</title>",
        ]
        if len(node.steps) > 1:
            parts += [f'<rect class="box" x="{shift}" y="{shift}" {rect}/>' for shift in (6, 3)]
        parts.append(f'<rect class="box" {rect}/>')
        parts.append(_mark(status, 20, HEIGHT / 2, 9))
        room = self.box - TAKEN + 1
        parts.append(f'<text class="name" x="36" y="20">{_text(_cut(_name(node), NAME_SIZE * BOLD, room))}</text>')
        parts.append(f'<text class="word" x="36" y="35">{_text(_cut(_word(node), WORD_SIZE, room))}</text>')
        if len(node.steps) > 1:
            parts += _bar(node, 36, HEIGHT - 7, room)
        return "".join([*parts, "</g>"])


# ---- what is written ----


def _name(node: Node) -> str:
    first = node.steps[0]
    if len(node.steps) == 1:
        return first.name
    titles = {step.actor or step.kind for step in node.steps}
    return f"{len(node.steps):,} × {next(iter(titles))}" if len(titles) == 1 else f"{len(node.steps):,} steps"


def _word(node: Node) -> str:
    first = node.steps[0]
    if len(node.steps) > 1:
        return ", ".join(f"{count:,} {status.lower()}" for status, count in _counts(node))
    word = first.status.lower()
    if first.kind != "message":
        return f"{first.kind} · {word}"
    return word if first.actor in ("", first.name) else f"{word} · {first.actor}"


def _told(node: Node) -> str:
    """Return all that is known of a node, for the reader who points at it."""
    if len(node.steps) == 1:
        return _told_step(node.steps[0])
    lines = [_name(node), *(f"{count:,} {status.lower()}" for status, count in _counts(node))]
    failed = [step for step in node.steps if step.status in _UNHAPPY]
    lines += [_told_step(step) for step in failed[:NAMED_AT_MOST]]
    if len(failed) > NAMED_AT_MOST:
        lines.append(f"and {len(failed) - NAMED_AT_MOST:,} more")
    return "\n".join(lines)


def _told_step(step: StepInfo) -> str:
    what = f"{step.kind} {step.name}" if step.kind != "message" else step.name
    text = f"{what}: {step.status.lower()}"
    if step.end is not None and step.end.failure is not None:
        text = f"{what} {said(step.end)}: {step.end.failure.type}: {step.end.failure.reason}"
    return text if len(text) <= 500 else text[:499] + "…"


_UNHAPPY: Final = (Status.FAILURE, Status.REJECTED, Status.EXPIRED, Status.HELD)


def _counts(node: Node) -> list[tuple[Status, int]]:
    found = Counter(step.status for step in node.steps)
    return sorted(found.items(), key=lambda one: (one[0] not in _UNHAPPY, _ORDER[one[0]]))


def _worst(node: Node) -> Status:
    """Return the status that a node is drawn in: what has gone wrong first, then what is not over."""
    found = {step.status for step in node.steps}
    order = (*_UNHAPPY, Status.RETRY, Status.STARTED, Status.RECEIVED, Status.PENDING, Status.CANCELLED)
    return next((status for status in order if status in found), node.steps[0].status)


# ---- how it is drawn ----


def _legend(found: Counter[Status]) -> Iterator[tuple[str, float]]:
    """Yield each status that there is with its mark and how often it occurs, and the room that it takes."""
    for status in sorted(found, key=_ORDER.__getitem__):
        word = f"{found[status]:,} {status.lower()}"
        yield (
            f'<g class="{_class(status)}">{_mark(status, 6, 0, 6)}</g><text class="word" x="17" y="4">{word}</text>',
            17 + _width(word, WORD_SIZE) + 16,
        )


def _mark(status: Status, x: float, y: float, radius: float) -> str:
    scale = "" if radius == 9 else f" scale({_n(radius / 9)})"
    path = _LOOKS[status].mark
    return f'<g class="mark" transform="translate({_n(x)} {_n(y)}){scale}"><circle r="9"/><path d="{path}"/></g>'


def _bar(node: Node, x: float, y: float, room: float) -> Iterator[str]:
    """Yield the shares of the statuses of a node's steps."""
    for status, count in _counts(node):
        width = room * count / len(node.steps)
        yield f'<rect class="share {_class(status)}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="3"/>'
        x += width


def _class(status: Status) -> str:
    return f"s-{status.lower()}"


def style() -> str:
    """Return the style sheet. A converter that knows no queries takes what is before them."""
    scope = ".actorwork-run"
    light = [
        f"{scope} text{{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}}",
        f"{scope} .page{{fill:#ffffff}}",
        f"{scope} .head{{font-size:16px;font-weight:600;fill:#1b1c20}}",
        f"{scope} .name{{font-size:{_n(NAME_SIZE)}px;font-weight:600;fill:#1b1c20}}",
        f"{scope} .word{{font-size:{_n(WORD_SIZE)}px;font-weight:400;fill:#4d4f57}}",
        f"{scope} .edge{{fill:none;stroke:#9a9ca5;stroke-width:1.3;stroke-linejoin:round}}",
        f"{scope} .box{{stroke-width:1.3}}",
        f"{scope} .mark path{{fill:none;stroke:#ffffff;stroke-width:1.8;stroke-linecap:round;stroke-linejoin:round}}",
        f"{scope} .s-pending .box,{scope} .s-cancelled .box{{stroke-dasharray:4 3}}",
    ]
    dark = [
        f"{scope} .page{{fill:#131417}}",
        f"{scope} .head,{scope} .name{{fill:#f0f1f4}}",
        f"{scope} .word{{fill:#b9bbc4}}",
        f"{scope} .edge{{stroke:#6d707a}}",
        f"{scope} .mark path{{stroke:#131417}}",
    ]
    for status, look in _LOOKS.items():
        one = f"{scope} .{_class(status)}"
        light += [f"{one} .box{{fill:{look.fill};stroke:{look.line}}}", f"{one} circle,{one}.share{{fill:{look.line}}}"]
        dark += [
            f"{one} .box{{fill:{look.dark_fill};stroke:{look.dark_line}}}",
            f"{one} circle,{one}.share{{fill:{look.dark_line}}}",
        ]
    return f"{''.join(light)}@media (prefers-color-scheme:dark){{{''.join(dark)}}}"
