"""`actorwork doctor`: whether the broker is set up well, and what to change."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from actorwork.cli.brokers import Step, broker_option, missing_store, speak, timeout_option
from actorwork.cli.output import as_json, one_line, print_json

if TYPE_CHECKING:
    from actorwork.abc import Broker, Finding

_COLORS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command(short_help="Check the broker, and advise what to change.")
@broker_option
@timeout_option
@as_json
def doctor(*, broker: str | None, timeout: float, json_output: bool) -> None:
    """Check the broker as an operator would: version, eviction, persistence, clock, permissions.

    Each finding is ok, a warning or an error, with advice. The exit code is 1 if there is an error.
    """
    findings = _findings(broker, timeout)
    if json_output:
        print_json(
            [
                {"subject": found.subject, "level": found.level, "text": found.text, "advice": found.advice}
                for found in findings
            ]
        )
    else:
        for found in findings:
            level = click.style(f"{found.level:<7}", fg=_COLORS.get(found.level))
            click.echo(f"{level} {one_line(found.subject)}: {one_line(found.text, 1000)}")
            if found.advice:
                click.echo(f"        do: {one_line(found.advice, 1000)}")
    if any(found.level == "error" for found in findings):
        raise SystemExit(1)


def _findings(url: str | None, timeout: float) -> Sequence[Finding]:
    from actorwork.abc import Finding

    async def talk(opened: Broker, step: Step) -> Sequence[Finding]:
        with step():
            findings = await opened.diagnose()
        with step():
            return [*findings, *await _stalled(opened)]

    try:
        missing = missing_store(url)
        if missing is not None:
            advice = "the first program that runs or sends there makes it; else name another with --broker"
            return [Finding("file", "warning", f"there is no store {missing} yet", advice)]
        return speak(url, timeout, talk, examines=True)
    except click.UsageError:
        raise
    except click.ClickException as error:
        # Only a server that does not answer may be one that does not run.
        runs = "that the server runs, and " if "did not answer" in error.message else ""
        advice = f"check {runs}that the address and the credentials in --broker or ACTORWORK_BROKER are right"
        return [Finding("connection", "error", error.message, advice)]


async def _stalled(opened: Broker) -> Sequence[Finding]:
    """Name the keys of entities whose messages wait, since no node that has had them can read the state."""
    from actorwork.abc import Finding
    from actorwork.errors import BrokerError
    from actorwork.inspection.gathering import gather
    from actorwork.inspection.states import stalled, together

    try:
        gathered = await gather(opened)
    except BrokerError:
        return ()  # That this user may not read something is said elsewhere.
    findings: list[Finding] = []
    for title, places in sorted(gathered.by_title.items()):
        found = together([place.part.entities for place in places if place.part.entities is not None])
        if found is not None and found.stalled:
            key = found.stalled_keys[0] if found.stalled_keys else "KEY"
            advice = (
                f"actorwork entities show {shlex.quote(title)} {shlex.quote(key)}; start a program that can read it, or"
                " put a state that these can read: actorwork entities put … --force"
            )
            findings.append(Finding("entities", "warning", f"{title}: {stalled(found)}", advice))
    return findings
