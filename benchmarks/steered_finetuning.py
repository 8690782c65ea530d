"""What the interpretation term does while weights are finetuned: reads the runs of cifar10_resnet20_keep50.py.

    .venv/bin/python benchmarks/steered_finetuning.py [--seed 0 ...] [--runs runs/keep50] [--epochs 3] [--keep DIR]

From the plans of two variants (gates steered by rbf, and not steered) the slim model is finetuned twice on the same
schedule: by cross entropy alone, and with finetune.steer_weight at the gates' own g1. Accuracy and drift are of
validation images; test accuracy is read once, of the weights that came out. Rows go to
results/steered_finetuning.json as they come; rows that are there are not measured again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from steering import moved, open_session, wanted

from compress.explain import ExplainedClassifier
from compress.files import read_json, write_json, write_tensors
from compress.finetune import Steering, recalibrate_bn, train_classifier
from compress.surgery import PrunePlan
from compress.training import evaluate
from deploy.console import ConsoleProgress
from deploy.machine import device_name, versions
from deploy.stages.learn import seed_stage

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "steered_finetuning.json"
VARIANTS = ("rbf", "none")


def measure(run: Path, weight: float, epochs: int, keep: Path | None, progress: ConsoleProgress) -> dict[str, Any]:
    """One slim model, finetuned with ``weight`` on the interpretation term."""
    session = open_session(run, progress)
    torch.set_num_threads(session.recipe.threads or torch.get_num_threads())
    seed_stage(session.recipe.seed, "finetune")
    config = session.recipe.finetune.model_copy(update={"epochs": epochs, "steer_weight": weight})
    original = session.explained()
    before = wanted(session)
    slim = session.slimmed(PrunePlan.load(session.stage_file("surgery", "plan.json")))
    assert isinstance(slim, ExplainedClassifier)
    batches = session.shuffled(session.splits.train, config.batch_size, crop=True, flip=True)
    recalibrate_bn(slim.classifier, batches, config.recalibrate_batches)
    started = time.monotonic()
    train_classifier(
        slim.classifier,
        batches,
        session.fabric,
        config=config,
        steering=Steering(original, slim, weight) if weight else None,
        what=f"{run.name}, {weight:g}",
        progress=progress,
    )
    seconds = time.monotonic() - started
    if keep is not None:
        write_tensors(keep / f"{run.name}-{weight:g}.safetensors", slim.state_dict())
    test = evaluate(slim.classifier, session.plain(session.splits.test)).accuracy
    return moved(session, slim.eval(), before) | {"test_accuracy": test, "seconds": seconds}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="default: 0, 1 and 2")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "keep50")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--weight", type=float, default=0.05, help="finetune.steer_weight")
    parser.add_argument("--keep", type=Path, help="folder for the weights")
    given = parser.parse_args()
    rows = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    known = {(row["seed"], row["variant"], row["steer_weight"], row["epochs"]) for row in rows}
    for seed in given.seed or (0, 1, 2):
        for variant in VARIANTS:
            for weight in (given.weight, 0.0):
                if (seed, variant, weight, given.epochs) in known:
                    continue
                with ConsoleProgress() as progress:
                    found = measure(given.runs / f"seed{seed}-{variant}", weight, given.epochs, given.keep, progress)
                key = {"seed": seed, "variant": variant, "steer_weight": weight, "epochs": given.epochs}
                rows.append(key | found)
                print(rows[-1], flush=True)
                write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": rows})


if __name__ == "__main__":
    main()
