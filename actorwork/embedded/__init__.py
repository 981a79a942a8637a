"""The embedded broker: the promises of the Redis one, kept by one SQLite file.

    broker         what the runtime sees: publishing, dead letters, outcomes, replies, the diagnosis
    sending        its half that needs no Trio, for clients of all kinds
    asking         what all parts ask of the owner of the connection
    node           one incarnation of a process, in the Trio thread: its lease, its sinks, its settlements
    values         shared values and locks, with the rules of policy/values
    triggers       triggers and pauses
    audit          what users did
    purging        drops what of a source no node has been given
    entities       the states of entities; entity_table has them in SQL
    waits          which handlers of keys wait for others
    limiter        limits that count for all processes
    diagnosis      what `actorwork doctor` finds out about a file
    replies        where outcomes arrive in this process
    writer         the thread that owns the connection: its queue, and how long it may sleep
    orders         what all of the above ask of it
    turns          what one turn does: lease renewal, orders, promotion, reading, in one transaction
    cursors        what the nodes of this process read
    isolation      a message that processes died with runs with nothing beside it
    states         the lives of tracked messages; notes has what handlers say of theirs
    watched        what tasks of this process want to hear of; changes is where they wait for it
    own_leases     the leases of these nodes, and those of other processes that have expired
    store          what is done inside a transaction, in SQL; it has a file for each of its tables:
                   settling, reading, cancellation, dead_letters, delay_queue, key_queues, uniques, outcomes, leases,
                   seen (message ids), sources (their numbers)
    runs           runs of workflows, by the rules of policy/runs; run_book has what these see of one of them,
                   loose_rows the steps of those that are to be started, or were deleted; kept_ahead writes the former
    transaction    what the parts of the store share while one is open
    rows           what the rows hold, and how messages get in and out of them
    location       which file a URL names, and what to say when that file cannot be used
    schema         the tables, and how a file of an earlier version gets them
    spool          a client's file of messages for a broker that is away; not part of the broker
    files          how every SQLite file here is opened, and what its errors mean

Only this room knows SQLite.
"""
