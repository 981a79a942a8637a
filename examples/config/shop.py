"""A program that leaves to its operator how it runs: `default.toml` beside it has every setting, with its default.

    cd examples/config
    actorwork config show shop:tree --config default.toml --all
    actorwork run shop:tree --config default.toml
    ACTORWORK_ACTORS__MAILER__CONCURRENCY=8 actorwork run shop:tree --config default.toml --solo

and from another terminal

    actorwork send mails '{"to": "ann@example.org"}'
    actorwork send pictures '{"path": "cat.png"}'
"""

from __future__ import annotations

import attrs

from actorwork import Actor, CircuitBreaker, Entity, Process, RateLimit, Settings, receive, run


class Mailer(Actor):
    """Sends mails, ten in a second; an operator may change that under the name `smtp`."""

    settings = Settings(title="mailer", sources={"mails"}, limits=[RateLimit(10, name="smtp"), CircuitBreaker("smtp")])

    @receive
    async def mail(self, *, to: str) -> None:
        self.context.log.warning("a mail to %s", to)


class Thumbnails(Actor):
    """Shrinks pictures, in a process of its own."""

    settings = Settings(title="thumbnails", sources={"pictures"})

    @receive
    async def shrink(self, *, path: str) -> None:
        self.context.log.warning("shrank %s", path)


@attrs.define
class Contents:
    pieces: int = 0


class Cart(Entity[Contents]):
    """Counts what is in the cart of each customer; an operator may say how long carts are kept."""

    settings = Settings(title="cart")

    @receive
    async def put(self, *, pieces: int) -> None:
        self.state.pieces += pieces


tree = [Mailer, Cart, Process([Thumbnails], name="studio")]

if __name__ == "__main__":
    run(tree, config="default.toml")
