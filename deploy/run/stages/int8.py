"""INT8 files of a run: made from its ONNX files with training images, proven and compared on validation images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.data import Batch, Batches, one_pass
from slimsight.compress.training import Learning, one_device_fabric
from slimsight.export.config import Int8Config
from slimsight.export.int8.calibration import Calibration, spread_rows
from slimsight.export.int8.control import Control, ControlImages, KeptLimits
from slimsight.export.int8.fidelity import AccuracyDrop, Fidelity, compare_accuracy, compare_fidelity
from slimsight.export.int8.make import make_int8
from slimsight.export.int8.prove import OnnxLogits
from slimsight.export.int8.qat import Qat
from slimsight.export.int8.quantise import Scheme
from slimsight.export.onnx_files.metadata import read_metadata
from slimsight.export.onnx_files.quantised import Form, stated_form
from slimsight.export.runners.in_onnxruntime import why_slow_or_wrong

from ...report.int8 import AccuracyControlFigures, QatFigures
from ...report.rows_int8 import control_text, qat_text
from ...report.units import as_percent, as_points
from ...timing.file_ratio import time_file_ratio
from ..session import Session
from .int8_explained import int8_explained

PROOF_IMAGES = 500
"""Validation images, spread over the classes, on which a file is compared with its own arithmetic."""


def training_calibration(session: Session, images: int) -> Calibration:
    """``images`` training images of the run, spread over all of them; validation and test images are never among them.

    Raises:
        ExportError: there are too few.
    """
    train = session.opened.train
    rows = spread_rows(len(train), images)
    return Calibration(np.asarray(train.images[rows]), "training images of the run", tuple(map(int, rows)))


def training_control(session: Session, calibration: Calibration, settings: Int8Config) -> Control | None:
    """Accuracy control on training images that INT8 is not calibrated on; None: the settings have no limit.

    Raises:
        ExportError: too few are left.
    """
    config, train = settings.accuracy_control, session.splits.train
    if not config.limits:
        return None
    rows = control_rows(len(train), np.array(calibration.rows), config.images)
    images = ControlImages(np.asarray(train.images[rows]), train.labels[rows], tuple(map(int, rows)))
    return Control(KeptLimits(**config.limits), images, config.max_float_layers)


def control_rows(total: int, calibrated: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """``wanted`` positions of ``total``, evenly apart, none of those that are calibrated on; all others, if fewer."""
    others = np.setdiff1d(np.arange(total), calibrated)
    return others[np.unique(np.linspace(0, max(0, len(others) - 1), min(wanted, len(others))).round().astype(np.int64))]


def training_qat(session: Session, learning: Learning, settings: Int8Config) -> Qat | None:
    """Training with rounding on the run's training images; its validation images choose the epoch. None: not asked for.

    One process trains: files are made by the leader alone.
    """
    config, splits = settings.qat, session.splits
    if not config.epochs:
        return None
    batches = session.shuffled(splits.train, config.batch_size, learning.flow, crop=True, flip=True)
    alone = replace(learning, fabric=one_device_fabric(session.fabric.device))
    return Qat(config, batches, session.plain(splits.val, learning.flow), alone, session.labelled)


def export_int8(session: Session, learning: Learning) -> tuple[dict[str, Any], list[Path]]:
    """Write the slim model's INT8 files, and the original's to compare with.

    Returns:
        Figures for the report, and the files.

    Raises:
        ExportError: there are too few training images, or a file cannot be quantised.
    """
    run, config = session.run, session.recipe.export.int8
    calibration = training_calibration(session, config.images)
    control = training_control(session, calibration, config)
    qat = training_qat(session, learning, config)
    files: list[dict[str, Any]] = []
    paths: list[Path] = []
    wanted: list[tuple[Path, Path, str, Form]] = [
        *((run.slim_onnx, run.slim_int8(form), f"slim/{run.slim_int8(form).name}", form) for form in config.forms),
        (run.original_onnx, run.original_int8, run.original_int8.name, "u8"),
    ]
    for fp32, path, name, form in wanted:
        scheme = Scheme(form, config.method, config.weights)
        asked = (None, None) if path == run.original_int8 else (control, qat)
        files.append(_make(session, learning, (fp32, path), name, scheme, calibration, *asked))
        paths.append(path)
    figures = {
        "method": config.method,
        "weights": config.weights,
        "calibration": {"images": len(calibration), "sha256": calibration.digest, "rows": list(calibration.rows)},
        "files": files,
    }
    return figures, paths


def _make(
    session: Session,
    learning: Learning,
    paths: tuple[Path, Path],
    name: str,
    scheme: Scheme,
    calibration: Calibration,
    control: Control | None,
    qat: Qat | None,
) -> dict[str, Any]:
    fp32, path = paths
    pixels = session.some_pixels(PROOF_IMAGES)
    threads, seed = session.recipe.latency.threads, session.recipe.seed
    made = make_int8(
        fp32,
        path,
        calibration,
        pixels,
        scheme=scheme,
        control=control,
        qat=qat,
        time_ratio=partial(time_file_ratio, images=pixels, threads=threads, seed=seed, progress=learning.progress),
        artifact=name,
        progress=learning.progress,
    )
    val = session.plain(session.splits.val, learning.flow)
    found, fidelity = _compare(fp32, path, val, learning, f"{name} on validation images")
    row = made.proof.to_dict() | {"size_bytes": made.file.size_bytes, "fp32_size_bytes": made.fp32_size_bytes}
    row |= {"agreement": fidelity.agreement, "val": found.to_dict()}
    if scheme.form == "u8" and path != session.run.original_int8:
        row["explanations"] = int8_explained(fp32, path, session, learning)
    if made.qat is not None:
        row["qat"] = made.qat.to_dict()
        learning.progress.note(f"{name}: {qat_text(QatFigures(**row['qat']))}")
    if made.control is not None:
        row["accuracy_control"] = made.control.to_dict()
        learning.progress.note(f"{name}: {control_text(AccuracyControlFigures(**row['accuracy_control']))}")
    learning.progress.note(
        f"{name}: {made.file.size_bytes / made.fp32_size_bytes:.0%} of the FP32 file, same class on "
        f"{as_percent(fidelity.agreement)} of the validation images, {session.score} {as_points(-found.drop)}"
    )
    for runtime in made.proof.runtimes:
        if runtime.why is not None:
            learning.progress.note(f"{name} in {runtime.runtime}: {runtime.why}")
    return row


def judge_int8(session: Session, learning: Learning) -> dict[str, Any]:
    """Accuracy of the slim model's u8 file on test images, beside its FP32 file; empty without test images or file."""
    config, run = session.recipe.export, session.run
    if not config.quantised or "u8" not in config.int8.forms or not session.splits.has_test or not session.labelled:
        return {}
    test = session.plain(session.splits.test(), learning.flow)
    path = run.slim_int8("u8")
    found, _ = _compare(run.slim_onnx, path, test, learning, f"slim/{path.name} on test images")
    learning.progress.note(f"INT8 test accuracy: {as_percent(found.fp32)} in FP32 -> {as_percent(found.int8)}")
    return {"int8_test": found.to_dict()}


def _compare(fp32: Path, path: Path, images: Batches, learning: Learning, what: str) -> tuple[AccuracyDrop, Fidelity]:
    """Accuracies of two files on the same batches, and how near their logits are.

    A form that ONNX Runtime computes wrongly here runs by its own arithmetic.
    """
    run_fp32 = OnnxLogits(fp32)
    run_int8 = OnnxLogits(path, optimised=why_slow_or_wrong(stated_form(read_metadata(path).all)) is None)

    def logits(_: int, batch: Batch) -> tuple[NDArray[Any], ...]:
        pixels = batch.images.cpu().numpy()
        return run_fp32(pixels), run_int8(pixels), batch.labels.cpu().numpy()

    parts = one_pass(images, logits, what=what, progress=learning.progress)
    exact, given, labels = (np.concatenate(side) for side in zip(*parts, strict=True))
    return compare_accuracy(exact, given, labels), compare_fidelity(exact, given)
