"""The Python API takes batch-norm statistics anew: after surgery, and after a user's own finetuning."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import slimsight
from slimsight.compress.errors import ConfigError, DataError, ModelError

Batch = tuple[Tensor, Tensor]


def to_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16, momentum=0.01), nn.ReLU(),
        nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16, momentum=0.01), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).eval()  # fmt: skip


@pytest.fixture
def batches() -> list[Batch]:
    random = torch.Generator().manual_seed(1)
    return [(torch.rand(8, 3, 10, 10, generator=random) + 1, torch.arange(8) % 4) for _ in range(6)]


@pytest.fixture
def cut(batches: list[Batch]) -> tuple[slimsight.Traced, slimsight.PrunePlan]:
    traced = slimsight.trace(to_model(), batches[0][0])
    scores = slimsight.learn_gates(traced, [], config=slimsight.GatesConfig(steer="magnitude"))
    return traced, slimsight.select(traced, scores, macs=0.6)


def by_hand(model: nn.Module, batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """Means of the batches' means and unbiased variances in front of the second norm, all norms in training mode."""
    twin = copy.deepcopy(model).train()
    with torch.no_grad():
        maps = [twin[:4](images).transpose(0, 1).flatten(1) for images, _ in batches]  # type: ignore[index]
    return torch.stack([m.mean(1) for m in maps]).mean(0), torch.stack([m.var(1) for m in maps]).mean(0)


def statistics(model: nn.Module) -> list[Tensor]:
    return [value.clone() for name, value in model.state_dict().items() if "running" in name]


def test_slim_takes_them_from_a_loader(cut: tuple[slimsight.Traced, slimsight.PrunePlan], batches: list[Batch]) -> None:
    before = copy.deepcopy(cut[0].model.state_dict())
    plain = slimsight.slim(*cut)
    old = statistics(plain.model)
    kept = cut[1].kept["0"]
    assert torch.equal(old[0], cut[0].model[1].running_mean[list(kept)])  # type: ignore[index]
    slimmed = slimsight.slim(*cut, batches, batches=4)
    mean, variance = by_hand(plain.model, batches[:4])
    norm: Any = slimmed.model[4]  # type: ignore[index]
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.momentum == 0.01
    assert not slimmed.model.training
    assert slimmed.max_rel == plain.max_rel  # proven before
    assert all(torch.equal(a, b) for a, b in zip(slimmed.model.parameters(), plain.model.parameters(), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in cut[0].model.state_dict().items())


def test_after_finetuning_it_changes_what_it_is_given(
    cut: tuple[slimsight.Traced, slimsight.PrunePlan], batches: list[Batch], tmp_path: Path
) -> None:
    slimmed = slimsight.slim(*cut)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    loader = DataLoader(TensorDataset(images, labels), 8)
    slimmed.model.train()
    assert slimsight.recalibrate(slimmed, loader) == 2
    mean, variance = by_hand(slimmed.model, batches)
    norm: Any = slimmed.model[4]  # type: ignore[index]
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert slimmed.model.training
    slimsight.save(slimmed, tmp_path)
    torch.testing.assert_close(slimsight.load(tmp_path)(images), slimmed.model.eval()(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match=r"is a program .*slimsight.load\(folder, YourModel\(\)\)"):
        slimsight.recalibrate(slimsight.load(tmp_path), loader)


def test_a_loader_is_read_once_and_only_as_far_as_asked(batches: list[Batch]) -> None:
    read = []

    def generator() -> Iterator[Batch]:
        for number, batch in enumerate(batches):
            read.append(number)
            yield batch

    model, again = to_model(), to_model().double()
    assert slimsight.recalibrate(model, generator(), batches=3) == 2
    assert read == [0, 1, 2]
    torch.testing.assert_close(model[4].running_mean, by_hand(to_model(), batches[:3])[0])  # type: ignore[index]
    assert slimsight.recalibrate(again, batches[:3]) == 2
    torch.testing.assert_close(again[4].running_mean.float(), model[4].running_mean)  # type: ignore[index]


def test_frozen_norms_stay_unless_all_is_frozen(batches: list[Batch]) -> None:
    model: Any = to_model()
    model[1].requires_grad_(False)
    before = statistics(model)
    assert slimsight.recalibrate(model, batches) == 1
    after = statistics(model)
    assert [torch.equal(old, new) for old, new in zip(before, after, strict=True)] == [True, True, False, False]
    assert slimsight.recalibrate(model.requires_grad_(False), batches) == 2
    assert not torch.equal(before[0], statistics(model)[0])


def test_nothing_to_recalibrate(batches: list[Batch]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.LazyLinear(4))
    model(batches[0][0])
    before = copy.deepcopy(model.state_dict())
    assert slimsight.recalibrate(model, batches) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_refusals(cut: tuple[slimsight.Traced, slimsight.PrunePlan], batches: list[Batch]) -> None:
    model = to_model()
    before = statistics(model)
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match=f"batches is {wrong}; give the number of batches to take"):
            slimsight.recalibrate(model, batches, batches=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batches is 0"):
        slimsight.slim(*cut, batches=0)
    with pytest.raises(DataError, match="the loader yields no batches"):
        slimsight.slim(*cut, [])
    with pytest.raises(DataError, match="the loader yields a dict"):
        slimsight.recalibrate(model, [batches[0], {"images": batches[0][0]}])
    images, labels = batches[0]
    with pytest.raises(DataError, match="batch normalisation '1' are NaN or infinite"):
        slimsight.recalibrate(model, [(images, labels), (images * float("inf"), labels)])
    assert all(torch.equal(old, new) for old, new in zip(before, statistics(model), strict=True))

    class Detour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images: Tensor) -> Tensor:
            return images

    with pytest.raises(ModelError, match="none of the model's 1 batch normalisations was called"):
        slimsight.recalibrate(Detour(), batches)
