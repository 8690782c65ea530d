from collections.abc import Callable
from pathlib import Path

import pytest

from slimsight.compress.data.lists import check_val_list, read_classes, read_labels, read_skip, read_val_list
from slimsight.compress.errors import DataError

Write = Callable[[str], Path]
FOLDERS = ["n01440764", "n01443537", "n01484850"]
NAMES = [f"{label}/{number}" for label, count in (("cat", 40), ("dog", 20)) for number in range(count)]
FILES = ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def text(content: str) -> Path:
        path = tmp_path / "list.txt"
        path.write_text(content, encoding="utf-8")
        return path

    return text


def test_classes_are_folders_or_the_first_word_of_a_line(write: Write) -> None:
    assert read_classes(write("n01484850 great white shark\n\nn01440764\n"), FOLDERS) == ("n01440764", "n01484850")
    assert read_classes(write("great cat\ndog\n"), ["dog", "great cat", "great"]) == ("dog", "great cat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("n01440764\nn99\n", r"names n99, which is not a class folder \(there are n01440764, n01443537, n01484850\)"),
        ("n01440764\nn01440764 tench\n", "names n01440764 twice"),
        ("n01440764\n", "names one class only"),
        ("\n", "is empty; give one class per line"),
    ],
)
def test_class_lists_that_cannot_be_used_are_refused(write: Write, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_classes(write(content), FOLDERS)


@pytest.mark.parametrize(
    "content",
    [
        "ILSVRC2012_val_00000001.JPEG n01484850\nILSVRC2012_val_00000002.JPEG n01440764\n",
        "val/ILSVRC2012_val_00000002 n01440764\nILSVRC2012_val_00000001\tn01484850\n",
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n01484850 9 1 4 2 \n"
        "ILSVRC2012_val_00000002,n01440764 1 2 3 4\n",
        "n01484850\nn01440764\n",
        "ILSVRC2012_val_00000001.JPEG 2\nILSVRC2012_val_00000002.JPEG 0\n",
    ],
    ids=["pairs", "stems and folders", "Kaggle", "in order", "Caffe's numbers"],
)
def test_labels_in_the_forms_that_people_have_them(write: Write, content: str) -> None:
    found = read_labels(write(content)).of(FILES, FOLDERS)
    assert found == {FILES[0]: "n01484850", FILES[1]: "n01440764"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("490\n361\n", "holds only numbers: ILSVRC numbers its synsets in an order"),
        ("n01440764\n", "has 1 lines for 2 images"),
        (
            f"{FILES[0]} n99\n",
            r"names 'n99', which is not a class of the training images \(n01440764, .*nor an index below 3",
        ),
        (f"{FILES[0]} 3\n", "names '3', which is not a class"),
        (f"{FILES[0]} n01440764\n{FILES[0]} n01440764\n", "00000001.JPEG twice"),
        (
            f"{FILES[0]} n01440764\n{FILES[1]}\n",
            "'ILSVRC2012_val_00000002.JPEG' has no class; every line is 'file class'",
        ),
    ],
)
def test_labels_that_nothing_explains_are_refused(write: Write, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(write(content)).of(FILES, FOLDERS)


def test_skipped_files_are_paths_below_the_data(write: Write, tmp_path: Path) -> None:
    assert read_skip(write("./train/a/1.JPEG\n# why\nval/2.JPEG\n")) == {"train/a/1.JPEG", "val/2.JPEG"}
    with pytest.raises(DataError, match=r"data\.skip .*absent cannot be read"):
        read_skip(tmp_path / "absent")


def test_a_list_is_read_without_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "val.txt"
    path.write_text("cat/1\n\n  ./dog/1 \r\n")
    assert read_val_list(path) == ["cat/1", "dog/1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "is empty; list at least one"),
        ("cat/1\ndog/1\ncat/1\n", "names cat/1 2 times; list every image once"),
    ],
)
def test_a_list_that_is_empty_or_repeats_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "val.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_val_list(path)


def test_a_list_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"val_list .*absent\.txt cannot be read .*; give a text file"):
        read_val_list(tmp_path / "absent.txt")


def test_the_first_listed_path_that_does_not_exist_is_named() -> None:
    message = "val_list v names train/cat/1, which is not among the training images; paths .* such as cat/0"
    with pytest.raises(DataError, match=message):
        check_val_list(["cat/3", "train/cat/1", "cow/1"], NAMES, path=Path("v"))


def test_a_list_may_not_take_a_whole_class() -> None:
    with pytest.raises(DataError, match="val_list v lists all images of dog: none are left to train on"):
        check_val_list([f"dog/{number}" for number in range(20)], NAMES, path=Path("v"))
