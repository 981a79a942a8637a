"""Sphinx, for the site: `just docs` builds it, strictly and without a network; `just docs-links` follows its links."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from docs.site import reference
from docs.site.docstrings import as_rst

project = "actorwork"
author = "actorwork contributors"
copyright = author  # noqa: A001 - Sphinx calls it so
release = version = importlib.metadata.version("actorwork")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
nitpicky = True

# ---- chapters ----

myst_heading_anchors = 4  # Links to headings, as on GitHub.
suppress_warnings = [
    "misc.highlighting_failure",  # Examples in JSON and TOML may leave something out by `…`.
]
highlight_language = "text"
copybutton_prompt_text = "$ "

# ---- the reference ----

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries = False
viewcode_follow_imported_members = True

is_online: bool = globals()["tags"].has("online")  # Sphinx puts it there: `-t online`.
if is_online:
    # Elsewhere the names of other packages stay without a link, so that the site can be built without a network.
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "trio": ("https://trio.readthedocs.io/en/stable", None),
        "attrs": ("https://www.attrs.org/en/stable", None),
    }

# ---- the pages ----

html_theme = "furo"
html_title = f"actorwork {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sphinx = False
linkcheck_timeout = 20
linkcheck_retries = 2


def convert(_app: object, _what: str, name: str, _thing: object, _options: object, lines: list[str]) -> None:
    """Convert a docstring for `autodoc`, in place."""
    lines[:] = as_rst("\n".join(lines), reference.linked_from(name))


def shorten(
    _app: object, _what: str, _name: str, _thing: object, _options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Write a default that is made anew for each instance as such."""
    return (signature and signature.replace("= NOTHING", "= …"), returned)


def level_captions(_app: object, _page: str, _template: str, context: dict[str, Any], _doctree: object) -> None:
    """Give the captions of the sidebar the level that headings need; the theme leaves it out."""
    tree = context.get("furo_navigation_tree")
    if isinstance(tree, str):
        context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def lead_types(_app: object, doctree: Any) -> None:
    """Lead the types in signatures to their entries. Of what has none, the name remains."""
    references = [node for node in doctree.findall() if type(node).__name__ == "pending_xref"]
    for node in references:
        if node["refdomain"] != "py":
            continue
        target = reference.type_target(node["reftarget"], node.get("py:module") or "actorwork")
        if target is not None:
            node["reftarget"], node["refspecific"] = target, False
        elif not is_online or node["reftarget"].startswith("actorwork"):
            short = next((part for part in node.children if part.get("condition") == "resolved"), node)
            node.replace_self(short.children)


def setup(app: Any) -> dict[str, bool]:
    """Connect what is above."""
    app.connect("autodoc-process-docstring", convert)
    app.connect("autodoc-process-signature", shorten)
    app.connect("doctree-read", lead_types)
    app.connect("html-page-context", level_captions, priority=900)  # After the theme has drawn its tree.
    return {"parallel_read_safe": True, "parallel_write_safe": True}
