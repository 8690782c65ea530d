"""Tables and sentences of a report on INT8 files."""

from __future__ import annotations

from functools import partial

from .int8 import AccuracyControlFigures, AccuracyDropFigures, Int8FileFigures, KeptFigures, QatFigures
from .schema import Report
from .table import Cell, Code, Number, Result, Table
from .units import as_bytes, as_db, as_error, as_percent, as_percent_1, as_points, plural

_LISTED = 8


def int8_files(report: Report) -> Table:
    """Size, nearness to FP32 and accuracy of each file."""
    assert report.int8 is not None
    rows: list[list[Cell]] = [
        [
            Code(file.artifact),
            file.form,
            Number(file.size_bytes, partial(as_bytes, like=file.fp32_size_bytes)),
            Number(file.size_bytes / file.fp32_size_bytes, as_percent_1),
            "" if file.fidelity.sqnr_db is None else Number(file.fidelity.sqnr_db, as_db),
            Number(file.agreement, as_percent),
            _drop_text(file.val),
            "" if file.test is None else _drop_text(file.test),
        ]
        for file in report.int8.files
    ]
    lost = "accuracy" if report.labelled else "agreement"
    header = ["file", "form", "size", "of FP32", "SQNR", "same class as FP32"]
    return Table([*header, f"{lost} lost, validation", f"{lost} lost, test"], rows, "llrrrrrr")


def int8_runtimes(report: Report) -> Table:
    """Each runtime against each file's own arithmetic."""
    assert report.int8 is not None
    rows: list[list[Cell]] = [
        [
            Code(file.artifact),
            row.runtime,
            as_error(row.p99),
            Number(row.agreement, as_percent),
            "" if row.integer_layers is None else f"{row.integer_layers} of {file.layers}",
            Result(row.passed, row.why),
        ]
        for file in report.int8.files
        for row in file.runtimes
    ]
    return Table(["file", "runtime", "99 % below", "same class", "layers in integers", "result"], rows, "llrrrl")


def int8_controls(report: Report) -> Table:
    """What accuracy control did to each file: before and after, on the training images that layers are chosen on."""
    rows: list[list[Cell]] = [
        [
            Code(file.artifact),
            limits_text(found),
            kept_text(found.before),
            kept_text(found.after),
            str(len(found.layers_kept)),
            "" if found.time_ratio is None else time_ratio_text(found),
            Result(found.reached, None if found.reached else "the limits are missed"),
        ]
        for file, found in _controlled(report)
    ]
    header = ["file", "limits", "all layers in INT8", "as written", "layers in FP32", "time of a call", "result"]
    return Table(header, rows, "llllrrl")


def int8_sensitivity(report: Report) -> Table:
    """Signal to noise of the logits where one layer alone is in INT8, of every layer that was measured; noisy first."""
    rows: list[list[Cell]] = [
        [
            Code(file.artifact),
            Code(row.layer),
            "none" if row.sqnr_db is None else Number(row.sqnr_db, as_db),
            "FP32" if row.layer in found.layers_kept else "INT8",
        ]
        for file, found in _controlled(report)
        for row in sorted(found.sensitivity, key=lambda row: (row.sqnr_db is None, row.sqnr_db))
    ]
    return Table(["file", "layer", "SQNR where it alone is in INT8", "written in"], rows, "llrl")


def _controlled(report: Report) -> list[tuple[Int8FileFigures, AccuracyControlFigures]]:
    files = () if report.int8 is None else report.int8.files
    return [(file, file.accuracy_control) for file in files if file.accuracy_control is not None]


def control_text(found: AccuracyControlFigures) -> str:
    """What accuracy control did, in a sentence without its end."""
    on = f"on {plural(found.images, 'training image')}, classes on the quarter that FP32 is least sure of"
    if not found.layers_kept and found.reached:
        return f"keeps its limits with all layers in INT8 ({kept_text(found.before)} {on})"
    change = f"{kept_text(found.before)} -> {kept_text(found.after)} {on}"
    cost = "" if found.time_ratio is None else f", {time_ratio_text(found)}"
    what = f"{plural(len(found.layers_kept), 'layer')} in FP32 ({', '.join(found.layers_kept)})"
    if found.reached:
        return f"{what}: {change}{cost}"
    most = f"at most {plural(found.max_float_layers, 'layer')} in FP32"
    return f"misses its limits ({limits_text(found)}) with {most}: {change}{cost}"


