"""Small networks drawn at random: what is traced is true, what is cut is what was closed, what it costs is exact."""

from __future__ import annotations

import copy
from typing import Any

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slimsight.compress.gates import CostModel
from slimsight.compress.macs import count_macs
from slimsight.compress.surgery import ChannelGroup, PrunePlan, gated_vs_slim, prove_groups, slim_, trace_groups

CLASSES, SIDE = 3, 6


class Drawn(nn.Module):
    """Runs ``steps``, each on earlier maps; every map that nothing reads goes to the one linear layer.

    A step is (kind, sources, layers by name); map 0 is the image.
    """

    def __init__(self, steps: list[tuple[str, tuple[int, ...], dict[str, nn.Module]]], flatten: bool) -> None:
        super().__init__()
        self.steps = [(kind, sources) for kind, sources, _ in steps]
        self.flatten = flatten
        for index, (_, _, layers) in enumerate(steps):
            for name, layer in layers.items():
                self.add_module(f"{name}{index}", layer)
        self.eval()
        self.neck: nn.Module = nn.Identity()
        with torch.no_grad():
            if flatten:  # Torch-Pruning cannot follow a concatenation through a flatten (see test_graph)
                self.neck = nn.Conv2d(self.joined(torch.zeros(1, 3, SIDE, SIDE)).shape[1], 3, 1)
            self.head = nn.Linear(self.features(torch.zeros(1, 3, SIDE, SIDE)).shape[1], CLASSES)

    def joined(self, images: Tensor) -> Tensor:
        maps, read = [images], set()
        for index, (kind, sources) in enumerate(self.steps):
            inputs = [maps[source] for source in sources]
            read.update(sources)
            if kind == "add":
                value = inputs[0] + inputs[1]
            elif kind == "cat":
                value = torch.cat(inputs, 1)
            elif kind == "pool":
                value = nn.functional.max_pool2d(inputs[0], 2, ceil_mode=True)
            else:
                value = inputs[0]
            for name in ("conv", "norm", "act"):
                layer = getattr(self, f"{name}{index}", None)
                value = value if layer is None else layer(value)
            if kind == "twice":
                value = self.get_submodule(f"conv{index}")(value)
            elif kind == "excite":
                squeezed = self.get_submodule(f"squeeze{index}")(value.mean((2, 3), keepdim=True)).relu()
                value = value * self.get_submodule(f"excite{index}")(squeezed).sigmoid()
            maps.append(value)
        leaves = [value for index, value in enumerate(maps) if index not in read and index > 0]
        side = min(int(leaf.shape[-1]) for leaf in leaves)  # a tensor while fvcore traces
        leaves = [
            leaf if int(leaf.shape[-1]) == side else nn.functional.adaptive_max_pool2d(leaf, side) for leaf in leaves
        ]
        return torch.cat(leaves, 1) if len(leaves) > 1 else leaves[0]

    def features(self, images: Tensor) -> Tensor:
        last = self.neck(self.joined(images))
        return last.flatten(1) if self.flatten else last.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def to_norm(channels: int) -> nn.BatchNorm2d:
    """With statistics and factors like a trained one's: a leaking bias has nowhere to hide."""
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return norm


