"""Kinds of layers and of sharing: what shrinks exactly, and what keeps its channels, with a reason that is true."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.gates import CostModel, magnitude
from slimsight.compress.gates.rank import group_l2
from slimsight.compress.macs import count_macs, count_params, size_bytes
from slimsight.compress.models import Classifier
from slimsight.compress.modules import copy_of
from slimsight.compress.surgery import (
    ChannelGraph,
    PrunePlan,
    freeze_training_only,
    gated_vs_slim,
    prove_groups,
    slim_,
    trace_groups,
)
from slimsight.compress.training.batch_norm import tracked_norms

IMAGES = torch.rand(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def chain(*middle: nn.Module, out: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    head = (nn.Conv2d(out, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *middle, nn.ReLU(), *head).double().eval()


def trace(network: nn.Module) -> ChannelGraph:
    return prove_groups(network, trace_groups(network, IMAGES[:1]), IMAGES)


def halve(network: nn.Module, graph: ChannelGraph) -> tuple[nn.Module, PrunePlan]:
    """The network without the odd channels of every group."""
    widths = {group.name: group.channels for group in graph.groups}
    plan = PrunePlan({name: tuple(range(0, width, 2)) for name, width in widths.items()}, widths)
    slim = copy_of(network)
    slim_(slim, plan, IMAGES[:1])
    return slim, plan


def with_statistics() -> nn.InstanceNorm2d:
    norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(torch.arange(8.0))
    norm.running_var.copy_(torch.arange(8.0) + 1)
    return norm


EXACT: dict[str, Callable[[], nn.Sequential]] = {
    "InstanceNorm2d": lambda: chain(nn.InstanceNorm2d(8)),
    "InstanceNorm2d with weights": lambda: chain(nn.InstanceNorm2d(8, affine=True)),
    "InstanceNorm2d with statistics": lambda: chain(with_statistics()),
    "GroupNorm, a group per channel": lambda: chain(nn.GroupNorm(8, 8)),
    "GroupNorm without weights": lambda: chain(nn.GroupNorm(8, 8, affine=False)),
    "ConvTranspose2d": lambda: chain(nn.ConvTranspose2d(8, 6, 2, 2), nn.BatchNorm2d(6), out=6),
    "ConvTranspose2d, wider": lambda: chain(nn.ConvTranspose2d(8, 12, 3, 2, bias=False), out=12),
    "ConvTranspose2d, depthwise": lambda: chain(nn.ConvTranspose2d(8, 8, 2, 2, groups=8)),
}


@pytest.mark.parametrize("name", EXACT)
def test_shrinks_exactly_and_costs_what_is_counted(name: str) -> None:
    network = EXACT[name]()
    graph = trace(network)
    assert [frozen.reason for frozen in graph.frozen] == ["its channels are the network's output"]
    slim, plan = halve(network, graph)
    assert gated_vs_slim(network, slim, graph.groups, plan, IMAGES) < 1e-12
    cost = CostModel.of(network, IMAGES[:1], graph.groups)
    assert cost.total == count_macs(network, IMAGES[:1]).total
    assert cost.of_plan(plan) == count_macs(slim, IMAGES[:1]).total
    amounts = cost.amounts(plan)
    assert (amounts["params"], amounts["size"]) == (count_params(slim), size_bytes(slim))
    assert torch.isfinite(slim.train()(IMAGES)).all()


def test_norms_by_channel_are_cut_as_a_whole() -> None:
    network = chain(nn.GroupNorm(8, 8))
    slim, _ = halve(network, trace(network))
    norm = slim.get_submodule("1")
    assert (norm.num_groups, norm.num_channels, len(norm.weight)) == (4, 4, 4)  # type: ignore[arg-type]
    network = chain(with_statistics())
    slim, _ = halve(network, trace(network))
    norm = slim.get_submodule("1")
    assert norm.num_features == 4
    assert norm.running_mean.tolist() == [0, 2, 4, 6]  # type: ignore[operator, union-attr]
    assert tracked_norms(slim) == {}


def test_the_norm_of_a_transposed_filter_is_that_of_its_output_channel() -> None:
    network = chain(nn.ConvTranspose2d(8, 6, 2, 2), out=6)
    layer = network[1]
    layer.weight.data.zero_()  # type: ignore[operator, union-attr]
    layer.weight.data[:, 4] = 3  # type: ignore[index, union-attr]
    graph = trace_groups(network, IMAGES[:1])
    assert group_l2(network, graph.group("1")).tolist() == pytest.approx([0, 0, 0, 0, 3 * 32**0.5, 0])
    assert magnitude(network, graph.groups)["1"].argmax() == 4


class ChannelsLast(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.inner(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        ((nn.GroupNorm(2, 8),), "GroupNorm '1' normalises several channels together"),
        ((nn.LayerNorm([8, 8, 8]),), "LayerNorm '1' normalises several channels together"),
        ((nn.ConvTranspose2d(8, 8, 2, 2, groups=2),), "ConvTranspose2d '1' has 2 groups"),
        (
            (nn.Flatten(2), nn.Conv1d(8, 8, 1), nn.Unflatten(2, (8, 8))),
            "Conv1d '2' is of a kind whose channels surgery does not remove",
        ),
        ((ChannelsLast(nn.RMSNorm(8)),), "RMSNorm '1.inner' normalises several channels together"),
        ((ChannelsLast(nn.LayerNorm(8)),), "LayerNorm '1.inner' normalises several channels together"),
    ],
)
def test_what_does_not_shrink_says_why(middle: tuple[nn.Module, ...], reason: str) -> None:
    reasons = {frozen.name: frozen.reason for frozen in trace(chain(*middle)).frozen}
    assert any(given.startswith(reason) for given in reasons.values())


class Shares(nn.Module):
    """Four convolutions, of which ``tie`` makes two share something; ``extra`` is added to the maps."""

    def __init__(
        self,
        tie: Callable[[Shares], object] = lambda net: None,
        extra: Callable[[Shares, Tensor], Tensor] = lambda net, maps: maps,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Linear(8, 3)
        self.extra = extra
        tie(self)
        self.double().eval()

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.c(F.relu(self.b(F.relu(self.a(images))))))
        out: Tensor = self.fc(F.relu(self.d(self.extra(self, maps))).mean((2, 3)))
        return out


@pytest.mark.parametrize(
    ("network", "frozen", "reason"),
    [
        (Shares(lambda net: setattr(net.c, "weight", net.b.weight)), {"a", "b", "c"}, "'b' shares its weight with 'c'"),
        (Shares(lambda net: setattr(net.c, "bias", net.b.bias)), {"a", "b", "c"}, "'b' shares its bias with 'c'"),
        (
            Shares(lambda net: setattr(net.d, "weight", net.c.weight)),
            {"b", "c", "d"},
            "'c' shares its weight with 'd'",
        ),
        (
            Shares(extra=lambda net, maps: F.conv2d(maps, net.c.weight, padding=1)),
            {"b", "c"},
            "the weight of 'c' is used outside of it, in the model's forward()",
        ),
        (
            Shares(extra=lambda net, maps: maps + net.b.bias.view(1, -1, 1, 1)),
            {"a", "b"},
            "the bias of 'b' is used outside of it, in the model's forward()",
        ),
    ],
)
def test_shared_weights_keep_their_channels(network: Shares, frozen: set[str], reason: str) -> None:
    graph = trace(network)
    reasons = {group.name: group.reason for group in graph.frozen if group.name != "fc"}
    assert frozen <= set(reasons)
    assert reason in reasons.values()
    slim, plan = halve(network, graph) if graph.groups else (network, None)
    if plan is not None:
        assert CostModel.of(network, IMAGES[:1], graph.groups).amounts(plan)["params"] == count_params(slim)
    assert len(list(slim.parameters())) == len(list(network.parameters()))


def test_a_layer_that_is_called_twice_is_not_shared() -> None:
    network = Shares(extra=lambda net, maps: net.c(maps))
    assert {group.name for group in trace(network).frozen} == {"fc"}


class Heads(nn.Module):
    """An auxiliary head in training mode; ``kind`` says what becomes of it, and what it reads."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.aux, self.fc = nn.Conv2d(8, 8, 3), nn.Linear(8, 3), nn.Linear(8, 3)
        self.more, self.loose = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)), nn.Parameter(torch.ones(3, 8))
        self.double().eval()

    def forward(self, images: Tensor) -> object:
        maps = F.relu(self.b(F.relu(self.norm(self.a(images)))))
        last = F.dropout(F.relu(self.c(maps)), 0.5, self.training).mean((2, 3))
        logits = self.fc(last)
        if not self.training or self.kind == "none":
            return logits
        pooled = maps.mean((2, 3))
        return {
            "tuple": lambda: (logits, self.aux(pooled)),
            "dict": lambda: {"out": logits, "aux": self.aux(pooled)},
            "sum": lambda: logits + self.aux(pooled),
            "branch": lambda: self.aux(last),
            "convolution": lambda: (logits, self.aux(F.relu(self.more(maps)).mean((2, 3)))),
            "loose weight": lambda: logits + F.linear(pooled, self.loose),
            "stored": lambda: (setattr(self, "kept", self.aux(pooled)), logits)[1],
            "read elsewhere": lambda: (logits, F.linear(pooled, self.aux.weight)),
            "fails": lambda: [][0],
        }[self.kind]()


