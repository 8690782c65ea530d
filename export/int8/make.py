"""An INT8 file made and proven in one step: calibrated on some images, proven on others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from slimsight.compress.errors import ExportError
from slimsight.compress.progress import SILENT, Progress

from ..runners.in_onnxruntime import why_slow_or_wrong
from .calibration import Calibration
from .control import Control, Controlled, choose_float_layers, keeps_limits
from .prepare import check_fits
from .prove import Int8Proof, onnx_logits, prove_int8
from .qat import Qat, QatResult, train_int8_
from .quantise import QuantisedFile, Quantiser, Scheme

TimeRatio = Callable[[Path, Path], Mapping[str, float]]
"""Time of a call of the first file over that of the second: ``median``, and ``low`` and ``high`` of its interval."""


@dataclass(frozen=True)
class Int8Model:
    """An INT8 file and its proof.

    ``proof``: of each runtime here against the file's own arithmetic, and of that against FP32; ``images``: how many it
    was calibrated on; ``held_out``: how many others it was proven on (0: on those themselves, as there were no others);
    ``control``: what accuracy control did, None where it was not asked for; ``qat``: what training with rounding
    brought, None where it was not asked for, or the calibrated file kept its limits.
    """

    file: QuantisedFile
    proof: Int8Proof
    images: int
    held_out: int
    fp32_size_bytes: int
    control: Controlled | None = None
    qat: QatResult | None = None

    @property
    def path(self) -> Path:
        """The INT8 file."""
        return self.file.path

    def to_dict(self) -> dict[str, Any]:
        """Its figures as plain data, for JSON."""
        sizes = {"size_bytes": self.file.size_bytes, "fp32_size_bytes": self.fp32_size_bytes}
        counts = {"calibration_images": self.images, "held_out_images": self.held_out}
        kept = {} if self.control is None else {"accuracy_control": self.control.to_dict()}
        kept |= {} if self.qat is None else {"qat": self.qat.to_dict()}
        return {"file": self.path.name, "method": self.file.method, **sizes, **counts, **self.proof.to_dict(), **kept}


def make_int8(
    fp32: Path,
    path: Path,
    calibration: Calibration,
    held_out: NDArray[Any],
    *,
    scheme: Scheme,
    control: Control | None = None,
    qat: Qat | None = None,
    time_ratio: TimeRatio | None = None,
    artifact: str | None = None,
    progress: Progress = SILENT,
) -> Int8Model:
    """Quantise an ONNX file, and prove the INT8 file on the ``held_out`` images (N, 3, H, W).

    Args:
        held_out: none of the calibration images; where there are none, those are taken.
        control: layers stay in FP32 where the file would miss these limits; None: all are quantised.
        qat: weights and ranges are trained with rounding, before layers stay in FP32, and not at all where the
            calibrated file keeps the limits of ``control``; None: they are not.
        time_ratio: measures what layers in FP32 cost, where a runtime here runs the file; None: it is not measured.
        artifact: what reports call the file; None: its name.

    Raises:
        ExportError: the file cannot be quantised or trained, or the images do not fit it.
    """
    proven_on = held_out if len(held_out) else calibration.pixels
    check_fits(fp32, calibration)
    if (logits := onnx_logits(fp32, proven_on[:1])).ndim != 2:
        raise ExportError(f"{fp32} gives an output of shape {logits.shape}: a classifier gives (images, classes)")
    with Quantiser(fp32, calibration, scheme) as quantiser:
        trained = None
        if qat is not None and (control is None or not keeps_limits(quantiser, control, progress=progress)):
            trained = train_int8_(quantiser, qat, what=f"qat of {path.name}")
        controlled = None if control is None else choose_float_layers(quantiser, control, progress=progress)
        made = quantiser.write(path, () if controlled is None else controlled.float_layers)
        runs_here = why_slow_or_wrong(scheme.form) is None
        if controlled is not None and controlled.float_layers and time_ratio is not None and runs_here:
            plain = quantiser.write(quantiser.folder / "plain.onnx")
            controlled = replace(controlled, time_ratio=time_ratio(path, plain.path))
    proof = prove_int8(path, fp32, proven_on, artifact=artifact or path.name, progress=progress)
    if trained is not None and trained.proof is not None:
        proof = replace(proof, runtimes=(*proof.runtimes, trained.proof))
    return Int8Model(made, proof, len(calibration), len(held_out), fp32.stat().st_size, controlled, trained)
