"""How gates learned: what they cost and what they lost, from the first step to the last."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from ..config import GatesConfig
from ..data import Batch, BatchSource
from ..errors import PruningError
from ..explain import Targets
from ..parallel.processes import even_slice, rank, world_size
from ..surgery import ChannelGroup
from ..training import Learning, fit, to_device
from .cost import CostModel
from .gate import Gates
from .gated import GatedNetwork, pays_to_compile

POINTS = 60
"""So many points of a curve are kept at most; each is a mean over the steps since the one before."""


class GateHistory:
    """Collects the figures of every step into at most ``POINTS`` points.

    ``columns``: ``step`` counts from 1 to the last step of the point; ``macs`` and ``target`` are shares of the whole
    model's MACs (relaxed gates; what the schedule asked for at that step); ``ce`` in nats, ``residual`` (R_res) and,
    where gates are steered, ``steer`` as ISP Eq. 10 has them, unweighted.
    """

    def __init__(self, steps: int) -> None:
        self._every = math.ceil(steps / POINTS)
        self._steps = steps
        self._sums: dict[str, float] = {}
        self.columns: dict[str, list[float]] = {}

    def add(self, step: int, figures: Mapping[str, float], target: float) -> None:
        """Take up the figures of ``step`` (from 0)."""
        for name in ("macs", "ce", "residual", "steer"):
            if name in figures:
                self._sums[name] = self._sums.get(name, 0.0) + figures[name]
        since = step % self._every + 1
        if since < self._every and step + 1 < self._steps:
            return
        point = {"step": step + 1, "target": target, **{name: total / since for name, total in self._sums.items()}}
        for name, value in point.items():
            self.columns.setdefault(name, []).append(value if name == "step" else float(f"{value:.5g}"))
        self._sums = {}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": self._sums, "columns": self.columns}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on where ``state_dict`` was taken."""
        self._sums, self.columns = state["sums"], state["columns"]


TRAVEL = 16.0
"""Distance that Adam can move a logit over all steps: the default learning rate is this / steps."""

RESIDUAL = 1e-3
"""R_res at the end is at most this, or one channel where a channel costs more."""

AGREEMENT = 0.02
"""At the end the cost of the relaxed gates may differ from that of the hard gates by this share, or by one channel
where a channel costs more: a gate that is half open is as near as a small network comes."""

NOISE_OFF = 0.9
"""Share of the steps after which the sample's noise is gone: what is learned last is what will be deployed."""

COLD = 0.2
"""Temperature at the end, as a share of the first: gates in between would cost what no slim model costs."""


AIM = 0.995
"""Share of the budget that the target falls to: cross entropy pulls the cost a little above its target, and the
residual cost of the budget itself must end at 0."""


@dataclass(frozen=True)
class GateResult:
    """Learned gates: scores (the logits, by group) and how well they converged. MACs per image."""

    scores: dict[str, Tensor]
    soft_macs: float
    hard_macs: float
    budget: float
    residual: float
    ce: float
    steer: float
    channel: float = 0.0
    """The largest share of the hard cost that one channel has: nothing is decided more finely than that."""
    history: dict[str, list[float]] = field(default_factory=dict)
    """Columns of ``GateHistory``."""

    def to_dict(self) -> dict[str, float]:
        """The figures, without scores and history."""
        return {name: value for name, value in asdict(self).items() if name not in ("scores", "channel", "history")}

    @property
    def converged(self) -> bool:
        """R_res = 0 and relaxed and hard cost agree, both to one channel where a channel is coarser."""
        agrees = abs(self.soft_macs / self.hard_macs - 1) <= max(AGREEMENT, self.channel)
        return self.residual <= max(RESIDUAL, self.channel) and agrees


FLOOR = 0.98
"""Share of the target below which gates are pulled open again. ISP has no such term: where the images are easy,
cross entropy holds no gate open, all of them close together, and nothing is left to rank."""


def residual_cost(macs: Tensor, target: Tensor) -> Tensor:
    """R_res = log(max(T(v), pT) / pT): zero within the target (ISP Eq. 9)."""
    return (torch.maximum(macs, target) / target).log()


def overshoot(macs: Tensor, target: Tensor) -> Tensor:
    """log(f pT / min(T(v), f pT)) with f = FLOOR: zero unless far more closed than the target asks for."""
    floor = FLOOR * target
    return (floor / torch.minimum(macs, floor)).log()


