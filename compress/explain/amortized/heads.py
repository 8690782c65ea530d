"""Heads of the selector: how the decoder's maps become an explanation (radial basis, REAL-X, VarSal's base)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ExplainerRefused
from ..base import Saliency
from .rbf import REFERENCE_SIDE, SIGMA_SHARE, random_rbf, rbf_map, same_area_at, same_area_centred, to_rbf


def resize_maps(maps: Tensor, side: int) -> Tensor:
    """(N, C, s, s) -> (N, C, side, side), bilinear; maps that have that side already stay as they are."""
    if maps.shape[-1] == side:
        return maps
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)


def map_moments(maps: Tensor) -> Tensor:
    """(N, 3) row and column of the centre of mass, and the standard deviation about it along one axis, in pixels.

    The deviation is a mean over both axes: for a radial basis mask well within the image, these are its parameters.
    """
    grid = torch.arange(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    mass = maps[:, 0].sum((1, 2)).clamp_min(torch.finfo(maps.dtype).tiny)
    moments = []
    for axis in (2, 1):  # summed over columns, then over rows
        profile = maps[:, 0].sum(axis) / mass[:, None]
        centre = (profile * grid).sum(1)
        moments.append((centre, (profile * (grid - centre[:, None]) ** 2).sum(1)))
    (row, row_variance), (column, column_variance) = moments
    return torch.stack([row, column, ((row_variance + column_variance) / 2).sqrt()], 1)


def shift_maps(maps: Tensor, shifts: Tensor) -> Tensor:
    """Every map rolled by its own whole pixels ``shifts`` (N, 2), down and right."""
    side = maps.shape[-1]
    grid = torch.arange(side, device=maps.device)
    rows, columns = ((grid - shifts[:, axis, None]) % side for axis in (0, 1))
    each = torch.arange(len(maps), device=maps.device)[:, None, None]
    return maps[each, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def centre_maps(maps: Tensor) -> Tensor:
    """Every map rolled so that its centre of mass is at the middle of the image, to the pixel."""
    middle = (maps.shape[-1] - 1) / 2
    return shift_maps(maps, (middle - map_moments(maps)[:, :2]).round().long())


def total_variance(numbers: Tensor) -> float:
    """Variance over images, summed over all numbers of an explanation: numbers (N, ...) of any precision."""
    count, squares = len(numbers), 0.0
    mean = torch.zeros(numbers[0].numel(), dtype=torch.float64)
    for part in torch.split(numbers.flatten(1), 1024):
        mean += part.double().sum(0).cpu() / count
    for part in torch.split(numbers.flatten(1), 1024):
        squares += float((part.double().cpu() - mean).square().sum())
    return squares / count


_SIGMA = "sigma_share"

RBF_VARIANCE = 22.8
"""Total variance of ISP's C_x over images, in squared pixels of a 32-pixel side, for which g1 was chosen. Measured on
a trained ResNet-20 and CIFAR-10 (benchmarks/results/realx_vs_rbf.json): rows 14.1, columns 7.9, sigma .7."""


class Head(nn.Conv2d):
    """One convolution on the decoder's finest maps (N, width, s, s), and the interpretation of its output.

    ``forward`` returns the explanations' numbers (N, ...) in float32, ISP's C_x: they steer gates and are stored.

    Args:
        width: channels of the decoder's finest maps.
        finest: their side, in pixels.
        side: of the images, in pixels.
    """

    kind: ClassVar[str]
    """The explainer's name in recipes."""

    storage_dtype: ClassVar[torch.dtype] = torch.float32
    """Precision in which the numbers of many images are stored."""

    outputs: ClassVar[int]
    """Channels of the convolution."""

    spanning: ClassVar[bool] = False
    """Whether its kernel spans the finest scale; one pixel otherwise."""

    sized: ClassVar[bool] = True
    """Whether the area of its maps differs between images."""

    def __init__(self, width: int, finest: int, side: int) -> None:
        super().__init__(width, self.outputs, finest if self.spanning else 1)
        self.side = side

    @abstractmethod
    def init_weights_(self) -> None:
        """Initialise the weights."""

    def steered_part(self, numbers: Tensor) -> Tensor:
        """The part of the numbers that steering keeps where the original has it: all of them by default."""
        return numbers

    @abstractmethod
    def to_maps(self, numbers: Tensor) -> Tensor:
        """(N, 1, side, side) probabilities that a pixel is kept."""

    @abstractmethod
    def to_moments(self, numbers: Tensor) -> Tensor:
        """(N, 3) row and column of the explanation's centre, and its radius (sigma), in pixels of the image."""

    @abstractmethod
    def to_saliency(self, numbers: Tensor) -> Saliency:
        """The explanations as saliency maps."""

    @abstractmethod
    def control_masks(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Two controls (N, 1, side, side): the masks centred, and moved to random places."""

    @abstractmethod
    def equal_area_masks(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Controls (N, 1, side, side), each of the area of the image's own map: centred RBFs; maps at random places."""

    @property
    def metadata(self) -> dict[str, str]:
        """What a file of a selector's weights says of its head."""
        return {"explainer": self.kind}

    def read_metadata_(self, metadata: Mapping[str, str]) -> None:
        """Interpret the numbers as the version did that wrote a file with ``metadata``."""

    @abstractmethod
    def unit(self, numbers: Tensor) -> float:
        """Factor of the squared distance between two explanations that makes one g1 fit all explainers.

        Args:
            numbers: (N, ...) ``steered_part`` of the original's explanations of the images that gates learn on.

        Raises:
            ExplainerRefused: they are the same for all images.
        """


class RbfHead(Head):
    """Row, column and sigma in pixels (N, 3), by one convolution that spans the finest scale (ISP supplement)."""

    kind = "rbf"
    outputs = 3
    spanning = True

    sigma_share = SIGMA_SHARE
    """Bound of sigma, as a share of the side."""

    def init_weights_(self) -> None:
        """Explanations start at the centre with sigma about a quarter of the side, nearly the same for all images."""
        assert self.bias is not None
        nn.init.normal_(self.weight, std=1e-3)
        with torch.no_grad():
            self.bias.copy_(torch.tensor([0.0, 0.0, self.side / 3]))

    def forward(self, maps: Tensor) -> Tensor:
        # The kernel spans the map, so this is a matrix product, which is faster as such.
        raw = F.linear(maps.flatten(1), self.weight.flatten(1), self.bias)
        return to_rbf(raw.float(), self.side, self.sigma_share)

    def to_maps(self, numbers: Tensor) -> Tensor:
        return rbf_map(numbers, self.side)

    def to_moments(self, numbers: Tensor) -> Tensor:
        return numbers

    def to_saliency(self, numbers: Tensor) -> Saliency:
        return rbf_saliency(numbers, self.side)

    def control_masks(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        centred = numbers.clone()
        centred[:, :2] = (self.side - 1) / 2
        anywhere = torch.cat([self._random_centres(numbers), numbers[:, 2:]], 1)
        return rbf_map(centred, self.side), rbf_map(anywhere, self.side)

    def equal_area_masks(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        numbers = numbers.float()
        areas = self.to_maps(numbers).flatten(1).mean(1)
        anywhere = same_area_at(self._random_centres(numbers), areas, self.side)
        return rbf_map(same_area_centred(areas, self.side), self.side), rbf_map(anywhere, self.side)

    def _random_centres(self, numbers: Tensor) -> Tensor:
        anywhere = random_rbf(len(numbers), self.side, centre=(2.0, 30.0), sigma=(1.0, 1.0), device=numbers.device)
        return anywhere[:, :2]

    @property
    def metadata(self) -> dict[str, str]:
        return {**super().metadata, _SIGMA: f"{self.sigma_share:g}"}

    def read_metadata_(self, metadata: Mapping[str, str]) -> None:
        """Earlier versions did not bound sigma, and did not say so."""
        self.sigma_share = float(metadata.get(_SIGMA, math.inf))

    def unit(self, numbers: Tensor) -> float:
        """Squared pixels of a 32-pixel side, the unit of ISP's g1, whatever the images."""
        del numbers
        return (REFERENCE_SIDE / self.side) ** 2


def rbf_saliency(numbers: Tensor, side: int) -> Saliency:
    """Saliency maps of RBF parameters (N, 3)."""
    return Saliency(rbf_map(numbers, side)[:, 0], parameters=numbers)


class PixelHead(Head):
    """Base of heads that predict per pixel of the finest scale: maps of any shape, enlarged to the image."""

    storage_dtype = torch.float16
    epoch_keys: ClassVar[str]
    """Recipe keys that set for how long it trains."""

    def to_moments(self, numbers: Tensor) -> Tensor:
        return map_moments(self.to_maps(numbers))

    def control_masks(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.to_maps(numbers)
        return centre_maps(maps), self._moved(maps)

    def equal_area_masks(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.to_maps(numbers)
        areas = maps.flatten(1).mean(1)
        return rbf_map(same_area_centred(areas, self.side), self.side), self._moved(maps)

    def _moved(self, maps: Tensor) -> Tensor:
        """The maps rolled by random shifts: what leaves at one side comes back at the other."""
        return shift_maps(maps, torch.randint(self.side, (len(maps), 2), device=maps.device))

    def unit(self, numbers: Tensor) -> float:
        """Scales the explanations' variance to that of RBF parameters (``RBF_VARIANCE``)."""
        variance = total_variance(numbers)
        if variance == 0:
            raise ExplainerRefused(
                "the explainer gives all images the same explanation: it cannot steer gates; train it for longer "
                f"({self.epoch_keys}) or choose gates.steer=none"
            )
        return RBF_VARIANCE / variance


class RealXHead(PixelHead):
    """A probability per pixel of the finest scale (N, s, s): a softmax over two maps (REAL-X in ISP section 4.3).

    Probabilities are enlarged to the image, not the two maps: the numbers that steer and are stored stay as small as
    the finest scale (at 224 pixels a sixteenth of the image).
    """

    kind = "realx"
    outputs = 2
    epoch_keys = "explainer.predictor.epochs, explainer.selector.epochs"

    def init_weights_(self) -> None:
        """Probabilities start around 1/2: torch's default weights, of both signs.

        With weights near zero the area term makes all of them negative together; the decoder's output is never
        negative, so no pixel would ever exceed 1/2.
        """
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, maps: Tensor) -> Tensor:
        closed, kept = super().forward(maps).float().unbind(1)
        return torch.sigmoid(kept - closed)

    def to_maps(self, numbers: Tensor) -> Tensor:
        return resize_maps(numbers.unsqueeze(1), self.side)

    def to_saliency(self, numbers: Tensor) -> Saliency:
        return Saliency(self.to_maps(numbers)[:, 0])
