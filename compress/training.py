"""The one loop: every stage that learns runs through ``fit``, on Lightning Fabric (devices, precision, processes)."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from .data import Batch, BatchSource
from .errors import PruningError
from .progress import SILENT, Progress

Precision = Literal["32-true", "bf16-mixed"]
Loss = Callable[[nn.Module, Batch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Score:
    """How a classifier does on a set of images: top-1 accuracy 0..1 and mean cross entropy in nats."""

    accuracy: float
    loss: float


@dataclass
class History:
    """What ``fit`` did: mean figures per epoch and, with a validation, the best of its values (lower is better)."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    validations: list[float] = field(default_factory=list)
    best: float = math.inf
    best_epoch: int = -1


def make_fabric(precision: Precision = "32-true", accelerator: str = "auto") -> Fabric:
    """A launched Fabric on one device; ``precision`` holds for learning, never for a verdict."""
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
    fabric.launch()
    return fabric


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``, images float32 in [0, 1], channels-last (1.5 times as fast for small ones on a CPU)."""
    images = batch.images.to(device)
    if images.dtype == torch.uint8:
        images = images.float().div_(255)
    return Batch(
        images.contiguous(memory_format=torch.channels_last),
        batch.labels.to(device),
        batch.indices.to(device),
    )


def one_cycle(optimizer: Optimizer, steps: int, *, warm: float = 0.2) -> LRScheduler:
    """Learning rate up over the first ``warm`` share of the steps, then down to almost nothing (cosine)."""
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    up = warm if warm * (steps + 1) > 1 else 0.0  # no step to warm up in: torch would divide by zero
    return OneCycleLR(optimizer, peaks, total_steps=steps + 1, pct_start=up, cycle_momentum=False)


def fit(
    model: nn.Module,
    batches: BatchSource,
    loss: Loss,
    optimizer: Optimizer,
    fabric: Fabric,
    *,
    what: str,
    epochs: int | None = None,
    steps: int | None = None,
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
    max_norm: float | None = None,
    validate: Callable[[], float] | None = None,
    patience: int | None = None,
    after_step: Callable[[int, Mapping[str, float]], None] | None = None,
    progress: Progress = SILENT,
) -> History:
    """Minimise ``loss(model, batch)["loss"]``; the model's own train/eval flags are the caller's choice.

    Args:
        loss: called under the fabric's autocast with the wrapped model; returns "loss" and figures to show.
        epochs, steps: how long; one of the two. A last epoch that ``steps`` cuts short counts as one.
        validate: called after every epoch, lower is better; the best state is what ``model`` holds at the end.
        patience: epochs without a better validation after which the loop stops.
        after_step: called with the step's number and figures (a controller, an annealed temperature).

    Raises:
        PruningError: the loss is not finite.
    """
    assert (epochs is None) != (steps is None)
    steps = steps if steps is not None else (epochs or 0) * len(batches)
    model.to(memory_format=torch.channels_last)
    wrapped, optimizer_ = fabric.setup(model, optimizer)
    scheduler = schedule(optimizer, steps) if schedule else None
    course = _Course(model, what, validate, patience, progress)
    endless = itertools.chain.from_iterable(batches.epoch(number) for number in itertools.count())
    ticks = progress.track(itertools.islice(endless, steps), what, total=steps, unit="img", scale=batches.batch_size)
    for step, batch in enumerate(ticks):
        with fabric.autocast():
            figures = loss(wrapped, to_device(batch, fabric.device))
        optimizer_.zero_grad()
        fabric.backward(figures["loss"])
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer_.step()
        if scheduler is not None:
            scheduler.step()
        course.add(figures)
        if after_step is not None:
            after_step(step, {name: float(value.detach()) for name, value in figures.items()})
        if (step + 1) % len(batches) == 0 or step + 1 == steps:
            course.end_epoch()
            if course.stalled:
                break
    course.restore_()
    return course.history


class _Course:
    """How a training goes, epoch by epoch: mean figures, validations, and the best state so far."""

    def __init__(
        self,
        model: nn.Module,
        what: str,
        validate: Callable[[], float] | None,
        patience: int | None,
        progress: Progress,
    ) -> None:
        self.history = History()
        self.stalled = False
        """Whether the best validation is ``patience`` epochs ago."""
        self._model, self._what, self._progress = model, what, progress
        self._validate, self._patience = validate, patience
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._best: dict[str, Tensor] | None = None

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """One step's figures."""
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.detach().float().cpu()
        self._steps += 1

    def end_epoch(self) -> None:
        """Take down the epoch's means, and validate.

        Raises:
            PruningError: the loss is not finite.
        """
        means = {name: float(total) / self._steps for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        if not math.isfinite(means["loss"]):
            raise PruningError(f"{self._what}: the loss is {means['loss']}; lower its learning rate and run again")
        self.history.epochs.append(means)
        if self._validate is None:
            self._progress.show(**means)
            return
        found = self._validate()
        self._progress.show(**means, validation=found)
        self._compare(found)

    def _compare(self, found: float) -> None:
        history, epoch = self.history, len(self.history.epochs) - 1
        history.validations.append(found)
        if found < history.best:
            history.best, history.best_epoch = found, epoch
            self._best = copy.deepcopy(self._model.state_dict())
        elif self._patience is not None:
            self.stalled = epoch - history.best_epoch >= self._patience

    def restore_(self) -> None:
        """Put the model back into its best state; without a validation the last one stays."""
        if self._best is not None:
            self._model.load_state_dict(self._best)


@torch.inference_mode()
def logits_of(model: nn.Module, batches: BatchSource, *, device: torch.device | None = None) -> Tensor:
    """(N, classes) float32 logits over one pass, in the model's eval mode; its mode is restored."""
    device = device or next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        return torch.cat([model(to_device(batch, device).images).float().cpu() for batch in batches.epoch(0)])
    finally:
        model.train(training)


def evaluate(model: nn.Module, batches: BatchSource, *, device: torch.device | None = None) -> Score:
    """Top-1 accuracy and cross entropy of ``model`` on ``batches`` (not shuffled, not augmented), in float32."""
    logits = logits_of(model, batches, device=device)
    labels = torch.cat([batch.labels for batch in batches.epoch(0)])
    hits = (logits.argmax(1) == labels).float().mean()
    return Score(float(hits), float(nn.functional.cross_entropy(logits, labels)))
