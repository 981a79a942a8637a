"""The values of an inspection, as JSON."""

import json

from actorwork.inspection import (
    ActorInfo,
    HeldMessage,
    Holder,
    NodeInfo,
    NodeReport,
    Overview,
    Reason,
    SourceInfo,
    as_json,
)
from actorwork.records import Pause


def test_an_overview_is_json():
    report = NodeReport(name="h:1", host="h", pid=1, version="1.0", started=10.0, at=70.0, lease_margin=float(5))
    held = Holder(node="n1", name="h:1", actor="mail", message=HeldMessage(what="m1", since=60.0, source="mails"))
    overview = Overview(
        as_of=71.0,
        broker="memory://",
        nodes=(NodeInfo(id="n1", report=report, age=1.0), NodeInfo(id="n2", report=None, problem="not a report")),
        actors=(ActorInfo(title="mail", states={"running": 1}, in_hand=(held,)),),
        sources=(SourceInfo(name="mails", why=Reason("paused", "paused by ann", by="ann", since=3.0)),),
        pauses=(Pause("actor", "mail"),),
        problems=(),
    )
    found = json.loads(json.dumps(as_json(overview), allow_nan=False))
    first, second = found["nodes"]
    assert (first["name"], first["state"], first["report"]["uptime"]) == ("h:1", "running", 60.0)
    assert (second["name"], second["state"], second["report"]) == ("n2", "unreadable", None)
    assert found["actors"][0]["in_hand"][0]["message"]["what"] == "m1"
    assert found["sources"][0]["why"] == {
        "code": "paused",
        "text": "paused by ann",
        "subject": "",
        "by": "ann",
        "node": "",
        "since": 3.0,
        "until": None,
        "is_fine": False,
    }
    assert found["pauses"][0]["kind"] == "actor"


def test_a_node_is_late_when_its_next_report_is_overdue():
    report = NodeReport(name="h:1", host="h", pid=1, version="1.0", started=10.0, at=70.0)
    assert NodeInfo(id="n1", report=report, is_late=True).state == "late"
