"""Learn masks and heads within a budget of MACs, make the masks exact, finetune what is left (DRIB)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ..config import DynamicConfig
from ..data import Batch, BatchSource
from ..errors import PruningError
from ..gates import CostModel
from ..progress import SILENT, Progress
from ..training import History, fit, one_cycle
from .cost import Usage, macs_per_image, use
from .routing import DynamicClassifier, Router

HALVINGS = 14
"""Bisections of the threshold below which mask values become 0."""

SPARSITY_WEIGHT = 0.5
"""Weight of (mean |g| - s)^2 to start with, as printed; it grows while the MACs are above their budget."""


@dataclass(frozen=True)
class Learned:
    """How a dynamic classifier came out: on training images right after hardening, and on validation images."""

    hardened: Usage
    validation: Usage
    budget: float


class Alternating(Optimizer):
    """Two optimisers that step in turn: heads and masks, then weights (Wang et al. 2020)."""

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        super().__init__([*first.param_groups, *second.param_groups], {})
        self._turns = (first, second)
        self._turn = 0

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """One step of the optimiser whose turn it is."""
        assert closure is None
        self._turns[self._turn].step()
        self._turn = 1 - self._turn


class _Routing(nn.Module):
    """What ``fit`` trains while masks are explored: forward gives the gates too."""

    def __init__(self, model: DynamicClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        routing = self.model.routed(images)
        return routing.logits, routing.gates


def mean_gate(gates: list[Tensor]) -> Tensor:
    """mean |g| over images and channels of all routes (scalar)."""
    return torch.cat(gates, 1).abs().mean()


def share_for(cost: CostModel, budget: float) -> float:
    """s: the share of open channels, equal in all routes, at which the MACs are ``budget``."""
    low, high = 0.0, 1.0
    ones = torch.ones(sum(cost.widths), dtype=torch.float64)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if float(cost.of_values(middle * ones)) < budget else (low, middle)
    return low


def check_reachable(cost: CostModel, budget: float) -> None:
    """Refuse a budget (MACs) below what is left with one channel open in every route.

    Raises:
        PruningError: it is; the message names the smallest.
    """
    ones = [torch.eye(width, dtype=torch.float64)[0] for width in cost.widths]
    smallest = float(cost.of_values(torch.cat(ones)))
    if budget < smallest:
        raise PruningError(
            f"the dynamic budget of {budget / 1e6:.3f} M MACs cannot be reached: with one channel per route the model "
            f"still computes {smallest / 1e6:.3f} M (layers outside of the routes stay dense); raise dynamic.macs"
        )


def learn_routing(
    model: DynamicClassifier,
    cost: CostModel,
    train: BatchSource,
    val: BatchSource,
    fabric: Fabric,
    *,
    config: DynamicConfig,
    budget: float,
    progress: Progress = SILENT,
) -> Learned:
    """Train ``model`` in place: masks and heads against the sparsity loss, then exact masks, then finetuning.

    Args:
        cost: of ``routed_cost``.
        budget: MACs per image, in the mean, heads included; held on training images when masks become exact and on
            validation images at the end.

    Raises:
        PruningError: the budget is out of reach.
    """
    check_reachable(cost, budget)
    cost = cost.to(fabric.device)
    _explore(model, cost, train, fabric, config=config, budget=budget, progress=progress)
    hardened = harden_(model, cost, train, budget=budget, align=config.align)
    if config.finetune_epochs:
        _finetune(model, train, fabric, config=config, progress=progress)
    found = harden_(model, cost, val, budget=budget, align=config.align)
    model.eval()
    return Learned(hardened, found, budget)


def _explore(
    model: DynamicClassifier,
    cost: CostModel,
    train: BatchSource,
    fabric: Fabric,
    *,
    config: DynamicConfig,
    budget: float,
    progress: Progress,
) -> History:
    """CE + w (mean |g| - s)^2, heads and masks in turn with weights; w grows while too much is computed."""
    steps = config.epochs * len(train)
    share = share_for(cost, budget)
    weight = SPARSITY_WEIGHT
    model.train().requires_grad_(True)

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, gates = wrapped(batch.images)
        ce = F.cross_entropy(logits.float(), batch.labels)
        mean = mean_gate(gates)
        with torch.no_grad():
            macs = macs_per_image(cost, gates).mean() / budget
        return {"loss": ce + weight * (mean - share) ** 2, "ce": ce, "mean_gate": mean, "macs": macs}

    def advance(step: int, figures: Mapping[str, float]) -> None:
        nonlocal weight
        model.project_()
        done = (step + 1) / steps
        model.temperature = config.temperature[0] * (config.temperature[1] / config.temperature[0]) ** done
        weight += max(0.0, figures["mean_gate"] - share)

    model.temperature = config.temperature[0]
    masks = [p for router in model.routers for p in router.parameters()]
    optimizer = Alternating(
        torch.optim.Adam(masks, lr=config.mask_lr),
        torch.optim.SGD(model.classifier.parameters(), lr=config.lr, momentum=0.9, weight_decay=1e-4, nesterov=True),
    )
    return fit(
        _Routing(model),
        train,
        loss,
        optimizer,
        fabric,
        what="routing",
        steps=steps,
        schedule=one_cycle,
        after_step=advance,
        progress=progress,
    )


def _finetune(
    model: DynamicClassifier, train: BatchSource, fabric: Fabric, *, config: DynamicConfig, progress: Progress
) -> History:
    """Weights and mask values under the routes that will be deployed: no noise, heads frozen, zeros stay zero."""
    model.train().requires_grad_(True)
    for router in model.routers:
        assert isinstance(router, Router)
        router.head.requires_grad_(False)
    model.temperature = None

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        ce = F.cross_entropy(wrapped(batch.images).float(), batch.labels)
        return {"loss": ce}

    free = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(free, lr=config.finetune_lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
    return fit(
        model,
        train,
        loss,
        optimizer,
        fabric,
        what="dynamic finetune",
        epochs=config.finetune_epochs,
        schedule=one_cycle,
        after_step=lambda *_: model.project_(),
        progress=progress,
    )


def harden_(model: DynamicClassifier, cost: CostModel, batches: BatchSource, *, budget: float, align: int) -> Usage:
    """Close the smallest mask values for good, until the images' mean MACs are within ``budget``; measured.

    Every mask keeps a multiple of ``align`` channels where its layer has at least twice as many, and one at least.
    Masks that are within the budget already stay as they are.
    """
    before = use(model, cost, batches)
    if before.macs_mean <= budget:
        return before
    routers = [router for router in model.routers if isinstance(router, Router)]
    start = [(router.masks.detach().clone(), router.keep.clone()) for router in routers]
    values = torch.cat([masks[keep] for masks, keep in start]).sort().values
    low, high, best = 0, len(values) - 1, before  # numbers of values closed: low is above the budget
    for _ in range(HALVINGS):
        middle = (low + high + 1) // 2
        _close_(routers, start, float(values[middle]), align)
        found = use(model, cost, batches)
        if found.macs_mean <= budget:
            high, best = middle, found
        else:
            low = middle
        if high - low <= 1:
            break
    _close_(routers, start, float(values[high]), align)
    return best if best.macs_mean <= budget else use(model, cost, batches)


@torch.no_grad()
def _close_(routers: list[Router], start: list[tuple[Tensor, Tensor]], threshold: float, align: int) -> None:
    """Keep the values above ``threshold``, in multiples of ``align``; the others become 0."""
    for router, (masks, keep) in zip(routers, start, strict=True):
        width = masks.shape[1]
        step = align if width >= 2 * align else 1
        alive = keep.sum(1)
        wanted = ((masks > threshold) & keep).sum(1)
        counts = ((wanted.double() / step).round().long() * step).clamp(min=step).minimum(alive.clamp(min=1))
        rank = masks.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        router.keep.copy_(rank < counts[:, None])
        router.masks.copy_(masks * router.keep)
