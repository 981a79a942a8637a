"""What the site is made of, before Sphinx reads it: chapters, pages of the code, docstrings."""

from pathlib import Path, PurePosixPath

import click
import pytest

import actorwork
from docs.site import changes, chapters, commands, reference, settings as settings_page
from docs.site.docstrings import as_rst, in_line

ROOT = Path(__file__).parents[2]


# ---- docstrings ----


def test_names_between_backticks_are_literal_and_everything_else_is_escaped() -> None:
    assert in_line("Raises `NotRunning`, never\n  *args or a_b_.") == (
        r"Raises \ ``NotRunning``\ , never \*args or a\_b\_\."
    )


def test_an_address_becomes_no_link() -> None:
    assert in_line("redis://user:password@host") == r"redis\://user\:password\@host"


def test_a_name_that_has_an_entry_leads_there() -> None:
    assert in_line("See `run()`.", {"run": "actorwork.run"}.get) == r"See \ :py:obj:`run() <actorwork.run>`\ \."


def test_two_columns_become_definitions_with_lines_that_go_on() -> None:
    text = (
        "Options:\n\n    lease, grace     how long\n                     it lasts\n    emit             takes `Event`"
    )
    assert as_rst(text) == [
        r"Options\:",
        "",
        "``lease, grace``",
        "   how long it lasts",
        "",
        "``emit``",
        r"   takes \ ``Event``\ ",
        "",
    ]


def test_an_indented_block_is_code_with_its_empty_lines_and_comments() -> None:
    text = "Do this:\n\n    with scope:\n        await work()\n\n    done = True  # now\n\nThen `stop`."
    assert as_rst(text)[2:8] == [
        ".. code-block:: python",
        "",
        "   with scope:",
        "       await work()",
        "",
        "   done = True  # now",
    ]


def test_a_block_that_is_no_python_is_text() -> None:
    assert as_rst("Draw:\n\n    a -> b; not python")[2] == ".. code-block:: text"


def test_bullets_are_a_list() -> None:
    assert as_rst("- one\n  goes on\n- two") == ["* one goes on", "* two", ""]


# ---- the reference ----


def test_every_public_name_has_one_entry() -> None:
    shown = [name.full for names in reference.pages().values() for name in names]
    assert len(shown) == len(set(shown))
    assert {name for name in shown if name.count(".") == 1} == {f"actorwork.{name}" for name in actorwork.__all__}


def test_a_name_that_no_page_has_is_shown_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    reference.pages.cache_clear()
    monkeypatch.setattr(reference, "PAGES", {"Errors": ("errors",)})
    try:
        assert "Actor" in {name.name for name in reference.pages()[reference.REST]}
    finally:
        reference.pages.cache_clear()


@pytest.mark.parametrize(
    ("name", "near", "target"),
    [
        ("Retry", "actorwork.Actor", "actorwork.Retry"),
        ("Receipt.result", "actorwork.Client", "actorwork.Receipt.result"),
        ("Client", "actorwork.sync.Receipt", "actorwork.sync.Client"),
        ("open_client", "actorwork.Client", "actorwork.open_client"),
        ("timeout", "actorwork.Client", None),  # A parameter, though a function has this name.
        ("Nonsense", "actorwork.Client", None),
        ("a b", "actorwork.Client", None),
    ],
)
def test_a_name_in_a_docstring_means_what_is_public_near_it(name: str, near: str, target: str | None) -> None:
    assert reference.target_of(name, near) == target


def test_another_name_of_the_same_class_leads_to_the_first() -> None:
    assert reference.targets()["actorwork.aio.Receipt"] == "actorwork.Receipt"
    assert "The same as :py:obj:`actorwork.Receipt`." in reference.page("Clients on asyncio")


def test_a_constant_is_described_by_the_text_below_it() -> None:
    page = reference.page("Settings and triggers")
    assert ".. py:data:: actorwork.Duration\n\n   " in page


def test_the_page_of_the_command_line_has_every_command_with_its_variables() -> None:
    page = commands.page()
    assert "actorwork dead replay\n^^^^^^^^^^^^^^^^^^^^^" in page
    assert ".. option:: --grace DURATION" in page
    assert r"Variable\: \ ``ACTORWORK_GRACE``\ \." in page


def test_what_click_leaves_as_it_is_stays_so() -> None:
    assert commands.help_of("Do.\n\n\b\n  a  --b\n  c  --d\n\nDone.")[2:6] == [
        ".. code-block:: text",
        "",
        "   a  --b",
        "   c  --d",
    ]


