"""Latency of every explainer against a forward pass of the same classifier, interleaved.

    .venv/bin/python benchmarks/explainers_cost.py [--recipe configs/cifar10_resnet20.yaml] [--threads 1]

The recipe's classifier with its weights, its validation images, eager float32 in eval mode. `rbf` is classifier and
selector in one pass, drawn as a map (its time does not depend on what the selector has learned: random weights); it
folds the selector's normalisations, not the classifier's, and `forward, folded` is the classifier with its own folded.
`macs` is what one image costs over a forward pass, in multiply-adds, of what is one pass: how low the time could be.
Every round calls each explainer on the same images, in an order drawn anew; single images a few times in a row, as
they come when a stream is explained (a call among strangers finds its own code cold). The dear ones stand in fewer
rounds of their own, again beside the forward pass. Ratios are of medians over the rounds of that group, with a
bootstrap interval. `rows` of other networks, threads and batches stay in results/explainers_cost.json.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimsight.compress.data import open_splits
from slimsight.compress.explain import (
    EXPLAINERS,
    STEERING,
    AmortizedExplainer,
    ExplainedClassifier,
    PruneGrad,
    Selector,
    calibrate_percent,
    find_scales,
    make_explainer,
    needs_weights,
)
from slimsight.compress.explain.varsal import Encoder, VarSal
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.macs import count_macs
from slimsight.compress.models import build_classifier
from slimsight.compress.models.fold import find_fold_pairs, fold_
from slimsight.deploy.host import default_cache
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.settings.recipe import load_recipe
from slimsight.deploy.timing.rounds import time_interleaved
from slimsight.deploy.timing.statistics import to_quantiles, to_speedup

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "explainers_cost.json"
FORWARD, FOLDED, CALIBRATED = "forward", "forward, folded", "prunegrad, calibrated"
DEAR = ("integrated_gradients", "smoothgrad_squared", "prunegrad", "prunepgd", CALIBRATED)
"""Tens of forward passes each."""
ENCODED = "varsal, own encoder"
"""VarSal as published; ``varsal`` is the head on the classifier's own features that can steer gates."""

IN_A_ROW = 5
"""Calls of what is cheap, at batch 1."""


@dataclass(frozen=True)
class Called:
    """What ``time_interleaved`` times: images (N, 3, H, W) in, whatever comes out."""

    name: str
    call: Callable[[Tensor], object]
    in_a_row: int

    def run(self, images: NDArray[np.float32]) -> None:
        """So many calls."""
        given = torch.from_numpy(images)
        for _ in range(self.in_a_row):
            self.call(given)


def time_explainers(
    calls: dict[str, Callable[[Tensor], object]],
    images: NDArray[Any],
    *,
    batch: int,
    rounds: int,
    warmup: float,
    in_a_row: int = 1,
    beside: str = FORWARD,
) -> list[dict[str, Any]]:
    """ms of one image for each of ``calls``, interleaved, and the ratio to ``beside``, which is one of them."""
    runners = {name: Called(name, call, in_a_row) for name, call in calls.items()}
    times = time_interleaved(runners, images, rounds=rounds, warmup=warmup, seed=0, batch=batch)
    rows = []
    for name, found in times.items():
        ratio = to_speedup(found, times[beside], seed=0)
        each = to_quantiles(found / (batch * in_a_row))
        rows.append(
            {
                "explainer": name,
                "batch": batch,
                "rounds": rounds,
                "in_a_row": in_a_row,
                "ms_per_image": each.median,
                "p90_ms_per_image": each.p90,
                "forwards": ratio.median,
                "forwards_low": ratio.low,
                "forwards_high": ratio.high,
            }
        )
    return rows


Calls = dict[str, Callable[[Tensor], object]]


