"""`manage.py actorwork`: run the tasks of a backend, until a signal ends it."""

from __future__ import annotations

from typing import Any

from actorwork.integrations.django.backend import ActorworkBackend
from actorwork.integrations.django.interface import BaseCommand, CommandError, ImproperlyConfigured, tasks
from actorwork.integrations.django.worker import tree_of
from actorwork.runtime.main import run


class Command(BaseCommand):
    help = "Run the tasks that were sent by the backend of actorwork, until SIGTERM or SIGINT."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--backend", default="default", help="its alias in TASKS (default: %(default)s)")
        parser.add_argument("--queue", action="append", help="only this queue; may be given again", metavar="NAME")
        parser.add_argument("--grace", default="25s", help="how long a shutdown may take (default: %(default)s)")
        parser.add_argument("--web", help="serve the dashboard there", metavar="HOST:PORT")
        parser.add_argument("--monitor", help="serve health and metrics there", metavar="HOST:PORT")
        parser.add_argument("--log-level", default="INFO", help="unless LOGGING configures the root logger")

    def handle(self, **options: Any) -> None:
        """Run them. Raises `CommandError` for what cannot be run, and `SystemExit` with the exit codes of `run`."""
        try:
            backend = tasks().task_backends[options["backend"]]
            if not isinstance(backend, ActorworkBackend):
                raise CommandError(
                    f"the backend {options['backend']!r} is not actorwork's, but {type(backend).__name__}"
                )
            tree = tree_of(backend, options["queue"] or ())
            broker = backend.chosen.broker
        except (LookupError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        given = {name: options[name] for name in ("web", "monitor") if options[name] is not None}
        run(tree, broker=broker, grace=options["grace"], log_level=options["log_level"], **given)
