"""`--log-level INFO`, `--log-level actorwork.streams=DEBUG`: what is logged."""

from __future__ import annotations

import click


class LogLevel(click.ParamType[str]):
    """A level, or that of a logger; several of them are separated by commas."""

    name = "level"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from actorwork.errors import SettingsError
        from actorwork.telemetry.configuring import levels_of

        try:
            levels_of(str(value))
        except SettingsError as error:
            self.fail(str(error).removeprefix("log_level "), param, ctx)
        return str(value)
