"""An INT8 file made and proven in one step: calibrated on some images, proven on others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from slimsight.compress.errors import ExportError
from slimsight.compress.progress import SILENT, Progress

from ..onnx_files.quantised import Form, Method
from .calibration import Calibration
from .prove import Int8Proof, onnx_logits, prove_int8
from .quantise import QuantisedFile, check_fits, quantise


@dataclass(frozen=True)
class Int8Model:
    """An INT8 file and its proof.

    ``proof``: of each runtime here against the file's own arithmetic, and of that against FP32; ``images``: how many it
    was calibrated on; ``held_out``: how many others it was proven on (0: on those themselves, as there were no others).
    """

    file: QuantisedFile
    proof: Int8Proof
    images: int
    held_out: int
    fp32_size_bytes: int

    @property
    def path(self) -> Path:
        """The INT8 file."""
        return self.file.path

    def to_dict(self) -> dict[str, Any]:
        """Its figures as plain data, for JSON."""
        sizes = {"size_bytes": self.file.size_bytes, "fp32_size_bytes": self.fp32_size_bytes}
        counts = {"calibration_images": self.images, "held_out_images": self.held_out}
        return {"file": self.path.name, "method": self.file.method, **sizes, **counts, **self.proof.to_dict()}


def make_int8(
    fp32: Path,
    path: Path,
    calibration: Calibration,
    held_out: NDArray[Any],
    *,
    form: Form,
    method: Method,
    artifact: str | None = None,
    progress: Progress = SILENT,
) -> Int8Model:
    """Quantise an ONNX file, and prove the INT8 file on the ``held_out`` images (N, 3, H, W).

    Args:
        held_out: none of the calibration images; where there are none, those are taken.
        artifact: what reports call the file; None: its name.

    Raises:
        ExportError: the file cannot be quantised, or the images do not fit it.
    """
    proven_on = held_out if len(held_out) else calibration.pixels
    check_fits(fp32, calibration)
    if (logits := onnx_logits(fp32, proven_on[:1])).ndim != 2:
        raise ExportError(f"{fp32} gives an output of shape {logits.shape}: a classifier gives (images, classes)")
    made = quantise(fp32, path, calibration, form=form, method=method)
    proof = prove_int8(path, fp32, proven_on, artifact=artifact or path.name, progress=progress)
    return Int8Model(made, proof, len(calibration), len(held_out), fp32.stat().st_size)