def to_calls(classifier: nn.Module, side: int, classes: int, percent: int) -> tuple[Calls, dict[str, float]]:
    """The forward pass, what is learned (time does not depend on weights) and every member that needs none.

    And the MACs of what is one pass, in those of the classifier.
    """
    torch.manual_seed(0)
    example = torch.zeros(1, 3, side, side)
    scales = find_scales(classifier, example)
    learned = [
        AmortizedExplainer(ExplainedClassifier(classifier, Selector(scales, classes, side, STEERING.get(name).head)))
        for name in STEERING
    ]
    encoded = VarSal(Encoder())
    calls: Calls = {FORWARD: to_forward(classifier), FOLDED: to_forward(fold_batch_norms(classifier, example))}
    calls |= {explainer.name: explainer.explain for explainer in learned}
    calls[ENCODED] = encoded.explain
    for name in EXPLAINERS:
        if not needs_weights(name):
            calls[name] = make_explainer(name, classifier).explain
    calls[CALIBRATED] = PruneGrad(classifier, percent=percent).explain
    networks: dict[str, nn.Module] = {each.name: each.network for each in learned}
    networks |= {ENCODED: encoded.network, FORWARD: classifier, FOLDED: classifier}
    macs = {name: count_macs(network, example).total for name, network in networks.items()}
    return calls, {name: count / macs[FORWARD] for name, count in macs.items()}


def to_forward(classifier: nn.Module) -> Callable[[Tensor], object]:
    """A plain pass."""

    @torch.inference_mode()
    def forward(images: Tensor) -> Tensor:
        logits: Tensor = classifier(images)
        return logits

    return forward


def fold_batch_norms(classifier: nn.Module, example: Tensor) -> nn.Module:
    """A copy whose normalisations are in the layers before them, which gives the same logits."""
    found = copy.deepcopy(classifier)
    fold_(found, find_fold_pairs(found, lambda: found(example)))
    with torch.no_grad():
        images = torch.rand(8, *example.shape[1:])
        torch.testing.assert_close(found(images), classifier(images), rtol=1e-4, atol=1e-4)
    return found


def save_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Put ``rows`` in the place of those of the same network, threads and batch."""
    keys = ("network", "threads", "batch")
    fresh = {tuple(row[key] for key in keys) for row in rows}
    old = read_json(RESULTS)["rows"] if RESULTS.is_file() else []
    kept = [row for row in old if tuple(row[key] for key in keys) not in fresh] + list(rows)
    kept.sort(key=lambda row: (*(row[key] for key in keys), row["forwards"]))
    write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": kept})


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=HERE.parent / "configs" / "cifar10_resnet20.yaml")
    parser.add_argument("--batch", type=int, action="append", help="default: 1 and 32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60, help="of the cheap ones at batch 1; a quarter at others")
    parser.add_argument("--dear-rounds", type=int, default=12, help="of the dear ones, likewise; 0: leave them out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe = load_recipe(given.recipe)
    splits = open_splits(recipe.data, cache_dir=default_cache(), seed=recipe.seed)
    classifier = build_classifier(recipe.model, len(splits.classes)).eval().requires_grad_(False)
    images = np.asarray(splits.val.images[:256])
    percent = calibrate_percent(classifier, [torch.from_numpy(images[:16]).float() / 255])
    print(f"calibrated on 16 validation images: {percent} % of the neurons closed")
    calls, macs = to_calls(classifier, splits.image_size, len(splits.classes), percent)
    cheap = {name: call for name, call in calls.items() if name not in DEAR}
    dear = {name: call for name, call in calls.items() if name in (FORWARD, *DEAR)}
    rows = []
    for batch in given.batch or (1, 32):
        share = 1 if batch == 1 else 4
        row, rounds = IN_A_ROW if batch == 1 else 1, max(3, given.rounds // share)
        found = time_explainers(cheap, images, batch=batch, rounds=rounds, warmup=2.0, in_a_row=row)
        if given.dear_rounds:
            more = time_explainers(dear, images, batch=batch, rounds=max(3, given.dear_rounds // share), warmup=2.0)
            found += [one for one in more if one["explainer"] != FORWARD]
        for one in found:
            what = {"network": recipe.model.name, "threads": given.threads, "closed_percent": percent}
            rows.append({**what, **one, "macs": macs.get(one["explainer"])})
            print(json.dumps(rows[-1]))
    save_rows(rows)


if __name__ == "__main__":
    main()
