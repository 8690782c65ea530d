"""Golden images: image files of many kinds with the input and the logits that slimsight computes from them.

They are validation images, framed and enlarged: as the run keeps only the squares that its preprocessing cut out, each
is mirrored at its edges to a larger rectangle, so that resizing, cropping and the filter matter again. Grey images are
tinted, which shows channels in the wrong order. Some have a single channel, transparency, or a note of rotation.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slimsight.compress.data.decode import open_image, to_bytes
from slimsight.compress.data.preprocessing import Preprocessing
from slimsight.compress.errors import ExportError
from slimsight.export.runners import OnnxRunner, to_input

GOLDEN_IMAGES: Final = 12
_SHAPES: Final = ((1.0, 1.0), (4 / 3, 1.5), (3 / 4, 1.25), (16 / 9, 1.1))
"""Width over height, and the short side over the one that preprocessing scales to."""
_TINT: Final = np.array([1.0, 0.8, 0.55], np.float32).reshape(3, 1, 1)
_ORIENTATION, _ROTATED = 274, 6  # of EXIF: to be shown turned by 90 degrees
_KINDS: Final = {1: "grey", 2: "transparent", 3: "rotated"}
"""Of single images, by their number."""


@dataclass(frozen=True)
class GoldenImage:
    """An image file and what becomes of it. ``input``: (1, 3, S, S) float32 in [0, 1]; ``logits``: (classes,)."""

    name: str
    png: bytes
    input: NDArray[np.float32]
    logits: NDArray[np.float32]

    def to_dict(self) -> dict[str, Any]:
        """Its entry in golden.json; logits to nine digits, which identify a float32."""
        return {
            "file": self.name,
            "input_sha256": hashlib.sha256(np.ascontiguousarray(self.input, "<f4").tobytes()).hexdigest(),
            "logits": [float(f"{value:.9g}") for value in self.logits],
        }


def golden_images(pixels: NDArray[np.uint8], preprocessing: Preprocessing, model: Path) -> list[GoldenImage]:
    """Golden images of validation images ``pixels`` (N, 3, S, S).

    Args:
        model: the ONNX file whose logits, in ONNX Runtime on the CPU, are expected.

    Raises:
        ExportError: ONNX Runtime cannot run the file, or its logits say nothing (all zero).
    """
    files = list(_files(pixels, preprocessing))
    inputs = [to_input(_preprocessed(png, preprocessing)[np.newaxis]) for _, png in files]
    with OnnxRunner(model, 1) as runner:
        logits = [runner.run(image)[0] for image in inputs]
    if not all(np.isfinite(row).all() and row.any() for row in logits):
        raise ExportError(
            f"{model} gives logits on golden images that are zero or not finite: no device can be checked"
        )
    return [GoldenImage(name, png, image, row) for (name, png), image, row in zip(files, inputs, logits, strict=True)]


def _preprocessed(png: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    with open_image(png) as image:
        return to_bytes(image, preprocessing)


def _files(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> Iterator[tuple[str, bytes]]:
    for number, square in enumerate(pixels):
        kind = _KINDS.get(number, "colour")
        aspect, scale = _SHAPES[number % len(_SHAPES)]
        framed = _framed(_tinted(square), preprocessing.resize, aspect)
        height, width = framed.shape[1:]
        image = Image.fromarray(np.ascontiguousarray(framed.transpose(1, 2, 0)))
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        yield f"golden/{number:02d}-{kind}.png", _to_png(image, kind)


def _tinted(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if (square == square[:1]).all():
        return (square * _TINT).astype(np.uint8)
    return square


def _framed(square: NDArray[np.uint8], short: int, aspect: float) -> NDArray[np.uint8]:
    """``square`` (3, S, S) in the middle of a rectangle with short side ``short``, mirrored at its edges."""
    side, long = square.shape[1], round(short * max(aspect, 1 / aspect))
    height, width = (short, long) if aspect >= 1 else (long, short)
    across, down = width - side, height - side
    margins = ((0, 0), (down // 2, down - down // 2), (across // 2, across - across // 2))
    return np.pad(square, margins, mode="symmetric")


def _to_png(image: Image.Image, kind: str) -> bytes:
    options: dict[str, Any] = {}
    if kind == "grey":
        image = image.convert("L")
    elif kind == "transparent":
        image.putalpha(128)
    elif kind == "rotated":
        exif = Image.Exif()
        exif[_ORIENTATION] = _ROTATED
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()
