"""A small training that can be killed at a step, with everything in it that a checkpoint has to hold."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from slimsight.compress.data import Batch, Batches, ImageSet
from slimsight.compress.progress import SILENT, Silent
from slimsight.compress.training import Checkpoints, History, Learning, fit, one_cycle


def drawn_images() -> ImageSet:
    drawn = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int64) % 4
    pixels = drawn.integers(0, 256, (40, 3, 8, 8)).astype(np.uint8)
    return ImageSet(pixels, labels, ("a", "b", "c", "d"))


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


class Weight:
    """A controller: what it says depends on all that it saw."""

    def __init__(self) -> None:
        self.value = 1.0

    def follow(self, _: int, figures: Mapping[str, float]) -> None:
        self.value += 0.1 * figures["ce"]

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, float], /) -> None:
        self.value = state["value"]


class Read(Batches):
    """Batches that count the images that are read."""

    read = 0

    def _read(self, indices: Tensor) -> Tensor:
        self.read += len(indices)
        return super()._read(indices)


STEPS = 20  # five epochs of four


def train(
    images: ImageSet,
    fabric: Fabric,
    checkpoints: Checkpoints | None,
    *,
    kill_at: int | None = None,
    adam: bool = True,
    patience: int | None = None,
    before_step: Callable[[int], None] = lambda step: None,
    progress: Any = None,
) -> tuple[dict[str, Tensor], History, float, Read]:
    """Dropout, batch normalisation, channels-last convolutions, a schedule, a controller and a validation."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 4),
    )  # fmt: skip
    weight, seen = Weight(), iter(range(STEPS + 1))
    batches = Read(images, 10, shuffle=True, seed=3, crop_padding=1, flip=True)

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        step = next(seen)
        before_step(step)
        if step == kill_at:
            raise Killed
        noise = random.random() + float(np.random.rand())  # noqa: NPY002
        ce = nn.functional.cross_entropy(wrapped(batch.images), batch.labels)
        return {"loss": (weight.value + 0.1 * noise) * ce, "ce": ce}

    def validate() -> float:
        model.eval()
        with torch.no_grad():
            found = sum(float(nn.functional.cross_entropy(model(b.images), b.labels)) for b in Batches(images, 20))
        model.train()
        return found

    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(model.parameters(), lr=0.02)
        if adam
        else torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    )
    history = fit(
        model,
        batches,
        loss,
        optimizer,
        Learning(fabric, checkpoints, SILENT if progress is None else progress),
        what="test",
        steps=STEPS,
        schedule=one_cycle,
        max_norm=1.0,
        validate=validate,
        patience=patience,
        after_step=weight.follow,
        keeps={"weight": weight},
    )
    return model.state_dict(), history, weight.value, batches


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
