"""Triggers: messages that are sent on a schedule. The room knows brokers by their interface only.

scheduler    the task of a node that fires all triggers of its actors
declared     one declared trigger: its firing rule, its definition for the broker, its messages
"""
