import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from slimsight.compress.models import Classifier
from slimsight.compress.models.fold import FoldedNorm2d, FoldedNormAct2d, FoldPair, find_fold_pairs, fold_, to_fast


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


class ActivatedNorm(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: what follows the normalisation is part of it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU6()

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output


class PaddedConv(nn.Conv2d):
    """Still linear in its weights, as timm's Conv2dSame."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(input, (0, 1, 0, 1)))


class StandardisedConv(nn.Conv2d):
    """Not linear in its weights: a scale folded into them is lost."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(input, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class NormAfter(ActivatedNorm):
    """It looks like ``ActivatedNorm`` and activates before it normalises."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.BatchNorm2d.forward(self, self.act(input))


def with_library_layers() -> Classifier:
    torch.manual_seed(0)
    net = nn.Sequential(
        PaddedConv(3, 8, 3), ActivatedNorm(8), StandardisedConv(8, 8, 3), ActivatedNorm(8),
        nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.uniform_(-0.5, 0.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return Classifier(net, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)).eval()


def test_norms_with_an_activation_and_subclasses_of_layers_are_folded_where_that_is_exact() -> None:
    classifier, images = with_library_layers(), torch.rand(4, 3, 12, 12)
    fast = to_fast(classifier, images[:1])
    folded = {name for name, module in fast.named_modules() if isinstance(module, FoldedNorm2d | FoldedNormAct2d)}
    assert folded == {"net.1", "net.5"}
    with torch.no_grad():
        torch.testing.assert_close(fast(images), classifier(images), rtol=1e-5, atol=1e-5)
    again = to_fast(fast, images[:1])
    with torch.no_grad():
        torch.testing.assert_close(again(images), classifier(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.Conv2d(3, 8, 3), NormAfter(8)),
        lambda: (weight_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8)),
        lambda: (spectral_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8)),
        lambda: (prune.random_unstructured(nn.Conv2d(3, 8, 3), "weight", 0.5), nn.BatchNorm2d(8)),
    ],
    ids=["another order", "weight_norm", "spectral_norm", "prune mask"],
)
def test_what_a_fold_would_change_or_cannot_write_stays(layers: Callable[[], tuple[nn.Module, ...]]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*layers(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean.uniform_(-0.5, 0.5)  # at 0 both orders of a ReLU and a positive scale are the same
    images = torch.rand(4, 3, 8, 8)
    fast = to_fast(net, images[:1])
    assert not any(isinstance(module, FoldedNorm2d | FoldedNormAct2d) for module in fast.modules())
    with torch.no_grad():
        torch.testing.assert_close(fast(images), net(images))


def test_a_network_whose_outputs_are_all_zero_shows_nothing() -> None:
    head = nn.Linear(8, 3, bias=False)
    nn.init.zeros_(head.weight)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    fast = to_fast(net, torch.rand(1, 3, 8, 8))
    assert not any(isinstance(module, FoldedNorm2d) for module in fast.modules())
