"""Statistics of batch normalisation against averages by hand; which are replaced, which are kept, which follow."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from slimsight.compress.config import TrainConfig
from slimsight.compress.data import Batches, ImageSet
from slimsight.compress.errors import DataError
from slimsight.compress.finetune import train_classifier
from slimsight.compress.training import (
    Learning,
    Score,
    StatisticsScores,
    evaluate,
    following_statistics,
    keep_better_statistics_,
    make_fabric,
    recalibrate_bn,
)


@pytest.fixture
def images() -> ImageSet:
    """24 noisy images of 6 pixels; the brightest channel is the label."""
    random = np.random.default_rng(0)
    labels = np.arange(24, dtype=np.int64) % 3
    pixels = random.integers(0, 150, (24, 3, 6, 6))
    pixels[np.arange(24), labels] += 80
    return ImageSet(pixels.astype(np.uint8), labels, ("red", "green", "blue"))


def to_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


@pytest.mark.parametrize(("count", "used"), [(1, 1), (2, 2), (3, 3), (50, 4)])
def test_statistics_are_the_exact_average_over_the_batches(count: int, used: int, images: ImageSet) -> None:
    norm = nn.BatchNorm2d(3, momentum=0.3)
    norm.running_mean = torch.full((3,), 7.0)
    before = copy.deepcopy(dict(norm.named_parameters()))
    batches = Batches(images, 7, shuffle=True)  # 7, 7, 7 and 3 images
    means, variances = [], []
    for batch in list(batches)[:count]:
        pixels = batch.images.transpose(0, 1).flatten(1).double()
        means.append(pixels.mean(1))
        variances.append(pixels.var(1, correction=1))
    assert len(means) == used
    model = nn.Sequential(norm, nn.Flatten()).eval()
    recalibrate_bn(model, batches, count)
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0).float())
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0).float())
    assert int(norm.num_batches_tracked or 0) == used
    assert norm.momentum == 0.3
    assert not model.training
    assert not norm.training
    for name, value in norm.named_parameters():
        assert torch.equal(value, before[name]), name


def test_every_norm_gets_its_own_momentum_back(images: ImageSet) -> None:
    norms = [nn.BatchNorm2d(3, momentum=0.2), nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3, momentum=0.05)]
    model = nn.Sequential(*norms).train()
    recalibrate_bn(model, Batches(images, 8), 2)
    assert [norm.momentum for norm in norms] == [0.2, None, 0.05]
    assert model.training


def test_deeper_statistics_belong_to_the_batches_as_well(images: ImageSet) -> None:
    model = to_model().eval()
    recalibrate_bn(model, Batches(images, 24), 1)
    (batch,) = Batches(images, 24)
    with torch.no_grad():
        maps = model[0](batch.images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[1].running_mean, maps.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[1].running_var, maps.var(1), rtol=1e-4, atol=1e-5)


def test_dropout_rests_while_statistics_are_taken(images: ImageSet) -> None:
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(nn.Dropout(0.5), norm).train()
    recalibrate_bn(model, Batches(images, 24), 1)
    pixels = next(iter(Batches(images, 24))).images.transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, pixels.mean(1))
    assert model.training
    assert model[0].training


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_to_recalibrate_changes_nothing(count: int, images: ImageSet) -> None:
    """No batches; or no statistics to replace."""
    model = to_model() if count == 0 else nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU())
    before = copy.deepcopy(model.state_dict())
    recalibrate_bn(model, Batches(images, 8), count)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class ToFeatures(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


class ToVolume(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.unflatten(2, (2, -1))


class ChannelsLastNorm(nn.BatchNorm2d):
    """A user's own: (N, H, W, C) in and out."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ToChannelsLast(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("front", "norm"),
    [
        (ToFeatures(), nn.BatchNorm1d(3)),
        (ToVolume(), nn.BatchNorm3d(3, momentum=0.0003)),
        (nn.Identity(), nn.SyncBatchNorm(3, momentum=None)),
        (nn.Identity(), nn.BatchNorm2d(3, affine=False, momentum=0.0)),
        (ToChannelsLast(), ChannelsLastNorm(3, momentum=0.01)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_batch_norms_of_any_dimension_and_class_are_right(front: nn.Module, norm: Any, images: ImageSet) -> None:
    momentum = norm.momentum
    means, variances = [], []
    for batch in Batches(images, 8):
        values = front(batch.images)
        values = values.movedim(-1, 0) if isinstance(norm, ChannelsLastNorm) else values.transpose(0, 1)
        means.append(values.flatten(1).double().mean(1))
        variances.append(values.flatten(1).double().var(1))
    assert recalibrate_bn(nn.Sequential(front, norm), Batches(images, 8), 3) == 1
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0).float())
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0).float())
    assert norm.momentum == momentum
    assert int(norm.num_batches_tracked) == 3


def test_norms_without_statistics_and_frozen_ones_are_left_alone(images: ImageSet) -> None:
    held = nn.BatchNorm2d(3)
    held.track_running_stats = False
    left = [
        FrozenBatchNorm2d(3),
        nn.BatchNorm2d(3, track_running_stats=False),
        held,
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.GroupNorm(3, 3),
    ]
    taken = nn.BatchNorm2d(3)
    model = nn.Sequential(*left, taken)
    before = copy.deepcopy(nn.Sequential(*left).state_dict())
    assert recalibrate_bn(model, Batches(images, 8), 3) == 1
    assert all(torch.equal(value, before[name]) for name, value in nn.Sequential(*left).state_dict().items())
    assert not torch.equal(taken.running_mean, torch.zeros(3))


