"""Everything that learns, killed in the middle and resumed: the same bits as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.config import (
    DynamicConfig,
    ExplainerConfig,
    FinetuneConfig,
    GatesConfig,
    MaskConfig,
    PredictorConfig,
)
from slimsight.compress.data import Batches, ImageSet
from slimsight.compress.dynamic import DynamicClassifier, find_routes, learn_routing, routed_cost
from slimsight.compress.explain import (
    STEERING,
    ExplainedClassifier,
    Selector,
    find_scales,
    new_predictor,
    train_predictor,
)
from slimsight.compress.explain.amortized.predictor import rbf_masks
from slimsight.compress.finetune import Steering, train_classifier
from slimsight.compress.gates import CostModel, learn_gates
from slimsight.compress.models import Classifier
from slimsight.compress.surgery import trace_groups
from slimsight.compress.training import Checkpoints, Learning, make_fabric
from slimsight.compress.training.checkpoint import SavedCheckpoint

SIDE = 16
Work = Callable[[Checkpoints | None], dict[str, Tensor]]


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """48 images, two classes by brightness of the middle."""
    draw = np.random.default_rng(0)
    labels = np.arange(48) % 2
    pixels = draw.integers(0, 90, (48, 3, SIDE, SIDE)).astype(np.uint8)
    pixels[labels == 1, :, 4:12, 4:12] += 160
    return ImageSet(pixels, labels.astype(np.int64), ("dark", "bright"))


@pytest.fixture
def train(images: ImageSet) -> Batches:
    """Four batches an epoch."""
    return Batches(images, 12, shuffle=True, crop_padding=1, flip=True)


def to_classifier() -> Classifier:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 2),
    )  # fmt: skip
    return Classifier(net, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).eval()


def to_explained(kind: str = "rbf") -> ExplainedClassifier:
    classifier = to_classifier()
    selector = Selector(find_scales(classifier, torch.zeros(1, 3, SIDE, SIDE)), 2, SIDE, STEERING.get(kind).head)
    nn.init.normal_(selector.head.weight, std=0.2)
    return ExplainedClassifier(classifier, selector).eval()


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``lost(work, name=step, ...)``: what a work that is killed behind each of these saves in turn ends without.

    Names of the tensors that are not those of a work that nobody disturbed.
    """
    save = SavedCheckpoint.save

    def check(work: Work, **kills: int) -> list[str]:
        expected = work(None)
        last: tuple[str, int] = "", 0

        def killed(self: Any, step: int) -> None:
            save(self, step)
            if (self._what, step) == last:
                raise Killed

        monkeypatch.setattr(SavedCheckpoint, "save", killed)
        for name, step in kills.items():
            last = name.replace("_", " "), step
            with pytest.raises(Killed):
                work(Checkpoints(tmp_path, "key", seconds=0))
        monkeypatch.setattr(SavedCheckpoint, "save", lambda *_: None)
        found = work(Checkpoints(tmp_path, "key", seconds=0))
        assert found.keys() == expected.keys()
        return [name for name in found if not torch.equal(found[name], expected[name])]

    return check


@pytest.mark.parametrize(
    ("kind", "variant"), [("rbf", "relaxed"), ("realx", "relaxed"), ("realx", "original"), ("varsal", "relaxed")]
)
def test_explainers(kind: str, variant: str, train: Batches, images: ImageSet, lost: Callable[..., list[str]]) -> None:
    explainer = STEERING.get(kind)
    short = {"epochs": 3, "batch_size": 12}
    config = ExplainerConfig.model_validate(
        {"selector": short, "varsal": short, "realx": {"variant": variant}, "target_area": 0.3}
    )

    def work(checkpoints: Checkpoints | None) -> dict[str, Tensor]:
        network = to_explained(kind)
        predictor = None
        if explainer.masks is not None:
            predictor = new_predictor(network.classifier, PredictorConfig())
        fabric, val = make_fabric(accelerator="cpu"), Batches(images, 24)
        explainer.train(network, predictor, train, val, Learning(fabric, checkpoints=checkpoints), config=config)
        return network.state_dict()

    assert lost(work, **{"varsal" if kind == "varsal" else "selector": 6}) == []


def test_a_predictor(train: Batches, images: ImageSet, lost: Callable[..., list[str]]) -> None:
    def work(checkpoints: Checkpoints | None) -> dict[str, Tensor]:
        classifier = to_classifier()
        predictor = new_predictor(classifier, PredictorConfig())
        train_predictor(
            predictor,
            classifier,
            train,
            Batches(images, 24),
            Learning(make_fabric(accelerator="cpu"), checkpoints=checkpoints),
            config=PredictorConfig(epochs=3, patience=1),
            draw=rbf_masks(MaskConfig()),
        )
        return predictor.state_dict()

    assert lost(work, predictor=6) == []


@pytest.mark.parametrize("training", ["gates (rbf)", "gates (rbf), extension"])
def test_gates_and_their_extension(training: str, images: ImageSet, lost: Callable[..., list[str]]) -> None:
    """At this rate gates need the extension."""
    plain = Batches(images, 12, shuffle=True)

    def work(checkpoints: Checkpoints | None) -> dict[str, Tensor]:
        network = to_explained()
        example = torch.zeros(1, 3, SIDE, SIDE)
        graph = trace_groups(network, example, prefix=network.PREFIX, view=network.view)
        cost = CostModel.of(network.classifier, example, graph.groups, prefix=network.PREFIX)
        torch.manual_seed(3)
        found = learn_gates(
            network,
            graph.groups,
            cost,
            plain,
            Learning(make_fabric(accelerator="cpu"), checkpoints=checkpoints),
            config=GatesConfig(steps=20, lr=0.05),
            budget=0.5 * cost.total,
            targets=None,
        )
        assert found.extension > 0
        columns = {f"history.{name}": torch.tensor(values) for name, values in found.history.items()}
        return {**found.scores, **columns, "steps": torch.tensor(found.steps)}

    assert lost(work, **{training: 7}) == []


def test_finetuning_that_is_taught_and_steered(train: Batches, lost: Callable[..., list[str]]) -> None:
    def work(checkpoints: Checkpoints | None) -> dict[str, Tensor]:
        original, slim = to_explained(), to_explained()
        train_classifier(
            slim.classifier,
            train,
            Learning(make_fabric(accelerator="cpu"), checkpoints=checkpoints),
            config=FinetuneConfig(epochs=3, distill=0.5),
            teacher=to_classifier(),
            steering=Steering(original, slim, 0.1),
            what="finetune",
        )
        return slim.state_dict()

    assert lost(work, finetune=7) == []


def test_routes_in_both_of_their_trainings(train: Batches, images: ImageSet, lost: Callable[..., list[str]]) -> None:
    example = torch.zeros(1, 3, SIDE, SIDE)

    def work(checkpoints: Checkpoints | None) -> dict[str, Tensor]:
        classifier = to_classifier()
        model = DynamicClassifier(classifier, find_routes(classifier, trace_groups(classifier, example), example), 3)
        cost = routed_cost(model, example)
        config = DynamicConfig(masks=3, macs=0.7, epochs=2, finetune_epochs=2, batch_size=12)
        val, fabric = Batches(images, 24), make_fabric(accelerator="cpu")
        learn_routing(
            model,
            cost,
            train,
            val,
            Learning(fabric, checkpoints=checkpoints),
            config=config,
            budget=0.7 * cost.total,
        )
        return model.state_dict()

    assert lost(work, routing=5, dynamic_finetune=3) == []
