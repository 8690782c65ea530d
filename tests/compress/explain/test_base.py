"""Bad input, in one sentence, the same for every explainer; and nothing that stays behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import DataError, ModelError
from slimsight.compress.explain import (
    EXPLAINERS,
    check_images,
    make_explainer,
    needs_weights,
    signed_max_abs,
    to_inputs,
)
from slimsight.compress.models import Classifier

UNTRAINED = [name for name in EXPLAINERS if not needs_weights(name)]
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BROKEN = IMAGES.clone()
BROKEN[1, 0, 3, 3] = torch.nan


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (IMAGES, torch.tensor([0, 3]), "label 3 of image 1: the classifier has 3 classes, 0 to 2"),
        (IMAGES, torch.tensor([-1, 0]), "label -1 of image 0"),
        (IMAGES, torch.tensor([1]), r"labels have the shape \(1,\); 2 images take labels \(2,\)"),
        (IMAGES, torch.tensor([0.0, 1.0]), "labels are torch.float32; a label is the index of a class"),
        (BROKEN, None, "image 1 of the batch holds NaN or infinity"),
        (BROKEN.nan_to_num(torch.inf), None, "image 1 of the batch holds NaN or infinity"),
        (BROKEN.nan_to_num(-torch.inf), None, "image 1 of the batch holds NaN or infinity"),
        (IMAGES * 255, None, r"pixels go from .* to 255; .* divide bytes by 255"),
        ((IMAGES * 255).byte(), None, "images are torch.uint8; .* divide bytes by 255"),
        (IMAGES[0], None, r"images have the shape \(3, 16, 16\)"),
        (IMAGES[:, :1], None, r"images have the shape \(2, 1, 16, 16\)"),
        (IMAGES[:0], None, "at least one image"),
    ],
)
def test_refusals(classifier: Classifier, images: Tensor, labels: Tensor | None, sentence: str) -> None:
    for name in UNTRAINED:
        with pytest.raises(DataError, match=sentence):
            make_explainer(name, classifier).explain(images, labels)


@pytest.mark.parametrize("pixel", [0, 1, 17, 767, 1535])
def test_a_broken_pixel_is_found_wherever_it_is(pixel: int) -> None:
    images = IMAGES.clone()
    images.view(-1)[pixel] = torch.nan
    with pytest.raises(DataError, match=f"image {pixel // 768} of the batch holds NaN or infinity"):
        check_images(images)


def test_images_of_a_size_that_the_classifier_does_not_take() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16 * 16, 3))
    with pytest.raises(ModelError, match="the classifier does not take 3x12x16 images: RuntimeError"):
        to_inputs(model, IMAGES[:, :, 2:14], None)


def test_what_gives_no_logits() -> None:
    with pytest.raises(ModelError, match=r"returns shape \(2, 4, 16, 16\) for 2 images"):
        to_inputs(nn.Conv2d(3, 4, 1), IMAGES, None)
    dead = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    dead[1].bias.data[0] = torch.inf
    with pytest.raises(ModelError, match="NaN or infinite logits"):
        to_inputs(dead, IMAGES, None)


@pytest.mark.parametrize("name", UNTRAINED)
def test_the_same_again_alone_and_nothing_left_behind(name: str, classifier: Classifier, images: Tensor) -> None:
    classifier.train()
    classifier.net.bn2.eval()
    state = copy.deepcopy(classifier.state_dict())
    given, drawn = images.clone(), torch.random.get_rng_state()
    explainer = make_explainer(name, classifier)
    assert explainer.name == name
    found = explainer.explain(images)
    assert found.maps.shape == (6, 16, 16)
    assert not found.maps.requires_grad
    assert found.maps.isfinite().all()
    assert torch.equal(explainer.explain(images).maps, found.maps)
    with torch.inference_mode():  # the caller's mode is no matter; the default is the predicted class
        alone = [explainer.explain(image, classifier.eval()(image).argmax(1)).maps for image in images.split(1)]
    torch.testing.assert_close(torch.cat(alone), found.maps, rtol=1e-4, atol=1e-6)

    classifier.train()
    classifier.net.bn2.eval()
    explainer.explain(images)
    assert classifier.training
    assert not classifier.net.bn2.training
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())
    assert torch.equal(images, given)
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_signed_max_abs() -> None:
    values = torch.tensor([1.0, -3.0, 2.0, -1.0, 0.5, 0.25]).view(2, 3, 1, 1)
    assert signed_max_abs(values).flatten().tolist() == [-3.0, -1.0]
