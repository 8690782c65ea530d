"""How long tests of explanations will take: forward passes and explanations that each needs, times their seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from slimsight.compress.explain.fidelity import SIDES
from slimsight.compress.explain.fidelity.perturbation import SHARES as PERTURBED
from slimsight.compress.explain.fidelity.roar import SHARES as RETRAINED
from slimsight.compress.explain.fidelity.sanity import layers_of
from slimsight.compress.models.fold import to_fast

from .study import TrustStudy, TrustSubject

_TIMED_IMAGES = 8
_TIMED_CALLS = 2
_STEP = 3.0  # of a training, in forward passes


@dataclass(frozen=True)
class WorkPerImage:
    """Forward passes and explanations that a test needs for one image."""

    forwards: int
    explanations: int


def work_of(test: str, height: int, width: int, *, steps: int, layers: int) -> WorkPerImage:
    """The work of ``test``, which is not ``roar``, on an image of ``height`` x ``width`` pixels.

    Args:
        steps: of insertion and of deletion.
        layers: of the classifier, which the sanity check re-initialises in turn.
    """
    if test == "sanity":
        return WorkPerImage(1, layers + 1)
    if test == "perturbation":
        return WorkPerImage(1 + len(PERTURBED), 1)
    if test == "insertion_deletion":
        return WorkPerImage(1 + 2 * (steps - 1), 1)
    if test == "tiles":
        counts = (math.ceil(height / side) * math.ceil(width / side) for side in SIDES)
        return WorkPerImage(sum(1 + 2 * (count - 1) for count in counts), 1)
    return WorkPerImage(1, 1)


def estimate_seconds(study: TrustStudy, wanted: Iterable[tuple[str, TrustSubject]]) -> float:
    """About how long the tests of these explainers take, from a few images timed just now.

    Maps are counted for every test, although those of one explainer are kept; ranking of pixels is not counted.
    """
    with torch.random.fork_rng():  # some explainers draw
        return sum(_seconds(study, test, subject, _Speed.of(study, subject)) for test, subject in wanted)


@dataclass(frozen=True)
class _Speed:
    """Seconds per image of the classifier as tests use it, and of an explainer; layers that are re-initialised."""

    forward: float
    explanation: float
    layers: int

    @classmethod
    def of(cls, study: TrustStudy, subject: TrustSubject) -> _Speed:
        few = study.images[:_TIMED_IMAGES].to(next(study.classifier.parameters()).device)
        fast, explainer = to_fast(study.classifier, few[:1]), subject.factory(study.classifier)
        with torch.no_grad():
            forward = _fastest(lambda: fast(few), few)
        explanation = _fastest(lambda: explainer.explain(few), few)
        return cls(forward, explanation, len(layers_of(study.classifier, few[:1])))


def _seconds(study: TrustStudy, test: str, subject: TrustSubject, speed: _Speed) -> float:
    if test == "roar":
        assert study.training is not None
        training = study.training
        trainings = len(RETRAINED) + (subject == study.control)
        learned = trainings * training.epochs * len(training.train) * _STEP * speed.forward
        return learned + (len(training.train) + len(training.test)) * speed.explanation
    images = len(study.boxes.images) if test == "boxes" and study.boxes is not None else study.count(test, subject.name)
    height, width = study.images.shape[2:]
    work = work_of(test, height, width, steps=study.steps, layers=speed.layers)
    return images * (work.forwards * speed.forward + work.explanations * speed.explanation)


def _fastest(work: Callable[[], object], images: Tensor) -> float:
    seconds = []
    for _ in range(_TIMED_CALLS):
        started = time.perf_counter()
        work()
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        seconds.append(time.perf_counter() - started)
    return min(seconds) / len(images)
