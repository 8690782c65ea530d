"""Proof of parity: each exported file in each runtime of this machine, compared with its PyTorch model."""

from __future__ import annotations

import hashlib
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

from ..onnx_files.graph import LOGITS_OUTPUT, ROUTES_OUTPUT
from ..runners import CPU_PROVIDER, Runner, Runtime, TorchRunner, import_onnxruntime, to_input
from ..runners.choose import find_runtime, runtimes_for
from .compare import ParityResult, check_parity, least_precise, tolerance_of
from .first_difference import LayerDifference, OnnxLayers, first_in_pt2

ArtifactKind = Literal["onnx", "routed", "pt2", "executorch", "tensorrt", "tensorrt-rtx"]
PARITY_BATCHES = (1, 64)
"""Batch sizes at which artefacts are compared; neither is the example's, so that a fixed batch size is detected."""


@dataclass(frozen=True)
class Artifact:
    """An exported file, and the PyTorch model that it must equal.

    Args:
        path: the file.
        name: what reports call it, e.g. ``slim/model.onnx``.
        model: raw images -> logits, in PyTorch on the CPU.
        kind: format of the file; ``routed`` is ONNX for one image at a time, the last two are engines of that flavour.
        precision: what it computes in.
        batches: the batch sizes to compare at.
    """

    path: Path
    name: str
    model: nn.Module
    kind: ArtifactKind = "onnx"
    precision: str = "fp32"
    batches: tuple[int, ...] = PARITY_BATCHES


@dataclass(frozen=True)
class AbsentRuntime:
    """A runtime that could run an artefact but is missing on this machine, and why."""

    artifact: str
    runtime: str
    reason: str


@dataclass(frozen=True)
class ParityEvidence:
    """All comparisons, and the runtimes that were missing."""

    rows: tuple[ParityResult, ...]
    absent: tuple[AbsentRuntime, ...]

    @property
    def passed(self) -> bool:
        """Whether there is at least one comparison, and none failed."""
        return bool(self.rows) and all(row.passed for row in self.rows)


_Locator = Callable[[NDArray[np.float32], float], LayerDifference | None]


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
        fp32: the largest difference that passes in fp32; None: that of ``compare.TOLERANCES``.

    Raises:
        ExportError: a file is missing or unusable, or a runtime fails on it.
    """
    rows: list[ParityResult] = []
    absent: list[AbsentRuntime] = []
    for artifact in progress.track(artifacts, "parity", unit="files"):
        layers, reference = OnnxLayers(artifact.model, artifact.path), _Reference(artifact.model)
        for runtime in _runtimes_of(artifact):
            label = runtime.name
            try:
                runner = runtime.open(artifact.path, runtime.device, 1)
                label = runner.runtime
                rows += _compare(
                    artifact, reference, runner, images, fp32, _locator(artifact, runtime, layers), progress
                )
            except RuntimeMissing as missing:
                absent.append(AbsentRuntime(artifact.name, label, str(missing)))
    for row in rows:
        if row.first_difference is not None:
            progress.note(f"{row.artifact} in {row.runtime} at batch {row.batch} {row.first_difference}")
    return ParityEvidence(tuple(rows), tuple(absent))


class _Reference(TorchRunner):
    """An artefact's model in PyTorch; logits of images that it has seen are not computed again."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._seen: dict[tuple[tuple[int, ...], bytes], NDArray[np.float32]] = {}

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        key = images.shape, hashlib.blake2b(np.ascontiguousarray(images).data).digest()
        if key not in self._seen:
            self._seen[key] = super()._run(images)
        return self._seen[key]


def _runtimes_of(artifact: Artifact) -> list[Runtime]:
    """The runtimes that open an artefact: of an engine the one that built it."""
    if artifact.kind in ("tensorrt", "tensorrt-rtx"):
        return [find_runtime(artifact.kind)[0]]
    if artifact.kind in ("pt2", "executorch"):
        return runtimes_for(artifact.path.suffix)
    return [runtime for runtime in runtimes_for(".onnx") if runtime.proves_routed or artifact.kind != "routed"]


def _compare(
    artifact: Artifact,
    reference: _Reference,
    runner: Runner,
    images: NDArray[Any],
    fp32: float | None,
    locate: _Locator | None,
    progress: Progress,
) -> Iterator[ParityResult]:
    with reference, runner:
        precision = least_precise(runner.precision, artifact.precision)
        tolerance = tolerance_of(precision, fp32=fp32)
        for batch in artifact.batches:
            yield check_parity(
                reference,
                runner,
                images,
                artifact=artifact.name,
                batch=batch,
                precision=precision,
                tolerance=tolerance,
                locate=None if locate is None else lambda image: locate(image, tolerance.layer),
                progress=progress,
            )


def _locator(artifact: Artifact, runtime: Runtime, layers: OnnxLayers) -> _Locator | None:
    """What finds the first layer that differs beyond a limit on an image; None where layers cannot be read."""
    if runtime.name == "pt2":
        return lambda image, limit: first_in_pt2(artifact.model, artifact.path, image, limit)
    if (run := runtime.layer_values) is not None:
        return lambda image, limit: layers.first_difference(image, limit, run)
    return None


def run_routes(path: Path, images: NDArray[Any], *, batch: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits (N, classes) and routes (N, routes) that a masked or routed file gives in ONNX Runtime on the CPU.

    Raises:
        ExportError: ONNX Runtime or the file is missing, or the file has no routes.
    """
    ort = import_onnxruntime()
    if not path.is_file():
        raise ExportError(f"there is no {path}: export the dynamic model first")
    session = ort.InferenceSession(str(path), providers=[CPU_PROVIDER])
    names = [output.name for output in session.get_outputs()]
    if set(names) != {LOGITS_OUTPUT, ROUTES_OUTPUT}:
        raise ExportError(f"{path} gives {', '.join(names)}: a dynamic model gives {LOGITS_OUTPUT} and {ROUTES_OUTPUT}")
    (input_,) = session.get_inputs()
    rows = [
        session.run([LOGITS_OUTPUT, ROUTES_OUTPUT], {input_.name: to_input(images[start : start + batch])})
        for start in range(0, len(images), batch)
    ]
    return np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])


@torch.inference_mode()
def route_agreement(model: DynamicClassifier, path: Path, images: NDArray[Any], *, batch: int = 1) -> float:
    """Share of routes (0..1) that file and torch model choose alike, over all ``images`` (N, 3, H, W)."""
    _, routes = run_routes(path, images, batch=batch)
    scores = [
        model.routed(torch.from_numpy(to_input(images[start : start + 64]))).scores
        for start in range(0, len(images), 64)
    ]
    expected = np.concatenate([np.stack([s.argmax(1).numpy() for s in chunk], 1) for chunk in scores])
    return float((expected == routes).mean())
