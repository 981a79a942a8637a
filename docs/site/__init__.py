"""What makes the documentation's site of its chapters and of the code. `just docs` runs both steps:

    python -m docs.site build/pages                   chapters, generated pages and files, in one directory
    sphinx-build -c docs/site build/pages build/site  the site

The chapters stay Markdown that reads well on GitHub, so whatever only the site needs is added on the way. Only `conf`
is read by Sphinx, and nothing here imports it: the parts are functions from text to text.

__main__     writes the pages
chapters     of the chapters: what the sidebar has, and links that lead out of `docs/`
reference    pages of the public names, grouped by the modules that they are from
commands     the page of the command line, from its commands
settings     the page of what an operator sets, from its declarations
docstrings   docstrings and help texts as reStructuredText
changes      which of the public names have changed, for `just api-check`
"""
