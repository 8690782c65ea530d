"""Cost of checkpoints inside a training, at the interval that runs use.

    .venv/bin/python benchmarks/checkpoints.py [--seconds 90]

Finetuning's loop (SGD with momentum, one-cycle) on random images: ResNet-20 as on CIFAR-10, and ResNet-50, whose
checkpoints are a hundred times as large. A training ends after about so many seconds of steps. Rows go to
results/checkpoints.json: seconds in saves as a share of the training's seconds, then of three saves in a row, behind
every step; the file's size, and seconds to read it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models import resnet50

from slimsight.compress.config import ModelConfig
from slimsight.compress.data import Batch, Batches, ImageSet
from slimsight.compress.files.atomic import write_json
from slimsight.compress.models import build_classifier
from slimsight.compress.training import Checkpoints, Learning, fit, make_fabric, one_cycle
from slimsight.compress.training.checkpoint import LEAST_SECONDS, SHARE
from slimsight.deploy.machine import device_name, versions

RESULTS = Path(__file__).resolve().parent / "results" / "checkpoints.json"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "resnet20@32": (lambda: build_classifier(ModelConfig(name="resnet20"), 10), 32, 128),
    "resnet50@64": (lambda: resnet50(weights=None, num_classes=1000), 64, 16),
}


def measure(name: str, seconds: float) -> dict[str, Any]:
    """The row of one network."""
    build, side, batch_size = NETWORKS[name]
    draw = np.random.default_rng(0)
    images = ImageSet(
        draw.integers(0, 256, (2048, 3, side, side)).astype(np.uint8), np.arange(2048) % 10, tuple("abcdefghij")
    )
    batches = Batches(images, batch_size, shuffle=True, drop_last=True)
    fabric = make_fabric()

    def loss(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": nn.functional.cross_entropy(model(batch.images), batch.labels)}

    def train(steps: int, checkpoints: Checkpoints | None) -> float:
        torch.manual_seed(0)
        model = build().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        started = time.perf_counter()
        fit(
            model, batches, loss, optimizer, Learning(fabric, checkpoints=checkpoints), what="training",
            steps=steps, schedule=one_cycle,
        )  # fmt: skip
        return time.perf_counter() - started

    train(2, None)
    steps = max(5, round(seconds / (train(5, None) / 5)))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder) / "as in runs", "key")
        took = train(steps, checkpoints)
        every = Checkpoints(Path(folder) / "every step", "key", seconds=0)
        train(3, every)
        (path,) = every.folder.iterdir()
        size = path.stat().st_size
        started = time.perf_counter()
        Checkpoints(every.folder, "key").of("training", {}).load_()
        load = time.perf_counter() - started
    return {
        "network": name,
        "images": batch_size,
        "steps": steps,
        "seconds": took,
        "saves": len(checkpoints.saves),
        "seconds_in_saves": sum(checkpoints.saves),
        "share": sum(checkpoints.saves) / took,
        "seconds_a_save": every.saves,
        "bytes": size,
        "seconds_to_read": load,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0, help="of each training, about")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in NETWORKS:
        rows.append(measure(name, options.seconds))
        print(rows[-1], flush=True)
    figures = {"least_seconds": LEAST_SECONDS, "allowed_share": SHARE, "networks": rows}
    write_json(RESULTS, {"versions": versions(), "device": device_name(), "threads": 1, **figures})


if __name__ == "__main__":
    main()
