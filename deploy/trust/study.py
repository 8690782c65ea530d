"""Explanation tests on one classifier: several explainers, and a random control, in the same tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimsight.compress.data import ImageSet
from slimsight.compress.data.boxes import BoxedImages
from slimsight.compress.explain import Explainer, Saliency
from slimsight.compress.explain.fidelity import (
    SIDES,
    STEPS,
    Curve,
    box_score,
    explain_images,
    insertion_deletion,
    is_constant,
    paired,
    pixel_perturbation,
    predicted_classes,
    roar,
    sanity_check,
    tile_degradation,
)
from slimsight.compress.explain.fidelity.roar import SHARES, Learn
from slimsight.compress.models import Classifier
from slimsight.compress.progress import SILENT, Progress

ImageLimits = Mapping[str | tuple[str, str], int]
"""Maximum number of images by test, or by test and explainer."""

DEFAULT_TESTS = ("sanity", "perturbation", "insertion_deletion", "tiles")
TESTS = (*DEFAULT_TESTS, "boxes", "roar")


@dataclass(frozen=True)
class TrustSubject:
    """An explainer to be tested: a factory that takes a classifier, and a fingerprint of its learned weights."""

    name: str
    factory: Callable[[Classifier], Explainer]
    learned: str = ""


@dataclass(frozen=True)
class RoarTraining:
    """The training that ROAR repeats: network, training function and image sets; ``epochs`` for the record."""

    build: Callable[[], Classifier]
    learn: Learn
    train: ImageSet
    test: ImageSet
    epochs: int


@dataclass(frozen=True)
class _TestResult:
    """Result of one test of one explainer; ``curves`` are compared with the control's, paired by image."""

    result: dict[str, Any]
    curves: Mapping[str, Curve]
    images: int
    constant_maps: int


class TrustStudy:
    """Tests of explanations of a classifier's predictions on some images.

    Args:
        images: (N, 3, H, W) in [0, 1].
        control: the explainer with which all others are compared.
        image_limits: for slow tests, the number of images, spread over all; by explainer only for the sanity check,
            whose figures are not paired with the control's.
        steps: of insertion and of deletion.
        boxes: images and boxes of the test ``boxes``; training: of the test ``roar``.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        control: TrustSubject,
        *,
        seed: int = 0,
        image_limits: ImageLimits | None = None,
        steps: int = STEPS,
        boxes: BoxedImages | None = None,
        training: RoarTraining | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.classifier = classifier
        self.images = images
        self.control = control
        self.seed = seed
        self.image_limits = dict(image_limits or {})
        assert all(isinstance(key, str) or key[0] == "sanity" for key in self.image_limits), "curves are paired"
        self.steps = steps
        self.boxes = boxes
        self.training = training
        self.progress = progress
        self._maps: dict[str, Saliency] = {}
        self._controls: dict[str, _TestResult] = {}

    def row(self, test: str, subject: TrustSubject) -> dict[str, Any]:
        """Run ``test`` on ``subject``: a JSON row, with its curves' differences from the control's, paired by image."""
        start = time.monotonic()
        tested = self._run_on_control(test) if subject == self.control else self._run(test, subject)
        row: dict[str, Any] = {
            "explainer": subject.name,
            "test": test,
            "images": tested.images,
            "constant_maps": tested.constant_maps,
            "seconds": round(time.monotonic() - start, 1),
            "result": tested.result,
        }
        if tested.curves and subject != self.control:
            control = self._run_on_control(test).curves
            row["versus_control"] = {key: paired(curve, control[key]).to_dict() for key, curve in tested.curves.items()}
        return row

    def count(self, test: str, name: str) -> int:
        """The number of images that ``test`` uses for the explainer ``name``."""
        total = len(self.images)
        return min(self.image_limits.get((test, name), self.image_limits.get(test, total)), total)

    def _run_on_control(self, test: str) -> _TestResult:
        if test not in self._controls:
            self._controls[test] = self._run(test, self.control)
        return self._controls[test]

    @cached_property
    def _labels(self) -> Tensor:
        return predicted_classes(self.classifier, self.images)

    def _saliency(self, subject: TrustSubject, which: Tensor) -> Saliency:
        """Maps of the images at the indices ``which``; all images are explained on the first call."""
        if subject.name not in self._maps:
            explainer = subject.factory(self.classifier)
            self._maps[subject.name] = self._explain(explainer, self.images, self._labels)
        saliency = self._maps[subject.name]
        return Saliency(saliency.maps[which], signed=saliency.signed)

    def _explain(self, explainer: Explainer, images: Tensor, labels: Tensor) -> Saliency:
        device = next(self.classifier.parameters()).device
        return explain_images(explainer, images, labels, device=device, progress=self.progress)

    def _run(self, test: str, subject: TrustSubject) -> _TestResult:
        if test == "boxes":
            return self._boxes(subject)
        if test == "roar":
            return self._roar(subject)
        which = spread_indices(len(self.images), self.count(test, subject.name))
        images, saliency = self.images[which], self._saliency(subject, which)
        model, maps, progress = self.classifier, saliency.importance, self.progress
        result: dict[str, Any]
        curves: dict[str, Curve] = {}
        if test == "sanity":
            result = sanity_check(
                subject.factory, model, images, maps=saliency.maps, seed=self.seed, progress=progress
            ).to_dict()
        elif test == "perturbation":
            pixels = pixel_perturbation(model, images, maps, seed=self.seed, progress=progress)
            result, curves = pixels.to_dict(), {"kl": pixels.kl, "change": pixels.change}
        elif test == "insertion_deletion":
            both = insertion_deletion(model, images, maps, steps=self.steps, seed=self.seed, progress=progress)
            result, curves = both.to_dict(), {"insertion": both.insertion, "deletion": both.deletion}
        else:
            assert test == "tiles", test
            result = {}
            for side in SIDES:
                tiles = tile_degradation(model, images, maps, tile=side, seed=self.seed, progress=progress)
                result[str(side)], curves[str(side)] = tiles.to_dict(), tiles.difference
        return _TestResult(result, curves, len(which), int(is_constant(maps).sum()))

    def _boxes(self, subject: TrustSubject) -> _TestResult:
        assert self.boxes is not None
        images = self.boxes.images
        explainer = subject.factory(self.classifier)
        maps = self._explain(explainer, images, predicted_classes(self.classifier, images)).importance
        score = box_score(maps, self.boxes.boxes, seed=self.seed)
        return _TestResult(score.to_dict(), {}, len(maps), int(is_constant(maps).sum()))

    def _roar(self, subject: TrustSubject) -> _TestResult:
        assert self.training is not None
        training, explainer, maps = self.training, subject.factory(self.classifier), []
        for images in (training.train, training.test):
            pixels = torch.from_numpy(np.array(images.images[:])).float() / 255
            maps.append(self._explain(explainer, pixels, predicted_classes(self.classifier, pixels)).importance)
        # The accuracy with no pixel removed is the same for all explainers: only the control's row has it.
        shares = (0.0, *SHARES) if subject == self.control else SHARES
        points = roar(
            training.build, training.learn, training.train, training.test, *maps, shares=shares, seed=self.seed
        )
        result = {**points.to_dict(), "epochs": training.epochs, "train_images": len(training.train)}
        return _TestResult(result, {}, len(training.test), int(is_constant(maps[1]).sum()))


def spread_indices(total: int, count: int) -> Tensor:
    """``count`` indices evenly spaced in ``total`` images: sets are sorted by class, so all classes are included."""
    return torch.linspace(0, total - 1, count, dtype=torch.float64).round().long()
