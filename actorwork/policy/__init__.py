"""Decisions, as pure functions: the clock and the random numbers are arguments, nothing is read or written.

How a delivery ends:

    settlement      Ack, Retry, Reject or Fail for what a handler returned or raised
    retry           which retry policy applies to an error, and its usual backoff
    backoffs        the other backoffs: fixed, linear, uniform; that of a child's restarts
    attempts        the headers of the next attempt
    batches         the outcome of each message of a batch
    crashes         when a message that kills processes runs alone, and when it is dead
    dead_letters    fingerprints of causes, and selections of dead letters

When a message begins:

    sending         the options of a sender: delay, key, priority, expiry, uniqueness
    limits          rate limits, concurrency limits and circuit breakers
    turns           which priority is next, so that none starves
    intake          how many deliveries an actor holds ahead
    pauses          which sources and triggers a pause concerns

When a trigger fires:

    schedule        intervals and cron expressions; the only importer of croniter
    catchup         which nominal times fire now, and which were missed
    trigger         the declaration of a trigger

How a tree lives:

    exits           how a child ended, and whether it is restarted
    restart         strategies, the intensity window, backoff
    odds            which of many nodes tries to fire a trigger at once
    scaling         how many replicas of a process

How a workflow ends:

    runs            plans, and the rules by which steps end, join and are cancelled

What is charted:

    minutes         what was handled in each minute, and how long it took
    series          the minutes of two hours, as a chart draws them

Shared values and declarations:

    values          versions, fencing tokens and sums
    bounds          validators for declared values
    identity        the ids of actors and triggers, derived from their titles
"""
