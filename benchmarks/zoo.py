"""``slimsight inspect`` on torchvision's CNNs, and whether half of their MACs can be removed exactly.

    .venv/bin/python benchmarks/zoo.py [--only resnet18] [--threads 2]

Random weights, random batch-norm statistics in the proof, 224 px (inception_v3: 299). A row a model: the JSON of
``inspect`` without its list of layers, or the sentence with which the model is refused. Rows go to results/zoo.json;
those of other models stay.
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import Any

import torch

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import SlimError
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.gates import read_budget
from slimsight.compress.models import build_net
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.inspection import inspect_model
from slimsight.deploy.machine import device_name, versions

RESULTS = Path(__file__).resolve().parent / "results" / "zoo.json"
MODELS = (
    *("alexnet", "vgg11_bn", "vgg16_bn", "squeezenet1_1", "googlenet", "inception_v3", "resnet18", "resnet34"),
    *("resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d", "densenet121", "mobilenet_v2"),
    *("mobilenet_v3_small", "mobilenet_v3_large", "mnasnet1_0", "efficientnet_b0", "efficientnet_v2_s"),
    *("regnet_x_400mf", "regnet_y_400mf", "shufflenet_v2_x1_0", "convnext_tiny"),
)
SIDES = {"inception_v3": 299}
KEPT = 0.5
SEED = 0


def measure(name: str, progress: ConsoleProgress) -> dict[str, Any]:
    """The row of one model."""
    torch.manual_seed(SEED)
    model, side = f"torchvision:{name}", SIDES.get(name, 224)
    try:
        found = inspect_model(
            model,
            build_net(ModelConfig(name=model), 1000),
            (3, side, side),
            budget=read_budget(macs=KEPT),
            progress=progress,
        )
    except SlimError as error:
        return {"model": model, "input": f"3x{side}x{side}", "error": str(error)}
    return {key: value for key, value in found.to_dict().items() if key != "layers"}


def to_line(row: dict[str, Any]) -> str:
    """What the terminal shows of a row."""
    if "error" in row:
        return f"{row['model']}: {row['error']}"
    plan = row["plan"]
    return (
        f"{row['model']}: {row['groups']} groups, {len(row['frozen_groups'])} frozen, at least "
        f"{row['smallest_macs'] / row['macs']:.3f}; at {plan['macs_kept']:.4f} of the MACs {plan['max_rel']:.1e} in "
        f"float64, {plan['max_rel_float32']:.1e} in float32, "
        f"fvcore {'agrees' if plan['fvcore_macs'] == plan['cost_model_macs'] else 'DISAGREES'}; "
        f"{row['seconds']:.1f} + {plan['seconds']:.1f} s"
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=MODELS, help="may be given more than once")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = {row["model"]: row for row in read_json(RESULTS)["rows"]} if RESULTS.exists() else {}
    for name in given.only or MODELS:
        with ConsoleProgress() as progress:
            row = measure(name, progress)
        gc.collect()
        rows[row["model"]] = row | {"threads": given.threads}
        print(to_line(row), flush=True)
        ordered = [rows[f"torchvision:{name}"] for name in MODELS if f"torchvision:{name}" in rows]
        write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": ordered})


if __name__ == "__main__":
    main()
