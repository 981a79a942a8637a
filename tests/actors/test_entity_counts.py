"""What entities have done is counted: activations, commits, conflicts, what was refused, stalled and hot keys."""

import trio
import trio.testing

from actorwork import Entities, Entity, Settings, open_client, receive
from actorwork.actors.entities.counts import EntityCounts
from actorwork.inspection import Inspection
from actorwork.policy.reports import EntityReport
from actorwork.testing import open_test_system


class Account(Entity[int]):
    settings = Settings(title="account", entities=Entities(limit=10, history=4, ttl=3600))

    @receive
    async def add(self, *, n: int, wait: float = 0, commit: bool = False) -> None:
        self.state += n
        if commit:
            await self.commit()
            self.state += n
        await trio.sleep(wait)


async def report_of(broker: object) -> EntityReport:
    inspection = Inspection(broker)  # type: ignore[arg-type]  # of a test
    found = (await inspection.actor("account")).entities
    assert found is not None
    return found


async def test_activations_and_commits_are_reported(mock_clock: trio.testing.MockClock):
    async with open_test_system(Account) as system:
        for key in ("ann", "ann", "ben"):
            await system.ref(Account, key=key).ask({"n": 1})
        await system.ref(Account, key="ben").ask({"n": 0})
        await system.ref(Account, key="ben").ask({"n": 1, "commit": True})
        found = await report_of(system.broker)
    # Nothing is committed of the message that adds nothing, and twice of the one that commits half-way.
    assert (found.kept, found.activations, found.commits) == (2, 2, 5)
    assert (found.conflicts, found.refused, found.stalled, found.hot[0].key) == (0, 0, 0, "ben")
    assert (found.ttl, found.history) == (3600, 4)


async def test_a_state_that_is_too_large_is_counted_as_refused(mock_clock: trio.testing.MockClock):
    async with open_test_system(Account) as system:
        await system.ref(Account, key="ann").tell({"n": 10**20})
        await system.drain()
        found = await report_of(system.broker)
    assert (found.refused, found.commits) == (1, 0)


async def test_a_commit_on_a_state_that_has_changed_is_a_conflict(mock_clock: trio.testing.MockClock):
    async with open_test_system(Account) as system, open_client(system.broker) as client:
        ann = client.ref(Account, key="ann")
        await ann.tell({"n": 1, "wait": 5})
        await trio.sleep(1)
        await ann.put(5, force=True)
        await system.drain()
        found = await report_of(system.broker)
        assert (await ann.state()).value == 6
    assert (found.conflicts, found.activations) == (1, 2)


async def test_a_key_whose_state_cannot_be_read_is_named_until_it_can(mock_clock: trio.testing.MockClock):
    settings = Account.settings
    async with open_test_system(Account) as system, open_client(system.broker) as client:
        await system.broker.entities.put(settings.default_source, settings.id, "ann", b"1", schema=9)
        await client.ref(Account, key="ann").tell({"n": 1})
        await trio.sleep(3)
        found = await report_of(system.broker)
        assert (found.stalled, found.stalled_keys) == (1, ("ann",))
        (problem,) = (await Inspection(system.broker).overview()).problems
        assert (problem.kind, problem.name) == ("actor", "account")
        assert problem.text == "a node cannot read the state of 'ann': messages wait for one that can"
        await client.ref(Account, key="ann").put(5, force=True)
        await trio.sleep(3)
        found = await report_of(system.broker)
        assert (found.stalled, found.commits) == (0, 1)


def test_of_stalled_keys_a_thousand_are_remembered_for_a_minute():
    counts = EntityCounts("account", lambda _: None)
    for n in range(1200):
        counts.stalled(f"key {n}", float(n) / 100)
    assert len(counts.stalled_keys(12.0)) == 1000
    assert "key 0" not in counts.stalled_keys(12.0)
    assert counts.stalled_keys(100.0) == []
