"""INT8 of an ONNX file with the images of a folder: some calibrate it, others prove it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.data import Preprocessing
from slimsight.compress.data.image_folder import find_images, read_images
from slimsight.compress.data.preprocessing import RESAMPLING
from slimsight.compress.errors import ConfigError, DataError
from slimsight.compress.progress import SILENT, Progress
from slimsight.export.config import MOST_FLOAT_LAYERS
from slimsight.export.int8.calibration import Calibration
from slimsight.export.int8.control import KeptLimits
from slimsight.export.int8.make import Int8Model
from slimsight.export.int8.prepare import check_quantisable
from slimsight.export.onnx_files.graph import read_onnx
from slimsight.export.onnx_files.metadata import (
    CROP,
    INTERPOLATION,
    NORMALISATION,
    NORMALISED_INSIDE,
    RESIZE,
    stored_metadata,
)
from slimsight.export.onnx_files.quantised import Form, Method, WeightScales

from .model import check_choices, check_out, make_with_control, split_rows
from .training import QAT_IMAGES, check_epochs, to_qat

Channels = tuple[float, float, float]


def quantise_from_folder(
    fp32: Path,
    images: Path,
    out: Path | None = None,
    *,
    wanted: int,
    method: Method = "minmax",
    form: Form = "u8",
    normalisation: tuple[Channels, Channels] | None = None,
    weights: WeightScales = "per_channel",
    limits: KeptLimits | None = None,
    max_float_layers: int = MOST_FLOAT_LAYERS,
    qat_epochs: int = 0,
    progress: Progress = SILENT,
) -> Int8Model:
    """Write an FP32 ONNX file in INT8, and prove the file.

    Args:
        fp32: the file.
        images: a folder of training images; they are scaled and cut as the file's metadata say, else to the centre
            square.
        out: the INT8 file; None: beside the FP32 file, ``model.int8.onnx`` or ``model.int8.trt.onnx``.
        wanted: how many images to calibrate on; others, up to 128, are held out for the proof.
        normalisation: mean and standard deviation of each channel, for a file that takes normalised images; None: it
            takes images in [0, 1].
        weights: what one scale of weights is for.
        limits: of agreement and of SQNR; where all layers in INT8 miss one, the fewest that bring it back stay in FP32,
            chosen on images that the file is neither calibrated nor proven on.
        max_float_layers: most layers that stay in FP32.
        qat_epochs: how often weights and ranges are trained with rounding, on images that the file is not proven on;
            not where the calibrated file keeps the limits; 0: not.

    Raises:
        ConfigError: an unknown method, form or kind of scales, or a file at ``out`` that is no INT8 file.
        DataError: no images, too few, or broken ones.
        ExportError: the file cannot be quantised.
    """
    scheme, limits = check_choices(method, form, weights), limits or KeptLimits()
    check_epochs(qat_epochs)
    takes = check_quantisable(fp32)
    assert takes.size is not None
    path = check_out(out or fp32.with_suffix(".int8.onnx" if form == "u8" else ".int8.trt.onnx"), fp32)
    metadata = stored_metadata(read_onnx(fp32, external=False))
    if normalisation is not None and metadata.get(NORMALISATION) == NORMALISED_INSIDE:
        raise ConfigError(f"{fp32} normalises its images itself: leave --mean and --std out")
    preprocessing = _stated_preprocessing(metadata) or _square(takes.size)
    paths = find_images(images)
    rows, others = split_rows(len(paths), wanted, controlled=limits.any)
    more = _spread(np.setdiff1d(np.arange(len(paths)), [*rows, *others]), QAT_IMAGES if qat_epochs else 0)
    chosen = read_images(images, [paths[row] for row in (*rows, *others, *more)], preprocessing)
    if chosen.shape[2:] != takes.size:
        raise DataError(
            f"{fp32.name} states images of {chosen.shape[2]} x {chosen.shape[3]} pixels and takes {takes.size[0]} x "
            f"{takes.size[1]}: export it again"
        )
    pixels = chosen if normalisation is None else _normalised(chosen, normalisation)
    calibration = Calibration(
        pixels[: len(rows)],
        f"images of the folder {images.absolute().name}",
        tuple(map(int, rows)),
        normalised=normalisation is not None,
    )
    first = len(rows) + len(others)
    trained_on = np.concatenate([pixels[: len(rows)], pixels[first:]])
    qat = to_qat(fp32, trained_on, qat_epochs, progress) if qat_epochs else None
    return make_with_control(fp32, path, calibration, pixels[:first], scheme, limits, max_float_layers, qat, progress)


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most ``most`` of the rows, evenly apart."""
    return rows[np.unique(np.linspace(0, max(0, len(rows) - 1), min(most, len(rows))).round().astype(np.int64))]


def read_normalisation(mean: str | None, std: str | None) -> tuple[Channels, Channels] | None:
    """``0.485,0.456,0.406`` and ``0.229,0.224,0.225`` -> numbers; None where neither is given.

    Raises:
        ConfigError: only one is given, or one is not three numbers, or a deviation is not above 0.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ConfigError("--mean and --std belong together: give both, or neither for a file that takes [0, 1]")
    means, deviations = (_channels(text, name) for text, name in ((mean, "--mean"), (std, "--std")))
    if min(deviations) <= 0:
        raise ConfigError(f"--std is '{std}': give three numbers above 0")
    return means, deviations


def _channels(text: str, name: str) -> Channels:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise ConfigError(f"{name} is '{text}': give three numbers, red, green, blue, e.g. 0.485,0.456,0.406")
    return numbers[0], numbers[1], numbers[2]


def _normalised(pixels: NDArray[np.uint8], by: tuple[Channels, Channels]) -> NDArray[np.float32]:
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in by)
    found: NDArray[np.float32] = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return found


def _square(size: tuple[int, int]) -> Preprocessing:
    if size[0] != size[1]:
        raise DataError(
            f"the file takes {size[0]} x {size[1]} pixels: images of a folder are scaled to squares; quantise it in "
            "Python, by slimsight.quantize and a loader"
        )
    return Preprocessing.square(size[0])


def _stated_preprocessing(metadata: Mapping[str, Any]) -> Preprocessing | None:
    """As slimsight states it in the files that it writes; None: the file does not say, or says what is not known."""
    sides, crop, interpolation = metadata.get(RESIZE, ""), metadata.get(CROP, ""), metadata.get(INTERPOLATION, "")
    resize, _, stretched = sides.partition("x")
    side = crop.partition("x")[0]
    if not (resize.isdecimal() and side.isdecimal() and interpolation in RESAMPLING):
        return None
    if not 0 < int(side) <= int(resize):
        return None
    return Preprocessing(int(side), int(resize), interpolation, bool(stretched))
