"""What tests of explanations found, as figures for a table and as panels for pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..report.table import Table
from .curves import CurveLine, CurvePanel, draw_curves

Rows = Sequence[Mapping[str, Any]]

_REMOVED_AXIS: Final = "share of pixels removed, least salient first"
_TILES_AXIS: Final = "share of tiles removed"
_PROBABILITY_AXIS: Final = "probability of the predicted class"
_UNIT_RANGE: Final = (0.0, 1.02)


def trust_table(rows: Rows) -> Table:
    """A row per explainer: areas with standard errors, and the sanity check's verdict.

    An arrow says which way is better; a figure that was not taken is empty.
    """
    heads: dict[str, str] = {}
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        mine = cells.setdefault(row["explainer"], {})
        for key, head, text in _table_cells(row):
            heads[key], mine[key] = head, text
    order = [key for key in _COLUMN_ORDER if key in heads]
    found = [[name, *(mine.get(key, "") for key in order)] for name, mine in cells.items()]
    return Table(["explainer", *(heads[key] for key in order)], found, "l" * (1 + len(order)))


_COLUMN_ORDER: Final = (
    "sanity",
    "spearman",
    "ssim",
    "kl",
    "change",
    "insertion",
    "deletion",
    "8",
    "14",
    "boxes",
    "roar",
)


def _table_cells(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found = row["result"]
    if row["test"] == "sanity":
        last = found["steps"][-1]
        return [
            ("sanity", "sanity", "passed" if found["passed"] else "FAILED"),
            ("spearman", "Spearman at the end", format_with_error(last["spearman"])),
            ("ssim", "SSIM at the end", format_with_error(last["ssim"])),
        ]
    if row["test"] == "perturbation":
        return [
            ("kl", "KL, nats \N{DOWNWARDS ARROW}", format_with_error(found["kl"]["area"])),
            ("change", "change in output \N{DOWNWARDS ARROW}", format_with_error(found["change"]["area"])),
        ]
    if row["test"] == "insertion_deletion":
        return [
            ("insertion", "insertion \N{UPWARDS ARROW}", format_with_error(found["insertion"]["area"])),
            ("deletion", "deletion \N{DOWNWARDS ARROW}", format_with_error(found["deletion"]["area"])),
        ]
    if row["test"] == "tiles":
        return [
            (side, f"tiles of {side} \N{UPWARDS ARROW}", format_with_error(each["between"]))
            for side, each in found.items()
        ]
    if row["test"] == "boxes":
        chance = found["chance"]["mean"]
        return [("boxes", f"in the box (chance {chance:.3f}) \N{UPWARDS ARROW}", format_with_error(found["score"]))]
    points = [point for point in found["points"] if point["share"]]
    mean = sum(point["accuracy"]["mean"] for point in points) / len(points)
    return [("roar", "ROAR accuracy, mean \N{DOWNWARDS ARROW}", f"{mean:.3f}")]


def format_with_error(value: Mapping[str, Any]) -> str:
    """``0.412 ± 0.006``; a dash where no image defines the figure."""
    if value["mean"] is None:
        return "-"
    error = value["standard_error"]
    return f"{value['mean']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def trust_notes(rows: Rows) -> list[str]:
    """What a reader of the table has to know: verdicts, and maps that are constant."""
    found = []
    for row in rows:
        if row["test"] == "sanity":
            found.append(f"{row['explainer']}: sanity {row['result']['reason']}")
        elif row["constant_maps"]:
            found.append(
                f"{row['explainer']}, {row['test']}: {row['constant_maps']} of {row['images']} maps are constant, "
                "their pixels went in a random order"
            )
    return found


def draw_trust(folder: Path, rows: Rows, *, control: str) -> list[Path]:
    """A picture per test in ``folder``; their paths. An explainer looks the same in all of them."""
    written = []
    names = list(dict.fromkeys(row["explainer"] for row in rows))
    for test in dict.fromkeys(row["test"] for row in rows):
        panels = _panels_of_test(test, [row for row in rows if row["test"] == test])
        if panels:
            written.append(folder / f"{test}.png")
            draw_curves(written[-1], panels, control=control, names=names)
    return written


def _panels_of_test(test: str, rows: Rows) -> list[CurvePanel]:
    if test == "sanity":
        return _sanity_panels(rows)
    if test == "perturbation":
        return [
            CurvePanel(
                "pixel perturbation: KL", _REMOVED_AXIS, "KL(original || perturbed), nats", _curve_lines(rows, "kl")
            ),
            CurvePanel(
                "pixel perturbation: output",
                _REMOVED_AXIS,
                "|p' - p| / p of the predicted class",
                _curve_lines(rows, "change"),
            ),
        ]
    if test == "insertion_deletion":
        shown, gone = (f"share of pixels {what}, most salient first" for what in ("shown", "removed"))
        return [
            CurvePanel("insertion", shown, _PROBABILITY_AXIS, _curve_lines(rows, "insertion"), limits=_UNIT_RANGE),
            CurvePanel("deletion", gone, _PROBABILITY_AXIS, _curve_lines(rows, "deletion"), limits=_UNIT_RANGE),
        ]
    if test == "tiles":
        return [
            CurvePanel(
                f"tiles of {side} x {side}: {what}",
                _TILES_AXIS,
                _PROBABILITY_AXIS,
                _curve_lines(rows, side, order),
                limits=_UNIT_RANGE,
            )
            for side in rows[0]["result"]
            for order, what in (("morf", "most relevant first"), ("lerf", "least relevant first"))
        ]
    if test == "roar":
        lines = [_roar_line(row) for row in rows]
        return [
            CurvePanel(
                "ROAR",
                "share of pixels removed, most salient first",
                "accuracy after retraining",
                lines,
                limits=_UNIT_RANGE,
            )
        ]
    return []


def _curve_lines(rows: Rows, *keys: str) -> list[CurveLine]:
    lines = []
    for row in rows:
        curve = row["result"]
        for key in keys:
            curve = curve[key]
        values = curve["values"]
        means, errors = [v["mean"] for v in values], [v["standard_error"] for v in values]
        lines.append(CurveLine(row["explainer"], curve["shares"], means, errors))
    return lines


def _roar_line(row: Mapping[str, Any]) -> CurveLine:
    points = row["result"]["points"]
    values = [point["accuracy"] for point in points]
    shares = [point["share"] for point in points]
    return CurveLine(row["explainer"], shares, [v["mean"] for v in values], [v["standard_error"] for v in values])


def _sanity_panels(rows: Rows) -> list[CurvePanel]:
    layers = [step["layer"].removeprefix("net.") for step in rows[0]["result"]["steps"]]
    ticks = ("none", *layers)
    panels = []
    for key, title in (
        ("spearman", "rank correlation"),
        ("spearman_abs", "rank correlation, absolute"),
        ("ssim", "SSIM"),
    ):
        lines = []
        for row in rows:
            values = [step[key] for step in row["result"]["steps"]]
            first = 1.0 if values[0]["mean"] is not None else None  # a map is like itself
            means, errors = [first, *(v["mean"] for v in values)], [None, *(v["standard_error"] for v in values)]
            lines.append(CurveLine(row["explainer"], range(len(ticks)), means, errors))
        panels.append(
            CurvePanel(
                title, "re-initialised down to this layer", "with the original's map", lines, ticks, (-0.3, 1.05)
            )
        )
    return panels
