"""`actorwork metrics`: the metrics of a broker, the dashboard for Grafana, the alert rules for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from actorwork.cli.brokers import Step, broker_option, speak, timeout_option

if TYPE_CHECKING:
    from actorwork.abc import Broker


@click.group(short_help="Export the metrics of a broker; print dashboard and rules.", invoke_without_command=True)
@broker_option
@timeout_option
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Serve them at this address, under /metrics and /metrics/broker, and what waits in seconds of work under "
    "/scale, until Ctrl-C; without it, print them once.",
)
@click.pass_context
def metrics(context: click.Context, *, broker: str | None, timeout: float, listen: str | None) -> None:
    """Export the metrics of a broker: what waits in its sources, for how long, and who reads them.

    They are the same whichever program asks: export them from one place. The metrics of a node are served by its own
    monitor (`actorwork run --monitor`).
    """
    if context.invoked_subcommand is not None:
        return

    async def talk(opened: Broker, step: Step) -> None:
        from actorwork.inspection.metrics import BrokerRoute, broker_metrics
        from actorwork.telemetry.metrics.rendering import rendered

        if listen is None:
            with step():
                registry = await broker_metrics(opened)
            click.echo(rendered(registry.read())[1], nl=False)
            return

        import trio

        from actorwork.inspection.scale import ScaleRoute
        from actorwork.telemetry.monitor import MonitorServer

        route = BrokerRoute(lambda: opened)
        routes = {"/metrics": route, "/metrics/broker": route, "/scale": ScaleRoute(lambda: opened)}
        with MonitorServer(listen, routes, tick=lambda: None, every=60.0) as server:
            click.echo(f"metrics of {opened.url} at {server.url}/metrics/broker", err=True)
            await trio.sleep_forever()

    speak(broker, timeout, talk)


@metrics.command(short_help="Print a dashboard for Grafana.")
def dashboard() -> None:
    """Print a dashboard for Grafana, to be imported there: JSON, for a data source of Prometheus."""
    click.echo(_shipped("dashboard.json"), nl=False)


@metrics.command(short_help="Print alert rules for Prometheus.")
def rules() -> None:
    """Print alert rules for Prometheus: YAML, to be named under rule_files, and a beginning for rules of your own."""
    click.echo(_shipped("rules.yaml"), nl=False)


def _shipped(name: str) -> str:
    from importlib.resources import files

    return files("actorwork.telemetry.shipped").joinpath(name).read_text(encoding="utf-8")
