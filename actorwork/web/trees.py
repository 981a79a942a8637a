"""A supervision tree as SVG: each part with its state, its restarts, its mailbox, what it handles and since when.

A state is shown by a colour, by a mark, and by a word. Where a supervisor has many children, those in which all is well
are drawn as one. The list beside the drawing has every part, and its links: this is for the eye.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from actorwork.inspection import PartReport
from actorwork.policy.lettering import cut, number, text, width
from actorwork.web.rendering import since, word

WIDTH: Final = 226.0
"""Of a box."""
HEIGHT: Final = 44.0
ROW: Final = 17.0
"""What each row below the second adds."""
METER: Final = 5.0
"""What the meter of a mailbox adds."""
GAP: Final = 12.0
GAP_OF_LEVELS: Final = 44.0
MARGIN: Final = 12.0
LEFT: Final = 36.0
"""Where text begins in a box."""
RIGHT: Final = 12.0
NAME: Final = 13.0
SMALL: Final = 11.0
MOST_CHILDREN: Final = 8
"""Children of one part that are drawn each by itself; of more, those in which all is well are drawn as one."""
MOST_BOXES: Final = 80
FITTED: Final = (960.0, 1250.0)
"""Between these widths a drawing is scaled down to its window, to the first at most (style.css)."""

_KINDS: Final = {
    "running": "good",
    "starting": "busy",
    "stopping": "warn",
    "restarting": "warn",
    "blocked": "bad",
    "crashed": "bad",
    "stopped": "mute",
}
_MARKS: Final = {
    "good": "M-3.4.3-1.1 2.7 3.4-2.7",
    "busy": "M-1.8-3 3 0-1.8 3Z",
    "warn": "M-1.6-3V3M1.6-3V3",
    "bad": "M-2.8-2.8 2.8 2.8M2.8-2.8-2.8 2.8",
    "mute": "M-2.8 0H2.8",
}


@attrs.define
class _Box:
    """A part, or several that are drawn as one, with what is to its right."""

    parts: Sequence[PartReport]
    children: list[_Box] = attrs.field(factory=list["_Box"])
    is_stack: bool = False
    hidden: int = 0
    """How many parts below it are not drawn."""
    x: float = 0.0
    y: float = 0.0

    @property
    def part(self) -> PartReport:
        return self.parts[0]

    @property
    def rows(self) -> int:
        """Return how many rows there are below the second."""
        if self.is_stack or self.part.kind != "actor":
            return 0
        return bool(self.part.in_hand) + bool(self.part.hold_ups)

    @property
    def has_mailbox(self) -> bool:
        return not self.is_stack and self.part.kind == "actor" and self.part.capacity > 0

    @property
    def height(self) -> float:
        return HEIGHT + ROW * self.rows + METER * self.has_mailbox

    def walk(self) -> Iterator[_Box]:
        yield self
        for child in self.children:
            yield from child.walk()


def tree_svg(root: PartReport, now: float, name: str) -> str:
    """Draw a tree as of `now`; `name` says whose it is. It wants the style sheet of the page that it is a part of."""
    top = _boxes(root)
    bottom = _placed(top, MARGIN, MARGIN)
    boxes = list(top.walk())
    wide = max(box.x for box in boxes) + WIDTH + MARGIN
    tall = bottom - GAP + MARGIN
    fitted = " fitted" if FITTED[0] < wide <= FITTED[1] else ""
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="parts{fitted}" role="img" width="{number(wide)}"'
            f' height="{number(tall)}" viewBox="0 0 {number(wide)} {number(tall)}">'
        ),
        f"<title>{text(_summary(root, name))}</title>",
    ]
    edges = "".join(_edge(box, child) for box in boxes for child in box.children)
    if edges:
        parts.append(f'<path class="edge" d="{edges}"/>')
    parts += [_drawn(box, now) for box in boxes]
    return "".join([*parts, "</svg>"])


# ---- what is drawn ----


def _boxes(root: PartReport) -> _Box:
    """Return the boxes of a tree, level by level, as many as a drawing has at most."""
    top = _Box([root])
    level, left = [top], MOST_BOXES - 1
    while level:
        below: list[_Box] = []
        for box in level:
            if box.is_stack or not box.part.children:
                continue
            folded = _folded(box.part.children)
            if len(folded) > left:
                box.hidden = sum(1 for child in box.part.children for _ in child.walk())
                continue
            left -= len(folded)
            box.children = folded
            below += folded
        level = below
    return top


def _folded(children: Sequence[PartReport]) -> list[_Box]:
    if len(children) <= MOST_CHILDREN:
        return [_Box([child]) for child in children]
    # Those in which something is wrong, and the first of the others.
    shown = [child for child in children if not _is_well(child)][: 2 * MOST_CHILDREN]
    room = max(0, MOST_CHILDREN - 1 - len(shown))
    shown_ids = {id(child) for child in shown}
    shown_ids |= {id(child) for child in [child for child in children if id(child) not in shown_ids][:room]}
    rest = [child for child in children if id(child) not in shown_ids]
    boxes = [_Box([child]) for child in children if id(child) in shown_ids]
    return [*boxes, _Box(rest, is_stack=True)] if rest else boxes


def _is_well(part: PartReport) -> bool:
    return all(
        one.state == "running" and not one.hold_ups and not (one.capacity and one.waiting >= one.capacity)
        for one in part.walk()
    )


def _placed(box: _Box, x: float, y: float) -> float:
    """Place a box and what is to its right, from `y` on; return where the next one may begin."""
    box.x, below = x, y
    for child in box.children:
        below = _placed(child, x + WIDTH + GAP_OF_LEVELS, below)
    if not box.children:
        box.y = y
        return y + box.height + GAP
    first, last = box.children[0], box.children[-1]
    box.y = max(y, (first.y + last.y + last.height) / 2 - box.height / 2)
    return max(below, box.y + box.height + GAP)


def _edge(box: _Box, child: _Box) -> str:
    x, y = box.x + WIDTH, box.y + HEIGHT / 2
    to_x, to_y = child.x, child.y + HEIGHT / 2
    middle = (x + to_x) / 2
    return "".join(
        (
            f"M{number(x)} {number(y)}C{number(middle)} {number(y)} {number(middle)} {number(to_y)}",
            f" {number(to_x)} {number(to_y)}",
        )
    )


# ---- how it is drawn ----


def _drawn(box: _Box, now: float) -> str:
    part = box.part
    kind = "mute" if part.kind == "left out" else _kind_of(box)
    size = f'width="{number(WIDTH)}" height="{number(box.height)}" rx="8"'
    lines = [
        f'<g class="part-{kind}" transform="translate({number(box.x)} {number(box.y)})">',
        f"<title>{text(_told(box, now))}</title>",
    ]
    if box.is_stack:
        lines += [f'<rect class="box" x="{shift}" y="{shift}" {size}/>' for shift in (5, 2.5)]
    lines.append(f'<rect class="box" {size}/>')
    lines.append(f'<g class="mark" transform="translate(19 22)"><circle r="8"/><path d="{_MARKS[kind]}"/></g>')
    restarts = sum(one.restarts for one in box.parts)
    room = WIDTH - LEFT - RIGHT
    if restarts:
        told = f"↻ {restarts:,}"
        lines.append(f'<text class="restarts" x="{number(WIDTH - RIGHT)}" y="19">{told}</text>')
        room -= width(told, SMALL) + 8
    lines.append(f'<text class="name" x="{number(LEFT)}" y="19">{text(cut(_name(box), NAME * 1.1, room))}</text>')
    room = WIDTH - LEFT - RIGHT
    lines.append(f'<text class="word" x="{number(LEFT)}" y="35">{text(cut(_word(box), SMALL, room))}</text>')
    at = 35.0
    if not box.is_stack and part.kind == "actor":
        if part.in_hand:
            at += ROW
            lines.append(f'<text class="held" x="{number(LEFT)}" y="{number(at)}">{_in_hand(part, now, room)}</text>')
        if part.hold_ups:
            at += ROW
            told = cut(_held_up(part), SMALL, room)
            lines.append(f'<text class="held-up" x="{number(LEFT)}" y="{number(at)}">{text(told)}</text>')
        if box.has_mailbox:
            full = min(1.0, part.waiting / part.capacity)
            y, long = number(box.height - 4), WIDTH - 20
            lines.append(f'<path class="room" d="M10 {y}h{number(long)}"/>')
            if full:
                is_full = " is-full" if full >= 1 else ""
                lines.append(f'<path class="fill{is_full}" d="M10 {y}h{number(max(3.0, long * full))}"/>')
    return "".join([*lines, "</g>"])


def _kind_of(box: _Box) -> str:
    kinds = {_KINDS.get(one.state, "mute") for one in box.parts}
    return next(kind for kind in ("bad", "warn", "busy", "mute", "good") if kind in kinds)


def _name(box: _Box) -> str:
    part = box.part
    if box.is_stack:
        titles = {one.title for one in box.parts}
        return f"{len(box.parts):,} more × {part.title}" if len(titles) == 1 else f"{len(box.parts):,} more"
    return part.label or part.title


def _word(box: _Box) -> str:
    part = box.part
    if box.is_stack:
        states = {one.state for one in box.parts}
        return f"all {part.state}" if len(states) == 1 else ", ".join(sorted(states))
    facts = [part.state] if part.kind == "actor" else [part.kind.replace("_", " "), part.state]
    if part.pid is not None:
        facts.append(f"pid {part.pid}")
    if part.kind == "actor":
        facts.append(f"{part.waiting:,} in its mailbox" if part.waiting else "mailbox empty")
    if box.hidden:
        facts.append(f"{box.hidden:,} {word(box.hidden, 'part')} below")
    return " · ".join(facts)


def _in_hand(part: PartReport, now: float, room: float) -> str:
    """Return what an actor handles, and for how long it has: the id is cut where it must be, the time is not."""
    oldest = part.in_hand[0]
    more = f" (+{part.handling - 1:,})" if part.handling > 1 else ""
    age = f" · {since(max(0.0, now - oldest.since))}{more}"
    return f"{text(cut(oldest.what, SMALL, room - width(age, SMALL)))}<tspan>{text(age)}</tspan>"


def _held_up(part: PartReport) -> str:
    first = part.hold_ups[0]
    waiting = f" holds {first.waiting:,} back" if first.waiting else " holds back"
    return f"{first.kind} {first.name}{waiting}"


def _told(box: _Box, now: float) -> str:
    """Return all that is known of a box, for the reader who points at it."""
    if box.is_stack:
        titles = sorted({one.title for one in box.parts})
        return f"{len(box.parts):,} more: {', '.join(titles[:10])}{' …' if len(titles) > 10 else ''}"
    part = box.part
    lines = [f"{part.title}{f' {part.label}' if part.label and part.label != part.title else ''}: {_word(box)}"]
    if part.kind == "actor" and part.capacity:
        lines.append(
            f"mailbox {part.waiting:,} of {part.capacity:,}, {part.handling:,} of {part.concurrency:,} running"
        )
    if part.restarts:
        lines.append(f"{part.restarts:,} {word(part.restarts, 'restart')}")
    lines += [f"{held.what} for {since(max(0.0, now - held.since))}" for held in part.in_hand[:5]]
    return "\n".join(lines)


def _summary(root: PartReport, name: str) -> str:
    parts = list(root.walk())
    wrong = sum(part.state not in ("running", "stopped") for part in parts)
    restarts = sum(part.restarts for part in parts)
    facts = [
        f"{len(parts):,} {word(len(parts), 'part')}",
        f"{wrong:,} not running" if wrong else "all running",
        *([f"{restarts:,} {word(restarts, 'restart')}"] if restarts else []),
    ]
    return f"Tree of {name}: {', '.join(facts)}. The list that follows has each of them."
