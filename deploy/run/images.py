"""The images of a run: splits, samples, batches, and what of them belongs to a stage's fingerprint."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from slimsight.compress.config import DataConfig
from slimsight.compress.data import (
    Batches,
    Flow,
    ImageSet,
    Preprocessing,
    Splits,
    content_key,
    open_splits,
    to_batches,
)
from slimsight.compress.data.images import sample_rows
from slimsight.compress.data.unread import unread_notes
from slimsight.compress.progress import Progress
from slimsight.compress.training import make_fabric

from ..settings.recipe import Recipe
from .processes import launched_processes


def augmentation(data: DataConfig) -> list[Any]:
    """Augmentation settings used while weights are trained."""
    return [data.crop_padding if data.crop_scale is None else list(data.crop_scale), data.flip]


EVALUATION_BATCH = 256
NO_TEST_FOLDER = (
    "what the folder calls validation images validates, nothing is cut from train/, and there is no test/; add one, or "
    "set data.val_is_test"
)
_PARITY_BYTES = 300_000_000


class RunImages:
    """Opens the images that a recipe names and batches them for the run's stages."""

    def __init__(self, recipe: Recipe, progress: Progress, cache: Path) -> None:
        self.recipe = recipe
        self.progress = progress
        self.cache = cache

    @cached_property
    def fabric(self) -> Fabric:
        """Fabric of the run; with several processes the first access waits for all ranks."""
        return make_fabric(self.recipe.precision, accumulate=self.recipe.accumulate, together=launched_processes() > 1)

    @property
    def labelled(self) -> bool:
        """Whether the images have labels of their own."""
        return self.recipe.data.labels == "folders"

    @property
    def score(self) -> str:
        """What the share of predictions that are the labels is: ``accuracy``, or ``agreement`` with the original."""
        return "accuracy" if self.labelled else "agreement"

    @property
    def score_text(self) -> str:
        """``score`` on validation images, in words."""
        return "validation accuracy" if self.labelled else "agreement with the original on validation images"

    @property
    def splits(self) -> Splits:
        """The images with the labels that stages learn from and measure on; see ``opened``."""
        return self.opened

    @cached_property
    def opened(self) -> Splits:
        """The images as they are; without labels of their own all are of one class."""
        opened = open_splits(self.recipe.data, cache_dir=self.cache, seed=self.recipe.seed, progress=self.progress)
        path = self.recipe.data.path
        for note in unread_notes(path) if path is not None and path.is_dir() else ():
            self.progress.note(note)
        if not opened.has_test:
            self.progress.note(f"no test images: {NO_TEST_FOLDER}")
        return opened

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image file becomes what the run's models take; of images taken as they are, the centre square."""
        return Preprocessing.of(self.recipe.data) or Preprocessing.square(self.splits.image_size)

    @cached_property
    def data_key(self) -> str:
        """Changes with the training and validation images: their labels, and the content of each."""
        return content_key(self.opened.train, self.opened.val)

    @cached_property
    def test_key(self) -> str | None:
        """Changes with the test images: their labels, and the content of each; None: there are none."""
        return self.opened.test_key()

    @property
    def example(self) -> Tensor:
        """(1, 3, H, W) one validation image in [0, 1]."""
        return self.some_images(1)

    def some_images(self, count: int) -> Tensor:
        """(count, 3, H, W) validation images in [0, 1], spread over the classes."""
        return torch.from_numpy(np.asarray(self.opened.val.images[self._spread(count)])).float() / 255

    def parity_images(self) -> NDArray[np.uint8]:
        """(N, 3, H, W) all validation images, or as many, spread over the classes, as little memory holds."""
        images = self.opened.val.images
        each = int(np.prod(images.shape[1:]))
        return np.asarray(images[self._spread(max(1, _PARITY_BYTES // each))])

    def some_pixels(self, count: int) -> NDArray[np.uint8]:
        """(count, 3, H, W) the same images as stored."""
        return np.asarray(self.opened.val.images[self._spread(count)])

    def some_labels(self, count: int) -> Tensor:
        """(count,) the labels of ``some_images``."""
        return torch.from_numpy(self.splits.val.labels[self._spread(count)])

    def _spread(self, count: int) -> NDArray[np.int64]:
        total = len(self.opened.val)
        return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)

    def plain(self, images: ImageSet, flow: Flow | None = None) -> Batches:
        """All images in order, not augmented; ``flow`` counts the time of reading those that stay files."""
        return self._batches(images, EVALUATION_BATCH, flow)

    def shuffled(
        self, images: ImageSet, batch_size: int, flow: Flow | None = None, *, crop: bool = False, flip: bool = False
    ) -> Batches:
        """Full batches in an order that the recipe's seed and the epoch decide, augmented as the recipe says."""
        data = self.recipe.data
        return self._batches(
            images,
            batch_size,
            flow,
            shuffle=True,
            seed=self.recipe.seed,
            crop_padding=data.crop_padding if crop else 0,
            crop_scale=data.crop_scale if crop else None,
            flip=data.flip and flip,
            drop_last=True,
        )

    def _batches(self, images: ImageSet, batch_size: int, flow: Flow | None, **options: Any) -> Batches:
        """Of at most ``batch_size``; images that stay files are decoded by the recipe's workers."""
        reading = {"workers": self.recipe.data.workers, "device": self.fabric.device, "flow": flow}
        return to_batches(images, min(batch_size, len(images)), **options, **reading)

    def gate_images(self) -> ImageSet:
        """The training images that gates see: all, as many as the recipe says, or its share of every class."""
        return self._sample(self.recipe.gates.images)

    def explainer_images(self) -> ImageSet:
        """The training images that the explainer learns on; of the same share they are those of the gates."""
        return self._sample(self.recipe.explainer.images)

    def _sample(self, wanted: int | float | None) -> ImageSet:
        """Drawn by the images' own labels: a share of every class that a model predicts would be another number."""
        if wanted is None:
            return self.splits.train
        return self.splits.train.subset(sample_rows(self.opened.train.labels, wanted, seed=self.recipe.seed))
