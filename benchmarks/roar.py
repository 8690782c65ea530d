"""ROAR (Hooker et al. 2019) on CIFAR-10: accuracy of networks retrained without the most salient pixels.

    .venv/bin/python benchmarks/roar.py [--run runs/keep50/seed0-rbf] [--with gradient ...] [--share 0.3 ...]
        [--seed 0 ...] [--images 5000] [--epochs 10]

A finished run's original (ResNet-20) and its ``rbf`` explain the classes that the original predicts. From every
training and test image the most salient share of the pixels is then set to mean grey, and a ResNet-8 learns from
scratch, on a seeded part of the training images: what a training of ours costs, not what the paper's did (ResNet-50,
ImageNet). Trainings of one seed share weights to begin with, order of images and augmentation. Rows go to
results/roar.json as they come, and are not computed again; so is every explainer's whole set of maps, once a call.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from steering import open_session
from torch import Tensor

from slimsight.compress.config import TrainConfig
from slimsight.compress.data import ImageSet
from slimsight.compress.explain.fidelity import explain_images, predicted_classes, roar
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.finetune import train_classifier
from slimsight.compress.models import Classifier, ResNet
from slimsight.compress.training import Learning
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.run.session import Session
from slimsight.deploy.trust.run import find_trust_subjects
from slimsight.deploy.trust.study import TrustSubject, spread_indices

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "roar.json"
EXPLAINERS = ("random", "rbf", "grad_cam", "gradient", "edges", "smoothgrad_squared")
SHARES = (0.3, 0.7)
DEPTH, TESTED = 8, 2000
NOTHING = "nothing"
"""The row with nothing removed."""


def sample(images: ImageSet, count: int, seed: int) -> ImageSet:
    """A seeded sample of ``images``, in their order."""
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    return images.subset(np.sort(order))


def maps_of(subject: TrustSubject, classifier: Classifier, images: ImageSet, progress: ConsoleProgress) -> Tensor:
    """(N, H, W) importance for the predicted classes."""
    pixels = torch.from_numpy(np.asarray(images.images[:])).float() / 255
    labels = predicted_classes(classifier, pixels)
    return explain_images(subject.factory(classifier), pixels, labels, progress=progress).importance


def train(session: Session, config: TrainConfig, seed: int, model: Classifier, images: ImageSet) -> None:
    """The schedule of every training; the seed decides the images' order and their crops and flips."""
    batches = session.shuffled(images, config.batch_size, crop=True, flip=True)
    batches.seed = seed
    torch.manual_seed(seed)
    train_classifier(model, batches, Learning(session.fabric, progress=session.progress), config=config, what="roar")


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=HERE.parent / "runs" / "keep50" / "seed0-rbf", help="with rbf")
    parser.add_argument("--with", dest="explainers", choices=EXPLAINERS, action="append", help="default: all")
    parser.add_argument("--share", type=float, action="append", help="of the pixels removed; default: .3 and .7")
    parser.add_argument("--seed", type=int, action="append", help="of trainings; default: 0 and 1")
    parser.add_argument("--images", type=int, default=5000, help="training images")
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    config = TrainConfig(epochs=given.epochs)
    schedule = {"network": f"resnet{DEPTH}", "images": given.images, "test_images": TESTED, **config.model_dump()}
    stored: dict[str, Any] = read_json(RESULTS) if RESULTS.exists() else {}
    rows: dict[tuple[str, float, int], dict[str, Any]] = {}
    if stored.get("schedule") == schedule:
        rows = {(row["explainer"], row["share"], row["seed"]): row for row in stored["rows"]}
    with ConsoleProgress() as progress:
        session = open_session(given.run, progress)
        torch.set_num_threads(session.recipe.threads or torch.get_num_threads())
        classifier, classes = session.classifier(), len(session.splits.classes)
        normalize = classifier.normalize
        mean, std = (buffer.flatten().tolist() for buffer in (normalize.mean, normalize.std))
        learned = sample(session.splits.train, given.images, 0)
        test = session.splits.test()
        judged = test.subset(spread_indices(len(test), TESTED).numpy())
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def measure(name: str, share: float, seed: int) -> None:
            if (name, share, seed) in rows:
                return
            if name == NOTHING:
                side = session.splits.image_size
                maps = torch.zeros(len(learned), side, side), torch.zeros(len(judged), side, side)
            else:
                if name not in found:
                    subject = find_trust_subjects(session, [name])[-1]
                    found[name] = tuple(maps_of(subject, classifier, part, progress) for part in (learned, judged))
                maps = found[name]
            start = time.monotonic()
            result = roar(
                lambda: Classifier(ResNet(DEPTH, classes), mean, std),
                partial(train, session, config, seed),
                learned,
                judged,
                *maps,
                shares=(share,),
                seed=seed,
            )
            accuracy = result.points[0].accuracy.to_dict()
            seconds = round(time.monotonic() - start, 1)
            rows[name, share, seed] = {
                "explainer": name,
                "share": share,
                "seed": seed,
                "accuracy": accuracy,
                "seconds": seconds,
            }
            head = {"schema": 1, "schedule": schedule, "device": device_name(), "versions": versions()}
            write_json(RESULTS, {**head, "rows": list(rows.values())})
            progress.note(f"{name}, {share:.0%} removed, seed {seed}: {accuracy['mean']:.3f}, {seconds:.0f} s")

        for seed in given.seed or (0, 1):
            measure(NOTHING, 0.0, seed)
            for name in given.explainers or EXPLAINERS:
                for share in given.share or SHARES:
                    measure(name, share, seed)


if __name__ == "__main__":
    main()
