"""A run that crashed, that is refused, or that follows another recipe in its folder: nothing is lost or left over."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slimsight.compress.data import Splits
from slimsight.compress.errors import DataError, ModelError, PruningError, RunError
from slimsight.compress.progress import Silent
from slimsight.deploy.run_dir import open_run, read_run

from .runs import STAGES, Rerun, comparable, contents, reused


class Killer(Silent):
    """Raises in the middle of stage ``victim``: at its first step, or where a stage without steps says something."""

    def __init__(self, victim: str) -> None:
        self.victim, self.stage = victim, ""

    def track(self, items: Iterable[Any], what: str, **options: Any) -> Iterator[Any]:
        for item in items:
            yield item
            if self.stage == self.victim:
                raise Crash

    def note(self, text: str) -> None:
        if self.stage == self.victim:
            raise Crash
        if text.startswith("stage "):
            self.stage = text.rpartition(" ")[2]


class Crash(BaseException):
    """Like a kill, nothing catches it."""


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_crashes_in_every_stage_ends_as_one_that_never_did(
    finished: Any, rerun: Rerun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_splits: Splits) -> None:
        raise AssertionError("the test set is opened in the judgement alone")

    with monkeypatch.context() as patch:
        patch.setattr(Splits, "test", refuse)
        for victim in STAGES[:-1]:
            with pytest.raises(Crash):
                rerun(tmp_path, progress=Killer(victim))
            assert [name for name in STAGES if read_run(tmp_path).record(name)] == STAGES[: STAGES.index(victim)]
            assert not (tmp_path / "report.json").exists()
        with pytest.raises(AssertionError, match="in the judgement alone"):
            rerun(tmp_path)
    report = rerun(tmp_path)
    assert reused(report) == STAGES[:-1]
    assert comparable(report) == comparable(finished.report)
    models = {"slim/model.safetensors", "slim/explainer.safetensors", "slim/plan.json", "recipe.yaml"}
    found, expected = contents(tmp_path), contents(finished.root)
    assert {name: found[name] for name in models} == {name: expected[name] for name in models}


@pytest.mark.usefixtures("undrawn")
def test_a_crash_while_the_report_is_written_costs_the_report_alone(
    finished: Any, rerun: Rerun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = finished.copy(tmp_path / "run")
    (root / "report.json").unlink()

    def crash(*_args: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("slimsight.deploy.run.resume.write_report", crash)
        with pytest.raises(Crash):
            rerun(root)
    report = rerun(root)
    assert reused(report) == STAGES
    assert comparable(report) == comparable(finished.report)


def test_nothing_of_an_earlier_recipe_is_left_to_be_taken_for_the_new_one(
    finished: Any, rerun: Rerun, tmp_path: Path
) -> None:
    root = finished.copy(tmp_path / "run")
    (root / "slim" / "notes.txt").write_text("the user's own")
    report = rerun(root, "explainer.enabled=false", "gates.steer=uniform", "export.formats=[onnx]")
    assert reused(report) == ["classifier"]
    assert report.saliency is None
    assert report.gates.steer == "uniform"
    assert 0.98 <= report.budget.macs_used <= 1
    there = {path for path in contents(root) if not path.startswith("stages/")}
    assert there == {
        ".slimsight", "recipe.yaml", "report.json", "report.md", "report.html", "channels.png", "original.onnx",
        "slim/model.safetensors", "slim/plan.json", "slim/model.onnx", "slim/notes.txt",
    }  # fmt: skip
    assert "saliency.png" not in (root / "report.md").read_text()
    # The explainer of before still holds, should it be wanted again.
    report = rerun(root, "gates.steer=none", "export.formats=[pt2]")
    assert reused(report) == STAGES[:3]
    assert (report.gates.steer, report.gates.steps, report.gates.converged) == ("none", 200, True)
    assert report.saliency.center_drift_px > 0
    assert report.latency == ()  # there is no ONNX file to time
    assert report.verdict.passed


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (
            ["budget.macs=0.001"],
            PruningError,
            r"cannot be reached: the smallest plan has 0\.\d+ M MACs \(\d\.\d%\); raise",
        ),
        (["budget.macs=9e6"], PruningError, r"the budget of 9\.000 M MACs is not below the model's 0\.360 M MACs"),
        (["model.name=NET:nothing_to_prune"], PruningError, r"has nothing to prune \(net\.1: .*the network's output"),
        (["model.name=NET:no_feature_maps"], ModelError, r"needs feature maps at two resolutions .* this model has 0"),
        (
            ["model.name=resnet20", "model.weights=WEIGHTS"],
            ModelError,
            r"weights .* do not fit the model: tensor 'conv",
        ),
        (["model.weights=gone.safetensors"], ModelError, r"weights file .*gone\.safetensors does not exist"),
        (["model.name=resnet19"], Exception, r"unknown model 'resnet19'; did you mean"),
        (["data={source: image_tree, path: gone}"], DataError, r"data path .*gone does not exist"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("undrawn")
def test_what_cannot_end_well_is_refused_before_anything_is_touched(
    finished: Any, tiny: Path, rerun: Rerun, tmp_path: Path, overrides: list[str], error: type[Exception], words: str
) -> None:
    root = finished.copy(tmp_path / "run")
    before = contents(root)
    weights = str(finished.root / "stages/classifier/model.safetensors")
    named = [text.replace("NET", str(tiny.with_name("tiny.py"))).replace("WEIGHTS", weights) for text in overrides]
    with pytest.raises(error, match=words):
        rerun(root, *named)
    assert contents(root) == before
    assert reused(rerun(root)) == STAGES


@pytest.mark.usefixtures("undrawn")
def test_a_run_in_use_is_left_alone(finished: Any, rerun: Rerun, tmp_path: Path) -> None:
    root = finished.copy(tmp_path / "run")
    with open_run(root), pytest.raises(RunError, match=r"is in use by process \d+; wait until it ends"):
        rerun(root)
    assert reused(rerun(root)) == STAGES
