"""What users did is recorded before it is done, and completed after it."""

from __future__ import annotations

import attrs

from actorwork.records import AuditEntry
from actorwork.testing.conformance.contract import ContractTests


class AuditTests(ContractTests):
    async def test_an_action_is_recorded_before_it_is_done_and_its_outcome_after_it(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            assert await broker.audit.list() == []
            first = await broker.audit.append(
                "purge", "örders", who="ann", role="admin", reason="a test", ip="192.0.2.7"
            )
            (begun,) = await other.audit.list()
            assert begun.at > 1
            assert attrs.evolve(begun, at=0) == AuditEntry(
                id=first,
                at=0,
                who="ann",
                role="admin",
                action="purge",
                what="örders",
                reason="a test",
                ip="192.0.2.7",
            )
            second = await other.audit.append("pause", "mail", who="ben")
            await other.audit.complete(first, "done", 12)
            assert await broker.audit.list() == [
                attrs.evolve((await broker.audit.list(limit=1))[0], id=second, who="ben", action="pause", outcome=""),
                attrs.evolve(begun, outcome="done", how_many=12),
            ]
            await broker.audit.complete(second, "failed: no such actor")
            assert [(one.outcome, one.how_many) for one in await other.audit.list()] == [
                ("failed: no such actor", None),
                ("done", 12),
            ]
            assert [one.id for one in await other.audit.list(limit=1)] == [second]

    async def test_a_text_without_end_is_cut_off(self) -> None:
        async with self.open_broker() as broker:
            entry = await broker.audit.append("replay", "x" * 5000, who="ann")
            await broker.audit.complete(entry, "y" * 5000)
            (found,) = await broker.audit.list()
            assert [len(found.what), len(found.outcome)] == [1000, 1000]
            await broker.audit.complete("1-1" if "-" in entry else "99", "done")
            assert await broker.audit.list() == [found]
