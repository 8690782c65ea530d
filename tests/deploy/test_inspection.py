"""The preflight: what it finds is what holds, and what it cannot take is refused in one sentence."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.amounts import Amount, read_image_shape
from slimsight.compress.config import BudgetConfig
from slimsight.compress.errors import ConfigError, ModelError, PruningError
from slimsight.compress.gates import CostModel
from slimsight.compress.macs import count_macs, count_params
from slimsight.compress.surgery import trace_groups
from slimsight.deploy.inspection import inspect_model, load_model, read_limits
from slimsight.deploy.run.stages.preflight import check_countable_limits

SHAPE = (3, 16, 16)


class Small(nn.Module):
    """Two convolutions; what subclasses change is how they are called."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Any:
        return self.head(self.deep(self.stem(images).relu()).relu().mean((2, 3)))


class GivesDict(Small):
    def forward(self, images: Tensor) -> Any:
        return {"out": super().forward(images)}


class GivesMaps(Small):
    def forward(self, images: Tensor) -> Any:
        return self.deep(self.stem(images))


class Chooses(Small):
    def forward(self, images: Tensor) -> Any:
        maps = self.stem(images)
        return super().forward(images) if maps.mean() > 0 else self.head(self.deep(maps).mean((2, 3)))


class WithoutGradient(Small):
    @torch.no_grad()
    def forward(self, images: Tensor) -> Any:
        return super().forward(images)


class ThroughNumpy(Small):
    def forward(self, images: Tensor) -> Any:
        maps = torch.from_numpy(self.stem(images).detach().numpy())
        return self.head(self.deep(maps).mean((2, 3)))


class InPlace(Small):
    def forward(self, images: Tensor) -> Any:
        maps = self.stem(images).sigmoid()
        maps += self.stem(images)
        return self.head(self.deep(maps).mean((2, 3)))


class Attends(Small):
    def forward(self, images: Tensor) -> Any:
        tokens = self.deep(self.stem(images)).flatten(2)
        return self.head((tokens @ (tokens.transpose(1, 2) @ tokens).softmax(-1)).mean(2))


class LooseWeight(Small):
    """A convolution whose weight belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.loose = nn.Parameter(torch.randn(16, 8, 3, 3))

    def forward(self, images: Tensor) -> Any:
        return self.head(nn.functional.conv2d(self.stem(images), self.loose).mean((2, 3)))


class Lazy(Small):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(4)


class Twice(Small):
    """A layer that is called twice: its channels go with those that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, images: Tensor) -> Any:
        maps = self.deep(self.stem(images).relu()).relu()
        return self.head(self.again(self.again(maps).relu()).mean((2, 3)))


def test_what_is_found_holds() -> None:
    net = Small()
    before = copy.deepcopy(net.state_dict())
    found = inspect_model("small", net, SHAPE, budget=read_limits(["macs=50%"]))
    assert (found.macs, found.params) == (count_macs(net, torch.rand(1, *SHAPE)).total, count_params(net))
    assert found.macs == 256 * (3 * 8 * 9 + 8 * 16 * 9) + 16 * 4
    assert [(layer.name, layer.macs) for layer in found.layers][:2] == [("deep", 294912), ("stem", 55296)]
    assert found.groups == 2
    assert found.frozen_groups == ({"name": "head", "reason": "its channels are the network's output"},)
    assert found.smallest_macs == 256 * (3 * 9 + 9) + 4
    plan = found.plan
    assert plan is not None
    assert plan.macs == plan.cost_model_macs == plan.fvcore_macs <= found.macs / 2
    assert plan.macs_kept == plan.macs / found.macs
    assert plan.max_rel <= 1e-12
    assert plan.max_rel_float32 <= 1e-5
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert found.to_dict().keys() >= {"model", "macs", "params", "groups", "frozen_groups", "smallest_macs", "plan"}


