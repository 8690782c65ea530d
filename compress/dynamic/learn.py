"""Learn a dynamic classifier under a budget of MACs: train masks and heads, harden the masks, finetune (DRIB)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ..config import DynamicConfig
from ..data import Batch, BatchSource
from ..gates import CostModel
from ..parallel.processes import mean_over_batch, random_per_image
from ..training import History, Learning, fit, one_cycle, to_device
from .cost import Usage, check_reachable, harden_, macs_per_image
from .routing import DynamicClassifier

SPARSITY_WEIGHT = 0.5
"""Initial weight of (mean |g| - s)^2, as in the paper; it grows while mean |g| is above s."""

WEIGHT_GROWTH = 20.0
"""Increase of that weight over all steps, per unit of mean |g| above s."""

MASK_TRAVEL = 8.0
"""Default learning rate of the masks x steps: masks step every second time, at half the rate in the mean, so a value
can travel from 1 to 0 twice."""

MIN_MASK_LR = 0.01
"""Smallest default learning rate of the masks: that of the paper, for 35,000 steps."""

HARDENED_SHARE = 0.99
"""Share of the budget that masks are hardened to: choices drift a little during finetuning."""


@dataclass(frozen=True)
class LearnedRouting:
    """Usage of the learned dynamic classifier on validation images: after hardening, and after finetuning."""

    hardened: Usage
    validation: Usage
    budget: float


class Alternating(Optimizer):
    """Two optimisers that step alternately: heads and masks, then weights (Wang et al. 2020)."""

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        super().__init__([*first.param_groups, *second.param_groups], {})
        self._turns = (first, second)
        self._turn = 0

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers' states, and which of them steps next."""
        return {"turns": [optimizer.state_dict() for optimizer in self._turns], "turn": self._turn}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Continue from ``state_dict``."""
        for optimizer, state in zip(self._turns, state_dict["turns"], strict=True):
            optimizer.load_state_dict(state)
        self._turn = state_dict["turn"]
        # Loading replaces the groups: a schedule must set the rates of the new ones.
        self.param_groups = [group for optimizer in self._turns for group in optimizer.param_groups]

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of the optimiser that is next."""
        optimizer = self._turns[self._turn]
        self._turn = 1 - self._turn
        return optimizer.step(closure)


