"""Memory of batches, given out again once nobody looks at it: new memory costs a page fault for every 4 KiB."""

from __future__ import annotations

import sys

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_UNUSED = 3  # references to an array that is in the list, is looked at, and is being asked for its references


class Recycled:
    """Uint8 tensors of one shape; one's memory serves again when no tensor or array that shares it is left.

    Args:
        shape: (n, ...) of the largest that is wanted.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._arrays: list[NDArray[np.uint8]] = []

    def take(self, size: int) -> Tensor:
        """(size, ...) with anything in it, ``size`` at most ``n``; as many as are held at a time take memory."""
        for array in self._arrays:
            if sys.getrefcount(array) == _UNUSED:
                return torch.from_numpy(array[:size])
        array = np.empty(self.shape, dtype=np.uint8)
        self._arrays.append(array)
        return torch.from_numpy(array[:size])
