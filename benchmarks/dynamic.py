"""Original, slim and dynamic models: accuracy at equal MACs, and the speed-up of the routed form.

    .venv/bin/python benchmarks/dynamic.py latency [--model vgg16 ...]     # masks drawn at random, no training
    .venv/bin/python benchmarks/dynamic.py accuracy RUN SCHEDULE           # a finished run with `dynamic.enabled`

Rows go to results/dynamic.json; a row for the same model and variant is replaced. ``realised`` is the speed-up over
(MACs original / MACs mean): 1 where time falls as MACs do.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimsight.compress.config import ModelConfig
from slimsight.compress.dynamic import DynamicClassifier, find_routes, routed_cost
from slimsight.compress.dynamic.cost import macs_per_image
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.gates import CostModel
from slimsight.compress.models import build_classifier
from slimsight.compress.surgery import trace_groups
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.report import read_report
from slimsight.deploy.timing.rounds import time_sessions
from slimsight.deploy.timing.statistics import to_quantiles, to_speedup
from slimsight.export.routed.export import export_masked, export_routed
from slimsight.export.runners import OnnxRunner
from slimsight.export.to_onnx import export_onnx

RESULTS = Path(__file__).resolve().parent / "results" / "dynamic.json"
CASES = {"vgg16": (32, 10), "torchvision:resnet18": (224, 1000), "resnet20": (32, 10)}
"""Side of the images, and classes."""

ALIGN = 16
"""Channels of a mask in multiples of what the processor computes at once."""

VARIANTS = ("original", "slim", "dynamic_masked", "dynamic_routed")
IMAGES, WARMUP, SESSIONS = 16, 2.0, 10

Row = dict[str, Any]


def with_routes(model: nn.Module, side: int, masks: int) -> DynamicClassifier:
    """``model`` with heads that tell images apart."""
    images = random_images(64, side)
    graph = trace_groups(model, images[:1])
    dynamic = DynamicClassifier(model, find_routes(model, graph, images[:1]), masks).eval()
    dynamic.init_heads_(images)
    return dynamic


def set_random_masks_(model: DynamicClassifier, share: float) -> None:
    """Random masks, each of ``share`` of its layer's channels in multiples of ``ALIGN``."""
    torch.manual_seed(0)
    for router in model.router_list:
        width = router.masks.shape[1]
        step = ALIGN if width >= 2 * ALIGN else 1
        count = max(step, round(share * width / step) * step)
        router.keep.copy_(torch.rand_like(router.masks).argsort(1).argsort(1) < count)
        with torch.no_grad():
            router.masks.fill_(1)
        router.project_()


def random_images(count: int, side: int) -> Tensor:
    """(count, 3, side, side) blurred noise of varying brightness."""
    return nn.functional.interpolate(torch.rand(count, 3, 4, 4), side, mode="bilinear")


def set_random_masks_within_(model: DynamicClassifier, side: int, macs: float) -> float:
    """Draw masks of the largest share of channels with which images need at most ``macs`` of the MACs; returns it."""
    for share in np.arange(1.0, 0.2, -0.01):
        set_random_masks_(model, float(share))
        found, cost = mean_macs(model, side)
        if found <= macs * cost.total:
            return float(share)
    raise SystemExit(f"{macs:.2f} of the MACs cannot be reached with a fifth of the channels")


def mean_macs(model: DynamicClassifier, side: int) -> tuple[float, CostModel]:
    """Mean MACs over the images that are timed, and the cost model."""
    images = timed_images(side)
    cost = routed_cost(model, images[:1])
    with torch.inference_mode():
        return float(macs_per_image(cost, model.routed(images).gates).mean()), cost


def timed_images(side: int) -> Tensor:
    """(IMAGES, 3, side, side) the images that every variant is timed on."""
    state = torch.get_rng_state()
    torch.manual_seed(1)
    images = random_images(IMAGES, side)
    torch.set_rng_state(state)
    return images


