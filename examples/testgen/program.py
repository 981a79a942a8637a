"""The tree of actors, and the program of a worker.

python -m examples.testgen.program
"""

from actorwork import Process, run

from .actors import Foreman, Librarian, Scout, Validator, Writer
from .configuration import CONFIGURATION

TREE = [
    Scout,
    Writer,
    Foreman,
    Librarian,
    # Running other people's code takes its toll: memory that is not given back, files that stay open.
    Process(
        [Validator],
        name="validators",
        replicas=CONFIGURATION.validators,
        max_messages=CONFIGURATION.messages_per_process,
    ),
]

if __name__ == "__main__":
    run(TREE, broker=CONFIGURATION.broker, lease=CONFIGURATION.lease)
