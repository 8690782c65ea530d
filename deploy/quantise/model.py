"""INT8 of an ONNX file or a slim model: calibrated on some images, proven on others."""

from __future__ import annotations

from collections.abc import Iterable
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
from slimsight.export.config import DEFAULT_IMAGES, LEAST_IMAGES
from slimsight.export.int8.calibration import Calibration, spread_rows
from slimsight.export.int8.make import Int8Model, make_int8
from slimsight.export.int8.prepare import check_quantisable
from slimsight.export.onnx_files.graph import read_onnx
from slimsight.export.onnx_files.metadata import stored_metadata
from slimsight.export.onnx_files.quantised import Form, Method, stated_form
from slimsight.export.pt2.export import load_program
from slimsight.export.to_onnx import export_onnx

from ..slim_folder import PROGRAM, Slimmed, load

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
    progress: Progress = SILENT,
) -> Int8Model:
    """Write a slim model, or any FP32 ONNX file, in INT8, and prove the file.

    Args:
        source: what ``slim`` returned, a folder that ``save`` wrote, or an ONNX file of images.
        loader: yields (images, labels) or images of the training data, as the model takes them; the images after the
            first ``images``, up to ``MOST_HELD_OUT``, are those that the file is proven on.
        out: the INT8 file.
        images: how many ranges of values are measured on, at least 32.
        method: how ranges are chosen: extremes, least KL divergence, or 99.999 % of the values.
        form: ``u8`` for ONNX Runtime, ``s8`` for TensorRT.

    Raises:
        ConfigError: an unknown method or form, or a file at ``out`` that is no INT8 file.
        ExportError: the model cannot be quantised, or the images do not fit it; the message says why.
        DataError: the loader yields something else than images.
    """
    check_choices(method, form)
    path = check_out(Path(out), Path(source) if isinstance(source, str | Path) else None)
    with TemporaryDirectory(prefix="slimsight-quantize-") as folder:
        fp32 = _fp32_file(source, Path(folder))
        check_quantisable(fp32)
        if images < LEAST_IMAGES:
            raise ExportError(f"{images} calibration images were asked for: INT8 needs at least {LEAST_IMAGES}")
        seen = first_images(loader, images + MOST_HELD_OUT)[0].numpy()
        calibration = Calibration(seen[:images], "the loader's first images", normalised=True)
        return make_int8(fp32, path, calibration, seen[images:], method=method, form=form, progress=progress)


def check_choices(method: str, form: str) -> None:
    """Raises ConfigError for a method or a form that there is not."""
    for name, given, allowed in (("method", method, get_args(Method)), ("form", form, get_args(Form))):
        if given not in allowed:
            raise ConfigError(f"{name} is '{given}'{nearest(given, list(allowed))}: choose from {', '.join(allowed)}")


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


def split_rows(total: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to calibrate on, spread over ``total`` images, and of others to prove on.

    Where images are few, a fifth of them is held out, as far as ``LEAST_IMAGES`` are left.

    Raises:
        ExportError: fewer than ``LEAST_IMAGES`` are wanted, or there are fewer.
    """
    held = min(MOST_HELD_OUT, max(total - wanted, total // 5), max(0, total - LEAST_IMAGES))
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
