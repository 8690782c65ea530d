"""The loss that gates learn by (ISP Eq. 10), and the schedule of its target, noise, temperature and cost weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import GatesConfig
from ..data import Batch
from ..explain import Targets
from .cost import CostModel

NOISE_END = 0.9
"""Share of the steps after which the sample has no noise: the last steps learn the gates as deployed."""

FINAL_TEMPERATURE = 0.2
"""Temperature at the end, as a share of the first: half-open gates have a cost that no slim model has."""

TARGET_SHARE = 0.995
"""Share of the budget that the target falls to: cross entropy pulls the cost a little above its target, and the
residual cost of the budget itself must end at 0."""

COST_FLOOR = 0.98
"""Share of the target below which gates are pulled open again. ISP has no such term: where the images are easy, cross
entropy keeps no gate open, all of them close together, and their logits give no ranking."""


def residual_cost(macs: Tensor, target: Tensor) -> Tensor:
    """R_res = log(max(T(v), pT) / pT): zero within the target (ISP Eq. 9)."""
    return (torch.maximum(macs, target) / target).log()


def overshoot(macs: Tensor, target: Tensor) -> Tensor:
    """log(f pT / min(T(v), f pT)) with f = COST_FLOOR: zero unless the cost is far below the target."""
    floor = COST_FLOOR * target
    return (floor / torch.minimum(macs, floor)).log()


class GateObjective:
    """Loss of ISP Eq. 10; ``advance`` schedules its target, noise, temperature and cost weight.

    Args:
        targets: C_x by image index; None: not steered.
        teacher: the classifier without gates: KL(teacher || gated) takes the place of cross entropy with labels, which
            are then not read. Its gradient is that of cross entropy with the teacher's softmax, and 0 while all gates
            are open.
    """

    def __init__(
        self,
        cost: CostModel,
        config: GatesConfig,
        budget: float,
        targets: Targets | None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.teacher = teacher
        self.cost, self.config, self.targets = cost, config, targets
        self.total, self.budget = cost.total, TARGET_SHARE * budget
        self.cost_weight = config.cost_weight
        self.noise = 1.0
        self.temperature = config.temperature
        self.target: float = self.total

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss and its terms; ``model`` is called like ``GatedNetwork``."""
        model.eval()
        logits, numbers, values = model(batch.images, batch.labels, noise=self.noise, temperature=self.temperature)
        macs = self.cost.of_values(values.double())
        ce = self._prediction_loss(logits.float(), batch)
        target = macs.new_tensor(self.target)
        residual = residual_cost(macs, target)
        cost = self.cost_weight * (residual + overshoot(macs, target)).float()
        total = self.config.class_weight * ce + cost
        figures = {"ce": ce, "residual": residual.float(), "macs": macs / self.total}
        if self.targets is not None:
            steer = self.targets.distance(numbers, batch.indices)
            total = total + self.config.steer_weight * steer
            figures["steer"] = steer
        return {"loss": total, **figures}

    def _prediction_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean over the batch, in nats."""
        if self.teacher is None:
            return F.cross_entropy(logits, batch.labels)
        with torch.no_grad():
            soft_labels = self.teacher(batch.images).float().softmax(1)
        return F.kl_div(logits.log_softmax(1), soft_labels, reduction="batchmean")

    def advance(self, step: int, figures: Mapping[str, float]) -> None:
        """Set target, noise, temperature and cost weight of the step after ``step``."""
        config, share = self.config, (step + 1) / self.config.steps
        fallen = min(1.0, share / config.shrink)
        self.target = self.total + (self.budget - self.total) * fallen
        self.noise = max(0.0, min(1.0, (NOISE_END - share) / (NOISE_END - config.shrink)))
        self.temperature = config.temperature * (FINAL_TEMPERATURE + (1 - FINAL_TEMPERATURE) * self.noise)
        # Dual ascent: the multiplier of the constraint T(v) <= target.
        self.cost_weight += config.cost_weight * figures["residual"]

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint: everything that ``advance`` sets."""
        return {name: getattr(self, name) for name in ("cost_weight", "noise", "temperature", "target")}

    def load_state_dict(self, state: Mapping[str, float], /) -> None:
        """Continue from ``state_dict``."""
        for name, value in state.items():
            setattr(self, name, value)
