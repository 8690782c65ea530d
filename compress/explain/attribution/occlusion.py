"""Occlusion: what the explained class's logit loses where a patch is covered. It needs outputs only, no gradients."""

from __future__ import annotations

import importlib

from torch import Tensor, nn

from ..base import CheckedExplainer

CELLS = 6
"""Patches along each side of an image, unless told otherwise."""

_ROWS = 64  # images in one forward pass


class Occlusion(CheckedExplainer):
    """Loss of logit where a patch takes the image's mean colour (Zeiler and Fergus 2014, section 4.2), by captum.

    Args:
        classifier: raw images (N, 3, H, W) in [0, 1] -> logits (N, classes); also one without gradients, such as an
            exported file.
        cells: patches along each side; the map has one value for each.
    """

    name = "occlusion"
    signed = True

    def __init__(self, classifier: nn.Module, *, cells: int = CELLS) -> None:
        super().__init__(classifier)
        self.cells = cells
        self._captum = importlib.import_module("captum.attr")

    def _maps(self, images: Tensor, labels: Tensor) -> Tensor:
        patch = (images.shape[1], *(-(-side // self.cells) for side in images.shape[2:]))
        lost: Tensor = self._captum.Occlusion(self.classifier).attribute(
            images,
            sliding_window_shapes=patch,
            strides=patch,
            baselines=images.mean((2, 3), keepdim=True).expand_as(images),
            target=labels,
            perturbations_per_eval=max(1, _ROWS // len(images)),
        )
        return lost[:, 0]  # a patch covers all colours: their values are the same
