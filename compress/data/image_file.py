"""An image file of anyone's: opened by its content in the formats that are taken, and measured before it is decoded."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from PIL import Image

from ..untrusted import MEBIBYTE, open_limited

FORMATS: Final = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
"""PIL's names. It knows others by their content, whatever a file is called, and has Ghostscript draw one of them."""

MOST_BYTES: Final = 256 * MEBIBYTE
MOST_PIXELS: Final = 2**26  # decoded as RGB: 192 MiB in each of the threads that decode

# What PIL raises on broken files, by format: SyntaxError is its PNG reader, struct.error its TIFF reader.
BROKEN: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    NotImplementedError,  # of its decoders that are written in Python
    struct.error,
    Image.DecompressionBombError,
)


@contextmanager
def open_image(source: Path | bytes) -> Iterator[Image.Image]:
    """The image in a file or in some bytes, its header read and its pixels not yet; of an animation the first picture.

    Raises:
        OSError: it is no file, or larger than ``MOST_BYTES``.
        PIL.UnidentifiedImageError: it is in none of ``FORMATS``.
        ValueError: it has more than ``MOST_PIXELS``.
    """
    with (
        io.BytesIO(source) if isinstance(source, bytes) else open_limited(source, MOST_BYTES) as file,
        Image.open(file, formats=FORMATS) as image,
    ):
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"{width} x {height} pixels, at most {MOST_PIXELS:,} are decoded")
        yield image


def why(error: BaseException) -> str:
    """What was wrong, on one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__
