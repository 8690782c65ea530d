"""Calibration images: what an INT8 file's ranges are measured on, which images they are, and their reader."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError

from ..config import LEAST_IMAGES
from ..runners import refuse_not_finite, to_input

BATCH = 8


@dataclass(frozen=True)
class Calibration:
    """The images that ranges are measured on.

    Args:
        pixels: (N, 3, H, W), uint8 or floating point; at least ``LEAST_IMAGES``.
        source: where they come from, in words.
        rows: their positions in that source, where it has any.
        normalised: floating point is as the file takes it, of any range; else it is in [0, 1].

    Raises:
        ExportError: too few images, not images, or values that are not finite or outside of 0 to 1.
    """

    pixels: NDArray[Any]
    source: str
    rows: tuple[int, ...] = ()
    normalised: bool = False

    def __post_init__(self) -> None:
        given = f"the calibration images ({self.source})"
        if self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise ExportError(f"{given} are {self.pixels.dtype} {self.pixels.shape}: give them as (N, 3, H, W)")
        if len(self.pixels) < LEAST_IMAGES:
            raise ExportError(
                f"{given} are {len(self.pixels)}: INT8 needs at least {LEAST_IMAGES} to measure the ranges of values"
            )
        if self.rows and len(self.rows) != len(self.pixels):
            raise ExportError(f"{given} are {len(self.pixels)} with {len(self.rows)} positions: give one for each")
        if self.pixels.dtype == np.uint8:
            return
        if not np.issubdtype(self.pixels.dtype, np.floating):
            raise ExportError(f"{given} are {self.pixels.dtype}: give uint8 (0 to 255) or floating point (0 to 1)")
        refuse_not_finite(self.pixels, "INT8 calibration")
        if not self.normalised and (self.pixels.min() < 0 or self.pixels.max() > 1):
            raise ExportError(
                f"{given} go from {self.pixels.min():.3g} to {self.pixels.max():.3g}: give floating point from 0 to 1, "
                "or uint8"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels, in their order."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()


def spread_rows(total: int, wanted: int) -> NDArray[np.int64]:
    """``wanted`` positions of ``total``, evenly apart: images that stand in the order of classes come from all of them.

    Raises:
        ExportError: fewer than ``LEAST_IMAGES`` are wanted, or there are fewer.
    """
    if wanted < LEAST_IMAGES:
        raise ExportError(f"{wanted} calibration images were asked for: INT8 needs at least {LEAST_IMAGES}")
    if total < LEAST_IMAGES:
        raise ExportError(f"there are {total} images to calibrate on: INT8 needs at least {LEAST_IMAGES}")
    return np.linspace(0, total - 1, min(total, wanted)).round().astype(np.int64)


class BatchReader:
    """The batches of a calibration, as ``onnxruntime.quantization`` reads them; its length counts batches.

    Args:
        name: the graph's input.
        batch: images per call, where the graph fixes their number; its last image then fills the last batch.
    """

    def __init__(self, calibration: Calibration, name: str, *, batch: int | None) -> None:
        self._pixels, self._name = calibration.pixels, name
        self._step, self._fixed = batch or BATCH, batch is not None
        self._starts: Sequence[int] = range(0, len(self._pixels), self._step)
        self._left: Iterator[int] = iter(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read only these batches next."""
        self._left = iter(self._starts[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch by the input's name; None after the last."""
        start = next(self._left, None)
        if start is None:
            return None
        images = to_input(self._pixels[start : start + self._step])
        if self._fixed and (missing := self._step - len(images)):
            images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        return {self._name: images}
