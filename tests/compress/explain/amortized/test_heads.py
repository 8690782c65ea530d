"""What heads say and mean; weights of runs keep their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from slimsight.compress.errors import PruningError
from slimsight.compress.explain import ExplainedClassifier, FeatureScale, Head, RbfHead, RealXHead, Selector
from slimsight.compress.explain.amortized.heads import RBF_VARIANCE, map_moments
from slimsight.compress.explain.amortized.rbf import rbf_map, same_area_centred
from slimsight.compress.explain.varsal import VarSalHead
from slimsight.compress.files.atomic import read_tensors, write_tensors

SCALES = (FeatureScale("c", 8, 2), FeatureScale("b", 6, 4), FeatureScale("a", 4, 8))


def said(head: type[Head], side: int, count: int = 3) -> tuple[Selector, Tensor]:
    torch.manual_seed(0)
    selector = Selector(SCALES, 4, side, head).eval()
    torch.nn.init.normal_(selector.head.weight)
    features = [torch.randn(count, scale.channels, scale.side, scale.side) for scale in SCALES]
    with torch.no_grad():
        return selector, selector(features, torch.arange(count))


@pytest.mark.parametrize("head", [RbfHead, RealXHead, VarSalHead])
def test_weights_have_the_names_that_runs_have_stored(head: type[Head]) -> None:
    found = Selector(SCALES, 4, 32, head).state_dict().keys()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ups = ["conv.weight", *(f"bn.{n}" for n in norm), *(f"block.{c}.weight" for c in ("conv1", "conv2", "shortcut"))]
    ups += [f"block.bn{i}.{n}" for i in (1, 2, 3) for n in norm]
    assert set(found) == {"filter.weight", "head.weight", "head.bias", *(f"ups.{i}.{n}" for i in (0, 1) for n in ups)}


@pytest.mark.parametrize("head", [RbfHead, RealXHead, VarSalHead])
def test_a_selector_comes_back_from_its_file(head: type[Head], tmp_path: Path) -> None:
    selector, numbers = said(head, 32)
    write_tensors(tmp_path / "selector.safetensors", selector.state_dict(), {"explainer": head.kind})
    other = Selector(SCALES, 4, 32, head).eval()
    other.load_state_dict(read_tensors(tmp_path / "selector.safetensors"))
    maps = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(other.head(maps), selector.head(maps))
    assert all(torch.equal(value, selector.state_dict()[name]) for name, value in other.state_dict().items())
    assert numbers.dtype == torch.float32


def test_realx_says_a_softmax_over_two_maps_at_the_finest_scale() -> None:
    selector, numbers = said(RealXHead, 32)
    assert numbers.shape == (3, 8, 8)
    maps = torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        raw = torch.nn.functional.conv2d(maps, selector.head.weight, selector.head.bias)
        torch.testing.assert_close(selector.head(maps), raw.softmax(1)[:, 1])
    assert selector.head.weight.shape == (2, 4, 1, 1)


def test_an_untrained_realx_can_keep_more_than_half_and_less() -> None:
    """Whatever the decoder gives, which is never negative: channels speak for keeping and for closing."""
    torch.manual_seed(0)
    selector = Selector(SCALES, 4, 8, RealXHead).eval()
    with torch.no_grad():
        found = torch.stack([selector.head(maps) for maps in 4 * torch.eye(4).view(4, 1, 4, 1, 1)])
        nothing = selector.head(torch.zeros(1, 4, 8, 8))
    assert float(found.min()) < 0.4
    assert float(found.max()) > 0.6
    assert torch.equal(nothing, torch.full((1, 8, 8), 0.5))


@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("head", [RealXHead, VarSalHead])
def test_maps_are_masks_as_large_as_the_images(head: type[Head], side: int) -> None:
    selector, numbers = said(head, side)
    maps = selector.head.to_maps(numbers)
    assert maps.shape == (3, 1, side, side)
    assert 0 <= float(maps.min()) < float(maps.max()) <= 1
    assert torch.equal(selector.head.to_saliency(numbers).maps, maps[:, 0]) == (head is RealXHead)
    torch.testing.assert_close(selector.head.to_moments(numbers), map_moments(maps))


def test_rbf_numbers_are_their_own_moments_and_parameters() -> None:
    selector, numbers = said(RbfHead, 32)
    assert torch.equal(selector.head.to_moments(numbers), numbers)
    saliency = selector.head.to_saliency(numbers)
    assert saliency.parameters is numbers
    assert torch.equal(saliency.maps, rbf_map(numbers, 32)[:, 0])


def test_radial_rivals_of_equal_area_lie_where_the_others_do() -> None:
    selector, numbers = said(RbfHead, 32)
    areas = rbf_map(numbers, 32).mean((1, 2, 3))
    torch.manual_seed(0)
    centred, anywhere = selector.head.control_masks(numbers)
    torch.manual_seed(0)
    equal_centred, equal_anywhere = selector.head.equal_area_masks(numbers)
    for rival in (equal_centred, equal_anywhere):
        torch.testing.assert_close(rival.mean((1, 2, 3)), areas, rtol=1e-3, atol=1e-4)
    assert torch.equal(centred.flatten(1).argmax(1), equal_centred.flatten(1).argmax(1))
    assert torch.equal(anywhere.flatten(1).argmax(1), equal_anywhere.flatten(1).argmax(1))
    assert float((anywhere.mean((1, 2, 3)) - areas).abs().max()) > 0.01  # the border cuts off another part


def test_a_file_says_how_its_sigmas_are_bounded() -> None:
    selector, _ = said(RbfHead, 32)
    maps = torch.ones(1, *selector.head.weight.shape[1:])
    assert selector.head.metadata == {"explainer": "rbf", "sigma_share": "0.3"}
    with torch.no_grad():
        selector.head.bias[2] = 40.0
    assert float(selector.head(maps)[0, 2]) <= 9.6 + 1e-4
    selector.head.read_metadata_({"explainer": "rbf"})  # as an earlier version wrote it
    assert float(selector.head(maps)[0, 2]) > 30
    selector.head.read_metadata_({"explainer": "rbf", "sigma_share": "0.3"})
    assert float(selector.head(maps)[0, 2]) <= 9.6 + 1e-4
    assert said(RealXHead, 32)[0].head.metadata == {"explainer": "realx"}


@pytest.mark.parametrize("head", [RealXHead, VarSalHead])
def test_rivals_of_a_map_are_as_large_as_it_is(head: type[Head]) -> None:
    selector, numbers = said(head, 32)
    maps = selector.head.to_maps(numbers)
    areas = maps.mean((1, 2, 3))
    torch.manual_seed(0)
    centred, moved = selector.head.control_masks(numbers)
    torch.manual_seed(0)
    radial, anywhere = selector.head.equal_area_masks(numbers)
    assert torch.equal(anywhere, moved)  # moving a map does not change its area
    for rival in (centred, radial, anywhere):
        assert rival.shape == maps.shape
        torch.testing.assert_close(rival.mean((1, 2, 3)), areas, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(radial, rbf_map(same_area_centred(areas, 32), 32))
    assert torch.equal(centred.flatten(1).sort(1).values, maps.flatten(1).sort(1).values)
    assert torch.equal(anywhere.flatten(1).sort(1).values, maps.flatten(1).sort(1).values)
    assert not torch.equal(anywhere, maps)


def test_units_ask_the_same_of_every_explainer(network: ExplainedClassifier) -> None:
    """Explanations as far from C_x as those of another image are: RBF_VARIANCE twice, on the average."""
    torch.manual_seed(0)
    numbers = torch.rand(400, 8, 8)
    selector, _ = said(RealXHead, 32)
    unit = selector.head.unit(numbers)
    pairs = (numbers - numbers[torch.randperm(400)]).square().sum((1, 2)).mean() * unit
    assert float(pairs) == pytest.approx(2 * RBF_VARIANCE, rel=0.05)
    assert selector.head.unit(0.1 * numbers) == pytest.approx(100 * unit, rel=1e-4)
    assert selector.head.unit(numbers.half()) == pytest.approx(unit, rel=1e-3)
    # Radial ones: squared pixels of a 32-pixel side.
    assert network.selector.head.unit(torch.rand(5, 3)) == 4


def test_an_explainer_that_always_says_the_same_cannot_steer() -> None:
    selector, _ = said(RealXHead, 32)
    with pytest.raises(PruningError, match=r"gives all images the same explanation.*gates\.steer=none"):
        selector.head.unit(torch.full((5, 8, 8), 0.25))
