import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.data import Splits
from compress.errors import DataError, ModelError, PruningError, RunError
from compress.progress import Silent
from deploy.pipeline import to_stages
from deploy.recipe import load_recipe
from deploy.report import Report, read_report
from deploy.run_dir import RunDir, open_run, read_run
from deploy.session import Session
from deploy.stages import learn, prove, slim
from deploy.stages.outcome import Outcome

Rerun = Callable[..., Report]
STAGES = ["classifier", "predictor", "selector", "targets", "gates"]
STAGES += ["surgery", "finetune", "export", "latency", "judgement"]
"""Of the steered recipe."""


def reused(report: Report) -> list[str]:
    return [stage.name for stage in report.stages if stage.reused]


def comparable(report: Report) -> dict[str, Any]:
    """What must be the same however often a run was interrupted: all but times."""
    found = report.model_dump(mode="json", exclude={"created", "latency"})
    found["stages"] = [stage["name"] for stage in found["stages"]]
    return found


def contents(root: Path) -> dict[str, str]:
    """Every file of a run but its log, by its bytes."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "run.log")
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_run_leaves_a_slim_model_its_evidence_and_nothing_half_written(finished: Any) -> None:
    report = finished.report
    assert [stage.name for stage in report.stages] == STAGES
    assert reused(report) == []
    assert report.verdict.passed
    assert 0.98 <= report.budget.macs_used <= 1
    assert report.exactness.gated_vs_slim_max_rel <= 1e-5
    assert report.exactness.cost_model_macs == report.exactness.fvcore_macs == report.slim.macs
    assert [(row.artifact, row.batch) for row in report.parity] == [
        (artifact, batch) for artifact in ("original.onnx", "slim/model.onnx", "slim/model.pt2") for batch in (1, 64)
    ]
    assert all(row.top1_agreement == 1 and row.max_abs <= 1e-4 for row in report.parity)
    assert report.saliency.selector.kl < report.saliency.selector.kl_centred_same_area
    assert report.original.test_accuracy > 0.9
    assert read_report(finished.root) == report
    there = {path for path in contents(finished.root) if not path.startswith("stages/")}
    assert there == {
        ".slimsight", "recipe.yaml", "report.json", "report.md", "report.html",
        "channels.png", "saliency.png", "drift.png", "original.onnx",
        "panels/explained.json", *(f"panels/explained-{number:02d}.webp" for number in range(1, 13)),
        "panels/drifted.json", *(f"panels/drifted-{number:02d}.webp" for number in range(1, 9)),
        "slim/model.safetensors", "slim/explainer.safetensors", "slim/plan.json", "slim/model.onnx", "slim/model.pt2",
    }  # fmt: skip
    assert load_recipe(finished.root / "recipe.yaml") == finished.recipe


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


def test_a_crash_while_the_report_is_written_costs_the_report_alone(
    finished: Any, rerun: Rerun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = finished.copy(tmp_path / "run")
    (root / "report.json").unlink()

    def crash(*_args: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("deploy.report.forms.write_report", crash)
        with pytest.raises(Crash):
            rerun(root)
    report = rerun(root)
    assert reused(report) == STAGES
    assert comparable(report) == comparable(finished.report)


@pytest.fixture
def instant(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that copy what they would compute from the finished run: which of them run is what is tested."""

    def copying(name: str) -> Callable[[Session], Outcome]:
        def work(session: Session) -> Outcome:
            record = read_run(finished.root).record(name)
            files = []
            for file in record.files:
                target = session.run.root / file
                target.parent.mkdir(parents=True, exist_ok=True)
                files.append(Path(shutil.copyfile(finished.root / file, target)))
            return Outcome(record.metrics, files)

        return work

    for module, names in ((learn, STAGES[:5]), (slim, STAGES[5:7]), (prove, STAGES[7:])):
        for name in names:
            monkeypatch.setattr(module, name, copying(name))
    monkeypatch.setattr("deploy.pipeline.draw_pictures", lambda *_args: None)


