"""What an explanation costs: every explainer beside a plain forward pass of the same classifier, interleaved.

    .venv/bin/python benchmarks/explainers_cost.py [--recipe configs/cifar10_resnet20.yaml] [--threads 1]

The recipe's classifier with its weights, its validation images, eager float32 in eval mode. `rbf` is classifier and
selector in one pass, drawn as a map (its time does not depend on what the selector has learned: random weights).
Every round calls each explainer once on the same images, in an order drawn anew; the dear ones stand in fewer
rounds of their own, again beside the forward pass. Ratios are of medians over the rounds of that group, with a
bootstrap interval. `rows` of other networks, threads and batches stay in results/explainers_cost.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data import open_splits
from compress.explain import (
    MEMBERS,
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
from compress.explain.varsal import Encoder, VarSal
from compress.files import read_json, write_json
from compress.models import build_classifier
from deploy.bench.rounds import time_interleaved
from deploy.bench.statistics import to_quantiles, to_speedup
from deploy.machine import device_name, versions
from deploy.recipe import load_recipe
from deploy.session import default_cache

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "explainers_cost.json"
FORWARD, CALIBRATED = "forward", "prunegrad, calibrated"
DEAR = ("integrated_gradients", "smoothgrad_squared", "prunegrad", "prunepgd")
"""Tens of forward passes each."""


@dataclass(frozen=True)
class Called:
    """What ``time_interleaved`` times: images (N, 3, H, W) in, whatever comes out."""

    name: str
    call: Callable[[Tensor], object]

    def run(self, images: NDArray[np.float32]) -> None:
        """One call."""
        self.call(torch.from_numpy(images))


def time_explainers(
    calls: dict[str, Callable[[Tensor], object]],
    images: NDArray[Any],
    *,
    batch: int,
    rounds: int,
    warmup: float,
    beside: str = FORWARD,
) -> list[dict[str, Any]]:
    """ms of one image for each of ``calls``, interleaved, and the ratio to ``beside``, which is one of them."""
    runners = {name: Called(name, call) for name, call in calls.items()}
    times = time_interleaved(runners, images, rounds=rounds, warmup=warmup, seed=0, batch=batch)
    rows = []
    for name, found in times.items():
        ratio = to_speedup(found, times[beside], seed=0)
        rows.append(
            {
                "explainer": name,
                "batch": batch,
                "rounds": rounds,
                "ms_per_image": to_quantiles(found / batch).median,
                "p90_ms_per_image": to_quantiles(found / batch).p90,
                "forwards": ratio.median,
                "forwards_low": ratio.low,
                "forwards_high": ratio.high,
            }
        )
    return rows


def to_calls(classifier: nn.Module, side: int, classes: int, percent: int) -> dict[str, Callable[[Tensor], object]]:
    """The forward pass, what is learned (time does not depend on weights) and every member that needs none."""
    torch.manual_seed(0)
    scales = find_scales(classifier, torch.zeros(1, 3, side, side))
    learned = [
        AmortizedExplainer(ExplainedClassifier(classifier, Selector(scales, classes, side, STEERING.get(name).head)))
        for name in STEERING
    ]

    @torch.inference_mode()
    def forward(images: Tensor) -> Tensor:
        logits: Tensor = classifier(images)
        return logits

    calls: dict[str, Callable[[Tensor], object]] = {FORWARD: forward}
    calls |= {explainer.name: explainer.explain for explainer in learned}
    calls["varsal"] = VarSal(Encoder()).explain
    for name in MEMBERS:
        if not needs_weights(name):
            calls[name] = make_explainer(name, classifier).explain
    calls[CALIBRATED] = PruneGrad(classifier, percent=percent).explain
    return calls


def keep(rows: Sequence[dict[str, Any]]) -> None:
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
    parser.add_argument("--dear-rounds", type=int, default=12, help="of the dear ones at batch 1; a quarter at others")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe = load_recipe(given.recipe)
    splits = open_splits(recipe.data, cache_dir=default_cache(), seed=recipe.seed)
    classifier = build_classifier(recipe.model, len(splits.classes)).eval().requires_grad_(False)
    images = np.asarray(splits.val.images[:256])
    percent = calibrate_percent(classifier, [torch.from_numpy(images[:16]).float() / 255])
    print(f"calibrated on 16 validation images: {percent} % of the neurons closed")
    calls = to_calls(classifier, splits.image_size, len(splits.classes), percent)
    cheap = {name: call for name, call in calls.items() if name not in DEAR}
    dear = {name: call for name, call in calls.items() if name in (FORWARD, *DEAR)}
    rows = []
    for batch in given.batch or (1, 32):
        share = 1 if batch == 1 else 4
        found = time_explainers(cheap, images, batch=batch, rounds=given.rounds // share, warmup=2.0)
        more = time_explainers(dear, images, batch=batch, rounds=max(3, given.dear_rounds // share), warmup=2.0)
        for row in (*found, *(row for row in more if row["explainer"] != FORWARD)):
            rows.append({"network": recipe.model.name, "threads": given.threads, "closed_percent": percent, **row})
            print(json.dumps(rows[-1]))
    keep(rows)


if __name__ == "__main__":
    main()
