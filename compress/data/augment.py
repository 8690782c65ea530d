"""What happens to an image of a file while one trains: a function of seed, epoch and position, of nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .on_the_fly import FileImages
from .scaled import DRAWS, Pixels, Window, random_window, read_scaled


@dataclass(frozen=True)
class Augmentation:
    """``crop_scale``: share of the area of a random window, from and to; without, shifts by up to ``crop_padding``.

    ``flip``: mirror with probability 1/2. What a shift brings in is black.
    """

    crop_scale: tuple[float, float] | None = None
    crop_padding: int = 0
    flip: bool = False

    @property
    def draws(self) -> bool:
        """Whether anything is left to chance."""
        return self.crop_scale is not None or self.crop_padding > 0 or self.flip

    def read(self, files: FileImages, row: int, chance: NDArray[np.float64]) -> Pixels:
        """One augmented image ``(side, side, 3)``; ``chance`` (DRAWS,) uniform in [0, 1)."""
        scale = self.crop_scale
        if scale is None:
            image = self._shifted(files.plain(row), chance)
        else:

            def place(width: int, height: int) -> Window:
                return random_window(width, height, scale, chance)

            image = read_scaled(files.path(row), files.side, place)
        return _mirrored(image) if self.flip and chance[DRAWS - 1] < 0.5 else image

    def _shifted(self, image: Pixels, chance: NDArray[np.float64]) -> Pixels:
        if not self.crop_padding:
            return image
        span = 2 * self.crop_padding + 1
        down, across = (int(draw * span) for draw in chance[DRAWS - 3 : DRAWS - 1])
        height, width = image.shape[:2]
        padded = np.pad(image, [(self.crop_padding, self.crop_padding)] * 2 + [(0, 0)])
        return padded[down : down + height, across : across + width]


def _mirrored(image: Pixels) -> Pixels:
    """Left to right, channel by channel: NumPy copies pixels of three bytes one by one, four times as slowly."""
    mirrored = np.empty_like(image)
    for channel in range(image.shape[2]):
        mirrored[..., channel] = image[:, ::-1, channel]
    return mirrored


def epoch_key(seed: int, k: int) -> int:
    """128 bits for one epoch, unrelated for neighbouring seeds and epochs."""
    return int.from_bytes(hashlib.blake2b(f"augment/{seed}/{k}".encode(), digest_size=16).digest(), "little")


def chances(key: int, position: int) -> NDArray[np.float64]:
    """(DRAWS,) uniform in [0, 1) for one position of an epoch, by a counter-based generator: no other is drawn before.

    The raw words are part of Philox' definition (Salmon et al. 2011), so no version of a library changes them.
    """
    words = np.random.Philox(key=key, counter=[0, 0, 0, position]).random_raw(DRAWS)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
