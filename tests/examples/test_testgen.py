"""Generated tests: `examples/testgen`, as processes, for a package that is written here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from actorwork import Progress, sync
from examples.testgen.generation import Candidate
from examples.testgen.sandbox import judge
from tests.examples.programs import PATIENCE, api_of, running, until

SAMPLE = '''
import time

def answer():
    """The answer.

    >>> answer()
    42
    >>> answer()
    42
    >>> answer()
    43
    """
    return 42
'''

WAITING = '''
import time
from pathlib import Path

def wait():
    """Return when the test says so.

    >>> wait()
    True
    """
    while not Path(__file__).with_name("go on").exists():
        time.sleep(0.01)
    return True
'''


def program_of(directory: Path, broker: str, **values: object) -> Any:
    (directory / "sample.py").write_text(SAMPLE, encoding="utf-8")
    (directory / "waiting.py").write_text(WAITING, encoding="utf-8")
    given = {"broker": broker, "database": directory / "testgen.sqlite3", "port": 0, "validators": 1, **values}
    environment = {f"TESTGEN_{name.upper()}": value for name, value in given.items()}
    patient = {"TESTGEN_TEST_SECONDS": 10 * PATIENCE, "PYTHONPATH": directory}
    return running(directory / "log", "examples.testgen", env={**patient, **environment})


def events_of(api: httpx.Client, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield server-sent events until the server ends the stream."""
    with api.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)


def requested(api: httpx.Client, package: str) -> str:
    answer = api.post("/requests", json={"package": package})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/requests/{answer.json()['id']}"
    return answer.headers["location"]


# With the embedded broker the process that runs tests is not replaced: starting another one takes long.
@pytest.mark.long
@pytest.mark.parametrize(("broker", "messages_per_process", "processes"), [("sqlite", 50, 1), ("redis", 3, 2)])
def test_a_package_gets_the_tests_that_pass_and_one_that_does_not_exist_none(
    request: pytest.FixtureRequest, tmp_path: Path, broker: str, messages_per_process: int, processes: int
) -> None:
    url = request.getfixturevalue("redis_url") if broker == "redis" else f"sqlite:///{tmp_path}/broker.sqlite3"
    with program_of(tmp_path, url, messages_per_process=messages_per_process) as program, api_of(program) as api:
        assert "Generate tests" in api.get("/").text
        assert api.post("/requests", json={"package": "../../etc"}).status_code == 422
        for path in ("/requests/none", "/requests/none/events", "/requests/none/tests"):
            assert api.get(path).status_code == 404

        path, failing = requested(api, "sample"), requested(api, "nowhere")
        events = list(events_of(api, f"{path}/events"))
        verdicts = [data for kind, data in events if kind == "verdict"]
        assert {verdict["name"].removeprefix("test_sample_answer_"): verdict["judgement"] for verdict in verdicts} == {
            "signature": "passed",
            "example_1": "passed",
            "example_2": "passed",
            "example_3": "failed",
        }
        assert len({verdict["worker"] for verdict in verdicts}) == processes
        end = events[-1][1]
        assert end == api.get(path).json()
        assert end["status"] == "SUCCESS"
        assert end["summary"] == {"functions": 1, "written": 4, "passed": 3, "saved": 2}
        assert [stage["status"] for stage in end["stages"]] == ["SUCCESS"] * 6
        with sync.open_client(url) as client:
            survey, *_ = client.run(end["id"]).steps()
            assert client.receipt(survey.message).info().progress == Progress(1, 1)
        tests = api.get(f"{path}/tests").text
        assert tests.count("def test_") == 2
        assert "assert repr(answer()) == '42'" in tests

        _, failed = list(events_of(api, f"{failing}/events"))[-1]
        assert failed["status"] == "FAILURE"
        assert "there is no package 'nowhere' on this machine" in failed["note"]
        kept = until(
            lambda: next((one for one in api.get("/requests").json() if one["status"] == "FAILURE"), None), "it"
        )
        assert kept["reason"] == "Fail: there is no package 'nowhere' on this machine"

        # An interrupt ends what is followed at once and as a whole: the server need not cut it off.
        following = events_of(api, f"{requested(api, 'waiting')}/events")
        next(following)
        program.process.send_signal(2)
        assert all(data["status"] == "STARTED" for kind, data in following if kind == "progress")
        (tmp_path / "go on").touch()
        assert program.process.wait(PATIENCE) == 0
        assert "Traceback" not in program.wrote()


async def test_a_test_that_takes_too_long_is_ended() -> None:
    verdict = await judge(Candidate("test_loop", "while True: pass\n"), seconds=0.05, memory=1 << 30)
    assert verdict.judgement == "too slow"
