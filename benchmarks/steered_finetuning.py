"""Effect of the interpretation term on finetuning: reads the runs of cifar10_resnet20_keep50.py.

    .venv/bin/python benchmarks/steered_finetuning.py [--seed 0 ...] [--runs runs/keep50] [--epochs 2] [--keep DIR]

From the plan of a variant (gates steered by rbf, or not steered) the slim model is finetuned on the same schedule and
the same draws: by cross entropy alone (`plain`), with finetune.steer_weight at the gates' own g1 (`steered`), as what
else a teacher can give at the same cost, with half of the loss from the original's logits (`distilled`), and by `both`.
Accuracy and drift are of validation images, drift by the explainer that steered and by two that did not; test accuracy
is read once, of the weights that came out. Rows go to results/steered_finetuning.json as they come; rows that are
there are not measured again, and weights in --keep are not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drift import FIGURES, explainer_of
from steering import open_session

from slimsight.compress.data import Batches
from slimsight.compress.explain import ExplainedClassifier
from slimsight.compress.explain.fidelity import Estimate, MapDrift, explainer_drift
from slimsight.compress.files.atomic import read_json, read_tensors, write_json, write_tensors
from slimsight.compress.finetune import Steering, train_classifier
from slimsight.compress.surgery import PrunePlan
from slimsight.compress.training import Learning, evaluate, recalibrate_bn
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.run.session import Session
from slimsight.deploy.run.stages.learn import seed_stage

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "steered_finetuning.json"
VARIANTS = ("rbf", "none")
PLAIN = "plain"
LOSSES: dict[str, dict[str, float]] = {
    PLAIN: {},
    "steered": {"steer_weight": 0.05},
    "distilled": {"distill": 0.5},
    "both": {"distill": 0.5, "steer_weight": 0.05},
}
"""What a recipe's ``finetune`` says of each."""

EXPLAINERS = ("rbf", "gradient", "grad_cam")
IMAGES = 1000


def finetune(session: Session, loss: str, epochs: int, keep: Path, progress: ConsoleProgress) -> ExplainedClassifier:
    """The slim network, finetuned by ``loss``, one of ``LOSSES``."""
    slim = session.slimmed(PrunePlan.load(session.stage_file("surgery", "plan.json")))
    assert isinstance(slim, ExplainedClassifier)
    kept = keep / f"{session.run.root.name}-{loss}-{epochs}.safetensors"
    if not kept.exists():
        seed_stage(session.recipe.seed, "finetune")
        config = session.recipe.finetune.model_copy(update={"epochs": epochs, **LOSSES[loss]})
        batches = session.shuffled(session.splits.train, config.batch_size, crop=True, flip=True)
        recalibrate_bn(slim.classifier, batches, config.recalibrate_batches)
        original = session.explained()
        train_classifier(
            slim.classifier,
            batches,
            Learning(session.fabric, progress=progress),
            config=config,
            teacher=original.classifier if config.distill else None,
            steering=Steering(original, slim, config.steer_weight) if config.steer_weight else None,
            what=kept.stem,
        )
        write_tensors(kept, slim.state_dict())
    slim.load_state_dict(read_tensors(kept))
    return slim.eval()


def measure_drifts(session: Session, slim: ExplainedClassifier) -> dict[str, MapDrift]:
    """From the original, by every explainer, on the same validation images."""
    val = session.splits.val
    chosen = np.linspace(0, len(val) - 1, min(IMAGES, len(val))).round().astype(np.int64)
    batches, original = Batches(val.subset(chosen), 125), session.explained()
    return {
        name: explainer_drift(explainer_of(name, original), explainer_of(name, slim), batches) for name in EXPLAINERS
    }


def to_row(session: Session, slim: ExplainedClassifier, found: dict[str, MapDrift]) -> dict[str, Any]:
    """Accuracies and mean drift of one network."""
    val, test = (session.plain(images) for images in (session.splits.val, session.splits.test()))
    return {
        "val_accuracy": evaluate(slim.classifier, val).accuracy,
        "test_accuracy": evaluate(slim.classifier, test).accuracy,
        "drift": {
            name: {figure: getattr(each, figure).to_dict() for figure in FIGURES} for name, each in found.items()
        },
    }


def paired_differences(found: dict[str, MapDrift], other: dict[str, MapDrift]) -> dict[str, Any]:
    """By every explainer, of every figure, mean and standard error of ``found`` - ``other`` on the same images."""

    def of(one: MapDrift, two: MapDrift) -> dict[str, Any]:
        pairs = {name: getattr(one.each, name) - getattr(two.each, name) for name in FIGURES}
        return {name: Estimate.of(values).to_dict() for name, values in pairs.items()}

    return {name: of(found[name], other[name]) for name in EXPLAINERS}


def measure(run: Path, losses: Sequence[str], epochs: int, keep: Path, progress: ConsoleProgress) -> dict[str, Any]:
    """``losses``, the first of them plain, on one plan, and what they changed, image by image."""
    session = open_session(run, progress)
    torch.set_num_threads(session.recipe.threads or torch.get_num_threads())
    rows: dict[str, Any] = {}
    found: dict[str, dict[str, MapDrift]] = {}
    for loss in losses:
        slim = finetune(session, loss, epochs, keep, progress)
        found[loss] = measure_drifts(session, slim)
        rows[loss] = {**LOSSES[loss], **to_row(session, slim, found[loss])}
        if loss != PLAIN:
            rows[loss]["minus_plain"] = paired_differences(found[loss], found[PLAIN])
    if "both" in found and "distilled" in found:
        rows["both"]["minus_distilled"] = paired_differences(found["both"], found["distilled"])
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="default: 0, 1 and 2")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="whose plan; default: both")
    parser.add_argument("--loss", action="append", choices=[*LOSSES], help="beside plain; default: all")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "keep50")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=HERE.parent / "runs" / "steered_finetuning", help="the weights")
    given = parser.parse_args()
    losses = [PLAIN, *(loss for loss in given.loss or LOSSES if loss != PLAIN)]
    rows = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    for seed in given.seed or (0, 1, 2):
        for variant in given.variant or VARIANTS:
            key = {"seed": seed, "variant": variant, "epochs": given.epochs}
            there = [row for row in rows if row.items() >= key.items()]
            if there and there[0]["losses"].keys() >= set(losses):
                continue
            with ConsoleProgress() as progress:
                run = given.runs / f"seed{seed}-{variant}"
                row = {**key, "losses": measure(run, losses, given.epochs, given.keep, progress)}
            rows = [other for other in rows if other not in there] + [row]
            print(row, flush=True)
            write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": rows})


if __name__ == "__main__":
    main()
