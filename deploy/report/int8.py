"""Parts of report.json on INT8 files: how they were made, what each runtime computes, and what they cost."""

from __future__ import annotations

from typing import Literal

from slimsight.compress.config import Count

from .parts import Measured, ReportPart, Share, Whole
from .parts_explained import AttributionFigures

SLIM_INT8, ORIGINAL_INT8 = "slim/model.int8.onnx", "original.int8.onnx"
"""The file that budgets and the run's own checks judge, and the original's beside it."""


class CalibrationFigures(ReportPart):
    """Training images that ranges were measured on: their positions among them, and the SHA-256 of their pixels."""

    images: Count
    sha256: str
    rows: tuple[Whole, ...]


class Int8RuntimeFigures(ReportPart):
    """A runtime against the file's own arithmetic, on real images.

    ``p99``: 0.99 quantile of |difference| of logits, of the largest logit; ``agreement``: share of images with the same
    class; ``why``: what is wrong. ``integer_layers``: convolutions and matrix products that it runs in integers;
    ``float_layers``: the names of the others; ``requantised_layers``: in integers although the file keeps them in FP32.
    ``nearer_to_fp32``: than the file is, so that it may differ more from it.
    """

    runtime: str
    p99: Measured
    agreement: Share
    passed: bool
    why: str | None = None
    integer_layers: Whole | None = None
    float_layers: tuple[str, ...] | None = None
    requantised_layers: tuple[str, ...] | None = None
    nearer_to_fp32: bool | None = None


class NotRunFigures(ReportPart):
    """A runtime that the file was not run in, and why."""

    runtime: str
    reason: str


class FidelityFigures(ReportPart):
    """The file's own arithmetic against its FP32 file. ``sqnr_db``: signal to quantisation noise; None: not finite."""

    p99: Measured
    sqnr_db: float | None
    agreement: Share
    images: Count


class AccuracyDropFigures(ReportPart):
    """Shares of ``images`` that the FP32 and the INT8 file have right; ``drop`` with its 95 % interval, by image.

    Of images without labels, what the original predicts counts as right.
    """

    fp32: Share
    int8: Share
    drop: float
    low: float
    high: float
    images: Count


class LayerNoiseFigures(ReportPart):
    """``sqnr_db``: signal to noise of the logits where this layer alone is in INT8; None: no noise, or not finite."""

    layer: str
    sqnr_db: float | None


class KeptFigures(ReportPart):
    """What an INT8 file keeps of its FP32 file on training images; ``accuracy_drop``: None without labels.

    ``agreement`` and ``accuracy_drop`` are of the quarter of the images that FP32 is least sure of.
    """

    agreement: Share
    sqnr_db: float | None
    accuracy_drop: float | None = None


class KeptLimitFigures(ReportPart):
    """The limits that accuracy control was given; None: not set."""

    agreement: Share | None = None
    accuracy_drop: float | None = None
    sqnr_db: float | None = None


class TimeRatioFigures(ReportPart):
    """A ratio of times with its 95 % interval."""

    median: float
    low: float
    high: float


class AccuracyControlFigures(ReportPart):
    """Layers that stay in FP32 so that a file keeps its limits, chosen on training images (``rows``).

    ``before``: of the file with all layers in INT8; ``after``: of the one that was written; ``reached``: it keeps the
    limits on those images; ``sensitivity``: of every layer, empty where no layer had to stay; ``time_ratio``: time of a
    call over that with all layers in INT8.
    """

    limits: KeptLimitFigures
    max_float_layers: Count
    images: Count
    rows: tuple[Whole, ...]
    before: KeptFigures
    after: KeptFigures
    reached: bool
    layers_kept: tuple[str, ...]
    sensitivity: tuple[LayerNoiseFigures, ...]
    files_compared: Count
    time_ratio: TimeRatioFigures | None = None


class QatScoreFigures(ReportPart):
    """Share of right predictions on validation images, and KL divergence from the FP32 file's softmax (nats)."""

    right: Share
    divergence: float


class QatFigures(ReportPart):
    """Quantisation-aware training. ``score``: what ``right`` is, accuracy or agreement with the FP32 file.

    ``before``: of the calibrated file; ``after``: of ``best_epoch``; ``kept``: that is better, and was written.
    """

    score: Literal["accuracy", "agreement"]
    epochs: Count
    best_epoch: Count
    before: QatScoreFigures
    after: QatScoreFigures
    kept: bool


class Int8FileFigures(ReportPart):
    """An INT8 file and its proof.

    ``layers``: its convolutions and matrix products; ``agreement``: share of the validation images on which it predicts
    the class of its FP32 file; ``val`` and ``test``: what it lost against that file; ``explanations``: how far maps by
    occlusion moved from that file to this one.
    """

    artifact: str
    form: Literal["u8", "s8"]
    layers: Whole
    size_bytes: Count
    fp32_size_bytes: Count
    runtimes: tuple[Int8RuntimeFigures, ...]
    not_run: tuple[NotRunFigures, ...] = ()
    fidelity: FidelityFigures
    agreement: Share
    val: AccuracyDropFigures
    test: AccuracyDropFigures | None = None
    accuracy_control: AccuracyControlFigures | None = None
    qat: QatFigures | None = None
    explanations: AttributionFigures | None = None

    @property
    def integer_share(self) -> float | None:
        """The least share of its layers that a runtime runs in integers (0..1); None: no runtime shows them."""
        counts = [row.integer_layers for row in self.runtimes if row.integer_layers is not None]
        return min(counts) / max(1, self.layers) if counts else None


class Int8Figures(ReportPart):
    """All INT8 files of a run; the original's is there to compare with."""

    method: str
    weights: str = "per_channel"
    calibration: CalibrationFigures
    files: tuple[Int8FileFigures, ...]

    @property
    def controlled(self) -> bool:
        """Whether accuracy control was asked for."""
        return any(file.accuracy_control is not None for file in self.files)

    @property
    def slim(self) -> Int8FileFigures | None:
        """The slim model's file for ONNX Runtime; None: only others were asked for."""
        return next((file for file in self.files if file.artifact == SLIM_INT8), None)
