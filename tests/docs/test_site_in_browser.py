"""The built site in Chromium: each page fits a phone, and axe-core finds nothing wrong with it.

The site of `just docs` is read from its files. Contrast costs most of a run, and all pages share their colours: it is
measured on a page of each kind. So is the layout for wide windows, which only adds sidebars. Pages of the reference are
made from docstrings by one template: each has to fit, and one is read by axe-core for all.
"""

import importlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

SITE = Path(__file__).parents[2] / "build" / "site"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ONE_OF_EACH_KIND = ("index.html", "comparison.html", "tutorial/07-web.html", "reference/refs.html")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]


@cache
def axe() -> str:
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    (script,) = Path(spec.origin).parent.rglob("axe.min.js")
    return script.read_text(encoding="utf-8")


def pages() -> list[str]:
    """Return chapters, tutorial and reference; listings of code are as Sphinx makes them, and so is the long index."""
    found = [path.relative_to(SITE) for path in sorted(SITE.rglob("*.html"))]
    return [path.as_posix() for path in found if path.parts[0] not in {"_modules", "files", "genindex.html"}]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not (SITE / "index.html").is_file():
        pytest.skip("there is no site in build/site: run `just docs` first")
    assert CHROMIUM is not None, "wanted: chromium on the PATH, or its path in CHROMIUM"
    driver: Any = importlib.import_module("playwright.sync_api")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def overflow(window: Any, path: str) -> list[str]:
    """Open a page; return what is wider than the window."""
    window.goto((SITE / path).as_uri())
    beyond = window.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return [f"{path}: {beyond} pixels are outside"] * (beyond > 0)


def troubles(window: Any, path: str, *, contrast: bool) -> list[str]:
    """Open a page; return what is wider than the window, and what axe-core finds."""
    outside = overflow(window, path)
    window.evaluate(axe())
    rules = {"color-contrast": {"enabled": contrast}}
    found: Any = window.evaluate(
        "options => axe.run(document, options)", {"runOnly": RULES, "rules": rules, "resultTypes": ["violations"]}
    )
    return outside + [
        f"{path}: {one['id']}: {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"][:3]
    ]


def test_each_page_fits_a_phone_and_serves_a_screen_reader(chromium: Any) -> None:
    window = chromium.new_page(viewport={"width": 360, "height": 740})
    found = pages()
    assert len(found) > 60
    alike = {path for path in found if path.startswith("reference/")} - {*ONE_OF_EACH_KIND}
    found_wrong = [trouble for path in found if path not in alike for trouble in troubles(window, path, contrast=False)]
    assert found_wrong + [trouble for path in sorted(alike) for trouble in overflow(window, path)] == []
    window.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
def test_colours_have_contrast_in_windows_of_all_sizes(chromium: Any, width: int, scheme: str) -> None:
    window = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert [trouble for path in ONE_OF_EACH_KIND for trouble in troubles(window, path, contrast=True)] == []
    window.close()
