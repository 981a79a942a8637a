"""The diagrams: as they are drawn, in a chapter each, and told to those who do not see them."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from docs.drawings.canvas import Canvas
from docs.drawings.diagrams import DIAGRAMS

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = DOCS / "pictures"
each = pytest.mark.parametrize("name", DIAGRAMS)


@each
def test_the_file_is_what_is_drawn(name: str) -> None:
    assert (PICTURES / f"{name}.svg").read_text(encoding="utf-8") == DIAGRAMS[name]().svg(), "call `just drawings`"


@each
def test_it_is_in_one_chapter_with_its_description(name: str) -> None:
    picture = re.compile(rf"!\[([^\]]+)\]\(pictures/{name}\.svg\)")
    found = [text for file in DOCS.glob("*.md") for text in picture.findall(file.read_text(encoding="utf-8"))]
    assert [" ".join(text.split()) for text in found] == [DIAGRAMS[name]().description]


@each
def test_the_file_has_a_title_a_description_and_colours_for_light_and_dark(name: str) -> None:
    root = ET.fromstring(DIAGRAMS[name]().svg())
    space = "{http://www.w3.org/2000/svg}"
    assert [root.findtext(f"{space}{tag}") for tag in ("title", "desc")] == [
        DIAGRAMS[name]().title,
        DIAGRAMS[name]().description,
    ]
    style = root.findtext(f"{space}style") or ""
    light, _, dark = style.partition("@media (prefers-color-scheme: dark)")
    used = {look for element in root.iter() for look in element.get("class", "").split()} - {"strong", "waiting"}
    for look in used - {"small", "halo"}:
        assert f".{look} " in light
        assert f".{look} " in dark


def test_a_text_that_does_not_fit_is_refused() -> None:
    canvas = Canvas("t", "d", 100)
    with pytest.raises(ValueError, match="does not fit into a box of width 50"):
        canvas.box(10, 10, 50, 30, "much too long")
    with pytest.raises(ValueError, match="3 lines do not fit"):
        canvas.box(10, 10, 50, 30, "a", "b", "c")
    with pytest.raises(ValueError, match="not on the canvas"):
        canvas.text(400, 10, "over the edge of it")
    with pytest.raises(ValueError, match="not on the canvas"):
        canvas.arrow((10, 10), (10, 120))
