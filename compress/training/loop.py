"""The training loop: all learning stages call ``fit``, which runs on Lightning Fabric (devices, precision, DDP)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from ..data import Batch, BatchSource
from ..errors import RunError
from ..modules import tensors_of
from ..parallel.processes import check_same_on_all_ranks, gather, rank
from .checkpoint import Checkpoint, Stateful
from .course import Course, History, Validation, Watch
from .learning import Learning
from .states import ModelState, RandomState, check_finite
from .step import Loss, SharedStep


def one_cycle(optimizer: Optimizer, steps: int, *, warm: float = 0.2) -> LRScheduler:
    """One-cycle schedule: the learning rate rises over the first ``warm`` share of the steps, then falls (cosine)."""
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    up = warm if warm * (steps + 1) > 1 else 0.0  # without a step to warm up torch would divide by zero
    return OneCycleLR(optimizer, peaks, total_steps=steps + 1, pct_start=up, cycle_momentum=False)


def fit(
    model: nn.Module,
    batches: BatchSource,
    loss: Loss,
    optimizer: Optimizer,
    learning: Learning,
    *,
    what: str,
    epochs: int | None = None,
    steps: int | None = None,
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
    max_norm: float | None = None,
    validate: Callable[[], float | Validation] | None = None,
    patience: int | None = None,
    after_step: Callable[[int, Mapping[str, float]], None] | None = None,
    finished: Callable[[int], bool] | None = None,
    keeps: Mapping[str, Stateful] | None = None,
) -> History:
    """Minimise ``loss(model, batch)["loss"]``; the caller sets the model's train/eval modes.

    Args:
        loss: called under autocast with the wrapped model; returns "loss" and figures to show.
        what: name of the training, for messages and its checkpoint.
        epochs, steps: length; exactly one of the two. A last epoch that ``steps`` cuts short counts as an epoch.
        validate: called after each epoch; gives a loss, or one with a constraint (``Validation``). At the end ``model``
            has the best state.
        patience: epochs without a better validation after which training stops early.
        after_step: called with the step's number and figures (a controller, an annealed temperature).
        finished: called after ``after_step`` with the number of steps done; True ends the training there. It depends on
            saved state alone, so that a resumed training ends at the same step.
        keeps: by name, state that ``loss``, ``validate`` and ``after_step`` change, to save in checkpoints.

    Raises:
        TrainingError: the loss, or at a save a weight, is NaN or infinite; the message names ``what``.
        KeyboardInterrupt: a stop was requested; the last step is in the checkpoint.
    """
    assert (epochs is None) != (steps is None)
    steps = steps if steps is not None else (epochs or 0) * len(batches)
    model.to(memory_format=torch.channels_last)
    shared = SharedStep(model, optimizer, learning.fabric)
    scheduler = schedule(optimizer, steps) if schedule else None
    course, watch = Course(model, validate, patience, learning.progress), Watch(what, steps, optimizer)
    parts: dict[str, Stateful] = {"model": ModelState(model), "optimizer": optimizer, "course": course, **(keeps or {})}
    if scheduler is not None:
        parts["schedule"] = scheduler
    parts["random"] = RandomState(learning.device)
    checkpoint = learning.checkpoints.of(what, parts) if learning.checkpoints is not None else Checkpoint()
    done = _same(checkpoint.load_(), what)
    if done:
        learning.progress.note(f"{what}: goes on after step {done:,} of {steps:,}")
    over = course.stalled or (done > 0 and finished is not None and finished(done))
    left = itertools.islice(_endless(shared, batches, done), 0 if over else steps - done)
    ticks = learning.progress.track(left, what, total=steps - done, unit="img", scale=batches.batch_size)
    with checkpoint.heeding_stop():
        for step, parts_of_batch in enumerate(ticks, done):
            shared.optimizer.zero_grad()
            figures = shared.backward(parts_of_batch, loss)
            watch.add(step + 1, figures["loss"], saved=checkpoint.step)
            if max_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            shared.optimizer.step()
            if scheduler is not None:
                scheduler.step()
            course.add(figures)
            if after_step is not None:
                after_step(step, {name: float(value.detach()) for name, value in figures.items()})
            last = step + 1 == steps or (finished is not None and finished(step + 1))
            if (step + 1) % len(batches) == 0 or last:
                watch.look(saved=checkpoint.step)
                course.end_epoch()
            if rank() == 0 and checkpoint.due:  # all could save the same
                watch.look(saved=checkpoint.step)
                check_finite(what, step + 1, model)
                checkpoint.save(step + 1)
            if course.stalled or (last and step + 1 < steps):
                break
    course.restore_()
    check_same_on_all_ranks(what, tensors_of(model))
    course.history.reduced_bytes = shared.traffic.bytes
    return course.history


def _endless(shared: SharedStep, batches: BatchSource, done: int) -> Iterator[list[Batch]]:
    """Endless batches, epoch after epoch, without the first ``done``, which are skipped without reading."""
    epoch, start = divmod(done, len(batches))
    yield from shared.batches(batches, epoch, start)
    for later in itertools.count(epoch + 1):
        yield from shared.batches(batches, later)


def _same(done: int, what: str) -> int:
    """``done``, the number of steps in the checkpoint, which must be equal in all processes."""
    found = gather(done)
    if len(set(found)) > 1:
        raise RunError(
            f"{what}: the processes of this run go on after different steps ({', '.join(map(str, found))}): its folder "
            "must be on a file system that all machines share"
        )
    return done
