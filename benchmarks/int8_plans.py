"""A plan by FP32 times and one by integer times, both run in INT8: ResNet-18 at 224 px, random weights.

    .venv/bin/python benchmarks/int8_plans.py [--cache FOLDER]

Channels are ranked by magnitude. Of plans with at most half of the MACs, one is chosen by the times of layers in FP32,
one by those in integers (latency_aware), each with the multiples that its kernels like, and one by MACs alone in
multiples of 16. Each plan's INT8 file, and the original's, are timed in turn with the original in FP32: one thread,
one image a call, ratios with a 95 % interval. Rows go to results/int8_plans.json.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import models

import slimsight
from slimsight.compress.files.atomic import write_json
from slimsight.compress.gates import select, select_fast
from slimsight.compress.gates.rank import magnitude
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.host import default_cache
from slimsight.deploy.machine import describe_machine, versions
from slimsight.deploy.settings.latency import LatencyConfig
from slimsight.deploy.steps import slim_copy
from slimsight.deploy.timing.plan_latency import PlanTimer
from slimsight.deploy.timing.rounds import time_sessions
from slimsight.deploy.timing.statistics import to_speedup
from slimsight.export.costs.layer_graph import KernelPrecision
from slimsight.export.int8.calibration import Calibration
from slimsight.export.int8.quantise import quantise
from slimsight.export.runners import OnnxRunner
from slimsight.export.to_onnx import export_onnx

RESULTS = Path(__file__).resolve().parent / "results" / "int8_plans.json"
KEPT, SIDE, SESSIONS, ROUNDS = 0.5, 224, 12, 240
ALIGN = 16
PRECISIONS: tuple[KernelPrecision, ...] = ("fp32", "int8")


def main() -> None:
    """Choose the plans, and time them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder of layer times")
    parser.add_argument("--work", type=Path, default=Path("runs/int8_plans"), help="folder for files")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = models.resnet18().eval()
    images = torch.rand(32, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    traced = slimsight.trace(net, images[:1])
    scores = magnitude(traced.model, traced.graph.groups)
    limits = {"macs": KEPT * traced.cost.total}
    plans = {"macs": select(traced.cost, scores, budget=limits, align=ALIGN).plan}
    chosen: dict[str, Any] = {}
    with ConsoleProgress() as progress:
        for precision in PRECISIONS:
            timer = PlanTimer(
                traced.model,
                lambda plan: slim_copy(traced.model, plan, images[:1]),
                images[:4],
                LatencyConfig(),
                given.cache,
                precision=precision,
                progress=progress,
            )
            with timer:
                cost, liked = timer.timed_cost(traced.cost)
            found = select_fast(cost, scores, budget=limits, align=liked)
            plans[precision] = found.plan
            chosen[precision] = {"align": liked, "predicted": found.used["latency"] / cost.totals["latency"]}
    given.work.mkdir(parents=True, exist_ok=True)
    calibration = Calibration(images.numpy(), "random images")
    runners = {}
    for name in ("original", *plans):
        fp32, int8 = given.work / f"{name}.onnx", given.work / f"{name}.int8.onnx"
        export_onnx(net if name == "original" else slim_copy(traced.model, plans[name], images[:1]), images[:2], fp32)
        quantise(fp32, int8, calibration)
        runners |= {f"{name}.fp32": OnnxRunner(fp32, 1), f"{name}.int8": OnnxRunner(int8, 1)}
    timed = time_sessions(runners, images[:4].numpy(), sessions=SESSIONS, rounds=ROUNDS, warmup=1.0, seed=0).timings
    base = timed["original.fp32"].host
    rows = [
        {
            "plan": name,
            "macs": 1.0 if name == "original" else traced.cost.of_plan(plans[name]) / traced.cost.total,
            "widths": {} if name == "original" else {group: len(kept) for group, kept in plans[name].kept.items()},
            "chosen": chosen.get(name),
            "fp32_speedup": asdict(to_speedup(base, timed[f"{name}.fp32"].host, seed=0)),
            "int8_speedup": asdict(to_speedup(base, timed[f"{name}.int8"].host, seed=0)),
        }
        for name in ("original", *plans)
    ]
    by_times = to_speedup(timed["fp32.int8"].host, timed["int8.int8"].host, seed=0)
    head = {"schema": 1, "versions": versions(), "machine": describe_machine(), "kept": KEPT, "side": SIDE}
    write_json(RESULTS, {**head, "rows": rows, "int8_plan_over_fp32_plan": asdict(by_times)})
    for row in rows:
        print({name: row[name] for name in ("plan", "macs", "fp32_speedup", "int8_speedup")}, flush=True)
    print(by_times, np.median(base), flush=True)


if __name__ == "__main__":
    main()
