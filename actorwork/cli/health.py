"""`actorwork health`: asks the monitor of a node, for containers without curl."""

from __future__ import annotations

import json
from typing import Any, cast

import click

from actorwork.cli.durations import Duration
from actorwork.cli.output import one_line

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - to be asked here, not bound
_CHECKS = ("live", "ready", "started")
_MOST_READ = 1_000_000


@click.command(short_help="Ask a running node whether it is well.")
@click.argument("url", envvar="ACTORWORK_MONITOR", default="127.0.0.1:9464")
@click.option("--live", "check", flag_value="live", help="Whether it is alive (default): if not, restart it.")
@click.option("--ready", "check", flag_value="ready", help="Whether it is ready: started, connected, not stopping.")
@click.option("--started", "check", flag_value="started", help="Whether it has started.")
@click.option(
    "--timeout",
    type=Duration(least=0.1, most=3600),
    default="5s",
    show_default=True,
    help="How long to wait for the answer.",
)
def health(url: str, *, check: str | None, timeout: float) -> None:
    """Ask the monitor of a node (`actorwork run --monitor`) whether it is well, and print one line.

    URL is the address of the monitor, as HOST:PORT or with the path of a check, such as
    http://127.0.0.1:9464/ready; by default ACTORWORK_MONITOR, or 127.0.0.1:9464.

    The exit code is 0 if it is well, 1 if it is not or does not answer.
    """
    address = _address(url, check)
    status, answer = _asked(address, timeout)
    name = str(answer.get("check") or address.rpartition("/")[2])
    if status == 200:
        click.echo(one_line(f"{name}: {answer.get('node') or 'no node yet'}", 1000))
        return
    problems = answer.get("problems")
    said = "; ".join(map(str, cast("list[object]", problems))) if isinstance(problems, list) else ""
    click.echo(one_line(f"not {name}: {said or answer.get('error') or status}", 1000))
    raise SystemExit(1)


def _address(url: str, check: str | None) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        wrong = not parts.hostname or parts.scheme not in ("http", "https") or parts.port == 0
    except ValueError:
        wrong, parts = True, urlsplit("")
    if wrong:
        raise click.UsageError(f"URL wants HOST:PORT or http://HOST:PORT/PATH, got {one_line(url)!r}")
    host, colon, port = parts.netloc.rpartition(":")
    netloc = f"{_EVERYWHERE.get(host, host)}{colon}{port}" if colon else parts.netloc
    path = parts.path.rstrip("/")
    if check is not None:
        if path.rpartition("/")[2] not in ("", *_CHECKS):
            raise click.UsageError(f"--{check} and the path {one_line(path)!r} both name a check: leave out one")
        path = f"{path.rpartition('/')[0]}/{check}"
    return f"{parts.scheme}://{netloc}{path or '/live'}"


def _asked(address: str, timeout: float) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON of an answer; a server that gives none ends the command."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import ProxyHandler, build_opener

    # Not through a proxy that the environment names: the node is here, or in the same network.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(address, timeout=timeout) as response:
            status, body = response.status, response.read(_MOST_READ)
    except HTTPError as error:
        with error:
            status, body = error.code, error.read(_MOST_READ)
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        text = f"no answer from {address}: {getattr(reason, 'strerror', None) or reason or type(error).__name__}"
        raise click.ClickException(one_line(text, 1000)) from None
    try:
        answer: Any = json.loads(body)
    except ValueError:
        answer = None
    return status, cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
