"""Per model: closed gates = slim model, cost model = fvcore, alone and with the explainer traced along."""

import copy
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from slimsight.compress.config import ModelConfig
from slimsight.compress.explain import ExplainedClassifier, Head, RealXHead, Selector, find_scales
from slimsight.compress.explain.varsal import VarSalHead
from slimsight.compress.gates import CostModel
from slimsight.compress.macs import count_macs
from slimsight.compress.models import Classifier, build_classifier
from slimsight.compress.surgery import ChannelGraph, PrunePlan, gated_vs_slim, prove_groups, slim_, trace_groups
from slimsight.compress.surgery.slim import slim_or_break_

PREFIX = ExplainedClassifier.PREFIX


def real_images(count: int, side: int) -> Tensor:
    digits = torch.from_numpy(load_digits().images[:count].astype(np.float32)) / 16
    grey = digits[:, None].expand(-1, 3, -1, -1)
    return nn.functional.interpolate(grey, size=(side, side), mode="bilinear").contiguous()


def random_plan(graph: ChannelGraph, seed: int) -> PrunePlan:
    draw = np.random.default_rng(seed)
    kept = {}
    for group in graph.groups:
        count = int(draw.integers(1, group.channels + 1))
        kept[group.name] = tuple(sorted(draw.choice(group.channels, count, replace=False).tolist()))
    return PrunePlan(kept, {group.name: group.channels for group in graph.groups})


@pytest.fixture(scope="module")
def traced(named_model: tuple[str, Classifier, int]) -> tuple[ExplainedClassifier, ChannelGraph, Tensor]:
    _, classifier, side = named_model
    torch.manual_seed(1)
    selector = Selector(find_scales(classifier, torch.zeros(1, 3, side, side)), 10, side)
    network = ExplainedClassifier(classifier, selector).eval()
    images = real_images(8, side)
    graph = trace_groups(network, images[:1], prefix=PREFIX, view=network.view)
    return network, prove_groups(network, graph, images[:2], prefix=PREFIX, view=network.view), images


def test_closed_gates_are_the_slim_model(traced: tuple[ExplainedClassifier, ChannelGraph, Tensor]) -> None:
    network, graph, images = traced
    plan = random_plan(graph, 0)
    slim = copy.deepcopy(network)
    slim_(slim, plan, images[:1], prefix=PREFIX, view=network.view)
    assert gated_vs_slim(network, slim, graph.groups, plan, images) <= 1e-5
    # The check can fail: another plan of the same widths computes something else.
    other = PrunePlan(
        {name: tuple(sorted(plan.widths[name] - 1 - i for i in kept)) for name, kept in plan.kept.items()},
        plan.widths,
    )
    assert gated_vs_slim(network, slim, graph.groups, other, images) > 1e-3


def test_a_plan_made_with_the_explainer_fits_the_classifier_alone(
    traced: tuple[ExplainedClassifier, ChannelGraph, Tensor],
) -> None:
    network, graph, images = traced
    plan = random_plan(graph, 1)
    joint, alone = copy.deepcopy(network), copy.deepcopy(network.classifier)
    slim_(joint, plan, images[:1], prefix=PREFIX, view=network.view)
    slim_(alone, plan, images[:1])
    ours, theirs = alone.state_dict(), joint.classifier.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_cost_model_is_fvcore_with_every_gate_open(
    traced: tuple[ExplainedClassifier, ChannelGraph, Tensor],
) -> None:
    network, graph, images = traced
    cost = CostModel.of(network.classifier, images[:1], graph.groups, prefix=PREFIX)
    everything = PrunePlan(
        {g.name: tuple(range(g.channels)) for g in graph.groups}, {g.name: g.channels for g in graph.groups}
    )
    assert cost.total == count_macs(network.classifier, images[:1]).total == cost.of_plan(everything)


