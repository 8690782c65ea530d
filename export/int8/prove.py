"""Proof of an INT8 file: each runtime here against the file's own arithmetic, and the file against its FP32 form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError, RuntimeMissing, first_error_line
from slimsight.compress.progress import SILENT, Progress

from ..onnx_files.graph import read_onnx, runtime_errors, runtime_inputs, static_sizes
from ..onnx_files.layers_run import LayersRun
from ..onnx_files.metadata import stored_metadata
from ..onnx_files.quantised import Form, heavy_layers, stated_form
from ..runners import Runtime, open_session, refuse_not_finite, to_input
from ..runners.choose import runtimes_for
from .fidelity import Fidelity, compare_fidelity, finite_or_none

P99_LIMIT: Final = 0.03
"""Largest 0.99 quantile of differences between a runtime and the file's own arithmetic, of the largest logit.

Kernels round sums in another order: .006 to .012 on networks that are computed right, .6 and more where one is not.
"""

AGREEMENT_LIMIT: Final = 0.98
"""Smallest share of images on which a runtime and the file's own arithmetic predict the same class.

Both limits are for a runtime that is not the better one (``NEAR_AGREEMENT``). OpenVINO leaves out some roundings that a
file asks for: it is nearer to FP32 (ResNet-20 33.8 dB and not 32.2 dB, EfficientNet-Lite0 16.9 dB and not 16.8 dB), and
differs by .01 and .03 from the file's own arithmetic.
"""

NEAR_AGREEMENT: Final = 0.95
"""Smallest share of images on which a runtime must predict FP32's class to count as nearer to FP32 than the file's own
arithmetic, beside a better signal to noise. Where both are far from FP32, which is nearer says nothing: a
mobilenet_v3_small with random weights passed with 44 % agreement."""

_BATCH: Final = 16


@dataclass(frozen=True)
class RuntimeProof:
    """One runtime against the file's own arithmetic, on the same images.

    ``p99`` (of the largest logit, infinite where a logit is not finite) and ``agreement`` are judged, unless it is
    ``nearer_to_fp32`` than the file's own arithmetic; ``why``: what is wrong, None where it passed.
    ``layers``: None where the runtime does not show them.
    """

    runtime: str
    p99: float
    agreement: float
    passed: bool
    why: str | None = None
    layers: LayersRun | None = None
    nearer_to_fp32: bool = False

    def to_dict(self) -> dict[str, Any]:
        """A row of ``runtimes`` in report.json."""
        row: dict[str, Any] = {
            "runtime": self.runtime,
            "p99": finite_or_none(self.p99),
            "agreement": self.agreement,
            "passed": self.passed,
        }
        if self.why is not None:
            row["why"] = self.why
        if self.nearer_to_fp32:
            row["nearer_to_fp32"] = True
        if self.layers is not None:
            row |= {"integer_layers": len(self.layers.integer), "float_layers": list(self.layers.floating)}
            row |= {"requantised_layers": list(self.layers.requantised)} if self.layers.requantised else {}
        return row


@dataclass(frozen=True)
class Int8Proof:
    """What is known of an INT8 file. ``layers``: its convolutions and matrix products; ``skipped``: (runtime, why).

    ``fidelity``: the file's own arithmetic against the FP32 file.
    """

    artifact: str
    form: Form | None
    layers: int
    runtimes: tuple[RuntimeProof, ...]
    skipped: tuple[tuple[str, str], ...]
    fidelity: Fidelity

    @property
    def passed(self) -> bool:
        """Whether no runtime computes something else than the file says."""
        return all(row.passed for row in self.runtimes)

    def to_dict(self) -> dict[str, Any]:
        """A row of ``int8.files`` in report.json, as far as it is known here."""
        return {
            "artifact": self.artifact,
            "form": self.form,
            "layers": self.layers,
            "runtimes": [row.to_dict() for row in self.runtimes],
            "not_run": [{"runtime": name, "reason": reason} for name, reason in self.skipped],
            "fidelity": self.fidelity.to_dict(),
        }


def prove_int8(
    path: Path, fp32: Path, images: NDArray[Any], *, artifact: str, progress: Progress = SILENT
) -> Int8Proof:
    """Run an INT8 file by its own arithmetic, in each runtime here that it is for, and in FP32, on the same images.

    Args:
        path: the INT8 file.
        fp32: the file that it was made from.
        images: (N, 3, H, W), uint8 or floating point in [0, 1]; none of the calibration images.
        artifact: what reports call the file.

    Raises:
        ExportError: a file is missing or cannot be opened, or there are no images.
    """
    if len(images) == 0:
        raise ExportError(f"{artifact}: there are no images to prove it on, give some")
    refuse_not_finite(images, artifact)
    proto = read_onnx(path)
    form = stated_form(stored_metadata(proto))
    own = onnx_logits(path, images, optimised=False, progress=progress, name=f"{artifact} by its own arithmetic")
    exact = onnx_logits(fp32, images, progress=progress, name=f"{artifact} in FP32")
    rows: list[RuntimeProof] = []
    skipped: list[tuple[str, str]] = []
    for runtime in runtimes_for(".onnx"):
        if not runtime.proves_int8:
            continue
        if (reason := runtime.refuses(form) or runtime.available()) is not None:
            skipped.append((runtime.name, reason))
            continue
        try:
            logits = runtime_logits(runtime, path, images, progress=progress, name=f"{artifact} in {runtime.name}")
            layers = None if runtime.precision_readback is None else runtime.precision_readback(path)
        except RuntimeMissing as missing:  # or what the file needs is missing there
            skipped.append((runtime.name, str(missing)))
            continue
        rows.append(judge_runtime(runtime.name, own, logits, layers, exact=exact))
    heavy = len(heavy_layers(proto.graph))
    return Int8Proof(artifact, form, heavy, tuple(rows), tuple(skipped), compare_fidelity(exact, own))


def judge_runtime(
    runtime: str,
    own: NDArray[Any],
    logits: NDArray[Any],
    layers: LayersRun | None = None,
    *,
    exact: NDArray[Any] | None = None,
) -> RuntimeProof:
    """The proof of one runtime from its logits (N, classes) and those of the file's own arithmetic.

    A layer that the file keeps in FP32 and the runtime quantises fails it, however near the logits are: its accuracy
    was kept on purpose.

    Args:
        exact: logits of the FP32 file; None: a runtime that is nearer to them is judged like any other.
    """
    found = compare_fidelity(own, logits)
    nearer = exact is not None and _nearer(exact, own, logits)
    reasons = []
    if not_finite := int((~np.isfinite(logits)).any(1).sum()):
        reasons.append(f"logits of {not_finite} images are NaN or infinite")
    if not found.p99 <= P99_LIMIT and not nearer:
        reasons.append(
            f"logits differ from the file's own arithmetic by {found.p99:.3f} of the largest (0.99 quantile)"
        )
    if found.agreement < AGREEMENT_LIMIT and not nearer:
        reasons.append(f"it predicts the class of the file's own arithmetic on {found.agreement:.1%} of the images")
    if layers is not None and layers.requantised:
        reasons.append(f"it quantises layers that the file keeps in FP32: {', '.join(layers.requantised)}")
    if reasons and layers is not None and layers.fell_back:
        reasons.append(f"in FP32 run {', '.join(layers.fell_back)}")
    why = "; ".join(reasons) or None
    return RuntimeProof(runtime, found.p99, found.agreement, not reasons, why, layers, nearer)


def _nearer(exact: NDArray[Any], own: NDArray[Any], logits: NDArray[Any]) -> bool:
    """Whether ``logits`` are good ones of FP32's, and better ones than those of the file's own arithmetic."""
    found = compare_fidelity(exact, logits)
    return found.agreement >= NEAR_AGREEMENT and found.sqnr_db > compare_fidelity(exact, own).sqnr_db


class OnnxLogits:
    """Logits of an ONNX file in ONNX Runtime on the CPU, with one session for all calls.

    Args:
        optimised: False runs the graph as it is stored: its own arithmetic.

    Raises:
        ExportError: the file cannot be opened.
    """

    def __init__(self, path: Path, *, optimised: bool = True) -> None:
        self._name, self._errors = path.name, runtime_errors()
        self._session = open_session(path, torch.get_num_threads(), optimised=optimised)
        (self._takes,) = self._session.get_inputs()

    def __call__(
        self, images: NDArray[Any], *, progress: Progress = SILENT, name: str = "logits"
    ) -> NDArray[np.float32]:
        """The first output (N, classes) for images (N, 3, H, W), in batches; ``name``: what progress calls it."""
        size = self._takes.shape[0]
        return _in_batches(self._run, images, size if isinstance(size, int) else None, progress, name)

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = self._session.run(None, {self._takes.name: batch})[0]
        except self._errors as error:
            raise ExportError(f"{self._name} does not run in ONNX Runtime ({first_error_line(error)})") from error
        return logits


def _in_batches(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    images: NDArray[Any],
    fixed: int | None,
    progress: Progress,
    name: str,
) -> NDArray[np.float32]:
    """Logits of all images, by calls of ``fixed`` images each; None: of any number."""
    step = fixed or _BATCH
    rows = []
    for start in progress.track(range(0, len(images), step), name, unit="batches"):
        batch = to_input(images[start : start + step])
        missing = step - len(batch) if fixed else 0
        if missing:  # a file of fixed batch size takes no smaller one
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        logits = run(batch)
        rows.append(logits[: len(logits) - missing])
    return np.concatenate(rows)


def runtime_logits(
    runtime: Runtime, path: Path, images: NDArray[Any], *, progress: Progress = SILENT, name: str = "logits"
) -> NDArray[np.float32]:
    """Logits (N, classes) of an ONNX file in a runtime on its own device, for images (N, 3, H, W), in batches.

    Raises:
        ExportError: the runtime cannot open or run it.
    """
    size = static_sizes(runtime_inputs(read_onnx(path, external=False).graph)[0])[0]
    with runtime.open(path, runtime.device, torch.get_num_threads()) as runner:
        return _in_batches(runner.run, images, size, progress, name)


def onnx_logits(
    path: Path, images: NDArray[Any], *, optimised: bool = True, progress: Progress = SILENT, name: str = "logits"
) -> NDArray[np.float32]:
    """``OnnxLogits`` of one call."""
    return OnnxLogits(path, optimised=optimised)(images, progress=progress, name=name)
