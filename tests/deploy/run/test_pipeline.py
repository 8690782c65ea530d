"""Which stages a recipe has, and which of them a changed recipe or a donor leaves to be done."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from slimsight.compress.errors import RunError
from slimsight.compress.training import Learning
from slimsight.deploy.report import read_report
from slimsight.deploy.run.pipeline import to_stages
from slimsight.deploy.run.session import Outcome, Session
from slimsight.deploy.run.stages import learn, prove, slim
from slimsight.deploy.run_dir import RunDir, read_run
from slimsight.deploy.settings.recipe import load_recipe

from .runs import STAGES, Rerun, comparable, contents, reused


def test_a_run_leaves_a_slim_model_its_evidence_and_nothing_half_written(finished: Any) -> None:
    report = finished.report
    assert [stage.name for stage in report.stages] == STAGES
    assert reused(report) == []
    assert report.verdict.passed
    assert 0.98 <= report.budget.macs_used <= 1
    assert report.exactness.gated_vs_slim_max_rel <= 1e-5
    assert report.exactness.cost_model_macs == report.exactness.fvcore_macs == report.slim.macs
    in_onnx = ["onnxruntime-cpu", *(["openvino-cpu"] if find_spec("openvino") else [])]
    ran = {"original.onnx": in_onnx, "slim/model.onnx": in_onnx, "slim/model.pt2": ["torch.export-cpu"]}
    assert [(row.artifact, row.runtime, row.batch) for row in report.parity] == [
        (artifact, runtime, batch) for artifact, runtimes in ran.items() for runtime in runtimes for batch in (1, 64)
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


@pytest.fixture
def instant(finished: Any, undrawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that copy what they would compute from the finished run: which of them run is what is tested."""

    def copying(name: str) -> Callable[[Session, Learning], Outcome]:
        def work(session: Session, _learning: Learning) -> Outcome:
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


@pytest.mark.usefixtures("undrawn")
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
    report_files = {"report.json", "report.md", "report.html", "stages/report/done.json"}  # they tell times
    assert {name for name in found if found[name] != expected[name]} <= report_files


@pytest.mark.usefixtures("instant")
def test_a_donor_that_is_not_whole_or_not_there(finished: Any, rerun: Rerun, tmp_path: Path) -> None:
    donor, out = finished.copy(tmp_path / "donor"), tmp_path / "out"
    (donor / "slim" / "model.onnx").unlink()
    assert reused(rerun(out, reuse=donor)) == [name for name in STAGES if name != "export"]
    with pytest.raises(RunError, match="nowhere does not exist; give the folder of a run"):
        rerun(tmp_path / "new", reuse=tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()


def test_stages_follow_from_the_recipe(tiny: Path, plain: tuple[str, ...]) -> None:
    assert [stage.name for stage in to_stages(load_recipe(tiny))] == STAGES
    without = [name for name in STAGES if name not in ("predictor", "selector", "targets")]
    assert [stage.name for stage in to_stages(load_recipe(tiny, plain))] == without


@pytest.mark.usefixtures("undrawn")
def test_threads_are_the_recipes_while_it_runs_only(finished: Any, rerun: Rerun, tmp_path: Path) -> None:
    seen = []
    torch.set_num_threads(2)
    rerun(finished.copy(tmp_path / "run"), on_open=lambda run: seen.append((run, torch.get_num_threads())))
    assert torch.get_num_threads() == 2
    ((run, threads),) = seen
    assert isinstance(run, RunDir)
    assert threads == 1
