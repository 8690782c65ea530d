"""ResNet-20 on CIFAR-10 at half of its MACs: steered and unsteered gates against rankings by weights.

    .venv/bin/python benchmarks/cifar10_resnet20_keep50.py [--variant rbf] [--seed 0 ...] [--set a.b=c ...]

Every variant goes through the same selection, surgery and finetuning; variants of one seed share classifier,
predictor and selector. Rows go to results/cifar10_resnet20_keep50.json as they come; rows that stand there for the
same recipe are not computed again. Takes about half an hour per seed on two cores.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from slimsight.compress.files.atomic import read_json, write_json
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.report import Report
from slimsight.deploy.run.fingerprints import fingerprint
from slimsight.deploy.run.pipeline import run_recipe
from slimsight.deploy.settings.recipe import Recipe, load_recipe

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "configs" / "cifar10_resnet20.yaml"
RESULTS = HERE / "results" / "cifar10_resnet20_keep50.json"
VARIANTS = ("rbf", "none", "magnitude", "uniform")
SEEDS = (0, 1, 2)


def key_of(recipe: Recipe) -> str:
    """Changes when what it computes does, wherever its files lie and whatever its seed and variant are."""
    left_out = {"seed": True, "threads": True, "checks": True, "gates": {"steer", "compile"}}
    parts = recipe.model_dump(mode="json", exclude=left_out)
    for section, name in (("data", "path"), ("data", "val_list"), ("model", "weights")):
        parts[section][name] = Path(parts[section][name]).name
    return fingerprint(parts)[:12]


def to_row(report: Report, variant: str, recipe: Recipe) -> dict[str, Any]:
    """One row of the results: accuracies 0..1, drift in pixels, speed-up as a ratio of medians."""
    assert report.saliency is not None
    assert report.saliency.selector is not None
    speed = report.latency[0].speedup
    return {
        "variant": variant,
        "seed": report.seed,
        "macs": report.slim.macs,
        "baseline_macs": report.original.macs,
        "val_accuracy": report.slim.val_accuracy,
        "test_accuracy": report.slim.test_accuracy,
        "baseline_val_accuracy": report.original.val_accuracy,
        "baseline_test_accuracy": report.original.test_accuracy,
        "gated_val_accuracy": report.gated.val_accuracy if report.gated else None,
        "center_drift_px": report.saliency.center_drift_px,
        "sigma_drift_px": report.saliency.sigma_drift_px,
        "iou": report.saliency.iou,
        "speedup": speed.median,
        "speedup_low": speed.low,
        "speedup_high": speed.high,
        "seconds": sum(stage.seconds for stage in report.stages),
        "kept": [row.kept for row in report.channels],
        "selector": report.saliency.selector.model_dump(mode="json"),
        "gates": report.gates.model_dump(mode="json") if report.gates else None,
        "recipe": key_of(recipe),
        "passed": report.verdict.passed,
        "created": report.created.isoformat(timespec="seconds"),
    }


def load_rows() -> list[dict[str, Any]]:
    """The rows measured so far."""
    rows: list[dict[str, Any]] = read_json(RESULTS)["rows"] if RESULTS.is_file() else []
    return rows


def save(rows: list[dict[str, Any]]) -> None:
    """Write all rows with what they were measured on."""
    rows = sorted(rows, key=lambda row: (VARIANTS.index(row["variant"]), row["seed"]))
    write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": rows})


def measure(variant: str, seed: int, overrides: list[str], out: Path) -> dict[str, Any]:
    """One run, resumed if it was interrupted."""
    recipe = load_recipe(RECIPE, [*overrides, f"gates.steer={variant}", f"seed={seed}"])
    first = out / f"seed{seed}-{VARIANTS[0]}"
    place = out / f"seed{seed}-{variant}"
    with ConsoleProgress() as progress:
        progress.note(f"{variant}, seed {seed}")
        reuse = first if first.is_dir() and place != first else None
        report = run_recipe(recipe, place, name=RECIPE.name, reuse=reuse, progress=progress)
    return to_row(report, variant, recipe)


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="default: all")
    parser.add_argument("--seed", type=int, action="append", help="default: 0, 1 and 2")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a setting")
    parser.add_argument("--out", type=Path, default=HERE.parent / "runs" / "keep50", help="run directories")
    given = parser.parse_args()
    rows = load_rows()
    for seed in given.seed or SEEDS:
        for variant in given.variant or VARIANTS:
            key = key_of(load_recipe(RECIPE, given.set))
            if any((row["variant"], row["seed"], row["recipe"]) == (variant, seed, key) for row in rows):
                continue
            row = measure(variant, seed, given.set, given.out)
            rows = [old for old in rows if (old["variant"], old["seed"]) != (variant, seed)] + [row]
            save(rows)
            print(f"{variant} seed {seed}: test {row['test_accuracy']:.4f}, drift {row['center_drift_px']:.2f} px")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
