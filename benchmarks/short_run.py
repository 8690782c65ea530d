"""A short run for studies that need many: five convolutions on scikit-learn's digits at 16 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimsight.deploy.report import read_report

FACTORY = """
from torch import nn


def block(inputs, outputs, stride):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def tiny(classes):
    blocks = [block(3, 16, 2), block(16, 24, 2), block(24, 24, 1), block(24, 24, 1), block(24, 32, 1)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))
"""
RECIPE = """
threads: 1
data: {source: digits, image_size: 16, flip: false, crop_padding: 0}
model: {name: "tiny.py:tiny", train: {epochs: 6, lr: 0.1, batch_size: 64}}
explainer:
  predictor: {epochs: 3, lr: 1e-3, batch_size: 64}
  selector: {epochs: 4, batch_size: 64}
gates: {steer: rbf, steps: 200, lr: 0.12, batch_size: 64}
checks: {accuracy_drop: null}
finetune: {epochs: 1, lr: 0.02, batch_size: 64}
latency: {rounds: 20, warmup_seconds: 0.1}
"""
SAME = ("slim/plan.json", "slim/model.safetensors", "slim/explainer.safetensors", "recipe.yaml")
"""Files that are the same, byte by byte, in every run of one recipe."""


def write_recipe(folder: Path) -> Path:
    """The recipe's file in ``folder``, with its model beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.py").write_text(FACTORY, encoding="utf-8")
    (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    return folder / "tiny.yaml"


def comparable(root: Path) -> dict[str, Any]:
    """The report of the run in ``root`` but times."""
    found = read_report(root).model_dump(mode="json", exclude={"created", "latency"})
    found["stages"] = [stage["name"] for stage in found["stages"]]
    checks = [check for check in found["verdict"]["checks"] if "latency" not in check["name"]]
    return {**found, "verdict": [(check["name"], check["value"], check["passed"]) for check in checks]}


def differing_files(root: Path, whole: Path) -> list[str]:
    """What of the uninterrupted run in ``whole`` the one in ``root`` has not got."""
    named = [name for name in SAME if (root / name).read_bytes() != (whole / name).read_bytes()]
    ours, theirs = comparable(root), comparable(whole)
    return named + [f"report.json: {key}" for key in theirs if ours.get(key) != theirs[key]]
