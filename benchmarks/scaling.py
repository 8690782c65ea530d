"""Cost of a step of each stage for ResNet-50 at 224 pixels: all-reduced bytes, exactly; seconds, on this CPU.

    .venv/bin/python benchmarks/scaling.py [--batch 4] [--rounds 2]

Every learner runs a few steps on random images with random weights, in one process and thread; a step is timed from one
request for a batch to the next, the first is left out and the shortest counts. What is wanted of the seconds is their
ratio to those of a plain training step (the first row): it says how much of a GPU's throughput, which is known for
plain training, a stage gets. Results go to results/scaling.json; docs/scaling.md is made from them by tables.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models as torchvision_models

from slimsight.compress.config import ExplainerConfig, FinetuneConfig, GatesConfig
from slimsight.compress.data import Batch, Sharding, TensorBatches, all_rows
from slimsight.compress.errors import PruningError
from slimsight.compress.explain import STEERING, ExplainedClassifier, Selector, find_scales, new_predictor, to_targets
from slimsight.compress.explain.amortized.predictor import train_predictor
from slimsight.compress.files.atomic import write_json
from slimsight.compress.finetune import train_classifier
from slimsight.compress.gates import CostModel, learn_gates
from slimsight.compress.models import Classifier
from slimsight.compress.surgery import trace_groups
from slimsight.compress.training import Learning, logits_of, make_fabric
from slimsight.deploy.machine import device_name, versions

RESULTS = Path(__file__).resolve().parent / "results" / "scaling.json"
SIDE, CLASSES = 224, 1000


class TimedBatches(TensorBatches):
    """Batches that note when they were asked for."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, batch_size: int) -> None:
        super().__init__(images, labels, batch_size)
        self.asked: list[float] = []

    def epoch(self, k: int, start: int = 0, *, sharding: Sharding = all_rows) -> Iterator[Batch]:
        for batch in super().epoch(k, start, sharding=sharding):
            self.asked.append(time.perf_counter())
            yield batch
        self.asked.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Of the shortest step but the first."""
        steps = [b - a for a, b in zip(self.asked, self.asked[1:], strict=False)]
        return min(step for step in steps[1:] if step > 1e-3)


def learned_bytes(module: nn.Module) -> int:
    """Of the gradients: 4 for each number that is learned."""
    return 4 * sum(value.numel() for value in module.parameters() if value.requires_grad)


def measure(batch: int, rounds: int) -> dict[str, Any]:
    """Rows by stage."""
    torch.manual_seed(0)
    fabric = make_fabric(accelerator="cpu")
    count = batch * (rounds + 1)
    images, labels = torch.rand(count, 3, SIDE, SIDE), torch.randint(CLASSES, (count,))
    few = TensorBatches(images[:2], labels[:2], 2, shuffle=False)
    config = ExplainerConfig.model_validate({"predictor": {"epochs": 1}, "selector": {"epochs": 1}})
    classifier = Classifier(torchvision_models.resnet50(weights=None), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in classifier.modules())
    rows: dict[str, Any] = {}

    def add(stage: str, train: TimedBatches, sent: int, synchronised: int) -> None:
        rows[stage] = {"seconds_per_image": train.seconds / batch, "bytes": sent, "batch_norms": synchronised}
        print(stage, rows[stage], flush=True)

    train = TimedBatches(images, labels, batch)
    plain = FinetuneConfig.model_validate({"epochs": 1, "distill": 0})
    train_classifier(classifier, train, Learning(fabric), config=plain)
    add("classifier", train, learned_bytes(classifier), norms)

    predictor = new_predictor(classifier, config.predictor)
    explainer = STEERING.get("rbf")
    assert explainer.masks is not None
    train = TimedBatches(images, labels, batch)
    sent = learned_bytes(predictor)
    train_predictor(
        predictor,
        classifier,
        train,
        few,
        Learning(fabric),
        config=config.predictor,
        draw=explainer.masks(config),
    )
    add("predictor", train, sent, norms)

    selector = Selector(find_scales(classifier, images[:1]), CLASSES, SIDE, explainer.head)
    network, train = ExplainedClassifier(classifier, selector), TimedBatches(images, labels, batch)
    sent = learned_bytes(selector)
    synchronised = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in selector.modules())
    explainer.train(network, predictor, train, few, Learning(fabric), config=config)
    add("selector", train, sent, synchronised)

    network.to(memory_format=torch.contiguous_format)
    prefix = ExplainedClassifier.PREFIX
    graph = trace_groups(network, images[:1], prefix=prefix, view=network.view)
    cost = CostModel.of(classifier, images[:1], graph.groups, prefix=prefix)
    numbers = torch.rand(count, 3) * 50 + 50
    gates = GatesConfig.model_validate({"steps": max(20, rounds + 1), "compile": False, "batch_size": batch})
    train = TimedBatches(images, labels, batch)
    with suppress(PruningError):  # so few steps do not converge
        learn_gates(
            network, graph.groups, cost, LimitedBatches(train, rounds + 1), Learning(fabric),
            config=gates, budget=cost.total / 2,
            targets=to_targets(selector.head, numbers),
        )  # fmt: skip
    add("gates", train, 4 * sum(group.channels for group in graph.groups), 0)

    train = TimedBatches(images, labels, batch)
    classifier.eval()
    logits_of(classifier, train)
    add("evaluation", train, 0, 0)
    return rows


class StopMeasuring(PruningError):
    """Ends a training once its steps are timed."""


class LimitedBatches:
    """Batches that end a training after ``most`` steps."""

    def __init__(self, batches: TimedBatches, most: int) -> None:
        self.batches, self.most = batches, most
        self.batch_size = batches.batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, k: int, start: int = 0, *, sharding: Sharding = all_rows) -> Iterator[Batch]:
        for batch in self.batches.epoch(k, start, sharding=sharding):
            if len(self.batches.asked) > self.most + 1:  # one more was asked for to see its shape
                raise StopMeasuring("enough steps")
            yield batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options.batch, options.rounds)
    found = {"device": device_name(), "versions": versions(), "threads": 1, "batch": options.batch, "side": SIDE}
    write_json(RESULTS, {**found, "stages": rows})


if __name__ == "__main__":
    main()
