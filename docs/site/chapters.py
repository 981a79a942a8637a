"""The chapters as pages of the site: what its sidebar has, and links that lead out of `docs/`.

The groups of `docs/index.md`, and the order within them, are those of the sidebar. A directory with an `index.md` of
its own is one entry there. A chapter that no group names is in the last group, so that no page is out of reach.

A link from a chapter to a file of the repository becomes one to a page that shows the file. So the site is complete
without a network, and no page of it depends on where the repository is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

import attrs

FILES = PurePosixPath("files")
"""The directory of the pages that show files."""

_BLOCK = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^()\s]+)(?=\))")
_GROUP = re.compile(r"^## (.+)$", re.MULTILINE)
PICTURES = frozenset({".gif", ".jpg", ".png", ".svg", ".webp"})
"""How the names of pictures end; those below `docs` are copied to the site."""
_LANGUAGES = {
    ".conf": "ini",
    ".css": "css",
    ".html": "html",
    ".ini": "ini",
    ".js": "js",
    ".json": "json",
    ".lua": "lua",
    ".py": "python",
    ".service": "ini",
    ".sh": "sh",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
}


@attrs.frozen
class Group:
    """A part of the sidebar: its title, and the pages below it."""

    title: str
    pages: tuple[str, ...]


def links_in(text: str) -> list[str]:
    """Return what a text in Markdown links to; what its blocks of code have is none of that."""
    return _LINK.findall(_BLOCK.sub("", text))


def with_links(text: str, changed: Callable[[str], str]) -> str:
    """Return a text with other links."""
    parts: list[str] = []
    end = 0
    for block in _BLOCK.finditer(text):
        parts += [_LINK.sub(lambda link: changed(link[1]), text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, _LINK.sub(lambda link: changed(link[1]), text[end:])])


def groups_of(index: str, chapters: Iterable[str]) -> list[Group]:
    """Return the groups of an index, first what it names above them, and at last what it does not name."""
    parts = ["", *_GROUP.split(index)]
    left = set(chapters) - {"index"}
    groups: list[Group] = []
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        named = dict.fromkeys(_page(link) for link in links_in(text))
        groups.append(Group(title.strip(), tuple(page for page in named if page in left)))
        left -= set(named)
    below = {page for page in left if _home(page) in {page for group in groups for page in group.pages}}
    rest = sorted(left - below)
    return [group for group in (*groups, Group("More", tuple(rest))) if group.pages]


def below(index: str, text: str, chapters: Iterable[str]) -> Group:
    """Return the pages in the directory of an index, in the order in which it links to them."""
    home = PurePosixPath(index).parent
    there = {page for page in chapters if PurePosixPath(page).parent == home and page != index}
    named = dict.fromkeys(str(home / _page(link)) for link in links_in(text))
    first = [page for page in named if page in there]
    return Group("", (*first, *sorted(there - set(first))))


def toctree(group: Group, *, hidden: bool = True) -> str:
    """Return the directive that puts a group into the sidebar."""
    options = [":hidden:"] * hidden + [f":caption: {group.title}"] * bool(group.title)
    return "\n".join(["```{toctree}", *options, "", *(f"/{page}" for page in group.pages), "```", ""])


def resolved(link: str, document: PurePosixPath) -> PurePosixPath | None:
    """Return the file of the repository that a link in one of its documents leads to; None if it leads elsewhere."""
    target = link.partition("#")[0]
    if not target or re.match(r"[a-z]+:", target) or target.startswith("/"):
        return None
    return PurePosixPath(os.path.normpath(document.parent / target))


def is_chapter(file: PurePosixPath) -> bool:
    """Whether a file of the repository is a page by itself."""
    return file.parts[0] == "docs" and file.suffix == ".md"


def is_picture(file: PurePosixPath) -> bool:
    """Whether a file of the repository is a picture of the site."""
    return file.parts[0] == "docs" and file.suffix in PICTURES


def page_of(file: PurePosixPath) -> PurePosixPath:
    """Return the page that shows a file of the repository, with its suffix."""
    if is_chapter(file):
        return file.relative_to("docs")
    flat = "-".join(file.parts).removeprefix(".")
    return FILES / (flat.lower() if file.suffix == ".md" else f"{flat.lower()}.md")


def on_the_site(text: str, document: PurePosixPath, root: Path) -> tuple[str, list[PurePosixPath]]:
    """Return a document with links to pages of the site, and the files that it leads to besides the chapters."""
    files: list[PurePosixPath] = []
    here = page_of(document)

    def changed(link: str) -> str:
        file = resolved(link, document)
        if file is None or (is_chapter(document) and (is_chapter(file) or is_picture(file))):
            return link
        if is_picture(file):
            return os.path.relpath(file.relative_to("docs"), here.parent)
        if (root / file / "README.md").is_file():
            file /= "README.md"
        if not (root / file).exists():
            return link
        if not is_chapter(file):
            files.append(file)
        anchor = link.partition("#")[2]
        return os.path.relpath(page_of(file), here.parent) + (f"#{anchor}" if anchor else "")

    return with_links(text, changed), files


def shown(file: PurePosixPath, text: str) -> str:
    """Return a page that shows a file which is no Markdown."""
    fence = "`" * (max([2, *(len(ticks) for ticks in re.findall("`+", text))]) + 1)
    language = _LANGUAGES.get(file.suffix, "docker" if file.name == "Containerfile" else "text")
    return f"# {file}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def listed(directory: PurePosixPath, root: Path) -> str:
    """Return a page in Markdown, as it would be in the directory, that names its files."""
    names = sorted(path.name for path in (root / directory).iterdir() if not path.name.startswith(("__pycache__", ".")))
    return "\n".join([f"# {directory}", "", *(f"- [{name}]({directory.name}/{name})" for name in names), ""])


def documents(root: Path) -> Sequence[PurePosixPath]:
    """Return the chapters, as files of the repository."""
    return sorted(PurePosixPath(path.relative_to(root).as_posix()) for path in (root / "docs").rglob("*.md"))


def _page(link: str) -> str:
    return link.partition("#")[0].removesuffix(".md")


def _home(page: str) -> str:
    return str(PurePosixPath(page).parent / "index")
