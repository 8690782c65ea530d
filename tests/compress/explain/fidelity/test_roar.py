from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from compress.config import DataConfig, ModelConfig, TrainConfig
from compress.data import Batches, ImageSet, open_splits
from compress.explain.fidelity import random_maps, roar
from compress.explain.fidelity.roar import without_top
from compress.finetune import train_classifier
from compress.models import Classifier


def learn(model: Classifier, images: ImageSet, *, fabric: Fabric, epochs: int) -> None:
    batches = Batches(images, 32, shuffle=True, drop_last=True)
    train_classifier(model, batches, fabric, config=TrainConfig(epochs=epochs, lr=0.1))


def small(classes: int) -> Classifier:
    layers = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    config = ModelConfig()
    return Classifier(nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, classes)), config.mean, config.std)


def pixels(images: ImageSet) -> torch.Tensor:
    return torch.from_numpy(np.asarray(images.images[:])).float() / 255


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
    fabric: Fabric, oracle: Any, train_images: ImageSet, val_images: ImageSet
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
    (known,), (chance,) = points(*map(oracle.maps, images)), points(*map(random_maps, images))
    assert known < 0.65
    assert chance > 0.85


def test_digits_miss_their_ink_more_than_they_miss_anything(fabric: Fabric, tmp_path: Any) -> None:
    splits = open_splits(DataConfig(source="digits", image_size=16), cache_dir=tmp_path, seed=0)
    train, test = splits.train, splits.test()

    def run(*maps: torch.Tensor) -> Any:
        fit = partial(learn, fabric=fabric, epochs=2)
        return roar(partial(small, 10), fit, train, test, *maps, shares=(0.3,), seed=1)

    images = [pixels(images) for images in (train, test)]
    state = torch.get_rng_state()
    ink, control = run(*(image.mean(1) for image in images)), run(*map(random_maps, images))
    assert torch.equal(torch.get_rng_state(), state)
    ours, theirs = ink.points[0].accuracy, control.points[0].accuracy
    assert theirs.mean - ours.mean > 3 * (ours.standard_error + theirs.standard_error)
    assert ours.standard_error == pytest.approx((ours.mean * (1 - ours.mean) / (len(test) - 1)) ** 0.5)
    assert run(*(image.mean(1) for image in images)) == ink
