"""What an operator sees of a node: logs, made from events."""
