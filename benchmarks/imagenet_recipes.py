"""Runs of every recipe in configs/imagenet on a generated miniature of ImageNet's layout.

    .venv/bin/python benchmarks/imagenet_recipes.py [--only mobilenet_v2]

Images of 64 pixels, three classes that a colour tells apart, networks that have learned them for a few epochs; epochs
and steps cut to what a test machine does in minutes. Networks, budget, losses and their order are the recipe's. A row
for each goes to results/imagenet_recipes.json: the budget and what was kept, gated against slim, the artefacts against
torch, seconds by stage. Accuracies of such a run mean nothing, and none are written.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from imagenet_layout import make_layout
from PIL import Image
from torch import nn
from torchvision import models

from slimsight.compress.files.atomic import write_json
from slimsight.compress.progress import Silent
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.run.pipeline import run_recipe
from slimsight.deploy.settings.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "imagenet"
RESULTS = ROOT / "benchmarks" / "results" / "imagenet_recipes.json"
NETWORKS = ("resnet34", "resnet50", "resnet101", "mobilenet_v2")
SIDE, CLASSES, IMAGES, VAL = 64, 3, 40, 6
EPOCHS = {"resnet34": 6, "resnet50": 6, "resnet101": 12, "mobilenet_v2": 6}
"""Until a network tells its training images apart."""
MEAN, STD = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SHORT = (
    "data.val_fraction=0.2",  # of 120 images: the selector is judged on more than three
    "explainer.images=60%",
    "gates.images=60%",
    "explainer.predictor={epochs: 6, lr: 1e-3, batch_size: 16}",
    "explainer.selector={epochs: 6, lr: 1e-3, batch_size: 16}",
    "gates.steps=60",
    "gates.lr=0.2",
    "gates.cost_weight=50",
    "gates.class_weight=0.1",
    "gates.steer_weight=0.05",
    "gates.batch_size=16",
    "gates.compile=false",
    # The recipes' rate of 0.1 is for a batch of 256: a few steps of it on these images make logits of hundreds, and
    # tell of float32 where parity should be told.
    "finetune={epochs: 1, lr: 0.01, batch_size: 16, recalibrate_batches: 2}",
    "latency={rounds: 20, warmup_seconds: 0.05, sessions: 2}",
)

MORE = {
    "resnet101": ("gates.steps=120", "explainer.predictor={epochs: 15, lr: 1e-3, batch_size: 16}"),
}
"""As many groups as it has take longer to agree on a budget, as many layers to read masked images: with a predictor of
fewer epochs its selector ends with masks of nothing, and the run refuses them."""


class Notes(Silent):
    """Tells what a run notes."""

    def note(self, text: str) -> None:
        print(f"  {text}", flush=True)


def make_images(root: Path) -> int:
    """train/<wnid>/*.JPEG, a flat val/ and its list; gives their number."""
    return make_layout(root, classes=CLASSES, images=IMAGES, val=VAL, pictures=24, sides=(64, 110), telling=True)


def make_weights(name: str, root: Path, *, learned: bool = True) -> Path:
    """A network's weights, random or ``learned`` on the training images, which are told by a colour."""
    torch.manual_seed(0)
    # Blocks that begin as identities (Goyal et al. 2017, section 5.1): else ResNet-50's logits grow to 800 here, where
    # float32 knows 6e-5 apart.
    options = {"zero_init_residual": True} if name.startswith("resnet") else {}
    net = models.get_model(name, weights=None, num_classes=CLASSES, **options)
    folders = enumerate(sorted((root / "train").iterdir()))
    files = [(path, label) for label, folder in folders for path in sorted(folder.iterdir())]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE))) for path, _ in files])
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
    labels = torch.tensor([label for _, label in files])
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.01, momentum=0.9)
    for _ in range(EPOCHS[name] if learned else 0):
        for rows in torch.randperm(len(files)).split(24):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:  # after so few steps, running means still tell of the first ones
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for rows in torch.arange(len(files)).split(24):
            net(images[rows])
    torch.save(net.state_dict(), root / f"{name}.pth")
    return root / f"{name}.pth"


def miniature(name: str, root: Path, weights: Path, *overrides: str) -> Recipe:
    """The recipe of a network on the images in ``root``."""
    given = (
        f"data.path={root}",
        f"data.test_labels={root / 'val.txt'}",
        f"data.image_size={SIDE}",
        "data.resize=72",
        "data.workers=2",
        f"model.weights={weights}",
        "precision=32-true",
        "threads=1",
    )
    return load_recipe(CONFIGS / f"{name}.yaml", [*given, *overrides])


def measure(name: str, root: Path, work: Path) -> dict[str, Any]:
    """The row of one network."""
    recipe = miniature(name, root, make_weights(name, root), *SHORT, *MORE.get(name, ()))
    report = run_recipe(recipe, work / name, name=f"{name}.yaml", cache=work / "cache", progress=Notes())
    assert recipe.budget.macs is not None
    rows = {row.artifact: 0.0 for row in report.parity}
    for row in report.parity:
        rows[row.artifact] = max(rows[row.artifact], row.max_abs)
    return {
        "network": name,
        "budget": recipe.budget.macs.value,
        "kept_macs": report.slim.macs / report.original.macs,
        "gated_vs_slim_max_rel": report.exactness.gated_vs_slim_max_rel,
        "parity_max_abs": rows,
        "parity_passed": all(row.passed for row in report.parity),
        "seconds": {stage.name: round(stage.seconds, 1) for stage in report.stages},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NETWORKS, action="append")
    given = parser.parse_args()
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    rows = {row["network"]: row for row in known}
    with tempfile.TemporaryDirectory() as folder:
        root, work = Path(folder) / "imagenet", Path(folder) / "work"
        images = make_images(root)
        for name in given.only or NETWORKS:
            print(name, flush=True)
            rows[name] = measure(name, root, work)
            write_json(
                RESULTS,
                {
                    "device": device_name(),
                    "versions": versions(),
                    "side": SIDE,
                    "images": images,
                    "overrides": SHORT,
                    "rows": [rows[name] for name in NETWORKS if name in rows],
                },
            )


if __name__ == "__main__":
    main()
