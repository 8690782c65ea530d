"""The scales of known networks, and of awkward ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import ModelError
from slimsight.compress.explain import FeatureScale, find_scales
from slimsight.compress.explain.amortized.pyramid import captured
from slimsight.compress.models import build_classifier

# Channels and sides, coarse to fine. ISP's table of up-blocks says the same of R56, R34, R50 and both MobileNetV2.
KNOWN = [
    ("resnet20", 32, [(64, 8), (32, 16), (16, 32)]),
    ("mobilenetv2", 32, [(1280, 8), (96, 16), (32, 32)]),
    ("vgg16", 32, [(512, 2), (512, 4), (256, 8), (128, 16)]),
    ("torchvision:resnet18", 64, [(512, 2), (256, 4), (128, 8), (64, 16)]),
    ("torchvision:resnet18", 224, [(512, 7), (256, 14), (128, 28), (64, 56)]),
    ("torchvision:resnet50", 64, [(2048, 2), (1024, 4), (512, 8), (256, 16)]),
    ("torchvision:mobilenet_v2", 64, [(1280, 2), (96, 4), (32, 8), (24, 16)]),
    ("torchvision:densenet121", 64, [(1024, 2), (1024, 4), (512, 8), (256, 16)]),
]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Shared(nn.Module):
    """One ReLU and one pooling for all stages, as many write them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
        self.conv3 = nn.Conv2d(5, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        logits: Tensor = self.linear(self.relu(self.conv3(x)).mean((2, 3)))
        return logits


class Expanding(nn.Module):
    """Widens before it lowers the resolution, as MobileNetV2's blocks and bottlenecks do."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(inputs, 6 * inputs, 1)
        self.lower = nn.Conv2d(6 * inputs, outputs, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        lowered: Tensor = self.lower(F.relu(self.expand(x)))
        return lowered


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


@pytest.mark.parametrize(("name", "side", "expected"), KNOWN, ids=lambda value: value if isinstance(value, str) else "")
def test_known_networks(name: str, side: int, expected: list[tuple[int, int]]) -> None:
    model = build_classifier(ModelConfig(name=name), 10)
    example = torch.zeros(1, 3, side, side)
    scales = find_scales(model, example)
    assert [(scale.channels, scale.side) for scale in scales] == expected
    with torch.no_grad(), captured(model.eval(), scales) as features:
        model(example)
    assert [(f.shape[1], f.shape[2], f.shape[3]) for f in features] == [(c, s, s) for c, s in expected]


def test_the_layers_are_those_that_end_a_stage() -> None:
    example = torch.zeros(1, 3, 32, 32)
    resnet = find_scales(build_classifier(ModelConfig(name="resnet20"), 10), example)
    assert [scale.layer for scale in resnet] == ["net.layer3", "net.layer2", "net.layer1"]
    mobilenet = find_scales(build_classifier(ModelConfig(name="mobilenetv2"), 10), example)
    assert [scale.layer for scale in mobilenet] == ["net.relu2", "net.layers.12", "net.layers.5"]


def test_a_layer_that_runs_at_several_sides_is_no_scale() -> None:
    model = Shared()
    scales = find_scales(model, torch.zeros(1, 3, 8, 8))
    assert scales == (FeatureScale("conv3", 6, 2), FeatureScale("conv2", 5, 4), FeatureScale("conv1", 4, 8))
    with captured(model, scales) as features:
        model(torch.rand(2, 3, 8, 8))
    assert [tuple(f.shape) for f in features] == [(2, 6, 2, 2), (2, 5, 4, 4), (2, 4, 8, 8)]


def test_what_a_block_widens_before_it_lowers_the_resolution_is_no_scale() -> None:
    model = nn.Sequential(conv(3, 4), nn.Sequential(Expanding(4, 8), conv(8, 8)), Expanding(8, 16))
    scales = find_scales(model, torch.zeros(1, 3, 8, 8))
    assert scales == (FeatureScale("2", 16, 2), FeatureScale("1", 8, 4), FeatureScale("0", 4, 8))


def test_a_side_that_exists_only_within_such_a_block_counts() -> None:
    body = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 8, 2), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert find_scales(model, torch.zeros(1, 3, 8, 8)) == (FeatureScale("0", 8, 4), FeatureScale("0.1", 4, 8))


def test_an_enlarged_map_is_no_scale() -> None:
    """torchvision's VGG pools to 7x7, whatever comes in."""
    model = nn.Sequential(conv(3, 4), conv(4, 8, 2), conv(8, 16, 2), nn.AdaptiveAvgPool2d(7), nn.Flatten())
    scales = find_scales(model, torch.zeros(1, 3, 8, 8))
    assert [(scale.channels, scale.side) for scale in scales] == [(16, 2), (8, 4), (4, 8)]


def test_only_the_four_coarsest_count() -> None:
    model = nn.Sequential(*(conv(3 if i == 0 else 4, 4, 2) for i in range(5)))
    assert [s.side for s in find_scales(model, torch.zeros(1, 3, 64, 64))] == [2, 4, 8, 16]


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), 0),
        (nn.Sequential(conv(3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), 1),
    ],
    ids=["no feature maps", "one resolution"],
)
def test_a_model_without_a_pyramid_is_refused(model: nn.Module, count: int) -> None:
    with pytest.raises(
        ModelError, match=rf"feature maps at two resolutions or more .* this model has {count}; .*gates.steer=magnitude"
    ):
        find_scales(model, torch.zeros(1, 3, 8, 8))
    assert hooks(model) == 0


def test_finding_scales_leaves_the_model_as_it_was() -> None:
    model = build_classifier(ModelConfig(name="resnet20"), 10).train()
    before = copy.deepcopy(model.state_dict())
    find_scales(model, torch.rand(1, 3, 32, 32))
    assert model.training
    assert hooks(model) == 0
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_failing_model_is_left_as_it_was() -> None:
    model = Shared().train()
    with pytest.raises(RuntimeError, match="channels"):
        find_scales(model, torch.zeros(1, 2, 8, 8))
    assert model.training
    assert hooks(model) == 0


def test_captured_features_are_the_layers_outputs_coarse_to_fine() -> None:
    torch.manual_seed(0)
    model = build_classifier(ModelConfig(name="resnet20"), 10).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        with captured(model, find_scales(model, images[:1])) as features:
            logits = model(images)
        x = model.net.relu(model.net.bn1(model.net.conv1(model.normalize(images))))
        fine = model.net.layer1(x)
        middle = model.net.layer2(fine)
        coarse = model.net.layer3(middle)
        for found, expected in zip(features, [coarse, middle, fine], strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
        torch.testing.assert_close(logits, model(images), rtol=0, atol=0)


def test_hooks_live_within_the_block_only() -> None:
    model = Shared()
    scales = find_scales(model, torch.zeros(1, 3, 8, 8))
    keys = list(model.state_dict())
    with captured(model, scales) as features:
        assert hooks(model) == 3
        model(torch.rand(1, 3, 8, 8))
    assert hooks(model) == 0
    held = [feature.clone() for feature in features]
    copied = copy.deepcopy(model)
    copied(torch.rand(1, 3, 8, 8))
    model(torch.rand(1, 3, 8, 8))
    assert all(torch.equal(a, b) for a, b in zip(features, held, strict=True))
    assert list(model.state_dict()) == keys
    with pytest.raises(RuntimeError, match="channels"), captured(model, scales):
        model(torch.zeros(1, 2, 8, 8))
    assert hooks(model) == 0
