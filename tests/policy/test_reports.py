"""What a node reports of itself is at most 8 KB, and what is read back is a report or an error."""

import json
from typing import Any

import attrs
import hypothesis
import pytest
from hypothesis import strategies

from actorwork.policy.reports import (
    LARGEST,
    LONGEST_STACK,
    EntityReport,
    HeldMessage,
    HoldUp,
    HotKey,
    LockReport,
    NodeReport,
    PartReport,
    StallReport,
    cut_stack,
    read,
    written,
)


def report_of(*children: PartReport, **facts: Any) -> NodeReport:
    return NodeReport(
        **{"name": "h:1", "host": "h", "pid": 1, "version": "1.0", "started": 10.0, "at": 70.0, **facts},
        tree=PartReport(title="root", kind="one_for_one", children=children),
    )


def test_a_report_is_read_as_it_was_written():
    mail = PartReport(
        title="mail",
        sources=("mails", "more"),
        waiting=3,
        handling=1,
        in_hand=(HeldMessage(what="m1", source="mails", since=60.0, key="ann"),),
        hold_ups=(HoldUp(kind="rate", name="smtp", waiting=2, until=71.5),),
    )
    account = PartReport(
        title="account",
        entities=EntityReport(
            kept=3,
            activations=5,
            commits=9,
            conflicts=1,
            refused=2,
            stalled=1,
            stalled_keys=("old",),
            hot=(HotKey(key="ann", count=70),),
            ttl=3.5,
            history=20,
        ),
    )
    report = report_of(
        mail,
        account,
        PartReport(title="pool", kind="process", pid=7),
        lease_margin=6.5,
        pauses=("actor 'x'",),
        locks=(LockReport(name="ledger", actor="mail", since=60.5, message="m1", is_held=True),),
        stalls=StallReport(count=2, seconds=3.5, at=61.0, last=1.5, stack="a.py:1 in run\nb.py:2 in spin"),
    )
    assert read(written(report)) == report
    assert (report.uptime, report.actors, [part.pid for part in report.processes]) == (60.0, (mail, account), [7])
    assert report.is_whole


def test_a_tree_that_is_too_large_loses_the_parts_that_do_nothing_first():
    busy = PartReport(title="busy", waiting=1)
    report = report_of(*(PartReport(title=f"idle {number:04}") for number in range(3000)), busy)
    data = written(report)
    assert len(data) <= LARGEST
    found = read(data)
    assert not found.is_whole
    *shown, last = found.tree.children
    assert busy in shown
    assert (last.kind, last.title) == ("left out", f"{3001 - len(shown)} more")
    assert len(shown) > 100


def test_a_report_with_endless_texts_is_still_a_report_of_eight_kilobytes():
    deep = PartReport(title="x" * 5000, children=(PartReport(title="y" * 5000, label="ü" * 5000),) * 9)
    data = written(report_of(deep, blocked="frame\n" * 3000, pauses=("p" * 900,) * 50))
    assert len(data) <= LARGEST
    assert read(data).name == "h:1"


def test_of_a_deep_stack_the_innermost_frames_are_reported():
    frames = [f"deep.py:{number} in step" for number in range(1000)]
    lines = cut_stack("\n".join(frames)).splitlines()
    assert lines == frames[-len(lines) :]
    assert 900 < len("\n".join(lines)) <= LONGEST_STACK
    assert cut_stack("a.py:1 in short") == "a.py:1 in short"
    assert cut_stack("x" * 1500) == "x" * 1500
    assert cut_stack("") == ""
    stalls = StallReport(count=3, seconds=9.0, at=61.0, last=3.0, stack="s" * 2000)
    deep = PartReport(title="x" * 5000, children=(PartReport(title="y" * 5000),) * 9)
    left = read(written(report_of(deep, stalls=stalls, pauses=("p" * 900,) * 50))).stalls
    assert left == attrs.evolve(stalls, stack="")


def test_fields_of_later_versions_are_ignored():
    facts = json.loads(written(report_of(PartReport(title="mail"))))
    facts["mood"] = facts["tree"]["mood"] = "good"
    assert read(json.dumps(facts).encode()) == report_of(PartReport(title="mail"))


WRONG: list[dict[str, Any]] = [
    {"pid": "1"},
    {"pid": True},
    {"name": None},
    {"at": float("nan")},
    {"tree": 3},
    {"tree": {}},
    {"tree": {"title": "x", "children": [None]}},
    {"tree": {"title": "x", "in_hand": [{"what": 1, "since": 0}]}},
    {"pauses": "all"},
    {"counters": {"read": 1.5}},
    {"stalls": {"count": 1}},
]
GARBAGE = [b"", b"\xff\x00", b"null", b"[]", b"{}", b"[" * 100_000, b'{"name": "h:1"}', b" " * 200_000]


@pytest.mark.parametrize(
    "garbage", [*GARBAGE, *(json.dumps(attrs.asdict(report_of()) | wrong).encode() for wrong in WRONG)]
)
def test_garbage_is_refused(garbage: bytes):
    with pytest.raises(ValueError, match=r"."):
        read(garbage)


@hypothesis.given(
    strategies.recursive(
        strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
        lambda inner: (
            strategies.lists(inner)
            | strategies.dictionaries(
                strategies.sampled_from(
                    [field.name for field in attrs.fields(NodeReport)]
                    + [field.name for field in attrs.fields(PartReport)]
                ),
                inner,
            )
        ),
    )
)
def test_any_json_is_a_report_or_an_error(value: object):
    try:
        found = read(json.dumps(value).encode())
    except ValueError:
        return
    assert isinstance(found, NodeReport)
