"""Boxes, arrows and texts on a canvas, as SVG.

Coordinates are pixels from the top left corner. The width of a text is estimated, generously, since the fonts of
readers differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final, Literal, TypeAlias

WIDTH: Final = 480
SIZE: Final = 14
SMALL: Final = 12.5
LETTER: Final = 0.54
"""How wide a letter is on average, in parts of the font's size."""

Kind: TypeAlias = Literal["part", "store", "good", "bad", "frame"]
Point: TypeAlias = tuple[float, float]

STYLE: Final = """\
text { font: 14px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1b2330; }
.small { font-size: 12.5px; fill: #46536a; }
.strong { font-weight: 600; }
.halo { paint-order: stroke; stroke: #ffffff; stroke-width: 5px; stroke-linejoin: round; }
.paper { fill: #ffffff; stroke: #d3d9e3; }
.part { fill: #e8eef8; stroke: #52688c; }
.store { fill: #fdf2d0; stroke: #8f6d14; }
.good { fill: #e0f2e4; stroke: #2b7a40; }
.bad { fill: #fbe4e1; stroke: #b0362a; }
.frame { fill: none; stroke: #7b8aa3; stroke-dasharray: 5 4; }
.line { fill: none; stroke: #46536a; stroke-width: 1.6; }
.waiting { stroke-dasharray: 4 4; }
.head { fill: #46536a; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6ebf3; }
  .small { fill: #b1bccd; }
  .halo { stroke: #171c24; }
  .paper { fill: #171c24; stroke: #343d4c; }
  .part { fill: #24324a; stroke: #8ba6d3; }
  .store { fill: #3a3115; stroke: #d3b458; }
  .good { fill: #17371f; stroke: #6cc484; }
  .bad { fill: #47201c; stroke: #ee8a7f; }
  .frame { stroke: #7f8da5; }
  .line { stroke: #b1bccd; }
  .head { fill: #b1bccd; }
}"""

HEAD: Final = (
    '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" markerHeight="9" '
    'markerUnits="userSpaceOnUse" orient="auto"><path class="head" d="M0,0 L10,5 L0,10 z"/></marker></defs>'
)


class Canvas:
    """A diagram: `title` names it, `description` says the same as the picture, for those who do not see it."""

    def __init__(self, title: str, description: str, height: int) -> None:
        self.title = title
        self.description = description
        self.height = height
        self._drawn: list[str] = []

    def __repr__(self) -> str:
        return f"<Canvas {self.title!r}>"

    def box(self, x: float, y: float, width: float, height: float, *lines: str, kind: Kind = "part") -> None:
        """Draw a box with centred lines, of several the first one strong; raises `ValueError` if they do not fit."""
        self._within(x, y)
        self._within(x + width, y + height)
        self._drawn.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="7"/>')
        if len(lines) * 18 > height:
            raise ValueError(f"{len(lines)} lines do not fit into a box of height {height}: {lines[0]!r}")
        first = y + height / 2 - (len(lines) - 1) * 9 + 5
        for number, line in enumerate(lines):
            size = SIZE if number == 0 else SMALL
            if len(line) * LETTER * size > width - 8:
                raise ValueError(f"{line!r} does not fit into a box of width {width}")
            look = ("strong" if len(lines) > 1 else "") if number == 0 else "small"
            self._text(x + width / 2, first + number * 18, line, look, "middle")

    def frame(self, x: float, y: float, width: float, height: float, label: str, *, indent: float = 10) -> None:
        """Draw what holds other boxes, with a label at its top."""
        self.box(x, y, width, height, kind="frame")
        self.text(x + indent, y + 19, label, small=True)

    def text(
        self, x: float, y: float, line: str, *, small: bool = False, at: Literal["start", "middle", "end"] = "start"
    ) -> None:
        """Write a line; raises ValueError if it leaves the canvas."""
        width = len(line) * LETTER * (SMALL if small else SIZE)
        left = {"start": x, "middle": x - width / 2, "end": x - width}[at]
        self._within(left, y)
        self._within(left + width, y)
        self._text(x, y, line, "small halo" if small else "halo", at)

    def arrow(self, *points: Point, label: str = "", at: Point | None = None, waits: bool = False) -> None:
        """Draw an arrow along points; its label is centred at a point, or in the middle of its first part."""
        for point in points:
            self._within(*point)
        path = " ".join(f"{x},{y}" for x, y in points)
        self._drawn.append(f'<polyline class="line{" waiting" * waits}" points="{path}" marker-end="url(#head)"/>')
        if label:
            (x, y), (to_x, to_y) = points[:2]
            at = at or ((x + to_x) / 2, (y + to_y) / 2 - 6)
            self.text(*at, label, small=True, at="middle")

    def line(self, *points: Point, waits: bool = False) -> None:
        """Draw a line without a head."""
        path = " ".join(f"{x},{y}" for x, y in points)
        self._drawn.append(f'<polyline class="line{" waiting" * waits}" points="{path}"/>')

    def notes(self, y: float, lines: Sequence[str]) -> None:
        """Write lines below a drawing."""
        for number, line in enumerate(lines):
            self.text(20, y + number * 19, line, small=True)

    def svg(self) -> str:
        """Return the file."""
        size = f'viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" height="{self.height}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title text">',
                f'<title id="title">{escape(self.title)}</title>',
                f'<desc id="text">{escape(self.description)}</desc>',
                f"<style>\n{STYLE}\n</style>",
                HEAD,
                f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{self.height - 1}" rx="10"/>',
                *self._drawn,
                "</svg>",
                "",
            ]
        )

    def _text(self, x: float, y: float, line: str, look: str, at: str) -> None:
        self._drawn.append(f'<text class="{look}" x="{x:g}" y="{y:g}" text-anchor="{at}">{escape(line)}</text>')

    def _within(self, x: float, y: float) -> None:
        if not (0 <= x <= WIDTH and 0 <= y <= self.height):
            raise ValueError(f"({x:g}, {y:g}) is not on the canvas of {WIDTH} by {self.height}")
