"""Between Celery and actors, without Celery: its protocol 2 on Redis, as kombu's transport lays it out.

CeleryBridge   an actor that takes tasks from queues and passes them to actors, and writes their results
CeleryQueue    one queue: which task goes to which actor, and where all others go
CeleryTask     a task whose message is made by a function of yours
open_celery    a client that sends tasks to Celery's workers, and waits for their results

bridge     the actor: takes, and writes results
outcomes   the wait for what becomes a result
tasks      from the name and the arguments of a task to the message of an actor
sending    the client
wire       the form of messages and results: bytes in, values out, and back
"""

from actorwork.bridges.celery.bridge import CeleryBridge as CeleryBridge
from actorwork.bridges.celery.sending import (
    CeleryClient as CeleryClient,
    CeleryResult as CeleryResult,
    open_celery as open_celery,
)
from actorwork.bridges.celery.tasks import CeleryQueue as CeleryQueue, CeleryTask as CeleryTask

__all__ = ["CeleryBridge", "CeleryClient", "CeleryQueue", "CeleryResult", "CeleryTask", "open_celery"]
