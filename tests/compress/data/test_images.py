from __future__ import annotations

import numpy as np
import pytest

from slimsight.compress.data import ImageSet, Rows


def make_set(images: np.ndarray) -> ImageSet:
    return ImageSet(images, np.arange(len(images), dtype=np.int64) % 2, ("cat", "dog"))


def test_a_subset_is_the_rows_it_names_and_shares_the_memory(random_images: np.ndarray) -> None:
    whole = make_set(random_images)
    part = whole.subset([7, 2, 2])
    assert len(part) == 3
    assert isinstance(part.images, Rows)
    assert part.images.pool is random_images
    assert part.images.shape == (3, 3, 8, 8)
    np.testing.assert_array_equal(part.images[:], random_images[[7, 2, 2]])
    np.testing.assert_array_equal(part.labels, [1, 0, 0])


def test_a_subset_of_a_subset_counts_within_the_first(random_images: np.ndarray) -> None:
    part = make_set(random_images).subset(np.array([5, 6, 7, 8])).subset([3, 0])
    np.testing.assert_array_equal(np.asarray(part.images), random_images[[8, 5]])
    np.testing.assert_array_equal(part.labels, [0, 1])


@pytest.mark.parametrize("index", [1, -1, slice(1, 3), np.array([2, 0]), np.array([True, False, True, False])])
def test_rows_are_indexed_like_the_array_they_stand_for(random_images: np.ndarray, index: object) -> None:
    order = np.array([9, 4, 4, 0])
    rows = Rows(random_images, order)
    np.testing.assert_array_equal(rows[index], random_images[order][index])  # type: ignore[index]


def test_rows_become_an_array_of_another_type_but_not_without_a_copy(random_images: np.ndarray) -> None:
    rows = Rows(random_images, np.array([3, 1]))
    assert np.asarray(rows, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="without a copy"):
        rows.__array__(copy=False)  # what NumPy 2 calls for np.array(rows, copy=False); 1.26 has no way to ask


def test_labels_must_match_images(random_images: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="one label per image"):
        ImageSet(random_images, np.zeros(3, dtype=np.int64), ("cat", "dog"))
