"""Who may read the files, since all messages are in them, and which process closes them."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actorwork import open_client
from actorwork.brokers import open_broker
from actorwork.embedded.spool import SpoolFile
from tests.patience import PATIENCE


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that everybody may enter, in which files are made with the usual umask."""
    before = os.umask(0o022)
    tmp_path.chmod(0o755)
    yield tmp_path
    os.umask(before)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755, "what was there before is left as it was"


@pytest.fixture
def shared(folder: Path) -> Path:
    """A file that other users may read and write."""
    file = folder / "x.db"
    file.touch()
    file.chmod(0o664)
    return file


def modes(folder: Path) -> dict[str, str]:
    return {str(one.relative_to(folder)): stat.filemode(one.stat().st_mode) for one in folder.rglob("*")}


async def test_files_and_folders_are_made_for_their_user_alone(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACTORWORK_HOME", str(folder / "state" / "actorwork"))
    async with open_broker() as broker, open_client(broker, spool="always") as client:
        await client.publish("orders", 1)
        await client.wait_replayed()
        found = modes(folder)
    assert {mode for name, mode in found.items() if "." not in name} == {"drwx------"}
    assert {mode for name, mode in found.items() if "." in name} == {"-rw-------"}
    assert {Path(name).name.rpartition("-")[2] for name in found} >= {"wal", "shm", "claim"}


async def test_a_file_that_its_user_shares_stays_shared(shared: Path):
    async with open_broker(f"sqlite:///{shared}") as broker:
        assert set(modes(shared.parent).values()) == {"-rw-rw-r--"}
        (finding,) = [one for one in await broker.diagnose() if one.level != "ok"]
    assert finding.text == f"every user of this machine can read {shared}"
    assert finding.advice == f"chmod 600 {shared}*"


def test_users_who_share_a_spool_share_its_claim(shared: Path):
    spool = SpoolFile(shared)
    assert spool.claim()
    assert modes(shared.parent)["x.db-claim"] == "-rw-r--r--", "its umask applies, as to any other file"
    spool.close()


FORKING = """
import gc, os, sys
from pathlib import Path
from actorwork.embedded.location import Location, connect

connection = connect(Location(Path(sys.argv[1])))
if not (child := os.fork()):
    del connection
    gc.collect()
    os._exit(any(os.path.realpath(f"/proc/self/fd/{number}") == sys.argv[1] for number in os.listdir("/proc/self/fd")))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="it asks Linux which files are open")
def test_a_child_process_frees_no_connection_of_its_parent(tmp_path: Path):
    """It would wait for a lock of SQLite's that a thread of the parent had at the fork."""
    file = (tmp_path / "x.db").resolve()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING, file], timeout=PATIENCE, check=False)
    assert done.returncode == 1, "the file is still open in the child"
