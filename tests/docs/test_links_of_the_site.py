"""What checks the links of the built site finds those that lead nowhere, and pictures without a text."""

from pathlib import Path

import pytest

from docs.site.links import problems

PAGE = '<html><body><h1 id="top">Page</h1>{}</body></html>'


def site(directory: Path, **pages: str) -> Path:
    (directory / "static").mkdir()
    (directory / "static" / "a b.css").write_text("", encoding="utf-8")
    for name, text in pages.items():
        (directory / f"{name}.html").write_text(PAGE.format(text), encoding="utf-8")
    return directory


def test_links_to_pages_parts_files_and_other_sites_are_fine(tmp_path: Path) -> None:
    text = (
        '<a href="other.html">x</a> <a href="other.html#top">x</a> <a href="#top">x</a> <a href="./">x</a>'
        '<a href="https://example.org/nowhere">x</a> <a href="mailto:a@b">x</a> <link href="static/a%20b.css?v=1">'
        '<a href="search.html#made-by-a-program">x</a> <img src="static/a%20b.css" alt="a file">'
    )
    assert list(problems(site(tmp_path, index=text, other="", search=""))) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('<a href="gone.html">x</a>', "index.html: gone.html leads to a file that is not there"),
        ('<img src="gone.svg" alt="x">', "index.html: gone.svg leads to a file that is not there"),
        ('<a href="#gone">x</a>', "index.html: #gone leads to a page that has nothing with the id 'gone'"),
        (
            '<a href="other.html#gone">x</a>',
            "index.html: other.html#gone leads to a page that has nothing with the id 'gone'",
        ),
        (
            '<img src="other.html">',
            "index.html: the picture other.html has no text that says what it shows",
        ),
    ],
)
def test_what_leads_nowhere_and_what_says_nothing_is_named(tmp_path: Path, text: str, problem: str) -> None:
    assert list(problems(site(tmp_path, index=text, other=""))) == [problem]
