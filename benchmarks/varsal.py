"""VarSal on ResNet-20/CIFAR-10: do its maps rank pixels better than chance, and the cost of its KL term.

    .venv/bin/python benchmarks/varsal.py maps [--images 6000 --epochs 2 --lr 1e-3] [--pictures DIR] [--save FILE]
    .venv/bin/python benchmarks/varsal.py kl

maps: a short training on a seeded part of the training images; the best epoch is chosen on 500 validation images, the
figures are of 1,000 test images, with the lowest pixels zeroed after normalisation (KL to the whole image's
prediction, nats). Beside the map: a random order, the map of another image, and the distance to the image's centre
(CIFAR's objects are centred). kl: one thread, forward and backward in float32, median and largest of 20 repeats.
Rows go to results/varsal.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from slimsight.compress.config import VarSalConfig
from slimsight.compress.data import Batches, ImageSet, Splits, open_splits
from slimsight.compress.explain.varsal import Encoder, SoftTVPrior, VarSal, judge_maps, refuse_flat, train_maps
from slimsight.compress.explain.varsal.learn import keep_highest
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.models import build_classifier
from slimsight.compress.training import Learning, make_fabric
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.host import default_cache
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.settings.recipe import load_recipe

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "varsal.json"
RECIPE = HERE.parent / "configs" / "cifar10_resnet20.yaml"
SIDES, REPEATS = (32, 112, 224), 20
VALIDATED, JUDGED, SHOWN = 500, 1000, 8
SHOWN_KEPT = 0.3


def sample(images: ImageSet, count: int, seed: int) -> ImageSet:
    """A seeded sample, in random order."""
    return images.subset(np.random.default_rng(seed).permutation(len(images))[:count])


def measure_maps(given: argparse.Namespace, progress: ConsoleProgress) -> dict[str, Any]:
    """Train, judge on test images, draw."""
    recipe = load_recipe(RECIPE, [])
    splits: Splits = open_splits(recipe.data, cache_dir=default_cache(), seed=given.seed, progress=progress)
    classifier = build_classifier(recipe.model, len(splits.classes)).eval().requires_grad_(False)
    fabric = make_fabric(recipe.precision)
    classifier.to(fabric.device)
    config = VarSalConfig(epochs=given.epochs, lr=given.lr, batch_size=given.batch_size)
    train = Batches(
        sample(splits.train, given.images, given.seed), config.batch_size, shuffle=True, seed=given.seed, drop_last=True
    )
    val = Batches(sample(splits.val, VALIDATED, given.seed), 250)
    test = Batches(sample(splits.test(), JUDGED, given.seed), 250)
    torch.manual_seed(given.seed)
    maps = Encoder()
    start = time.perf_counter()
    history = train_maps(maps, classifier, train, val, Learning(fabric, progress=progress), config=config)
    seconds = time.perf_counter() - start
    quality = judge_maps(maps, classifier, test, fabric)
    refuse_flat(quality)
    if given.pictures:
        draw(maps.cpu(), classifier.cpu(), splits, given.pictures)
    if given.save:
        VarSal(maps).save(given.save)
    settings = {"images": given.images, "seed": given.seed, "precision": recipe.precision}
    return {
        "network": recipe.model.name,
        "settings": settings | config.model_dump(mode="json"),
        "seconds": round(seconds, 1),
        "epochs": history.epochs,
        "validations": history.validations,
        "test": quality.to_dict(),
    }


def draw(maps: nn.Module, classifier: nn.Module, splits: Splits, folder: Path) -> None:
    """Image, mean map, uncertainty, and what is left of the image with its lowest 70 % in mean grey."""
    from matplotlib import pyplot as plt

    images = torch.from_numpy(np.asarray(sample(splits.val, SHOWN, 1).images[:])).float() / 255
    found = VarSal(maps).explain(images)
    assert found.uncertainty is not None
    with torch.no_grad():
        names = [splits.classes[index] for index in classifier(images).argmax(1).tolist()]
    masked = torch.where(keep_highest(found.maps, SHOWN_KEPT) > 0, images, torch.tensor(0.45))
    figure, axes = plt.subplots(4, SHOWN, figsize=(2 * SHOWN, 8))
    for column in range(SHOWN):
        axes[0, column].imshow(images[column].permute(1, 2, 0))
        axes[0, column].set_title(names[column])
        axes[1, column].imshow(found.maps[column], cmap="viridis")
        axes[2, column].imshow(found.uncertainty[column], cmap="magma")
        axes[3, column].imshow(masked[column].permute(1, 2, 0))
    for axis, label in zip(axes[:, 0], ("image, prediction", "mu", "sqrt(nu)", "highest 30 %"), strict=True):
        axis.set_ylabel(label)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "varsal.png", dpi=80)
    plt.close(figure)


def measure_kl() -> list[dict[str, Any]]:
    """Milliseconds of one map's KL with its gradients, per size."""
    torch.set_num_threads(1)
    rows = []
    for side in SIDES:
        prior = SoftTVPrior(side, side)
        mean, log_variance = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(0))
        mean.requires_grad_()
        log_variance.requires_grad_()
        times = []
        for _ in range(REPEATS + 3):
            start = time.perf_counter()
            prior.kl(mean, log_variance).sum().backward()
            times.append(1e3 * (time.perf_counter() - start))
        warm = times[3:]
        rows.append({"side": side, "maps": 1, "median_ms": statistics.median(warm), "largest_ms": max(warm)})
        print(f"{side} x {side}: {rows[-1]['median_ms']:.2f} ms, at most {rows[-1]['largest_ms']:.2f}")
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["maps", "kl"])
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3, help="the paper's 1e-4 is for ten epochs of all images")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=Path, help="folder for pictures of some maps")
    parser.add_argument("--save", type=Path, help="file for the trained maps")
    given = parser.parse_args()
    stored: dict[str, Any] = read_json(RESULTS) if RESULTS.exists() else {}
    if given.what == "kl":
        found: dict[str, Any] = {"kl_cost": measure_kl()}
    else:
        with ConsoleProgress() as progress:
            found = {"maps": measure_maps(given, progress)}
        test = found["maps"]["test"]
        for name in ("kl", "kl_random", "kl_other", "kl_centre"):
            print(f"{name:10} " + " ".join(f"{value:.3f}" for value in test[name]))
        print(f"spread {test['spread']:.3f}, variety {test['variety']:.3f}, uncertainty {test['uncertainty']:.3f}")
    for part in found:
        found[part] = {"device": device_name(), "versions": versions(), "rows": found[part]}
    write_json(RESULTS, {"schema": 1} | {key: value for key, value in stored.items() if key != "schema"} | found)


if __name__ == "__main__":
    main()
