"""How much of a MACs cut becomes speed: channel counts chosen by latency against by rank, at half of the MACs.

    .venv/bin/python benchmarks/efficiency.py [--only resnet18@224] [--rounds 60]

Efficiency = speed-up / (MACs of the original / MACs of the slim model). Random weights and batch-norm statistics,
scores by magnitude, ONNX Runtime on the CPU, one thread, batch 1; all models of a network interleaved in one process.
Ours: `budget: {macs: 50%, latency: X}, align: auto`, X from a grid: of the plans that use 99 % of the MACs, the one
whose model is fastest when timed. Beside it: one threshold over our scores, a uniform cut, and Torch-Pruning's
magnitude pruner (defaults; round_to 8 and 16) with the ratio that comes nearest below the same MACs. Rows go to
results/efficiency.json.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torchvision import models as torchvision_models

from slimsight.compress.errors import PruningError
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.gates import CostModel, Selection, magnitude, select, uniform
from slimsight.compress.gates.widths import Align
from slimsight.compress.macs import count_macs
from slimsight.compress.models import ResNet
from slimsight.compress.surgery import PrunePlan, prove_groups, shake_, slim_, trace_groups
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.host import default_cache
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.settings.latency import LatencyConfig
from slimsight.deploy.timing.plan_latency import PlanTimer
from slimsight.deploy.timing.rounds import time_interleaved
from slimsight.deploy.timing.statistics import to_quantiles, to_speedup
from slimsight.export.runners import OnnxRunner
from slimsight.export.to_onnx import export_onnx

RESULTS = Path(__file__).resolve().parent / "results" / "efficiency.json"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18@224": (lambda: torchvision_models.resnet18(weights=None), 224),
    "resnet50@224": (lambda: torchvision_models.resnet50(weights=None), 224),
    "resnet56@32": (lambda: ResNet(56, 10, "conv"), 32),
}
KEPT = 0.5
USED = 0.99
"""Of the MACs budget, that a plan shaped by latency has to use."""
ALIGNS = (16, 32)
"""Tried beside the multiples that single layers like best."""

LATENCIES = tuple(k / 40 for k in range(36, 15, -1))
"""Budgets tried: of the original's latency."""

RANK_WEIGHTS = (1.0, 0.0)
"""How much ranks decide the shape; within a layer they always decide."""

TIMED = 6
"""Plans that are exported and timed; the fastest is taken."""

RATIOS = tuple(k / 40 for k in range(2, 38))
"""Of channels, that Torch-Pruning is asked to remove."""


class Setting:
    """A network with its groups, its cost and scores by magnitude."""

    def __init__(self, build: Callable[[], nn.Module], side: int) -> None:
        torch.manual_seed(0)
        self.images = torch.rand(16, 3, side, side)
        self.net = shake_(build(), self.images[:2].double(), torch.Generator().manual_seed(0)).float().eval()
        self.example = self.images[:1]
        self.graph = prove_groups(self.net, trace_groups(self.net, self.example), self.images[:2])
        self.cost = CostModel.of(self.net, self.example, self.graph.groups)
        self.limit = KEPT * self.cost.total

    def slim(self, plan: PrunePlan) -> nn.Module:
        """The network that a plan leaves."""
        net = copy.deepcopy(self.net)
        slim_(net, plan, self.example)
        return net

    def by_rank(self, rank: Callable[..., dict[str, Tensor]]) -> nn.Module:
        """One threshold over the scores of ``rank``; any width."""
        return self.slim(select(self.cost, rank(self.net, self.graph.groups), budget=self.limit).plan)

    def by_torch_pruning(self, round_to: int | None) -> nn.Module:
        """Torch-Pruning's magnitude pruner; the ratio is searched, its MACs are what it leaves."""

        def pruned(ratio: float) -> nn.Module:
            net = copy.deepcopy(self.net)
            heads = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
            tp.pruner.MagnitudePruner(
                net,
                self.example,
                importance=tp.importance.MagnitudeImportance(),
                pruning_ratio=ratio,
                ignored_layers=heads,
                round_to=round_to,
            ).step()
            return net

        # Not monotone: with round_to, a ratio that would empty a layer leaves it whole. So all are tried.
        found = [pruned(ratio) for ratio in RATIOS]
        macs = [count_macs(net, self.example).total for net in found]
        within = [k for k, count in enumerate(macs) if count <= self.limit]
        return found[max(within, key=macs.__getitem__)] if within else found[int(np.argmin(macs))]


