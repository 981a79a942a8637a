"""A clock: an actor with triggers. Start it twice: each time is still printed once.

python examples/clock.py [redis://localhost:6379/0]

Without a URL both use one temporary file, so that no other program's store gets its triggers.
"""

import os
import sys
import tempfile
from datetime import UTC, datetime

from actorwork import Actor, Cron, Interval, Settings, Trigger, next_times, receive, run

STORE = f"sqlite:///{tempfile.gettempdir()}/actorwork-clock-{os.getuid()}.sqlite3"
EVENING = Cron("0 18 * * mon-fri", "Europe/Berlin")


class Clock(Actor):
    settings = Settings(
        title="clock",
        triggers=[
            Trigger(title="tick", schedule=Interval(seconds=1), kwargs={"says": "tick"}, is_catchup=False),
            Trigger(title="evening", schedule=EVENING, kwargs={"says": "time to go home"}, catchup="one"),
        ],
    )

    @receive
    async def tell(self, *, says: str, time_point: datetime) -> None:
        print(f"{time_point:%H:%M:%S.%f} {says}")


if __name__ == "__main__":
    for time in next_times(EVENING, datetime.now(UTC)):
        print("an evening to come:", time)
    run(Clock, broker=sys.argv[1] if len(sys.argv) > 1 else STORE)
