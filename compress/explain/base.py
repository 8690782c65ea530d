"""The interface of explainers (images in, one saliency map per image out) and the checks of what they are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import DataError, ModelError
from ..models.user_code import UserCode
from ..modes import eval_mode


@dataclass(frozen=True)
class Saliency:
    """Saliency maps of a batch of images: the higher a pixel, the more the prediction rests on it.

    Maps of one explainer share a scale; scales differ between explainers: compare ranks, or normalise.

    Args:
        maps: (N, H, W) float, as large as the images.
        parameters: (N, P) the numbers that generate the maps, for an explainer with a parametric form (``rbf``:
            centre row, centre column and sigma in pixels).
        uncertainty: (N, H, W) standard deviation of the maps, in their units, where the explainer estimates it.
        signed: the sign of a map is a direction (brighter or darker pixels raise the class score), not a rank:
            see ``importance``.
    """

    maps: Tensor
    parameters: Tensor | None = None
    uncertainty: Tensor | None = None
    signed: bool = False

    def __post_init__(self) -> None:
        assert self.maps.dim() == 3, f"maps are (N, H, W), not {tuple(self.maps.shape)}"
        assert self.parameters is None or len(self.parameters) == len(self.maps)
        assert self.uncertainty is None or self.uncertainty.shape == self.maps.shape

    @property
    def importance(self) -> Tensor:
        """(N, H, W) values to rank pixels by: the maps, or their magnitudes where they are signed."""
        return self.maps.abs() if self.signed else self.maps


class Explainer(Protocol):
    """Explains the classifier that it was built for; deterministic, in eval mode, leaves no gradients behind."""

    @property
    def name(self) -> str:
        """Its name in recipes and commands: ``rbf``, ``realx``, ``varsal``, ``prunegrad``, ``grad_cam``, ..."""

    def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
        """Explain images (N, 3, H, W) in [0, 1].

        Args:
            labels: (N,) the class to explain, per image; the predicted one if not given.

        Raises:
            ModelError: the classifier lacks something that this explainer needs.
            DataError: images or labels do not fit the classifier; the message names the first that does not.
        """


_PIXEL_TOLERANCE = 1e-3
"""Rounding may leave [0, 1] by this much."""


class CheckedExplainer(ABC):
    """Base of explainers of any classifier: checks the inputs, switches to eval mode, then calls ``_maps``.

    Args:
        classifier: raw images (N, 3, H, W) in [0, 1] -> logits (N, classes).
    """

    name: str
    signed = False

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier = classifier

    def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
        """See ``Explainer.explain``; maps are on the classifier's device."""
        with eval_with_gradients(self.classifier):
            images, labels = to_inputs(self.classifier, images, labels)
            maps = self._maps(images, labels)
        return Saliency(maps.detach(), signed=self.signed)

    @abstractmethod
    def _maps(self, images: Tensor, labels: Tensor) -> Tensor:
        """(N, H, W) maps of checked images (a copy that it may change) and labels (N,); gradients are enabled."""


@contextmanager
def eval_with_gradients(classifier: nn.Module) -> Iterator[None]:
    """Inside the block ``classifier`` is in eval mode and gradients are enabled, even under ``torch.no_grad``."""
    with eval_mode(classifier), torch.inference_mode(False), torch.enable_grad():
        yield


def to_inputs(classifier: nn.Module, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Checked copies on the classifier's device: images, and labels (N,) int64 (the predicted ones if None).

    Costs one forward pass. An explainer that computes logits itself calls ``check_images`` and ``check_labels``.

    Raises:
        DataError: invalid images or labels, or a label beyond the classifier's classes.
        ModelError: the classifier fails on images of this size, or returns something other than finite logits.
    """
    check_images(images)
    parameter = next(classifier.parameters(), None)
    device = images.device if parameter is None else parameter.device
    images = images.detach().to(device, copy=True)
    size = "x".join(map(str, images.shape[1:]))
    with torch.no_grad(), UserCode(f"the classifier does not take {size} images"):
        logits = classifier(images * 1)  # a copy: some models change their input
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
        given = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"the classifier returns {given} for {len(images)} images; only logits ({len(images)}, classes) can be "
            "explained"
        )
    if not logits.isfinite().all():
        raise ModelError("the classifier gives NaN or infinite logits for finite images: its weights are broken")
    if labels is None:
        return images, logits.argmax(1)
    check_labels(labels, len(images), logits.shape[1])
    return images, labels.detach().to(device, torch.int64, copy=True)


def check_images(images: Tensor, side: int | None = None) -> None:
    """Check that images are (N, 3, H, W) floats in [0, 1], and of ``side`` x ``side`` pixels if that is given.

    Raises:
        DataError: they are not.
    """
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape:
        raise DataError(f"images have the shape {shape}; an explainer takes (N, 3, height, width), at least one image")
    if side is not None and shape[2:] != (side, side):
        raise DataError(f"images are {shape[2]}x{shape[3]} pixels; this explainer takes {side}x{side}: resize them")
    if not images.is_floating_point():
        raise DataError(f"images are {images.dtype}; an explainer takes floats in [0, 1]: divide bytes by 255")
    low, high = map(float, images.detach().aminmax())  # NaN and infinity spread to both
    if low >= -_PIXEL_TOLERANCE and high <= 1 + _PIXEL_TOLERANCE:
        return
    broken = (~images.isfinite()).flatten(1).any(1).nonzero()
    if len(broken):
        raise DataError(f"image {int(broken[0])} of the batch holds NaN or infinity; pixels are in [0, 1]")
    raise DataError(
        f"pixels go from {low:.3g} to {high:.3g}; an explainer takes raw images in [0, 1]: divide "
        "bytes by 255, and leave normalisation to the classifier"
    )


def check_labels(labels: Tensor, count: int, classes: int) -> None:
    """Check that labels are ``count`` class indices below ``classes``.

    Raises:
        DataError: they are not.
    """
    if labels.shape != (count,):
        raise DataError(f"labels have the shape {tuple(labels.shape)}; {count} images take labels ({count},)")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"labels are {labels.dtype}; a label is the index of a class, an integer")
    outside = ((labels < 0) | (labels >= classes)).nonzero()
    if len(outside):
        first = int(outside[0])
        raise DataError(
            f"label {int(labels[first])} of image {first}: the classifier has {classes} classes, 0 to {classes - 1}"
        )


def signed_max_abs(values: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W): the value of the channel with the largest magnitude, with its sign."""
    return values.gather(1, values.abs().argmax(1, keepdim=True)).squeeze(1)