@pytest.mark.parametrize(
    ("override", "redone"),
    [
        ("seed=1", STAGES),
        ("precision=bf16-mixed", STAGES),
        ("data.val_fraction=0.2", STAGES),
        ("data.flip=true", STAGES),
        ("model.train.lr=0.2", STAGES),
        ("model.mean=[.5, .5, .5]", STAGES),
        ("explainer.masks.temperature=0.2", STAGES[1:]),
        ("explainer.predictor.lr=1e-4", STAGES[1:]),
        ("explainer.target_area=0.3", STAGES[2:]),
        ("explainer.selector.smooth_weight=0", STAGES[2:]),
        ("gates.images=700", STAGES[3:]),
        ("gates.steer_weight=0.1", STAGES[4:]),
        ("budget.macs=0.6", STAGES[4:]),
        ("budget.align=2", STAGES[5:]),
        ("finetune.distill=0.5", STAGES[6:]),
        ("export.opset=19", ["export", "latency"]),
        ("latency.rounds=30", ["latency"]),
        ("data.test_fraction=0.2", []),
    ],
)
@pytest.mark.usefixtures("instant")
def test_a_changed_setting_redoes_what_depends_on_it(
    finished: Any, rerun: Rerun, tmp_path: Path, override: str, redone: list[str]
) -> None:
    root = finished.copy(tmp_path / "run")
    report = rerun(root, override)
    assert reused(report) == [name for name in STAGES if name not in redone]
    assert reused(rerun(root, override)) == STAGES
    assert load_recipe(root / "recipe.yaml") == load_recipe(root / "recipe.yaml", [override])


@pytest.mark.usefixtures("instant")
def test_files_count_by_their_content_not_by_their_place(
    finished: Any, tiny: Path, rerun: Rerun, tmp_path: Path
) -> None:
    root, files = finished.copy(tmp_path / "run"), tmp_path / "files"
    files.mkdir()
    shutil.copy(tiny.with_name("tiny.py"), files / "moved.py")
    assert reused(rerun(root, f"model.name={files / 'moved.py'}:tiny")) == STAGES
    (files / "moved.py").write_text((files / "moved.py").read_text() + "# edited\n")
    assert reused(rerun(root, f"model.name={files / 'moved.py'}:tiny")) == []

    weights = finished.root / "stages/classifier/model.safetensors"
    rerun(root, f"model.weights={weights}")
    shutil.copy(weights, files / "other.safetensors")
    moved = f"model.weights={files / 'other.safetensors'}"
    assert reused(rerun(root, moved)) == STAGES
    # Given weights are not trained here, so that augmentation matters only to what learns after them.
    assert reused(rerun(root, moved, "model.train.epochs=9")) == STAGES
    assert reused(rerun(root, moved, "data.flip=true")) == ["classifier"]


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


def test_a_ranking_by_magnitude_takes_the_same_way(finished: Any, rerun: Rerun, tmp_path: Path) -> None:
    report = rerun(tmp_path, "gates.steer=magnitude", "finetune.epochs=1", "export.formats=[onnx]", reuse=finished.root)
    assert [stage.name for stage in report.stages] == [name for name in STAGES if name != "targets"]
    assert reused(report) == STAGES[:3]
    assert report.verdict.passed
    assert 0.97 <= report.budget.macs_used <= 1
    assert report.saliency.center_drift_px > 0
    assert (report.gates.steer, report.gates.steps, report.gates.converged) == ("magnitude", None, None)


def test_a_run_can_take_every_stage_over_from_another(finished: Any, rerun: Rerun, tmp_path: Path) -> None:
    report = rerun(tmp_path, reuse=finished.root)
    assert reused(report) == STAGES
    assert comparable(report) == comparable(finished.report)
    assert report.latency == finished.report.latency
    found, expected = contents(tmp_path), contents(finished.root)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} <= {"report.json", "report.md", "report.html"}


@pytest.mark.usefixtures("instant")
def test_a_donor_that_is_not_whole_or_not_there(finished: Any, rerun: Rerun, tmp_path: Path) -> None:
    donor, out = finished.copy(tmp_path / "donor"), tmp_path / "out"
    (donor / "slim" / "model.onnx").unlink()
    assert reused(rerun(out, reuse=donor)) == [name for name in STAGES if name != "export"]
    with pytest.raises(RunError, match="nowhere does not exist; give the folder of a run"):
        rerun(tmp_path / "new", reuse=tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()


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


def test_stages_follow_from_the_recipe(tiny: Path, plain: tuple[str, ...]) -> None:
    assert [stage.name for stage in to_stages(load_recipe(tiny))] == STAGES
    without = [name for name in STAGES if name not in ("predictor", "selector", "targets")]
    assert [stage.name for stage in to_stages(load_recipe(tiny, plain))] == without


def test_threads_are_the_recipes_while_it_runs_only(finished: Any, rerun: Rerun, tmp_path: Path) -> None:
    seen = []
    torch.set_num_threads(2)
    rerun(finished.copy(tmp_path / "run"), on_open=lambda run: seen.append((run, torch.get_num_threads())))
    assert torch.get_num_threads() == 2
    ((run, threads),) = seen
    assert isinstance(run, RunDir)
    assert threads == 1


def test_a_run_in_use_is_left_alone(finished: Any, rerun: Rerun, tmp_path: Path) -> None:
    root = finished.copy(tmp_path / "run")
    with open_run(root), pytest.raises(RunError, match=r"is in use by process \d+; wait until it ends"):
        rerun(root)
    assert reused(rerun(root)) == STAGES
