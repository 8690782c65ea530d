"""The finetune stage keeps the batch-norm statistics that validate better."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from slimsight.compress.files.atomic import read_tensors
from slimsight.compress.surgery import PrunePlan
from slimsight.compress.training import Score, batch_norm
from slimsight.deploy.report import Report
from slimsight.deploy.run.session import Session


def finetuned(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "stages/finetune/done.json").read_text())["metrics"]
    return found


@pytest.mark.usefixtures("undrawn")
def test_a_momentum_that_cannot_follow_costs_no_accuracy(
    finished: Any, rerun: Callable[..., Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 steps with momentum .001 would leave 98 % of the statistics of before; only finetuning is repeated."""
    root = finished.copy(tmp_path / "run")
    momenta: list[float | None] = []
    build, exact = Session.slimmed, batch_norm.recalibrate_bn

    def slow(session: Session, plan: PrunePlan) -> Any:
        network = build(session, plan)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.001
        return network

    def seen(model: nn.Module, *arguments: Any) -> int:
        momenta.extend(module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d))
        return exact(model, *arguments)

    monkeypatch.setattr(Session, "slimmed", slow)
    monkeypatch.setattr(batch_norm, "recalibrate_bn", seen)
    report = rerun(root, "finetune.epochs=1", "finetune.recalibrate_batches=7")
    assert next(stage.name for stage in report.stages if not stage.reused) == "finetune"
    metrics = finetuned(root)
    found = metrics["statistics"]
    assert found["momentum"] == pytest.approx(1 - 0.01 ** (1 / 20))
    assert momenta == [0.001] * 5  # back, when finetuning is over
    assert metrics["val_accuracy"] == max(found["running_val_accuracy"], found["recalibrated_val_accuracy"])
    assert report.slim.val_accuracy == metrics["val_accuracy"] > 0.5


@pytest.mark.parametrize(("recalibrated", "kept"), [(0.4, "running"), (0.6, "recalibrated")])
@pytest.mark.usefixtures("undrawn")
def test_what_is_delivered_is_what_was_kept(
    recalibrated: float, kept: str, finished: Any, rerun: Callable[..., Report], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Weights are the same; their statistics are of 7 batches, or of 20 steps of training after those 7."""
    root, measured = finished.copy(tmp_path / "run"), iter([Score(0.5, 1.0), Score(recalibrated, 1.0)])
    monkeypatch.setattr(batch_norm, "evaluate", lambda *_: next(measured))
    rerun(root, "finetune.epochs=1", "finetune.recalibrate_batches=7")
    found = finetuned(root)["statistics"]
    assert found["kept"] == kept
    assert (found["running_val_accuracy"], found["running_val_loss"]) == (0.5, 1.0)
    weights = read_tensors(root / "slim" / "model.safetensors")
    tracked = {int(value) for name, value in weights.items() if name.endswith("num_batches_tracked")}
    assert tracked == {7 if kept == "recalibrated" else 7 + 20}
