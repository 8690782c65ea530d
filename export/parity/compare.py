"""How near an artefact must stay to the model in fp32: one table, by the precision that it computes in."""

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
    """What passes.

    Args:
        limit: the largest difference of logits allowed.
        quantile: which of all differences is held against it (1: the largest).
        relative: ``limit`` counts times the largest logit of the reference, where that is above 1.
        agreement: the least share of images (0..1) with the same largest logit.
        layer: the largest difference within the network, relative to the largest value of the layer, that is still
            rounding: beyond it ``first_difference`` names the layer.
    """

    limit: float
    quantile: float = 1.0
    relative: bool = False
    agreement: float = 1.0
    layer: float = 1e-4


TOLERANCES = {
    # 24 bits of mantissa and sums in another order: 1e-6 to 1e-5 was found on trained networks. What is larger is
    # another computation, and one image whose class changes is one too many.
    "fp32": Tolerance(limit=1e-4),
    # 11 bits: every product is off by up to 5e-4 of itself, and so is what comes of dozens of layers: differences
    # grow with the logits. Single outliers are expected, where the largest value of a map is rounded; images between
    # two classes may change sides, one in a hundred. ResNet-20 and -56 on CIFAR-10: 1.1e-3 of the largest logit, all
    # 500 images in agreement; a runtime that also sums in fp16 may be a few times coarser.
    "fp16": Tolerance(limit=5e-3, quantile=0.99, relative=True, agreement=0.99, layer=2e-2),
    # TF32 rounds the factors as fp16 does and sums in fp32; bfloat16 has 8 bits, eight times coarser (the same
    # networks: 9e-3 of the largest logit, 0.994 in agreement).
    "tf32": Tolerance(limit=5e-3, quantile=0.99, relative=True, agreement=0.99, layer=2e-2),
    "bf16": Tolerance(limit=4e-2, quantile=0.99, relative=True, agreement=0.95, layer=1.6e-1),
}


def tolerance_of(precision: str, *, fp32: float | None = None) -> Tolerance:
    """The row of ``precision``; a recipe may set the limit of ``fp32``.

    Raises:
        ExportError: there is no such row.
    """
    if precision not in TOLERANCES:
        raise ExportError(f"parity knows no tolerance for precision '{precision}': it knows {', '.join(TOLERANCES)}")
    row = TOLERANCES[precision]
    return row if fp32 is None or precision != "fp32" else Tolerance(limit=fp32, layer=row.layer)


Locate = Callable[[NDArray[np.float32]], LayerDifference | None]
"""Gives the first layer that differs on one image (1, 3, H, W)."""


@dataclass(frozen=True)
class ParityResult:
    """How far an artefact's logits are from the reference's; differences are absolute, in units of logits.

    ``max_abs``, ``p99_abs`` and ``median_abs`` (quantiles over all logits) are infinite where a logit is NaN or
    infinite. ``top1_agreement`` is the share of images (0..1) with the same largest logit. ``first_difference`` says,
    where parity failed and the artefact can be looked into, in which layer it begins.
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

    Passes when the difference and top-1 agreement are within ``tolerance``, by default the one of ``precision`` (see
    ``tolerance.TOLERANCES``). NaN or infinity on either side never passes.

    Raises:
        ExportError: the shapes differ, or there is nothing to compare.
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
    judged = float(np.quantile(difference, limits.quantile, method="higher"))
    scale = max(1.0, float(np.abs(reference[finite]).max(initial=0.0))) if limits.relative else 1.0
    return ParityResult(
        artifact=artifact,
        runtime=runtime,
        precision=precision,
        batch=batch,
        max_abs=max_abs,
        p99_abs=p99_abs,
        top1_agreement=agreement,
        passed=bool(finite.all()) and judged <= limits.limit * scale and agreement >= limits.agreement,
        median_abs=float(np.quantile(difference, 0.5, method="higher")),
    )


def check_parity(
    reference: Runner,
    candidate: Runner,
    images: NDArray[Any],
    *,
    artifact: str,
    batch: int,
    tolerance: Tolerance | None = None,
    locate: Locate | None = None,
    progress: Progress = SILENT,
) -> ParityResult:
    """Run two open runners on all ``images`` in batches of ``batch``, the ragged last one too; compare.

    Args:
        reference: what is right, usually the torch model in fp32.
        candidate: the artefact; gives the result its runtime and precision.
        images: (N, 3, H, W), uint8 or floating point in [0, 1].
        artifact: what the result calls the candidate, e.g. ``slim/model.onnx``.
        batch: images per call.
        tolerance: as in ``compare_logits``.
        locate: asked, when parity fails, where it begins on the image whose logits differ most.
        progress: where the images that went through are shown.

    Raises:
        ExportError: no images, or the runners do not take them.
    """
    if len(images) == 0 or batch < 1:
        raise ExportError(f"{artifact}: {len(images)} images in batches of {batch}; parity needs 1 or more of each")
    refuse_not_finite(images, artifact)
    logits = []
    starts = range(0, len(images), batch)
    for start in progress.track(starts, f"parity of {artifact} at batch {batch}", unit="batches"):
        chunk = to_input(images[start : start + batch])
        logits.append((reference.run(chunk), candidate.run(chunk)))
    ours, theirs = (np.concatenate(side) for side in zip(*logits, strict=True))
    result = compare_logits(
        ours,
        theirs,
        artifact=artifact,
        runtime=candidate.runtime,
        precision=candidate.precision,
        batch=batch,
        tolerance=tolerance,
    )
    if result.passed or locate is None:
        return result
    worst = int(np.nan_to_num(np.abs(ours - theirs), nan=np.inf).max(1).argmax())
    try:
        found = locate(to_input(images[worst : worst + 1]))
    except ExportError as error:  # the comparison has failed all the same: that must not get lost
        return replace(result, first_difference=f"differs in a layer that could not be found: {error}")
    alone = f"differs in no layer by more than rounding on image {worst} alone"
    return replace(result, first_difference=alone if found is None else str(found))