def latency(name: str, masks: int, macs: float, rounds: int) -> list[Row]:
    """Original, masked and routed form of one model, timed in turns."""
    side, classes = CASES[name]
    torch.manual_seed(0)
    model = build_classifier(ModelConfig(name=name), classes).eval()
    dynamic = with_routes(model, side, masks)
    share = set_random_masks_within_(dynamic, side, macs)
    found, cost = mean_macs(dynamic, side)
    heads = sum(route.inputs * masks for route in dynamic.routes)
    dense = cost.total - heads
    images = timed_images(side)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        export_onnx(model, images[:2], place / "original.onnx")
        export_masked(dynamic, images[:2], place / "dynamic_masked.onnx")
        routed = export_routed(dynamic, images[:2], place / "dynamic_routed.onnx")
        runners = {
            variant: OnnxRunner(place / f"{variant}.onnx", 1)
            for variant in ("original", "dynamic_masked", "dynamic_routed")
        }
        measured = time_sessions(runners, images.numpy(), sessions=SESSIONS, rounds=rounds, warmup=WARMUP, seed=0)
    times = {variant: timing.host for variant, timing in measured.timings.items()}
    rows = []
    for variant, values in times.items():
        ratio = to_speedup(times["original"], values, seed=0)
        mean = float(dense) if variant == "original" else found
        rows.append(
            {
                "model": f"{name}@{side}",
                "variant": variant,
                "weights": "random",
                "masks": masks,
                "channels_open": share,
                "branches": routed.branches if variant == "dynamic_routed" else None,
                "macs": dense,
                "macs_mean": mean,
                "test_accuracy": None,
                "latency_ms": to_quantiles(values).median,
                "speedup": ratio.median,
                "speedup_low": ratio.low,
                "speedup_high": ratio.high,
                "realised": ratio.median * mean / dense,
                "rounds": rounds,
                "sessions": SESSIONS,
            }
        )
    return rows


def accuracy(run: Path, schedule: str) -> list[Row]:
    """Original, slim and dynamic of a finished run."""
    report = read_report(run / "report.json")
    assert report.dynamic is not None, "the run has no dynamic variant: set dynamic.enabled"
    (timed,) = report.latency
    assert timed.dynamic_ms is not None
    assert report.model is not None
    dense = report.original.macs
    variants = (
        ("original", dense, report.original.test_accuracy, timed.original_ms.median),
        ("slim", report.slim.macs, report.slim.test_accuracy, timed.slim_ms.median),
        ("dynamic_masked", report.dynamic.macs_mean, report.dynamic.test_accuracy, None),
        ("dynamic_routed", report.dynamic.macs_mean, report.dynamic.test_accuracy, timed.dynamic_ms.median),
    )
    rows = []
    for variant, macs, right, ms in variants:
        speedup = timed.original_ms.median / ms if ms is not None else None
        rows.append(
            {
                "model": report.model.name,
                "variant": variant,
                "weights": schedule,
                "macs": dense,
                "macs_mean": macs,
                "test_accuracy": right,
                "latency_ms": ms,
                "speedup": speedup,
                "realised": speedup * macs / dense if speedup is not None else None,
                "accepted": report.dynamic.verification.accepted if variant.startswith("dynamic") else None,
            }
        )
    return rows


def save(rows: Sequence[Row]) -> None:
    """Put ``rows`` beside those that stand there."""
    known = read_json(RESULTS)["rows"] if RESULTS.is_file() else []
    new = {(row["model"], row["variant"], row["weights"] == "random") for row in rows}
    kept = [row for row in known if (row["model"], row["variant"], row["weights"] == "random") not in new]
    merged = sorted([*kept, *rows], key=lambda r: (r["weights"] == "random", r["model"], VARIANTS.index(r["variant"])))
    write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": merged})


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    timing = modes.add_parser("latency")
    timing.add_argument("--model", choices=CASES, action="append")
    timing.add_argument("--masks", type=int, default=2)
    timing.add_argument("--macs", type=float, default=0.5, help="share of the MACs kept, at most")
    timing.add_argument("--rounds", type=int, default=200)
    finished = modes.add_parser("accuracy")
    finished.add_argument("run", type=Path)
    finished.add_argument("schedule", help="how long the run trained, in words")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.mode == "accuracy":
        batches = [accuracy(given.run, given.schedule)]
    else:
        names = given.model or list(CASES)
        batches = [latency(name, given.masks, given.macs, given.rounds) for name in names]
    for rows in batches:
        save(rows)
        for row in rows:
            shown = {key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}
            print(shown)


if __name__ == "__main__":
    main()
