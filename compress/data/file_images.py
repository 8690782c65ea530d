"""Images that stay files: as many as a disk holds, indexed like an array, decoded when they are asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .decode import WORKERS
from .index import Index
from .scaled import Pixels, Window, centre, read_scaled

_MOST_BYTES = 4 << 30
"""What may be asked for at once: whoever wants more has taken a large set of images for a small one."""


class FileImages:
    """The images of an index as ``(N, 3, side, side)`` uint8: the centre square after scaling the short side.

    Args:
        side: pixels; short: what the short side is scaled to before the centre is taken, ``side`` or more.
    """

    def __init__(self, index: Index, side: int, short: int) -> None:
        assert short >= side
        self.names, self.root = index.names, str(index.root)
        self.digest = index.digest
        self.side, self.short = side, short

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.names), 3, self.side, self.side

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> str:
        """Of the file of one image."""
        return f"{self.root}/{self.names[row]}"

    def plain(self, row: int) -> Pixels:
        """One image ``(side, side, 3)``, not augmented."""
        return read_scaled(self.path(row), self.side, self._centre)

    def __getitem__(self, rows: NDArray[np.int64] | np.int64) -> NDArray[np.uint8]:
        """Images ``(n, 3, side, side)`` at an array of positions, or one ``(3, side, side)``; decoded in threads.

        Raises:
            DataError: an image that cannot be read; or more of them than memory should hold.
        """
        wanted = np.atleast_1d(np.asarray(rows))
        size = len(wanted) * 3 * self.side**2
        if size > _MOST_BYTES:
            raise DataError(
                f"{len(wanted):,} images of {self.side} x {self.side} pixels would take {size / 1e9:.0f} GB of memory "
                "at once; ask for fewer of them (data.subset takes a share of the training images)"
            )
        images = np.empty((len(wanted), self.side, self.side, 3), dtype=np.uint8)

        def read(item: tuple[int, Any]) -> None:
            images[item[0]] = self.plain(int(item[1]))

        with ThreadPoolExecutor(WORKERS, thread_name_prefix="decode") as pool:
            for _ in pool.map(read, enumerate(wanted)):
                pass
        found = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return found if np.ndim(rows) else found[0]

    def _centre(self, width: int, height: int) -> Window:
        return centre(width, height, self.side, self.short)
