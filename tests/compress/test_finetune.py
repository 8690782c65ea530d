"""What the loss and the decay of finetuning act on."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from pydantic import ValidationError
from torch import Tensor, nn

from slimsight.compress.config import FinetuneConfig, TrainConfig
from slimsight.compress.data import Batches, ImageSet
from slimsight.compress.finetune import mix_pairs, train_classifier
from slimsight.compress.training import Learning, evaluate, make_fabric, one_cycle


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return make_fabric(accelerator="cpu")


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


def train(model: nn.Module, images: ImageSet, fabric: Fabric, teacher: nn.Module | None = None, **config: Any) -> Any:
    options = {"epochs": 1, "batch_size": 8} | config
    batches = Batches(images, options["batch_size"], shuffle=True)
    return train_classifier(
        model, batches, Learning(fabric), config=FinetuneConfig.model_validate(options), teacher=teacher
    )


def distance(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)


def test_training_lowers_the_loss(images: ImageSet, fabric: Fabric) -> None:
    model = to_model().eval().requires_grad_(False)
    before = evaluate(model, Batches(images, 24))
    batches = Batches(images, 8, shuffle=True)
    history = train_classifier(model, batches, Learning(fabric), config=TrainConfig(epochs=15, lr=0.1))
    after = evaluate(model, Batches(images, 24))
    assert after.loss < 0.5 * before.loss
    assert after.accuracy > max(0.9, before.accuracy)
    assert history.epochs[-1]["loss"] < 0.5 * history.epochs[0]["loss"]
    assert history.epochs[-1]["accuracy"] > 0.9
    assert not model.training


def test_training_starts_from_cross_entropy_in_train_mode(images: ImageSet, fabric: Fabric) -> None:
    model = to_model()
    expected = copy.deepcopy(model).train()
    (batch,) = Batches(images, 24, shuffle=True)
    with torch.no_grad():
        logits = expected(batch.images)
    history = train(model, images, fabric, batch_size=24)
    assert history.epochs[0]["loss"] == pytest.approx(
        float(nn.functional.cross_entropy(logits, batch.labels)), rel=1e-5
    )
    assert history.epochs[0]["accuracy"] == pytest.approx(float((logits.argmax(1) == batch.labels).float().mean()))


def naive_distillation(logits: Tensor, teacher: Tensor, temperature: float) -> float:
    """T^2 KL(teacher / T || model / T), one image and class after the other (Hinton et al. 2015)."""
    total = 0.0
    for ours, theirs in zip(logits.double().tolist(), teacher.double().tolist(), strict=True):
        p = [math.exp(value / temperature) for value in theirs]
        q = [math.exp(value / temperature) for value in ours]
        total += sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(logits)


@pytest.mark.parametrize(("share", "temperature"), [(0.0, 4.0), (0.3, 4.0), (1.0, 4.0), (1.0, 1.0)])
def test_the_loss_is_shared_between_labels_and_teacher(
    share: float, temperature: float, images: ImageSet, fabric: Fabric
) -> None:
    model, teacher = to_model(0), to_model(1)
    with torch.no_grad():
        teacher[5].weight.mul_(5)
    (batch,) = Batches(images, 24, shuffle=True)
    with torch.no_grad():
        logits = copy.deepcopy(model).train()(batch.images)
        wanted = copy.deepcopy(teacher).eval()(batch.images)
    distilled = naive_distillation(logits, wanted, temperature)
    ce = float(nn.functional.cross_entropy(logits, batch.labels))
    assert distilled > 0.05
    history = train(model, images, fabric, teacher, batch_size=24, distill=share, distill_temperature=temperature)
    assert history.epochs[0]["loss"] == pytest.approx((1 - share) * ce + share * distilled, rel=1e-4)


def test_a_share_of_one_ignores_the_labels(images: ImageSet, fabric: Fabric) -> None:
    wrong = ImageSet(images.images, (images.labels + 1) % 3, images.classes)
    trained = {}
    for share in (1.0, 0.5):
        for name, data in (("right", images), ("wrong", wrong)):
            model = to_model(0)
            train(model, data, fabric, to_model(1), epochs=2, distill=share)
            trained[share, name] = model
    assert distance(trained[1.0, "right"], trained[1.0, "wrong"]) == 0
    assert distance(trained[0.5, "right"], trained[0.5, "wrong"]) > 1e-3


def test_without_a_share_the_teacher_does_not_matter(images: ImageSet, fabric: Fabric) -> None:
    alone, taught = to_model(0), to_model(0)
    train(alone, images, fabric, epochs=2)
    train(taught, images, fabric, to_model(1), epochs=2)
    assert distance(alone, taught) == 0


def test_the_teacher_does_not_learn(images: ImageSet, fabric: Fabric) -> None:
    teacher = to_model(1).train()
    before = copy.deepcopy(teacher.state_dict())
    train(to_model(0), images, fabric, teacher, epochs=2, distill=0.5)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training


def test_a_student_comes_closer_to_its_teacher(images: ImageSet, fabric: Fabric) -> None:
    teacher, student = to_model(1), to_model(0)
    with torch.no_grad():
        teacher[5].weight.mul_(5)
    history = train(student, images, fabric, teacher, epochs=20, lr=0.1, distill=1.0)
    assert history.epochs[-1]["loss"] < 0.3 * history.epochs[0]["loss"]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_only_weights_with_more_than_one_dimension_decay(momentum: float, images: ImageSet, fabric: Fabric) -> None:
    """After one step from the same point, decay is the only difference: -lr * wd * w, times 1 + momentum (Nesterov)."""
    start, decayed, plain = to_model(), to_model(), to_model()
    common = {"batch_size": 24, "lr": 0.1, "momentum": momentum}
    train(plain, images, fabric, weight_decay=0.0, **common)
    train(decayed, images, fabric, weight_decay=0.2, **common)
    optimizer = torch.optim.SGD(start.parameters(), lr=0.1)
    one_cycle(optimizer, 1)
    step = optimizer.param_groups[0]["lr"] * (1 + momentum)
    dimensions = set()
    for first, ours, theirs in zip(start.parameters(), decayed.parameters(), plain.parameters(), strict=True):
        expected = -step * 0.2 * first if first.dim() > 1 else torch.zeros_like(first)
        torch.testing.assert_close(ours - theirs, expected, rtol=1e-3, atol=1e-6)
        dimensions.add(first.dim())
    assert dimensions == {1, 2, 4}


def test_equal_seeds_give_equal_models(images: ImageSet, fabric: Fabric) -> None:
    models = [to_model(), to_model()]
    for model in models:
        train(model, images, fabric, epochs=3)
    assert distance(*models) == 0
    assert distance(models[0], to_model()) > 1e-3


def test_adamw_moves_every_weight_by_its_rate(images: ImageSet, fabric: Fabric) -> None:
    model = to_model()
    before = copy.deepcopy(model)
    train(model, images, fabric, optimizer="adamw", lr=1e-3, weight_decay=0.0, batch_size=24)
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    # Adam's first step is the learning rate, whatever the gradient: half of the peak in the middle of a one-step cycle.
    moved = [each for a, b in pairs if (each := float((a - b).detach().abs().max())) > 1e-5]
    assert moved == pytest.approx([5e-4] * len(moved), rel=0.05)
    assert len(moved) >= 4


def test_images_and_labels_are_mixed_in_pairs(images: ImageSet, fabric: Fabric) -> None:
    torch.manual_seed(3)
    (batch,) = Batches(images, 24, shuffle=True)
    mixed = mix_pairs(batch, 0.2)
    assert 0.5 <= mixed.share < 1
    torch.manual_seed(3)
    drawn = float(torch.distributions.Beta(0.2, 0.2).sample())
    other = torch.randperm(24)
    share = max(drawn, 1 - drawn)
    torch.testing.assert_close(mixed.batch.images, share * batch.images + (1 - share) * batch.images[other])
    assert torch.equal(mixed.labels, batch.labels[other])
    assert torch.equal(mixed.batch.labels, batch.labels)

    model = to_model()
    expected = copy.deepcopy(model).train()
    torch.manual_seed(3)
    history = train(model, images, fabric, batch_size=24, mixup=0.2)
    with torch.no_grad():
        logs = expected(mixed.batch.images).log_softmax(1)
    rows = torch.arange(24)
    wanted = share * logs[rows, batch.labels] + (1 - share) * logs[rows, batch.labels[other]]
    assert history.epochs[0]["loss"] == pytest.approx(-float(wanted.mean()), rel=1e-5)


def test_mixed_images_cannot_keep_explanations() -> None:
    with pytest.raises(ValidationError, match=r"mixup 0.2 with steer_weight 0.05.*set one of them to 0"):
        FinetuneConfig(mixup=0.2, steer_weight=0.05)


def test_smoothed_labels(images: ImageSet, fabric: Fabric) -> None:
    model = to_model()
    expected = copy.deepcopy(model).train()
    (batch,) = Batches(images, 24, shuffle=True)
    with torch.no_grad():
        logs = expected(batch.images).log_softmax(1)
    history = train(model, images, fabric, batch_size=24, label_smoothing=0.3)
    target = 0.7 * nn.functional.one_hot(batch.labels, 3) + 0.1
    assert history.epochs[0]["loss"] == pytest.approx(float(-(target * logs).sum(1).mean()), rel=1e-5)
