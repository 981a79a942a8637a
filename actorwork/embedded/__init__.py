"""The embedded broker: the promises of the Redis one, kept by one SQLite file.

    broker     what the runtime sees: publishing, dead letters, outcomes, replies, the diagnosis
    node       one incarnation of a process: its lease, its inlets, its settlements, as Trio sees them
    replies    where outcomes arrive in this process
    writer     the thread that owns the connection: group commit, reading, leases, the clock of delayed messages
    cursors    what the nodes of this process read, as that thread keeps it
    store      what is done inside a transaction, in SQL: publishing, reading, settling; in rooms of their own: seen
               (ids), lines (keys), uniques, held_back, taking_back, outcomes, dead_letters, leases, values
    rows       what the store's rows hold, and what goes in and out of them
    schema     the tables, and how a file of an earlier version comes by them
    location   which file a url means, and what to say when that file cannot be used

Only this room knows SQLite.
"""
