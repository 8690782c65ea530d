"""How a slim model of photographs is best finetuned: shifts or windows, with and without mixup and distillation.

    .venv/bin/python benchmarks/finetuning.py RUN [--side 160] [--seeds 3] [--only windows_mixed_distilled ...]

RUN is the folder of a run of `slimsight init`'s recipe on photographs (as benchmarks/clothing.py leaves it). Its plan
is finetuned anew from the original's weights, as its recipe says but for what a variant changes, at ``--side``
pixels: at 160 an epoch takes half of its time at 224. Accuracy and cross entropy (nats) of validation and test images
are of the statistics that validate better. Rows go to results/finetuning.json; a row that is there is not measured
again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.finetune import train_classifier
from slimsight.compress.progress import SILENT
from slimsight.compress.surgery import PrunePlan
from slimsight.compress.training import Learning, evaluate, recalibrate_bn
from slimsight.compress.training.batch_norm import following_statistics, keep_better_statistics_
from slimsight.deploy.host import default_cache
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import RunDir
from slimsight.deploy.settings.recipe import load_recipe
from slimsight.deploy.steps import classifier_of

RESULTS = Path(__file__).resolve().parent / "results" / "finetuning.json"
WINDOWS, MIXED, DISTILLED = "data.crop_scale=[0.5,1]", "finetune.mixup=0.2", "finetune.distill=0.5"
PLAIN = ["data.crop_scale=null", "finetune.mixup=0", "finetune.distill=0", "finetune.distill_temperature=2"]
VARIANTS = {
    "shifts": [],
    "windows": [WINDOWS],
    "shifts_mixed": [MIXED],
    "shifts_distilled": [DISTILLED],
    "windows_mixed": [WINDOWS, MIXED],
    "windows_distilled": [WINDOWS, DISTILLED],
    "windows_mixed_distilled": [WINDOWS, MIXED, DISTILLED],
}


def finetuned(run: Path, variant: str, side: int, seed: int) -> dict[str, Any]:
    """Figures of the plan of ``run``, finetuned as ``variant`` says."""
    shifts = f"data.crop_padding={side // 8}"
    sized = [f"seed={seed}", f"data.image_size={side}", f"data.resize={side}", shifts]
    recipe = load_recipe(run / "recipe.yaml", [*sized, *PLAIN, *VARIANTS[variant]])
    session = Session(recipe, RunDir(run.absolute(), writable=False), SILENT, default_cache())
    learning, config, splits = Learning(session.fabric), recipe.finetune, session.splits
    plan = PrunePlan.load(run / "slim" / "plan.json")
    slim = classifier_of(session.slimmed(plan))
    batches = session.shuffled(splits.train, config.batch_size, crop=True, flip=True)
    validation, test = session.plain(splits.val), session.plain(splits.test())
    torch.manual_seed(seed)
    started = time.process_time()
    recalibrate_bn(slim, batches, config.recalibrate_batches)
    before = evaluate(slim, validation)
    teacher = session.classifier() if config.distill else None
    with following_statistics(slim, config.epochs * len(batches)):
        train_classifier(slim, batches, learning, config=config, teacher=teacher)
    cpu = time.process_time() - started
    val = keep_better_statistics_(slim, batches, config.recalibrate_batches, validation).better
    tested = evaluate(slim, test)
    return {
        "epochs": config.epochs,
        "lr": config.lr,
        "batch_size": config.batch_size,
        "recalibrated_val_accuracy": round(before.accuracy, 4),
        "val_accuracy": round(val.accuracy, 4),
        "val_loss": round(val.loss, 4),
        "test_accuracy": round(tested.accuracy, 4),
        "test_loss": round(tested.loss, 4),
        "cpu_seconds": round(cpu),
    }


def main() -> None:
    """Measure every variant and seed that has no row yet; seeds in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    about = {"schema": 1, "device": device_name(), "versions": versions(), "command": "benchmarks/finetuning.py RUN"}
    kept = read_json(given.run / "report.json")["slim"]["macs"]
    for seed in range(given.seeds):
        for variant in given.only:
            key = {"variant": variant, "seed": seed, "image_size": given.side, "plan_macs": kept}
            if any(all(row.get(name) == value for name, value in key.items()) for row in rows):
                continue
            rows.append({**key, **finetuned(given.run, variant, given.side, seed)})
            write_json(RESULTS, {**about, "rows": rows})
            print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
