"""Images with one bounding box each, listed in a CSV or JSON table beside them."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..files.untrusted import MOST_LIST, parse_json, path_inside, printable, read_text
from .decode import DECODE_ERRORS, Encoded, decode, error_text, open_image
from .preprocessing import Preprocessing

COLUMNS = ("file", "x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class BoxedImages:
    """Images (N, 3, S, S) float32 in [0, 1] and their boxes (N, 4) int64: x0, y0, x1, y1 (x1 and y1 exclusive)."""

    names: tuple[str, ...]
    images: Tensor
    boxes: Tensor


def load_boxes(path: Path, preprocessing: Preprocessing) -> BoxedImages:
    """The images of a table of boxes, preprocessed, and the boxes scaled with them.

    The table is CSV with the header ``file,x0,y0,x1,y1``, or JSON: a list of objects with those keys. ``file`` is
    relative to the table's folder; x grows to the right, y down, in pixels of the file; x1 and y1 are exclusive.

    Raises:
        DataError: a table or an image that cannot be read, or a box that exceeds its image.
    """
    rows = _read_table(path)
    names, boxes, encoded = [], [], []
    for number, row in enumerate(rows, 1):
        where = f"{path}, box {number}"
        name, box = _parse_row(row, where)
        if name in names:
            raise DataError(f"{where}: {printable(name)} has a box already; give one box per file")
        file = path_inside(path.parent, name)
        if file is None:
            raise DataError(f"{where}: {printable(name)} is not below the table's folder; put the images there")
        names.append(name)
        boxes.append(_scale_box(box, _image_size(file, where), preprocessing, where))
        encoded.append(Encoded("boxes", name, file, str(file)))
    images = np.stack([item.image for item in decode(encoded, preprocessing)])
    return BoxedImages(tuple(names), torch.from_numpy(images).float() / 255, torch.tensor(boxes))


def _read_table(path: Path) -> list[Mapping[str, Any]]:
    wanted = f"a table of boxes is CSV with the header {','.join(COLUMNS)}, or a JSON list of objects with those keys"
    try:
        text = read_text(path, MOST_LIST)
        rows = parse_json(text) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {wanted}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); {wanted}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds no boxes; {wanted}")
    return rows


def _parse_row(row: Mapping[str, Any], where: str) -> tuple[str, tuple[int, int, int, int]]:
    missing = [name for name in COLUMNS if row.get(name) in (None, "")]
    if missing:
        raise DataError(f"{where} has no {', '.join(missing)}; every box has {', '.join(COLUMNS)}")
    try:
        x0, y0, x1, y1 = (int(str(row[name]).strip()) for name in COLUMNS[1:])
    except ValueError:
        given = printable(", ".join(str(row[name]) for name in COLUMNS[1:]))
        raise DataError(f"{where} is {given}: x0, y0, x1, y1 must be integers (pixels)") from None
    return str(row["file"]), (x0, y0, x1, y1)


def _image_size(file: Path, where: str) -> tuple[int, int]:
    """Width and height, from the file's header."""
    try:
        with open_image(file) as image:
            return image.size
    except DECODE_ERRORS as error:
        raise DataError(f"{where}: image {printable(str(file), 500)} cannot be read ({error_text(error)})") from error


def _scale_box(
    box: tuple[int, int, int, int], size: tuple[int, int], preprocessing: Preprocessing, where: str
) -> tuple[int, int, int, int]:
    """The box in the square that an image of ``size`` becomes, rounded to whole pixels."""
    x0, y0, x1, y1 = box
    width, height = size
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise DataError(
            f"{where} ({x0}, {y0}, {x1}, {y1}) is empty or exceeds its image of {width} x {height} pixels: "
            "0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height are needed"
        )
    window, side = preprocessing.window(width, height), preprocessing.side

    def scale_edges(low: float, high: float, length: float) -> tuple[int, int]:
        start = min(max(math.floor(low * side / length + 0.5), 0), side)
        end = min(max(math.floor(high * side / length + 0.5), 0), side)
        return start, end

    a0, a1 = scale_edges(x0 - window.left, x1 - window.left, window.width)
    b0, b1 = scale_edges(y0 - window.top, y1 - window.top, window.height)
    if a0 == a1 or b0 == b1:
        raise DataError(
            f"{where} ({x0}, {y0}, {x1}, {y1}) lies outside the image's centre square, the {side} x {side} pixels that "
            "the model sees; leave it out"
        )
    return a0, b0, a1, b1
