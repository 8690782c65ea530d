import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slimsight.compress.data.boxes import load_boxes
from slimsight.compress.data.preprocessing import Preprocessing
from slimsight.compress.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images with a white object: 40 x 20 pixels (columns 12 to 19, rows 4 to 7), and 16 x 16."""
    wide, small = np.zeros((20, 40, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    wide[4:8, 12:20] = 255
    small[0:8, 8:16] = 255
    (tmp_path / "some").mkdir()
    Image.fromarray(wide).save(tmp_path / "some" / "wide.png")
    Image.fromarray(small).save(tmp_path / "small.png")
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\nsome/wide.png,12,4,20,8\nsmall.png,8,0,16,8\n")
    return tmp_path


def test_images_and_boxes_are_cropped_and_scaled_alike(folder: Path) -> None:
    found = load_boxes(folder / "boxes.csv", Preprocessing.square(40))
    assert found.names == ("some/wide.png", "small.png")
    assert found.images.shape == (2, 3, 40, 40)
    # the wide image's centre square starts at column 10, and is doubled
    assert found.boxes.tolist() == [[4, 8, 20, 16], [20, 0, 40, 20]]
    for image, (x0, y0, x1, y1) in zip(found.images, found.boxes.tolist(), strict=True):
        inside = torch.zeros(40, 40, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        assert torch.equal(image[0] > 0.4, inside)  # corners are blurred to 0.49


def test_json_says_the_same(folder: Path) -> None:
    rows = [
        {"file": "some/wide.png", "x0": 12, "y0": 4, "x1": 20, "y1": 8},
        {"file": "small.png", "x0": 8, "y0": 0, "x1": 16, "y1": 8},
    ]
    (folder / "boxes.json").write_text(json.dumps(rows))
    ours, theirs = (
        load_boxes(folder / "boxes.json", Preprocessing.square(16)),
        load_boxes(folder / "boxes.csv", Preprocessing.square(16)),
    )
    assert torch.equal(ours.boxes, theirs.boxes)
    assert torch.equal(ours.images, theirs.images)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "file,x0,y0,x1,y1\nsmall.png,8,0,17,8\n",
            r"box 1 \(8, 0, 17, 8\) is empty or exceeds its image of 16 x 16 pixels",
        ),
        ("file,x0,y0,x1,y1\nsmall.png,8,0,8,8\n", r"box 1 \(8, 0, 8, 8\) is empty or exceeds its image"),
        ("file,x0,y0,x1,y1\nsmall.png,-1,0,8,8\n", r"box 1 \(-1, 0, 8, 8\) is empty or exceeds its image"),
        ("file,x0,y0,x1,y1\nsome/wide.png,0,0,9,9\n", r"lies outside the image's centre square, the 16 x 16"),
        ("file,x0,y0,x1,y1\nsmall.png,1.5,0,8,8\n", r"box 1 is 1.5, 0, 8, 8: x0, y0, x1, y1 must be integers"),
        ("file,x0,y0,x1\nsmall.png,1,0,8\n", r"box 1 has no y1; every box has file, x0, y0, x1, y1"),
        ("file,x0,y0,x1,y1\n", r"boxes.csv holds no boxes; a table of boxes is CSV"),
        ("file,x0,y0,x1,y1\nnone.png,0,0,8,8\n", r"box 1: image .*none.png cannot be read \(No such file"),
        ("file,x0,y0,x1,y1\nsmall.png,0,0,8,8\nsmall.png,0,0,4,4\n", r"box 2: small.png has a box already"),
    ],
)
def test_a_wrong_table_is_one_sentence(folder: Path, text: str, words: str) -> None:
    (folder / "boxes.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        load_boxes(folder / "boxes.csv", Preprocessing.square(16))


@pytest.mark.parametrize("text", ["{", '{"file": 1}', "[1]", "[]"])
def test_wrong_json_is_one_sentence(folder: Path, text: str) -> None:
    (folder / "boxes.json").write_text(text)
    with pytest.raises(DataError, match=r"boxes\.json (cannot be read|holds no boxes)"):
        load_boxes(folder / "boxes.json", Preprocessing.square(16))


def test_a_missing_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"boxes.csv cannot be read \(No such file or directory\)"):
        load_boxes(tmp_path / "boxes.csv", Preprocessing.square(16))
