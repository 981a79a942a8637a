"""`actorwork web`: the dashboard of a broker, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actorwork.cli.brokers import broker_option
from actorwork.cli.failing import failure

if TYPE_CHECKING:
    from actorwork.web.access import Rule

TOKEN = "ACTORWORK_WEB_TOKEN"  # noqa: S105 - the name of a variable
PASSWORDS = "ACTORWORK_WEB_PASSWORDS"

_FILE: Any = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(short_help="Serve the dashboard.")
@broker_option
@click.option(
    "--listen",
    default="127.0.0.1:8080",
    show_default=True,
    metavar="HOST:PORT",
    help="The address to serve at. One that other machines reach needs users. Port 0 takes any free port.",
)
@click.option("--token-file", type=_FILE, help="A file with the token of all users; or ACTORWORK_WEB_TOKEN has it.")
@click.option(
    "--passwords-file",
    type=_FILE,
    help="A file with a line NAME:ROLE:PASSWORD for each user; or ACTORWORK_WEB_PASSWORDS has the lines.",
)
@click.option("--trusted-header", metavar="NAME", help="A header by which a proxy names the user: X-Forwarded-User.")
@click.option(
    "--proxy", "proxies", multiple=True, metavar="ADDRESS", help="A proxy whose --trusted-header counts, or a network."
)
@click.option("--role", default="admin", show_default=True, help="The role of users of the token or the header.")
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="A host name to answer to; without it, any.")
@click.option("--root-path", default="", metavar="/PATH", help="The path at which a proxy serves it.")
@click.option("--certificate", type=_FILE, help="A file with a certificate, for https.")
@click.option("--certificate-key", type=_FILE, help="A file with its key.")
@click.option("--reason-required", is_flag=True, help="Require a reason for each action.")
@click.option(
    "--mask", "masks", multiple=True, metavar="NAME", help="Also mask values under names with this in them; repeatable."
)
@click.option("--trace-url", default="", metavar="URL", help="Where traces are shown, with {trace_id} in it.")
@click.option(
    "--spool", type=click.Path(dir_okay=False, path_type=Path), help="The spool to show; else that of the broker."
)
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
    help="The lowest level to log, to standard error.",
)
def web(
    *,
    broker: str | None,
    listen: str,
    token_file: Path | None,
    passwords_file: Path | None,
    trusted_header: str | None,
    proxies: tuple[str, ...],
    role: str,
    hosts: tuple[str, ...],
    root_path: str,
    certificate: Path | None,
    certificate_key: Path | None,
    reason_required: bool,
    masks: tuple[str, ...],
    trace_url: str,
    spool: Path | None,
    log_level: str,
) -> None:
    """Serve a dashboard of the broker until Ctrl-C or SIGTERM: pages for a browser, and JSON below /api.

    Without users it answers only this machine. Roles are viewer, operator and admin. It needs the extra `web`.
    """
    from actorwork.errors import ActorworkError

    try:
        from actorwork.web import require

        require("hypercorn")
    except ImportError as error:
        raise click.ClickException(str(error)) from None

    from actorwork.clients.lazy_broker import place_of as place_of_broker
    from actorwork.clients.spool import Spool, file_for
    from actorwork.telemetry.configuring import configure
    from actorwork.web.dashboard import app
    from actorwork.web.masking import SECRETS
    from actorwork.web.serving import check_certificate, check_place, place_of

    if (certificate is None) != (certificate_key is None):
        raise click.UsageError("--certificate and --certificate-key are given together")
    try:
        rules = _rules(token_file, passwords_file, trusted_header, proxies, role)
        place = place_of(listen)
        check_place(place, has_users=bool(rules))
        pair = (certificate, certificate_key) if certificate and certificate_key else None
        if pair is not None:
            check_certificate(pair)
        dashboard = app(
            broker,
            access=rules or None,
            hosts=hosts,
            root_path=root_path,
            reason_required=reason_required,
            secrets=(*SECRETS, *masks),
            trace_url=trace_url,
            spool=spool or file_for(Spool(), place_of_broker(broker)),
        )
    except (ActorworkError, ValueError) as error:
        raise failure(error) from error
    configure(log_level, "text")
    _serve(dashboard, place, pair)


def _serve(dashboard: Any, place: Any, certificate: tuple[Path, Path] | None) -> None:
    import signal
    from functools import partial

    import trio

    from actorwork.groups import leaves
    from actorwork.web.serving import serve_pages

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

            async def stopped() -> None:
                async for _ in signals:
                    return

            async with trio.open_nursery() as nursery:
                serve = partial(serve_pages, dashboard, place, certificate=certificate, stop=stopped)
                await nursery.start(serve)  # It logs where the dashboard is.

    try:
        trio.run(main)
    except* OSError as group:
        raise failure(next(leaves(group))) from group


def _rules(
    token_file: Path | None, passwords_file: Path | None, header: str | None, proxies: tuple[str, ...], role: str
) -> list[Rule]:
    from actorwork.web.users import users

    if proxies and header is None:
        raise click.UsageError("--proxy goes with --trusted-header")
    return users(
        token=_read(token_file) if token_file else None,
        passwords=_read(passwords_file) if passwords_file else None,
        header=header,
        proxies=proxies,
        role=role,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from None
