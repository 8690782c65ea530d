from __future__ import annotations

from collections import Counter

import pytest

from slimsight.compress.data.partition import check_classes, check_same_classes, hold_out
from slimsight.compress.errors import DataError

NAMES = [f"{label}/{number}" for label, count in (("cat", 40), ("dog", 20)) for number in range(count)]


def by_class(names: set[str]) -> Counter[str]:
    return Counter(name.split("/")[0] for name in names)


def test_every_class_gives_its_share() -> None:
    assert by_class(hold_out(NAMES, 0.1, seed=0, what="validation")) == {"cat": 4, "dog": 2}


def test_a_draw_repeats_and_depends_on_seed_and_purpose() -> None:
    first = hold_out(NAMES, 0.25, seed=0, what="validation")
    assert first == hold_out(reversed(NAMES), 0.25, seed=0, what="validation")  # type: ignore[arg-type]
    assert first != hold_out(NAMES, 0.25, seed=1, what="validation")
    assert first != hold_out(NAMES, 0.25, seed=0, what="test")


def test_a_draw_is_the_same_in_every_version() -> None:
    assert sorted(hold_out(NAMES, 0.05, seed=0, what="validation")) == ["cat/12", "cat/5", "dog/6"]


def test_at_least_one_image_is_held_and_one_stays() -> None:
    pair = ["cat/0", "cat/1"]
    assert len(hold_out(pair, 0.01, seed=0, what="test")) == 1
    assert len(hold_out(pair, 0.99, seed=0, what="test")) == 1


def test_reserved_images_are_never_drawn() -> None:
    reserved = set(NAMES[:30])
    held = hold_out(NAMES, 0.2, seed=0, what="test", reserved=reserved)
    assert by_class(held) == {"cat": 8, "dog": 4}
    assert not held & reserved


def test_a_class_that_is_too_small_is_named() -> None:
    message = "class 'dog' has 1 image to share between training and validation, at least 2 are needed"
    with pytest.raises(DataError, match=message):
        hold_out(["cat/0", "cat/1", "dog/0"], 0.5, seed=0, what="validation")


def test_one_class_or_none_is_refused() -> None:
    with pytest.raises(DataError, match=r"data/train holds one class only \(cat\); a classifier needs at least 2"):
        check_classes(["cat"], "data/train")
    with pytest.raises(DataError, match="data/train holds no class folders; put the images of each class"):
        check_classes([], "data/train")


def test_differing_classes_are_listed() -> None:
    with pytest.raises(DataError, match="B lacks cat, dog and A lacks eel: every split must have the same"):
        check_same_classes(["cat", "dog", "fox"], ["fox", "eel"], "A", "B")
    with pytest.raises(DataError, match="B lacks 0, 1, 2, 3, 4 and 3 more: every split"):
        check_same_classes([str(number) for number in range(8)], [], "A", "B")