class _Exploration:
    """Schedule of the routing training: the choices' temperature and w, the weight of sparsity."""

    def __init__(self, model: DynamicClassifier, config: DynamicConfig, share: float, steps: int) -> None:
        self.weight = SPARSITY_WEIGHT
        self._model, self._range, self._share, self._steps = model, config.temperature, share, steps
        model.temperature = config.temperature[0]

    def advance(self, step: int, figures: Mapping[str, float]) -> None:
        """Project heads and masks, and set temperature and weight of the step after ``step``."""
        first, last = self._range
        self._model.project_()
        self._model.temperature = first * (last / first) ** ((step + 1) / self._steps)
        self.weight += WEIGHT_GROWTH / self._steps * max(0.0, figures["mean_gate"] - self._share)

    def state_dict(self) -> dict[str, float | None]:
        """For a checkpoint."""
        return {"weight": self.weight, "temperature": self._model.temperature}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Continue from ``state_dict``."""
        self.weight, self._model.temperature = state["weight"], state["temperature"]


class _WithGates(nn.Module):
    """Module for ``fit`` that trains masks and heads: forward returns the gates too."""

    def __init__(self, model: DynamicClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        routing = self.model.routed(images)
        return routing.logits, routing.gates


class _PartlyDense(nn.Module):
    """Module for ``fit`` that finetunes weights: a random ``share`` of the routes of each image has all channels open.

    Without it, weights and batch statistics fit the chosen channels only, and a layer that runs dense after the
    bottleneck's verification breaks the layers after it.
    """

    def __init__(self, model: DynamicClassifier, share: float) -> None:
        super().__init__()
        self.model, self.share = model, share

    def forward(self, images: Tensor) -> Tensor:
        dense = [
            random_per_image(images.new_empty(len(images)), Tensor.uniform_) < self.share for _ in self.model.routes
        ]
        return self.model.routed(images, dense=dense).logits


def mean_gate(gates: list[Tensor]) -> Tensor:
    """mean |g| over images and channels of all routes (scalar)."""
    return torch.cat(gates, 1).abs().mean()


def sparsity(gates: list[Tensor], share: float, weight: float) -> Tensor:
    """weight x (mean |g| - s)^2 (scalar), with the mean over the batch of all ranks."""
    return weight * (mean_over_batch(mean_gate(gates)) - share) ** 2


def open_share(cost: CostModel, budget: float) -> float:
    """s: the share of open channels, equal for all routes, at which the MACs equal ``budget``."""
    low, high = 0.0, 1.0
    ones = torch.ones(sum(cost.widths), dtype=torch.float64)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if float(cost.of_values(middle * ones)) < budget else (low, middle)
    return low


def learn_routing(
    model: DynamicClassifier,
    cost: CostModel,
    train: BatchSource,
    val: BatchSource,
    learning: Learning,
    *,
    config: DynamicConfig,
    budget: float,
) -> LearnedRouting:
    """Train ``model`` in place: masks and heads with the sparsity loss, then hardened masks, then finetuning.

    Args:
        cost: of ``routed_cost``.
        budget: mean MACs per image over ``val``, heads included.

    Raises:
        PruningError: the budget is out of reach.
    """
    check_reachable(cost, HARDENED_SHARE * budget, config.align)
    cost = cost.to(learning.device)
    _train_routing(model, cost, train, learning, config=config, budget=budget)
    hardened = harden_(model, cost, val, budget=HARDENED_SHARE * budget, align=config.align)
    if config.finetune_epochs:
        _finetune_routed(model, train, learning, config=config)
    validation = harden_(model, cost, val, budget=budget, align=config.align)
    model.eval()
    return LearnedRouting(hardened, validation, budget)


def _train_routing(
    model: DynamicClassifier,
    cost: CostModel,
    train: BatchSource,
    learning: Learning,
    *,
    config: DynamicConfig,
    budget: float,
) -> History:
    """Minimise CE + w (mean |g| - s)^2, heads and masks alternating with weights; w grows while mean |g| exceeds s."""
    steps = config.epochs * len(train)
    share = open_share(cost, budget)
    model.init_heads_(to_device(next(iter(train.epoch(0))), learning.device).images)
    schedule = _Exploration(model, config, share, steps)
    model.train().requires_grad_(True)

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, gates = wrapped(batch.images)
        ce = F.cross_entropy(logits.float(), batch.labels)
        with torch.no_grad():
            macs = macs_per_image(cost, gates).mean() / budget
        return {
            "loss": ce + sparsity(gates, share, schedule.weight),
            "ce": ce,
            "mean_gate": mean_gate(gates),
            "macs": macs,
        }

    masks = [router.masks for router in model.router_list]
    heads = [router.head.weight for router in model.router_list]
    optimizer = Alternating(
        torch.optim.Adam(
            [
                {"params": heads, "lr": config.head_lr},
                {"params": masks, "lr": config.mask_lr or max(MIN_MASK_LR, MASK_TRAVEL / steps)},
            ]
        ),
        torch.optim.SGD(model.classifier.parameters(), lr=config.lr, momentum=0.9, weight_decay=1e-4, nesterov=True),
    )
    return fit(
        _WithGates(model),
        train,
        loss,
        optimizer,
        learning,
        what="routing",
        steps=steps,
        schedule=one_cycle,
        after_step=schedule.advance,
        keeps={"exploration": schedule},
    )


def _finetune_routed(
    model: DynamicClassifier,
    train: BatchSource,
    learning: Learning,
    *,
    config: DynamicConfig,
) -> History:
    """Finetune weights and mask values under the deployed routes: no noise, heads frozen, closed values stay 0."""
    model.train().requires_grad_(True)
    for router in model.router_list:
        router.head.requires_grad_(False)
    model.temperature = None

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        ce = F.cross_entropy(wrapped(batch.images).float(), batch.labels)
        return {"loss": ce}

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=config.finetune_lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
    return fit(
        _PartlyDense(model, config.dense_share),
        train,
        loss,
        optimizer,
        learning,
        what="dynamic finetune",
        epochs=config.finetune_epochs,
        schedule=one_cycle,
        after_step=lambda *_: model.project_(),
    )
