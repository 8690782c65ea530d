"""Two budgets at once: half of the MACs and 60 % of the latency, counted and measured.

    .venv/bin/python benchmarks/combined_budgets.py [--only mobilenet_v2@224] [--rounds 100]

What `budget: {macs: 50%, latency: 60%}` does in a run, by magnitude scores: the table of layer times proposes, the
exported model is timed and corrects. What comes out is timed once more, interleaved with the original, in sessions of
its own: that is the row's latency. Random weights, ONNX Runtime on the CPU, one thread, batch 1. Rows go to
results/combined_budgets.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from efficiency import Setting
from torch import nn
from torchvision import models as torchvision_models

from slimsight.compress.amounts import Amount
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.gates import magnitude
from slimsight.compress.macs import count_macs
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.host import default_cache
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.settings.latency import LatencyConfig
from slimsight.deploy.timing.plan_latency import PlanTimer, select_timed

RESULTS = Path(__file__).resolve().parent / "results" / "combined_budgets.json"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18@224": (lambda: torchvision_models.resnet18(weights=None), 224),
    "mobilenet_v2@224": (lambda: torchvision_models.mobilenet_v2(weights=None), 224),
}
MACS, LATENCY = 0.5, 0.6


def measure(name: str, rounds: int, progress: ConsoleProgress) -> dict[str, Any]:
    """The row of one network."""
    setting = Setting(*NETWORKS[name])
    scores = magnitude(setting.net, setting.graph.groups)
    config = LatencyConfig(rounds=rounds, warmup_seconds=3.0)
    timer = PlanTimer(setting.net, setting.slim, setting.images, config, default_cache(), progress=progress)
    with timer:
        cost, align = timer.timed_cost(setting.cost)
        limits, latency = {"macs": MACS * setting.cost.total}, Amount(LATENCY, relative=True)
        timed = select_timed(cost, scores, limits, latency, timer, align=align, progress=progress)
        final = timer.of_plan(timed.selection.plan)
    slim = setting.slim(timed.selection.plan)
    macs = count_macs(slim, setting.example).total
    used = final.slim_ms.median / final.original_ms.median
    return {
        "network": name,
        "macs_budget": MACS,
        "latency_budget": LATENCY,
        "macs_kept": macs / setting.cost.total,
        "original_ms": final.original_ms.median,
        "slim_ms": final.slim_ms.median,
        "latency_kept": used,
        "speedup": final.speedup.median,
        "speedup_low": final.speedup.low,
        "speedup_high": final.speedup.high,
        "met": macs <= limits["macs"] and used <= LATENCY,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(NETWORKS), help="may be given more than once")
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = {row["network"]: row for row in read_json(RESULTS)["rows"]} if RESULTS.exists() else {}
    for name in given.only or NETWORKS:
        with ConsoleProgress() as progress:
            rows[name] = measure(name, given.rounds, progress)
        print(rows[name], flush=True)
        ordered = [rows[name] for name in NETWORKS if name in rows]
        write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": ordered})


if __name__ == "__main__":
    main()
