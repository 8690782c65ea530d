"""captum's attributions against what their papers say, written out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.errors import ConfigError, ModelError
from slimsight.compress.explain import make_explainer, signed_max_abs
from slimsight.compress.explain.attribution.references import (
    GradCam,
    IntegratedGradients,
    SmoothGradSquared,
    last_feature_map,
)
from slimsight.compress.models import Classifier, ResNet

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def gradient(model: nn.Module, images: Tensor, labels: Tensor = LABELS) -> Tensor:
    images = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(images).gather(1, labels[:, None]).sum(), images)
    return found


def test_gradient_and_gradient_x_input(classifier: Classifier, images: Tensor) -> None:
    expected = gradient(classifier, images)
    found = make_explainer("gradient", classifier).explain(images, LABELS)
    torch.testing.assert_close(found.maps, signed_max_abs(expected))
    assert found.signed
    assert found.importance.min() >= 0
    found = make_explainer("gradient_x_input", classifier).explain(images, LABELS)
    torch.testing.assert_close(found.maps, signed_max_abs(expected * images))


def test_integrated_gradients_are_complete(classifier: Classifier, images: Tensor) -> None:
    explainer = IntegratedGradients(classifier, steps=200)
    found = explainer._attribute(images.clone().requires_grad_(), LABELS).sum((1, 2, 3))
    rise = (classifier(images) - classifier(torch.zeros_like(images))).gather(1, LABELS[:, None]).squeeze(1)
    torch.testing.assert_close(found, rise, rtol=0.01, atol=0.01)


def test_smoothgrad_squared_is_the_mean_square(classifier: Classifier, images: Tensor) -> None:
    found = SmoothGradSquared(classifier, samples=4).explain(images[:1], LABELS[:1])
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    deviation = 0.15 * (images[0].max() - images[0].min())
    noisy = images[:1] + torch.randn(4, 3, 16, 16) * deviation
    torch.random.set_rng_state(state)
    expected = gradient(classifier, noisy, LABELS[:1].expand(4)).square().mean(0, keepdim=True)
    torch.testing.assert_close(found.maps, signed_max_abs(expected), rtol=1e-4, atol=1e-6)
    assert not found.signed
    assert found.maps.min() >= 0


class Guided(torch.autograd.Function):
    """Springenberg et al.: the gradient passes where both the input and the gradient are positive."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.save_for_backward(maps)
        return maps.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        return given * (maps > 0) * (given > 0)


class GuidedReLU(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        found: Tensor = Guided.apply(maps)
        return found


class PreActivation(nn.Module):
    """Two ReLUs written in a given way; the input of the second is also read by a shortcut."""

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.relu = relu
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.linear = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv1(self.relu(self.conv1(images)[:, :3]))
        maps = maps + self.conv2(self.relu(maps * 1))
        return self.linear(self.relu(maps).mean((2, 3)))


@pytest.mark.parametrize(
    "relu",
    [nn.ReLU(), nn.ReLU(inplace=True), F.relu, lambda maps: maps.relu_()],
    ids=["one module", "in place", "function", "method in place"],
)
def test_guided_backprop_however_relu_is_written(relu: Callable[[Tensor], Tensor], images: Tensor) -> None:
    torch.manual_seed(0)
    model = PreActivation(relu)
    found = make_explainer("guided_backprop", model).explain(images, LABELS)
    model.relu = GuidedReLU()
    torch.testing.assert_close(found.maps, signed_max_abs(gradient(model, images)))
    assert found.maps.abs().max() > 0


def test_guided_backprop_where_a_shortcut_reads_the_input_too(images: Tensor) -> None:
    class Shortcut(PreActivation):
        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv1(images)
            return self.linear((maps + self.conv2(self.relu(maps))).mean((2, 3)))

    torch.manual_seed(0)
    model = Shortcut(nn.ReLU())
    found = make_explainer("guided_backprop", model).explain(images, LABELS)
    model.relu = GuidedReLU()
    torch.testing.assert_close(found.maps, signed_max_abs(gradient(model, images)))


def test_guided_backprop_refuses_a_network_without_relu(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(ModelError, match="guided_backprop needs ReLU or ReLU6"):
        make_explainer("guided_backprop", model).explain(images)


def test_grad_cam_written_out(classifier: Classifier, images: Tensor) -> None:
    net = classifier.net
    maps = net[:9](classifier.normalize(images)).detach().requires_grad_()
    logits = net.linear(maps.mean((2, 3)))
    (slopes,) = torch.autograd.grad(logits.gather(1, LABELS[:, None]).sum(), maps)
    coarse = (slopes.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).clamp(min=0)
    expected = F.interpolate(coarse, size=(16, 16), mode="bilinear", align_corners=False).squeeze(1)
    found = make_explainer("grad_cam", classifier).explain(images, LABELS)
    torch.testing.assert_close(found.maps, expected.detach())
    assert not found.signed


def test_the_last_feature_map(classifier: Classifier) -> None:
    assert last_feature_map(classifier, torch.zeros(1, 3, 16, 16)) == "net.relu3"
    assert last_feature_map(ResNet(20, 10), torch.zeros(1, 3, 32, 32)) == "layer3"
    squeezed = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 3, 1)
    )
    assert last_feature_map(squeezed, torch.zeros(1, 3, 16, 16)) == "1"
    with pytest.raises(ModelError, match="needs a convolution whose output is larger than one pixel"):
        last_feature_map(nn.Flatten(), torch.zeros(1, 3, 16, 16))


def test_grad_cam_of_a_named_layer(classifier: Classifier, images: Tensor) -> None:
    finer = GradCam(classifier, layer="net.relu1").explain(images).maps
    assert not torch.equal(finer, GradCam(classifier).explain(images).maps)
    with pytest.raises(ModelError, match=r"no layer 'net\.rely1'; did you mean 'net\.relu1'"):
        GradCam(classifier, layer="net.rely1")
    with pytest.raises(ModelError, match=r"layer 'net\.linear' gives no feature maps"):
        GradCam(classifier, layer="net.linear").explain(images)


def test_captum_is_missing(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ConfigError, match=r"explainer 'gradient' needs captum: pip install 'captum>=0\.9'"):
        make_explainer("gradient", classifier)
