import json
import math

import pytest
import torch

from slimsight.compress.explain.fidelity import Curve, Estimate, paired


def test_the_error_is_of_the_mean_and_images_without_the_figure_do_not_count() -> None:
    found = Estimate.of(torch.tensor([1.0, 2.0, math.nan, 3.0, 6.0]))
    assert found.mean == pytest.approx(3.0)
    assert found.standard_error == pytest.approx(math.sqrt(14 / 3) / 2)
    assert found.images == 4


def test_what_nothing_defines_is_none_not_zero() -> None:
    assert Estimate.of(torch.tensor([math.nan, math.nan])) == Estimate(None, None, 0)
    assert Estimate.of(torch.tensor([5.0])) == Estimate(5.0, None, 1)


def test_the_area_is_a_mean_height_over_uneven_shares() -> None:
    curve = Curve.of([0.0, 0.5, 0.75], torch.tensor([[0.0, 1.0, 1.0], [2.0, 2.0, 2.0]]))
    assert curve.areas.tolist() == pytest.approx([(0.25 + 0.25) / 0.75, 2.0])
    assert [value.mean for value in curve.values] == [1.0, 1.5, 1.5]
    text = json.dumps(curve.to_dict(), allow_nan=False)
    assert json.loads(text)["area"]["images"] == 2


def test_paired_differences_leave_out_what_images_share() -> None:
    level = torch.tensor([[0.0], [10.0], [20.0]])
    ours = Curve.of([0, 1], level.expand(3, 2) + 1)
    theirs = Curve.of([0, 1], level.expand(3, 2))
    assert paired(ours, theirs) == Estimate(1.0, 0.0, 3)
    assert ours.area.standard_error == pytest.approx(10 / math.sqrt(3))
