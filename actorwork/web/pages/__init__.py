"""The views and the actions of the dashboard, by what they show.

overview    what runs where: overview, nodes, actors in their trees, sources; stacks, stop
letters     dead letters by cause: replay, edit, drop
schedules   triggers: run now, pause, forget
flows       runs of workflows: cancel, pause, retry, signal
messages    one message by its id; delayed messages; sending one
pausing     pauses
spooled     the spool of this machine
records     who did what
"""
