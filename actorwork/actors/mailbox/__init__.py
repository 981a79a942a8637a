"""Where an actor's messages wait.

mailbox           the queues, their bounds, and the credit for readers
calls             what waits in them: local calls, and deliveries
priority_deque    the user queue while items of several priorities wait

What an actor has set aside waits in `life/stash`, and comes back to the front of the mailbox. The bounds are declared
in `actorwork.settings`: `MailboxSettings`.
"""