@pytest.mark.parametrize(
    ("kind", "frozen", "named"),
    [
        ("none", set(), ""),
        ("tuple", {"b"}, "'aux' runs only in training"),
        ("dict", {"b"}, "'aux' runs only in training"),
        ("sum", {"b"}, "'aux' runs only in training"),
        ("branch", {"c"}, "'aux' runs only in training"),
        ("convolution", {"b"}, "(and 2 more) runs only in training"),
        ("loose weight", {"b"}, "'loose' runs only in training"),
        ("stored", {"b"}, "'aux' runs only in training"),
        ("read elsewhere", {"b"}, "'aux' runs only in training"),
        ("fails", set(), ""),
    ],
)
def test_heads_of_training_keep_what_they_read(kind: str, frozen: set[str], named: str) -> None:
    network = Heads(kind)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    graph = freeze_training_only(network, trace_groups(network, IMAGES[:1]), IMAGES)
    assert {group.name for group in graph.groups} == {"a", "b", "c"} - frozen
    assert all(named in group.reason for group in graph.frozen if group.name in frozen)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
    graph = prove_groups(network, graph, IMAGES)
    slim, plan = halve(network, graph)
    assert gated_vs_slim(network, slim, graph.groups, plan, IMAGES) < 1e-12
    if kind != "fails":
        slim.train()(IMAGES)  # its heads still fit


