"""The fast copy is the same function, or nothing is folded."""

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.explain.fidelity.perturbation import (
    keep_pixels,
    measure_windows,
    predicted_probability,
)
from slimsight.compress.explain.fidelity.ranking import to_ranks
from slimsight.compress.models import Classifier
from slimsight.compress.models.fold import FoldedNorm2d, to_fast


class Reread(nn.Module):
    """A convolution whose output a normalisation reads, and a shortcut around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        logits: Tensor = (self.bn(maps) + maps).mean((2, 3))
        return logits


def folded(model: nn.Module) -> int:
    return sum(isinstance(module, FoldedNorm2d) for module in model.modules())


def test_normalisations_are_folded_and_logits_stay(classifier: Classifier, many: Tensor) -> None:
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    fast = to_fast(classifier.train(), many[:2])
    assert folded(fast) == 3
    assert not fast.training
    wanted = classifier.eval()(many).log_softmax(1)
    torch.testing.assert_close(fast(many).log_softmax(1), wanted, rtol=1e-5, atol=1e-5)
    assert folded(classifier) == 0
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_a_layer_that_something_else_reads_is_not_folded(many: Tensor) -> None:
    torch.manual_seed(0)
    net = Reread()
    nn.init.uniform_(net.bn.weight, 0.5, 1.5)
    assert net.bn.running_mean is not None
    net.bn.running_mean.uniform_(-1, 1)
    classifier = Classifier(net, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)).eval()
    fast = to_fast(classifier, many[:2])
    assert folded(fast) == 0
    torch.testing.assert_close(fast(many), classifier(many))


@pytest.mark.parametrize("batch_size", [3, 64])
def test_figures_are_those_of_plain_forward_passes_to_a_millionth(
    classifier: Classifier, many: Tensor, batch_size: int
) -> None:
    ranks = to_ranks(torch.rand(len(many), 16, 16, generator=torch.Generator().manual_seed(0)))
    windows = [(0, 256), (100, 256), (0, 30), (256, 256)]
    found = measure_windows(classifier, many, ranks, windows, predicted_probability, what="test", batch_size=batch_size)
    whole = classifier(many).log_softmax(1)
    for column, (low, high) in enumerate(windows):
        kept = (ranks >= low) & (ranks < high)
        now = classifier(keep_pixels(many, kept, classifier.normalize.mean)).log_softmax(1)
        torch.testing.assert_close(found[:, column], predicted_probability(whole, now), rtol=0, atol=1e-6)
