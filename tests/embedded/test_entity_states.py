"""What a user puts as the state of an entity in the embedded store."""

import math
from typing import Any, cast

from actorwork.embedded.entities import EmbeddedEntities
from tests.protocol.models import EmbeddedWorld


async def test_a_state_that_is_put_is_kept_for_as_long_as_before_unless_its_user_says_more() -> None:
    world = EmbeddedWorld()
    entities: Any = EmbeddedEntities(cast("Any", world))
    try:

        async def put(data: bytes, **more: Any) -> int:
            return await entities.put("orders", "group", "ann", data, **more)

        assert await put(b"1", ttl=10) == 1
        world.advance(8)
        assert await put(b"2") == 2
        world.advance(8)
        assert await put(b"3") == 3, "it is kept as long after this change as after the last one"
        world.advance(12)
        assert await put(b"4") == 1, "it had expired"
        world.advance(1_000_000)
        assert await put(b"5", ttl=10) == 2
        assert await put(b"6", ttl=math.inf) == 3
        world.advance(1_000_000)
        assert await put(b"7") == 4
    finally:
        world.close()
