"""Progress of a training: mean figures per epoch, validations, the best state, and detection of divergence."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import TrainingError
from ..progress import Progress

CHECK_EVERY = 100
"""Steps between two checks of the loss on an accelerator: a check waits for the device."""


@dataclass(frozen=True)
class Validation:
    """Result of a validation: the ``loss`` (lower is better), and ``figures`` to show.

    ``excess``: how far a constraint is missed, 0 where it is met: the epoch with the least of it is the best, and the
    loss decides between epochs that have the same.
    """

    loss: float
    figures: Mapping[str, float]
    excess: float = 0.0


@dataclass
class History:
    """Result of ``fit``: mean figures per epoch and, with validation, its losses, and loss and excess of the best."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    validations: list[float] = field(default_factory=list)
    best: float = math.inf
    best_epoch: int = -1
    best_excess: float = math.inf
    reduced_bytes: int = 0
    """Bytes of gradients that this process sent to the all-reduce in the last step."""


class Course:
    """State of a training's history: running sums, validations, best weights; saved in checkpoints."""

    def __init__(
        self,
        model: nn.Module,
        validate: Callable[[], float | Validation] | None,
        patience: int | None,
        progress: Progress,
    ) -> None:
        self.history = History()
        self.stalled = False
        """Whether to stop early: the best validation is ``patience`` epochs ago."""
        self._model, self._progress = model, progress
        self._validate, self._patience = validate, patience
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._best: dict[str, Tensor] | None = None

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Add one step's figures; sums stay on their device, so that it is not waited for."""
        for name, value in figures.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value.clone()
        self._steps += 1

    def end_epoch(self) -> None:
        """Record the epoch's means, and validate."""
        means = {name: float(total) / self._steps for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        self.history.epochs.append(means)
        if self._validate is None:
            self._progress.show(**means)
            return
        found = self._validate()
        if not isinstance(found, Validation):
            found = Validation(found, {"validation_loss": found})
        self._progress.show(**means, **found.figures)
        self._record_validation(found)

    def _record_validation(self, found: Validation) -> None:
        history, epoch = self.history, len(self.history.epochs) - 1
        history.validations.append(found.loss)
        better = (found.excess, found.loss) < (history.best_excess, history.best)
        if better and not math.isnan(found.loss + found.excess):
            history.best, history.best_excess, history.best_epoch = found.loss, found.excess, epoch
            self._best = copy.deepcopy(self._model.state_dict())
        elif self._patience is not None:
            self.stalled = epoch - history.best_epoch >= self._patience

    def restore_(self) -> None:
        """Load the best state into the model; without validation it keeps the last."""
        if self._best is not None:
            self._model.load_state_dict(self._best)

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": asdict(self.history),
            "stalled": self.stalled,
            "sums": self._sums,
            "steps": self._steps,
            "best": self._best,
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.history = History(**state["history"])
        self.stalled, self._steps, self._best = state["stalled"], state["steps"], state["best"]
        self._sums = dict(state["sums"])


class Watch:
    """Stops a training at the first loss that is NaN or infinite.

    On a CPU at that step, before its gradient changes a weight; on an accelerator at the next check, which still names
    the step. A loss that grows but stays finite is not judged here; checks of the stage's result are.
    """

    def __init__(self, what: str, steps: int, optimizer: Optimizer) -> None:
        self._what, self._steps, self._optimizer = what, steps, optimizer
        self._rates: dict[int, str] = {}  # of the steps since the last check
        self._first: Tensor | None = None
        self._loss: Tensor | None = None

    def add(self, step: int, loss: Tensor, saved: int | None) -> None:
        """Take the ``loss`` of ``step`` (from 1), before the optimizer's step; ``saved``: step of the last checkpoint.

        Raises:
            TrainingError: see ``look``.
        """
        loss = loss.detach()
        self._rates[step] = _rates(self._optimizer)
        if self._first is None or self._loss is None:
            self._first, self._loss = torch.zeros((), dtype=torch.int64, device=loss.device), torch.zeros_like(loss)
        new = (self._first == 0) & ~loss.isfinite()
        self._first = torch.where(new, step, self._first)
        self._loss = torch.where(new, loss, self._loss)
        if loss.device.type == "cpu" or len(self._rates) >= CHECK_EVERY:
            self.look(saved)

    def look(self, saved: int | None) -> None:
        """Check the losses of the steps since the last check.

        Raises:
            TrainingError: a loss was not finite; names the training, the step, the learning rate and the checkpoint.
        """
        step = 0 if self._first is None else int(self._first)
        if step and self._loss is not None:
            kept = f" (the last good checkpoint is of step {saved:,})" if saved else ""
            raise TrainingError(
                f"{self._what}: training diverged, the loss is {float(self._loss)} at step {step:,} of "
                f"{self._steps:,}, at a learning rate of {self._rates[step]}; lower its learning rate and run "
                f"again{kept}"
            )
        self._rates.clear()


def _rates(optimizer: Optimizer) -> str:
    """The learning rates in use: ``0.1``, or ``0.01 and 0.1``."""
    return " and ".join(f"{rate:.3g}" for rate in sorted({float(group["lr"]) for group in optimizer.param_groups}))
