"""INT8 of an ONNX file or a slim model: calibrated on some images, proven on others."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from slimsight.compress.data import first_images
from slimsight.compress.errors import ConfigError, ExportError
from slimsight.compress.progress import SILENT, Progress
from slimsight.compress.registry import nearest
from slimsight.export.config import DEFAULT_IMAGES, LEAST_IMAGES, MOST_FLOAT_LAYERS
from slimsight.export.int8.calibration import Calibration, spread_rows
from slimsight.export.int8.control import Control, ControlImages, KeptLimits
from slimsight.export.int8.make import Int8Model, make_int8
from slimsight.export.int8.prepare import check_quantisable
from slimsight.export.int8.qat import Qat
from slimsight.export.int8.quantise import Scheme
from slimsight.export.onnx_files.graph import read_onnx
from slimsight.export.onnx_files.metadata import stored_metadata
from slimsight.export.onnx_files.quantised import Form, Method, WeightScales, stated_form
from slimsight.export.pt2.export import load_program
from slimsight.export.to_onnx import export_onnx

from ..slim_folder import PROGRAM, Slimmed, load
from ..timing.file_ratio import time_file_ratio
from .training import QAT_IMAGES, check_epochs, to_qat

MOST_HELD_OUT = 128
"""Most images that a file is proven on, beside those that it was calibrated on."""


def quantize(
    source: Slimmed | str | Path,
    loader: Iterable[Any],
    out: str | Path,
    *,
    images: int = DEFAULT_IMAGES,
    method: Method = "minmax",
    form: Form = "u8",
    weights: WeightScales = "per_channel",
    agreement: float | None = None,
    sqnr_db: float | None = None,
    max_float_layers: int = MOST_FLOAT_LAYERS,
    qat_epochs: int = 0,
    progress: Progress = SILENT,
) -> Int8Model:
    """Write a slim model, or any FP32 ONNX file, in INT8, and prove the file.

    Args:
        source: what ``slim`` returned, a folder that ``save`` wrote, or an ONNX file of images.
        loader: yields (images, labels) or images of the training data, as the model takes them; the images after the
            first ``images``, up to ``MOST_HELD_OUT``, are those that the file is proven on; with a limit as many again
            are those that layers are chosen on.
        out: the INT8 file.
        images: how many ranges of values are measured on, at least 32.
        method: how ranges are chosen: extremes, least KL divergence, or 99.999 % of the values.
        form: ``u8`` for ONNX Runtime, ``s8`` for TensorRT.
        weights: one scale for each output channel, or for the whole weight of a layer.
        agreement: least share of images with the class of FP32 (0..1): where all layers in INT8 miss it, the fewest
            that bring it back stay in FP32, chosen on the quarter of the images that FP32 is least sure of; None: not
            judged.
        sqnr_db: the same for signal to quantisation noise of the logits.
        max_float_layers: most layers that stay in FP32.
        qat_epochs: how often weights and ranges are trained with rounding, on the images that are calibrated on and up
            to 4096 after those that the file is proven on; not where the calibrated file keeps the limits; 0: not.

    Raises:
        ConfigError: an unknown method, form or kind of scales, a limit out of range, or a file at ``out`` that is no
            INT8 file.
        ExportError: the model cannot be quantised, or the images do not fit it; the message says why.
        DataError: the loader yields something else than images.
    """
    scheme = check_choices(method, form, weights)
    limits = check_limits(agreement, sqnr_db, max_float_layers)
    check_epochs(qat_epochs)
    path = check_out(Path(out), Path(source) if isinstance(source, str | Path) else None)
    with TemporaryDirectory(prefix="slimsight-quantize-") as folder:
        fp32 = _fp32_file(source, Path(folder))
        check_quantisable(fp32)
        if images < LEAST_IMAGES:
            raise ExportError(f"{images} calibration images were asked for: INT8 needs at least {LEAST_IMAGES}")
        first = images + MOST_HELD_OUT * (2 if limits.any else 1)
        seen = first_images(loader, first + (QAT_IMAGES if qat_epochs else 0))[0].numpy()
        calibration = Calibration(seen[:images], "the loader's first images", normalised=True)
        qat = to_qat(fp32, np.concatenate([seen[:images], seen[first:]]), qat_epochs, progress) if qat_epochs else None
        return make_with_control(fp32, path, calibration, seen[:first], scheme, limits, max_float_layers, qat, progress)


def check_choices(method: Method, form: Form, weights: WeightScales = "per_channel") -> Scheme:
    """How an INT8 file is made.

    Raises:
        ConfigError: there is no such method, form or kind of scales.
    """
    known = (("method", method, Method), ("form", form, Form), ("weights", weights, WeightScales))
    for name, given, kinds in known:
        if given not in (allowed := get_args(kinds)):
            raise ConfigError(f"{name} is '{given}'{nearest(given, list(allowed))}: choose from {', '.join(allowed)}")
    return Scheme(form, method, weights)


def check_limits(agreement: float | None, sqnr_db: float | None, max_float_layers: int) -> KeptLimits:
    """The limits of accuracy control.

    Raises:
        ConfigError: one is out of range, or no layer may stay in FP32.
    """
    if agreement is not None and not 0 <= agreement <= 1:
        raise ConfigError(f"agreement is {agreement}: give a share of images from 0 to 1, e.g. 0.97")
    if sqnr_db is not None and not 0 < sqnr_db <= 100:
        raise ConfigError(f"sqnr_db is {sqnr_db}: give a signal to noise ratio above 0 and up to 100 dB, e.g. 20")
    if max_float_layers < 1:
        raise ConfigError(f"max_float_layers is {max_float_layers}: give 1 or more layers that may stay in FP32")
    return KeptLimits(agreement=agreement, sqnr_db=sqnr_db)


def make_with_control(
    fp32: Path,
    path: Path,
    calibration: Calibration,
    images: NDArray[Any],
    scheme: Scheme,
    limits: KeptLimits,
    max_float_layers: int,
    qat: Qat | None,
    progress: Progress,
) -> Int8Model:
    """Write ``path`` in INT8 and prove it on the ``images`` behind those of ``calibration``.

    With a limit every second of them chooses layers instead.

    Raises:
        ExportError: the file cannot be quantised, or there are too few images.
    """
    control = None
    others = images[len(calibration.pixels) :]
    if limits.any:
        control, others = Control(limits, ControlImages(others[::2]), max_float_layers), others[1::2]
    return make_int8(
        fp32,
        path,
        calibration,
        others,
        scheme=scheme,
        control=control,
        qat=qat,
        time_ratio=partial(time_file_ratio, images=images, progress=progress),
        progress=progress,
    )


def check_out(path: Path, source: Path | None) -> Path:
    """``path``, if an INT8 file may be written there.

    Raises:
        ConfigError: it is the source, no ONNX file by its name, a folder, or holds something else than an INT8 file.
    """
    if path.suffix != ".onnx":
        raise ConfigError(f"{path} is no name of an ONNX file: give one that ends in .onnx")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(f"{path} is the file that would be read: give the INT8 file another name")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: give the name of a file")
    if path.exists():
        try:
            form = stated_form(stored_metadata(read_onnx(path, external=False)))
        except ExportError:
            form = None
        if form is None:
            raise ConfigError(f"{path} exists and is no INT8 file of slimsight: give another name, or remove it")
    return path


def split_rows(total: int, wanted: int, *, controlled: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to calibrate on, spread over ``total`` images, and of others to prove on.

    Where images are few, a fifth of them is held out, as far as ``LEAST_IMAGES`` are left; where they choose layers
    (``controlled``) too, twice as many, and at least twice ``LEAST_IMAGES``.

    Raises:
        ExportError: fewer than ``LEAST_IMAGES`` are wanted, or there are fewer.
    """
    most, least = (2 * MOST_HELD_OUT, 2 * LEAST_IMAGES) if controlled else (MOST_HELD_OUT, 0)
    held = min(most, max(total - wanted, total // 5, least), max(0, total - LEAST_IMAGES))
    rows = spread_rows(total, min(wanted, max(total - held, 0)) if wanted >= LEAST_IMAGES <= total else wanted)
    others = np.setdiff1d(np.arange(total), rows)
    return rows, others[np.linspace(0, len(others) - 1, min(held, len(others))).round().astype(np.int64)]


def _fp32_file(source: Slimmed | str | Path, folder: Path) -> Path:
    """An FP32 ONNX file of ``source``; a model is exported into ``folder``."""
    path = folder / "model.onnx"
    if isinstance(source, Slimmed):
        export_onnx(source.model, source.example, path)
        return path
    given = Path(source)
    if not given.is_dir():
        return given
    model = load(given)
    assert isinstance(model, GraphModule)
    (example, *_), _ = load_program(given / PROGRAM).example_inputs
    # A program's own module has no eval(), which the export calls; one of its graph has.
    export_onnx(GraphModule(model, model.graph), example, path)
    return path
