"""The versions that we promise: bounds with reasons, a file that installs the lowest, and a job that runs both ends."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from slimsight.deploy.doctor import diagnosis

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(TEXT)["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = [Requirement(line) for line in PROJECT["dependencies"]]
OPTIONAL = [Requirement(line) for name in ("timm", "openvino", "tensorrt-rtx", "dev") for line in EXTRAS[name]]
TOOLS = {"mypy", "ruff", "import-linter", "types-PyYAML", "playwright"}
"""They look at the project, or at a page; no run and no result depends on them."""


def pinned() -> dict[str, str]:
    lines = (ROOT / "tests/oldest-requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def least(requirement: Requirement) -> str:
    (found,) = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    return found


def test_the_file_of_the_oldest_holds_every_lower_bound_and_nothing_else() -> None:
    wanted = {item.name: least(item) for item in [*NEEDED, *OPTIONAL] if item.name not in TOOLS}
    del wanted["onnxruntime"]  # what other machines install instead of onnxruntime-gpu
    found = pinned()
    assert wanted.keys() == found.keys()
    for name, version in found.items():
        exact = Version(version.removesuffix(".*"))
        assert exact == Version(wanted[name]), f"{name}: {version} is installed, {wanted[name]} is promised"


def test_both_runtimes_and_the_doctor_promise_the_same() -> None:
    untested = [Requirement(line) for name in ("executorch", "hub") for line in EXTRAS[name]]
    bounds = {item.name: least(item) for item in [*NEEDED, *OPTIONAL, *untested]}
    assert bounds["onnxruntime"] == bounds["onnxruntime-gpu"]
    for text, _ in diagnosis._OPTIONAL.values():
        asked = Requirement(text)
        assert least(asked) == bounds[asked.name]


@pytest.mark.parametrize("requirement", NEEDED, ids=str)
def test_an_upper_bound_says_why(requirement: Requirement) -> None:
    upper = [bound for bound in requirement.specifier if bound.operator != ">="]
    (reason,) = re.findall(rf'^  "{re.escape(requirement.name)}(?![\w-])[^"]*",(.*)$', TEXT, re.MULTILINE)
    assert not upper or re.match(r"  # \w.{20,}", reason), f"{requirement}: a reason stands behind its upper bound"


@pytest.mark.parametrize("requirement", NEEDED, ids=str)
def test_these_tests_run_within_the_bounds(requirement: Requirement) -> None:
    if requirement.marker is None or requirement.marker.evaluate():
        installed = metadata.version(requirement.name)
        assert requirement.specifier.contains(installed, prereleases=True), f"{requirement.name} {installed}"


def test_a_scheduled_job_runs_the_oldest_and_the_newest() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/versions.yml").read_text(encoding="utf-8"))
    triggers = workflow[True]  # YAML 1.1 reads the key `on` as true
    assert re.fullmatch(r"(\S+ ){4}\S+", triggers["schedule"][0]["cron"])
    assert set(workflow["jobs"]) == {"oldest", "newest"}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    ran = {}
    for name, job in workflow["jobs"].items():
        assert {"runs-on", "steps", "timeout-minutes"} <= set(job)
        commands = [step["run"].split() for step in job["steps"] if "run" in step]
        assert all(program == "make" for program, *_ in commands)
        ran[name] = [target for _, *words in commands for target in words]
        assert set(ran[name]) <= targets
    assert ran == {"oldest": ["test-oldest"], "newest": ["check", "test"]}
