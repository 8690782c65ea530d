from typing import Any

import pytest
import torch
from torch import Tensor

from slimsight.compress.explain.fidelity import box_score


def pasted(count: int, side: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Grey noise with one bright object of random size and place each: images (N, 3, S, S), boxes (N, 4)."""
    random = torch.Generator().manual_seed(seed)
    images, boxes = torch.rand(count, 3, side, side, generator=random) * 0.5, []
    for image in images:
        width, height = (int(v) for v in torch.randint(3, 10, (2,), generator=random))
        x0 = int(torch.randint(0, side - width + 1, (1,), generator=random))
        y0 = int(torch.randint(0, side - height + 1, (1,), generator=random))
        image[:, y0 : y0 + height, x0 : x0 + width] = 1
        boxes.append((x0, y0, x0 + width, y0 + height))
    return images, torch.tensor(boxes)


def test_a_map_of_the_object_scores_one_and_its_opposite_nothing(oracle: Any) -> None:
    images, boxes = pasted(40)
    assert box_score(oracle.maps(images), boxes).score.mean == 1
    assert box_score(-oracle.maps(images), boxes).score.mean == 0


def test_chance_is_the_boxes_area(flat: Any, chance: Any) -> None:
    images, boxes = pasted(400)
    sizes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 24**2
    for maps in (chance(images), flat.maps(images)):
        found = box_score(maps, boxes)
        assert found.chance.mean == pytest.approx(float(sizes.mean()))
        assert abs(found.score.mean - found.chance.mean) < 4 * found.score.standard_error


def test_only_as_many_pixels_as_the_box_has_count() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[0, 0] = torch.tensor([9.0, 8.0, 7.0, 6.0])
    assert box_score(maps, torch.tensor([[0, 0, 2, 2]])).score.mean == 0.5  # 9 and 8 of 9, 8, 7, 6
    assert box_score(maps, torch.tensor([[1, 0, 2, 1]])).score.mean == 0  # one pixel: the 9 is beside it
    assert box_score(maps, torch.tensor([[0, 0, 1, 1]])).score.mean == 1
    assert box_score(maps, torch.tensor([[0, 0, 4, 4]])).score.mean == 1


def test_ties_at_the_edge_of_the_top_are_shared_out_by_chance() -> None:
    maps = torch.zeros(2000, 2, 4)
    maps[:, :, 0] = 1  # 2 of the box's 4 pixels; the other 2 places fall on 6 pixels, 2 of them in the box
    found = box_score(maps, torch.tensor([[0, 0, 2, 2]]).expand(2000, 4)).score
    assert abs(found.mean - (2 + 2 / 3) / 4) < 4 * found.standard_error
