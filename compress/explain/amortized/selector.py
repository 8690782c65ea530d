"""Selector f_sel: predicts an explanation from the classifier's own features, in one forward pass (ISP)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models import Classifier
from ..base import Saliency, check_images, check_labels
from .decoder import Decoder, UpBlock
from .heads import Head, RbfHead, RealXHead
from .pyramid import FeatureScale, captured


class Selector(Decoder):
    """Decoder with a head; refers to the backbone's scales by layer name (see ``find_scales``).

    Args:
        side: of the images, in pixels.
        head: form of the explanation: ``RbfHead`` (ISP), ``RealXHead``, ``VarSalHead``.
    """

    def __init__(self, scales: Sequence[FeatureScale], classes: int, side: int, head: type[Head] = RbfHead) -> None:
        super().__init__(scales, classes)
        self.side = side
        self.head = head(self.width, self.scales[-1].side, side)
        nn.init.normal_(self.filter.weight, std=self.scales[0].channels ** -0.5)
        self.head.init_weights_()

    def forward(self, features: Sequence[Tensor], labels: Tensor) -> Tensor:
        """(N, ...) the head's numbers for features (coarse to fine) and class labels (N,)."""
        numbers: Tensor = self.head(self.decode(features, labels))
        return numbers


class ExplainedClassifier(nn.Module):
    """Classifier and selector as one network: traced together, gated together, slimmed together."""

    PREFIX = "classifier."

    def __init__(self, classifier: Classifier, selector: Selector) -> None:
        super().__init__()
        self.classifier = classifier
        self.selector = selector

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) and the head's numbers (N, ...) for ``labels`` or the predicted classes."""
        with captured(self.classifier, self.selector.scales) as features:
            logits = self.classifier(images)
        if labels is None:
            labels = logits.detach().argmax(1)
        return logits, self.selector(features, labels)

    @staticmethod
    def view(network: nn.Module, images: Tensor) -> list[Tensor]:
        """Outputs that show the dependency graph every coupling (see ``Selector.backbone_readers``)."""
        assert isinstance(network, ExplainedClassifier)
        with captured(network.classifier, network.selector.scales) as features:
            logits = network.classifier(images)
        return [logits, *network.selector.backbone_readers(features)]


FoldedConv: TypeAlias = tuple[Tensor, Tensor]
"""Weight and bias of a convolution with its normalisation folded in."""


def fused(selector: Selector, features: Sequence[Tensor], labels: Tensor) -> Tensor:
    """``selector(features, labels)``, faster: for a selector that ``can_fuse``, in eval mode, without gradients."""
    maps = features[0]
    # Only the class embeddings of ``labels``: (N, 1, C) x (N, C, s * s).
    embeddings = selector.filter.weight.flatten(1)[labels].unsqueeze(1)
    evidence = torch.bmm(embeddings, maps.flatten(2)).sigmoid_()
    maps = maps * evidence.view(-1, 1, *maps.shape[2:])
    layers = _folded_ups(selector.ups)
    for start, skip in enumerate(features[1:]):
        maps = _up_block(layers[4 * start : 4 * start + 4], maps, skip)
    numbers: Tensor = selector.head(maps)
    return numbers


def can_fuse(modules: Iterable[nn.Module], device: torch.device) -> bool:
    """Whether ``fused`` may replace the modules: no hooks, which it would not call, and no autocast on ``device``."""
    if torch.is_autocast_enabled(device.type):
        return False
    return not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def _folded_ups(ups: nn.ModuleList) -> list[FoldedConv]:
    """The four folded convolutions of each up-block, in the order of their calls; all factors computed at once."""
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    for up in ups:
        assert isinstance(up, UpBlock)
        block = up.block
        pairs += [(up.conv, up.bn), (block.conv1, block.bn1), (block.conv2, block.bn2), (block.shortcut, block.bn3)]
    norms = [norm for _, norm in pairs]
    assert len({norm.eps for norm in norms}) == 1
    means, variances = ([getattr(norm, name) for norm in norms] for name in ("running_mean", "running_var"))
    factors = torch.cat(variances).add_(norms[0].eps).rsqrt_().mul_(torch.cat([norm.weight for norm in norms]))
    biases = torch.cat([norm.bias for norm in norms]).addcmul_(torch.cat(means), factors, value=-1)
    widths = [norm.num_features for norm in norms]
    split = zip(pairs, torch.split(factors, widths), torch.split(biases, widths), strict=True)
    return [(conv.weight * factor.view(-1, 1, 1, 1), bias) for (conv, _), factor, bias in split]


