"""The score of a classifier, and its logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.data import Batches, ImageSet
from slimsight.compress.training import Score, evaluate, logits_of


@pytest.fixture
def images() -> ImageSet:
    """20 images of 4 pixels; bright ones are of class 1."""
    random = np.random.default_rng(0)
    labels = np.arange(20, dtype=np.int64) % 2
    low = (labels * 100).reshape(-1, 1, 1, 1)
    return ImageSet((random.integers(0, 120, (20, 3, 2, 2)) + low).astype(np.uint8), labels, ("dark", "bright"))


def to_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))


class Noted(nn.Module):
    """A linear classifier that notes in which mode it is asked, and whether images are channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = to_model()
        self.dropout = nn.Dropout(0.5)
        self.modes: list[bool] = []
        self.last: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        self.last.append(images.is_contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.dropout(self.linear(images))
        return logits


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_is_a_count_of_hits_and_a_mean_of_losses(training: bool, images: ImageSet) -> None:
    model = Noted().train(training)
    hits, losses = 0, 0.0
    with torch.no_grad():
        for image, label in zip(images.images, images.labels.tolist(), strict=True):
            scores = model.linear(torch.from_numpy(np.asarray(image))[None].float() / 255)[0].double()
            hits += int(scores.argmax()) == label
            losses -= float(scores[label] - scores.exp().sum().log())
    found = evaluate(model, Batches(images, 8))
    assert found.accuracy == pytest.approx(hits / 20)
    assert found.loss == pytest.approx(losses / 20, rel=1e-5)
    assert 0 < hits < 20
    assert model.modes == [False, False, False]
    assert all(model.last)
    assert model.training is training


def test_evaluate_does_not_mind_the_order(images: ImageSet) -> None:
    model = to_model()
    plain, mixed = evaluate(model, Batches(images, 8)), evaluate(model, Batches(images, 3, shuffle=True))
    assert plain == Score(mixed.accuracy, pytest.approx(mixed.loss))


def test_logits_leave_the_mode_even_after_an_error(images: ImageSet) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(11, 2)).train()
    with pytest.raises(RuntimeError, match="shapes"):
        logits_of(model, Batches(images, 8))
    assert model.training


def test_logits_are_float32_in_the_order_of_the_images(images: ImageSet) -> None:
    model = to_model().double()
    found = logits_of(nn.Sequential(Doubled(), model), Batches(images, 8), device=torch.device("cpu"))
    assert found.dtype == torch.float32
    assert found.shape == (20, 2)
    pixels = torch.from_numpy(np.asarray(images.images)).double() / 255
    with torch.no_grad():
        torch.testing.assert_close(found, model(pixels).float(), rtol=1e-5, atol=1e-5)


class Doubled(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.double()
