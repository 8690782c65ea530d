"""The fast form of a gated network against the one that multiplies activations: outputs, gradients, and a whole run."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.errors import PruningError
from slimsight.compress.explain import Head, RbfHead, RealXHead, to_targets
from slimsight.compress.explain.varsal import VarSalHead
from slimsight.compress.gates import Gates
from slimsight.compress.gates.gated import FastNetwork, GatedNetwork, pays_to_compile, proven_fold_pairs
from slimsight.compress.models.fold import FoldPair
from slimsight.compress.progress import Progress
from slimsight.compress.surgery import ChannelGroup, Slot, masked

from .branched import Branched, Rereading, batch_of, explained


def objective(logits: Tensor, params: Tensor | None, labels: Tensor) -> Tensor:
    steer = params.square().mean() if params is not None else logits.new_zeros(())
    return F.cross_entropy(logits, labels) + 0.1 * steer


@pytest.mark.parametrize(
    ("steered", "head"), [(True, RbfHead), (True, RealXHead), (True, VarSalHead), (False, RbfHead)]
)
@pytest.mark.parametrize("build", [Branched, Rereading])
def test_outputs_and_gradients_are_those_of_multiplied_activations(
    build: Callable[[], nn.Module], steered: bool, head: type[Head]
) -> None:
    network, groups = explained(build, head)
    network.double()
    # One image: the linear layer's weights are then larger than its input.
    images, labels = batch_of(1).images.double(), batch_of(1).labels
    theta = torch.zeros(sum(group.channels for group in groups), dtype=torch.float64, requires_grad=True)
    gates = Gates(groups).double()
    values = torch.rand_like(theta)

    multiplied = values.clone().requires_grad_()
    with masked(network, groups, gates.split(multiplied)):
        logits, params = network(images, labels) if steered else (network.classifier(images), None)
    (expected,) = torch.autograd.grad(objective(logits, params, labels), multiplied)

    pairs = proven_fold_pairs(network, groups, images, labels, steered=steered)
    assert pairs
    fast = FastNetwork(network, groups, pairs, steered=steered)
    logs = values.log().requires_grad_()
    ours, our_params = fast(fast.to_positions(values, 1), fast.to_positions(logs, 0), images, labels)
    torch.testing.assert_close(ours, logits, rtol=1e-10, atol=1e-12)
    if steered:
        torch.testing.assert_close(our_params, params, rtol=1e-5, atol=1e-5)
    (found,) = torch.autograd.grad(objective(ours, our_params, labels), logs)
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, values * expected / scale, rtol=1e-6, atol=1e-6)
    assert expected.abs().min() < expected.abs().max()


@pytest.mark.parametrize("head", [RbfHead, RealXHead, VarSalHead])
def test_steering_reaches_every_group_that_the_explainer_reads(head: type[Head]) -> None:
    """The distance to the open network's explanations, of half-open gates: its gradient is finite, and no gate's 0."""
    network, groups = explained(Branched, head)
    batch = batch_of(4)
    with torch.no_grad():
        numbers = network(batch.images, batch.labels)[1]
    targets = to_targets(network.selector.head, network.selector.head.steered_part(numbers))
    gates = Gates(groups)
    values = gates(noise=0.0)
    with masked(network, groups, gates.split(values * torch.linspace(0.5, 1, len(values)))):
        _, found = network(batch.images, batch.labels)
    (gradient,) = torch.autograd.grad(targets.distance(found, batch.indices), gates.theta)
    reached = {name: part for name, part in gates.split(gradient).items() if "linear" not in name}  # behind all scales
    assert reached
    for name, part in reached.items():
        assert bool(part.isfinite().all()), name
        assert float(part.abs().max()) > 0, name


def test_a_normalisation_whose_input_is_read_twice_stays() -> None:
    network, groups = explained(Rereading)
    batch = batch_of(2)
    pairs = proven_fold_pairs(network, groups, batch.images, batch.labels, steered=True)
    assert FoldPair("classifier.net.first", "classifier.net.bn1") in pairs
    assert FoldPair("classifier.net.second", "classifier.net.bn2") not in pairs


def test_a_network_without_finite_outputs_is_refused() -> None:
    network, groups = explained(Branched)
    network.classifier.net.linear2.bias.fill_(torch.nan)
    batch = batch_of(2)
    with pytest.raises(PruningError, match=r"are its outputs finite numbers.*gates\.steer=magnitude"):
        proven_fold_pairs(network, groups, batch.images, batch.labels, steered=False)


def test_under_autocast_the_gradient_is_that_of_float32_but_for_rounding() -> None:
    network, groups = explained(Branched)
    batch = batch_of(8)
    gates = Gates(groups)
    gated = GatedNetwork(network, gates, groups, batch, steered=True)
    grads = []
    for mixed in (False, True):
        gates.theta.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            logits, params, _ = gated(batch.images, batch.labels, noise=0.0, temperature=2.0)
            loss = objective(logits.float(), params, batch.labels)
        loss.backward()
        assert gates.theta.grad is not None
        assert gates.theta.grad.dtype == torch.float32
        grads.append(gates.theta.grad.clone())
    exact, rounded = grads
    assert logits.dtype == torch.bfloat16
    assert 0 < float((exact - rounded).norm() / exact.norm()) < 0.05


def test_the_network_that_is_given_stays_as_it_is() -> None:
    network, groups = explained(Branched)
    before = copy.deepcopy(network)
    batch = batch_of(4)
    gated = GatedNetwork(network, Gates(groups), groups, batch, steered=True)
    logits, _, _ = gated(batch.images, batch.labels, noise=1.0, temperature=0.4)
    logits.sum().backward()
    assert [type(module) for module in network.modules()] == [type(module) for module in before.modules()]
    theirs = before.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert [name for name, value in gated.named_parameters() if value.requires_grad] == ["gates.theta"]


def test_gates_of_a_grouped_convolution_go_to_its_inputs() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 6, 3, groups=2)).eval().double()
    order = (3, 1, 0, 2, 7, 5, 4, 6)
    group = ChannelGroup("0", 8, (), (Slot("2", order, tuple(range(8))),), ())
    images, values = torch.rand(2, 3, 9, 9, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
    maps = network[1](network[0](images))
    by_position = torch.empty(8, dtype=torch.float64)
    by_position[list(order)] = values
    expected = network[2](maps * by_position.view(-1, 1, 1))
    fast = FastNetwork(network, [group], (), steered=False)
    found, _ = fast(fast.to_positions(values, 1), fast.to_positions(values.log(), 0), images, torch.zeros(2))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_sample_that_closes_a_gate_for_good_has_no_gradient_that_is_not_a_number() -> None:
    network, groups = explained(Branched)
    batch = batch_of(2)
    gates = Gates(groups)
    with torch.no_grad():
        gates.theta[::2] = -200
    gated = GatedNetwork(network, gates, groups, batch, steered=True)
    logits, params, values = gated(batch.images, batch.labels, noise=0.0, temperature=0.1)
    objective(logits, params, batch.labels).backward()
    assert float(values.detach()[::2].max()) == 0
    assert gates.theta.grad is not None
    assert float(gates.theta.grad[::2].abs().max()) == 0
    assert float(gates.theta.grad[1::2].abs().max()) > 0
    assert torch.isfinite(gates.theta.grad).all()


class Deciding(Branched):
    """Looks at a number to decide: no compiler can follow."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits if float(logits.detach().sum()) < 1e9 else -logits


