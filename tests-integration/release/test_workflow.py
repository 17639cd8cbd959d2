"""The workflow that publishes has no more rights than it needs, and runs nothing that may change by itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from release.members import TOP

TEMPLATE = TOP / "docs/examples/transport-template"
WORKFLOWS = [folder / ".github/workflows/publish.yml" for folder in (TOP, TEMPLATE)]
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=["clstr", "template"])


def load(path: Path) -> dict[str, Any]:
    workflow: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return workflow


@each_workflow
def test_the_job_that_publishes_proves_who_it_is_and_may_nothing_else(path: Path) -> None:
    workflow = load(path)
    publish = workflow["jobs"]["publish"]
    assert workflow["permissions"] == {}
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"]
    assert publish["needs"] == "build"
    assert all("run" not in step for step in publish["steps"])


@each_workflow
def test_the_job_that_builds_may_only_read(path: Path) -> None:
    assert load(path)["jobs"]["build"]["permissions"] == {"contents": "read"}


@each_workflow
def test_no_secret_is_used_and_every_action_is_pinned(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "secrets." not in text
    assert "password" not in text
    uses = [step["uses"] for job in load(path)["jobs"].values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in uses)


def test_what_is_published_was_checked_for_this_very_tag() -> None:
    steps = [step.get("run", "") for step in load(WORKFLOWS[0])["jobs"]["build"]["steps"]]
    assert '.venv/bin/nox -s build release-check -- --release "$GITHUB_REF_NAME"' in steps
    assert steps.index(".ci/run") < len(steps)
    (upload,) = (step for step in load(WORKFLOWS[0])["jobs"]["publish"]["steps"] if "attestations" in str(step))
    assert upload["with"] == {"attestations": True}
