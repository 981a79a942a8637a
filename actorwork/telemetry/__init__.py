"""What an operator sees of a node: logs, metrics and health. Read top-down:

logs         LogSink: the events of a node, to the standard library's logging
sentences    the line of text for an event: pure
configuring  logging for a program that has not set it up
formatting   lines of text for people, lines of JSON for programs
metrics/     counters, gauges and histograms, for Prometheus and others
monitor      a small HTTP server in a thread of its own
health       whether a node is live, ready, started: pure
sentry       failures and crashes, to Sentry; `checkins`: what it sends to Sentry's monitors of crons
resources    what a process uses, and when little is left (psutil)
heartbeat    whether a loop turns, as another thread sees it
"""
