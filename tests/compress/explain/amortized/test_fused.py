"""The fused selector is the selector: the same explanations, of the weights as they are now."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.explain import (
    AmortizedExplainer,
    ExplainedClassifier,
    Head,
    RbfHead,
    RealXHead,
    Selector,
    find_scales,
)
from slimsight.compress.explain.amortized.pyramid import captured
from slimsight.compress.explain.amortized.selector import can_fuse, fused, modules_of
from slimsight.compress.models import Classifier

CPU = torch.device("cpu")


def as_if_trained_(selector: Selector) -> Selector:
    """Statistics and weights that leave no normalisation and no class embedding without effect."""
    for module in selector.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.2, 2.0),
                (module.weight.data, -1.0, 1.5),
                (module.bias.data, -0.3, 0.3),
            ):
                assert values is not None
                values.uniform_(low, high)
    nn.init.normal_(selector.filter.weight, std=1.0)
    nn.init.normal_(selector.head.weight, std=2 * selector.head.weight[0].numel() ** -0.5)
    return selector


def explained(classifier: Classifier, side: int, head: type[Head]) -> ExplainedClassifier:
    torch.manual_seed(2)
    scales = find_scales(classifier, torch.zeros(1, 3, side, side))
    return ExplainedClassifier(classifier, as_if_trained_(Selector(scales, 3, side, head))).eval()


@pytest.mark.parametrize("head", [RbfHead, RealXHead])
@pytest.mark.parametrize("side", [16, 15])  # 15: maps of 15, 8 and 4 pixels, none half of the one before
@pytest.mark.parametrize("count", [1, 6])
def test_it_says_what_the_selector_says(
    classifier: Classifier, images: Tensor, head: type[Head], side: int, count: int
) -> None:
    network = explained(classifier, side, head)
    images, labels = images[:count, :, :side, :side], torch.arange(count) % 3
    with torch.no_grad():
        expected = network(images, labels)[1]
        maps = network.selector.head.to_maps(expected)[:, 0]
        found = AmortizedExplainer(network).explain(images, labels)
        torch.testing.assert_close(found.maps, maps, rtol=0, atol=1e-6)
        assert maps.std() > 0.01

        precise = copy.deepcopy(network).double()
        with captured(precise.classifier, precise.selector.scales) as features:
            precise.classifier(images.double())
        decoded = precise.selector.decode(features, labels)
        # Heads answer in float32: what they are given is compared.
        precise.selector.head = nn.Identity()
        torch.testing.assert_close(fused(precise.selector, features, labels), decoded, rtol=0, atol=1e-12)


def test_images_may_lie_in_memory_as_they_like(classifier: Classifier, images: Tensor) -> None:
    explainer = AmortizedExplainer(explained(classifier, 16, RbfHead))
    expected = explainer.explain(images).maps
    for given in (images.contiguous(memory_format=torch.channels_last), images.mT.contiguous().mT):
        torch.testing.assert_close(explainer.explain(given).maps, expected, rtol=0, atol=1e-6)


def test_weights_that_change_count_at_once(classifier: Classifier, images: Tensor) -> None:
    network = explained(classifier, 16, RbfHead)
    explainer = AmortizedExplainer(network)
    before = explainer.explain(images)
    network.selector.ups[1].block.conv1.weight.data.mul_(-1)  # unseen by autograd's version counters
    after = explainer.explain(images)
    assert (after.maps - before.maps).abs().max() > 1e-3
    with torch.no_grad():
        expected = network(images)[1]
    torch.testing.assert_close(after.maps, network.selector.head.to_maps(expected)[:, 0], rtol=0, atol=1e-6)


def test_features_stay_as_they_were(classifier: Classifier, images: Tensor) -> None:
    network = explained(classifier, 16, RbfHead)
    with torch.no_grad():
        with captured(network.classifier, network.selector.scales) as features:
            network.classifier(images)
        before = [each.clone() for each in features]
        fused(network.selector, features, torch.zeros(6, dtype=torch.int64))
    assert all(torch.equal(now, then) for now, then in zip(features, before, strict=True))


def test_hooks_of_the_selector_are_called(classifier: Classifier, images: Tensor) -> None:
    network = explained(classifier, 16, RbfHead)
    plain = AmortizedExplainer(network).explain(images)
    block = network.selector.ups[0].block
    handle = block.conv2.register_forward_hook(lambda _module, _inputs, output: output * 0)
    assert not can_fuse(modules_of(network), CPU)
    hooked = AmortizedExplainer(network).explain(images)
    handle.remove()
    assert (hooked.maps - plain.maps).abs().max() > 1e-3
    assert can_fuse(modules_of(network), CPU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_fuse(modules_of(network), CPU)
        AmortizedExplainer(network).explain(images)
    assert torch.equal(AmortizedExplainer(network).explain(images).maps, plain.maps)


def test_explanations_may_stand_in_what_learns(classifier: Classifier, images: Tensor) -> None:
    found = AmortizedExplainer(explained(classifier, 16, RbfHead)).explain(images)
    factor = torch.ones((), requires_grad=True)
    assert found.parameters is not None
    (factor * found.maps.mean() + factor * found.parameters.mean()).backward()
    assert factor.grad is not None
    torch.testing.assert_close(factor.grad, found.maps.mean() + found.parameters.mean())
