"""Learn masks and heads within a budget of MACs, make the masks exact, finetune what is left (DRIB)."""

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
from .cost import Usage, macs_per_image
from .harden import check_reachable, harden_
from .routing import DynamicClassifier

SPARSITY_WEIGHT = 0.5
"""Weight of (mean |g| - s)^2 to start with, as printed; it grows while mean |g| is above s."""

GROWTH = 20.0
"""How much that weight gains over all steps, per unit of mean |g| above s."""

TRAVEL = 8.0
"""Default learning rate of the masks x steps: in every second step, at half of it in the mean, a value of 1 can go to 0
twice over."""

LEAST_MASK_LR = 0.01
"""As printed, for the 35,000 steps of the paper."""

AIM = 0.99
"""Share of the budget that masks are hardened to: routes drift a little while weights are finetuned."""


@dataclass(frozen=True)
class Learned:
    """How a dynamic classifier came out on validation images: right after hardening, and in the end."""

    hardened: Usage
    validation: Usage
    budget: float


class Alternating(Optimizer):
    """Two optimisers that step in turn: heads and masks, then weights (Wang et al. 2020)."""

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        super().__init__([*first.param_groups, *second.param_groups], {})
        self._turns = (first, second)
        self._turn = 0

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers' states, and whose turn it is."""
        return {"turns": [optimizer.state_dict() for optimizer in self._turns], "turn": self._turn}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Go on where ``state_dict`` was taken."""
        for optimizer, state in zip(self._turns, state_dict["turns"], strict=True):
            optimizer.load_state_dict(state)
        self._turn = state_dict["turn"]
        # Loading makes new groups: a schedule must set the rates of those that step.
        self.param_groups = [group for optimizer in self._turns for group in optimizer.param_groups]

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of the optimiser whose turn it is."""
        optimizer = self._turns[self._turn]
        self._turn = 1 - self._turn
        return optimizer.step(closure)


class _Exploration:
    """What moves from step to step beside the weights: the choices' temperature and w, the weight of sparsity."""

    def __init__(self, model: DynamicClassifier, config: DynamicConfig, share: float, steps: int) -> None:
        self.weight = SPARSITY_WEIGHT
        self._model, self._range, self._share, self._steps = model, config.temperature, share, steps
        model.temperature = config.temperature[0]

    def advance(self, step: int, figures: Mapping[str, float]) -> None:
        """Set what the step after ``step`` takes."""
        first, last = self._range
        self._model.project_()
        self._model.temperature = first * (last / first) ** ((step + 1) / self._steps)
        self.weight += GROWTH / self._steps * max(0.0, figures["mean_gate"] - self._share)

    def state_dict(self) -> dict[str, float | None]:
        """For a checkpoint."""
        return {"weight": self.weight, "temperature": self._model.temperature}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on where ``state_dict`` was taken."""
        self.weight, self._model.temperature = state["weight"], state["temperature"]


class _Routing(nn.Module):
    """What ``fit`` trains while masks are explored: forward gives the gates too."""

    def __init__(self, model: DynamicClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        routing = self.model.routed(images)
        return routing.logits, routing.gates


class _PartlyDense(nn.Module):
    """What ``fit`` trains while weights are finetuned: now and then a route of an image has all channels open.

    Without that, weights and batch statistics fit the chosen channels alone, and a layer that the bottleneck has run
    dense ruins what follows.
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
    """weight x (mean |g| - s)^2 (scalar), the mean being that of the whole batch."""
    return weight * (mean_over_batch(mean_gate(gates)) - share) ** 2


def share_for(cost: CostModel, budget: float) -> float:
    """s: the share of open channels, equal in all routes, at which the MACs are ``budget``."""
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
) -> Learned:
    """Train ``model`` in place: masks and heads against the sparsity loss, then exact masks, then finetuning.

    Args:
        cost: of ``routed_cost``.
        budget: MACs per image, in the mean of ``val``, heads included.

    Raises:
        PruningError: the budget is out of reach.
    """
    check_reachable(cost, AIM * budget, config.align)
    cost = cost.to(learning.device)
    _explore(model, cost, train, learning, config=config, budget=budget)
    hardened = harden_(model, cost, val, budget=AIM * budget, align=config.align)
    if config.finetune_epochs:
        _finetune(model, train, learning, config=config)
    found = harden_(model, cost, val, budget=budget, align=config.align)
    model.eval()
    return Learned(hardened, found, budget)


def _explore(
    model: DynamicClassifier,
    cost: CostModel,
    train: BatchSource,
    learning: Learning,
    *,
    config: DynamicConfig,
    budget: float,
) -> History:
    """CE + w (mean |g| - s)^2, heads and masks in turn with weights; w grows while too much is computed."""
    steps = config.epochs * len(train)
    share = share_for(cost, budget)
    model.spread_(to_device(next(iter(train.epoch(0))), learning.device).images)
    course = _Exploration(model, config, share, steps)
    model.train().requires_grad_(True)

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, gates = wrapped(batch.images)
        ce = F.cross_entropy(logits.float(), batch.labels)
        with torch.no_grad():
            macs = macs_per_image(cost, gates).mean() / budget
        return {
            "loss": ce + sparsity(gates, share, course.weight),
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
                {"params": masks, "lr": config.mask_lr or max(LEAST_MASK_LR, TRAVEL / steps)},
            ]
        ),
        torch.optim.SGD(model.classifier.parameters(), lr=config.lr, momentum=0.9, weight_decay=1e-4, nesterov=True),
    )
    return fit(
        _Routing(model),
        train,
        loss,
        optimizer,
        learning,
        what="routing",
        steps=steps,
        schedule=one_cycle,
        after_step=course.advance,
        keeps={"exploration": course},
    )


def _finetune(
    model: DynamicClassifier,
    train: BatchSource,
    learning: Learning,
    *,
    config: DynamicConfig,
) -> History:
    """Weights and mask values under the routes that will be deployed: no noise, heads frozen, zeros stay zero."""
    model.train().requires_grad_(True)
    for router in model.router_list:
        router.head.requires_grad_(False)
    model.temperature = None

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        ce = F.cross_entropy(wrapped(batch.images).float(), batch.labels)
        return {"loss": ce}

    free = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(free, lr=config.finetune_lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
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
