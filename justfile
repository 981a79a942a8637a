# `just check` is everything a change must pass. Tools are taken from .venv if it exists, else from the PATH.
export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

# the package, as a user installs it
install:
    python3 -m venv .venv
    .venv/bin/pip install --quiet ".[all]"

# the package in place, with everything that tests need
install-dev:
    python3 -m venv .venv
    .venv/bin/pip install --quiet --no-compile --editable ".[dev,check]"

# from a fresh clone to a checked one, with the examples
all: install-dev check examples

# lint, types, architecture, tests
check: lint types architecture test

lint:
    ruff check .
    ruff format --check .

types:
    basedpyright
    if [ -d tests/typing ]; then mypy; fi

# imports point down, without circles
architecture:
    lint-imports --no-logo

# every promise, the long ones in their short form
test *arguments:
    pytest -n auto --dist worksteal {{ arguments }}

# everything: also the long forms, a minute of chaos, a thousand chords, and more examples
test-all *arguments:
    pytest -n auto --dist worksteal -m "not browser" --hypothesis-profile long {{ arguments }}

# real processes, killed, frozen and disconnected at random: `just chaos --seconds 600`, or --cluster, --chords, --entities
chaos *arguments:
    python -m tests.chaos {{ arguments }}

# a chain of actors under producers of three kinds, and what operators do to a server: `just chaos-harness --minutes 10`
chaos-harness *arguments:
    python -m tests.chaos.harness {{ arguments }}

# the broker's promises on every Redis and Valkey that a package brings: `just servers --only valkey`, `just servers --list`
servers *arguments:
    python -m tests.servers {{ arguments }}

# every test, and which lines none of them reaches
test-cov:
    coverage run -m pytest && coverage combine --quiet && coverage report

alias coverage := test-cov

bench *arguments:
    python -m benchmarks.bench {{ arguments }}

# local actors beside raw Trio, raw asyncio and the peers that are installed
bench-actors *arguments:
    python -m benchmarks.actors.run {{ arguments }}

demo:
    python examples/census.py

# the dashboard and the built site in Chromium: `apt-get install chromium`, and the extra `browser`
test-browser *arguments:
    pytest -m browser tests/web/test_browser.py tests/docs/test_site_in_browser.py {{ arguments }}

# a shop in which something is always wrong, and its dashboard: `just demo-web --listen 127.0.0.1:8080`
demo-web *arguments:
    python examples/dashboard.py {{ arguments }}

# each example that ends by itself, one after the other
examples:
    for example in bank embedding pool crawler everwork census; do echo "== $example" && python "examples/$example.py" || exit 1; done

# the tasks of Django, with another Python and the Django that it has: `just test-django .venv-3.13/bin/python`
test-django python *arguments:
    {{ python }} -m pytest -q -p no:cacheprovider tests/integrations/test_django.py {{ arguments }}

# the documentation as a site in build/site, strictly and without a network, links included: the extra `docs`
docs: (_pages)
    python -m docs.site.links build/site

_pages *arguments:
    python -m docs.site build/pages
    sphinx-build -W --keep-going -n -q -j auto -c docs/site -d build/doctrees {{ arguments }} build/pages build/site

# the diagrams of the chapters, in docs/pictures
drawings:
    python -m docs.drawings

# the pictures of the README, of the shop of `just demo-web`: the extra `browser`, and chromium
photographs:
    python -m docs.drawings.photographs

# follow the links of the documentation to other sites; the names of other packages become links too
docs-links: (_pages "-b linkcheck -t online")

# what operators copy, by tools that no test has, and the image's entry in namespaces: the extra `deploy`
deploy-check:
    hadolint Containerfile
    kubernetes-validate --strict --quiet deploy/kubernetes/base/worker.yaml deploy/kubernetes/base/dashboard.yaml
    pytest -q -p no:cacheprovider tests/deploy/test_container.py

# what a release must pass: wheel and sdist, each built, checked, and used in an empty environment: the extra `release`
release-check:
    rm -rf dist build/release
    python -m build --outdir dist
    twine check --strict dist/*
    check-wheel-contents dist/*.whl
    for file in dist/*; do \
        python3 -m venv --clear build/release && build/release/bin/pip install --quiet "$file" && \
        build/release/bin/python -I -c "import actorwork, importlib.resources as r; assert r.files(actorwork).joinpath('py.typed').is_file()" && \
        build/release/bin/python -I examples/bank.py >build/release/bank.txt || exit 1; \
        echo "$file: installed and used"; \
    done

# what the public names have lost, or changed, since a commit or a tag: `just api-check v0.1.0`
api-check against:
    griffe check actorwork --format oneline --against {{ against }} 2>&1 | python -m docs.site.changes

# what ruff can mend by itself, and the layout of all files
format:
    ruff check --fix-only .
    ruff format .

alias fmt := format

# print the changelog of the next release
draft:
    towncrier build --draft

# write the changelog from its fragments: `just release-notes 0.2.0`
release-notes version:
    towncrier build --version {{ version }}
