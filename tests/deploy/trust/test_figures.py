"""Figures and pictures of tests of explanations."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from slimsight.deploy.trust.curves import CurveLine, CurvePanel, draw_curves
from slimsight.deploy.trust.figures import draw_trust, format_with_error, trust_notes, trust_table


def value(mean: float | None, error: float | None = 0.01) -> dict[str, Any]:
    return {"mean": mean, "standard_error": error, "images": 8}


def curve(*means: float) -> dict[str, Any]:
    shares = [index / (len(means) - 1) for index in range(len(means))]
    return {"shares": shares, "values": [value(mean) for mean in means], "area": value(sum(means) / len(means))}


def row(explainer: str, test: str, result: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"explainer": explainer, "test": test, "images": 8, "constant_maps": 0, "result": result, **more}


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    def step(layer: str, mean: float | None) -> dict[str, Any]:
        return {"layer": layer, "spearman": value(mean), "spearman_abs": value(mean), "ssim": value(0.5), "constant": 0}

    tile = {"morf": curve(1, 0.5, 0), "lerf": curve(1, 0.75, 0), "between": value(0.25)}
    sanity = {"passed": False, "reason": "failed: 8 of 8 maps are constant", "steps": [step("top", None)]}
    points = [{"share": share, "accuracy": value(0.9 - share)} for share in (0.0, 0.1, 0.3)]
    found = []
    for name in ("random", "ours"):
        found += [
            row(name, "tiles", {"8": tile}, constant_maps=3 if name == "ours" else 0),
            row(name, "perturbation", {"kl": curve(0, 2), "change": curve(0, 1)}),
            row(name, "insertion_deletion", {"insertion": curve(0, 1), "deletion": curve(1, 0)}),
            row(name, "roar", {"points": points}),
        ]
    boxes = {"score": value(0.4, None), "chance": value(0.25)}
    return [*found, row("ours", "sanity", sanity), row("ours", "boxes", boxes)]


def test_a_table_says_what_is_better_and_leaves_what_was_not_taken_empty(rows: list[dict[str, Any]]) -> None:
    table = trust_table(rows)
    heads, lines = table.head[1:], {row[0]: row[1:] for row in table.rows}
    assert heads[:3] == ["sanity", "Spearman at the end", "SSIM at the end"]
    assert heads[3:7] == ["KL, nats ↓", "change in output ↓", "insertion ↑", "deletion ↓"]
    assert heads[7:] == ["tiles of 8 ↑", "in the box (chance 0.250) ↑", "ROAR accuracy, mean ↓"]
    assert lines["random"][:3] == ["", "", ""]
    assert lines["ours"][:4] == ["FAILED", "-", "0.500 ± 0.010", "1.000 ± 0.010"]
    assert lines["ours"][7:] == ["0.250 ± 0.010", "0.400", "0.700"]  # ROAR: without the point at share 0


def test_an_undefined_figure_is_a_dash() -> None:
    assert format_with_error(value(None, None)) == "-"
    assert format_with_error(value(0.12345, 0.001)) == "0.123 ± 0.001"


def test_verdicts_and_constant_maps_are_named(rows: list[dict[str, Any]]) -> None:
    assert trust_notes(rows) == [
        "ours, tiles: 3 of 8 maps are constant, their pixels were taken in random order",
        "ours: sanity failed: 8 of 8 maps are constant",
    ]


def test_there_is_a_picture_per_test_that_has_curves(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    written = draw_trust(tmp_path, rows, control="random")
    names = ["tiles.png", "perturbation.png", "insertion_deletion.png", "roar.png", "sanity.png"]
    assert [path.name for path in written] == names
    for path in written:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(10**6) or []) > 20


def test_four_panels_stand_in_two_rows_and_lines_may_have_gaps(tmp_path: Path) -> None:
    line = CurveLine("ours", [0, 0.5, 1], [1, None, 0], [0.1, None, None])
    panel = CurvePanel("a title", "share", "probability", [line], limits=(0, 1))
    sizes = []
    for count in (1, 4):
        draw_curves(tmp_path / "a.png", [panel] * count, control="random")
        with Image.open(tmp_path / "a.png") as picture:
            sizes.append(picture.size)
    expected = [(880, 460), (1520, 920)]
    for found, wanted in zip(sizes, expected, strict=True):
        assert found == pytest.approx(wanted, abs=1)  # older Matplotlib cuts a fraction of a pixel off
