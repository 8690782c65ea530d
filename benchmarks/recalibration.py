"""What new batch-norm statistics are worth to a pretrained network: README's Python flow, with and without.

    .venv/bin/python benchmarks/recalibration.py [--side 96] [--images 768] [--steps 150] [--epochs 2]

EfficientNet-Lite0, finetuned on photographs of clothing (ten classes; both in ../shared), keeps 90 % of its MACs by
unsteered gates, or by magnitude. Test accuracy is measured after ``slim`` without and with a loader, then
after finetuning in a loop of plain PyTorch, with batch norms of momentum .1 and .01, before and after ``recalibrate``.
Writes results/recalibration.json.
"""

from __future__ import annotations

import argparse
import copy
import io
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import slimsight
from slimsight.compress.files.atomic import write_json
from slimsight.deploy.machine import device_name, versions

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
RESULTS = HERE / "results" / "recalibration.json"
BATCH = 32
MOMENTA = (0.1, 0.01)


def photographs(part: str, side: int, count: int, shared: Path = SHARED) -> TensorDataset:
    """``count`` images of ``part`` (train or test), drawn by a fixed seed; short side ``side``, centre, normalised."""
    with tarfile.open(shared / "data/clothing.tar") as archive:
        names = sorted(name for name in archive.getnames() if name.startswith(f"clothing/{part}/") and "." in name)
        classes = sorted({name.split("/")[2] for name in names})
        chosen = [names[k] for k in np.random.default_rng(0).permutation(len(names))[:count]]
        images = torch.stack([_pixels(archive, name, side) for name in chosen])
    labels = torch.tensor([classes.index(name.split("/")[2]) for name in chosen])
    return TensorDataset((images - 127) / 128, labels)


def _pixels(archive: tarfile.TarFile, name: str, side: int) -> Tensor:
    """(3, side, side) 0..255."""
    file = archive.extractfile(name)
    assert file is not None
    picture = Image.open(io.BytesIO(file.read())).convert("RGB")
    scale = side / min(picture.size)
    picture = picture.resize([max(side, round(length * scale)) for length in picture.size], Image.Resampling.BICUBIC)
    left, top = ((length - side) // 2 for length in picture.size)
    return torch.from_numpy(np.array(picture.crop((left, top, left + side, top + side)))).permute(2, 0, 1).float()


def network(shared: Path = SHARED) -> nn.Module:
    """The trained EfficientNet-Lite0, in eval mode."""
    model = timm.create_model("tf_efficientnet_lite0", num_classes=10)
    model.load_state_dict(load_file(shared / "weights/efficientnet_lite0_clothing.safetensors"))
    return model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """Top-1, in eval mode."""
    model.eval()
    hits = [model(images).argmax(1) == labels for images, labels in DataLoader(data, 2 * BATCH)]
    return round(float(torch.cat(hits).float().mean()), 4)


def finetuned(model: nn.Module, data: TensorDataset, epochs: int, momentum: float) -> nn.Module:
    """A copy, finetuned as a user would; its batch norms have ``momentum``."""
    torch.manual_seed(0)
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    loader = DataLoader(data, BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.005, momentum=0.9)
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model.eval()


def measure(
    model: nn.Module, train: TensorDataset, test: TensorDataset, gates: slimsight.GatesConfig, macs: float, epochs: int
) -> dict[str, Any]:
    """README's flow on ``model``; accuracies on ``test``."""
    loader = DataLoader(train, BATCH, shuffle=True, generator=torch.Generator().manual_seed(0))
    traced = slimsight.trace(model, test.tensors[0][:4])
    scores = slimsight.learn_gates(traced, loader, macs=macs, config=gates)
    plan = slimsight.select(traced, scores, macs=macs, align=8)
    plain = slimsight.slim(traced, plan)
    slimmed = slimsight.slim(traced, plan, loader)
    found: dict[str, Any] = {
        "macs_kept": round(slimmed.macs / traced.cost.total, 4),
        "original": accuracy(model, test),
        "slim": accuracy(plain.model, test),
        "slim_recalibrated": accuracy(slimmed.model, test),
        "finetuned": [],
    }
    for momentum in MOMENTA if epochs else ():
        tuned = finetuned(slimmed.model, train, epochs, momentum)
        row = {"momentum": momentum, "steps": epochs * (len(train) // BATCH), "running": accuracy(tuned, test)}
        slimsight.recalibrate(tuned, loader)
        found["finetuned"].append({**row, "recalibrated": accuracy(tuned, test)})
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=96, help="of the images, pixels")
    parser.add_argument("--images", type=int, default=768, help="training images")
    parser.add_argument("--steps", type=int, default=150, help="of the gates; 0: channels are ranked by magnitude")
    parser.add_argument("--epochs", type=int, default=2, help="of finetuning")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.9], help="shares to keep")
    given = parser.parse_args()
    train, test = photographs("train", given.side, given.images), photographs("test", given.side, 372)
    gates = slimsight.GatesConfig(steer="magnitude")
    if given.steps:
        gates = slimsight.GatesConfig(steer="none", steps=given.steps, batch_size=BATCH)
    rows = []
    for macs in given.macs:
        start = time.process_time()
        row = {"macs": macs, **measure(network(), train, test, gates, macs, given.epochs)}
        rows.append({**row, "cpu_seconds": round(time.process_time() - start)})
        print(rows[-1], flush=True)
    schedule = {"side": given.side, "images": given.images, "gate_steps": given.steps, "epochs": given.epochs}
    tested = {"test_images": len(test), "batch_size": BATCH, "seed": 0}
    about = {"schema": 1, "device": device_name(), "versions": versions(), "model": "tf_efficientnet_lite0"}
    write_json(RESULTS, {**about, **schedule, **tested, "rows": rows})


if __name__ == "__main__":
    main()
