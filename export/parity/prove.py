"""Every artefact in every runtime that is here, against its model in PyTorch; and what is not here, with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from slimsight.compress.dynamic import DynamicClassifier
from slimsight.compress.errors import ExportError, RuntimeMissing
from slimsight.compress.progress import SILENT, Progress

from ..routed.writer import LOGITS, ROUTES
from ..runners import (
    CPU,
    CUDA,
    TENSORRT,
    OnnxRunner,
    Pt2Runner,
    Runner,
    TensorRtRunner,
    TorchRunner,
    import_onnxruntime,
    to_input,
)
from .compare import ParityResult, check_parity, tolerance_of
from .first_difference import LayerDifference, first_in_onnx, first_in_pt2

Kind = Literal["onnx", "routed", "pt2", "tensorrt", "tensorrt-rtx"]
BATCHES = (1, 64)
"""Batch sizes at which artefacts are compared; neither is the example's, so a fixed batch cannot hide."""


@dataclass(frozen=True)
class Artifact:
    """A file and the model that it must equal.

    Args:
        path: the file.
        name: what reports call it, e.g. ``slim/model.onnx``.
        model: raw images -> logits, in PyTorch on the CPU.
        kind: what the file is; ``routed`` is ONNX for one image at a time, the last two are engines of that flavour.
        precision: what it computes in.
        batches: images per call.
    """

    path: Path
    name: str
    model: nn.Module
    kind: Kind = "onnx"
    precision: str = "fp32"
    batches: tuple[int, ...] = BATCHES


@dataclass(frozen=True)
class Absent:
    """A runtime that could run an artefact and is not here."""

    artifact: str
    runtime: str
    reason: str


@dataclass(frozen=True)
class ParityEvidence:
    """What was compared, and what could not be."""

    rows: tuple[ParityResult, ...]
    absent: tuple[Absent, ...]

    @property
    def passed(self) -> bool:
        """Whether there is a comparison, and none failed."""
        return bool(self.rows) and all(row.passed for row in self.rows)


@dataclass(frozen=True)
class _Way:
    """One way to run an artefact, and how to find the layer where it goes wrong."""

    runner: Runner
    locate: Callable[[NDArray[np.float32], float], LayerDifference | None]


def prove_parity(
    artifacts: Sequence[Artifact],
    images: NDArray[Any],
    *,
    fp32: float | None = None,
    progress: Progress = SILENT,
) -> ParityEvidence:
    """Compare each artefact with its model on real images, in each runtime that this machine has.

    Args:
        images: (N, 3, H, W), uint8 or floating point in [0, 1].
        fp32: the largest difference that passes in fp32, where it is not the table's (``tolerance``).

    Raises:
        ExportError: a file is missing or unusable, or a runtime that is here fails on it.
    """
    rows: list[ParityResult] = []
    absent: list[Absent] = []
    for artifact in progress.track(artifacts, "parity", unit="files"):
        for way in _ways(artifact):
            try:
                rows += _compare(artifact, way, images, fp32, progress)
            except RuntimeMissing as missing:
                absent.append(Absent(artifact.name, way.runner.runtime, str(missing)))
    for row in rows:
        if row.first_difference is not None:
            progress.note(f"{row.artifact} in {row.runtime} at batch {row.batch} {row.first_difference}")
    return ParityEvidence(tuple(rows), tuple(absent))


def _compare(
    artifact: Artifact, way: _Way, images: NDArray[Any], fp32: float | None, progress: Progress
) -> Iterator[ParityResult]:
    with TorchRunner(artifact.model) as reference, way.runner as runner:
        tolerance = tolerance_of(runner.precision, fp32=fp32)
        for batch in artifact.batches:
            yield check_parity(
                reference,
                runner,
                images,
                artifact=artifact.name,
                batch=batch,
                tolerance=tolerance,
                locate=lambda image: way.locate(image, tolerance.layer),
                progress=progress,
            )


def _ways(artifact: Artifact) -> list[_Way]:
    path, model = artifact.path, artifact.model
    if artifact.kind == "pt2":
        return [_Way(Pt2Runner(path), lambda image, limit: first_in_pt2(model, path, image, limit))]
    if artifact.kind in ("tensorrt", "tensorrt-rtx"):
        return [_Way(TensorRtRunner(path, artifact.kind), lambda _image, _limit: None)]  # it has no layers to ask for
    # TensorRT builds an engine of every branch of a routed file: minutes to compare what no run of it would use.
    providers = (CPU, CUDA) if artifact.kind == "routed" else (CPU, CUDA, TENSORRT)
    return [_in_onnxruntime(artifact, provider) for provider in providers]


def _in_onnxruntime(artifact: Artifact, provider: str) -> _Way:
    path, model = artifact.path, artifact.model
    runner = OnnxRunner(path, provider=provider, precision=artifact.precision)
    # An engine has no layers to ask for: the same graph is then asked in CUDA.
    asked = CUDA if provider == TENSORRT else provider
    return _Way(runner, lambda image, limit: first_in_onnx(model, path, image, limit, provider=asked))


def run_routes(path: Path, images: NDArray[Any], *, batch: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits (N, classes) and routes (N, routes) of a masked or routed file, in ONNX Runtime on the CPU.

    Raises:
        ExportError: ONNX Runtime or the file is missing, or the file gives no routes.
    """
    ort = import_onnxruntime()
    if not path.is_file():
        raise ExportError(f"there is no {path}: export the dynamic model first")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    if set(names) != {LOGITS, ROUTES}:
        raise ExportError(f"{path} gives {', '.join(names)}: a dynamic model gives {LOGITS} and {ROUTES}")
    (taken,) = session.get_inputs()
    rows = [
        session.run([LOGITS, ROUTES], {taken.name: to_input(images[start : start + batch])})
        for start in range(0, len(images), batch)
    ]
    return np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])


@torch.inference_mode()
def route_agreement(model: DynamicClassifier, path: Path, images: NDArray[Any], *, batch: int = 1) -> float:
    """Share of all choices of ``images`` (N, 3, H, W) that file and torch model make alike (1: every route)."""
    _, routes = run_routes(path, images, batch=batch)
    scores = [
        model.routed(torch.from_numpy(to_input(images[start : start + 64]))).scores
        for start in range(0, len(images), 64)
    ]
    ours = np.concatenate([np.stack([s.argmax(1).numpy() for s in chunk], 1) for chunk in scores])
    return float((ours == routes).mean())
