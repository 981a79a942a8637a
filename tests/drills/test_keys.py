"""Messages with many keys, on nodes that are killed: the order of each key is kept, and nothing is lost."""

import json
import os
import random
from collections import defaultdict

import pytest

from actorwork.message import Envelope, MessageIds
from tests.patience import PATIENCE

from .conftest import MANY, Drill, Node, open_place

EACH = 4
NODES = 2
LEASE = 1.0


@pytest.mark.parametrize("keys", [250, pytest.param(1000, marks=pytest.mark.long)])
async def test_many_keys_are_kept_in_order_while_nodes_are_killed(url: str, drill: Drill, keys: int):
    chance = random.Random(7)
    ids = MessageIds(os.urandom(8).hex())
    numbers = [key * EACH + place for place in range(EACH) for key in range(keys)]
    async with open_place(url) as place:
        envelopes = [
            Envelope("kept", next(ids), json.dumps({"number": number}).encode(), headers={}, key=f"k{number // EACH}")
            for number in numbers
        ]
        await place.broker.publish(envelopes)
        nodes: list[Node] = [drill.start("keeper", url, lease=LEASE, max_crashes=MANY) for _ in range(NODES)]
        for kills in range(1, 6):
            await drill.wait_notes("ended", kills * keys * EACH // 8, within=PATIENCE)
            await nodes.pop(chance.randrange(NODES)).kill()
            nodes.append(drill.start("keeper", url, lease=LEASE, max_crashes=MANY))
        await place.wait_empty("kept", within=PATIENCE)
        for node in nodes:
            await node.wait_up()
            await node.stop()
        receipts = await place.receipts()
        letters = await place.broker.dead_letters.list(limit=keys)
    done: dict[int, list[int]] = defaultdict(list)
    for receipt in receipts:
        done[receipt["number"] // EACH].append(receipt["number"])
    failing = [number for number in numbers if number % 50 == 0]
    assert done == {
        key: [number for number in range(key * EACH, (key + 1) * EACH) if number % 50] for key in range(keys)
    }
    payloads = [letter.payload for letter in letters if isinstance(letter.payload, bytes)]
    assert sorted(json.loads(payload)["number"] for payload in payloads) == sorted(failing)
    # A message was begun only after all messages before it, of the same key, had been begun.
    begun: dict[int, int] = {}
    for note in drill.ledger.notes("begun"):
        number: int = note.facts["number"]
        key, at = divmod(number, EACH)
        assert at <= begun.get(key, -1) + 1, f"{number} was begun before what is before it"
        begun[key] = max(at, begun.get(key, -1))
