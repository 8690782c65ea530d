"""Learn gates under a budget of MACs, steered by explanations (ISP Eq. 10): steps, their extension, result."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..config import GatesConfig
from ..data import Batch, BatchSource
from ..explain import ExplainedClassifier, Targets
from ..models.fold import FoldPair
from ..parallel.processes import even_slice, rank, world_size
from ..surgery import ChannelGroup
from ..training import Learning, Stateful, fit, to_device
from .cost import CostModel
from .gate import Gates
from .gated import FastNetwork, GatedNetwork, pays_to_compile
from .history import GateHistory
from .objective import GateObjective, residual_cost
from .statistics import NormRefresh

LOGIT_TRAVEL = 16.0
"""Distance that Adam can move a logit over all steps: the default learning rate is this / steps."""

MAX_RESIDUAL = 1e-3
"""Largest R_res at the end, or one channel where a channel costs more."""

MAX_COST_DIFFERENCE = 0.02
"""Largest relative difference between relaxed and hard cost at the end, or one channel where a channel costs more:
half-open gates of a small network are no closer than that."""

MAX_EXTENSION = 1.0
"""Most steps that gates go on for when they did not reach the budget, as a share of the steps planned."""

EXTENSION_CHECKS = 10
"""How often convergence is checked in an extension, evenly spaced."""


@dataclass(frozen=True)
class GateResult:
    """Learned gates: scores (the logits, by group) and figures of their convergence. MACs per image."""

    scores: dict[str, Tensor]
    soft_macs: float
    hard_macs: float
    budget: float
    residual: float
    ce: float
    steer: float
    channel: float = 0.0
    """Largest share of the hard cost that one channel has: the resolution of the other figures."""
    history: dict[str, list[float]] = field(default_factory=dict)
    """Columns of ``GateHistory``."""
    steps: int = 0
    """Steps learned, those of an extension included."""
    extension: int = 0
    """Steps of the extension; 0: the planned steps were enough."""

    def to_dict(self) -> dict[str, float]:
        """JSON form of the figures, without scores and history."""
        return {name: value for name, value in asdict(self).items() if name not in ("scores", "channel", "history")}

    @property
    def converged(self) -> bool:
        """Whether R_res = 0 and relaxed and hard cost agree, within their limits or one channel."""
        agrees = abs(self.soft_macs / self.hard_macs - 1) <= max(MAX_COST_DIFFERENCE, self.channel)
        return self.residual <= max(MAX_RESIDUAL, self.channel) and agrees

    def in_words(self) -> str:
        """A sentence on the convergence, with the figures that decide it and their limits."""
        return (
            f"the gates {'converged' if self.converged else 'did not converge'} in {self.steps:,} steps: R_res is "
            f"{self.residual:.3f} (at most {max(MAX_RESIDUAL, self.channel):.3f}) and their relaxed cost of "
            f"{self.soft_macs / 1e6:.2f} M MACs is {self.soft_macs / self.hard_macs - 1:+.1%} off their hard cost (at "
            f"most {max(MAX_COST_DIFFERENCE, self.channel):.0%})"
        )


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
    from_labels: bool = True,
) -> GateResult:
    """Rank the channels of ``groups`` by learning which of them can close.

    Weights and selector are frozen; batch normalisation has the statistics that ``config.norm`` says. The cost's target
    falls from that of the unpruned model to ``budget`` over ``config.shrink`` of the steps, the sample's noise falls to
    0 towards the end, and the weight of R_res grows while R_res is not zero. Gates that are not at the budget then go
    on under the last target, without noise, until they are or ``MAX_EXTENSION`` ends.

    Args:
        network: the classifier, or the classifier with its explainer (needed for steering).
        train: images without augmentation (``targets`` are of exactly these).
        budget: MACs.
        targets: C_x of the UNPRUNED network, by image index; None learns without steering.
        from_labels: False: gates learn from what the classifier itself predicts, and labels are not read.

    Returns:
        The scores, also of gates that did not converge: see ``GateResult.converged``.
    """
    network.eval().requires_grad_(False).to(learning.device)
    cost = copy.deepcopy(cost).to(learning.device)
    gates = Gates(groups)
    gated = _to_gated(network, gates, groups, cost, train, learning, config=config, steered=targets is not None)
    teacher = None if from_labels else network.classifier if isinstance(network, ExplainedClassifier) else network
    objective = GateObjective(cost, config, budget, targets, teacher)
    refresh = None
    if config.norm == "recalibrated":
        refresh = to_refresh(gated, network, groups, objective, train)
    learner = _GateLearner(gated, cost, objective, budget, train, learning, config, refresh)
    planned = learner.learn(f"gates ({config.steer})", 0, config.steps)
    extra = round(MAX_EXTENSION * config.steps)
    if planned.converged or not extra:
        return planned
    learning.progress.note(f"{planned.in_words()}; they go on for up to {extra:,} steps")
    every = max(1, extra // EXTENSION_CHECKS)
    figures = {"ce": planned.ce, "steer": planned.steer}

    def reached(step: int) -> bool:
        return step % every == 0 and learner.result(figures, config.steps + step).converged

    extended = learner.learn(f"gates ({config.steer}), extension", config.steps, extra, reached)
    learning.progress.note(extended.in_words())
    return extended


class _GateLearner:
    """Gates with their optimizer and history, which the planned steps and an extension share."""

    def __init__(
        self,
        gated: GatedNetwork,
        cost: CostModel,
        objective: GateObjective,
        budget: float,
        train: BatchSource,
        learning: Learning,
        config: GatesConfig,
        refresh: NormRefresh | None,
    ) -> None:
        self.gated, self.cost, self.objective, self.budget = gated, cost, objective, budget
        self.train, self.learning, self.config, self.refresh = train, learning, config, refresh
        lr = config.lr if config.lr is not None else LOGIT_TRAVEL / config.steps
        self.optimizer = torch.optim.Adam([gated.gates.theta], lr=lr)
        self.curve = GateHistory(config.steps)
        self.keeps: dict[str, Stateful] = {"objective": objective, "history": self.curve}
        if refresh is not None:
            self.keeps["norms"] = refresh

    def result(self, last: Mapping[str, float], steps: int) -> GateResult:
        """The gates as they are after ``steps``; ``last``: figures of the loss."""
        extension = max(0, steps - self.config.steps)
        temperature = self.objective.temperature
        return _to_result(self.gated.gates, self.cost, self.budget, last, temperature, self.curve, steps, extension)

    def learn(self, what: str, start: int, steps: int, finished: Callable[[int], bool] | None = None) -> GateResult:
        """``steps`` more after step ``start``, or until they are ``finished``; ``what``: see ``fit``."""

        def after_step(step: int, figures: Mapping[str, float]) -> None:
            last = step + 1 == steps or (finished is not None and finished(step + 1))
            self.curve.add(start + step, figures, self.objective.target / self.objective.total, last=last)
            self.objective.advance(start + step, figures)
            if self.refresh is not None:
                self.refresh.after_step(start + step)

        history = fit(
            self.gated,
            self.train,
            self.objective,
            self.optimizer,
            self.learning,
            what=what,
            steps=steps,
            after_step=after_step,
            finished=finished,
            keeps=self.keeps,
        )
        return self.result(history.epochs[-1], int(self.curve.columns["step"][-1]))


def to_refresh(
    gated: GatedNetwork,
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    objective: GateObjective,
    train: BatchSource,
) -> NormRefresh:
    """What keeps the statistics of ``gated`` up to date, at the noise and temperature of ``objective``."""
    unfolded = FastNetwork(network, groups, (), steered=False)
    unfolded.to(gated.fast.sources.device).to(memory_format=torch.channels_last).eval()

    def draw() -> tuple[Tensor, Tensor]:
        return gated.draw(noise=objective.noise, temperature=objective.temperature)[1:]

    prefix = "classifier." if isinstance(network, ExplainedClassifier) else ""
    pairs = [
        FoldPair(pair.producer.removeprefix(prefix), pair.norm.removeprefix(prefix))
        for pair in gated.pairs
        if pair.norm.startswith(prefix)
    ]
    return NormRefresh(unfolded.classifier, gated.fast.classifier, pairs, unfolded, draw, train)


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
    """The gated network, compiled if the recipe says so, or says ``auto`` and it pays."""
    with torch.random.fork_rng():  # a user's loader may draw its order here
        batch = to_device(next(train.epoch(0)), learning.device)
    gated = GatedNetwork(network, gates, groups, batch, steered=steered, batch_statistics=config.norm == "batch")
    gated.to(learning.device).to(memory_format=torch.channels_last).eval()
    own = even_slice(len(batch.images), rank(), world_size())
    batch = Batch(batch.images[own], batch.labels[own], batch.indices[own])
    compiled = config.compile
    if compiled == "auto":
        layers = sum(isinstance(module, _ConvNd | nn.Linear) for module in gated.modules())
        compiled = learning.device.type == "cpu" and pays_to_compile(
            config.steps, len(batch.images), cost.total, layers
        )
    if compiled:
        with learning.fabric.autocast():
            gated.compile_(batch, learning.progress)
    return gated


def _to_result(
    gates: Gates,
    cost: CostModel,
    budget: float,
    last: Mapping[str, float],
    temperature: float,
    curve: GateHistory,
    steps: int,
    extension: int,
) -> GateResult:
    hard_gates = gates.hard().double().requires_grad_()
    hard_cost = cost.of_values(hard_gates)
    (channel_costs,) = torch.autograd.grad(hard_cost, hard_gates)
    hard = max(float(hard_cost.detach()), 1.0)  # every gate may be closed
    channel = float(channel_costs.max()) / hard
    with torch.no_grad():
        soft = float(cost.of_values(gates(noise=0.0, temperature=temperature).double()))
    residual = float(residual_cost(torch.tensor(soft), torch.tensor(budget)))
    scores = {name: value.detach().cpu().clone() for name, value in gates.split(gates.theta).items()}
    return GateResult(
        scores,
        soft,
        hard,
        budget,
        residual,
        last["ce"],
        last.get("steer", 0.0),
        channel,
        curve.columns,
        steps,
        extension,
    )
