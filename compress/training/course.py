"""How a training goes: mean figures per epoch, validations, the best state so far, the first loss that is no number."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import PruningError
from ..progress import Progress

LOOK = 100
"""On an accelerator a loss is looked at every so many steps: looking waits for the device."""


@dataclass
class History:
    """What ``fit`` did: mean figures per epoch and, with a validation, the best of its values (lower is better)."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    validations: list[float] = field(default_factory=list)
    best: float = math.inf
    best_epoch: int = -1
    reduced_bytes: int = 0
    """Bytes of gradients that this process gave to be summed with the other processes', in the last step."""


class Course:
    """The figures of a training, epoch by epoch; a checkpoint keeps it."""

    def __init__(
        self, model: nn.Module, validate: Callable[[], float] | None, patience: int | None, progress: Progress
    ) -> None:
        self.history = History()
        self.stalled = False
        """Whether the best validation is ``patience`` epochs ago."""
        self._model, self._progress = model, progress
        self._validate, self._patience = validate, patience
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._best: dict[str, Tensor] | None = None

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """One step's figures; they stay where they are, an accelerator is not waited for."""
        for name, value in figures.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value.clone()
        self._steps += 1

    def end_epoch(self) -> None:
        """Take down the epoch's means, and validate."""
        means = {name: float(total) / self._steps for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
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

    On a CPU at that very step, before its gradient touches a weight; on an accelerator at the next look, which still
    names the step. A loss that grows without leaving the numbers is not judged here: what it leads to is refused by
    what is asked of the stage's result.
    """

    def __init__(self, what: str, steps: int, optimizer: Optimizer) -> None:
        self._what, self._steps, self._optimizer = what, steps, optimizer
        self._rates: dict[int, str] = {}  # of the steps since the last look
        self._first: Tensor | None = None
        self._loss: Tensor | None = None

    def add(self, step: int, loss: Tensor, saved: int | None) -> None:
        """The ``loss`` of ``step`` (from 1), before it is learned from; ``saved``: the step of the last checkpoint.

        Raises:
            PruningError: see ``look``.
        """
        loss = loss.detach()
        self._rates[step] = _rates(self._optimizer)
        if self._first is None or self._loss is None:
            self._first, self._loss = torch.zeros((), dtype=torch.int64, device=loss.device), torch.zeros_like(loss)
        new = (self._first == 0) & ~loss.isfinite()
        self._first = torch.where(new, step, self._first)
        self._loss = torch.where(new, loss, self._loss)
        if loss.device.type == "cpu" or len(self._rates) >= LOOK:
            self.look(saved)

    def look(self, saved: int | None) -> None:
        """Read what the steps since the last look gave.

        Raises:
            PruningError: a loss was not finite; its step, its learning rate and the last checkpoint are named.
        """
        step = 0 if self._first is None else int(self._first)
        if step and self._loss is not None:
            kept = f" (the last good checkpoint is of step {saved:,})" if saved else ""
            raise PruningError(
                f"{self._what}: the loss is {float(self._loss)} at step {step:,} of {self._steps:,}, at a learning "
                f"rate of {self._rates[step]}; lower its learning rate and run again{kept}"
            )
        self._rates.clear()


def _rates(optimizer: Optimizer) -> str:
    """The learning rates in use: ``0.1``, or ``0.01 and 0.1``."""
    return " and ".join(f"{rate:.3g}" for rate in sorted({float(group["lr"]) for group in optimizer.param_groups}))