def shaped_by_latency(setting: Setting, progress: ConsoleProgress) -> tuple[nn.Module, dict[str, Any]]:
    """Ours, and what it was asked for: the budget a recipe would name."""
    scores = magnitude(setting.net, setting.graph.groups)
    config = LatencyConfig(rounds=60, warmup_seconds=2.0)
    timer = PlanTimer(setting.net, setting.slim, setting.images, config, default_cache(), progress=progress)
    with timer:
        cost, liked = timer.timed_cost(setting.cost)
        proposed = _proposals(cost, scores, setting.limit, (liked, *ALIGNS))
        if not proposed:
            raise PruningError(f"no multiple lets a plan use {USED:.0%} of the MACs budget")
        shares = []
        for found, *_ in proposed:
            row = timer.of_plan(found.plan)
            shares.append(row.slim_ms.median / row.original_ms.median)
            progress.note(f"proposed {found.used['latency'] / cost.totals['latency']:.3f}, measured {shares[-1]:.3f}")
    selection, align, rank_weight = proposed[int(np.argmin(shares))]
    figures = {
        "latency_budget": selection.budget["latency"] / cost.totals["latency"],
        "align": "timed" if align is liked else align,
        "rank_weight": rank_weight,
        "widths": {name: len(channels) for name, channels in selection.plan.kept.items()},
    }
    return setting.slim(selection.plan), figures


def _proposals(
    cost: CostModel, scores: Mapping[str, Tensor], macs: float, aligns: Sequence[Align]
) -> list[tuple[Selection, Align, float]]:
    """The plans of least latency, by the table, that use ``USED`` of the MACs; at most ``TIMED``, the fastest first."""
    found: list[tuple[Selection, Align, float]] = []
    for align, rank_weight, share in product(aligns, RANK_WEIGHTS, LATENCIES):
        limits = {"macs": macs, "latency": share * cost.totals["latency"]}
        selection = _select(cost, scores, limits, align, rank_weight)
        new = selection is not None and all(selection.plan != other.plan for other, *_ in found)
        if selection is not None and new and selection.used["macs"] >= USED * macs:
            found.append((selection, align, rank_weight))
    return sorted(found, key=lambda proposal: proposal[0].used["latency"])[:TIMED]


def _select(
    cost: CostModel, scores: Mapping[str, Tensor], limits: dict[str, float], align: Align, rank_weight: float
) -> Selection | None:
    try:
        return select(cost, scores, budget=limits, align=align, rank_weight=rank_weight)
    except PruningError:  # out of reach
        return None


def measure(name: str, rounds: int, progress: ConsoleProgress) -> list[dict[str, Any]]:
    """The rows of one network."""
    setting = Setting(*NETWORKS[name])
    ours, figures = shaped_by_latency(setting, progress)
    models: dict[str, nn.Module] = {
        "original": setting.net,
        "slimsight": ours,
        "one threshold": setting.by_rank(magnitude),
        "uniform": setting.by_rank(uniform),
        "torch-pruning": setting.by_torch_pruning(None),
        "torch-pruning, round_to 8": setting.by_torch_pruning(8),
        "torch-pruning, round_to 16": setting.by_torch_pruning(16),
    }
    with TemporaryDirectory() as folder, ExitStack() as stack:
        runners = {}
        for number, (label, model) in enumerate(models.items()):
            path = Path(folder) / f"{number}.onnx"
            export_onnx(model, setting.images[:2], path)
            runners[label] = stack.enter_context(OnnxRunner(path, 1))
        times = time_interleaved(
            runners, np.asarray(setting.images), rounds=rounds, warmup=20.0, seed=0, progress=progress
        )
    rows = []
    for label, model in models.items():
        macs, speed = count_macs(model, setting.example).total, to_speedup(times["original"], times[label], seed=0)
        ideal = setting.cost.total / macs
        row = {
            "network": name,
            "method": label,
            "macs": macs,
            "kept": macs / setting.cost.total,
            "ms": to_quantiles(times[label]).median,
            "speedup": speed.median,
            "speedup_low": speed.low,
            "speedup_high": speed.high,
            "efficiency": speed.median / ideal,
            "rounds": rounds,
        }
        rows.append(row | (figures if label == "slimsight" else {}))
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(NETWORKS), help="may be given more than once")
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    for name in given.only or NETWORKS:
        with ConsoleProgress() as progress:
            found = measure(name, given.rounds, progress)
        rows = [row for row in rows if row["network"] != name] + found
        for row in found:
            print(
                f"{name} {row['method']}: {row['kept']:.4f} of the MACs, {row['ms']:.2f} ms, {row['speedup']:.2f} "
                f"({row['speedup_low']:.2f} to {row['speedup_high']:.2f}) as fast, efficiency {row['efficiency']:.3f}"
            )
        print(json.dumps({key: found[1][key] for key in ("latency_budget", "align", "widths")}), flush=True)
        order = {name: place for place, name in enumerate(NETWORKS)}
        rows.sort(key=lambda row: order[row["network"]])
        write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": rows})


if __name__ == "__main__":
    main()
