"""Checks of a run's INT8 file: those of a budget file's ``int8`` section, and the run's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from ..report.int8 import ORIGINAL_INT8, Int8FileFigures
from ..report.parts_explained import AttributionFigures
from ..report.schema import Check, Report, Unit
from ..report.units import as_percent
from .accuracy import AccuracyFacts, accuracy_drop
from .agreement import AgreementFacts
from .figures import TargetFigures
from .limit import Limit
from .schema import Int8Limits
from .verdict import BudgetCheck, allowed_amount, check_figure, check_levels

_NO_FILE: Final = "the run wrote no slim/model.int8.onnx; set export.precision to [fp32, int8] and run again"
_NOT_TIMED: Final = "the run did not time its INT8 file; run it again"
_NO_LAYERS: Final = "no runtime here shows the precision of its layers"
_LISTED: Final = 3


def int8_checks(figures: TargetFigures, limits: Int8Limits) -> Iterator[BudgetCheck]:
    """A check for each limit on the INT8 file; without one they all fail."""
    file = None
    missing = f"{figures.kind} has no figures of an INT8 file: check the run that made it, or remove the line"
    if figures.report is not None:
        missing = _NO_FILE
        file = None if figures.report.int8 is None else figures.report.int8.slim
    if limits.accuracy_drop is not None:
        yield _accuracy_drop(file, limits.accuracy_drop, missing)
    agreement, share = (None, None) if file is None else (file.agreement, file.integer_share)
    floating = None if file is None else _NO_LAYERS if share is None else _float_layers(file)
    overlap = None if file is None else _overlap(file.explanations)
    moved = None if file is None or overlap is not None else _why_no_overlap(file.explanations)
    rows: tuple[tuple[str, str, Unit, float | None, str | None], ...] = (
        ("agreement", "INT8, same class as in FP32", "images", agreement, None),
        ("overlap", "INT8, overlap of maps with those in FP32", "overlap", overlap, moved),
        ("integer_layers", "INT8, layers in integers", "overlap", share, floating),
    )
    for key, name, unit, value, reason in rows:
        if (limit := getattr(limits, key)) is not None:
            why = missing if file is None else reason
            item = check_levels(("int8", key), name, limit, value, unit, bound="min", reason=why)
            yield item if not item.check.passed else _without_reason(item)
    if limits.size is not None:
        yield _size(figures.report, file, limits, missing)
    if limits.speedup is not None:
        yield from _speedups(figures.report, file, limits.speedup, missing)


def _overlap(found: AttributionFigures | None) -> float | None:
    return None if found is None or found.region_iou is None else found.region_iou.mean


def _why_no_overlap(found: AttributionFigures | None) -> str:
    if found is None:
        return "the run did not compare what its INT8 file looks at; run it again"
    return found.reason or "no map says where the model looks"


def int8_own_checks(
    file: Int8FileFigures, accuracy: AccuracyFacts | None, agreement: AgreementFacts | None
) -> Iterator[Check]:
    """The run's own checks of its INT8 file: runtimes compute what it says, and accuracy is kept.

    The limits are those of the slim model: what is lost counts from the original, pruning included; None: not judged.
    """
    if file.runtimes:
        failed = [f"{row.runtime}: {row.why}" for row in file.runtimes if not row.passed]
        passed = len(file.runtimes) - len(failed)
        name, reason = "INT8 proof, runtimes passed", "; ".join(failed) or None
        yield check_figure(name, len(file.runtimes), passed, "rows", bound="min", reason=reason)
    yield from _control_checks(file)
    if accuracy is not None:
        original = _of_images(accuracy.original, file.val.images)
        lost = accuracy_drop(original, file.val.int8)
        check = check_figure("validation accuracy drop, INT8 against the original", accuracy.drop_max, lost, "points")
        yield check if check.passed else _with_remedy(check, file, f"{as_percent(original or 0)} of the original")
    if agreement is not None:
        name = "agreement with the original, INT8"
        check = check_figure(name, agreement.least, file.val.int8, "images", bound="min")
        yield check if check.passed else _with_remedy(check, file, "")


def _control_checks(file: Int8FileFigures) -> Iterator[Check]:
    """The limits of accuracy control, which chose layers on training images, on validation images."""
    if file.accuracy_control is None:
        return
    limits = file.accuracy_control.limits
    if limits.agreement is not None:
        name = "INT8, same class as in FP32 on validation images"
        yield _reserve(check_figure(name, limits.agreement, file.agreement, "images", bound="min"), file)
    if limits.accuracy_drop is not None:
        name = "INT8, validation accuracy drop against FP32"
        yield _reserve(check_figure(name, limits.accuracy_drop, file.val.drop, "points"), file)
    if limits.sqnr_db is not None:
        name, noise = "INT8, signal to quantisation noise on validation images", file.fidelity.sqnr_db
        yield _reserve(check_figure(name, limits.sqnr_db, noise, "dB", bound="min"), file)


def _reserve(check: Check, file: Int8FileFigures) -> Check:
    """With what to do about it, where it failed: networks know their training images, on which layers were chosen."""
    control = file.accuracy_control
    assert control is not None
    if check.passed:
        return check
    kept = f"{len(control.layers_kept)} of at most {control.max_float_layers} layers stay in FP32"
    more = "raise export.int8.accuracy_control.max_float_layers"
    stricter = "set a stricter limit: layers are chosen on training images, which are easier; sqnr_db differs least"
    return check.model_copy(update={"reason": kept, "remedy": stricter if control.reached else more})


def _of_images(accuracy: float | None, images: int) -> float | None:
    """``accuracy`` without the rounding of float32, which is no multiple of 1/images."""
    return None if accuracy is None or not math.isfinite(accuracy) else round(accuracy * images) / images


def _with_remedy(check: Check, file: Int8FileFigures, original: str) -> Check:
    slim = f"{as_percent(file.val.fp32)} of the slim model in FP32, {as_percent(file.val.int8)} in INT8"
    remedy = (
        "let layers stay in FP32 (export.int8.accuracy_control), calibrate on more images (export.int8.images), or by "
        "another method (export.int8.method)"
    )
    reason = ", ".join(filter(None, (original, slim)))
    return check.model_copy(update={"reason": reason, "remedy": remedy if file.val.drop > 0 else None})


def _accuracy_drop(file: Int8FileFigures | None, limit: Limit[float], missing: str) -> BudgetCheck:
    """Against the FP32 file that it was made from: on test images where there are any, else on validation images."""
    name, value, reason = "INT8, accuracy drop against FP32", None, missing
    if file is not None:
        measured = file.test or file.val
        images = "test" if file.test else "validation"
        name, value = f"INT8, {images} accuracy drop against FP32", measured.drop
        reason = f"95 % interval {measured.low * 100:.2f} to {measured.high * 100:.2f} points"
    item = check_levels(("int8", "accuracy_drop"), name, limit, value, "points", bound="max", reason=reason)
    return item if not item.check.passed else _without_reason(item)


def _size(report: Report | None, file: Int8FileFigures | None, limits: Int8Limits, missing: str) -> BudgetCheck:
    """A ratio refers to the original's FP32 file."""
    assert limits.size is not None
    key, name = ("int8", "size"), "INT8, size of the file"
    original = None
    if report is not None and report.int8 is not None:
        original = next((row.fp32_size_bytes for row in report.int8.files if row.artifact == ORIGINAL_INT8), None)
    if file is None or original is None:
        return check_levels(
            key, name, limits.size.map(lambda amount: amount.value), None, "bytes", bound="max", reason=missing
        )
    allowed: Limit[float] = limits.size.map(lambda amount: allowed_amount(amount, original, "bytes"))
    return check_levels(key, name, allowed, file.size_bytes, "bytes", bound="max")


def _speedups(
    report: Report | None, file: Int8FileFigures | None, limit: Limit[float], missing: str
) -> Iterator[BudgetCheck]:
    """The low end of the speed-up over the original in FP32, in each row of latencies."""
    rows = [] if report is None or file is None else [row for row in report.latency if row.int8_speedup is not None]
    name = "INT8, speed-up over the original in FP32, low end"
    if not rows:
        reason = missing if file is None else _NOT_TIMED
        yield check_levels(("int8", "speedup"), name, limit, None, "times", bound="min", reason=reason)
    for row in rows:
        assert row.int8_speedup is not None
        yield check_levels(("int8", "speedup"), name, limit, row.int8_speedup.low, "times", bound="min")


def _float_layers(file: Int8FileFigures) -> str | None:
    names = list(dict.fromkeys(name for row in file.runtimes for name in row.float_layers or ()))
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"in FP32 run {', '.join(names[:_LISTED])}{more}" if names else None


def _without_reason(item: BudgetCheck) -> BudgetCheck:
    return BudgetCheck(item.key, item.check.model_copy(update={"reason": None}), item.level, item.line, item.note)
