"""The participants: the variant's name, its module in `peers/`, and the environment whose Python runs it.

`project` is the Python that runs the bench, where actorwork is installed. The other environments are for the peers;
without one, its peers are left out.
"""

PEERS: dict[str, tuple[str, str]] = {
    "raw-1000": ("raw", "project"),
    "raw-100": ("raw", "project"),
    "raw-perjob": ("raw", "project"),
    "raw-trio-inline": ("raw", "project"),
    "raw-trio-task": ("raw", "project"),
    "actorwork": ("actorwork_app", "project"),
    "actorwork-noop": ("actorwork_app", "project"),
    "actorwork-kwargs": ("actorwork_app", "project"),
    "actorwork-sources": ("sources_app", "project"),
    "actorwork-aio": ("clients_app", "project"),
    "actorwork-sync": ("clients_app", "project"),
    "redis-py": ("redis_py", "project"),
    "redis-asyncio": ("redis_py", "project"),
    "celery": ("celery_app", "main"),
    "celery-solo": ("celery_app", "main"),
    "celery-threads": ("celery_app", "main"),
    "celery-gevent": ("celery_app", "main"),
    "dramatiq": ("dramatiq_app", "main"),
    "dramatiq-prefetch": ("dramatiq_app", "main"),
    "dramatiq-async": ("dramatiq_app", "main"),
    "rq": ("rq_app", "main"),
    "rq-simple": ("rq_app", "main"),
    "arq": ("arq_app", "arq"),
    "arq-default": ("arq_app", "arq"),
    "taskiq": ("taskiq_app", "main"),
    "taskiq-list": ("taskiq_app", "main"),
    "streaq": ("streaq_app", "main"),
    "streaq-trio": ("streaq_app", "main"),
    "faststream": ("faststream_app", "main"),
    "faststream-batch": ("faststream_app", "main"),
    "huey": ("huey_app", "main"),
    "docket": ("docket_app", "main"),
    "docket-default": ("docket_app", "main"),
}

SIDE = {
    "raw-1000",
    "raw-perjob",
    "celery-solo",
    "celery-threads",
    "celery-gevent",
    "rq-simple",
    "arq-default",
    "docket-default",
    "taskiq-list",
    "dramatiq-async",
}
"""Variants that only explain another one: not run unless named (or with `--peers all`), and never repeated."""

OURS = [name for name in PEERS if name.startswith("actorwork")]
CASES = ["enqueue", "submit", "drain", "drain2", "latency", "io", "rpc", "members", "group", "chord", "cold", "crash"]
JOBS = {
    "enqueue": 20000,
    "submit": 10000,
    "drain": 20000,
    "drain2": 20000,
    "latency": 500,
    "io": 2000,
    "rpc": 500,
    "members": 20000,
    "group": 5000,
    "chord": 1000,
    "cold": 1,
    "crash": 2000,
}
"""How many messages a case takes, unless the peer or the command line says otherwise."""

LIMIT = {
    "enqueue": 300,
    "submit": 120,
    "drain": 240,
    "drain2": 240,
    "latency": 60,
    "io": 120,
    "rpc": 200,
    "members": 240,
    "group": 120,
    "chord": 120,
    "cold": 60,
    "crash": 150,
}
"""Seconds after which a run of the case is given up."""