def _up_block(layers: Sequence[FoldedConv], maps: Tensor, skip: Tensor) -> Tensor:
    enlarging, first, second, (shortcut, shift) = layers
    maps = _concat_shuffled(skip, F.conv2d(maps, *enlarging, padding=1).relu_())
    inner = F.conv2d(maps, *first, padding=1).relu_()
    inner = F.conv2d(inner, second[0], second[1] + shift, padding=1)
    # A 1x1 convolution is a matrix product, which can add in place.
    inner.view(*inner.shape[:2], -1).baddbmm_(shortcut.flatten(1).expand(len(maps), -1, -1), maps.flatten(2))
    return inner.relu_()


def _concat_shuffled(skip: Tensor, maps: Tensor) -> Tensor:
    """Concatenate ``skip`` (N, C, H, W) and the pixel-shuffled ``maps`` (N, 4 C', h, w), twice their resolution."""
    count, channels, height, width = len(maps), maps.shape[1] // 4, *maps.shape[2:]
    if skip.shape[2:] != (2 * height, 2 * width):  # backbones that round an odd size up
        return torch.cat([skip, F.interpolate(F.pixel_shuffle(maps, 2), size=skip.shape[2:], mode="nearest")], 1)
    joined = skip.new_empty(count, skip.shape[1] + channels, *skip.shape[2:])
    joined[:, : skip.shape[1]] = skip
    enlarged = joined[:, skip.shape[1] :].view(count, channels, height, 2, width, 2)
    enlarged.copy_(maps.view(count, channels, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3))
    return joined


def modules_of(network: nn.Module) -> list[nn.Module]:
    """``network`` and all its submodules; faster than ``network.modules()``, which takes as long as a few layers.

    A module that is used in several places is listed as often.
    """
    modules = [network]
    for module in modules:  # grows on the way
        if children := module._modules:
            modules += [child for child in children.values() if child is not None]
    return modules


class AmortizedExplainer:
    """``Explainer`` of a classifier with its selector: one forward pass, in float32 and eval mode.

    Args:
        network: used as it is, not copied; ``explain`` puts it into eval mode.
    """

    head: ClassVar[type[nn.Module]] = nn.Module
    """The head that it needs; any, unless a subclass sets it."""

    def __init__(self, network: ExplainedClassifier) -> None:
        given, needed = type(network.selector.head), self.head
        assert issubclass(given, needed), f"{type(self).__name__} needs a {needed.__name__}, not a {given.__name__}"
        self.network = network

    @property
    def name(self) -> str:
        """Its name in recipes: ``rbf``, ``realx``, ``varsal``."""
        return self.network.selector.head.kind

    def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
        """Explain images (N, 3, H, W) in [0, 1], for labels (N,) or the predicted classes.

        Raises:
            DataError: images or labels do not fit the classifier.
        """
        selector = self.network.selector
        check_images(images, selector.side)
        if labels is not None:
            check_labels(labels, len(images), selector.filter.out_channels)
        device = selector.filter.weight.device
        modules = modules_of(self.network)
        if any(module.training for module in modules):
            self.network.eval()
        select = partial(fused, selector) if can_fuse(modules, device) else selector
        with torch.inference_mode():
            with captured(self.network.classifier, selector.scales) as features:
                logits = self.network.classifier(images.to(device))
            numbers = select(features, logits.argmax(1) if labels is None else labels.to(device))
        with torch.no_grad():  # of a copy: inference tensors must not reach a caller's autograd
            return selector.head.to_saliency(numbers.clone())


class RbfExplainer(AmortizedExplainer):
    """ISP: ``parameters`` are (N, 3) row, column and sigma in pixels, ``maps`` their radial basis masks."""

    head = RbfHead


class RealXExplainer(AmortizedExplainer):
    """REAL-X: ``maps`` are the probabilities with which each pixel is kept."""

    head = RealXHead
