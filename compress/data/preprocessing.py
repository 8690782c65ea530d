"""Preprocessing of images: scaled, and the centre square cut out, to the picture that torchvision and timm make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from PIL import Image

from ..config import DataConfig, Interpolation

RESAMPLING: Final[dict[Interpolation, Image.Resampling]] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""PIL's filters; all but nearest are antialiased: they widen where an image is made smaller."""


class Window(NamedTuple):
    """A rectangle of an image, in pixels of the file, from its top left corner."""

    left: float
    top: float
    width: float
    height: float

    def box(self, across: float, down: float, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """PIL's box in an image of ``size`` that is the file, scaled by ``across`` and ``down``.

        Clamped to the image: rounding may put an edge outside by the last bit, which PIL refuses.
        """
        right, bottom = (self.left + self.width) * across, (self.top + self.height) * down
        return max(self.left * across, 0.0), max(self.top * down, 0.0), min(right, size[0]), min(bottom, size[1])


@dataclass(frozen=True)
class Preprocessing:
    """How an image of any size becomes a square: scaled to ``resize``, then the centre of ``side`` pixels is cut out.

    Args:
        side: of the square, pixels.
        resize: pixels that the short side is scaled to, at least ``side``; with ``stretch`` both sides.
        interpolation: PIL's filter (``RESAMPLING``).
        stretch: scale width and height apart, so that the aspect ratio is lost.
    """

    side: int
    resize: int
    interpolation: Interpolation = "bilinear"
    stretch: bool = False

    def __post_init__(self) -> None:
        assert self.resize >= self.side > 0, f"the centre of {self.side} does not fit into {self.resize}"

    @classmethod
    def square(cls, side: int) -> Preprocessing:
        """The default: the largest centre square, scaled to ``side`` (bilinear)."""
        return cls(side, side)

    @classmethod
    def of(cls, config: DataConfig) -> Preprocessing | None:
        """That of a recipe; None: images are taken as they are, and must be squares of one side."""
        side = config.image_size
        return None if side is None else cls(side, config.resize or side, config.interpolation, config.stretch)

    @property
    def resampling(self) -> Image.Resampling:
        return RESAMPLING[self.interpolation]

    @property
    def cache_key(self) -> int | str:
        """Part of the key of decoded images; of the default the side alone, as before there were others."""
        if self == Preprocessing.square(self.side):
            return self.side
        return f"{self.side} of {self.resize} {self.interpolation}{' stretched' if self.stretch else ''}"

    @property
    def brief(self) -> str:
        """In the words of a recipe, to tell several apart."""
        return f"resize {self.resize}{' stretched' if self.stretch else ''} {self.interpolation}, crop {self.side}"

    @property
    def words(self) -> str:
        """In words, for recipes, reports and the metadata of exported files."""
        scaled = f"{'both sides' if self.stretch else 'short side'} scaled to {self.resize} pixels"
        cut = f"centre crop {self.side} x {self.side}"
        return f"{scaled} ({self.interpolation}), {'all of it' if self.resize == self.side and self.stretch else cut}"

    def window(self, width: int, height: int) -> Window:
        """The part of an image of ``width`` x ``height`` pixels that becomes the square.

        In whole pixels of the scaled image, as in torchvision's ``Resize`` and ``CenterCrop``; where the short side
        becomes the square's side, the exact centre.
        """
        if self.stretch:
            scaled = (self.resize, self.resize)
        elif self.resize == self.side:
            edge = min(width, height)
            return Window((width - edge) / 2, (height - edge) / 2, edge, edge)
        else:
            long = int(self.resize * max(width, height) / min(width, height))
            scaled = (self.resize, long) if width <= height else (long, self.resize)
        across, down = width / scaled[0], height / scaled[1]
        left, top = (round((length - self.side) / 2) for length in scaled)
        return Window(left * across, top * down, self.side * across, self.side * down)

    def apply(self, image: Image.Image) -> Image.Image:
        """The square of an RGB ``image``; equal to scaling all of it and cutting the centre out."""
        box = self.window(*image.size).box(1, 1, image.size)
        return image.resize((self.side, self.side), self.resampling, box=box)


def cache_key(preprocessing: Preprocessing | None) -> int | str | None:
    """Part of the key of decoded images; None where they are taken as they are."""
    return None if preprocessing is None else preprocessing.cache_key