def test_options_and_variables_in_a_help_text_are_marked() -> None:
    assert commands.marked("--yes, or ACTORWORK_X; `--no` and a--b stay") == (
        "`--yes`, or `ACTORWORK_X`; `--no` and a--b stay"
    )
    page = commands.page()
    assert ".. option:: --help" not in page
    assert "ACTORWORK_VERSION" not in page


def test_hidden_commands_and_options_have_no_entry() -> None:
    @click.group()
    @click.option("--secret", hidden=True)
    def tool(secret: str) -> None: ...

    @tool.command(hidden=True)
    def internal() -> None: ...

    found = list(commands.contexts(click.Context(tool, info_name="tool")))
    assert [context.command_path for context in found] == ["tool"]
    assert "--secret" not in "\n".join(commands.entry(found[0]))


def test_the_page_of_settings_has_those_of_programs_actors_processes_and_limits() -> None:
    page = settings_page.page()
    for name in ("lease", "actors.TITLE.mailbox.capacity", "processes.NAME.max_memory", "limits.NAME.rate"):
        assert f".. confval:: {name}\n" in page
    assert r"Variable\: \ ``ACTORWORK_RESOURCE_BOUNDS__MEMORY``\ \." in page


# ---- changes ----


def test_of_what_has_changed_public_names_matter() -> None:
    lines = [
        "actorwork/clients/sender.py:156: Sender.ask(chain): Parameter was added as required",
        "\x1b[1mactorwork/clients/client.py\x1b[0m:20: Client.publish(data): Parameter was removed",
        "actorwork/__init__.py:0: Gone: Public object was removed",
        "",
    ]
    public = [
        "actorwork/clients/client.py:20: Client.publish(data): Parameter was removed",
        "actorwork/__init__.py:0: Gone: Public object was removed",
    ]
    assert changes.public(lines) == (public, [])


def test_what_is_no_change_is_not_taken_for_none() -> None:
    assert changes.public(["fatal: invalid reference: v9"]) == ([], ["fatal: invalid reference: v9"])


# ---- chapters ----


def test_the_sidebar_has_the_groups_of_the_index_and_what_they_leave_out() -> None:
    index = (
        "# All\n\n[N](new.md)\n\n## First\n\n1. [B](b.md): x\n2. [A](a.md#part)\n\n## Second\n\n3. [T](t/index.md)\n"
    )
    groups = chapters.groups_of(index, ["index", "a", "b", "new", "t/index", "t/one", "left"])
    assert [(group.title, group.pages) for group in groups] == [
        ("", ("new",)),
        ("First", ("b", "a")),
        ("Second", ("t/index",)),
        ("More", ("left",)),
    ]
    assert chapters.below("t/index", "[two](two.md)", ["t/one", "t/two", "t/index"]).pages == ("t/two", "t/one")


def test_links_out_of_the_chapters_lead_to_pages_with_the_files() -> None:
    text = "[c](../deploy/redis.conf) [d](delivery.md#x) [e](https://trio.readthedocs.io)\n```\n[f](../no)\n```\n"
    changed, files = chapters.on_the_site(text, PurePosixPath("docs/deploying.md"), ROOT)
    assert changed == text.replace("../deploy/redis.conf", "files/deploy-redis.conf.md")
    assert files == [PurePosixPath("deploy/redis.conf")]


def test_a_directory_is_shown_by_its_files() -> None:
    text = chapters.listed(PurePosixPath("examples/config"), ROOT)
    assert text.startswith("# examples/config\n\n- [default.toml](config/default.toml)\n")
    changed, files = chapters.on_the_site(text, PurePosixPath("examples/config"), ROOT)
    assert "(examples-config-default.toml.md)" in changed
    assert PurePosixPath("examples/config/default.toml") in files


def test_a_file_with_fences_is_shown_within_a_longer_one() -> None:
    assert chapters.shown(PurePosixPath("a.py"), "```\n") == "# a.py\n\n````python\n```\n````\n"


def test_every_page_is_written_and_within_reach_of_the_sidebar(tmp_path: Path) -> None:
    from docs.site.__main__ import pages

    written = pages()
    trees = "\n".join(text.partition("```{toctree}")[2] for page, text in written.items() if page.name == "index.md")
    trees += written[PurePosixPath("index.md")]
    for page, text in written.items():
        name = f"/{page.with_suffix('')}"
        assert page == PurePosixPath("index.md") or text.startswith("---\norphan: true\n") or f"{name}\n" in trees, name
