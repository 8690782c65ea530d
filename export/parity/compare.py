"""Parity of logits: the tolerance of each precision, and the comparison of two runners on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError
from slimsight.compress.progress import SILENT, Progress

from ..runners import Runner, refuse_not_finite, to_input
from .first_difference import LayerDifference


@dataclass(frozen=True)
class Tolerance:
    """The limits of a parity comparison.

    Args:
        limit: the largest allowed difference of logits.
        quantile: the quantile of all differences that is compared with ``limit`` (1: the largest).
        relative: multiply ``limit`` by the largest logit of the reference, where that is above 1.
        agreement: the smallest allowed top-1 agreement, as a share of images (0..1).
        layer: the largest difference inside of the network that counts as rounding, relative to the layer's largest
            value: ``first_difference`` names the first layer beyond it.
    """

    limit: float
    quantile: float = 1.0
    relative: bool = False
    agreement: float = 1.0
    layer: float = 1e-4


TOLERANCES = {
    # 24 bits of mantissa and sums in another order: 1e-6 to 1e-5 on trained networks. A larger difference means
    # another computation, and no image may change its class.
    "fp32": Tolerance(limit=1e-4),
    # 11 bits: relative error up to 5e-4 per product, so differences grow with the logits. Single outliers are
    # expected, where the largest value of a map is rounded; one image in a hundred, between two classes, may change
    # its class. ResNet-20 and -56 on CIFAR-10: 1.1e-3 of the largest logit, all 500 images in agreement; a runtime
    # that also sums in fp16 may be a few times coarser.
    "fp16": Tolerance(limit=5e-3, quantile=0.99, relative=True, agreement=0.99, layer=2e-2),
    # 8 bits of activations and weights, an INT8 engine against the FP32 model: .01 to .03 of the largest logit on
    # trained networks and .98 in agreement or more, .08 on MobileNetV2 with random weights.
    "int8": Tolerance(limit=1.5e-1, quantile=0.99, relative=True, agreement=0.9, layer=5e-1),
    # TF32 rounds the factors as fp16 does and sums in fp32; bfloat16 has 8 bits, eight times coarser (the same
    # networks: 9e-3 of the largest logit, 0.994 in agreement).
    "tf32": Tolerance(limit=5e-3, quantile=0.99, relative=True, agreement=0.99, layer=2e-2),
    "bf16": Tolerance(limit=4e-2, quantile=0.99, relative=True, agreement=0.95, layer=1.6e-1),
}


def tolerance_of(precision: str, *, fp32: float | None = None) -> Tolerance:
    """The tolerance of ``precision``; ``fp32`` replaces the limit of fp32, as a recipe may.

    Raises:
        ExportError: the precision is unknown.
    """
    if precision not in TOLERANCES:
        raise ExportError(f"parity knows no tolerance for precision '{precision}': it knows {', '.join(TOLERANCES)}")
    row = TOLERANCES[precision]
    return row if fp32 is None or precision != "fp32" else Tolerance(limit=fp32, layer=row.layer)


def least_precise(*precisions: str) -> str:
    """Of precisions the one whose tolerance is widest, the first of ``TOLERANCES`` where limits are equal.

    Raises:
        ExportError: one is unknown.
    """
    return max(precisions, key=lambda precision: (tolerance_of(precision).layer, -list(TOLERANCES).index(precision)))


Locate = Callable[[NDArray[np.float32]], LayerDifference | None]
"""Finds the first layer that differs on one image (1, 3, H, W)."""


@dataclass(frozen=True)
class ParityResult:
    """Differences between an artefact's logits and the reference's, absolute, in units of logits.

    ``max_abs``, ``p99_abs`` and ``median_abs`` (quantiles over all logits) are infinite where a logit is NaN or
    infinite. ``top1_agreement`` is the share of images (0..1) with the same largest logit. ``first_difference`` names
    the first layer that differs, where parity failed and the layers of the artefact can be read.
    """

    artifact: str
    runtime: str
    precision: str
    batch: int
    max_abs: float
    p99_abs: float
    top1_agreement: float
    passed: bool
    median_abs: float = 0.0
    first_difference: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A row of ``parity`` in report.json; a difference that is not finite is null."""
        row = asdict(self)
        if self.first_difference is None:
            del row["first_difference"]
        for name in ("max_abs", "p99_abs", "median_abs"):
            row[name] = row[name] if math.isfinite(row[name]) else None
        return row


