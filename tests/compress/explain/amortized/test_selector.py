"""The selector's shapes, its feature filter, and the view that surgery has of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.data import Batches
from slimsight.compress.explain import ExplainedClassifier, FeatureScale, Selector, explanations, find_scales
from slimsight.compress.explain.amortized.pyramid import captured
from slimsight.compress.models import Classifier


def to_features(scales: tuple[FeatureScale, ...], count: int) -> list[Tensor]:
    return [torch.randn(count, scale.channels, scale.side, scale.side) for scale in scales]


@contextmanager
def inputs_of(layers: dict[str, nn.Module], *, cut: bool) -> Iterator[dict[str, Tensor]]:
    """What each layer is given within the block; ``cut`` lets no gradient through the layers themselves."""
    found: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> Tensor:
            found[name] = inputs[0]
            return output.detach() if cut else output

        handles.append(layer.register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def layers_with_weights(selector: Selector) -> dict[str, nn.Module]:
    return {name: m for name, m in selector.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)}


@pytest.mark.parametrize(
    ("scales", "side"),
    [
        ((FeatureScale("b", 6, 4), FeatureScale("a", 3, 8)), 8),
        ((FeatureScale("c", 8, 2), FeatureScale("b", 6, 4), FeatureScale("a", 4, 8)), 32),
        (
            (FeatureScale("d", 5, 3), FeatureScale("c", 8, 5), FeatureScale("b", 6, 10), FeatureScale("a", 4, 20)),
            20,
        ),  # sides rounded up
    ],
    ids=["two scales", "finest below the images", "odd sides"],
)
@pytest.mark.parametrize("count", [1, 3])
def test_three_numbers_per_image_whatever_the_scales(scales: tuple[FeatureScale, ...], side: int, count: int) -> None:
    torch.manual_seed(0)
    selector = Selector(scales, classes=4, side=side).eval()
    params = selector(to_features(scales, count), torch.arange(count))
    assert params.shape == (count, 3)
    assert params.dtype == torch.float32
    assert ((params[:, :2] >= 0) & (params[:, :2] <= side)).all()
    assert (params[:, 2] > 0).all()


def test_parts_are_as_wide_as_the_scales(network: ExplainedClassifier) -> None:
    selector = network.selector
    assert [(s.channels, s.side) for s in selector.scales] == [(16, 4), (12, 8), (8, 16)]
    assert selector.filter.weight.shape == (3, 16, 1, 1)
    assert [up.conv.weight.shape for up in selector.ups] == [(48, 16, 3, 3), (32, 12, 3, 3)]
    assert [up.block.conv1.weight.shape for up in selector.ups] == [(12, 24, 3, 3), (8, 16, 3, 3)]
    assert selector.head.weight.shape == (3, 8, 16, 16)


def test_an_untrained_selector_points_near_the_centre_with_a_quarter_of_the_side() -> None:
    torch.manual_seed(0)
    scales = (FeatureScale("c", 64, 8), FeatureScale("b", 32, 16), FeatureScale("a", 16, 32))
    params = Selector(scales, 10, 32).eval()([f.relu() for f in to_features(scales, 4)], torch.arange(4))
    expected = torch.tensor([16.0, 16.0, 9.6 * math.tanh(32 / 3 / 9.6)]).expand(4, 3)
    torch.testing.assert_close(params, expected, rtol=0, atol=1.0)


def test_the_feature_filter_is_isps_formula(network: ExplainedClassifier) -> None:
    """Z_ij = X_ij * sigmoid(X_ij . C_y), pixel by pixel."""
    torch.manual_seed(0)
    selector = network.selector
    features, labels = to_features(selector.scales, 3), torch.tensor([2, 0, 2])
    with torch.no_grad(), inputs_of({"up": selector.ups[0].conv}, cut=False) as found:
        selector(features, labels)
    expected = torch.zeros_like(features[0])
    for n, label in enumerate(labels.tolist()):
        embedding = selector.filter.weight[label, :, 0, 0].detach()
        for i in range(4):
            for j in range(4):
                pixel = features[0][n, :, i, j]
                expected[n, :, i, j] = pixel * torch.sigmoid(pixel @ embedding)
    torch.testing.assert_close(found["up"], expected, rtol=1e-5, atol=1e-6)


def test_the_label_matters_and_only_through_its_own_image(network: ExplainedClassifier, images: Tensor) -> None:
    with torch.no_grad():
        network.selector.head.weight.mul_(100)
        labels = torch.tensor([0, 1, 2, 0, 1, 2])
        _, first = network(images, labels)
        other = labels.clone()
        other[3] = 2
        _, second = network(images, other)
    moved = (first - second).abs().amax(1)
    assert moved[3] > 1e-3
    assert moved[[0, 1, 2, 4, 5]].max() == 0


def test_without_labels_the_predicted_class_is_explained(network: ExplainedClassifier, images: Tensor) -> None:
    with torch.no_grad():
        logits, params = network(images)
        _, expected = network(images, logits.argmax(1))
        torch.testing.assert_close(logits, network.classifier(images), rtol=0, atol=0)
    torch.testing.assert_close(params, expected, rtol=0, atol=0)


def test_readers_are_all_layers_that_read_the_backbone(network: ExplainedClassifier, images: Tensor) -> None:
    """Asked by gradient: with all layers cut, whose input still depends on a feature map of the classifier?"""
    selector = network.selector
    layers = layers_with_weights(selector)
    features = [f.requires_grad_() for f in to_features(selector.scales, 2)]
    with inputs_of(layers, cut=True) as real:
        selector(features, torch.tensor([0, 1]))
    assert real.keys() == layers.keys()
    reading = set()
    for name, given in real.items():
        if given.requires_grad:
            gradients = torch.autograd.grad(given.sum(), features, allow_unused=True, retain_graph=True)
            assert sum(g is not None for g in gradients) == 1, name
            reading.add(name)
    with inputs_of(layers, cut=False) as viewed:
        outputs = selector.backbone_readers(features)
    assert viewed.keys() == reading
    assert reading == {"filter", "ups.0.conv"} | {f"ups.{i}.block.{n}" for i in (0, 1) for n in ("conv1", "shortcut")}
    assert len(outputs) == len(reading)


def test_readers_read_the_backbones_channels_where_the_selector_does(network: ExplainedClassifier) -> None:
    selector = network.selector
    features = to_features(selector.scales, 2)
    layers = layers_with_weights(selector)
    with torch.no_grad():
        with inputs_of(layers, cut=False) as real:
            selector(features, torch.tensor([0, 1]))
        with inputs_of(layers, cut=False) as viewed:
            selector.backbone_readers(features)
    for name, given in viewed.items():
        assert given.shape == real[name].shape, name
    for index, skip in enumerate(features[1:]):
        for layer in ("conv1", "shortcut"):
            name, width = f"ups.{index}.block.{layer}", skip.shape[1]
            torch.testing.assert_close(viewed[name][:, :width], skip, rtol=0, atol=0)
            torch.testing.assert_close(real[name][:, :width], skip, rtol=0, atol=0)
            assert viewed[name][:, width:].abs().max() == 0
    torch.testing.assert_close(viewed["filter"], real["filter"], rtol=0, atol=0)


def test_the_view_is_the_logits_and_the_readers(network: ExplainedClassifier, images: Tensor) -> None:
    with torch.no_grad():
        logits, *outputs = ExplainedClassifier.view(network, images)
        with captured(network.classifier, network.selector.scales) as features:
            expected = network.classifier(images)
        torch.testing.assert_close(logits, expected, rtol=0, atol=0)
        for found, wanted in zip(outputs, network.selector.backbone_readers(features), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_the_classifier_is_found_below_its_prefix(network: ExplainedClassifier) -> None:
    below = {k.removeprefix(network.PREFIX) for k in network.state_dict() if k.startswith(network.PREFIX)}
    assert below == set(network.classifier.state_dict())


def test_a_copy_is_independent_and_nothing_is_left_behind(network: ExplainedClassifier, images: Tensor) -> None:
    labels = torch.arange(6) % 3
    keys = list(network.state_dict())
    with torch.no_grad():
        _, before = network(images, labels)
        copied = copy.deepcopy(network)
        copied.classifier.net.conv2.weight.zero_()
        _, other = copied(images, labels)
        _, after = network(images, labels)
    assert not torch.equal(other, before)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert list(network.state_dict()) == keys
    assert not any(m._forward_hooks for m in [*network.modules(), *copied.modules()])


def test_gradients_reach_the_selector_but_no_frozen_classifier(network: ExplainedClassifier, images: Tensor) -> None:
    network.classifier.requires_grad_(False)
    network(images)[1].sum().backward()
    assert all(p.grad is None for p in network.classifier.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.selector.head.parameters())


def test_explanations_are_the_same_every_time(network: ExplainedClassifier, images: Tensor, val: Batches) -> None:
    network.train()
    first = explanations(network, val)
    assert not network.training
    second = explanations(network, val)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_scale_list_found_on_a_classifier_fits_its_selector(classifier: Classifier, images: Tensor) -> None:
    scales = find_scales(classifier, images[:1])
    assert [scale.layer for scale in scales] == ["net.relu3", "net.relu2", "net.relu1"]
    logits, params = ExplainedClassifier(classifier, Selector(scales, 3, 16)).eval()(images)
    assert logits.shape == params.shape == (6, 3)
