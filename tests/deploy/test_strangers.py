"""Strangers' models and loaders through the Python API, from trace to a loaded folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import slimsight
from slimsight.compress.config import GatesConfig
from slimsight.compress.errors import DataError, ModelError, PruningError
from slimsight.compress.macs import count_macs, count_params, size_bytes
from slimsight.deploy.slim import Traced
from slimsight.deploy.slim_folder import Slimmed

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1])
BY_WEIGHTS = GatesConfig(steer="magnitude")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Linear(8, 3)

    def maps(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.a(images)))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc(F.relu(self.b(self.maps(images))).mean((2, 3)))
        return out


class Keeps(Net):
    def maps(self, images: Tensor) -> Tensor:
        self.kept = super().maps(images)
        return self.kept


class Extra(Net):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: object) -> None:
        assert state == {"version": 3}


def kept() -> nn.Module:
    net = Keeps()
    net(IMAGES).sum().backward()
    return net


def normed() -> nn.Module:
    net = Net()
    parametrizations.weight_norm(net.b)
    parametrizations.spectral_norm(net.a)
    return net


def masked() -> nn.Module:
    net = Net()
    prune.l1_unstructured(net.b, "weight", 0.5)
    return net


MODELS: dict[str, Any] = {
    "plain": Net,
    "kept activations": kept,
    "extra state": Extra,
    "weight and spectral norm": normed,
    "a mask": masked,
    "half": lambda: Net().half(),
    "bfloat16": lambda: Net().bfloat16(),
    "double": lambda: Net().double(),
    "DataParallel": lambda: nn.DataParallel(Net()),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(Net()),
}


def slimmed(model: nn.Module, loader: Any = None, **budget: Any) -> tuple[Traced, Slimmed]:
    traced = slimsight.trace(model, IMAGES)
    scores = slimsight.learn_gates(traced, [(IMAGES, LABELS)], macs=0.9, config=BY_WEIGHTS)
    plan = slimsight.select(traced, scores, **{"macs": 0.6, **budget})
    return traced, slimsight.slim(traced, plan, loader)


@pytest.mark.parametrize("name", MODELS)
def test_slims_saves_and_loads_with_and_without_the_class(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    traced, slim = slimmed(model, [(IMAGES, LABELS)])
    assert {group.name for group in traced.graph.groups} == {"a", "b"}
    assert slim.macs == count_macs(slim.model, IMAGES[:1]).total <= 0.6 * traced.cost.total
    expected = slim.model.eval()(IMAGES)
    slimsight.save(slim, tmp_path)
    assert torch.allclose(slimsight.load(tmp_path)(IMAGES), expected, atol=1e-6)
    assert torch.equal(slimsight.load(tmp_path, model)(IMAGES), expected)
    slim.model.train()(IMAGES).sum().backward()
    plain = name in ("plain", "kept activations", "extra state", "DataParallel")
    assert (traced.changes == ()) == plain


def test_more_images_than_the_model_was_traced_with_are_no_matter() -> None:
    class Last(Net):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(8, 8)

        def maps(self, images: Tensor) -> Tensor:
            out: Tensor = self.mix(super().maps(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return out

    one, four = (slimsight.trace(Last(), IMAGES[:count]) for count in (1, 4))
    assert one.graph == four.graph
    assert one.cost.total == four.cost.total


def test_budgets_of_parameters_hold_where_weights_are_tied() -> None:
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(8, 8, 3, padding=1)
            self.d = nn.Conv2d(8, 8, 3, padding=1)
            self.d.weight = self.c.weight

        def maps(self, images: Tensor) -> Tensor:
            return F.relu(self.d(self.c(super().maps(images))))

    traced, slim = slimmed(Tied(), macs=None, params=0.9)
    assert {group.name for group in traced.graph.groups} == {"b"}
    assert count_params(slim.model) <= 0.9 * count_params(traced.model)
    assert slim.model.c.weight is slim.model.d.weight
    _, slim = slimmed(Tied(), macs=None, size=0.9)
    assert size_bytes(slim.model) <= 0.9 * size_bytes(traced.model)


def test_a_plan_that_surgery_does_not_keep_to_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimsight.deploy.steps.count_params", lambda model: 1000)
    with pytest.raises(PruningError, match=r"the plan removes \d+ parameters, and 0 are gone from the slim model"):
        slimmed(Net())


def test_loose_weights_count_and_stay() -> None:
    class Loose(Net):
        def __init__(self) -> None:
            super().__init__()
            self.loose = nn.Parameter(torch.rand(8, 8, 1, 1))

        def maps(self, images: Tensor) -> Tensor:
            return F.relu(F.conv2d(super().maps(images), self.loose))

    traced = slimsight.trace(Loose(), IMAGES)
    assert traced.cost.total == 36 * 216 + 36 * 64 + 16 * 576 + 24
    assert traced.cost.fixed == 36 * 64
    _, slim = slimmed(Loose(), macs=0.8)
    assert slim.macs == count_macs(slim.model, IMAGES[:1]).total <= 0.8 * traced.cost.total


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        ([(IMAGES, LABELS + 1)], "labels go from 1 to 3, and the model has 3 classes, 0 to 2"),
        ([(IMAGES, LABELS - 1)], "labels go from -1 to 1"),
        ([(IMAGES, torch.where(LABELS == 0, 255, LABELS))], "labels go from 1 to 255"),
        ([(IMAGES.permute(0, 2, 3, 1), LABELS)], r"images are \(4, 8, 8, 3\), .* permute\(0, 3, 1, 2\)"),
        ([(IMAGES[:, :1], LABELS)], r"images are \(4, 1, 8, 8\), and the model takes \(N, 3, H, W\): give images"),
        ([(IMAGES, LABELS), (torch.rand(4, 3, 9, 9), LABELS)], "9x9 pixels, .* traced with is 8x8"),
        ([(torch.rand(4, 3, 9, 8), LABELS)], "9x8 pixels, .* traced with is 8x8"),
        ([(IMAGES.numpy(), LABELS.numpy())], r"a tuple of ndarray, ndarray; .*torch\.from_numpy"),
    ],
)
def test_loaders_that_do_not_fit_are_refused_in_one_sentence(loader: Any, words: str) -> None:
    traced = slimsight.trace(Net(), IMAGES)
    with pytest.raises(DataError, match=words) as caught:
        slimsight.learn_gates(traced, loader, macs=0.6, config=GatesConfig(steer="none", steps=20, batch_size=4))
    assert "\n" not in str(caught.value)


def test_a_slim_model_is_recalibrated_on_images_of_its_channels() -> None:
    _, slim = slimmed(Net())
    with pytest.raises(DataError, match=r"permute\(0, 3, 1, 2\)"):
        slimsight.recalibrate(slim, [(IMAGES.permute(0, 2, 3, 1), LABELS)])
    assert slimsight.recalibrate(slim, [(torch.rand(4, 3, 9, 9), LABELS)]) == 1  # any size


@pytest.mark.parametrize(
    "example",
    [np.zeros((1, 3, 8, 8), np.float32), [IMAGES.numpy()], [], IMAGES[:0], IMAGES[0], {"images": IMAGES.long()}],
)
def test_an_example_that_is_none_is_refused(example: Any) -> None:
    with pytest.raises(ModelError, match=r"the example .*; give .*\(N, C, H, W\).*, floating point"):
        slimsight.trace(Net(), example)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_slim_too(channels: int) -> None:
    net = Net()
    net.a = nn.Conv2d(channels, 8, 3)
    images = torch.rand(4, channels, 8, 8)
    traced = slimsight.trace(net, images)
    scores = slimsight.learn_gates(traced, [(images, LABELS)], macs=0.6, config=BY_WEIGHTS)
    assert slimsight.slim(traced, slimsight.select(traced, scores, macs=0.6)).max_rel < 1e-5
