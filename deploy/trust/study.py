"""Tests of explanations on one classifier: every explainer, and the random control, through the same tests."""

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
"""How many images a test uses, by its name, or by its name and an explainer's."""

DEFAULT_TESTS = ("sanity", "perturbation", "insertion_deletion", "tiles")
TESTS = (*DEFAULT_TESTS, "boxes", "roar")


@dataclass(frozen=True)
class TrustSubject:
    """An explainer to be tested: how it is made of a classifier, and a fingerprint of what it has learned."""

    name: str
    factory: Callable[[Classifier], Explainer]
    learned: str = ""


@dataclass(frozen=True)
class RoarTraining:
    """What ROAR trains, how and on what; ``epochs`` of every training, for the record."""

    build: Callable[[], Classifier]
    learn: Learn
    train: ImageSet
    test: ImageSet
    epochs: int


@dataclass(frozen=True)
class _TestResult:
    """What one test found of one explainer; of its ``curves``, paired differences to the control are taken."""

    result: dict[str, Any]
    curves: Mapping[str, Curve]
    images: int
    constant_maps: int


class TrustStudy:
    """One classifier, some images, and what tests say of explanations of its predictions on them.

    Args:
        images: (N, 3, H, W) in [0, 1].
        control: the explainer that every other one has to beat.
        fewer: how many of the images a test uses, spread over all, for tests that take long; of a single explainer
            only for the sanity check, whose figures are not paired with the control's.
        steps: of insertion and of deletion.
        boxes: what the test ``boxes`` takes; training: what ``roar`` takes.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        control: TrustSubject,
        *,
        seed: int = 0,
        fewer: ImageLimits | None = None,
        steps: int = STEPS,
        boxes: BoxedImages | None = None,
        training: RoarTraining | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.classifier = classifier
        self.images = images
        self.control = control
        self.seed = seed
        self.fewer = dict(fewer or {})
        assert all(isinstance(key, str) or key[0] == "sanity" for key in self.fewer), "curves are paired image by image"
        self.steps = steps
        self.boxes = boxes
        self.training = training
        self.progress = progress
        self._maps: dict[str, Saliency] = {}
        self._controls: dict[str, _TestResult] = {}

    def row(self, test: str, subject: TrustSubject) -> dict[str, Any]:
        """What ``test`` finds of ``subject``, JSON; with curves, their differences to the control's, image by image."""
        start = time.monotonic()
        found = self._control(test) if subject == self.control else self._run(test, subject)
        row: dict[str, Any] = {
            "explainer": subject.name,
            "test": test,
            "images": found.images,
            "constant_maps": found.constant_maps,
            "seconds": round(time.monotonic() - start, 1),
            "result": found.result,
        }
        if found.curves and subject != self.control:
            theirs = self._control(test).curves
            row["versus_control"] = {key: paired(ours, theirs[key]).to_dict() for key, ours in found.curves.items()}
        return row

    def count(self, test: str, name: str) -> int:
        """How many images ``test`` uses for the explainer called ``name``."""
        total = len(self.images)
        return min(self.fewer.get((test, name), self.fewer.get(test, total)), total)

    def _control(self, test: str) -> _TestResult:
        if test not in self._controls:
            self._controls[test] = self._run(test, self.control)
        return self._controls[test]

    @cached_property
    def _labels(self) -> Tensor:
        return predicted_classes(self.classifier, self.images)

    def _saliency(self, subject: TrustSubject, which: Tensor) -> Saliency:
        """Maps of the images at ``which``; all images are explained at once, the first time."""
        if subject.name not in self._maps:
            explainer = subject.factory(self.classifier)
            self._maps[subject.name] = self._explain(explainer, self.images, self._labels)
        found = self._maps[subject.name]
        return Saliency(found.maps[which], signed=found.signed)

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
                found = tile_degradation(model, images, maps, tile=side, seed=self.seed, progress=progress)
                result[str(side)], curves[str(side)] = found.to_dict(), found.difference
        return _TestResult(result, curves, len(which), int(is_constant(maps).sum()))

    def _boxes(self, subject: TrustSubject) -> _TestResult:
        assert self.boxes is not None
        images = self.boxes.images
        explainer = subject.factory(self.classifier)
        maps = self._explain(explainer, images, predicted_classes(self.classifier, images)).importance
        found = box_score(maps, self.boxes.boxes, seed=self.seed)
        return _TestResult(found.to_dict(), {}, len(maps), int(is_constant(maps).sum()))

    def _roar(self, subject: TrustSubject) -> _TestResult:
        assert self.training is not None
        given, explainer, maps = self.training, subject.factory(self.classifier), []
        for images in (given.train, given.test):
            pixels = torch.from_numpy(np.array(images.images[:])).float() / 255
            maps.append(self._explain(explainer, pixels, predicted_classes(self.classifier, pixels)).importance)
        # What nothing removed gives is the same for all: it stands in the control's row.
        shares = (0.0, *SHARES) if subject == self.control else SHARES
        found = roar(given.build, given.learn, given.train, given.test, *maps, shares=shares, seed=self.seed)
        result = {**found.to_dict(), "epochs": given.epochs, "train_images": len(given.train)}
        return _TestResult(result, {}, len(given.test), int(is_constant(maps[1]).sum()))


def spread_indices(total: int, count: int) -> Tensor:
    """``count`` positions in ``total`` images, evenly: sets are sorted by class, so all classes are among them."""
    return torch.linspace(0, total - 1, count, dtype=torch.float64).round().long()
