"""Networks with what makes gates in weights hard, explained and with normalisations that do something."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.data import Batch
from slimsight.compress.explain import ExplainedClassifier, Head, RbfHead, Selector, find_scales
from slimsight.compress.models import Classifier
from slimsight.compress.surgery import ChannelGroup, trace_groups

SIDE, CLASSES = 16, 4


class Odd(nn.Conv2d):
    """A subclass with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Branched(nn.Module):
    """Residual, grouped, concatenated, depthwise, not homogeneous, reflected at the border, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 12, 3, padding=1, padding_mode="reflect")
        self.bn2 = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.back = Odd(12, 8, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(16, 16, 3, 2, padding="valid")
        self.linear1 = nn.Linear(16 * 7 * 7, 6)
        self.bn4 = nn.BatchNorm1d(6)
        self.linear2 = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.bn1(self.stem(images)))
        inner = F.silu(self.depthwise(F.silu(self.bn2(self.inner(maps)))))
        stream = F.relu(self.bn3(self.back(inner)) + maps)
        maps = F.relu(self.down(torch.cat([maps, stream], 1)))
        logits: Tensor = self.linear2(F.relu(self.bn4(self.linear1(maps.flatten(1)))))
        return logits


class Rereading(nn.Module):
    """What the normalisation reads is read by another, too: folding it changes what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, 2, padding=1)
        self.bn2 = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.bn1(self.first(images)))
        raw = self.second(maps)
        logits: Tensor = self.head((F.relu(self.bn2(raw)) + raw.tanh()).mean((2, 3)))
        return logits


def shaken(network: nn.Module) -> nn.Module:
    """In eval mode, frozen, with normalisations that do something."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval().requires_grad_(False)


def explained(
    build: Callable[[], nn.Module], head: type[Head] = RbfHead
) -> tuple[ExplainedClassifier, tuple[ChannelGroup, ...]]:
    torch.manual_seed(0)
    classifier = Classifier(build(), (0.5,) * 3, (0.5,) * 3)
    selector = Selector(find_scales(classifier, torch.zeros(1, 3, SIDE, SIDE)), CLASSES, SIDE, head)
    nn.init.normal_(selector.head.weight, std=0.1)
    network = ExplainedClassifier(classifier, selector)
    shaken(network)
    graph = trace_groups(network, torch.zeros(1, 3, SIDE, SIDE), prefix=network.PREFIX, view=network.view)
    assert len(graph.groups) >= 2
    return network, graph.groups


def batch_of(count: int) -> Batch:
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    return Batch(torch.rand(count, 3, SIDE, SIDE, generator=draw), labels, torch.arange(count))
