"""What ``test_step.py`` runs in one process and in two: ``python shared_work.py OUT.pt``, started by torchrun."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.config import DynamicConfig, GatesConfig
from slimsight.compress.data import Batch, Batches, ImageSet
from slimsight.compress.dynamic import DynamicClassifier, find_routes, learn_routing, routed_cost
from slimsight.compress.gates import CostModel
from slimsight.compress.gates import learn as gates_of
from slimsight.compress.gates.learn import learn_gates
from slimsight.compress.parallel.processes import (
    checksum,
    mean_and_std,
    mean_over_batch,
    on_leader,
    random_per_image,
    rank,
    single_process,
    world_size,
)
from slimsight.compress.surgery import prove_groups, trace_groups
from slimsight.compress.training import (
    Learning,
    LearningFabric,
    evaluate,
    fit,
    keep_better_statistics_,
    logits_of,
    make_fabric,
    recalibrate_bn,
)


class Net(nn.Module):
    """Batch normalisation on maps and on features, dropout as a module and as a function."""

    def __init__(self, *, normalised: bool = True) -> None:
        super().__init__()
        self.conv, self.second = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1)
        self.first_norm = nn.BatchNorm2d(8) if normalised else nn.Identity()
        self.last_norm = nn.BatchNorm1d(8) if normalised else nn.Identity()
        self.drop, self.head = nn.Dropout2d(0.2), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.drop(F.relu(self.first_norm(self.conv(images))))
        x = self.last_norm(F.relu(self.second(x)).mean((2, 3)))
        logits: Tensor = self.head(F.dropout(x, 0.3, self.training))
        return logits


def images(count: int = 30, side: int = 8) -> ImageSet:
    random = np.random.default_rng(0)
    return ImageSet(
        random.integers(0, 256, (count, 3, side, side), dtype=np.uint8), np.arange(count) % 3, ("a", "b", "c")
    )


def entropy(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """A mean over images with a draw for each, and a square of such a mean."""
    noise = random_per_image(batch.images, Tensor.normal_)
    logits = model(batch.images + 0.1 * noise)
    ce = F.cross_entropy(logits, batch.labels)
    return {"loss": ce + 0.1 * mean_over_batch(logits.mean()) ** 2, "ce": ce}


def trained(fabric: LearningFabric, model: nn.Module, size: int, loss: Any = entropy, **options: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    batches = Batches(images(), size, shuffle=True, drop_last=True, crop_padding=1, flip=True)
    seen: list[float] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    history = fit(
        model.train(), batches, loss, optimizer, Learning(fabric),
        what="test", after_step=lambda _, f: seen.append(f["ce"]),
        **options,
    )  # fmt: skip
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "ce": seen,
        "random": torch.get_rng_state(),
        "bytes": history.reduced_bytes,
    }


def learning(fabric: LearningFabric) -> dict[str, Any]:
    """Batches of 9: two processes have 4 and 5 of them."""
    torch.manual_seed(0)
    model = Net()
    found = trained(fabric, model, 9, epochs=2, max_norm=1.0)
    batches = Batches(images(), 8)
    model.eval()
    found["logits"] = logits_of(model, batches)
    found["score"] = (evaluate(model, batches).accuracy, evaluate(model, batches).loss)
    recalibrate_bn(model, batches, 3)
    found["recalibrated"] = {name: value.clone() for name, value in model.named_buffers()}
    found["kept"] = keep_better_statistics_(model, batches, 4, batches)
    found["better"] = {name: value.clone() for name, value in model.named_buffers()}
    synced = nn.Sequential(nn.SyncBatchNorm(3), nn.Flatten(), nn.Linear(192, 3))  # three batches: 2 and 1
    found["synced"] = recalibrate_bn(synced, batches, 3), synced[0].running_mean.clone()
    return found


def accumulated(fabric: LearningFabric) -> dict[str, Any]:
    """Without batch statistics, in three parts and in one."""

    def plain(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        ce = F.cross_entropy(model(batch.images + 0.1 * random_per_image(batch.images, Tensor.normal_)), batch.labels)
        return {"loss": ce, "ce": ce}

    found = {}
    for parts in (1, 3):
        torch.manual_seed(0)
        fabric.accumulate = parts
        found[str(parts)] = trained(fabric, Net(normalised=False), 10, plain, epochs=1)
    fabric.accumulate = 1
    return found


def gates(fabric: LearningFabric) -> dict[str, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    ).eval()  # fmt: skip
    example = torch.rand(2, 3, 8, 8)
    graph = prove_groups(net, trace_groups(net, example[:1]), example)
    cost = CostModel.of(net, example[:1], graph.groups)
    sent: list[int] = []
    before = gates_of.fit

    def counted(*args: Any, **options: Any) -> Any:
        history = before(*args, **options)
        sent.append(history.reduced_bytes)
        return history

    gates_of.fit = counted
    torch.manual_seed(1)
    result = learn_gates(
        net, graph.groups, cost, Batches(images(), 10, shuffle=True), Learning(fabric),
        config=GatesConfig(steer="none", steps=60, batch_size=10), budget=0.5 * cost.total, targets=None,
    )  # fmt: skip
    gates_of.fit = before
    return {"scores": result.scores, "gates": sum(group.channels for group in graph.groups), "bytes": sent[0]}


def dynamic(fabric: LearningFabric) -> dict[str, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).eval()  # fmt: skip
    example = torch.rand(4, 3, 8, 8)
    model = DynamicClassifier(net, find_routes(net, trace_groups(net, example[:1]), example[:1]), 2)
    cost = routed_cost(model, example[:1])
    torch.manual_seed(1)
    found = learn_routing(
        model, cost, Batches(images(), 10, shuffle=True), Batches(images(), 8), Learning(fabric),
        config=DynamicConfig(enabled=True, epochs=1, finetune_epochs=1, batch_size=10), budget=0.8 * cost.total,
    )  # fmt: skip
    return {"weights": dict(model.state_dict()), "macs": found.validation.macs_mean}


def talking(_: LearningFabric) -> dict[str, Any]:
    """What the leader alone does, and random numbers after it."""
    torch.manual_seed(5 + rank())
    value = on_leader(lambda: (world_size(), float(torch.rand(()))))
    values = torch.arange(8.0).view(4, 2)
    mine = values.chunk(world_size())[rank()]
    with single_process():
        inside = world_size()
    return {
        "value": value,
        "next": float(torch.rand(())),
        "moments": [x.tolist() for x in mean_and_std(mine, (0,))],
        "inside": inside,
    }


WORK: dict[str, Callable[[LearningFabric], dict[str, Any]]] = {
    "learning": learning,
    "accumulated": accumulated,
    "gates": gates,
    "dynamic": dynamic,
    "talking": talking,
}


def work(fabric: LearningFabric) -> dict[str, Any]:
    """All of it."""
    return {name: each(fabric) for name, each in WORK.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = work(make_fabric(accelerator="cpu", together=True))
    sums = checksum(found["gates"]["scores"])
    torch.save({**found, "checksum": sums}, Path(sys.argv[1]).with_suffix(f".{rank()}.pt"))
