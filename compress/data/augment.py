"""Augmentation of images decoded on the fly: a deterministic function of seed, epoch and position."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .on_the_fly import FileImages
from .preprocessing import Window
from .scaled import DRAWS, Pixels, random_window, read_scaled


@dataclass(frozen=True)
class Augmentation:
    """Random crop or shift, and flip.

    ``crop_scale``: range of a random crop's share of the area; None: shifts by up to ``crop_padding`` pixels, with
    black borders. ``flip``: mirror with probability 1/2.
    """

    crop_scale: tuple[float, float] | None = None
    crop_padding: int = 0
    flip: bool = False

    @property
    def draws(self) -> bool:
        """Whether it uses random numbers at all."""
        return self.crop_scale is not None or self.crop_padding > 0 or self.flip

    def read(self, files: FileImages, row: int, draws: NDArray[np.float64]) -> Pixels:
        """One augmented image ``(side, side, 3)``; ``draws`` (DRAWS,) uniform in [0, 1)."""
        scale = self.crop_scale
        if scale is None:
            image = self._shifted(files.plain(row), draws)
        else:

            def window(width: int, height: int) -> Window:
                return random_window(width, height, scale, draws)

            image = read_scaled(files.path(row), files.side, window, files.preprocessing.interpolation)
        return _mirrored(image) if self.flip and draws[DRAWS - 1] < 0.5 else image

    def _shifted(self, image: Pixels, draws: NDArray[np.float64]) -> Pixels:
        if not self.crop_padding:
            return image
        span = 2 * self.crop_padding + 1
        down, across = (int(draw * span) for draw in draws[DRAWS - 3 : DRAWS - 1])
        height, width = image.shape[:2]
        padded = np.pad(image, [(self.crop_padding, self.crop_padding)] * 2 + [(0, 0)])
        return padded[down : down + height, across : across + width]


def _mirrored(image: Pixels) -> Pixels:
    """Mirrored left to right, channel by channel: four times as fast as NumPy's copy of 3-byte pixels."""
    mirrored = np.empty_like(image)
    for channel in range(image.shape[2]):
        mirrored[..., channel] = image[:, ::-1, channel]
    return mirrored


def scale_window(image: NDArray[np.uint8], scale: tuple[float, float], draws: NDArray[np.float64]) -> Pixels:
    """A random window (``random_window``) of a decoded image, scaled to the image's size (bilinear, antialiased).

    Args:
        image: ``(3, H, W)``; the result is, too.
        draws: (DRAWS,) uniform in [0, 1).
    """
    height, width = image.shape[1:]
    left, top, w, h = random_window(width, height, scale, draws)
    rgb = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    box = (left, top, left + w, top + h)
    return np.asarray(rgb.resize((width, height), Image.Resampling.BILINEAR, box=box)).transpose(2, 0, 1)


def epoch_key(seed: int, k: int) -> int:
    """128-bit generator key of an epoch; unrelated for neighbouring seeds and epochs."""
    return int.from_bytes(hashlib.blake2b(f"augment/{seed}/{k}".encode(), digest_size=16).digest(), "little")


def uniform_draws(key: int, position: int) -> NDArray[np.float64]:
    """(DRAWS,) uniform in [0, 1) for one position of an epoch, by a counter-based generator: independent of the others.

    The raw words are part of Philox's definition (Salmon et al. 2011), so they are the same in all versions of NumPy.
    """
    words = np.random.Philox(key=key, counter=[0, 0, 0, position]).random_raw(DRAWS)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
