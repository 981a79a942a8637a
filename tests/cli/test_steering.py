"""`actorwork audit`."""

from actorwork.abc import Broker
from tests.cli.conftest import Shell


def test_what_users_did_is_listed(shell: Shell):
    async def act(broker: Broker) -> None:
        await broker.audit.complete(
            await broker.audit.append("purge", "orders", who="ann", reason="\x1b[2Ja test"), "done", 3
        )
        await broker.audit.append("replay", "mail", who="ben", role="operator", ip="192.0.2.7")

    assert shell("audit").stdout == "nothing was done so far\n"
    shell.at_broker(act)
    lines = shell("audit").stdout.splitlines()
    assert lines[0].split() == ["AT", "WHO", "ACTION", "WHAT", "COUNT", "OUTCOME", "REASON", "ROLE", "IP"]
    assert lines[1].split()[1:] == ["ben", "replay", "mail", "operator", "192.0.2.7"]
    assert lines[2].split()[1:] == ["ann", "purge", "orders", "3", "done", "\\x1b[2Ja", "test"]
    (newest,) = shell.json("audit", "--limit", "1")
    assert (newest["who"], newest["outcome"], newest["how_many"]) == ("ben", "", None)
    assert newest["at"].endswith("Z")
