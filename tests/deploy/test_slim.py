"""The Python API on a model and loaders that know nothing of slimsight."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from slimsight.compress.config import ExplainerConfig, GatesConfig
from slimsight.compress.errors import ConfigError, DataError, ModelError, PruningError
from slimsight.compress.macs import count_macs
from slimsight.deploy import slim as api

SIDE = 16


class Mine(nn.Module):
    """A residual stream, a strided branch, dropout: nothing prepared."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 16, 3, padding=1))
        self.down = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = self.down(torch.relu(maps + self.inner(maps)))
        logits: Tensor = self.head(self.drop(maps.mean((2, 3))))
        return logits


def loader(part: slice, *, shuffle: bool = False) -> DataLoader[Any]:
    digits = load_digits()
    pixels = torch.from_numpy(digits.images[part]).float()[:, None].expand(-1, 3, -1, -1) / 16
    images = nn.functional.interpolate((pixels - 0.3) / 0.4, size=(SIDE, SIDE), mode="bilinear")
    return DataLoader(TensorDataset(images, torch.from_numpy(digits.target[part])), 64, shuffle=shuffle)


@pytest.fixture(scope="module")
def data() -> tuple[DataLoader[Any], DataLoader[Any]]:
    return loader(slice(0, 1400), shuffle=True), loader(slice(1400, None))


@pytest.fixture(scope="module")
def mine(data: tuple[DataLoader[Any], DataLoader[Any]]) -> Mine:
    """A model that a user trained in a loop of their own."""
    torch.manual_seed(0)
    model = Mine()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(6):
        for images, labels in data[0]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    assert accuracy(model, data[1]) > 0.8
    return model


@torch.no_grad()
def accuracy(model: nn.Module, batches: DataLoader[Any]) -> float:
    if not isinstance(model, torch.fx.GraphModule):
        model.eval()
    hits = torch.cat([model(images).argmax(1) == labels for images, labels in batches])
    return float(hits.float().mean())


@pytest.fixture(scope="module")
def example(data: tuple[DataLoader[Any], DataLoader[Any]]) -> Tensor:
    return next(iter(data[1]))[0][:4]


def test_six_lines(mine: Mine, data: tuple[DataLoader[Any], DataLoader[Any]], example: Tensor, tmp_path: Path) -> None:
    before, config = copy.deepcopy(mine.train().state_dict()), GatesConfig(steer="none", steps=250, batch_size=64)

    traced = api.trace(mine, example)
    scores = api.learn_gates(traced, data[0], macs=0.5, config=config)
    plan = api.select(traced, scores, macs=0.5)
    slimmed = api.slim(traced, plan)
    api.save(slimmed, tmp_path / "slim")

    assert mine.training
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())
    total = count_macs(mine.eval(), example[:1]).total
    assert 0.485 * total <= slimmed.macs == count_macs(slimmed.model, example[:1]).total <= 0.5 * total
    assert slimmed.max_rel <= 1e-5
    assert isinstance(slimmed.model, Mine)
    assert all(parameter.requires_grad for parameter in slimmed.model.parameters()), "it is finetuned next"
    loaded = api.load(tmp_path / "slim")
    images = next(iter(data[1]))[0]
    expected = slimmed.model(images)
    torch.testing.assert_close(loaded(images), expected, rtol=1e-4, atol=1e-5)
    rebuilt = api.load(tmp_path / "slim", Mine())
    torch.testing.assert_close(rebuilt(images), expected, rtol=1e-4, atol=1e-5)
    assert rebuilt.stem[0].out_channels == slimmed.model.stem[0].out_channels  # type: ignore[index, union-attr]


def test_a_slim_model_loads_where_nobody_knows_its_class(mine: Mine, example: Tensor, tmp_path: Path) -> None:
    """In a process of its own, with torch alone."""
    traced = api.trace(mine, example)
    scores = {group.name: torch.rand(group.channels) for group in traced.graph.groups}
    slimmed = api.slim(traced, api.select(traced, scores))
    api.save(slimmed, tmp_path)
    torch.save(example, tmp_path / "images.pt")
    code = (
        "import sys, torch; p = sys.argv[1];"
        "print(torch.export.load(p + '/model.pt2').module()(torch.load(p + '/images.pt')).double().sum().item())"
    )
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) == pytest.approx(float(slimmed.model(example).detach().double().sum()), abs=1e-3)


def test_steered(mine: Mine, data: tuple[DataLoader[Any], DataLoader[Any]], example: Tensor, tmp_path: Path) -> None:
    explainer = ExplainerConfig.model_validate(
        {"predictor": {"epochs": 4, "lr": 1e-3}, "selector": {"epochs": 5, "batch_size": 64}}
    )
    traced = api.explain(api.trace(mine, example), *data, config=explainer)
    assert traced.explained is not None
    scores = api.learn_gates(traced, data[0], config=GatesConfig(steps=200, batch_size=64), images=700)
    slimmed = api.slim(traced, api.select(traced, scores))
    assert slimmed.explained is not None
    assert slimmed.explained.classifier.net is slimmed.model
    logits, params = slimmed.explained(example)
    assert torch.equal(logits, slimmed.model(example))
    assert params.shape == (4, 3)
    api.save(slimmed, tmp_path)
    assert (tmp_path / "explainer.safetensors").is_file()
    # A plan of the joint network fits the model alone.
    alone = api.slim(api.trace(mine, example), slimmed.plan)
    torch.testing.assert_close(alone.model(example), slimmed.model(example))


