"""``slimsight check`` on files: tables, JSON, JUnit, Markdown, annotations, and what grew."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from slimsight.deploy.budget.changes import relative_growth

from ..conftest import Said
from .conftest import BUDGET, Chain

Budget = Callable[[str], Path]
GROWTH = "growth: 2%\nmacs: 1M\n"


@pytest.fixture
def grown(chain: Chain, budget: Budget, tmp_path: Path, say: Callable[..., Said]) -> tuple[Path, Path]:
    """A chain whose second layer was widened by a tenth, and the JSON of the chain as it was."""
    before = chain("before.onnx", 16, 20, 24)
    kept = tmp_path / "kept.json"
    assert say("check", before, "--budget", budget("macs: 9M"), "--json", kept).code == 0
    return chain("after.onnx", 16, 22, 24), kept


def test_a_file_within_its_budget(chain: Chain, budget: Budget, say: Callable[..., Said]) -> None:
    said = say("check", chain("a.onnx"), "--budget", budget(BUDGET))
    macs, params = 64 * 9 * (3 * 16 + 16 * 20 + 20 * 24) + 240, 9 * (3 * 16 + 16 * 20 + 20 * 24) + 60 + 240
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert re.fullmatch(rf"ok      MACs +{macs / 1e6:.2f} M +at most 1\.60 M", lines[3])
    assert re.fullmatch(rf"ok      parameters +{params:,} +at most 60,000", lines[4])
    assert lines[-1] == "all 2 checks passed"


def test_a_warning_is_no_failure(chain: Chain, budget: Budget, say: Callable[..., Said]) -> None:
    said = say("check", chain("a.onnx"), "--budget", budget("params: 60k\nmacs: {fail: 1M, warn: 400k}"))
    assert (said.code, said.err) == (0, "")
    assert re.search(r"\nwarned  MACs +0\.49 M +at most 0\.40 M +22\.\d % above\n +most MACs: conv2 \(", said.out)
    assert said.out.endswith("\nall 2 checks passed, 1 warned\n")
    said = say("check", chain("a.onnx"), "--budget", budget("params: 2000"))
    assert re.search(r"\nFAILED  parameters .*\n +most parameters: conv2 \(", said.out)


def test_what_a_file_cannot_say_fails_with_the_reason(chain: Chain, budget: Budget, say: Callable[..., Said]) -> None:
    limits = "accuracy: 88%\nparity: true\nsaliency_drift: {iou: 0.5}\ngrowth: 1%\nsize: 50%\naccuracy_drop: 1%\n"
    said = say("check", chain("a.onnx"), "--budget", budget(limits), "--json", "-")
    assert said.code == 1
    reasons = {item["key"]: item["reason"] for item in json.loads(said.out)["checks"]}
    assert all(item["status"] == "failed" and item["value"] is None for item in json.loads(said.out)["checks"])
    assert reasons["accuracy"].startswith("an ONNX file says nothing of its accuracy: check the run that made it")
    assert reasons["accuracy_drop"] == reasons["accuracy"]
    assert reasons["parity"].startswith("an ONNX file was compared with nothing")
    assert reasons["saliency_drift.iou"].startswith("an ONNX file has no explanations to compare")
    assert reasons["growth"] == "there is nothing to compare with: name it with --against"
    assert reasons["size"].startswith("an ONNX file has no original that this could refer to: give an amount, or name")


def test_a_grown_layer_comes_first_everywhere(
    grown: tuple[Path, Path], budget: Budget, tmp_path: Path, say: Callable[..., Said]
) -> None:
    """conv2 reads more channels than before and grew by more MACs than conv1, which was widened."""
    after, kept = grown
    outputs = tmp_path / "out"
    options = ("--junit", outputs / "junit.xml", "--summary", outputs / "summary.md", "--json", outputs / "found.json")
    said = say("check", after, "--budget", budget(GROWTH), "--against", kept, *options)
    assert said.code == 1
    assert said.error == "error: 1 of 2 checks failed: growth of MACs\n"
    lines = said.out.splitlines()
    assert re.fullmatch(r"FAILED  growth of MACs +\+9\.4 % +at most \+2\.0 % +7\.43 points above", lines[3])
    told = " ".join(" ".join(lines[4:7]).split())  # where a line ends depends on the length of a path
    assert re.match(r"grown since .*before\.onnx: conv1 by 0\.02 M MACs \(20 -> 22 output channels\); conv2 by ", told)
    assert [line.split()[0] for line in lines[-2:]] == ["conv1", "conv2"]

    suite = ElementTree.parse(outputs / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    cases = suite.findall("./testsuite/testcase")
    assert [case.get("name") for case in cases] == ["growth of MACs", "MACs"]
    failure = cases[0].find("failure")
    assert failure is not None
    assert failure.text is not None
    named = re.findall(r"conv\d", failure.text)
    assert (named[0], set(named)) == ("conv1", {"conv1", "conv2"})

    page = (outputs / "summary.md").read_text(encoding="utf-8")
    assert page.startswith("### slimsight check: FAILED\n")
    assert re.findall(r"conv\d", page)[0] == "conv1"
    rows = [line for line in page.splitlines() if line.startswith("| conv")]
    assert [row.split()[1] for row in rows] == ["conv1", "conv2"]
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({line.replace(r"\|", "").count("|") for line in table.splitlines()}) == 1

    found = json.loads((outputs / "found.json").read_text())
    assert [(change["layer"], change["macs_growth_of_its_own"] > 0) for change in found["changes"]] == [
        ("conv1", True),
        ("conv2", False),
    ]


def test_summaries_are_appended(chain: Chain, budget: Budget, tmp_path: Path, say: Callable[..., Said]) -> None:
    (tmp_path / "summary.md").write_text("before\n\n")
    say("check", chain("a.onnx"), "--budget", budget(BUDGET), "--summary", tmp_path / "summary.md")
    assert (tmp_path / "summary.md").read_text().startswith("before\n\n### slimsight check: passed\n")


def test_in_actions_the_budget_s_lines_are_annotated(
    grown: tuple[Path, Path],
    budget: Budget,
    tmp_path: Path,
    say: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    limits = "# kept small\nmacs: {fail: 1M, warn: 500k}\nlayers:\n  conv1: {growth: 1%}\n"
    said = say("check", grown[0], "--budget", budget(limits), "--against", grown[1])
    error, warning = (line for line in said.out.splitlines() if line.startswith("::"))
    assert error.startswith(
        "::error file=budget.yaml,line=4,title=slimsight%3A growth of conv1::growth of conv1: +10.0 %25,"
    )
    assert warning.startswith("::warning file=budget.yaml,line=2,title=slimsight%3A MACs::MACs: 0.53 M, at most 0.50 M")


def test_layers_are_limited_by_name(chain: Chain, budget: Budget, say: Callable[..., Said]) -> None:
    limits = "layers:\n  conv*: {macs: 250k}\n  head: {params: 1k}\n"
    said = say("check", chain("a.onnx"), "--budget", budget(limits))
    assert said.code == 1
    lines = said.out.splitlines()
    assert re.match(r"FAILED  MACs of conv2 +0\.28 M +at most 0\.25 M +10\.6 % above", lines[3])
    assert re.match(r"ok      parameters of head +240 +at most 1,000", lines[4])
    path = budget("macs: 1M\nlayers:\n  conw*: {macs: 5M}\n")
    said = say("check", chain("a.onnx"), "--budget", path)
    assert said.code == 2
    assert said.error == (
        f"error: {path}, line 3: layers: 'conw*' is the name of none of the 4 layers; near it: conv2, conv1, conv0 "
        "(* stands for any characters)\n"
    )


def test_added_and_removed_layers_are_told(chain: Chain, budget: Budget, say: Callable[..., Said]) -> None:
    limits = budget("layers:\n  conv*: {growth: 5%}\n")
    said = say("check", chain("long.onnx", 16, 20, 24, 8), "--budget", limits, "--against", chain("a.onnx"))
    assert said.code == 1
    assert re.search(r"FAILED  growth of conv3 +missing +at most \+5\.0 %\n +new\n", said.out)
    said = say("check", chain("a.onnx"), "--budget", limits, "--against", chain("long.onnx", 16, 20, 24, 8))
    assert said.code == 0
    assert re.search(r"\nconv3 +0\.11 M +-0\.11 M +gone", said.out)
    assert "no layer changed" in say("check", chain("a.onnx"), "--budget", limits, "--against", chain("a.onnx")).out


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_named_since_which_layers_grew(
    chain: Chain, budget: Budget, tmp_path: Path, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (("init", "-q"), (*author, "commit", "-q", "--allow-empty", "-m", "first")):
        subprocess.run(["git", "-C", tmp_path, *command], check=True, capture_output=True)
    head = subprocess.run(["git", "-C", tmp_path, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    kept, limits = tmp_path / "kept.json", budget(GROWTH)
    say("check", chain("a.onnx"), "--budget", budget("macs: 9M"), "--json", kept)
    assert json.loads(kept.read_text())["commit"] == head.stdout.strip()
    said = say("check", chain("a.onnx", 16, 22, 24), "--budget", budget(GROWTH), "--against", kept)
    assert f"grown since commit {head.stdout[:7]}: conv1 by" in said.out
    monkeypatch.setenv("PATH", str(tmp_path))  # git is not required
    say("check", chain("a.onnx"), "--budget", limits, "--json", kept, "--against", chain("a.onnx"))
    assert json.loads(kept.read_text())["commit"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "is not the JSON of a check"),
        ("{", "cannot be read as JSON"),
        ('{"schema": 1, "macs": 1, "layers": [{"nam": 1}]}', "is not complete"),
    ],
)
def test_a_json_that_no_check_wrote(
    content: str, message: str, chain: Chain, budget: Budget, tmp_path: Path, say: Callable[..., Said]
) -> None:
    (tmp_path / "other.json").write_text(content)
    said = say("check", chain("a.onnx"), "--budget", budget(BUDGET), "--against", tmp_path / "other.json")
    assert (said.code, message in said.error) == (2, True)


def test_latency_is_measured_against_a_baseline(chain: Chain, budget: Budget, say: Callable[..., Said]) -> None:
    small, _ = chain("small.onnx", 8, 8), chain("large.onnx", 64, 96, 96)
    limits = "baseline: large.onnx\nmacs: 20%\nlatency: 90%\nspeedup: 1.1\n"
    quick = "measure: {rounds: 60, sessions: 5, warmup_seconds: 0.05}\n"
    said = say("check", small, "--budget", budget(limits + quick), "--json", "-")
    checks = {item["key"]: item for item in json.loads(said.out)["checks"]}
    assert said.code == 0
    assert checks["latency"]["name"] == "median latency, onnxruntime-cpu fp32, 1 thread, batch 1, on this machine"
    assert 0 < checks["latency"]["value"] < checks["latency"]["limit"]
    assert checks["speedup"]["value"] > 1.1
    said = say("check", small, "--budget", budget("latency: {fail: 1 s, warn: 0.1 us}\n" + quick))
    assert said.code == 0
    assert re.search(r"\nwarned  median latency, onnxruntime-cpu fp32, 1 thread, batch 1, on this machine", said.out)


def test_a_factory_and_its_pt2_cost_the_same(budget: Budget, tmp_path: Path, say: Callable[..., Said]) -> None:
    import torch

    from slimsight.compress.models import user_code as from_file
    from slimsight.export.pt2.export import export_pt2

    code = tmp_path / "net.py"
    code.write_text(
        "from torch import nn\n\n\ndef build(classes):\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))\n"
    )
    limits = budget("macs: 50k\nparams: 1k\ngrowth: 0\nlayers: {'0': {macs: 43k}}")
    export_pt2(from_file.build_from_file(f"{code}:build", 7), torch.zeros(1, 3, 16, 16), tmp_path / "net.pt2")
    factory = (f"{code}:build", "--input", "3x16x16", "--classes", 7)
    said = say("check", *factory, "--budget", limits, "--against", tmp_path / "net.pt2")
    assert said.code == 0
    assert re.search(rf"ok      MACs +{(14 * 14 * 8 * 27 + 56) / 1e6:.2f} M", said.out)
    assert "no layer changed" in said.out
    said = say("check", f"{code}:build", "--budget", limits)
    assert (said.code, "give one image's, e.g. --input 3x224x224" in said.error) == (2, True)


def test_a_file_is_checked_without_torch(chain: Chain, budget: Budget, tmp_path: Path) -> None:
    """It takes a second to import; the whole check is to take one and a half."""
    kept = tmp_path / "kept.json"
    code = (
        "import sys\nfrom slimsight.deploy.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n"
        "    print(end.code, *sorted({'torch', 'scipy', 'matplotlib', 'onnxruntime', 'onnxscript'} & {*sys.modules}))\n"
    )
    path, limits = chain("a.onnx"), budget(BUDGET)
    for options in (["--json", str(kept)], ["--against", str(kept), "--junit", str(tmp_path / "junit.xml")]):
        arguments = ["check", str(path), "--budget", str(limits), *options]
        found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert found.stdout.splitlines()[-1] == "0"


def test_names_are_escaped_where_they_are_written(grown: tuple[Path, Path], budget: Budget, tmp_path: Path) -> None:
    from slimsight.deploy.check import CheckRequest, run_check
    from slimsight.deploy.check.outputs import to_junit, to_markdown

    odd = tmp_path / "a<b>&|_x_\x07.onnx"
    odd.write_bytes(grown[0].read_bytes())
    found = run_check(CheckRequest(str(odd), budget(GROWTH), str(grown[1])))
    suite: Any = ElementTree.fromstring(to_junit(found).encode())
    properties = {item.get("name"): item.get("value") for item in suite.iter("property")}
    assert properties["target"] == f"{tmp_path}/a<b>&|_x_?.onnx"
    assert f"`{tmp_path}/a<b>&|_x_\\x07.onnx`" in to_markdown(found)


def test_growth_from_no_macs_at_all_is_no_failed_budget(
    chain: Chain, budget: Budget, tmp_path: Path, say: Callable[..., Said]
) -> None:
    kept, file = tmp_path / "kept.json", chain("a.onnx")
    assert say("check", file, "--budget", budget("macs: 9M"), "--json", kept).code == 0
    content = json.loads(kept.read_text())
    content |= {"macs": 0, "target": "empty.onnx", "commit": None}
    content["layers"][0]["macs"] = 0
    kept.write_text(json.dumps(content))
    said = say("check", file, "--budget", budget("growth: 2%"), "--against", kept)
    assert said.code == 2
    assert "growth: empty.onnx has 0 MACs, so no growth relative to it is defined" in " ".join(said.error.split())
    said = say("check", file, "--budget", budget("layers: {conv0: {growth: 0}}"), "--against", kept, "--json", "-")
    assert said.code == 1
    assert json.loads(said.out)["checks"][0]["value"] is None
    assert [relative_growth(*pair) for pair in ((0, 0), (4, 5), (0, 5), (4, 0))] == [0, 0.25, None, -1]
