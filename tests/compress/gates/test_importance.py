"""Rankings by Torch-Pruning's importances: the values that Torch-Pruning gives its own groups."""

import copy

import pytest
import torch
import torch_pruning as tp
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.data import TensorBatches
from slimsight.compress.gates.importance import IMPORTANCES, add_gradients_, importances
from slimsight.compress.surgery import trace_groups
from slimsight.compress.training import Learning, make_fabric


class Flattened(nn.Module):
    """A linear layer reads every pixel of every channel; a PReLU and an unused bias lie on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.slope, self.last = nn.PReLU(8), nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.flatten(self.slope(self.norm(self.first(x))), 1))


NETWORKS = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=4), 32),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=4, width_mult=0.25), 32),
    "flattened": (Flattened, 4),
}


@pytest.fixture(params=list(NETWORKS))
def learned(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    """A network with gradients of the cross entropy of six images, and an example."""
    build, side = NETWORKS[request.param]
    torch.manual_seed(0)
    network = build().eval()
    images = torch.randn(6, 3, side, side)
    F.cross_entropy(network(images), torch.arange(6) % 4).backward()
    return network, images[:1]


@pytest.mark.parametrize("ranking", ["taylor", "fpgm", "bn_scale", "lamp"])
def test_scores_are_those_of_torch_pruning(learned: tuple[nn.Module, Tensor], ranking: str) -> None:
    network, example = learned
    groups = trace_groups(network, example).groups
    found = importances(network, groups, ranking)
    own = tp.DependencyGraph().build_dependency(copy.deepcopy(network).train(False), example_inputs=example)
    layers = dict(own.model.named_modules())
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layers[name].weight
            weight.grad = layer.weight.grad.clone()
            if layer.bias is not None:
                layers[name].bias.grad = layer.bias.grad.clone()
    for group in groups:
        root = layers[group.name]
        theirs = own.get_pruning_group(root, tp.prune_conv_out_channels, list(range(group.channels)))
        expected = IMPORTANCES[ranking]()(theirs)
        expected = torch.ones(group.channels) if expected is None else expected / expected.mean()
        # LAMP divides by differences of float32 sums; the order of terms is ours, so its largest scores round apart.
        rtol = 2e-2 if ranking == "lamp" else 1e-4
        torch.testing.assert_close(found[group.name].float(), expected, rtol=rtol, atol=1e-6)


def test_what_no_output_depends_on_goes_first() -> None:
    network = NETWORKS["resnet18"][0]().eval()
    images, labels = torch.randn(12, 3, 32, 32), torch.arange(12) % 4
    with torch.no_grad():
        network.layer1[0].conv2.weight[:, 5] = 0  # nobody reads channel 5 of the layer before
    learning = Learning(make_fabric())
    assert add_gradients_(network, TensorBatches(images, labels, 4, shuffle=False), learning, images=8) == 8
    (group,) = [g for g in trace_groups(network, images[:1]).groups if g.name == "layer1.0.conv1"]
    scores = importances(network, [group], "taylor")[group.name]
    assert scores.argmin() == 5
    assert scores[5] == 0
    assert scores.mean() == pytest.approx(1)


def test_gradients_are_of_the_mean_over_the_images_that_are_read() -> None:
    torch.manual_seed(0)
    network = Flattened().eval()
    twin = copy.deepcopy(network)
    images, labels = torch.randn(10, 3, 4, 4), torch.arange(10) % 4
    batches = TensorBatches(images, labels, 4, shuffle=False)
    assert add_gradients_(network, batches, Learning(make_fabric()), images=100) == 10
    F.cross_entropy(twin(images), labels).backward()
    torch.testing.assert_close(network.first.weight.grad, twin.first.weight.grad)


def test_grouped_convolutions_have_a_score_for_what_can_go_alone() -> None:
    network = torchvision.models.resnext50_32x4d(num_classes=4).eval()
    images = torch.randn(2, 3, 32, 32)
    F.cross_entropy(network(images), torch.arange(2)).backward()
    groups = trace_groups(network, images[:1]).groups
    tied = next(group for group in groups if group.name == "layer1.0.conv1")
    assert tied.channels == 4
    for ranking in IMPORTANCES:
        for name, score in importances(network, groups, ranking).items():
            assert len(score) == next(group.channels for group in groups if group.name == name)
            assert torch.isfinite(score).all()


def test_random_scores_follow_the_generator() -> None:
    network = Flattened().eval()
    groups = trace_groups(network, torch.randn(1, 3, 4, 4)).groups
    torch.manual_seed(1)
    first = importances(network, groups, "random")
    second = importances(network, groups, "random")
    torch.manual_seed(1)
    again = importances(network, groups, "random")
    assert torch.equal(first["first"], again["first"])
    assert not torch.equal(first["first"], second["first"])