def compare_logits(
    reference: NDArray[Any],
    candidate: NDArray[Any],
    *,
    artifact: str,
    runtime: str,
    precision: str,
    batch: int,
    tolerance: Tolerance | None = None,
) -> ParityResult:
    """Compare logits (N, classes) of two runtimes for the same images.

    Passes when the difference and top-1 agreement are within ``tolerance``, by default the one of ``precision`` in
    ``TOLERANCES``. NaN or infinity on either side never passes.

    Raises:
        ExportError: the shapes differ, or there are no logits.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or reference.size == 0:
        raise ExportError(
            f"{artifact} gave logits of shape {candidate.shape}, the reference {reference.shape}: parity "
            "needs equal shapes (images, classes) with at least one image"
        )
    finite = np.isfinite(reference) & np.isfinite(candidate)
    difference = np.full(reference.shape, np.inf)
    np.subtract(reference, candidate, out=difference, where=finite, dtype=np.float64)
    np.abs(difference, out=difference)
    agree = (reference.argmax(1) == candidate.argmax(1)) & finite.all(1)
    max_abs = float(difference.max())
    # "higher" stays on a measured value: interpolation with an infinite neighbour would give NaN.
    p99_abs = float(np.quantile(difference, 0.99, method="higher"))
    agreement = float(agree.mean())
    limits = tolerance or tolerance_of(precision)
    compared = float(np.quantile(difference, limits.quantile, method="higher"))
    scale = max(1.0, float(np.abs(reference[finite]).max(initial=0.0))) if limits.relative else 1.0
    return ParityResult(
        artifact=artifact,
        runtime=runtime,
        precision=precision,
        batch=batch,
        max_abs=max_abs,
        p99_abs=p99_abs,
        top1_agreement=agreement,
        passed=bool(finite.all()) and compared <= limits.limit * scale and agreement >= limits.agreement,
        median_abs=float(np.quantile(difference, 0.5, method="higher")),
    )


def check_parity(
    reference: Runner,
    candidate: Runner,
    images: NDArray[Any],
    *,
    artifact: str,
    batch: int,
    precision: str | None = None,
    tolerance: Tolerance | None = None,
    locate: Locate | None = None,
    progress: Progress = SILENT,
) -> ParityResult:
    """Run two open runners on all ``images`` in batches of ``batch`` (the last may be smaller), and compare.

    Args:
        reference: usually the torch model in fp32.
        candidate: the artefact; the result has its runtime.
        images: (N, 3, H, W), uint8 or floating point in [0, 1].
        artifact: what the result calls the candidate, e.g. ``slim/model.onnx``.
        batch: images per call.
        precision: what the result calls the candidate's; None: what the candidate does.
        tolerance: as in ``compare_logits``.
        locate: called when parity fails, with the image whose logits differ most.
        progress: shows the batches that are done.

    Raises:
        ExportError: there are no images, or the runners do not take them.
    """
    if len(images) == 0 or batch < 1:
        raise ExportError(f"{artifact}: {len(images)} images in batches of {batch}; parity needs 1 or more of each")
    refuse_not_finite(images, artifact)
    logits = []
    starts = range(0, len(images), batch)
    for start in progress.track(starts, f"parity of {artifact} at batch {batch}", unit="batches"):
        chunk = to_input(images[start : start + batch])
        logits.append((reference.run(chunk), candidate.run(chunk)))
    expected, actual = (np.concatenate(side) for side in zip(*logits, strict=True))
    result = compare_logits(
        expected,
        actual,
        artifact=artifact,
        runtime=candidate.runtime,
        precision=precision or candidate.precision,
        batch=batch,
        tolerance=tolerance,
    )
    if result.passed or locate is None:
        return result
    worst = int(np.nan_to_num(np.abs(expected - actual), nan=np.inf).max(1).argmax())
    try:
        difference = locate(to_input(images[worst : worst + 1]))
    except ExportError as error:  # the failed comparison must still be reported
        return replace(result, first_difference=f"differs in a layer that could not be found: {error}")
    no_layer = f"differs in no layer by more than rounding on image {worst} alone"
    return replace(result, first_difference=no_layer if difference is None else str(difference))
