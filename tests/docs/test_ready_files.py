"""The ready files for CI: their format, and their commands, run as the service would in a reader's repository."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from slimsight.deploy.cli.main import main

from .pages import ROOT, in_shell

CI = ROOT / "docs/ci"
OURS = re.compile(r"\b(slimsight|pytest)\b")


def read(name: str) -> dict[Any, Any]:
    text = (CI / name).read_text(encoding="utf-8")
    assert text.startswith("# ."), "the first line says where the file goes"
    assert max(map(len, text.splitlines())) <= 125
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


def our_lines(steps: list[str]) -> list[str]:
    return [line for line in steps if OURS.search(line) and "pip install" not in line]


Started = Callable[[str], tuple[int, str]]


@pytest.fixture
def repository(files: Path) -> Path:
    """A repository with a checkout of the default branch, as a pipeline has it."""
    (files / "main").mkdir()
    shutil.copy(files / "my_model.py", files / "main")
    return files


@pytest.fixture
def start(capsys: pytest.CaptureFixture[str]) -> Started:
    """Runs slimsight commands in this process, others in a shell; gives exit code and output."""

    def run(line: str) -> tuple[int, str]:
        words = shlex.split(os.path.expandvars(line), comments=True)
        if words[0].rpartition("/")[2] != "slimsight":
            return in_shell(line, Path.cwd())
        with pytest.raises(SystemExit) as left:
            main(words[1:])
        found = capsys.readouterr()
        return int(left.value.code or 0), found.out + found.err

    return run


def widen(project: Path) -> None:
    model = (project / "my_model.py").read_text(encoding="utf-8")
    wide = model.replace("block(24, 32, 1)", "block(24, 1280, 1)").replace("nn.Linear(32,", "nn.Linear(1280,")
    assert wide.count("1280") == 2
    (project / "my_model.py").write_text(wide, encoding="utf-8")


def cases(file: Path) -> dict[str, bool]:
    """Every test case of a JUnit file, and whether it passed."""
    root = ElementTree.parse(file).getroot()
    return {str(case.get("name")): case.find("failure") is None for case in root.iter("testcase")}


@pytest.mark.parametrize("name", ["github-actions.yml", "github-scheduled.yml"])
def test_github_files_have_the_form_of_workflows(name: str) -> None:
    workflow = read(name)
    triggers = workflow[True]  # YAML 1.1 reads the key `on` as true, and GitHub does not
    assert set(workflow) - {True} <= {"name", "permissions", "concurrency", "jobs", "env", "defaults"}
    assert set(triggers) <= {"push", "pull_request", "schedule", "workflow_dispatch"}
    assert workflow["permissions"] == {"contents": "read"}
    for event in triggers.get("schedule", []):
        assert re.fullmatch(r"(\S+ ){4}\S+", event["cron"])
    for job in workflow["jobs"].values():
        assert {"runs-on", "steps", "timeout-minutes"} <= set(job)
        for step in job["steps"]:
            assert set(step) <= {"name", "uses", "with", "run", "if", "env", "id"}
            assert ("uses" in step) != ("run" in step)
            assert "with" not in step or "uses" in step
            assert re.fullmatch(r"[\w-]+/[\w./-]+@v\d+", step.get("uses", "actions/checkout@v4"))
        artifacts = [step for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
        assert [step["if"] for step in artifacts] == ["always()"]


def test_the_push_workflow_passes_and_a_grown_model_fails_it(
    repository: Path, start: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = read("github-actions.yml")["jobs"]["budget"]["steps"]
    check, tests = our_lines([step["run"] for step in steps if "run" in step])
    actions = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(repository / "summary.md")}
    code, said = in_shell(check, repository, **actions)
    assert code == 0, said
    assert all(cases(repository / "check.xml").values())
    assert "|" in (repository / "summary.md").read_text(encoding="utf-8")
    assert json.loads((repository / "figures.json").read_text())["passed"]
    code, said = start(tests)
    assert code == 0, said
    assert cases(repository / "tests.xml") == {"test_small": True}
    uploaded = steps[-1]["with"]["path"].split()
    assert all((repository / file).is_file() for file in uploaded)

    widen(repository)
    for name, value in actions.items():
        monkeypatch.setenv(name, value)
    code, said = start(check.replace("\\\n", ""))
    assert code == 1
    assert "::error" in said
    assert "4.0" in said, "the layer that grew is named"
    assert not all(cases(repository / "check.xml").values())


def test_the_weekly_workflow(project: Path, start: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is finished already, so its stages are reused."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project / "summary.md"))
    (job,) = read("github-scheduled.yml")["jobs"].values()
    for line in our_lines([step["run"] for step in job["steps"] if "run" in step]):
        code, said = start(line)
        assert code == 0, said
    assert all(cases(project / "check.xml").values())
    assert (project / "summary.md").is_file()
    for pattern in job["steps"][-1]["with"]["path"].split():
        assert list(project.glob(pattern)), pattern


def test_gitlab(repository: Path, start: Started) -> None:
    (job,) = read("gitlab-ci.yml").values()
    assert {"image", "script", "artifacts", "before_script"} <= set(job)
    for line in our_lines(job["script"]):
        code, said = start(line)
        assert code == 0, said
    reports = job["artifacts"]["reports"]["junit"]
    assert all(all(cases(repository / file).values()) for file in reports)
    assert all((repository / file).is_file() for file in job["artifacts"]["paths"])


def test_pre_commit(repository: Path, start: Started) -> None:
    (repo,) = read("pre-commit-config.yaml")["repos"]
    (hook,) = repo["hooks"]
    assert repo["repo"] == "local"
    assert {"id", "name", "language", "entry"} <= set(hook)
    assert hook["pass_filenames"] is False
    assert re.search(hook["files"], "my_model.py")
    assert not re.search(hook["files"], "docs/my_model.py.md")
    code, said = start(hook["entry"])
    assert code == 0, said
    widen(repository)
    code, said = start(hook["entry"])
    assert code == 1
    assert "FAILED  parameters" in said
