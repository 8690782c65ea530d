"""Gates with and without steering: drift, kept channels, gradients; reads the runs of cifar10_resnet20_keep50.py.

    .venv/bin/python benchmarks/steering.py [--seed 0 ...] [--out runs/keep50] [--control]

Drift and overlap of the explanations after surgery, before any weight has learned, for every variant; how many of the
kept channels two rankings share (Jaccard); the gradients that cross entropy and interpretation send to the gates where
steered learning ended. With --control also the drift of the ORIGINAL, nothing removed, after the same finetuning: what
finetuning moves by itself. Validation images only. Rows go to results/steering.json as they come.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from slimsight.compress.explain import REFERENCE_SIDE, ExplainedClassifier, explanations, rbf_drift
from slimsight.compress.files.atomic import read_json, read_tensors, write_json
from slimsight.compress.finetune import train_classifier
from slimsight.compress.gates import Gates
from slimsight.compress.surgery import PrunePlan, masked
from slimsight.compress.training import Learning, evaluate, to_device
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.host import default_cache
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import read_run
from slimsight.deploy.settings.recipe import load_recipe

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "steering.json"
VARIANTS = ("rbf", "none", "magnitude", "uniform")
GRADIENT_BATCHES = 20


def open_session(place: Path, progress: ConsoleProgress) -> Session:
    """A finished run, to be read."""
    run = read_run(place)
    return Session(load_recipe(run.recipe), run, progress, default_cache())


def explain_original(session: Session) -> Tensor:
    """(N, 3) explanations of the original on all validation images, in pixels."""
    return explanations(session.explained(), session.plain(session.splits.val))


def measure_drift(session: Session, network: ExplainedClassifier, before: Tensor) -> dict[str, float]:
    """Drift of ``network`` from the original, and its accuracy, on all validation images."""
    val = session.plain(session.splits.val)
    found = rbf_drift(before, explanations(network, val), session.splits.image_size)
    accuracy = evaluate(network.classifier, val).accuracy
    return {"center_drift_px": found.center_drift_px, "iou": found.iou, "val_accuracy": accuracy}


def measure_after_surgery(session: Session, before: Tensor) -> dict[str, float]:
    """The slim model as surgery leaves it."""
    network = session.slimmed(PrunePlan.load(session.stage_file("surgery", "plan.json")))
    assert isinstance(network, ExplainedClassifier)
    return measure_drift(session, network, before)


def measure_control(session: Session, before: Tensor, progress: ConsoleProgress) -> dict[str, float]:
    """The original, nothing removed, after the finetuning that slim models get."""
    config, network = session.recipe.finetune, session.explained()
    batches = session.shuffled(session.splits.train, config.batch_size, crop=True, flip=True)
    train_classifier(
        network.classifier,
        batches,
        Learning(session.fabric, progress=progress),
        config=config,
        what="control",
    )
    return measure_drift(session, network.eval(), before)


def gate_gradients(session: Session, before: Tensor) -> dict[str, float]:
    """Norms of d CE / d logits of the gates and of g1 d interpretation / d logits, means over batches, no noise.

    Of validation images, at the learned gates and the first temperature.
    """
    network, groups = session.network().requires_grad_(False), session.graph.groups
    weight = session.recipe.gates.steer_weight * (REFERENCE_SIDE / session.splits.image_size) ** 2
    scores = read_tensors(session.stage_file("gates", "scores.safetensors"))
    gates = Gates(groups)
    gates.theta.data = torch.cat([scores[group.name] for group in groups])
    norms: dict[str, list[float]] = {"ce": [], "steer": []}
    for batch in islice(session.plain(session.splits.val).epoch(0), GRADIENT_BATCHES):
        with masked(network, groups, gates.split(gates(noise=0.0))):
            logits, params = network(to_device(batch, torch.device("cpu")).images, batch.labels)
        steer = (params - before[batch.indices]).square().sum(1).mean()
        for name, term in (("ce", F.cross_entropy(logits, batch.labels)), ("steer", weight * steer)):
            (gradient,) = torch.autograd.grad(term, gates.theta, retain_graph=True)
            norms[name].append(float(gradient.norm()))
    return {name: statistics.mean(values) for name, values in norms.items()}


def kept_channels(session: Session) -> set[tuple[str, int]]:
    """Every channel that a run's plan keeps."""
    plan = PrunePlan.load(session.stage_file("surgery", "plan.json"))
    return {(name, channel) for name, channels in plan.kept.items() for channel in channels}


def measure(seed: int, out: Path, with_control: bool, progress: ConsoleProgress) -> dict[str, Any]:
    """The row of one seed."""
    sessions = {variant: open_session(out / f"seed{seed}-{variant}", progress) for variant in VARIANTS}
    torch.set_num_threads(sessions["rbf"].recipe.threads or torch.get_num_threads())
    before = explain_original(sessions["rbf"])
    channels = {variant: kept_channels(session) for variant, session in sessions.items()}
    row = {
        "seed": seed,
        "after_surgery": {variant: measure_after_surgery(session, before) for variant, session in sessions.items()},
        "shared_channels": {
            f"{a}/{b}": len(channels[a] & channels[b]) / len(channels[a] | channels[b])
            for a, b in combinations(VARIANTS, 2)
        },
        "gate_gradients": gate_gradients(sessions["rbf"], before),
    }
    return row | ({"control": measure_control(sessions["rbf"], before, progress)} if with_control else {})


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="default: 0, 1 and 2")
    parser.add_argument("--out", type=Path, default=HERE.parent / "runs" / "keep50", help="the runs")
    parser.add_argument("--control", action="store_true", help="finetune the original too (a quarter of an hour)")
    given = parser.parse_args()
    rows = {row["seed"]: row for row in read_json(RESULTS)["rows"]} if RESULTS.exists() else {}
    for seed in given.seed or (0, 1, 2):
        with ConsoleProgress() as progress:
            rows[seed] = rows.get(seed, {}) | measure(seed, given.out, given.control, progress)
        print(rows[seed], flush=True)
        ordered = [rows[key] for key in sorted(rows)]
        write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": ordered})


if __name__ == "__main__":
    main()
