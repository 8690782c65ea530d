"""VarSal as an explainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import DataError, ModelError
from slimsight.compress.explain import Explainer
from slimsight.compress.explain.varsal import Encoder, VarSal


@pytest.fixture
def varsal() -> VarSal:
    torch.manual_seed(0)
    return VarSal(Encoder((6, 4)))


def test_maps_are_the_mean_and_uncertainty_the_deviation(varsal: VarSal, images: Tensor) -> None:
    explainer: Explainer = varsal
    found = explainer.explain(images)
    mean, log_variance = varsal.network(images).unbind(1)
    torch.testing.assert_close(found.maps, mean)
    assert found.uncertainty is not None
    torch.testing.assert_close(found.uncertainty.square(), log_variance.exp())
    assert not found.maps.requires_grad
    assert explainer.name == "varsal"


def test_labels_change_nothing_and_neither_does_a_second_call(varsal: VarSal, images: Tensor) -> None:
    varsal.network.train()  # a stage left it so
    first = varsal.explain(images, torch.zeros(len(images), dtype=torch.int64))
    second = varsal.explain(images, torch.ones(len(images), dtype=torch.int64))
    assert torch.equal(first.maps, second.maps)
    one = varsal.explain(images[:1])
    torch.testing.assert_close(one.maps, first.maps[:1])


def test_a_file_gives_the_same_maps(varsal: VarSal, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "varsal.safetensors"
    varsal.save(path)
    assert torch.equal(VarSal.load(path).explain(images).maps, varsal.explain(images).maps)
    given = VarSal.load(path, Encoder((6, 4)))
    assert torch.equal(given.explain(images).maps, varsal.explain(images).maps)


def test_an_encoder_of_any_depth_is_rebuilt_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "varsal.safetensors"
    saved = VarSal(Encoder(range(4, 26)))  # more than ten blocks: names in order of the alphabet are not in theirs
    saved.save(path)
    assert torch.equal(
        VarSal.load(path).explain(torch.ones(1, 3, 8, 8)).maps, saved.explain(torch.ones(1, 3, 8, 8)).maps
    )


def test_weights_of_another_network_are_refused(varsal: VarSal, tmp_path: Path) -> None:
    path = tmp_path / "varsal.safetensors"
    varsal.save(path)
    with pytest.raises(ModelError, match=r"varsal\.safetensors holds other weights than this network"):
        VarSal.load(path, nn.Conv2d(3, 2, 3, padding=1))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 3, 7, 32), r"images of 7 x 32 pixels are too small for VarSal"),
        (torch.rand(3, 16, 16), r"cannot explain \(3, 16, 16\) torch\.float32: give floating-point images"),
        (torch.rand(2, 1, 16, 16), r"cannot explain \(2, 1, 16, 16\)"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), r"cannot explain \(2, 3, 16, 16\) torch\.uint8"),
        (torch.stack([torch.zeros(3, 16, 16), torch.full((3, 16, 16), torch.nan)]), r"image 1 of 2 holds NaN"),
    ],
)
def test_images_that_do_not_fit_are_refused(varsal: VarSal, images: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        varsal.explain(images)
