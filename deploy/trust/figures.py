"""Results of explanation tests as table cells and as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..report.table import Table
from .curves import CurveLine, CurvePanel, draw_curves

Rows = Sequence[Mapping[str, Any]]

_REMOVED: Final = "share of pixels removed, least salient first"
_TILES: Final = "share of tiles removed"
_PROBABILITY: Final = "probability of the predicted class"
_UNIT: Final = (0.0, 1.02)


def trust_table(rows: Rows) -> Table:
    """A row per explainer: areas with standard errors, and the sanity check's verdict.

    An arrow shows which direction is better; the cell of a test that was not run is empty.
    """
    heads: dict[str, str] = {}
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        by_column = cells.setdefault(row["explainer"], {})
        for key, head, text in _table_cells(row):
            heads[key], by_column[key] = head, text
    order = [key for key in _COLUMNS if key in heads]
    lines = [[name, *(cell.get(key, "") for key in order)] for name, cell in cells.items()]
    return Table(["explainer", *(heads[key] for key in order)], lines, "l" * (1 + len(order)))


_COLUMNS: Final = ("sanity", "spearman", "ssim", "kl", "change", "insertion", "deletion", "8", "14", "boxes", "roar")


def _table_cells(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key, head and text of each cell that a row of results fills."""
    result = row["result"]
    if row["test"] == "sanity":
        last = result["steps"][-1]
        return [
            ("sanity", "sanity", "passed" if result["passed"] else "FAILED"),
            ("spearman", "Spearman at the end", format_with_error(last["spearman"])),
            ("ssim", "SSIM at the end", format_with_error(last["ssim"])),
        ]
    if row["test"] == "perturbation":
        return [
            ("kl", "KL, nats \N{DOWNWARDS ARROW}", format_with_error(result["kl"]["area"])),
            ("change", "change in output \N{DOWNWARDS ARROW}", format_with_error(result["change"]["area"])),
        ]
    if row["test"] == "insertion_deletion":
        return [
            ("insertion", "insertion \N{UPWARDS ARROW}", format_with_error(result["insertion"]["area"])),
            ("deletion", "deletion \N{DOWNWARDS ARROW}", format_with_error(result["deletion"]["area"])),
        ]
    if row["test"] == "tiles":
        return [
            (side, f"tiles of {side} \N{UPWARDS ARROW}", format_with_error(each["between"]))
            for side, each in result.items()
        ]
    if row["test"] == "boxes":
        chance = result["chance"]["mean"]
        return [("boxes", f"in the box (chance {chance:.3f}) \N{UPWARDS ARROW}", format_with_error(result["score"]))]
    points = [point for point in result["points"] if point["share"]]
    mean = sum(point["accuracy"]["mean"] for point in points) / len(points)
    return [("roar", "ROAR accuracy, mean \N{DOWNWARDS ARROW}", f"{mean:.3f}")]


def format_with_error(value: Mapping[str, Any]) -> str:
    """``0.412 ± 0.006``; a dash where the figure is not defined for any image."""
    if value["mean"] is None:
        return "-"
    error = value["standard_error"]
    return f"{value['mean']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def trust_notes(rows: Rows) -> list[str]:
    """Notes below the table: the sanity check's reasons, and how many maps are constant."""
    notes = []
    for row in rows:
        if row["test"] == "sanity":
            notes.append(f"{row['explainer']}: sanity {row['result']['reason']}")
        elif row["constant_maps"]:
            notes.append(
                f"{row['explainer']}, {row['test']}: {row['constant_maps']} of {row['images']} maps are constant, "
                "their pixels were taken in random order"
            )
    return notes


def trust_pictures(folder: Path, tests: Sequence[str]) -> list[Path]:
    """Where ``draw_trust`` draws the figures of ``tests``."""
    return [folder / f"{test}.png" for test in tests]


def draw_trust(folder: Path, rows: Rows, *, control: str) -> list[Path]:
    """Draw a figure per test in ``folder`` and return their paths; an explainer has the same style in each."""
    paths = []
    names = list(dict.fromkeys(row["explainer"] for row in rows))
    for test in dict.fromkeys(row["test"] for row in rows):
        panels = _test_panels(test, [row for row in rows if row["test"] == test])
        if panels:
            paths.append(folder / f"{test}.png")
            draw_curves(paths[-1], panels, control=control, names=names)
    return paths


def _test_panels(test: str, rows: Rows) -> list[CurvePanel]:
    if test == "sanity":
        return _sanity_panels(rows)
    if test == "perturbation":
        return [
            CurvePanel("pixel perturbation: KL", _REMOVED, "KL(original || perturbed), nats", _curve_lines(rows, "kl")),
            CurvePanel(
                "pixel perturbation: output",
                _REMOVED,
                "|p' - p| / p of the predicted class",
                _curve_lines(rows, "change"),
            ),
        ]
    if test == "insertion_deletion":
        shown, gone = (f"share of pixels {what}, most salient first" for what in ("shown", "removed"))
        return [
            CurvePanel("insertion", shown, _PROBABILITY, _curve_lines(rows, "insertion"), limits=_UNIT),
            CurvePanel("deletion", gone, _PROBABILITY, _curve_lines(rows, "deletion"), limits=_UNIT),
        ]
    if test == "tiles":
        return [
            CurvePanel(
                f"tiles of {side} x {side}: {what}", _TILES, _PROBABILITY, _curve_lines(rows, side, order), limits=_UNIT
            )
            for side in rows[0]["result"]
            for order, what in (("morf", "most relevant first"), ("lerf", "least relevant first"))
        ]
    if test == "roar":
        lines = [_roar_line(row) for row in rows]
        return [
            CurvePanel(
                "ROAR", "share of pixels removed, most salient first", "accuracy after retraining", lines, limits=_UNIT
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
            first = 1.0 if values[0]["mean"] is not None else None  # the correlation of a map with itself
            means, errors = [first, *(v["mean"] for v in values)], [None, *(v["standard_error"] for v in values)]
            lines.append(CurveLine(row["explainer"], range(len(ticks)), means, errors))
        panels.append(
            CurvePanel(
                title, "re-initialised down to this layer", "with the original's map", lines, ticks, (-0.3, 1.05)
            )
        )
    return panels
