"""Drift of explainers that did not steer, on steered and unsteered models of cifar10_resnet20_keep50.py.

    .venv/bin/python benchmarks/drift.py [--seed 0 ...] [--with gradient ...] [--images 1000] [--out runs/keep50]

For every explainer: drift of each variant's slim model from the original on the same validation images, right after
surgery and after finetuning, and the difference steered - unsteered, paired by image. Rows go to results/drift.json
as they come; rows that stand there for as many images are not computed again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from steering import VARIANTS, open_session

from slimsight.compress.data import Batches
from slimsight.compress.explain import ExplainedClassifier, Explainer, RbfExplainer, make_explainer
from slimsight.compress.explain.attribution.references import IntegratedGradients
from slimsight.compress.explain.fidelity import Estimate, MapDrift, explainer_drift
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.surgery import PrunePlan
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.run.session import Session

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "drift.json"
EXPLAINERS = ("rbf", "gradient", "grad_cam", "integrated_gradients")
STATES = ("after_surgery", "finetuned")
STEERED, UNSTEERED = "rbf", "none"
FIGURES = ("center_px", "region_iou", "spearman", "kl", "moved")
STEPS = 16
"""Of integrated gradients: a third of its default; the images are 32 pixels."""


def explainer_of(name: str, network: ExplainedClassifier) -> Explainer:
    """The explainer ``name`` of one model."""
    if name == "rbf":
        return RbfExplainer(network)
    if name == "integrated_gradients":
        return IntegratedGradients(network.classifier, steps=STEPS)
    return make_explainer(name, network.classifier)


def load_slim(session: Session, state: str) -> ExplainedClassifier:
    """The slim model as surgery or finetuning leaves it."""
    if state == "after_surgery":
        network = session.slimmed(PrunePlan.load(session.stage_file("surgery", "plan.json")))
        assert isinstance(network, ExplainedClassifier)
        return network
    _, explained = session.slim()
    assert explained is not None
    return explained


def measure(seed: int, name: str, out: Path, count: int, progress: ConsoleProgress) -> dict[str, Any]:
    """The row of one seed and explainer."""
    sessions = {variant: open_session(out / f"seed{seed}-{variant}", progress) for variant in VARIANTS}
    first = sessions[STEERED]
    torch.set_num_threads(first.recipe.threads or torch.get_num_threads())
    val = first.splits.val
    chosen = np.linspace(0, len(val) - 1, min(count, len(val))).round().astype(np.int64)
    batches = Batches(val.subset(chosen), 125)
    before = explainer_of(name, first.explained())
    found: dict[str, dict[str, MapDrift]] = {state: {} for state in STATES}
    for state in STATES:
        for variant, session in sessions.items():
            progress.note(f"seed {seed}, {name}: {variant}, {state}")
            found[state][variant] = explainer_drift(before, explainer_of(name, load_slim(session, state)), batches)
    return {
        "seed": seed,
        "explainer": name,
        "images": len(chosen),
        "drift": {state: {variant: _figures(each) for variant, each in row.items()} for state, row in found.items()},
        "steered_minus_unsteered": {state: _paired(row[STEERED], row[UNSTEERED]) for state, row in found.items()},
    }


def _figures(found: MapDrift) -> dict[str, Any]:
    figures = found.to_dict()
    return {name: figures[name] for name in (*FIGURES, "lost", "degenerate")}


def _paired(steered: MapDrift, unsteered: MapDrift) -> dict[str, Any]:
    """Of every figure, mean and standard error of the difference on the same images."""
    differences = {name: getattr(steered.each, name) - getattr(unsteered.each, name) for name in FIGURES}
    return {name: Estimate.of(values).to_dict() for name, values in differences.items()}


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="default: 0, 1 and 2")
    parser.add_argument("--with", dest="explainers", choices=EXPLAINERS, action="append", help="default: all")
    parser.add_argument("--images", type=int, default=1000, help="validation images, spread over the classes")
    parser.add_argument("--out", type=Path, default=HERE.parent / "runs" / "keep50", help="the runs")
    given = parser.parse_args()
    rows = {(row["explainer"], row["seed"]): row for row in read_json(RESULTS)["rows"]} if RESULTS.exists() else {}
    for name in given.explainers or EXPLAINERS:
        for seed in given.seed or (0, 1, 2):
            if (name, seed) in rows and rows[name, seed]["images"] == given.images:
                continue
            with ConsoleProgress() as progress:
                rows[name, seed] = measure(seed, name, given.out, given.images, progress)
            print(name, seed, rows[name, seed]["steered_minus_unsteered"], flush=True)
            ordered = [rows[key] for key in sorted(rows, key=lambda key: (EXPLAINERS.index(key[0]), key[1]))]
            write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": ordered})


if __name__ == "__main__":
    main()