def test_statistics_that_no_batch_reaches_stay(images: ImageSet) -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.used(images)
            return out

    model = Spare()
    model.spare.running_mean = torch.full((3,), 4.0)
    assert recalibrate_bn(model, Batches(images, 8), 3) == 1
    assert model.spare.running_mean.tolist() == [4.0] * 3
    assert int(model.spare.num_batches_tracked or 0) == 0


def test_what_has_no_statistics_is_refused_and_nothing_changes(images: ImageSet) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Dropout()).train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        DataError, match=r"'2' gets one value per channel from a batch of 1, .*batches of 2 images or mo"
    ):
        recalibrate_bn(model, Batches(images, 23), 2)  # 23 images, then 1
    broken = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    with torch.no_grad():
        broken[1].weight.fill_(math.nan)
    unchanged = copy.deepcopy([*broken.buffers()])
    with pytest.raises(DataError, match="the statistics of batch normalisation '2' are NaN or infinite"):
        recalibrate_bn(broken, Batches(images, 8), 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, other) for value, other in zip(broken.buffers(), unchanged, strict=True))
    assert model.training


@pytest.mark.parametrize(
    ("running", "recalibrated", "kept"),
    [
        ((0.5, 1.0), (0.6, 2.0), "recalibrated"),
        ((0.6, 2.0), (0.5, 1.0), "running"),
        ((0.5, 1.0), (0.5, 0.9), "recalibrated"),
        ((0.5, 0.9), (0.5, 1.0), "running"),
        ((0.5, 0.9), (0.5, 0.9), "recalibrated"),
        ((0.5, math.nan), (0.5, 0.9), "running"),
        ((0.5, 0.9), None, "running"),
    ],
)
def test_the_more_accurate_statistics_are_kept(
    running: tuple[float, float], recalibrated: tuple[float, float] | None, kept: str
) -> None:
    exact = None if recalibrated is None else Score(*recalibrated)
    scores = StatisticsScores(Score(*running), exact)
    assert scores.kept == kept
    assert scores.better == (exact if kept == "recalibrated" else Score(*running))


def biased(images: ImageSet) -> nn.Module:
    """Takes the brightest channel, by statistics of red images only or of all."""
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    recalibrate_bn(model, Batches(images, 24), 1)
    return model


def test_the_better_statistics_stay_in_the_model(images: ImageSet) -> None:
    validation = Batches(images, 24)
    red = images.subset(np.flatnonzero(images.labels == 0))

    model = biased(red)  # red is nothing special to it
    worse, exact = evaluate(model, validation), evaluate(biased(images), validation)
    assert exact.accuracy > worse.accuracy
    found = keep_better_statistics_(model, Batches(images, 24), 1, validation)
    assert found == StatisticsScores(worse, exact)
    assert evaluate(model, validation) == exact == found.better

    before = copy.deepcopy(model.state_dict())
    found = keep_better_statistics_(model, Batches(red, 8), 1, validation)
    assert found == StatisticsScores(exact, worse)
    assert found.better == exact
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    assert keep_better_statistics_(model, Batches(images, 24), 0, validation).recalibrated is None


@pytest.mark.parametrize(
    ("momentum", "updates", "raised"),
    [
        (0.01, 458, 1 - 0.01 ** (1 / 458)),
        (0.01, 459, None),  # .99 ^ 459 is .0099
        (0.1, 43, 1 - 0.01 ** (1 / 43)),
        (0.1, 44, None),
        (0.0003, 10_000, 1 - 0.01 ** (1 / 10_000)),
        (None, 10_000, 1 - 0.01 ** (1 / 10_000)),
        (0.0, 1, 0.99),
        (1.0, 1, None),
        (0.01, 0, None),
    ],
)
def test_a_momentum_too_small_for_the_schedule_is_raised_meanwhile(
    momentum: float | None, updates: int, raised: float | None
) -> None:
    norm, fast = nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=1.0)
    model = nn.Sequential(norm, fast)

    def inside() -> None:
        with following_statistics(model, updates) as given:
            assert given == raised
            assert norm.momentum == (momentum if raised is None else raised)
            assert fast.momentum == 1.0
            if updates and raised:
                assert (1 - raised) ** updates == pytest.approx(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inside()
    assert norm.momentum == momentum


def test_statistics_follow_a_short_training_and_its_weights_are_the_same(images: ImageSet) -> None:
    found = {}
    for follows in (False, True):
        model = to_model()
        model[1].momentum = 0.001
        recalibrate_bn(model, Batches(images, 8), 3)
        batches = Batches(images, 8, shuffle=True)
        with following_statistics(model, 30 if follows else 0):
            train_classifier(
                model, batches, Learning(make_fabric(accelerator="cpu")), config=TrainConfig(epochs=10, batch_size=8)
            )
        assert model[1].momentum == 0.001
        exact = copy.deepcopy(model)
        recalibrate_bn(exact, Batches(images, 8), 3)
        found[follows] = (model, float((model[1].running_mean - exact[1].running_mean).abs().max()))
    (plain, far), (following, near) = found[False], found[True]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), following.parameters(), strict=True))
    assert near < 0.2 * far
