"""Every artefact in every runtime that is here, against its model in PyTorch; and what is not here, with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from slimsight.compress.errors import RuntimeMissing
from slimsight.compress.progress import SILENT, Progress

from .first_difference import LayerDifference, first_in_onnx, first_in_pt2
from .parity import ParityResult, check_parity
from .runners import CPU, CUDA, TENSORRT, OnnxRunner, Pt2Runner, Runner, TensorRtRunner, TorchRunner
from .tolerance import tolerance_of

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
class Evidence:
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


def prove(
    artifacts: Sequence[Artifact],
    images: NDArray[Any],
    *,
    fp32: float | None = None,
    progress: Progress = SILENT,
) -> Evidence:
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
    return Evidence(tuple(rows), tuple(absent))


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