def test_what_cannot_be_compiled_runs_eagerly_and_says_so(noting: tuple[Progress, list[str]]) -> None:
    network, groups = explained(Deciding)
    batch, (progress, notes) = batch_of(4), noting
    gated = GatedNetwork(network, Gates(groups), groups, batch, steered=True)
    assert not gated.compile_(batch, progress)
    assert len(notes) == 1
    assert notes[0].startswith("gates: the step runs eagerly, it cannot be compiled (")
    assert "\n" not in notes[0]
    logits, _, _ = gated(batch.images, batch.labels, noise=0.0, temperature=0.4)
    assert torch.isfinite(logits).all()


def test_a_compiler_that_computes_something_else_is_not_trusted(
    noting: tuple[Progress, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_wrongly(step: Callable[..., tuple[Tensor, Tensor]], **settings: object) -> Callable[..., object]:
        return lambda *inputs: tuple(1.01 * output for output in step(*inputs))

    monkeypatch.setattr(torch, "compile", compile_wrongly)
    network, groups = explained(Branched)
    batch, (progress, notes) = batch_of(4), noting
    gated = GatedNetwork(network, Gates(groups), groups, batch, steered=True)
    assert not gated.compile_(batch, progress)
    assert len(notes) == 1
    assert notes[0].startswith("gates: the step runs eagerly, compiled it differs by ")


def test_compiling_pays_in_long_runs_of_small_layers_only() -> None:
    digits, resnet56, resnet18 = (64, 2.5e6, 50), (128, 125e6, 87), (32, 1.8e9, 34)
    assert not pays_to_compile(300, *digits)
    assert pays_to_compile(4000, *resnet56)
    assert not pays_to_compile(100, *resnet56)
    assert not pays_to_compile(4000, *resnet18)
