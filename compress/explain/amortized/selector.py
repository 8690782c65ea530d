"""f_sel: one forward pass from an image to what explains it, on the classifier's own pyramid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models import Classifier
from .decoder import Decoder, UpBlock
from .heads import Head, RbfHead
from .pyramid import FeatureScale, captured


class Selector(Decoder):
    """A decoder and the head that speaks for it. Knows its scales by layer name (see ``find_scales``).

    Args:
        side: of the images, in pixels.
        head: how it explains: ``RbfHead`` (ISP), ``RealXHead``, ``VarSalHead``.
    """

    def __init__(self, scales: Sequence[FeatureScale], classes: int, side: int, head: type[Head] = RbfHead) -> None:
        super().__init__(scales, classes)
        self.side = side
        self.head = head(self.width, self.scales[-1].side, side)
        nn.init.normal_(self.filter.weight, std=self.scales[0].channels ** -0.5)
        self.head.start_()

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
        """Logits (N, classes) and the numbers that the head says; the explained class is predicted if not given."""
        with captured(self.classifier, self.selector.scales) as features:
            logits = self.classifier(images)
        if labels is None:
            labels = logits.detach().argmax(1)
        return logits, self.selector(features, labels)

    @staticmethod
    def view(network: nn.Module, images: Tensor) -> list[Tensor]:
        """What the dependency graph looks through (see ``Selector.readers``)."""
        assert isinstance(network, ExplainedClassifier)
        with captured(network.classifier, network.selector.scales) as features:
            logits = network.classifier(images)
        return [logits, *network.selector.readers(features)]


Folded: TypeAlias = tuple[Tensor, Tensor]
"""Weight and bias of a convolution that does its normalisation's work too."""


def fused(selector: Selector, features: Sequence[Tensor], labels: Tensor) -> Tensor:
    """``selector(features, labels)`` of a selector that ``can_fuse``, in eval mode, where gradients are disabled."""
    maps = features[0]
    # Of the class embeddings only those that are asked for: (N, 1, C) x (N, C, s * s).
    embeddings = selector.filter.weight.flatten(1)[labels].unsqueeze(1)
    evidence = torch.bmm(embeddings, maps.flatten(2)).sigmoid_()
    maps = maps * evidence.view(-1, 1, *maps.shape[2:])
    layers = _folded(selector.ups)
    for start, skip in enumerate(features[1:]):
        maps = _up(layers[4 * start : 4 * start + 4], maps, skip)
    numbers: Tensor = selector.head(maps)
    return numbers


def can_fuse(modules: Iterable[nn.Module], device: torch.device) -> bool:
    """Have ``modules`` no hooks, which ``fused`` would not call, and is ``device`` not under autocast?"""
    if torch.is_autocast_enabled(device.type):
        return False
    return not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def _folded(ups: nn.ModuleList) -> list[Folded]:
    """Of each up-block its four convolutions, as they are called; all their channels' factors in one go."""
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


def _up(layers: Sequence[Folded], maps: Tensor, skip: Tensor) -> Tensor:
    enlarging, first, second, (shortcut, shift) = layers
    maps = _joined(skip, F.conv2d(maps, *enlarging, padding=1).relu_())
    inner = F.conv2d(maps, *first, padding=1).relu_()
    inner = F.conv2d(inner, second[0], second[1] + shift, padding=1)
    # A convolution of one pixel is a matrix product, which can add to what is there.
    inner.view(*inner.shape[:2], -1).baddbmm_(shortcut.flatten(1).expand(len(maps), -1, -1), maps.flatten(2))
    return inner.relu_()


def _joined(skip: Tensor, maps: Tensor) -> Tensor:
    """``skip`` (N, C, H, W), then ``maps`` (N, 4 C', h, w) at twice their resolution (``nn.PixelShuffle``)."""
    count, channels, height, width = len(maps), maps.shape[1] // 4, *maps.shape[2:]
    if skip.shape[2:] != (2 * height, 2 * width):  # backbones that round an odd size up
        return torch.cat([skip, F.interpolate(F.pixel_shuffle(maps, 2), size=skip.shape[2:], mode="nearest")], 1)
    joined = skip.new_empty(count, skip.shape[1] + channels, *skip.shape[2:])
    joined[:, : skip.shape[1]] = skip
    enlarged = joined[:, skip.shape[1] :].view(count, channels, height, 2, width, 2)
    enlarged.copy_(maps.view(count, channels, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3))
    return joined