def test_images_without_labels(mine: Mine, data: tuple[DataLoader[Any], DataLoader[Any]], example: Tensor) -> None:
    alone = [images for images, _ in data[0]]
    traced = api.trace(mine, example)
    config = GatesConfig(steer="none", steps=200, batch_size=64)
    scores = api.learn_gates(traced, [(images,) for images in alone], macs=0.7, config=config, images=700)
    slimmed = api.slim(traced, api.select(traced, scores, macs=0.7), alone)
    assert api.recalibrate(slimmed, alone, batches=3) == 2
    slimmed.model.eval()
    with torch.no_grad():
        same = [slimmed.model(x).argmax(1) == mine.eval()(x).argmax(1) for x, _ in data[1]]
    assert float(torch.cat(same).float().mean()) > 0.6


def test_explained_by_realx(mine: Mine, data: tuple[DataLoader[Any], DataLoader[Any]], example: Tensor) -> None:
    explainer = ExplainerConfig.model_validate(
        {"predictor": {"epochs": 2, "lr": 1e-3}, "selector": {"epochs": 4, "lr": 0.01, "batch_size": 64}}
    )
    traced = api.explain(api.trace(mine, example), *data, kind="realx", config=explainer)
    with pytest.raises(ConfigError, match=r"gates.steer is rbf and the explainer is realx: call explain\(kind='rbf'\)"):
        api.learn_gates(traced, data[0], config=GatesConfig(steer="rbf"))
    scores = {group.name: torch.rand(group.channels) for group in traced.graph.groups}
    slimmed = api.slim(traced, api.select(traced, scores))
    assert slimmed.explained is not None
    assert slimmed.max_rel <= 1e-5
    logits, maps = slimmed.explained(example)
    assert torch.equal(logits, slimmed.model(example))
    assert maps.shape == (4, 8, 8)


def test_explained_by_varsal(mine: Mine, data: tuple[DataLoader[Any], DataLoader[Any]], example: Tensor) -> None:
    explainer = ExplainerConfig.model_validate({"varsal": {"epochs": 2, "lr": 0.01}})
    traced = api.explain(api.trace(mine, example), *data, kind="varsal", config=explainer)
    scores = {group.name: torch.rand(group.channels) for group in traced.graph.groups}
    slimmed = api.slim(traced, api.select(traced, scores))
    assert slimmed.explained is not None
    assert slimmed.max_rel <= 1e-5
    assert slimmed.explained(example)[1].shape == (4, 2, 8, 8)


def test_scores_by_weights_need_no_learning(mine: Mine, example: Tensor) -> None:
    traced = api.trace(mine, example)
    scores = api.learn_gates(traced, [], config=GatesConfig(steer="magnitude"))
    plan = api.select(traced, scores, macs=0.7, align=8)
    assert all(len(kept) % 8 == 0 for kept in plan.kept.values())


def test_refusals(mine: Mine, example: Tensor, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"example is .*uint8"):
        api.trace(mine, example.to(torch.uint8))
    traced = api.trace(mine, example)
    with pytest.raises(ConfigError, match=r"there is no explainer: call explain\(kind='rbf'\) first"):
        api.learn_gates(traced, [], config=GatesConfig(steer="rbf"))
    with pytest.raises(ConfigError, match=r"unknown explainer that can steer gates 'rbg'; did you mean 'rbf'\?"):
        api.explain(traced, [], [], kind="rbg")
    with pytest.raises(PruningError, match="the smallest plan has"):
        api.learn_gates(traced, [], macs=0.0001)
    with pytest.raises(DataError, match="no batches"):
        api.learn_gates(traced, [], config=GatesConfig(steer="none"))
    with pytest.raises(DataError, match="yields a dict"):
        api.learn_gates(traced, [{"x": example}], config=GatesConfig(steer="none"))
    slimmed = api.slim(traced, api.select(traced, api.learn_gates(traced, [], config=GatesConfig(steer="uniform"))))
    api.save(slimmed, tmp_path)
    with pytest.raises(ModelError, match="give the architecture that was slimmed"):
        api.load(tmp_path, Mine(classes=7))


def generator(example: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(3):
        yield example, torch.zeros(len(example), dtype=torch.int64)


def test_a_loader_that_can_be_read_only_once_is_refused(mine: Mine, example: Tensor) -> None:
    with pytest.raises(DataError, match="empty the second time"):
        api.explain(api.trace(mine, example), generator(example), generator(example))


def test_latency_aware_plans_pay_for_channels_in_time(
    mine: Mine, example: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMSIGHT_CACHE", str(tmp_path))
    traced = api.trace(mine, example)
    scores = api.learn_gates(traced, [], config=GatesConfig(steer="magnitude"))
    plan = api.select(traced, scores, macs=0.5, latency_aware=True)
    assert list((tmp_path / "layer_times").glob("*.json"))  # the layers were timed
    assert api.slim(traced, plan).macs <= 0.5 * traced.cost.total
    with pytest.raises(ConfigError, match="latency_aware chooses among the plans within macs"):
        api.select(traced, scores, macs=None, params=0.5, latency_aware=True)
