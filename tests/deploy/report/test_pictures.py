import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from slimsight.deploy.report.canvas import to_heat
from slimsight.deploy.report.pictures import draw_channels, draw_saliency
from slimsight.deploy.report.units import shortened


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(picture - np.array(colour)).max(-1) <= 3).any())


def rbf(count: int, side: int) -> np.ndarray:
    row, column = np.mgrid[:side, :side]
    one = np.exp(-((row - side / 2) ** 2 + (column - side / 2) ** 2) / (2 * (side / 5) ** 2))
    return np.repeat(one[None], count, 0)


def test_heat_leaves_the_ignored_grey_and_covers_what_counts() -> None:
    image = np.zeros((3, 2, 2), np.uint8)
    image[0] = 255  # pure red: luma .299
    heat = to_heat(image, np.array([[0.0, 1.0], [0.0, 2.0]]))
    assert heat[0, 0] == pytest.approx([0.299] * 3)
    top = 0.25 * 0.299 + 0.75 * np.array(mpl.colormaps["inferno"](1.0)[:3])
    assert heat[0, 1] == pytest.approx(top)
    assert heat[1, 1] == pytest.approx(top)  # clipped


@pytest.mark.parametrize(("count", "shape"), [(1, (16, 16)), (4, (12, 20))])
def test_saliency_is_1600_wide_and_outlines_both(tmp_path: Path, count: int, shape: tuple[int, int]) -> None:
    images = np.full((count, 3, *shape), 90, np.uint8)
    maps = rbf(count, 20)[:, : shape[0], : shape[1]]
    path = tmp_path / "saliency.png"
    draw_saliency(path, images, maps, maps * 0.9, images, ["cat"] * count, wrong=[True] * count)
    picture = pixels(path)
    assert picture.shape[1] == 1600
    assert has_colour(picture, (0, 229, 255))  # outline of the slim model
    assert has_colour(picture, (193, 18, 31))  # the wrong prediction
    assert [p.name for p in tmp_path.iterdir()] == ["saliency.png"]


def test_maps_without_an_outline_and_right_predictions(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    images = np.full((1, 3, 8, 8), 90, np.uint8)
    path = tmp_path / "saliency.png"
    draw_saliency(path, images, np.zeros((1, 8, 8)), np.ones((1, 8, 8)), images, ["dog"])
    assert not has_colour(pixels(path), (193, 18, 31))
    assert not recwarn.list


def test_channels_bars_are_as_long_as_their_share(tmp_path: Path) -> None:
    path = tmp_path / "channels.png"
    draw_channels(path, [("a", 16, 4, None), ("b", 64, 48, None), ("c", 10, 10, "the model's output")])
    picture = pixels(path)[60:]  # below the legend
    kept = (picture == np.array((0x2A, 0x6F, 0x97))).all(-1).sum(1)
    removed = (picture == np.array((0xDD, 0xE3, 0xE8))).all(-1).sum(1)
    shares = kept[kept > 0] / (kept + removed)[kept > 0]
    assert shares.min() == pytest.approx(0.25, abs=0.01)
    assert shares.max() == pytest.approx(0.75, abs=0.01)
    assert has_colour(picture, (0x9A, 0xA3, 0xAB))  # frozen


def test_many_groups_take_two_columns(tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    draw_channels(one, [(f"layer{i}", 16, 8, None) for i in range(24)])
    draw_channels(two, [("a.very.long.name." * 6 + str(i), 16, 8, None) for i in range(48)])
    assert pixels(one).shape == pixels(two).shape
    assert pixels(one).shape[1] == 1600


def test_long_names_keep_both_ends() -> None:
    assert shortened("net.layer1", 10) == "net.layer1"
    assert shortened("net.layer1.0.conv1", 10) == "net….conv1"


def test_pyplot_is_never_loaded() -> None:
    code = "import sys, slimsight.deploy.report.pictures; print('matplotlib.pyplot' in sys.modules)"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
