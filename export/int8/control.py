"""Accuracy control: the fewest layers of an INT8 file that stay in FP32 so that it keeps its limits.

Layers are chosen on training images that were not calibrated on, never on validation or test images. A network is surer
of images that it learned from than of new ones, and INT8 changes classes where it is least sure: agreement and accuracy
are therefore taken on the quarter of the images whose two largest FP32 logits are nearest to each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError
from slimsight.compress.progress import SILENT, Progress

from ..config import LEAST_IMAGES
from ..runners.in_onnxruntime import why_slow_or_wrong
from .fidelity import compare_accuracy, compare_fidelity, finite_or_none
from .prove import OnnxLogits, onnx_logits
from .quantise import Quantiser, write_quantised
from .sensitivity import LayerNoise, measure_sensitivity, noisiest_first

SENSITIVITY_IMAGES: Final = 64
"""Most images on which layers are put in order; files are compared on all."""

LEAST_SURE: Final = 0.25
"""Share of the images on which agreement and accuracy are taken: those that FP32 is least sure of."""


@dataclass(frozen=True)
class KeptLimits:
    """What an INT8 file must keep of its FP32 file; None: not judged.

    ``agreement``: least share of images with the same class; ``accuracy_drop``: most of the accuracy lost (0.01: a
    point); ``sqnr_db``: least signal to quantisation noise of the logits.
    """

    agreement: float | None = None
    accuracy_drop: float | None = None
    sqnr_db: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return any(value is not None for value in asdict(self).values())

    def keeps(self, found: Kept) -> bool:
        """Whether a file that was measured keeps all limits; a limit on what was not measured is not kept."""
        drop = found.accuracy_drop
        return (
            (self.agreement is None or found.agreement >= self.agreement)
            and (self.accuracy_drop is None or (drop is not None and drop <= self.accuracy_drop + 1e-9))
            and (self.sqnr_db is None or found.sqnr_db >= self.sqnr_db)
        )


@dataclass(frozen=True)
class Kept:
    """What an INT8 file keeps of its FP32 file on the images that layers are chosen on.

    ``sqnr_db`` is of all of them, ``agreement`` and ``accuracy_drop`` of the quarter that FP32 is least sure of.
    """

    agreement: float
    sqnr_db: float
    accuracy_drop: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its fields; a figure that is not finite or not known is null."""
        return asdict(self) | {"sqnr_db": finite_or_none(self.sqnr_db)}


def check_control_images(count: int) -> None:
    """Raises ExportError where fewer training images are left than accuracy control needs."""
    if count < LEAST_IMAGES:
        raise ExportError(
            f"{count} training images are left to choose FP32 layers on, beside those that INT8 is calibrated on, and "
            f"accuracy control needs at least {LEAST_IMAGES}: calibrate on fewer, or give more"
        )


@dataclass(frozen=True)
class ControlImages:
    """Training images that layers are chosen on. ``labels``: (N,), needed by a limit on accuracy; ``rows``: positions.

    Raises:
        ExportError: too few.
    """

    pixels: NDArray[Any]
    labels: NDArray[np.int64] | None = None
    rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_control_images(len(self.pixels))


@dataclass(frozen=True)
class Control:
    """Accuracy control as it is asked for. ``max_float_layers``: most layers that may stay in FP32."""

    limits: KeptLimits
    images: ControlImages
    max_float_layers: int

    def __post_init__(self) -> None:
        assert self.limits.any
        assert self.limits.accuracy_drop is None or self.images.labels is not None


@dataclass(frozen=True)
class Controlled:
    """What accuracy control did.

    ``before``: of the file with all layers in INT8; ``after``: of the one that is written; ``reached``: it keeps the
    limits; ``sensitivity``: of each layer, empty where the file kept its limits as it was; ``files``: how many were
    compared; ``time_ratio``: time of a call over that of the file with all layers in INT8, None: not measured.
    """

    limits: KeptLimits
    images: int
    rows: tuple[int, ...]
    max_float_layers: int
    before: Kept
    after: Kept
    reached: bool
    float_layers: tuple[str, ...] = ()
    sensitivity: tuple[LayerNoise, ...] = ()
    files: int = 1
    time_ratio: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """``accuracy_control`` of a file in report.json."""
        return {
            "limits": {name: value for name, value in asdict(self.limits).items() if value is not None},
            "max_float_layers": self.max_float_layers,
            "images": self.images,
            "rows": list(self.rows),
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "reached": self.reached,
            "layers_kept": list(self.float_layers),
            "sensitivity": [row.to_dict() for row in self.sensitivity],
            "files_compared": self.files,
            "time_ratio": None if self.time_ratio is None else dict(self.time_ratio),
        }