def limits_text(found: AccuracyControlFigures) -> str:
    """``same class on at least 97.00 %, SQNR at least 20.0 dB``."""
    limits = found.limits
    parts = (
        "" if limits.agreement is None else f"same class on at least {as_percent(limits.agreement)}",
        "" if limits.accuracy_drop is None else f"at most {as_points(limits.accuracy_drop)} lost",
        "" if limits.sqnr_db is None else f"SQNR at least {as_db(limits.sqnr_db)}",
    )
    return ", ".join(filter(None, parts))


def kept_text(kept: KeptFigures) -> str:
    """``same class on 97.00 %, SQNR 17.5 dB``."""
    noise = "" if kept.sqnr_db is None else f", SQNR {as_db(kept.sqnr_db)}"
    lost = "" if kept.accuracy_drop is None else f", {as_points(kept.accuracy_drop)} lost"
    return f"same class on {as_percent(kept.agreement)}{noise}{lost}"


def time_ratio_text(found: AccuracyControlFigures) -> str:
    """``a call takes 1.08 times [1.06, 1.10] as long as with all layers in INT8``."""
    assert found.time_ratio is not None
    ratio = found.time_ratio
    interval = f"[{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"a call takes {ratio.median:.2f} times {interval} as long as with all layers in INT8"


def int8_notes(report: Report) -> list[str]:
    """How the files were made, which layers stay in FP32, and which runtimes were left out: a sentence each."""
    if report.int8 is None:
        return []
    made = report.int8.calibration
    notes = [
        f"Ranges of values: {report.int8.method}, on {plural(made.images, 'training image')}; report.json lists which. "
        "Differences are from the file's own arithmetic (no optimisation), relative to the largest logit"
    ]
    for file in report.int8.files:
        notes += _of_file(file)
    return [f"{note}." for note in notes]


def _of_file(file: Int8FileFigures) -> list[str]:
    control = file.accuracy_control
    notes = [] if control is None else [f"{file.artifact}: {control_text(control)}"]
    notes += [] if file.qat is None else [f"{file.artifact}: {qat_text(file.qat)}"]
    if (moved := explained_text(file)) is not None:
        notes.append(f"{file.artifact}: {moved}")
    for row in file.runtimes:
        if row.float_layers:
            more = f" and {len(row.float_layers) - _LISTED} more" if len(row.float_layers) > _LISTED else ""
            notes.append(f"{file.artifact} in {row.runtime}: in FP32 run {', '.join(row.float_layers[:_LISTED])}{more}")
    return [*notes, *(f"{file.artifact} was not run in {item.runtime}: {item.reason}" for item in file.not_run)]


def qat_text(found: QatFigures) -> str:
    """What quantisation-aware training brought, in a sentence without its end."""
    change = (
        f"validation {found.score} {as_percent(found.before.right)} -> {as_percent(found.after.right)}, divergence "
        f"from FP32 {found.before.divergence:.2g} -> {found.after.divergence:.2g} nats"
    )
    if found.kept:
        return f"trained with rounding, epoch {found.best_epoch} of {found.epochs} is kept: {change}"
    epochs = plural(found.epochs, "epoch")
    return f"{epochs} of training with rounding brought nothing, the calibrated file stays: {change}"


def explained_text(file: Int8FileFigures) -> str | None:
    """How far maps moved from FP32 to INT8, in a sentence without its end; None: it was not measured."""
    found = file.explanations
    if found is None:
        return None
    if found.reason is not None or found.region_iou is None or found.region_iou.mean is None:
        return f"what it looks at was not compared: {found.reason or 'no map says where'}"
    overlap, chance = found.region_iou.mean, None if found.chance is None else found.chance.mean
    beside = "" if chance is None else f", maps of different images by {as_percent_1(chance)}"
    images = plural(found.images, "validation image")
    return f"its maps by occlusion overlap those in FP32 by {as_percent_1(overlap)}{beside} ({images})"


def _drop_text(found: AccuracyDropFigures) -> str:
    """``0.10 points [-0.20, 0.40]``."""
    return f"{as_points(found.drop)} [{found.low * 100:.2f}, {found.high * 100:.2f}]"
