"""Scores and closed neurons against one neuron at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.errors import ModelError
from slimsight.compress.explain.attribution.neurons import Neurons, class_values, pruned_logits
from slimsight.compress.models import Classifier

LABELS = torch.tensor([2, 0])


class TwoLayers(nn.Module):
    """ReLU, in a given spelling, twice; a shortcut around the second convolution."""

    def __init__(self, relu: Callable[[Tensor], Tensor] = F.relu, shift: float = 0.0) -> None:
        super().__init__()
        self.relu = relu
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.linear = nn.Linear(4 * 5 * 5, 3)
        nn.init.constant_(self.conv1.bias, shift)
        nn.init.constant_(self.conv2.bias, shift)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.conv1(images))
        maps = self.relu(self.conv2(maps) + maps)
        return self.linear(maps.flatten(1))


@pytest.fixture
def small() -> Tensor:
    return torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def only(neuron: int, total: int, shapes: list[torch.Size]) -> list[Tensor]:
    """One closed neuron, the same for both images."""
    flat = torch.zeros(2, total, dtype=torch.bool)
    flat[:, neuron] = True
    parts = torch.split(flat, [shape.numel() for shape in shapes], 1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]


def test_scores_are_what_removal_costs_on_a_linear_network(small: Tensor) -> None:
    """With a large shift every ReLU is open, so that the first order is all there is."""
    torch.manual_seed(0)
    model = TwoLayers(shift=10.0).double()
    small = small.double()
    neurons = Neurons(model, small, LABELS)
    assert len(neurons) == 2 * 4 * 5 * 5
    before = class_values(model(small), LABELS)
    for neuron in range(len(neurons)):
        after = class_values(pruned_logits(model, small, only(neuron, len(neurons), neurons.shapes)), LABELS)
        torch.testing.assert_close(neurons.scores[:, neuron], (after - before).abs(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "relu",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), torch.relu_],
    ids=["reused module", "in place", "relu6", "torch in place"],
)
def test_every_spelling_of_relu_gives_the_same(relu: Callable[[Tensor], Tensor], small: Tensor) -> None:
    torch.manual_seed(0)
    model = TwoLayers()
    expected = Neurons(model, small, LABELS)
    counts = torch.tensor([70, 150])
    closed = expected.closed(counts)
    logits = pruned_logits(model, small, closed)
    model.relu = relu
    found = Neurons(model, small, LABELS)
    torch.testing.assert_close(found.scores, expected.scores)
    for ours, theirs in zip(found.closed(counts), closed, strict=True):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(pruned_logits(model, small, closed), logits)


def test_exactly_as_many_as_asked_for_though_most_scores_are_zero(small: Tensor) -> None:
    torch.manual_seed(0)
    model = TwoLayers(shift=-0.5)  # most ReLUs are shut
    neurons = Neurons(model, small, LABELS)
    silent = (neurons.scores == 0).sum(1)
    assert silent.min() > 0.5 * len(neurons)
    for count in (0, 1, 60, 150, 200):
        closed = torch.cat([part.flatten(1) for part in neurons.closed(torch.full((2,), count))], 1)
        assert closed.sum(1).tolist() == [count, count]
        kept = neurons.scores.masked_fill(closed, torch.inf).amin(1)
        assert (neurons.scores.masked_fill(~closed, 0).amax(1) <= kept).all()
    free = neurons.count(neurons.silent_steps())
    assert free.min() > 100
    assert torch.equal(pruned_logits(model, small, neurons.closed(free)), model(small))


def test_what_no_later_layer_reads_scores_zero(small: Tensor) -> None:
    class Blind(TwoLayers):
        def forward(self, images: Tensor) -> Tensor:
            self.relu(self.conv2(torch.cat([images, images[:, :1]], 1)))
            return super().forward(images)

    torch.manual_seed(0)
    scores = Neurons(Blind(), small, LABELS).scores
    assert scores[:, :100].eq(0).all()
    assert scores[:, 100:].gt(0).any()


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU(), nn.Hardswish(inplace=True), nn.LeakyReLU(0.1)])
def test_other_activations_are_neurons_too(activation: nn.Module, small: Tensor) -> None:
    torch.manual_seed(0)
    model = TwoLayers(activation)
    neurons = Neurons(model, small, LABELS)
    assert len(neurons) == 200
    before, neuron = class_values(model(small), LABELS), 150  # in the last layer, after which all is linear
    after = class_values(pruned_logits(model, small, only(neuron, 200, neurons.shapes)), LABELS)
    torch.testing.assert_close(neurons.scores[:, neuron], (after - before).abs(), rtol=1e-3, atol=1e-6)


def test_a_network_without_activations_is_refused(small: Tensor) -> None:
    linear = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ModelError, match=r"needs spatial activations .* this model computes none that torch can see"):
        Neurons(linear, small, LABELS)


def test_a_network_that_computes_something_else_next_time(classifier: Classifier, small: Tensor) -> None:
    closed = Neurons(TwoLayers(), small, LABELS).closed(torch.tensor([1, 1]))
    with pytest.raises(ModelError, match="other activations from one call to the next"):
        pruned_logits(classifier, small, closed)
    with pytest.raises(ModelError, match="other activations from one call to the next"):
        pruned_logits(TwoLayers(), small, [*closed, closed[0]])
