"""How near INT8 logits are to FP32 logits: quantile of differences, signal to noise, agreement, accuracy lost."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError

_OF_NORMAL: Final = 1.959964  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Fidelity:
    """Two sets of logits of the same images. NaN or infinity on either side is no agreement and an infinite ``p99``.

    ``p99``: 0.99 quantile of |difference|, relative to the reference's largest logit; ``sqnr_db``: signal to
    quantisation noise, infinite where all are equal; ``agreement``: share of images with the same largest logit.
    """

    p99: float
    sqnr_db: float
    agreement: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Its fields; a figure that is not finite is null."""
        return {name: finite_or_none(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class AccuracyDrop:
    """Accuracies of the same labelled images, and what was lost (negative: gained) with its 95 % interval."""

    fp32: float
    int8: float
    drop: float
    low: float
    high: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Its fields by name, for JSON."""
        return asdict(self)


def finite_or_none(value: float) -> float | None:
    """``value``; None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def compare_fidelity(reference: NDArray[Any], candidate: NDArray[Any]) -> Fidelity:
    """How near ``candidate`` is to ``reference``, both logits (N, classes).

    Raises:
        ExportError: the shapes differ, or there are no logits.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or reference.size == 0:
        raise ExportError(
            f"logits of shapes {reference.shape} and {candidate.shape} cannot be compared: give (images, classes) of "
            "the same images"
        )
    finite = np.isfinite(reference) & np.isfinite(candidate)
    exact, given = reference.astype(np.float64), candidate.astype(np.float64)
    difference = np.full(exact.shape, np.inf)
    np.subtract(exact, given, out=difference, where=finite)
    largest = float(np.abs(exact[finite]).max(initial=0.0))
    p99 = float(np.quantile(np.abs(difference), 0.99, method="higher"))
    return Fidelity(
        p99=p99 / largest if largest > 0 else (0.0 if p99 == 0 else math.inf),
        sqnr_db=_sqnr(exact, difference) if finite.all() else -math.inf,
        agreement=float(((exact.argmax(1) == given.argmax(1)) & finite.all(1)).mean()),
        images=len(reference),
    )


def _sqnr(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> float:
    signal_power, noise_power = float(np.square(signal).sum()), float(np.square(noise).sum())
    if noise_power == 0:
        return math.inf
    return 10 * math.log10(signal_power / noise_power) if signal_power > 0 else -math.inf


def compare_accuracy(reference: NDArray[Any], candidate: NDArray[Any], labels: NDArray[Any]) -> AccuracyDrop:
    """Accuracy lost between two sets of logits (N, classes), paired by image.

    The interval is that of Bonett and Price (2012) for paired shares: it counts the images that only one of the two has
    right, and has a width even where there are none. Logits that are not finite are wrong.

    Raises:
        ExportError: there is not one label for each image, or there are no images.
    """
    count = len(labels)
    if count == 0 or len(reference) != count or len(candidate) != count:
        raise ExportError(
            f"{len(reference)} and {len(candidate)} rows of logits with {count} labels: give one for each image"
        )
    right = [(logits.argmax(1) == labels) & np.isfinite(logits).all(1) for logits in (reference, candidate)]
    lost, gained = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    lost_share, gained_share = (lost + 1) / (count + 2), (gained + 1) / (count + 2)
    centre = lost_share - gained_share
    half = _OF_NORMAL * math.sqrt((lost_share + gained_share - centre**2) / (count + 2))
    return AccuracyDrop(
        fp32=float(right[0].mean()),
        int8=float(right[1].mean()),
        drop=(lost - gained) / count,
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
        images=count,
    )