def test_the_cost_model_is_fvcore_on_random_plans(traced: tuple[ExplainedClassifier, ChannelGraph, Tensor]) -> None:
    network, graph, images = traced
    classifier, image = network.classifier, images[:1]
    cost = CostModel.of(classifier, image, graph.groups, prefix=PREFIX)

    @settings(max_examples=6, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**32 - 1))
    def agrees(seed: int) -> None:
        plan = random_plan(graph, seed)
        if not plan.shrinks:
            return
        slim = copy.deepcopy(classifier)
        slim_or_break_(slim, plan, image)  # what slim_ does to a copy of its own
        assert cost.of_plan(plan) == count_macs(slim, image).total

    agrees()


@pytest.mark.parametrize(
    ("name", "side", "head"),
    [("resnet20", 32, RealXHead), ("torchvision:resnet18", 64, RealXHead), ("torchvision:resnet18", 64, VarSalHead)],
)
def test_an_explainer_of_maps_is_slimmed_as_exactly(name: str, side: int, head: type[Head]) -> None:
    torch.manual_seed(0)
    classifier = build_classifier(ModelConfig(name=name), 10)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
    selector = Selector(find_scales(classifier.eval(), torch.zeros(1, 3, side, side)), 10, side, head)
    nn.init.normal_(selector.head.weight)
    network, images = ExplainedClassifier(classifier, selector).eval(), real_images(8, side)
    graph = trace_groups(network, images[:1], prefix=PREFIX, view=network.view)
    graph = prove_groups(network, graph, images[:2], prefix=PREFIX, view=network.view)
    plan = random_plan(graph, 0)
    slim = copy.deepcopy(network)
    slim_(slim, plan, images[:1], prefix=PREFIX, view=network.view)
    assert gated_vs_slim(network, slim, graph.groups, plan, images) <= 1e-5
    with torch.no_grad():
        before, after = network(images)[1], slim(images)[1]
    finest = selector.scales[-1].side
    assert before.shape == after.shape == ((8, finest, finest) if head is RealXHead else (8, 2, finest, finest))
    assert float((before - after).abs().max()) > 1e-3  # it says something else now: the check above was of something


def test_what_is_frozen_has_a_reason(
    named_model: tuple[str, Classifier, int], traced: tuple[ExplainedClassifier, ChannelGraph, Tensor]
) -> None:
    name, _, _ = named_model
    frozen = {group.name: group.reason for group in traced[1].frozen}
    assert "its channels are the network's output" in frozen.values()
    # Channels padded onto a residual stream cannot be followed; everything else can.
    assert ("net.conv1" in frozen) == name.endswith("-pad")
    assert len(frozen) == (2 if name.endswith("-pad") else 1)


@pytest.mark.parametrize("depth", [20, 56])
def test_given_weights_on_given_images(depth: int, weights_dir: Path, images_dir: Path) -> None:
    """Trained networks on photographs: the logits of a real deployment, in float32."""
    weights = weights_dir / f"resnet{depth}_cifar10_jpeg.safetensors"
    classifier = build_classifier(ModelConfig(name=f"resnet{depth}", weights=weights), 10)
    images = first_photographs(images_dir / "cifar10-jpeg.tar.xz", 32)
    classifier.eval()
    graph = prove_groups(classifier, trace_groups(classifier, images[:1]), images[:2])
    for seed in range(5):
        plan = random_plan(graph, seed)
        slim = copy.deepcopy(classifier)
        slim_(slim, plan, images[:1])
        assert gated_vs_slim(classifier, slim, graph.groups, plan, images) <= 1e-5


def first_photographs(archive: Path, count: int) -> Tensor:
    pixels: list[np.ndarray] = []
    with tarfile.open(archive, "r|xz") as members:  # a stream: reads no further than it must
        for member in members:
            if member.name.endswith(".jpg") and (file := members.extractfile(member)) is not None:
                pixels.append(np.asarray(Image.open(file).convert("RGB")))
            if len(pixels) == count:
                break
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
