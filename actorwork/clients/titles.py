"""How callers name actors: by their class, or by their title where the class is in another program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actorwork.actors.tree.hooks import Hooks, no_title

if TYPE_CHECKING:
    from actorwork.actors.actor import Actor


def title_of(actor: type[Actor | Hooks] | str) -> str:
    """Return the title of an actor, by which other programs know it; raise `TypeError` if it has none."""
    title = actor if isinstance(actor, str) else getattr(getattr(actor, "settings", None), "title", None)
    if not title:
        if isinstance(actor, type) and issubclass(actor, Hooks):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(no_title(actor))
        raise TypeError(f"an actor is named by its class or its title, got {actor!r}")
    return title
