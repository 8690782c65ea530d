from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slimsight.deploy.report.panels import DrawableMaps, DriftRow, PanelRow, draw_drift, draw_panel


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(picture - np.array(colour)).max(-1) <= 3).any())


def look(side: int = 16, *, shift: int = 0, uncertainty: bool = False, degenerate: str | None = None) -> DrawableMaps:
    row, column = np.mgrid[:side, :side]
    mass = np.exp(-((row - side / 2) ** 2 + (column - side / 2 - shift) ** 2) / (2 * (side / 6) ** 2))
    unsure = np.full((side, side), 0.2) if uncertainty else None
    centre = None if degenerate else (side / 2, side / 2 + shift)
    return DrawableMaps(np.zeros_like(mass) if degenerate else mass, mass > 0.5, centre, degenerate, unsure)


IMAGE = np.full((3, 16, 16), 90, np.uint8)
CYAN, RED = (0, 229, 255), (193, 18, 31)


def test_a_panel_has_a_row_per_explainer(tmp_path: Path) -> None:
    rows = [PanelRow("gradient", look(), look(shift=3), ["centre moved 3.0 px"])]
    draw_panel(tmp_path / "one.png", IMAGE, "cat.png", ["true class: cat"], rows)
    draw_panel(tmp_path / "two.png", IMAGE, "cat.png", ["true class: cat"], rows * 2)
    one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    assert two.shape[0] - one.shape[0] == 272  # a cell and its gap
    assert two.shape[1] == one.shape[1]
    assert has_colour(one, CYAN)
    assert not has_colour(one, RED)


def test_uncertainty_takes_two_more_columns(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    without = [PanelRow("rbf", look(), look(), [])]
    both = [*without, PanelRow("varsal", look(uncertainty=True), look(uncertainty=True), ["std up to 0.2"])]
    draw_panel(tmp_path / "a.png", IMAGE, "$x_", ["\N{MULTIPLICATION X} slim: $dog^"], without)
    draw_panel(tmp_path / "b.png", IMAGE, "$x_", [], both)
    assert pixels(tmp_path / "b.png").shape[1] - pixels(tmp_path / "a.png").shape[1] == 544
    assert has_colour(pixels(tmp_path / "a.png"), RED)  # the line of a wrong prediction
    assert not recwarn.list


def test_a_map_that_says_nothing_has_no_outline(tmp_path: Path) -> None:
    rows = [PanelRow("rbf", look(), look(degenerate="constant map"), [])]
    draw_panel(tmp_path / "a.png", IMAGE, "x", [], rows)
    maps = pixels(tmp_path / "a.png")[300:-100]
    assert not has_colour(maps, CYAN)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_drifted_images_are_1600_wide(tmp_path: Path, count: int) -> None:
    rows = [DriftRow("cat", f"image {i}\nslim: dog", IMAGE, look(), look(shift=4), wrong=i == 0) for i in range(count)]
    draw_drift(tmp_path / "drift.png", rows)
    picture = pixels(tmp_path / "drift.png")
    assert picture.shape[1] == 1600
    assert has_colour(picture, CYAN)
    assert has_colour(picture, RED)
