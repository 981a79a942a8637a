"""Links between the documents lead somewhere: to a file that is there, and to a heading that it has."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

from docs.site.chapters import groups_of, links_in, resolved

HOUSE = Path(__file__).parents[2]
LEFT_OUT = {".venv", "build", "dist", "node_modules"}


def documents() -> Iterator[PurePosixPath]:
    for path in sorted(HOUSE.rglob("*.md")):
        document = path.relative_to(HOUSE)
        if not any(part in LEFT_OUT or part.startswith(".") for part in document.parts):
            yield PurePosixPath(document.as_posix())


@cache
def text_of(document: PurePosixPath) -> str:
    return (HOUSE / document).read_text(encoding="utf-8")


@cache
def anchors_of(document: PurePosixPath) -> frozenset[str]:
    """Return the anchors that GitHub, and the site, give to the headings of a document."""
    without_code = re.sub(r"^( *)(```+).*?^\1\2 *$", "", text_of(document), flags=re.DOTALL | re.MULTILINE)
    anchors: dict[str, None] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *$", without_code, re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number, anchor = 0, slug
        while anchor in anchors:
            number += 1
            anchor = f"{slug}-{number}"
        anchors[anchor] = None
    return frozenset(anchors)


def broken(document: PurePosixPath) -> list[str]:
    found: list[str] = []
    for link in links_in(text_of(document)):
        file, _, anchor = link.partition("#")
        target = document if not file else resolved(link, document)
        if target is None:
            continue  # Elsewhere: `just docs-links` follows it.
        is_there = (HOUSE / target).exists() and ".." not in target.parts
        if not is_there or (anchor and (target.suffix != ".md" or anchor not in anchors_of(target))):
            found.append(link)
    return found


def test_what_the_documents_link_to_is_there() -> None:
    found = {str(document): broken(document) for document in documents()}
    assert len(found) > 40
    assert {document: links for document, links in found.items() if links} == {}


def test_a_link_to_what_is_not_there_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    links = ["delivery.md", "delivery.md#the-embedded-broker", "#nowhere", "delivery.md#nowhere", "missing.md"]
    text = "".join(f"[x]({link}) " for link in links) + "\n```\n[x](in-code.md)\n```\n[a\nb](../nowhere/a.py)\n"
    written, here = text_of, PurePosixPath("docs/a-page-of-this-test.md")

    def read(file: PurePosixPath) -> str:
        return text if file == here else written(file)

    monkeypatch.setitem(globals(), "text_of", read)
    assert broken(here) == ["#nowhere", "delivery.md#nowhere", "missing.md", "../nowhere/a.py"]


def test_the_index_names_every_chapter_once() -> None:
    index = text_of(PurePosixPath("docs/index.md"))
    chapters = {path.relative_to(HOUSE / "docs").with_suffix("").as_posix() for path in (HOUSE / "docs").glob("*.md")}
    named = [page for group in groups_of(index, chapters) if group.title != "More" for page in group.pages]
    assert sorted(named) == sorted(chapters - {"index"})