def test_a_layer_that_is_called_twice_and_parameters_that_do_not_learn() -> None:
    net = Twice().requires_grad_(False)
    found = inspect_model("twice", net, SHAPE, budget=read_limits(["macs=50%"]))
    assert found.groups == 2
    assert found.plan is not None
    assert found.plan.max_rel <= 1e-12
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    ("net", "error", "words"),
    [
        (Chooses, ModelError, r"turns a tensor into a Python value \(.*test_inspection.py, line \d+\)"),
        (WithoutGradient, ModelError, r"leaves autograd on the way \(torch.no_grad, detach, argmax, numpy\)"),
        (ThroughNumpy, ModelError, r"leaves autograd on the way \(torch.no_grad, detach, argmax, numpy\)"),
        (InPlace, ModelError, r"cannot compute the model's gradients .*: replace in-place operations"),
        (Lazy, ModelError, r"'head.weight' has no shape yet \(a lazy layer\): run the model once"),
    ],
)
def test_what_cannot_be_slimmed_is_said_in_one_sentence(
    net: type[nn.Module], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        inspect_model("mine", net(), SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("net", "outputs"),
    [(GivesDict, {"out.out": (None, 4)}), (GivesMaps, {"out": (None, 16, 16, 16)}), (Attends, {"out": (None, 4)})],
)
def test_other_outputs_and_attention_are_followed(net: type[nn.Module], outputs: dict[str, Any]) -> None:
    found = inspect_model("mine", net(), SHAPE, budget=read_limits(["macs=60%"]))
    assert found.outputs == outputs
    assert found.plan is not None
    assert list(found.plan.outputs) == list(outputs)
    assert found.plan.max_rel == max(found.plan.outputs.values()) <= 1e-12
    assert found.plan.cost_model_macs == found.plan.fvcore_macs <= 0.6 * found.macs


def test_a_loose_weight_counts_and_keeps_the_channels_that_it_reads() -> None:
    found = inspect_model("mine", LooseWeight(), SHAPE)
    assert found.macs == 256 * 3 * 8 * 9 + 14 * 14 * 8 * 16 * 9 + 16 * 4
    assert found.groups == 0
    assert [group["name"] for group in found.frozen_groups] == ["stem", "head"]


def test_an_input_of_another_size_is_said_with_the_place() -> None:
    with pytest.raises(ModelError, match=r"does not take 1x16x16 images: RuntimeError: .* line \d+"):
        inspect_model("small", Small(), (1, 16, 16))


def test_a_budget_out_of_reach_names_the_smallest_and_what_is_frozen() -> None:
    with pytest.raises(PruningError, match=r"frozen groups: 'head' \(its channels are the network's output\)"):
        inspect_model("small", Small(), SHAPE, budget=read_limits(["macs=1%"]))


def test_shapes() -> None:
    assert read_image_shape("3x224X96") == (3, 224, 96)
    for wrong in ("224", "3x0x2", "3x224x224x1", "axbxc", ""):
        with pytest.raises(ConfigError, match=f"the input is '{wrong}': give channels x height x width"):
            read_image_shape(wrong)


def test_budgets() -> None:
    found = read_limits(["macs = 50%", "params=1.2M", "size=2 MiB"])
    assert found.limits == {"macs": Amount(0.5, True), "params": Amount(1.2e6, False), "size": Amount(2.0**21, False)}
    for wrong, words in (
        ("50%", "the budget is '50%': give macs=50%"),
        ("latency=3ms", "the budget is 'latency=3ms': give macs=50%"),
        ("macs=half", "'half' is not a valid limit on MACs: give a ratio"),
        ("macs=3ms", "'3ms' is not a valid limit on MACs: give a ratio"),
        ("macs=120%", "'120%' would let MACs grow"),
        ("macs=50", "'50' is neither a ratio nor a plausible amount of MACs"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_limits([wrong])


def test_several_budgets_hold_together() -> None:
    found = inspect_model("small", Small(), SHAPE, budget=read_limits(["macs=60%", "params=40%"]))
    assert found.plan is not None
    assert found.plan.macs <= 0.6 * found.macs
    assert found.plan.params <= 0.4 * found.params
    assert found.plan.fvcore_macs == found.plan.cost_model_macs


def test_models_by_name(finished: Any) -> None:
    assert load_model("resnet20", 7)(torch.rand(1, 3, 32, 32)).shape == (1, 7)
    assert load_model("torchvision:mobilenet_v3_small", 5)(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    assert load_model("timm:resnet10t", 5).eval()(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    assert load_model(str(finished.root), 3)(torch.rand(2, 3, 16, 16)).shape == (2, 10)
    with pytest.raises(ConfigError, match=r"timm has no model 'resnet10x'; did you mean 'resnet10t'"):
        load_model("timm:resnet10x", 5)


def test_a_loose_limit_beside_one_on_latency_is_no_mistake() -> None:
    graph = trace_groups(Small().eval(), torch.rand(1, *SHAPE))
    cost = CostModel.of(Small().eval(), torch.rand(1, *SHAPE), graph.groups)
    check_countable_limits(BudgetConfig(macs="900M", latency="80%"), cost, graph)
    with pytest.raises(PruningError, match="nothing would shrink"):
        check_countable_limits(BudgetConfig(macs="900M"), cost, graph)
