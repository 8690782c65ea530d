"""What steering and learned gates are worth: rankings of channels on CIFAR-10, after several lengths of finetuning.

    .venv/bin/python benchmarks/central_study.py [--network resnet20] [--keep 0.5 ...] [--epochs 0 10 ...]
        [--variant rbf none ...] [--seed 0 1 2] [--set a.b=c ...] [--work runs/central]

Every variant goes through the same selection, surgery, recalibration and finetuning; the runs of one seed share
predictor and selector, those of one ranking its scores. 0 epochs: statistics of batch normalisation taken anew, nothing
learned. Drift is that of the steering explainer (on validation images), beside its chance level, and of Grad-CAM, which
steers nothing; without an explainer (--set explainer.enabled=false, for the accuracy of unsteered gates) of Grad-CAM
alone. Rows go to results/central_study.json as they come; rows that stand there are not computed again, and
runs resume. ResNet-20 on two cores: 10 minutes of explainer per seed, 4 of gates per ranking, 2.5 per epoch.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

from slimsight.compress.files.atomic import read_json, write_json
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.report import Report
from slimsight.deploy.run.pipeline import run_recipe
from slimsight.deploy.settings.recipe import load_recipe

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "configs" / "cifar10_resnet20.yaml"
SHARED = HERE.parents[1] / "shared"
RESULTS = HERE / "results" / "central_study.json"
VARIANTS = ("rbf", "none", "taylor", "magnitude", "uniform", "fpgm", "bn_scale", "lamp", "random")
KEYS = ("network", "keep", "epochs", "variant", "norm", "steps", "seed")


def settings(key: dict[str, Any], shared: Path, extra: list[str]) -> list[str]:
    """What a row's recipe has other than ``RECIPE``."""
    return [
        f"data.path={shared}/data/cifar10-jpeg.tar.xz",
        f"data.val_list={shared}/data/cifar10-jpeg.val.txt",
        f"model.name={key['network']}",
        f"model.weights={shared}/weights/{key['network']}_cifar10_jpeg.safetensors",
        f"gates.steer={key['variant']}",
        *([f"gates.norm={key['norm']}", f"gates.steps={key['steps']}"] if key["norm"] else []),
        f"budget.macs={key['keep']}",
        f"finetune.epochs={key['epochs']}",
        f"seed={key['seed']}",
        "export.formats=[pt2]",
        "checks.accuracy_drop=99%",  # the study measures, it does not judge
        *extra,
    ]


def to_row(report: Report, key: dict[str, Any], cpu: float) -> dict[str, Any]:
    """Accuracies 0..1; drift in pixels, as overlap, and as the share of the way to the mean explanation."""
    saliency, seen = report.saliency, report.attribution
    chance = None if saliency is None else saliency.chance
    drift: dict[str, Any] = {}
    if saliency is not None and chance is not None:
        drift = {
            "drift_px": saliency.center_drift_px,
            "chance_px": chance.constant.center_drift_px,
            "iou": saliency.iou,
            "chance_iou": chance.constant.iou,
            "drift_share": chance.share.mean,
            "drift_share_error": chance.share.standard_error,
            "r2": chance.r2,
        }
    return {
        **key,
        "macs": report.slim.macs,
        "recalibrated_accuracy": report.slim.val_accuracy if key["epochs"] == 0 else None,
        "val_accuracy": report.slim.val_accuracy,
        "test_accuracy": report.slim.test_accuracy,
        "baseline_val_accuracy": report.original.val_accuracy,
        "baseline_test_accuracy": report.original.test_accuracy,
        "grad_cam_share": None if seen is None or seen.share is None else seen.share.mean,
        **drift,
        "converged": report.gates.converged if report.gates else None,
        "cpu_seconds": round(cpu),
    }


def load_rows() -> list[dict[str, Any]]:
    """The rows measured so far."""
    rows: list[dict[str, Any]] = read_json(RESULTS)["rows"] if RESULTS.is_file() else []
    return rows


def save(rows: list[dict[str, Any]]) -> None:
    """Write all rows with what they were measured on."""
    rows = sorted(rows, key=lambda row: tuple(str(row[name]) for name in KEYS))
    write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": rows})


def measure(key: dict[str, Any], work: Path, shared: Path, extra: list[str]) -> dict[str, Any]:
    """One run, resumed if it was interrupted; it takes what it can from the runs of its seed."""
    folder = work / f"{key['network']}-seed{key['seed']}"
    ranking = f"{key['variant']}-{key['norm']}-{key['steps']}" if key["norm"] else str(key["variant"])
    place = folder / f"{ranking}-keep{key['keep']}-epochs{key['epochs']}"
    donors = sorted(folder.glob(f"{ranking}-keep{key['keep']}-*/report.json")) or sorted(folder.glob("*/report.json"))
    reuse = donors[0].parent if donors and not place.exists() else None
    recipe = load_recipe(RECIPE, settings(key, shared, extra))
    start = time.process_time()
    with ConsoleProgress() as progress:
        progress.note(", ".join(f"{name} {value}" for name, value in key.items()))
        report = run_recipe(recipe, place, name=RECIPE.name, reuse=reuse, progress=progress)
    return to_row(report, key, time.process_time() - start)


def main() -> None:
    """Measure what is missing: seed by seed, short finetuning first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("resnet20", "resnet56"), default="resnet20")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5])
    parser.add_argument("--epochs", type=int, nargs="+", default=[0, 10])
    parser.add_argument("--variant", choices=VARIANTS, nargs="+", default=list(VARIANTS[:5]))
    parser.add_argument("--norm", choices=("eval", "batch", "recalibrated"), nargs="+", default=["eval"])
    parser.add_argument("--steps", type=int, default=1000, help="of the gates")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a setting")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "central", help="run directories")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of the images and weights")
    given = parser.parse_args()
    for epochs, seed, keep, variant, norm in itertools.product(
        given.epochs, given.seed, given.keep, given.variant, given.norm
    ):
        learned = variant in ("rbf", "none")
        if not learned and norm != given.norm[0]:
            continue
        gates = (norm, given.steps) if learned else (None, None)
        values = (given.network, keep, epochs, variant, *gates, seed)
        key = dict(zip(KEYS, values, strict=True))
        if any(all(row[name] == key[name] for name in KEYS) for row in load_rows()):
            continue
        row = measure(key, given.work, given.shared, given.set)
        save([*load_rows(), row])
        print(row, flush=True)


if __name__ == "__main__":
    main()