def test_heads_whose_outputs_a_classifier_leaves_aside_keep_what_they_read() -> None:
    network = Classifier(Heads("tuple"), (0.5,) * 3, (0.25,) * 3).eval()
    found = freeze_training_only(network, trace_groups(network, IMAGES[:1]), IMAGES)
    bare = freeze_training_only(network.net, trace_groups(network.net, IMAGES[:1]), IMAGES)
    assert {group.name for group in found.groups} == {f"net.{group.name}" for group in bare.groups}
    assert len(found.frozen) > 1


class Attends(nn.Module):
    """A gate of one channel, from the mean over channels, on a layer's maps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gate, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(8, 8, 3)
        self.fc, self.slopes = nn.Linear(8, 3), nn.Parameter(torch.full((8,), 0.2))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.a(images)
        maps = maps * self.gate(maps.mean(1, keepdim=True)).sigmoid()
        out: Tensor = self.fc(F.prelu(self.b(maps), self.slopes).mean((2, 3)))
        return out


def test_reasons_are_those_of_the_layers_that_they_name() -> None:
    reasons = {frozen.name: frozen.reason for frozen in trace(Attends().double().eval()).frozen}
    assert reasons["gate"] == "a single channel cannot be split"
    assert reasons["a"].startswith("'gate' has 1 channels where these are 8: something in between")
    assert reasons["b"] == (
        "the parameter 'slopes' of Attends, a kind whose channels surgery does not remove, depends on them"
    )


def test_networks_that_fix_a_precision_are_proven_in_double() -> None:
    class Fixed(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images).float() @ torch.eye(3)
            return logits @ torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float32) @ self.own[0]

    network = Fixed(*chain())
    network.own = [torch.eye(3)]  # type: ignore[assignment]
    network = network.float()
    graph = prove_groups(network, trace_groups(network, IMAGES[:1].float()), IMAGES.float())
    assert {group.name for group in graph.groups} == {"0", "2"}
