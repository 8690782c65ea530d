import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.config import GatesConfig, TrainConfig
from slimsight.compress.data import Batch, Batches, ImageSet
from slimsight.compress.explain import ExplainedClassifier, RealXHead, Selector, find_scales, find_targets
from slimsight.compress.finetune import train_classifier
from slimsight.compress.gates import CostModel, GateResult, Gates, learn_gates, residual_cost
from slimsight.compress.gates.gate import GUMBEL_MEDIAN, OFFSET
from slimsight.compress.gates.objective import GateObjective
from slimsight.compress.models import Classifier
from slimsight.compress.progress import Progress
from slimsight.compress.surgery import ChannelGraph, ChannelGroup, trace_groups
from slimsight.compress.training import Learning, evaluate, make_fabric

SIDE = 16


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv2(self.conv1(images).relu()).relu()
        logits: Tensor = self.head(self.conv3(maps).relu().mean((2, 3)))
        return logits


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu())).relu()
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def images() -> ImageSet:
    draw = np.random.default_rng(0)
    labels = np.arange(64) % 2
    pixels = draw.integers(0, 90, (64, 3, SIDE, SIDE)).astype(np.uint8)
    pixels[labels == 1, :, 4:12, 4:12] += 160
    return ImageSet(pixels, labels.astype(np.int64), ("dark", "bright"))


