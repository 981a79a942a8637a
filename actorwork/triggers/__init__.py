"""Triggers: messages that are sent on a schedule. The room knows brokers by their interface only.

scheduler    the task of a node that fires all triggers of its actors
custom       the times of triggers whose cron expressions the user's own reader reads
watched      a trigger as one node sees it
declared     one trigger: its firing rule, its definition for the broker, its messages, as declared and as changed
"""
