"""Gates that learn on the statistics of each batch, and on statistics that are taken anew as they move."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.config import GatesConfig
from slimsight.compress.data import TensorBatches
from slimsight.compress.explain import ExplainedClassifier
from slimsight.compress.gates import CostModel, Gates
from slimsight.compress.gates.gated import GatedNetwork
from slimsight.compress.gates.learn import to_refresh
from slimsight.compress.gates.objective import GateObjective
from slimsight.compress.gates.statistics import REFRESH_EVERY, NormRefresh
from slimsight.compress.surgery import masked
from slimsight.compress.training.batch_norm import take_statistics_, tracked_norms

from .branched import SIDE, Branched, Rereading, batch_of, explained


def in_training_mode(network: ExplainedClassifier) -> ExplainedClassifier:
    """A copy whose classifier normalises by its batches, and keeps its running statistics."""
    network = copy.deepcopy(network)
    for norm in tracked_norms(network.classifier).values():
        norm.train()
        norm.momentum = 0.0
    return network


@pytest.mark.parametrize("build", [Branched, Rereading])
def test_with_batch_statistics_gates_learn_what_training_mode_computes(build: Callable[[], nn.Module]) -> None:
    network, groups = explained(build)
    network.double()
    images, labels = batch_of(8).images.double(), batch_of(8).labels
    gates = Gates(groups).double()
    nn.init.uniform_(gates.theta, -4, 1)
    gated = GatedNetwork(network, gates, groups, batch_of(2), steered=True, batch_statistics=True).eval()
    assert all(pair.norm.startswith("selector.") for pair in gated.pairs)
    logits, _, values = gated(images, labels, noise=0.0, temperature=0.4)
    (found,) = torch.autograd.grad(F.cross_entropy(logits, labels), gates.theta, retain_graph=True)

    plain = in_training_mode(network)
    with masked(plain, groups, gates.split(values)):
        expected = plain.classifier(images)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-11)
    (wanted,) = torch.autograd.grad(F.cross_entropy(expected, labels), gates.theta)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    with torch.no_grad(), masked(network, groups, gates.split(values)):
        assert (network.classifier(images) - expected).abs().max() > 0.01, "the statistics of the original are others"


@pytest.mark.parametrize("build", [Branched, Rereading])
def test_statistics_that_are_taken_anew_reach_the_folded_weights(build: Callable[[], nn.Module]) -> None:
    network, groups = explained(build)
    network.double()
    images, labels = batch_of(8).images.double(), batch_of(8).labels
    gates = Gates(groups).double()
    nn.init.uniform_(gates.theta, -4, 1)
    example = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64)
    cost = CostModel.of(network.classifier, example, groups, prefix=network.PREFIX)
    objective = GateObjective(cost, GatesConfig(), cost.total, None)
    objective.noise = 0.0
    train = TensorBatches(images, labels, 8)

    def refreshed() -> tuple[GatedNetwork, NormRefresh]:
        gated = GatedNetwork(network, gates, groups, batch_of(2), steered=True).eval()
        assert any(pair.norm.startswith("classifier.") for pair in gated.pairs)
        return gated, to_refresh(gated, network, groups, objective, train)

    def logits_of(gated: GatedNetwork) -> Tensor:
        found: Tensor = gated(images, labels, noise=0.0, temperature=objective.temperature)[0].detach()
        return found

    gated, refresh = refreshed()
    before = logits_of(gated)
    for step in range(60 * REFRESH_EVERY):  # 0.7^60 of the first statistics is left
        refresh.after_step(step)
    plain = copy.deepcopy(network)
    with torch.no_grad(), masked(plain, groups, gates.split(gates(noise=0.0, temperature=objective.temperature))):
        assert take_statistics_(plain.classifier, tracked_norms(plain.classifier), [images]) > 0
        wanted = plain.classifier(images)
    torch.testing.assert_close(logits_of(gated), wanted, rtol=1e-5, atol=1e-5)
    assert (before - wanted).abs().max() > 0.01
    resumed, other = refreshed()
    other.load_state_dict(refresh.state_dict())
    torch.testing.assert_close(logits_of(resumed), logits_of(gated), rtol=1e-12, atol=1e-12)