@pytest.fixture
def network(images: ImageSet) -> ExplainedClassifier:
    """A classifier that learned its images (else nothing holds a gate open) and a selector at random."""
    torch.manual_seed(0)
    classifier = Classifier(Small(), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    batches = Batches(images, 16, shuffle=True, drop_last=True)
    train_classifier(classifier, batches, Learning(make_fabric()), config=TrainConfig(epochs=30, lr=0.1))
    assert evaluate(classifier, Batches(images, 64)).accuracy == 1
    selector = Selector(find_scales(classifier, torch.zeros(1, 3, SIDE, SIDE)), 2, SIDE)
    nn.init.normal_(selector.head.weight, std=0.2)  # explanations that move by pixels when channels close
    return ExplainedClassifier(classifier.eval(), selector).eval()


def traced(network: ExplainedClassifier) -> tuple[ChannelGraph, CostModel]:
    example = torch.zeros(1, 3, SIDE, SIDE)
    graph = trace_groups(network, example, prefix=network.PREFIX, view=network.view)
    return graph, CostModel.of(network.classifier, example, graph.groups, prefix=network.PREFIX)


def learn(
    network: ExplainedClassifier, images: ImageSet, *, steered: bool, from_labels: bool = True, **settings: object
) -> GateResult:
    graph, cost = traced(network)
    torch.manual_seed(7)
    return learn_gates(
        network,
        graph.groups,
        cost,
        Batches(images, 16, shuffle=True, drop_last=True),
        Learning(make_fabric()),
        config=GatesConfig.model_validate({"steps": 300, **settings}),
        budget=0.5 * cost.total,
        targets=find_targets(network, Batches(images, 64)) if steered else None,
        from_labels=from_labels,
    )


@pytest.mark.parametrize("steered", [True, False])
def test_gates_converge_to_the_budget(network: ExplainedClassifier, images: ImageSet, steered: bool) -> None:
    before = copy.deepcopy(network.state_dict())
    result = learn(network, images, steered=steered)
    assert result.residual <= 1e-3
    assert result.soft_macs == pytest.approx(result.hard_macs, rel=0.02)
    assert 0.45 * result.budget < result.hard_macs <= 1.02 * result.budget
    assert (result.steer > 0) == steered
    curve = result.history
    assert curve["step"] == list(range(5, 301, 5))
    assert curve["macs"][0] > 0.9  # of the whole model
    assert curve["macs"][-1] == pytest.approx(curve["target"][-1], abs=0.02)
    assert curve["target"][-1] == pytest.approx(0.995 * 0.5, rel=1e-4)
    assert ("steer" in curve) == steered
    # Weights are frozen: only the gates learned.
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("norm", ["batch", "recalibrated"])
def test_gates_converge_on_statistics_that_move_with_them(images: ImageSet, norm: str) -> None:
    torch.manual_seed(0)
    classifier = Classifier(Normalised(), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    batches = Batches(images, 16, shuffle=True, drop_last=True)
    train_classifier(classifier, batches, Learning(make_fabric()), config=TrainConfig(epochs=10, lr=0.1))
    selector = Selector(find_scales(classifier.eval(), torch.zeros(1, 3, SIDE, SIDE)), 2, SIDE)
    network = ExplainedClassifier(classifier, selector).eval()
    before = copy.deepcopy(network.state_dict())
    result = learn(network, images, steered=False, norm=norm)
    assert result.converged
    assert 0.45 * result.budget < result.hard_macs <= 1.02 * result.budget
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    other = learn(network, images, steered=False)
    assert any((other.scores[name] - score).abs().max() > 1e-3 for name, score in result.scores.items())


def test_the_same_seed_gives_the_same_gates(network: ExplainedClassifier, images: ImageSet) -> None:
    first, again = (learn(network, images, steered=True).scores for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_compiled_and_eager_learn_the_same_gates(
    network: ExplainedClassifier,
    images: ImageSet,
    noting: tuple[Progress, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over 60 steps, with a last batch that is smaller: it runs eagerly, nothing is compiled a second time."""
    graph, cost = traced(network)
    kept: list[Tensor] = []
    monkeypatch.setattr(
        "slimsight.compress.gates.learn._to_result",
        lambda gates, *rest: kept.append(gates.theta.detach().clone()) or SimpleNamespace(converged=True),
    )

    def learn_for(compiled: bool) -> None:
        torch.manual_seed(7)
        config = GatesConfig(steps=60, lr=0.05, compile=compiled)
        learn_gates(
            network,
            graph.groups,
            cost,
            Batches(images, 24, shuffle=True),
            Learning(make_fabric(), progress=progress),
            config=config,
            budget=0.5 * cost.total,
            targets=find_targets(network, Batches(images, 64)),
        )

    progress, notes = noting
    counted = torch._dynamo.utils.counters["stats"]
    before = counted["unique_graphs"]
    learn_for(False)
    assert (counted["unique_graphs"] - before, notes) == (0, [])
    learn_for(True)
    assert counted["unique_graphs"] - before == 1
    assert [note for note in notes if note.startswith("gates: compiled the step in ")]
    eager, compiled = kept
    assert float(eager.abs().max()) > 0.5
    torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-4)


def test_steering_keeps_what_the_explainer_reads(network: ExplainedClassifier, images: ImageSet) -> None:
    """The classifier is deaf; the explainer reads channels 0-3 of the first convolution, hardly 4-7."""
    with torch.no_grad():
        network.classifier.net.head.weight.zero_()
        block = network.selector.ups[0].block
        for layer in (block.conv1, block.shortcut):
            layer.weight[:, 4:8] = 0

    def lead(weight: float) -> float:
        scores = learn(network, images, steered=True, steer_weight=weight).scores["net.conv1"]
        return float(scores[:4].mean() - scores[4:].mean())

    assert lead(0.05) > lead(0.0) + 1


def test_maps_steer_as_radial_masks_do(network: ExplainedClassifier, images: ImageSet) -> None:
    """The same with an explainer of pixels, under the same g1: its distances come in a unit that makes them alike."""
    with torch.no_grad():
        network.classifier.net.head.weight.zero_()
        pixelwise = ExplainedClassifier(
            network.classifier, Selector(network.selector.scales, 2, SIDE, RealXHead)
        ).eval()
        nn.init.normal_(pixelwise.selector.head.weight)
        block = pixelwise.selector.ups[0].block
        for layer in (block.conv1, block.shortcut):
            layer.weight[:, 4:8] = 0

    def lead(weight: float) -> float:
        scores = learn(pixelwise, images, steered=True, steer_weight=weight).scores["net.conv1"]
        return float(scores[:4].mean() - scores[4:].mean())

    assert lead(0.05) > lead(0.0) + 1


def test_without_cross_entropy_gates_learn_as_of_a_classifier_that_says_nothing(
    network: ExplainedClassifier, images: ImageSet
) -> None:
    def scores(class_weight: float) -> Tensor:
        found = learn(network, images, steered=True, steps=60, lr=0.1, class_weight=class_weight).scores
        return torch.cat(list(found.values()))

    heard, left_out = scores(1.0), scores(0.0)
    with torch.no_grad():
        network.classifier.net.head.weight.zero_()  # the same logits for every image: cross entropy has no gradient
    torch.testing.assert_close(scores(1.0), left_out, rtol=0, atol=1e-5)
    assert float((heard - left_out).abs().max()) > 0.1


def test_gates_that_cannot_move_go_on_for_as_long_again_and_say_that_they_did_not_converge(
    network: ExplainedClassifier, images: ImageSet
) -> None:
    result = learn(network, images, steered=False, steps=20, lr=1e-4)
    assert not result.converged
    assert (result.steps, result.extension) == (40, 20)
    assert result.residual == pytest.approx(math.log(2), abs=0.01)  # nothing closed: twice the budget
    assert result.history["step"] == list(range(1, 41))
    assert result.history["target"][19:] == pytest.approx([0.995 * 0.5] * 21, rel=1e-4)
    assert result.in_words().startswith("the gates did not converge in 40 steps: R_res is 0.69")


def test_an_extension_ends_once_the_gates_are_at_the_budget(network: ExplainedClassifier, images: ImageSet) -> None:
    """At this rate gates begin to close in the last planned steps."""
    result = learn(network, images, steered=False, steps=40, lr=0.1)
    assert result.converged
    assert 0 < result.extension < 40
    assert result.extension % 4 == 0  # checked ten times
    assert result.steps == 40 + result.extension == result.history["step"][-1]
    assert result.hard_macs == pytest.approx(result.budget, rel=result.channel)  # one channel costs so much


def groups_of(*widths: int) -> list[ChannelGroup]:
    return [ChannelGroup(f"g{i}", width, (), (), ()) for i, width in enumerate(widths)]


def test_a_gate_is_hard_open_when_more_samples_are_open_than_closed() -> None:
    gates = Gates(groups_of(2, 1))
    with torch.no_grad():
        gates.theta.copy_(torch.tensor([-OFFSET - GUMBEL_MEDIAN + 0.05, -OFFSET - GUMBEL_MEDIAN - 0.05, 0.0]))
    assert gates.hard().tolist() == [1, 0, 1]
    torch.manual_seed(0)
    opened = torch.stack([gates() > 0.5 for _ in range(4000)]).float().mean(0)
    assert 0.5 < float(opened[0]) < 0.55
    assert 0.45 < float(opened[1]) < 0.5
    assert float(opened[2]) > 0.99
    assert {name: len(part) for name, part in gates.split(gates.hard()).items()} == {"g0": 2, "g1": 1}


def test_a_sample_comes_with_its_logarithms_however_closed_it_is() -> None:
    gates = Gates(groups_of(3))
    with torch.no_grad():
        gates.theta.copy_(torch.tensor([0.0, -6.0, -300.0]))
    values, logs = gates.sample(noise=0.0, temperature=0.5)
    torch.testing.assert_close(logs[:2].exp(), values[:2])
    assert float(values[2].detach()) == 0
    assert float(logs[2].detach()) == pytest.approx((-300 + OFFSET + GUMBEL_MEDIAN) / 0.5)


def test_without_noise_a_gate_is_its_median() -> None:
    gates = Gates(groups_of(1))
    expected = torch.sigmoid(torch.tensor([(OFFSET + GUMBEL_MEDIAN) / 0.4]))
    torch.testing.assert_close(gates(noise=0.0).detach(), expected)


def test_the_residual_is_zero_within_the_target_and_the_log_ratio_above() -> None:
    target = torch.tensor(50.0)
    assert float(residual_cost(torch.tensor(40.0), target)) == 0
    assert float(residual_cost(torch.tensor(100.0), target)) == pytest.approx(0.693147, abs=1e-6)


def test_gates_without_labels_learn_from_the_divergence_of_the_classifier_from_itself(
    network: ExplainedClassifier, images: ImageSet
) -> None:
    _, cost = traced(network)
    teacher = network.classifier
    objective = GateObjective(cost, GatesConfig.model_validate({"steer": "none"}), 0.5 * cost.total, None, teacher)
    batch = next(iter(Batches(images, 16).epoch(0)))
    with torch.no_grad():
        sure = teacher(batch.images)
    values = torch.ones(8 + 16 + 16)

    class Gated(nn.Module):
        def forward(self, images: Tensor, labels: Tensor, **sampling: float) -> tuple[Tensor, None, Tensor]:
            return sure / 2, None, values

    found = objective(Gated(), Batch(batch.images, 1 - batch.labels, batch.indices))["ce"]
    p, q = sure.softmax(1), (sure / 2).softmax(1)
    assert float(found) == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-4)
    assert float(found) > 0


def test_gates_without_labels_keep_what_the_classifier_predicts(network: ExplainedClassifier, images: ImageSet) -> None:
    wrong = ImageSet(images.images, 1 - images.labels, images.classes)
    result = learn(network, wrong, steered=False, from_labels=False)
    assert result.converged
    assert result.history["ce"][0] < 0.02  # all gates open: nothing differs yet
    assert result.ce < 0.3  # by the wrong labels it would be above log(2)
