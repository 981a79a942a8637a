"""What operators copy: each file is read by the tool that it is for, if that is at hand, and agrees with the code."""

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import trio
import yaml

from actorwork import open_client
from actorwork.cli.commands import actorwork
from actorwork.durations import as_seconds
from actorwork.inspection.scale import ScaleRoute, Waiting
from actorwork.telemetry.monitor import Request
from actorwork.testing.redis_sentinel import Member
from actorwork.testing.redis_server import open_redis_server
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = ROOT / "compose.yaml"
SERVICE = DEPLOY / "actorwork.service"
BASE = DEPLOY / "kubernetes" / "base"
KEDA = DEPLOY / "kubernetes" / "overlays" / "keda"
SECONDS = DEPLOY / "kubernetes" / "overlays" / "keda-seconds"


def documents(*files: Path) -> list[dict[str, Any]]:
    return [document for file in files for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def services() -> dict[str, dict[str, Any]]:
    return documents(COMPOSE)[0]["services"]


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the manifests as they are written, by kind and name."""
    read = documents(BASE / "worker.yaml", BASE / "dashboard.yaml", KEDA / "scaling.yaml", SECONDS / "exporter.yaml")
    return {(one["kind"], one["metadata"]["name"]): one for one in read}


def pod_of(name: str) -> dict[str, Any]:
    return manifests()["Deployment", name]["spec"]["template"]["spec"]


def variables_of(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container["env"]}


def command(name: str) -> click.Command:
    found = actorwork.get_command(click.Context(actorwork), name)
    assert found is not None, f"there is no command {name!r}"
    return found


def check_arguments(arguments: list[str]) -> None:
    """Let the command line parse what a file calls it with; it raises for an option that does not exist."""
    command(arguments[0]).make_context(arguments[0], arguments[1:]).close()


def test_redis_starts_with_our_configuration_and_the_doctor_finds_nothing() -> None:
    async def diagnose(url: str) -> dict[str, set[str]]:
        with trio.fail_after(PATIENCE):
            async with open_client(url) as client:
                findings: dict[str, set[str]] = {}
                for finding in await client.broker.diagnose():
                    findings.setdefault(finding.subject, set()).add(finding.level)
                return findings

    with open_redis_server(config={"include": str(DEPLOY / "redis.conf")}) as server:
        findings = trio.run(diagnose, server.url)
    assert findings["durability"] == {"ok"}
    assert findings["eviction"] == {"ok"}


def test_a_sentinel_starts_with_the_file_for_one(tmp_path: Path) -> None:
    lines = (DEPLOY / "sentinel.conf").read_text(encoding="utf-8").replace("primary.example", "127.0.0.1").splitlines()
    # Sentinel writes the file that it was started with; its port is chosen here.
    settings = dict(line.rsplit(" ", 1) for line in lines if line.startswith("sentinel") and "monitor" not in line)
    monitor = next(line for line in lines if line.startswith("sentinel monitor"))
    sentinel = Member(tmp_path / "sentinel", {monitor: "", **settings}, is_sentinel=True)
    sentinel.start()
    try:
        state = sentinel.call("SENTINEL", "MASTER", "mymaster").decode().split("\r\n")
    finally:
        sentinel.kill()
    assert state[state.index("down-after-milliseconds") + 2] == "5000"
    assert state[state.index("quorum") + 2] == "2"


def test_each_setting_of_redis_has_a_reason_above_it() -> None:
    text = (DEPLOY / "redis.conf").read_text(encoding="utf-8")
    for paragraph in text.split("\n\n"):
        lines = paragraph.strip().splitlines()
        assert lines[0].startswith("# "), f"no reason for {lines[0]!r}"


def test_compose_gives_workers_more_time_to_stop_than_they_need() -> None:
    worker = services()["worker"]
    assert as_seconds(worker["stop_grace_period"]) >= as_seconds(worker["environment"]["ACTORWORK_GRACE"]) + 5
    assert worker["init"] is False
    assert services()["dashboard"]["healthcheck"] == {"disable": True}
    for name in ("worker", "dashboard"):
        check_arguments(services()[name]["command"])
        assert services()[name]["depends_on"]["redis"]["condition"] == "service_healthy"


def test_compose_has_no_password_of_its_own() -> None:
    secrets = [
        services()["redis"]["environment"]["REDIS_PASSWORD"],
        services()["dashboard"]["environment"]["ACTORWORK_WEB_TOKEN"],
        *re.findall(r"redis://:(.*)@", services()["worker"]["environment"]["ACTORWORK_BROKER"]),
    ]
    assert len(secrets) == 3
    # Without the variable, compose ends with the text after the question mark.
    assert all(re.fullmatch(r"\$\{[A-Z_]+:\?[a-zA-Z ]+\}", secret) for secret in secrets)


def test_what_compose_mounts_is_there_and_has_the_tree_that_it_runs() -> None:
    mounted = [volume.split(":")[0] for one in services().values() for volume in one.get("volumes", ())]
    assert {path for path in mounted if path.startswith(".")} == {"./deploy/redis.conf", "./examples"}
    module, tree = services()["worker"]["command"][1].split(":")
    program = (ROOT / "examples" / f"{module}.py").read_text(encoding="utf-8")
    assert re.search(rf"^class {tree}\(Actor\)", program, re.MULTILINE)


def test_the_image_runs_the_command_line_without_a_shell_and_asks_for_its_health() -> None:
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == 'ENTRYPOINT ["actorwork"]'
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001"]
    (check,) = [line for line in lines if line.startswith("HEALTHCHECK")]
    assert check.endswith(' CMD ["actorwork", "health"]')
    assert any("ACTORWORK_MONITOR=127.0.0.1:9464" in line for line in lines)
    check_arguments(["health"])


def test_the_variables_in_the_files_are_those_of_the_command_line() -> None:
    files = [COMPOSE, SERVICE, ROOT / "Containerfile", *(DEPLOY / "kubernetes").rglob("*.yaml")]
    named = {name for file in files for name in re.findall(r"\bACTORWORK_[A-Z_]+", file.read_text(encoding="utf-8"))}
    options = [option for name in ("run", "web", "health", "metrics") for option in command(name).params]
    known = {f"ACTORWORK_{(option.name or '').upper()}" for option in options}
    known |= {str(option.envvar) for option in options}
    # Of `web` the help names it; it is no option, since the arguments of a process can be read by others.
    assert "ACTORWORK_WEB_TOKEN" in (command("web").get_help(click.Context(command("web"))))
    assert named <= known | {"ACTORWORK_WEB_TOKEN"}
    assert "ACTORWORK_BROKER" in named


def test_the_unit_gives_a_node_the_time_that_it_needs_to_stop() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.read(SERVICE, encoding="utf-8")
    service = unit["Service"]
    arguments = service["ExecStart"].split()[1:]
    check_arguments(arguments)
    grace = as_seconds(arguments[arguments.index("--grace") + 1])
    assert float(service["TimeoutStopSec"]) >= grace + 5
    assert service["KillSignal"] == "SIGTERM"
    assert service["KillMode"] == "mixed"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = SERVICE.read_text(encoding="utf-8").replace("/srv/shop/.venv/bin/actorwork", "/bin/true")
    unit = tmp_path / "shop-workers.service"
    unit.write_text(text, encoding="utf-8")
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    # It also reports units of the machine; ours are the lines with the name.
    assert "shop-workers" not in verified.stderr


def test_the_pods_have_time_to_stop_and_probes_of_the_monitor() -> None:
    pod = pod_of("actorwork-worker")
    (container,) = pod["containers"]
    variables = variables_of(container)
    assert pod["terminationGracePeriodSeconds"] > as_seconds(variables["ACTORWORK_GRACE"]) + 10
    probes = [container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert [probe["httpGet"]["path"] for probe in probes] == ["/started", "/live", "/ready"]
    (port,) = container["ports"]
    assert variables["ACTORWORK_MONITOR"] == f"0.0.0.0:{port['containerPort']}"
    assert {probe["httpGet"]["port"] for probe in probes} == {port["name"]}
    alive = container["livenessProbe"]
    assert alive["periodSeconds"] * alive["failureThreshold"] >= as_seconds(variables["ACTORWORK_HANG_TIMEOUT"])


@pytest.mark.parametrize("name", ["actorwork-worker", "actorwork-dashboard", "actorwork-exporter"])
def test_the_containers_have_no_rights_that_they_do_not_need(name: str) -> None:
    pod = pod_of(name)
    (container,) = pod["containers"]
    check_arguments(container["args"])
    assert "command" not in container, "the image's entry is the process itself"
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["resources"]["limits"]["memory"]


def test_budget_and_scaling_name_the_workers() -> None:
    found = manifests()
    labels = found["Deployment", "actorwork-worker"]["spec"]["template"]["metadata"]["labels"]
    assert found["PodDisruptionBudget", "actorwork-worker"]["spec"]["selector"]["matchLabels"] == labels
    scaled = found["ScaledObject", "actorwork-worker"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == "actorwork-worker"
    assert scaled["minReplicaCount"] >= 1
    (trigger,) = scaled["triggers"]
    assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in found
    # Of the three modes of KEDA's scaler exactly one may be there.
    assert {"streamLength", "pendingEntriesCount", "lagCount"} & set(trigger["metadata"]) == {"streamLength"}


def test_the_scaler_by_seconds_asks_the_exporter_for_what_that_answers() -> None:
    (scaled,) = [one for one in documents(SECONDS / "scaling.yaml") if one["kind"] == "ScaledObject"]
    assert scaled["spec"]["minReplicaCount"] >= 1
    (trigger,) = scaled["spec"]["triggers"]
    asked = urlsplit(str(trigger["metadata"]["url"]))
    service = manifests()["Service", "actorwork-exporter"]["spec"]
    assert asked.hostname == "actorwork-exporter"
    assert asked.port == service["ports"][0]["port"]
    (container,) = pod_of("actorwork-exporter")["containers"]
    assert container["args"][-1].rpartition(":")[2] == str(container["ports"][0]["containerPort"])
    route = ScaleRoute.__new__(ScaleRoute)
    route._known = {}
    waiting = Waiting(
        actor="orders", source="orders", messages=6, oldest=1.0, seconds_each=None, nodes=0, concurrency=0
    )
    answer = route.answer([waiting], Request(asked.path, asked.query, {}))
    assert json.loads(answer.body)[trigger["metadata"]["valueLocation"]] == 3.0


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize(("directory", "replicas"), [(BASE, 2), (KEDA, None), (SECONDS, None)])
def test_kustomize_builds_the_manifests(directory: Path, replicas: int | None) -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", str(directory)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert built.returncode == 0, built.stderr
    made = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(built.stdout)}
    worker = made["Deployment", "actorwork-worker"]
    assert worker["spec"].get("replicas") == replicas
    assert worker["spec"]["template"]["spec"]["containers"][0]["image"] == "actorwork:latest"
    assert (("ScaledObject", "actorwork-worker") in made) == (directory != BASE)
