"""Time of a step of gate learning against forward and backward of the plain network, interleaved in one process.

    .venv/bin/python benchmarks/gate_step.py --only resnet56@32/128 [--seconds 240] [--threads 2]

Baseline: the frozen network with its explainer, in eval mode, eager, NCHW, float32: forward, cross entropy and
interpretation loss, backward to the images. Ours: a complete step inside ``learn_gates`` (batch to the device, gate
sample, forward, cross entropy + interpretation + resource, backward, Adam), timed between two requests for a batch.
The other rows leave out parts of ours, so that a reader sees what pays. Random weights, random batch-norm statistics,
random images. Every round runs each form once, in an order that alternates; ratios are of medians, with a bootstrap
interval over rounds. Rows go to results/gate_step.json, those of other networks and batches stay.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache
from torch.nn import functional as F
from torchvision import models as torchvision_models

from slimsight.compress.config import GatesConfig
from slimsight.compress.data import Batch
from slimsight.compress.explain import ExplainedClassifier, Selector, find_scales, to_targets
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.gates import CostModel, Gates, learn_gates
from slimsight.compress.gates.gated import FastNetwork, GatedNetwork
from slimsight.compress.gates.objective import GateObjective
from slimsight.compress.models import Classifier, ResNet
from slimsight.compress.surgery import ChannelGroup, masked, trace_groups
from slimsight.compress.training import Learning, make_fabric
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.timing.statistics import to_speedup

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "gate_step.json"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "resnet56@32": (lambda: ResNet(56, 10, "pad"), 32, 10),
    "resnet18@224": (lambda: torchvision_models.resnet18(weights=None), 224, 1000),
}
BATCHES = (128, 32)
STEPS = 4000
"""Of the run that the timed steps belong to: ISP's number."""
WARMUP, WARM_SECONDS = 3, 20.0
"""Rounds before those that count; none is begun after these seconds."""


PLAIN = "plain network"
EAGER = "gates in the weights, folded, channels_last"
OURS = "full gate step, compiled"


class StopMeasuring(Exception):
    """Leaves ``learn_gates`` once everything is measured."""


