"""The dashboard and the alert rules that are shipped name metrics and labels that there are; promtool judges both."""

import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from actorwork.telemetry.metrics import Registry
from actorwork.telemetry.metrics.rendering import rendered
from actorwork.telemetry.metrics.table import BROKER_TABLE, METRICS, TABLE

SHIPPED = files("actorwork.telemetry.shipped")
RULES = SHIPPED.joinpath("rules.yaml").read_text(encoding="utf-8")
DASHBOARD = SHIPPED.joinpath("dashboard.json").read_text(encoding="utf-8")
ADDED = {"instance", "le"}
"""Labels that Prometheus adds, or the format."""


def expressions() -> list[str]:
    rules: Any = yaml.safe_load(RULES)
    panels: Any = json.loads(DASHBOARD)["panels"]
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]] + [
        target["expr"] for panel in panels for target in panel.get("targets", ())
    ]


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bactorwork_\w+", expression))


def metric_of(name: str) -> str:
    """Return the metric of a series: of a histogram there are three."""
    whole = re.sub(r"_(bucket|sum|count)$", "", name)
    return whole if whole in METRICS and METRICS[whole].kind == "histogram" else name


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_and_labels_that_there_are(expression: str):
    names = names_in(expression)
    assert names
    metrics = {metric_of(name) for name in names}
    assert metrics <= METRICS.keys()
    labels = {label for metric in metrics for label in METRICS[metric].labels} | ADDED
    grouped = re.findall(r"(?:by|on) \(([^)]*)\)", expression)
    used = {label.strip() for group in grouped for label in group.split(",")}
    used |= set(re.findall(r"(\w+)=~?\"", expression))
    assert used <= labels


def test_names_elsewhere_in_the_dashboard_are_metrics():
    everywhere = names_in(DASHBOARD)
    assert {metric_of(name) for name in everywhere} <= METRICS.keys()
    assert len(everywhere) > 30


def test_the_chapter_shows_the_whole_table():
    chapter = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [line for line in chapter.splitlines() if re.match(r"\| `\w+` \| (counter|gauge|histogram) ", line)]
    assert rows == [
        f"| `{one.name}` | {one.kind} | {', '.join(one.labels) or '–'} | `{one.otel_name}`, {one.unit} | {one.help} |"
        for one in METRICS.values()
    ]


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD)["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_every_rule_says_how_grave_it_is_and_what_to_do():
    rules: Any = yaml.safe_load(RULES)
    found = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in found}) == len(found) == 13
    for rule in found:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on the PATH")


@promtool
def test_promtool_accepts_the_rules():
    checked = subprocess.run(
        ["promtool", "check", "rules", str(SHIPPED.joinpath("rules.yaml"))], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@promtool
def test_promtool_accepts_the_text_of_every_metric():
    registry = Registry((*TABLE, *BROKER_TABLE))
    registry.meter.lease_renewed(0.5)
    for metric in METRICS.values():
        labels = tuple(f"a {name}" for name in metric.labels)
        family = registry.family(metric.name)
        {"counter": family.add, "gauge": family.set, "histogram": family.observe}[metric.kind](labels, 1.0)
    _, text = rendered(registry.read())
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