def choose_float_layers(quantiser: Quantiser, control: Control, *, progress: Progress = SILENT) -> Controlled:
    """The fewest layers, by their noise, that must stay in FP32 for the file to keep its limits.

    Layers are put in order by the noise that each alone makes; the shortest head of that order that keeps the limits
    is found by doubling and halving, and each of its layers that is not needed is then given back. Where no such head
    has at most ``max_float_layers``, that many stay in FP32 if that is nearer than none.

    Raises:
        ExportError: a trial file cannot be made or opened.
    """
    search = _Search(quantiser, control, progress)
    before = search.measure(())
    if control.limits.keeps(before):
        return search.result((), before)
    search.rank()
    most = min(control.max_float_layers, len(search.order))
    few, many = 0, 1  # the head of ``few`` layers misses; that of ``many`` is the next to try
    while not control.limits.keeps(search.measure(search.order[:many])):
        if many == most:
            nearer = search.measure(search.order[:most]).sqnr_db > before.sqnr_db
            return search.result(search.order[:most] if nearer else (), before)
        few, many = many, min(2 * many, most)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if control.limits.keeps(search.measure(search.order[:middle])) else (middle, many)
    return search.result(search.without_needless(search.order[:many]), before)


def keeps_limits(quantiser: Quantiser, control: Control, *, progress: Progress = SILENT) -> bool:
    """Whether the file with all layers in INT8 keeps the limits."""
    return control.limits.keeps(_Search(quantiser, control, progress).measure(()))


def least_sure(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Positions of the quarter of the images whose two largest logits (N, classes) are nearest to each other."""
    two = np.sort(logits, axis=1)[:, -2:]
    order = np.argsort(two[:, -1] - two[:, 0], kind="stable")
    return np.sort(order[: max(1, round(LEAST_SURE * len(logits)))])


class _Search:
    """Trial files of one search, each measured once."""

    def __init__(self, quantiser: Quantiser, control: Control, progress: Progress) -> None:
        self._quantiser, self._control, self._progress = quantiser, control, progress
        self._exact = onnx_logits(quantiser.source, control.images.pixels, progress=progress, name="FP32 logits")
        self._unsure = least_sure(self._exact)
        self._measured: dict[frozenset[str], Kept] = {}
        self._sensitivity: tuple[LayerNoise, ...] = ()
        self.order: list[str] = []

    def rank(self) -> None:
        """Fill ``order``: layers by their noise, most first."""
        pixels = self._control.images.pixels
        rows = np.linspace(0, len(pixels) - 1, min(SENSITIVITY_IMAGES, len(pixels))).round().astype(np.int64)
        found = measure_sensitivity(self._quantiser, pixels[rows], self._exact[rows], progress=self._progress)
        self._sensitivity, self.order = found, noisiest_first(found)

    def measure(self, float_layers: Sequence[str]) -> Kept:
        """What the file with these layers in FP32 keeps, as ONNX Runtime computes it where it may run here."""
        key = frozenset(float_layers)
        if key not in self._measured:
            scheme, images = self._quantiser.scheme, self._control.images
            graph = self._quantiser.to_graph(float_layers=float_layers)
            trial = write_quantised(graph, self._quantiser.folder / "trial.onnx", scheme)
            name = f"INT8, layers in FP32: {len(key)}"
            logits = OnnxLogits(trial.path, optimised=why_slow_or_wrong(scheme.form) is None)(
                images.pixels, progress=self._progress, name=name
            )
            exact, given = self._exact[self._unsure], logits[self._unsure]
            labels = None if images.labels is None else images.labels[self._unsure]
            drop = None if labels is None else compare_accuracy(exact, given, labels).drop
            agreement = compare_fidelity(exact, given).agreement
            self._measured[key] = Kept(agreement, compare_fidelity(self._exact, logits).sqnr_db, drop)
        return self._measured[key]

    def without_needless(self, chosen: Sequence[str]) -> tuple[str, ...]:
        """``chosen`` without the layers that the limits are kept without, those of least noise first."""
        needed = list(chosen)
        for layer in list(reversed(needed))[1:]:  # without its last layer the head misses: that was tried
            without = [name for name in needed if name != layer]
            if self._control.limits.keeps(self.measure(without)):
                needed = without
        return tuple(needed)

    def result(self, chosen: Sequence[str], before: Kept) -> Controlled:
        """What was done, with the layers in the graph's order."""
        control, after = self._control, self.measure(chosen)
        return Controlled(
            limits=control.limits,
            images=len(control.images.pixels),
            rows=control.images.rows,
            max_float_layers=control.max_float_layers,
            before=before,
            after=after,
            reached=control.limits.keeps(after),
            float_layers=tuple(name for name in self._quantiser.layers if name in set(chosen)),
            sensitivity=self._sensitivity,
            files=len(self._measured),
        )
