"""`python -m docs.site DIRECTORY`: write the pages of the site, for Sphinx to build."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from docs.site import chapters, commands, reference, settings

ROOT = Path(__file__).parents[2]
REFERENCE = """\
# Reference

Generated from the code that this site was built with.

- [The command line](commands.rst): each command, with its options and their variables
- [Settings of operators](settings.rst): keys of files of settings, and variables

Names for programs, from their docstrings:

"""


def pages(root: Path = ROOT) -> Mapping[PurePosixPath, str]:
    """Return all pages: by file, their texts."""
    written: dict[PurePosixPath, str] = {}
    files: list[PurePosixPath] = []
    documents = chapters.documents(root)
    for document in documents:
        text, more = chapters.on_the_site((root / document).read_text(encoding="utf-8"), document, root)
        written[chapters.page_of(document)] = text
        files += more
    _add_sidebar(written)
    _add_files(written, files, root)
    _add_reference(written)
    return written


def write(target: Path) -> None:
    """Write all pages into a directory, which is emptied of others."""
    shutil.rmtree(target, ignore_errors=True)
    for page, text in pages().items():
        path = target / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "docs", target, dirs_exist_ok=True, ignore=_unless_picture)


def _add_sidebar(written: dict[PurePosixPath, str]) -> None:
    index = PurePosixPath("index.md")
    names = [str(page.with_suffix("")) for page in written]
    groups = [*chapters.groups_of(written[index], names), chapters.Group("Reference", ("reference/index",))]
    for page, text in written.items():
        if page.name == "index.md" and page != index:
            found = chapters.below(str(page.with_suffix("")), text, names)
            written[page] = f"{text}\n{chapters.toctree(found)}"
    written[index] += "\n" + "\n".join(map(chapters.toctree, groups))


def _add_files(written: dict[PurePosixPath, str], files: list[PurePosixPath], root: Path) -> None:
    """Add the files that pages lead to, and what documents among these lead to."""
    while files:
        file = files.pop()
        page = chapters.page_of(file)
        if page in written:
            continue
        is_directory = (root / file).is_dir()
        text = chapters.listed(file, root) if is_directory else (root / file).read_text(encoding="utf-8")
        if is_directory or file.suffix == ".md":
            text, more = chapters.on_the_site(text, file, root)
            files += more
        else:
            text = chapters.shown(file, text)
        written[page] = f"---\norphan: true\n---\n\n{text}"


def _add_reference(written: dict[PurePosixPath, str]) -> None:
    home = PurePosixPath("reference")
    written[home / "commands.rst"] = commands.page()
    written[home / "settings.rst"] = settings.page()
    names = ["reference/commands", "reference/settings"]
    index = REFERENCE
    for title, found in reference.pages().items():
        page = home / f"{title.lower().replace(' ', '-')}.rst"
        written[page] = reference.page(title)
        names.append(str(page.with_suffix("")))
        index += f"- [{title}]({page.name}): {', '.join(f'`{name.name}`' for name in found)}\n"
    written[home / "index.md"] = f"{index}\n{chapters.toctree(chapters.Group('', tuple(names)))}"


def _unless_picture(directory: str, names: list[str]) -> set[str]:
    """Return what is not copied: all but pictures, and directories that may have some."""
    here = Path(directory)
    return {
        name
        for name in names
        if name in ("site", "drawings", "__pycache__")
        or not ((here / name).is_dir() or Path(name).suffix in chapters.PICTURES)
    }


if __name__ == "__main__":
    (directory,) = sys.argv[1:]
    write(Path(directory))
