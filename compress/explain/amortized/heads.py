"""Maps of probabilities (N, 1, H, W): their size, their moments, and the same map in other places."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import PruningError
from ..base import Saliency
from .rbf import REFERENCE_SIDE, random_rbf, rbf_map, same_area_centred, to_rbf


def enlarged(maps: Tensor, side: int) -> Tensor:
    """(N, 1, side, side) from (N, 1, s, s), bilinear; what has that side already stays as it is."""
    if maps.shape[-1] == side:
        return maps
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)


def moments_of(maps: Tensor) -> Tensor:
    """(N, 3) row and column of the centre of mass, and the standard deviation about it along one axis, in pixels.

    The mean over both axes: of a radial basis mask well within the image these are its own three numbers.
    """
    grid = torch.arange(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    mass = maps[:, 0].sum((1, 2)).clamp_min(torch.finfo(maps.dtype).tiny)
    found = []
    for axis in (2, 1):  # what is left of (rows, columns) after summing over the other one
        profile = maps[:, 0].sum(axis) / mass[:, None]
        centre = (profile * grid).sum(1)
        found.append((centre, (profile * (grid - centre[:, None]) ** 2).sum(1)))
    (row, tall), (column, wide) = found
    return torch.stack([row, column, ((tall + wide) / 2).sqrt()], 1)


def moved(maps: Tensor, shifts: Tensor) -> Tensor:
    """Every map moved by its own whole pixels (N, 2) down and right; what leaves comes in on the other side."""
    side = maps.shape[-1]
    grid = torch.arange(side, device=maps.device)
    rows, columns = ((grid - shifts[:, axis, None]) % side for axis in (0, 1))
    each = torch.arange(len(maps), device=maps.device)[:, None, None]
    return maps[each, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def to_centre(maps: Tensor) -> Tensor:
    """Every map moved so that its centre of mass comes to the middle of the image, to the pixel."""
    middle = (maps.shape[-1] - 1) / 2
    return moved(maps, (middle - moments_of(maps)[:, :2]).round().long())


def total_variance(numbers: Tensor) -> float:
    """Variance over images, summed over all that is said of one: numbers (N, ...) of any precision."""
    count, squares = len(numbers), 0.0
    mean = torch.zeros(numbers[0].numel(), dtype=torch.float64)
    for part in torch.split(numbers.flatten(1), 1024):
        mean += part.double().sum(0).cpu() / count
    for part in torch.split(numbers.flatten(1), 1024):
        squares += float((part.double().cpu() - mean).square().sum())
    return squares / count


RBF_VARIANCE = 22.8
"""Total variance of ISP's C_x over images, in squared pixels of a 32-pixel side: what g1 was chosen against. Measured
on a trained ResNet-20 and CIFAR-10 (benchmarks/results/realx_vs_rbf.json): rows 14.1, columns 7.9, sigma .7."""


class Head(nn.Conv2d):
    """One convolution on the decoder's finest maps (N, width, s, s), and the meaning of what comes out.

    ``forward`` gives an explanation's numbers, in float32: (N, ...) as ISP's C_x, what steers gates and what is kept.

    Args:
        width: channels of the decoder's finest maps.
        finest: their side, in pixels.
        side: of the images, in pixels.
    """

    kind: ClassVar[str]
    """The explainer's name in recipes."""

    stored: ClassVar[torch.dtype] = torch.float32
    """What the numbers of many images are kept in."""

    outputs: ClassVar[int]
    """Channels of the convolution."""

    spanning: ClassVar[bool] = False
    """Whether its kernel spans the whole finest scale; one pixel otherwise."""

    sized: ClassVar[bool] = True
    """Whether the area of its maps differs between images."""

    def __init__(self, width: int, finest: int, side: int) -> None:
        super().__init__(width, self.outputs, finest if self.spanning else 1)
        self.side = side

    @abstractmethod
    def start_(self) -> None:
        """Set the weights to start from."""

    def steers(self, numbers: Tensor) -> Tensor:
        """What of an explanation's numbers is to stay as it is, and is kept of the original: all, unless it says so."""
        return numbers

    @abstractmethod
    def to_maps(self, numbers: Tensor) -> Tensor:
        """(N, 1, side, side) probabilities that a pixel is kept."""

    @abstractmethod
    def to_moments(self, numbers: Tensor) -> Tensor:
        """(N, 3) row and column of the explanation's centre and its radius (sigma), in pixels of the image."""

    @abstractmethod
    def to_saliency(self, numbers: Tensor) -> Saliency:
        """The explanation as every explainer gives it."""

    @abstractmethod
    def rivals(self, numbers: Tensor) -> list[Tensor]:
        """Three masks (N, 1, side, side) to beat: at the image's centre; there with equal area; anywhere (drawn)."""

    @abstractmethod
    def unit(self, numbers: Tensor) -> float:
        """What the squared distance between two explanations is multiplied by, so that one g1 asks the same of all.

        Args:
            numbers: (N, ...) what ``steers`` of the original, over the images that gates see.

        Raises:
            PruningError: they are the same for all images.
        """


