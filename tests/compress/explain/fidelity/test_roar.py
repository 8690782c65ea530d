from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from slimsight.compress.config import DataConfig, ModelConfig, TrainConfig
from slimsight.compress.data import Batches, ImageSet, open_splits
from slimsight.compress.explain.fidelity import roar
from slimsight.compress.explain.fidelity.roar import without_top
from slimsight.compress.finetune import train_classifier
from slimsight.compress.models import Classifier
from slimsight.compress.training import Learning


def learn(model: Classifier, images: ImageSet, *, fabric: Fabric, epochs: int) -> None:
    batches = Batches(images, 32, shuffle=True, drop_last=True)
    train_classifier(model, batches, Learning(fabric), config=TrainConfig(epochs=epochs, lr=0.1))


def small(classes: int) -> Classifier:
    layers = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    config = ModelConfig()
    return Classifier(nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, classes)), config.mean, config.std)


def pixels(images: ImageSet) -> torch.Tensor:
    return torch.from_numpy(np.array(images.images[:])).float() / 255


def test_the_top_of_every_image_becomes_mean_grey() -> None:
    images = ImageSet(np.full((2, 3, 4, 5), 200, np.uint8), np.zeros(2, np.int64), ("a", "b"))
    maps = torch.arange(40).view(2, 4, 5).float()
    mean = torch.tensor([0.485, 0.456, 0.406])
    left = without_top(images, maps, 0.3, mean).images[:]
    for image in left:
        assert (image.reshape(3, 20)[:, :14] == 200).all()
        np.testing.assert_array_equal(image.reshape(3, 20)[:, 14:], np.array([[124], [116], [104]]).repeat(6, 1))
    assert (without_top(images, maps, 0.0, mean).images[:] == 200).all()
    assert (without_top(images, maps, 1.0, mean).images[:, 0] == 124).all()


def test_a_classifier_needs_what_the_oracle_removes_and_not_what_chance_does(
    fabric: Fabric, oracle: Any, chance: Any, train_images: ImageSet, val_images: ImageSet
) -> None:
    def points(*maps: torch.Tensor) -> list[float]:
        found = roar(
            partial(small, 3),
            partial(learn, fabric=fabric, epochs=20),
            train_images,
            val_images,
            *maps,
            shares=(0.1,),
            seed=0,
        )
        return [point.accuracy.mean for point in found.points]

    images = [pixels(images) for images in (train_images, val_images)]
    (known,), (unknown,) = points(*map(oracle.maps, images)), points(*map(chance, images))
    assert known < 0.6  # 1/3 is chance
    assert unknown > known + 0.2
    assert points(*map(oracle.maps, images)) == [known]


def test_digits_are_read_in_their_middle(fabric: Fabric, chance: Any, tmp_path: Any) -> None:
    splits = open_splits(DataConfig(source="digits", image_size=16), cache_dir=tmp_path, seed=0)
    train, test = splits.train, splits.test()

    def run(maps: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        fit = partial(learn, fabric=fabric, epochs=2)
        given = (maps(pixels(images)) for images in (train, test))
        return roar(partial(small, 10), fit, train, test, *given, shares=(0.5,), seed=1)

    def middle(images: torch.Tensor) -> torch.Tensor:
        away = (torch.arange(16) - 7.5).square()
        return -(away[:, None] + away).expand(len(images), 16, 16)

    state = torch.get_rng_state()
    ours, control = run(middle), run(chance)
    assert torch.equal(torch.get_rng_state(), state)
    known, unknown = ours.points[0].accuracy, control.points[0].accuracy
    assert unknown.mean - known.mean > 3 * (known.standard_error + unknown.standard_error)
    assert known.standard_error == pytest.approx((known.mean * (1 - known.mean) / (len(test) - 1)) ** 0.5)