class GateObjective:
    """ISP Eq. 10 of a batch, under a target, a noise and a cost weight that ``advance`` from step to step.

    Args:
        targets: C_x by image index; None: not steered.
    """

    def __init__(self, cost: CostModel, config: GatesConfig, budget: float, targets: Targets | None) -> None:
        self.cost, self.config, self.targets = cost, config, targets
        self.total, self.budget = cost.total, AIM * budget
        self.cost_weight = config.cost_weight
        self.noise = 1.0
        self.temperature = config.temperature
        self.target: float = self.total

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss and what it is made of; ``model`` is called as ``GatedNetwork`` is."""
        model.eval()
        logits, found, values = model(batch.images, batch.labels, noise=self.noise, temperature=self.temperature)
        macs = self.cost.of_values(values.double())
        ce = F.cross_entropy(logits.float(), batch.labels)
        target = macs.new_tensor(self.target)
        residual = residual_cost(macs, target)
        cost = self.cost_weight * (residual + overshoot(macs, target)).float()
        total = self.config.class_weight * ce + cost
        figures = {"ce": ce, "residual": residual.float(), "macs": macs / self.total}
        if self.targets is not None:
            steer = self.targets.distance(found, batch.indices)
            total = total + self.config.steer_weight * steer
            figures["steer"] = steer
        return {"loss": total, **figures}

    def advance(self, step: int, figures: Mapping[str, float]) -> None:
        """Set what the step after ``step`` takes."""
        config, share = self.config, (step + 1) / self.config.steps
        fallen = min(1.0, share / config.shrink)
        self.target = self.total + (self.budget - self.total) * fallen
        self.noise = max(0.0, min(1.0, (NOISE_OFF - share) / (NOISE_OFF - config.shrink)))
        self.temperature = config.temperature * (COLD + (1 - COLD) * self.noise)
        # Dual ascent: the multiplier of the constraint T(v) <= target.
        self.cost_weight += config.cost_weight * figures["residual"]

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint: what ``advance`` sets."""
        return {name: getattr(self, name) for name in ("cost_weight", "noise", "temperature", "target")}

    def load_state_dict(self, state: Mapping[str, float], /) -> None:
        """Go on where ``state_dict`` was taken."""
        for name, value in state.items():
            setattr(self, name, value)


def learn_gates(
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    cost: CostModel,
    train: BatchSource,
    learning: Learning,
    *,
    config: GatesConfig,
    budget: float,
    targets: Targets | None,
) -> GateResult:
    """Rank the channels of ``groups`` by learning which may close.

    Weights and selector are frozen, batch normalisation is in eval mode. The cost's target falls from the whole
    model to ``budget`` over ``config.shrink`` of the steps, the sample's noise fades towards the end, and the
    weight of R_res grows for as long as it is not zero.

    Args:
        network: the classifier, or with its explainer (steering needs that).
        train: images without augmentation (``targets`` belong to exactly these).
        budget: MACs.
        targets: C_x of the UNPRUNED network, by image index; None learns without steering.

    Raises:
        PruningError: the gates did not converge; the message says what to change.
    """
    network.eval().requires_grad_(False).to(learning.device)
    cost = copy.deepcopy(cost).to(learning.device)
    gates = Gates(groups)
    gated = _to_gated(network, gates, groups, cost, train, learning, config=config, steered=targets is not None)
    objective = GateObjective(cost, config, budget, targets)
    lr = config.lr if config.lr is not None else TRAVEL / config.steps
    curve = GateHistory(config.steps)

    def after_step(step: int, figures: Mapping[str, float]) -> None:
        curve.add(step, figures, objective.target / objective.total)
        objective.advance(step, figures)

    history = fit(
        gated,
        train,
        objective,
        torch.optim.Adam([gates.theta], lr=lr),
        learning,
        what=f"gates ({config.steer})",
        steps=config.steps,
        after_step=after_step,
        keeps={"objective": objective, "curve": curve},
    )
    return _result(gates, cost, budget, history.epochs[-1], config, objective.temperature, curve)


def _to_gated(
    network: nn.Module,
    gates: Gates,
    groups: Sequence[ChannelGroup],
    cost: CostModel,
    train: BatchSource,
    learning: Learning,
    *,
    config: GatesConfig,
    steered: bool,
) -> GatedNetwork:
    """The gated network, compiled if the recipe asks for it or if that pays."""
    with torch.random.fork_rng():  # a loader of the user's may draw its order here
        batch = to_device(next(train.epoch(0)), learning.device)
    gated = GatedNetwork(network, gates, groups, batch, steered=steered)
    gated.to(learning.device).to(memory_format=torch.channels_last).eval()
    mine = even_slice(len(batch.images), rank(), world_size())
    batch = Batch(batch.images[mine], batch.labels[mine], batch.indices[mine])
    wanted = config.compile
    if wanted == "auto":
        layers = sum(isinstance(module, _ConvNd | nn.Linear) for module in gated.modules())
        wanted = learning.device.type == "cpu" and pays_to_compile(config.steps, len(batch.images), cost.total, layers)
    if wanted:
        with learning.fabric.autocast():
            gated.compile_(batch, learning.progress)
    return gated


def _result(
    gates: Gates,
    cost: CostModel,
    budget: float,
    last: Mapping[str, float],
    config: GatesConfig,
    temperature: float,
    curve: GateHistory,
) -> GateResult:
    deployed = gates.hard().double().requires_grad_()
    exact = cost.of_values(deployed)
    (of_channels,) = torch.autograd.grad(exact, deployed)
    hard = float(exact.detach())
    channel = float(of_channels.max()) / hard
    with torch.no_grad():
        soft = float(cost.of_values(gates(noise=0.0, temperature=temperature).double()))
    residual = float(residual_cost(torch.tensor(soft), torch.tensor(budget)))
    scores = {name: value.detach().cpu().clone() for name, value in gates.split(gates.theta).items()}
    result = GateResult(
        scores, soft, hard, budget, residual, last["ce"], last.get("steer", 0.0), channel, curve.columns
    )
    if not result.converged:
        raise PruningError(
            f"the gates did not converge: R_res is {residual:.3f} (at most {max(RESIDUAL, channel):.3f}) and their "
            f"relaxed cost of {soft / 1e6:.2f} M MACs is {soft / hard - 1:+.1%} off their hard cost (at most "
            f"{max(AGREEMENT, channel):.0%}); raise gates.steps (now {config.steps}) or gates.cost_weight (now "
            f"{config.cost_weight:g})"
        )
    return result
