"""The page of the command line, from the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from actorwork.cli import PREFIX
from actorwork.cli.commands import actorwork
from docs.site.docstrings import as_rst, in_line

TITLE = "The command line"


def page() -> str:
    """Return the page as reStructuredText."""
    lines = [TITLE, "=" * len(TITLE), "", ".. highlight:: text", ""]
    for context in contexts(click.Context(actorwork, info_name="actorwork", auto_envvar_prefix=PREFIX)):
        lines += entry(context)
    return "\n".join(lines)


def contexts(context: click.Context) -> Iterator[click.Context]:
    """Yield a command, and all below it, as they are called."""
    yield context
    command = context.command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from contexts(click.Context(below, parent=context, info_name=name))


def entry(context: click.Context) -> list[str]:
    """Return the entry of one command."""
    command, path = context.command, context.command_path
    lines: list[str] = []
    if context.parent is not None:
        under = "-" if context.parent.parent is None else "^"
        lines += [path, under * len(path), ""]
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    lines += [".. code-block:: text", "", f"   {usage}", ""]
    lines += help_of(command.help or command.short_help or "")
    lines += [f".. program:: {path}", ""]
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden and "--help" not in parameter.opts:
            lines += option(parameter, context)
    return lines


def help_of(text: str) -> list[str]:
    """Return the help of a command; what click is told to leave as it is (`\\b`) is literal where it is indented."""
    lines: list[str] = []
    text = marked(text)
    for block in inspect.cleandoc(text).split("\f")[0].split("\n\n"):
        rows = block.strip("\n").split("\n")
        if rows[0].strip() != "\b":
            lines += as_rst(block)
        elif all(row.startswith("  ") for row in rows[1:]):
            lines += [".. code-block:: text", "", *(f"   {row[2:]}".replace("`", "").rstrip() for row in rows[1:]), ""]
        else:
            lines += as_rst("\n".join(rows[1:]))
    return lines


def option(parameter: click.Option, context: click.Context) -> list[str]:
    """Return the entry of an option: its names, what it does, its default and its variable."""
    is_flag = parameter.is_flag or parameter.count
    value = "" if is_flag else f" {parameter.make_metavar(context)}"
    names = [*parameter.opts, *parameter.secondary_opts]
    facts = [in_line(marked(parameter.help or ""))]
    record = parameter.get_help_extra(context)
    default = record.get("default")
    if default is not None:
        facts.append(in_line(f"Default: `{re.sub('`', '', default)}`."))
    variable = variable_of(parameter, context)
    if variable:
        facts.append(in_line(f"Variable: `{variable}`."))
    if parameter.multiple:
        facts.append(in_line("May be given again."))
    return [
        f".. option:: {', '.join(f'{name}{value}' for name in names)}",
        "",
        *(f"   {fact}" for fact in facts if fact),
        "",
    ]


def marked(text: str) -> str:
    """Return a text for terminals with backticks around the options and variables that it names."""
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*|ACTORWORK_[A-Z_]+)(?![\w`])", r"`\1`", text)


def variable_of(parameter: click.Option, context: click.Context) -> str:
    """Return the variable of the environment that sets an option; "" if none does."""
    if isinstance(parameter.envvar, str):
        return parameter.envvar
    if parameter.envvar:
        return parameter.envvar[0]
    prefix = context.auto_envvar_prefix
    has_one = prefix and parameter.allow_from_autoenv and parameter.expose_value
    return f"{prefix}_{(parameter.name or '').upper()}" if has_one else ""
