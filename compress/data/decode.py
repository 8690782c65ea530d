"""Decoding of untrusted image files: format by content, size limits before decoding, threads."""

from __future__ import annotations

import io
import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import BrokenImage, DataError
from ..files.untrusted import MEBIBYTE, open_limited, printable
from .preprocessing import Preprocessing

FORMATS: Final = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
"""Accepted formats (PIL's names). By content PIL would open others whatever the suffix, EPS with Ghostscript."""
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
)
MOST_BYTES: Final = 256 * MEBIBYTE
MOST_PIXELS: Final = 2**26  # decoded as RGB: 192 MiB in each of the threads that decode
DECODE_THREADS = min(8, os.cpu_count() or 1)
# Errors that PIL raises on broken files; SyntaxError comes from its PNG reader, struct.error from its TIFF reader.
DECODE_ERRORS: Final = (
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
_CHUNK = 32  # images per task: decoding a CIFAR image takes less time than submitting a task
_CHUNK_BYTES = 16 * MEBIBYTE  # fewer of large images: some chunks wait in memory


class Encoded(NamedTuple):
    """An image to decode: ``name`` is ``<class>/<file>`` below its split, ``where`` its name in messages."""

    split: str
    name: str
    data: Path | bytes
    where: str


class Decoded(NamedTuple):
    """An image ``(3, H, W)`` uint8 and its name ``<class>/<file>``."""

    split: str
    name: str
    image: NDArray[np.uint8]


def decode(
    encoded: Iterable[Encoded], preprocessing: Preprocessing | None, *, expect: int | None = None
) -> Iterator[Decoded]:
    """Decode images, in order. Without ``preprocessing`` all must be squares of one side: ``expect``, or the first's.

    Raises:
        DataError: an image cannot be read or has a different size; it is named.
    """
    reference = "the training images are"
    side = expect if preprocessing is None else preprocessing.side
    for chunk in _decode_in_threads(encoded, preprocessing):
        for item, image in chunk:
            height, width = image.shape[1:]
            if side is None:
                if height != width:
                    raise DataError(
                        f"{item.where} is {width} x {height} pixels, but images must be square; "
                        "set image_size to the side in pixels and they are resized and cropped"
                    )
                side, reference = width, f"{item.where} is"
            if (height, width) != (side, side):
                raise DataError(
                    f"{item.where} is {width} x {height} pixels, but {reference} {side} x {side}; "
                    "images of a tree must have one size: resize them with source: image_folder "
                    f"and image_size, e.g. image_size: {side}"
                )
            yield Decoded(item.split, item.name, image)


@contextmanager
def open_image(source: Path | bytes) -> Iterator[Image.Image]:
    """The image in a file or in bytes, with its header read and its pixels not decoded; the first frame of animations.

    Raises:
        OSError: not a regular file, or larger than ``MOST_BYTES``.
        PIL.UnidentifiedImageError: in none of ``FORMATS``.
        ValueError: more than ``MOST_PIXELS``.
    """
    with (
        io.BytesIO(source) if isinstance(source, bytes) else open_limited(source, MOST_BYTES) as file,
        Image.open(file, formats=FORMATS) as image,
    ):
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"{width} x {height} pixels, at most {MOST_PIXELS:,} are decoded")
        yield image


def to_bytes(image: Image.Image, preprocessing: Preprocessing | None = None) -> NDArray[np.uint8]:
    """RGB image ``(3, H, W)`` uint8; a square of ``preprocessing.side`` pixels, or without it as it is.

    Raises:
        ValueError: the image has more than 8 bits per channel, which PIL would clip to white.
    """
    refuse_mode(image)
    rgb = image.convert("RGB")
    if preprocessing is not None:
        rgb = preprocessing.apply(rgb)
    return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))


def is_image(name: str) -> bool:
    """Whether a path below a split is an image: a known suffix (in any case) and no part that is left out."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(map(is_left_out, path.parts))


_SYSTEM_FOLDERS = frozenset(
    {"@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)


def is_left_out(name: str) -> bool:
    """Whether a folder or a file of this name is none of the user's images: hidden, or made by a system."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def refuse_mode(image: Image.Image) -> None:
    """Raise ValueError for more than 8 bits per channel; ``image`` is opened, and not decoded yet.

    PIL opens RGB of 16 bits as RGB, and drops half of them.
    """
    deep = any(_is_deep(tile[3]) for tile in getattr(image, "tile", ()))
    other = image.mode.startswith(("I", "F"))
    if other or deep:
        kind = f"mode {image.mode}" if other else "16 bits per channel"
        raise ValueError(f"{kind}: only 8 bits per channel are read, convert it to 8-bit RGB")


def _is_deep(arguments: object) -> bool:
    """Whether what PIL gives a decoder says 16 bits: a raw mode such as ``RGB;16B``, or PPM's largest value."""
    parts = arguments if isinstance(arguments, tuple | list) else (arguments,)
    return any(";16" in part if isinstance(part, str) else isinstance(part, int) and part == 65535 for part in parts)


def error_text(error: BaseException) -> str:
    """The message of ``error`` on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _decode_in_threads(
    encoded: Iterable[Encoded], preprocessing: Preprocessing | None
) -> Iterator[list[tuple[Encoded, NDArray[np.uint8]]]]:
    """Decoded chunks in order, a few of them in memory at a time."""
    with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode") as pool:
        running: deque[Future[list[tuple[Encoded, NDArray[np.uint8]]]]] = deque()
        try:
            for chunk in _chunks(encoded, _chunk_size(preprocessing)):
                running.append(pool.submit(_decode_chunk, chunk, preprocessing))
                if len(running) > 2 * DECODE_THREADS:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _chunk_size(preprocessing: Preprocessing | None) -> int:
    if preprocessing is None:
        return _CHUNK
    return max(1, min(_CHUNK, _CHUNK_BYTES // (3 * preprocessing.side**2)))


def _chunks(encoded: Iterable[Encoded], size: int) -> Iterator[list[Encoded]]:
    chunk: list[Encoded] = []
    for item in encoded:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _decode_chunk(chunk: list[Encoded], preprocessing: Preprocessing | None) -> list[tuple[Encoded, NDArray[np.uint8]]]:
    return [(item, _decode_one(item, preprocessing)) for item in chunk]


def _decode_one(item: Encoded, preprocessing: Preprocessing | None) -> NDArray[np.uint8]:
    try:
        with open_image(item.data) as image:
            return to_bytes(image, preprocessing)
    except UnidentifiedImageError as error:
        where = printable(item.where, 500)
        raise BrokenImage(f"{where} is not an image that can be read; replace or remove it") from error
    except DECODE_ERRORS as error:
        where = printable(item.where, 500)
        raise BrokenImage(f"{where} cannot be decoded ({error_text(error)}); replace or remove it") from error


_SMALL = 64  # a JPEG is decoded at an eighth of its size at least, if that has so many pixels a side


def image_error(source: Path | bytes) -> str | None:
    """Why an image cannot be decoded; None if it can. JPEGs are decoded at a fraction of their size: all is read."""
    try:
        if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
            return "empty (0 bytes)"
        with open_image(source) as image:
            refuse_mode(image)
            image.draft(None, (_SMALL, _SMALL))
            image.convert("RGB")
    except UnidentifiedImageError:
        return "not an image"
    except DECODE_ERRORS as error:
        return error_text(error)
    return None
