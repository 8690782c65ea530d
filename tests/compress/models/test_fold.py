import copy

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.models.fold import FoldPair, find_fold_pairs, fold_


class Normalised(nn.Module):
    """Normalisations after a convolution, a grouped one, a linear layer; and where none can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.bn_grouped = nn.BatchNorm2d(8, affine=False)
        self.twice = nn.Conv2d(8, 8, 1)
        self.bn_twice = nn.BatchNorm2d(8)
        self.changed = nn.Conv2d(8, 8, 1)
        self.bn_changed = nn.BatchNorm2d(8)
        self.batch_only = nn.Conv2d(8, 8, 1)
        self.bn_batch_only = nn.BatchNorm2d(8, track_running_stats=False)
        self.linear = nn.Linear(8, 4)
        self.bn_linear = nn.BatchNorm1d(4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.bn(self.conv(images)).relu_()
        maps = self.bn_grouped(self.grouped(maps)).relu()
        maps = self.bn_twice(self.twice(self.twice(maps)))
        maps = self.bn_changed(self.changed(maps).relu_())
        maps = self.bn_batch_only(self.batch_only(maps))
        vectors: Tensor = self.bn_linear(self.linear(maps.mean((2, 3))))
        return vectors


FOLDABLE = {
    FoldPair("conv", "bn"),
    FoldPair("grouped", "bn_grouped"),
    FoldPair("linear", "bn_linear"),
}


@pytest.fixture
def network() -> Normalised:
    torch.manual_seed(0)
    network = Normalised()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.eval()


def test_only_what_reads_the_very_output_of_a_layer_called_once_is_found(network: Normalised) -> None:
    # In eval mode a normalisation without running statistics still takes those of the batch.
    images = torch.rand(4, 3, 8, 8)
    assert set(find_fold_pairs(network, lambda: network(images))) == FOLDABLE
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_nothing_is_found_in_train_mode(network: Normalised) -> None:
    network.train()
    assert find_fold_pairs(network, lambda: network(torch.rand(4, 3, 8, 8))) == ()


def test_folded_the_network_computes_the_same(network: Normalised) -> None:
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    network.double()
    expected = network(images)
    folded = copy.deepcopy(network)
    fold_(folded, find_fold_pairs(folded, lambda: folded(images)))
    torch.testing.assert_close(folded(images), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        folded.bn.running_mean.add_(100)  # nobody reads it any more
    torch.testing.assert_close(folded(images), expected, rtol=1e-12, atol=1e-12)


def test_shared_weights_stay_what_they_are_elsewhere() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    second.weight = first.weight
    network = nn.Sequential(first, nn.BatchNorm2d(3), second).eval()
    network[1].running_var.fill_(4)
    before = first.weight.detach().clone()
    fold_(network, find_fold_pairs(network, lambda: network(torch.rand(1, 3, 4, 4))))
    torch.testing.assert_close(second.weight, before, rtol=0, atol=0)
    torch.testing.assert_close(first.weight, before / (4 + network[1].eps) ** 0.5)