class Multiplied(nn.Module):
    """The gated network without any of the fast forms: hooks multiply the input of every consumer."""

    def __init__(self, network: ExplainedClassifier, gates: Gates, groups: Sequence[ChannelGroup]) -> None:
        super().__init__()
        self.network, self.gates, self.groups = network, gates, groups

    def forward(
        self, images: Tensor, labels: Tensor, *, noise: float, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        values = self.gates(noise=noise, temperature=temperature)
        with masked(self.network, self.groups, self.gates.split(values)):
            return *self.network(images, labels), values


class Setting:
    """A network with its explainer, and one batch."""

    def __init__(self, name: str, batch: int) -> None:
        build, self.side, classes = NETWORKS[name]
        torch.manual_seed(0)
        classifier = Classifier(build(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        example = torch.zeros(1, 3, self.side, self.side)
        self.network = ExplainedClassifier(classifier, Selector(find_scales(classifier, example), classes, self.side))
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
        self.network.eval().requires_grad_(False)
        view = ExplainedClassifier.view
        self.groups = trace_groups(self.network, example, prefix=self.network.PREFIX, view=view).groups
        self.cost = CostModel.of(classifier, example, self.groups, prefix=self.network.PREFIX)
        labels = torch.randint(classes, (batch,))
        self.batch = Batch(torch.rand(batch, 3, self.side, self.side), labels, torch.arange(batch))
        self.targets = to_targets(self.network.selector.head, torch.rand(batch, 3) * self.side)
        self.config = GatesConfig(steps=STEPS, batch_size=batch)

    def baseline(self) -> None:
        """Plain forward and backward to the images."""
        images = self.batch.images.clone().requires_grad_()
        logits, params = self.network(images, self.batch.labels)
        steer = self.targets.distance(params, self.batch.indices)
        (F.cross_entropy(logits, self.batch.labels) + self.config.steer_weight * steer).backward()

    def step_of(self, model: nn.Module, gates: Gates, *, channels_last: bool) -> Callable[[], None]:
        """A full gate step of ``model``."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model.to(memory_format=layout)
        objective = GateObjective(self.cost, self.config, 0.5 * self.cost.total, self.targets)
        optimizer = torch.optim.Adam([gates.theta], lr=1e-3)

        def step() -> None:
            batch = self.batch._replace(images=self.batch.images.contiguous(memory_format=layout))
            figures = objective(model, batch)
            optimizer.zero_grad()
            figures["loss"].backward()
            optimizer.step()

        return step

    def parts(self) -> dict[str, Callable[[], None]]:
        """The forms that lead from the first gated network to the one that ``learn_gates`` runs."""

        def multiplied(*, channels_last: bool) -> Callable[[], None]:
            gates = Gates(self.groups)
            network = copy.deepcopy(self.network)
            return self.step_of(Multiplied(network, gates, self.groups), gates, channels_last=channels_last)

        def fast(*, folded: bool, channels_last: bool) -> Callable[[], None]:
            gates = Gates(self.groups)
            gated = GatedNetwork(self.network, gates, self.groups, self.batch, steered=True)
            if not folded:
                gated.fast = FastNetwork(self.network, self.groups, (), steered=True)
            return self.step_of(gated, gates, channels_last=channels_last)

        return {
            "activations multiplied": multiplied(channels_last=False),
            "activations multiplied, channels_last": multiplied(channels_last=True),
            "gates in the weights, channels_last": fast(folded=False, channels_last=True),
            "gates in the weights, folded": fast(folded=True, channels_last=False),
            EAGER: fast(folded=True, channels_last=True),
        }


class TimedBatches:
    """Hands ``learn_gates`` one batch again and again, and times what it does with it and the other forms between."""

    def __init__(self, batch: Batch, others: dict[str, Callable[[], None]], ours: str, seconds: float) -> None:
        self.batch, self.others, self.ours = batch, others, ours
        self.batch_size = len(batch.images)
        self.seconds = seconds
        self.times: dict[str, list[float]] = {name: [] for name in [*others, ours]}
        self.started: float | None = None
        self._epochs = 0

    def __len__(self) -> int:
        return 10**6

    def epoch(self, k: int, start: int = 0) -> Iterator[Batch]:
        """Rounds, until the time is over; a first call only shows what batches look like."""
        del k, start
        self._epochs += 1
        if self._epochs == 1:
            yield self.batch
            return
        self.started = time.perf_counter()
        for _ in range(WARMUP):
            if time.perf_counter() - self.started > WARM_SECONDS:
                break
            yield self.batch
            for step in self.others.values():
                step()
        gc.collect()
        gc.disable()
        deadline, turn = time.perf_counter() + self.seconds, 0
        while time.perf_counter() < deadline or turn < 4:
            names = [*self.others, self.ours]
            for name in names if turn % 2 else reversed(names):
                start = time.perf_counter()
                if name == self.ours:
                    yield self.batch
                else:
                    self.others[name]()
                self.times[name].append(1e3 * (time.perf_counter() - start))
            turn += 1
        gc.enable()
        raise StopMeasuring


def measure(name: str, size: int, seconds: float, *, eager: bool) -> list[dict[str, Any]]:
    """Rows of one network at one batch size."""
    setting = Setting(name, size)
    ours = EAGER if eager else OURS
    others = {PLAIN: setting.baseline, **({} if eager else setting.parts())}
    batches = TimedBatches(setting.batch, others, ours, seconds)
    began = time.perf_counter()
    with ConsoleProgress() as progress, contextlib.suppress(StopMeasuring):
        learn_gates(
            setting.network,
            setting.groups,
            setting.cost,
            batches,
            Learning(make_fabric(accelerator="cpu"), progress=progress),
            config=setting.config.model_copy(update={"compile": not eager}),
            budget=0.5 * setting.cost.total,
            targets=setting.targets,
        )
    assert batches.started is not None
    times = {form: np.array(found) for form, found in batches.times.items()}
    rows = []
    for form, found in times.items():
        ratio = to_speedup(found, times[PLAIN], seed=0)
        rows.append(
            {
                "network": name,
                "batch": size,
                "form": form,
                "ms": float(np.median(found)),
                "ratio": ratio.median,
                "ratio_low": ratio.low,
                "ratio_high": ratio.high,
                "rounds": len(found),
                "start_seconds": batches.started - began if form == ours else None,
            }
        )
        print(f"{form:45s} {rows[-1]['ms']:8.0f} ms  {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})")
    print(f"{len(times[ours])} rounds; {batches.started - began:.0f} s from the call to the first step")
    return rows


def save(rows: list[dict[str, Any]]) -> None:
    """Put ``rows`` in the place of those of the same networks and batches."""
    fresh = {(row["network"], row["batch"]) for row in rows}
    old = read_json(RESULTS)["rows"] if RESULTS.is_file() else []
    kept = [row for row in old if (row["network"], row["batch"]) not in fresh] + rows
    names = list(NETWORKS)
    kept.sort(key=lambda row: (names.index(row["network"]), BATCHES.index(row["batch"])))
    head = {"schema": 1, "device": device_name(), "processor": processor(), "versions": versions()}
    write_json(RESULTS, {**head, "rows": kept})


def processor() -> str:
    """The vector instructions that torch uses: they decide how fast convolutions are."""
    return str(torch.backends.cpu.get_cpu_capability())


def main() -> None:
    """Measure what was asked for."""
    cases = [f"{name}/{size}" for name in NETWORKS for size in BATCHES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=cases, action="append", help="default: all")
    parser.add_argument("--seconds", type=float, default=240, help="of rounds, for each case")
    parser.add_argument("--eager", action="store_true", help="only the plain network and the step that is not compiled")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for case in given.only or cases:
        name, size = case.split("/")
        print(case)
        with fresh_cache():  # compiled from nothing, as the first time
            save(measure(name, int(size), given.seconds, eager=given.eager))


if __name__ == "__main__":
    main()
