"""The exit codes of a program that runs a tree, and of each process of a tree."""

from typing import Final

EXIT_FAILED: Final = 1
"""The tree did not start, or could not be kept alive."""
EXIT_FORCED: Final = 3
"""Handlers had to be cancelled, or the process had to be ended."""
EXIT_ORPHANED: Final = 4
"""The parent is gone."""
