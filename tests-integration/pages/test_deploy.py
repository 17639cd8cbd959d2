"""The files that start nodes agree with the program that they start, and with each other."""

from __future__ import annotations

import ast
import configparser
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

DOCS = Path(__file__).parents[2] / "docs"
DEPLOY = DOCS / "deploy"
GUIDE = (DOCS / "guides" / "deploying.md").read_text(encoding="utf-8")
CLOSING = 2  # seconds that a transport may take beyond drain_timeout


def constant(name: str) -> Any:
    """Return a constant of the program."""
    tree = ast.parse((DOCS / "examples" / "service.py").read_text(encoding="utf-8"))
    (value,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name
    )
    return value


def documents(name: str) -> list[dict[str, Any]]:
    return [*yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8"))]


@pytest.fixture
def pod() -> dict[str, Any]:
    template: dict[str, Any] = documents("statefulset.yaml")[0]["spec"]["template"]
    return template


def variables(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in pod["spec"]["containers"][0]["env"]}


def test_every_file_is_shown() -> None:
    for file in sorted(DEPLOY.iterdir()):
        assert f'--8<-- "deploy/{file.name}"' in GUIDE or file.name == "requirements.txt"


def test_a_pod_knows_its_name_and_how_many_there_are(pod: dict[str, Any]) -> None:
    stateful_set, service, budget = documents("statefulset.yaml")
    assert [each["kind"] for each in (stateful_set, service, budget)] == [
        "StatefulSet",
        "Service",
        "PodDisruptionBudget",
    ]
    assert variables(pod)["NODE_ID"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert variables(pod)["NODE_COUNT"]["value"] == str(stateful_set["spec"]["replicas"])
    assert "secretKeyRef" in variables(pod)["CLSTR_URL"]["valueFrom"]


def test_a_pod_s_name_ends_as_the_program_expects() -> None:
    """A StatefulSet calls its pods by its own name, ``-`` and a number; the program takes that apart."""
    assert documents("statefulset.yaml")[0]["metadata"]["name"]
    assert variables(documents("statefulset.yaml")[0]["spec"]["template"]).keys() == {
        "NODE_ID",
        "NODE_COUNT",
        "HEALTH_PORT",
        "CLSTR_URL",
    }


def test_selectors_and_labels_meet(pod: dict[str, Any]) -> None:
    stateful_set, service, budget = documents("statefulset.yaml")
    labels = pod["metadata"]["labels"]
    assert stateful_set["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert stateful_set["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"


def test_the_probe_asks_the_port_that_the_program_opens(pod: dict[str, Any]) -> None:
    probe = pod["spec"]["containers"][0]["readinessProbe"]
    assert str(probe["tcpSocket"]["port"]) == variables(pod)["HEALTH_PORT"]["value"]


def test_a_pod_has_no_rights_that_it_does_not_need(pod: dict[str, Any]) -> None:
    container = pod["spec"]["containers"][0]["securityContext"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["allowPrivilegeEscalation"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"]["drop"] == ["ALL"]


def test_whatever_stops_a_node_waits_until_it_has_drained(pod: dict[str, Any]) -> None:
    needed = constant("DRAIN_TIMEOUT") + CLOSING
    assert pod["spec"]["terminationGracePeriodSeconds"] > needed
    (compose,) = documents("compose.yaml")
    for name in ("node-0", "node-1"):
        assert float(compose["services"][name]["stop_grace_period"].removesuffix("s")) > needed
    assert float(unit()["Service"]["TimeoutStopSec"]) > needed


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep capital letters
    parser.read_string((DEPLOY / "service@.service").read_text(encoding="utf-8"))
    return parser


def test_the_unit_gives_each_instance_its_name_and_starts_it_again() -> None:
    service = unit()["Service"]
    assert service["Environment"] == "NODE_ID=node-%i NODE_COUNT=3"
    assert service["KillSignal"] == "SIGTERM"
    assert service["Restart"] == "on-failure"
    assert service["ExecStart"].endswith("/service.py")
    assert unit()["Install"]["WantedBy"] == "multi-user.target"


def test_the_nodes_of_the_composition_differ_in_their_names_alone() -> None:
    (compose,) = documents("compose.yaml")
    first, second = (compose["services"][name]["environment"] for name in ("node-0", "node-1"))
    assert {name for name in first if first[name] != second[name]} == {"NODE_ID"}
    assert (first["NODE_ID"], second["NODE_ID"], first["NODE_COUNT"]) == ("node-0", "node-1", "2")
    assert "ping_interval" in compose["configs"]["nats"]["content"]


def test_the_image_runs_python_itself_and_not_as_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    instructions = {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}
    assert json.loads(instructions["CMD"]) == ["python", "service.py"]
    assert int(instructions["USER"]) > 0
    assert [*instructions].index("USER") < [*instructions].index("CMD")


def test_the_image_gets_the_transport_that_the_url_names() -> None:
    lines = (DEPLOY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [Requirement(line).name for line in lines] == ["clstr-nats"]