class RbfHead(Head):
    """Row, column and sigma in pixels (N, 3), by one convolution over the whole finest scale (ISP supplement)."""

    kind = "rbf"
    outputs = 3
    spanning = True

    def start_(self) -> None:
        """Every image near its middle, with a third of the side: hardly any difference between images."""
        assert self.bias is not None
        nn.init.normal_(self.weight, std=1e-3)
        with torch.no_grad():
            self.bias.copy_(torch.tensor([0.0, 0.0, self.side / 3]))

    def forward(self, maps: Tensor) -> Tensor:
        # The kernel spans the map: a matrix product, for which torch has the faster form.
        raw = F.linear(maps.flatten(1), self.weight.flatten(1), self.bias)
        return to_rbf(raw.float(), self.side)

    def to_maps(self, numbers: Tensor) -> Tensor:
        return rbf_map(numbers, self.side)

    def to_moments(self, numbers: Tensor) -> Tensor:
        return numbers

    def to_saliency(self, numbers: Tensor) -> Saliency:
        return rbf_saliency(numbers, self.side)

    def rivals(self, numbers: Tensor) -> list[Tensor]:
        centred = numbers.clone()
        centred[:, :2] = (self.side - 1) / 2
        anywhere = random_rbf(len(numbers), self.side, centre=(2.0, 30.0), sigma=(1.0, 1.0), device=numbers.device)
        anywhere[:, 2] = numbers[:, 2]
        areas = self.to_maps(numbers.float()).flatten(1).mean(1)
        return [rbf_map(params, self.side) for params in (centred, same_area_centred(areas, self.side), anywhere)]

    def unit(self, numbers: Tensor) -> float:
        """Squared pixels of a 32-pixel side, as ISP's g1 is given for, whatever the images."""
        del numbers
        return (REFERENCE_SIDE / self.side) ** 2


def rbf_saliency(numbers: Tensor, side: int) -> Saliency:
    """What RBF parameters (N, 3) say, as every explainer says it."""
    return Saliency(rbf_map(numbers, side)[:, 0], parameters=numbers)


class PixelHead(Head):
    """A number per pixel of the finest scale steers; maps of any shape, enlarged to the image."""

    stored = torch.float16
    trained_by: ClassVar[str]
    """The recipe's keys that say for how long."""

    def to_moments(self, numbers: Tensor) -> Tensor:
        return moments_of(self.to_maps(numbers))

    def rivals(self, numbers: Tensor) -> list[Tensor]:
        maps = self.to_maps(numbers)
        areas = maps.flatten(1).mean(1)
        shifts = torch.randint(self.side, (len(maps), 2), device=maps.device)
        return [to_centre(maps), rbf_map(same_area_centred(areas, self.side), self.side), moved(maps, shifts)]

    def unit(self, numbers: Tensor) -> float:
        """The share of the explanations' own variance, at the scale that RBF parameters have (``RBF_VARIANCE``)."""
        spread = total_variance(numbers)
        if spread == 0:
            raise PruningError(
                "the explainer says the same of every image: that cannot steer gates; train it for longer "
                f"({self.trained_by}) or choose gates.steer=none"
            )
        return RBF_VARIANCE / spread


class RealXHead(PixelHead):
    """A probability per pixel of the finest scale (N, s, s): a softmax over two maps (REAL-X in ISP section 4.3).

    Probabilities are enlarged to the image, not the two maps: what steers and what is stored stays as small as the
    finest scale (at 224 pixels a sixteenth of the image).
    """

    kind = "realx"
    outputs = 2
    trained_by = "explainer.predictor.epochs, explainer.selector.epochs"

    def start_(self) -> None:
        """A half, give or take: torch's own weights, of both signs.

        With weights near zero the area term drives all of them below it together; what the decoder gives is never
        negative, and no pixel then ever comes to more than a half.
        """
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, maps: Tensor) -> Tensor:
        closed, kept = super().forward(maps).float().unbind(1)
        return torch.sigmoid(kept - closed)

    def to_maps(self, numbers: Tensor) -> Tensor:
        return enlarged(numbers.unsqueeze(1), self.side)

    def to_saliency(self, numbers: Tensor) -> Saliency:
        return Saliency(self.to_maps(numbers)[:, 0])
