"""Control explainers that ignore the classifier: a useful test of explanations must reject them."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor
from torch.nn import functional as F

from ..base import CheckedExplainer

_LUMINANCE = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601)."""


class RandomMaps(CheckedExplainer):
    """Uniform noise in [0, 1), seeded by the image's pixels: the same map for the same image, in any batch."""

    name = "random"

    def _maps(self, images: Tensor, labels: Tensor) -> Tensor:
        del labels
        drawn = []
        for image in images.float().cpu():
            generator = torch.Generator().manual_seed(zlib.crc32(image.numpy().tobytes()))
            drawn.append(torch.rand(image.shape[1:], generator=generator))
        return torch.stack(drawn).to(images)


class Edges(CheckedExplainer):
    """Sobel magnitude of the luminance: an edge detector (Adebayo et al. 2018, section 5)."""

    name = "edges"

    def _maps(self, images: Tensor, labels: Tensor) -> Tensor:
        del labels
        grey = torch.einsum("nchw,c->nhw", images, images.new_tensor(_LUMINANCE)).unsqueeze(1)
        across = images.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        kernels = torch.stack([across, across.T]).unsqueeze(1)
        slopes = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), kernels)
        magnitude: Tensor = torch.linalg.vector_norm(slopes, dim=1)
        return magnitude


class CentreMaps(CheckedExplainer):
    """Closeness to the image's centre, in pixels, 0 at the corners: photographs tend to show their object there."""

    name = "centre"

    def _maps(self, images: Tensor, labels: Tensor) -> Tensor:
        del labels
        rows, columns = (
            torch.arange(side, device=images.device, dtype=images.dtype) - (side - 1) / 2 for side in images.shape[2:]
        )
        distance = torch.hypot(rows[:, None], columns[None, :])
        return (distance.max() - distance).expand(len(images), -1, -1).clone()


class ConstantMaps(CheckedExplainer):
    """One everywhere: all ranks are ties, and correlations with it are undefined."""

    name = "constant"

    def _maps(self, images: Tensor, labels: Tensor) -> Tensor:
        del labels
        return torch.ones_like(images[:, 0])
