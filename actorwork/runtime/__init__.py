"""The runtime: systems, entry points, signals, the staged shutdown."""