@st.composite
def networks(draw: st.DrawFn) -> Drawn:
    """Convolutions (plain, grouped, depthwise, called twice), squeeze-excite, norms, sums, concatenations, pooling."""
    torch.manual_seed(draw(st.integers(0, 999)))
    shapes, steps = [(3, SIDE)], []
    for _ in range(draw(st.integers(2, 7))):
        # What is added or concatenated: made by a layer (raw images take part in no group) and of equal size.
        pairs = [(a, b) for a in range(1, len(shapes)) for b in range(1, len(shapes)) if shapes[a][1] == shapes[b][1]]
        sums = [(a, b) for a, b in pairs if a < b and shapes[a] == shapes[b]]
        kinds = ["conv", "conv", *["cat"] * bool(pairs), *["add", "add"] * bool(sums)]
        kinds += ["depthwise", "pool", "excite", "twice"] if len(shapes) > 1 else []
        even = [index for index, (width, _) in enumerate(shapes) if index and width % 4 == 0]
        kinds += ["grouped", "grouped"] if even else []
        kind = draw(st.sampled_from(kinds))
        layers: dict[str, nn.Module] = {}
        if kind in ("cat", "add"):
            sources = draw(st.sampled_from(pairs if kind == "cat" else sums))
            channels, side = shapes[sources[0]]
            channels += shapes[sources[1]][0] if kind == "cat" else 0
        else:
            known = st.integers(0 if kind == "conv" else 1, len(shapes) - 1)
            sources = (draw(st.sampled_from(even) if kind == "grouped" else known),)
            channels, side = shapes[sources[0]]
        if kind == "conv":
            # Widths that exist already let maps of other origins be added to this one.
            inputs, channels = channels, draw(st.sampled_from([2, 3, 4, 8, *(width for width, _ in shapes[1:])]))
            kernel = draw(st.sampled_from([1, 3]))
            layers["conv"] = nn.Conv2d(inputs, channels, kernel, padding=kernel // 2, bias=draw(st.booleans()))
        elif kind == "depthwise":
            layers["conv"] = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=draw(st.booleans()))
        elif kind == "grouped":
            inputs, channels = channels, draw(st.sampled_from([channels, 4, 8]))
            layers["conv"] = nn.Conv2d(inputs, channels, 3, padding=1, groups=2, bias=draw(st.booleans()))
        elif kind == "twice":
            layers["conv"] = nn.Conv2d(channels, channels, 1, bias=draw(st.booleans()))
        elif kind == "excite":
            layers["squeeze"], layers["excite"] = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)
        elif kind == "pool":
            side = (side + 1) // 2
        if draw(st.booleans()):
            layers["norm"] = to_norm(channels)
        if draw(st.booleans()):
            layers["act"] = draw(st.sampled_from([nn.ReLU(), nn.SiLU(), nn.PReLU(), nn.PReLU(channels)]))
        steps.append((kind, sources, layers))
        shapes.append((channels, side))
    return Drawn(steps, flatten=draw(st.booleans())).double().eval()


@st.composite
def plans(draw: st.DrawFn, groups: tuple[ChannelGroup, ...]) -> PrunePlan:
    """Any plan that removes something."""
    kept: dict[str, tuple[int, ...]] = {}
    for group in groups:
        channels = st.sets(st.integers(0, group.channels - 1), min_size=1)
        kept[group.name] = tuple(sorted(draw(channels)))
    plan = PrunePlan(kept, {group.name: group.channels for group in groups})
    if not plan.shrinks:
        kept[groups[0].name] = (groups[0].channels - 1,)
    return PrunePlan(kept, plan.widths)


def places(layer: nn.Module, lost: set[int]) -> set[int]:
    """Where lost inputs stand in the second dimension of a weight: all groups of a convolution share it."""
    return {p % (layer.in_channels // layer.groups) for p in lost} if isinstance(layer, nn.Conv2d) else lost


def sliced(network: nn.Module, groups: tuple[ChannelGroup, ...], plan: PrunePlan) -> dict[str, Tensor]:
    """The state that surgery must leave, by indexing each tensor with what the slots say: slow and obvious."""
    state = dict(network.state_dict())
    gone: dict[tuple[str, int], set[int]] = {}
    for group in groups:
        removed = set(plan.removed(group.name))
        for slots, dims in ((group.producers, (0,)), (group.consumers, (1,)), (group.followers, (0,))):
            for slot in slots:
                lost = {p for p, source in zip(slot.positions, slot.sources, strict=True) if source in removed}
                for dim in dims:
                    known = places(network.get_submodule(slot.layer), lost) if dim else lost
                    gone.setdefault((slot.layer, dim), set()).update(known)
    for (layer, dim), lost in gone.items():
        for name, value in state.items():
            if name.rpartition(".")[0] == layer and value.dim() > dim and (dim == 0 or value.dim() > 1):
                keep = [index for index in range(value.shape[dim]) if index not in lost]
                state[name] = value.index_select(dim, torch.tensor(keep))
    return state


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_network_and_any_plan(data: Any) -> None:
    network = data.draw(networks())
    before = copy.deepcopy(network.state_dict())
    images = torch.rand(4, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = prove_groups(network, trace_groups(network, images[:1]), images)
    frozen = {group.name: group.reason for group in graph.frozen}
    assert frozen.pop("head") == "its channels are the network's output"
    assert all("the grouped convolution" in reason for reason in frozen.values()), frozen
    assume(graph.groups)
    plan = data.draw(plans(graph.groups))
    slim = copy.deepcopy(network)
    slim_(slim, plan, images[:1])

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    expected, found = sliced(network, graph.groups, plan), slim.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert gated_vs_slim(network, slim, graph.groups, plan, images) <= 1e-12
    cost = CostModel.of(network, images[:1], graph.groups)
    assert cost.total == count_macs(network, images[:1]).total
    assert cost.of_plan(plan) == count_macs(slim, images[:1]).total
