"""The broker at Redis: messages in streams under the users' own names, settled by scripts.

Read top-down, as the layers contract has it:

    broker.py       the broker: opened by clients and by nodes
    sending.py      its half that needs no Trio, for clients of all kinds
    node.py         one incarnation of a process: lease, intake, settling
    publisher.py    keeps each message once
    replies.py      where outcomes arrive
    dead_letters.py, delayed.py, diagnosis.py       for people: list, replay, cancel, examine
    script_limits.py                                what diagnosis.py says of scripts
    entities.py, waits.py                           states of entities, and which keys wait for which
    values.py, limiter.py, triggers.py, pauses.py   state that nodes share: values and locks, limits, triggers, pauses
    audit.py        what users did
    purging.py      drops what of a source no node has been given
    runs.py, plans.py                               runs of workflows, and the form in which they are sent
    reader.py       one blocked XREADGROUP, from streams to the sink
    reclaimer.py    promotes due messages, takes over released and orphaned entries
    source_set.py   what the two share: up to 64 sources of one subscription
    survey.py       on a cluster: which nodes are dead
    outbox.py, forwarding.py       on a cluster: forward what is to be done in other slots
    settler.py      settlements in batches
    settle_calls.py the arguments of the scripts that settle, and their call
    inputs.py       deliveries whose inputs are fetched first
    joining.py      joins what the steps of a run returned
    run_ahead.py    what the settlements of an entity bring: its next deliveries
    lease.py        the sign of life
    in_flight.py    the entries that are in flight here, and their queued settlements
    isolation.py    a message that processes died with runs with nothing beside it
    entries.py      the fields of entries         keys.py   all names at Redis
    scripts.py      loads the scripts             lua/      what must be atomic
    transport/      a Redis client for Trio, which knows nothing of the above
"""
