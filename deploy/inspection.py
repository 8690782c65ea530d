"""``slimsight inspect``: a model's channel groups, what is frozen and why, its costs, its smallest size; for a
budget, a plan by magnitude with its proof. Nothing is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimsight.compress.config import BudgetConfig, ModelConfig
from slimsight.compress.errors import ConfigError
from slimsight.compress.gates import CostModel, counted_limits, read_budget, smallest_macs
from slimsight.compress.macs import count_macs, count_params, size_bytes
from slimsight.compress.models import build_net, check_outputs
from slimsight.compress.models.adopt import adopt
from slimsight.compress.modes import double_precision, one_thread
from slimsight.compress.modules import copy_of, to_precision_
from slimsight.compress.progress import SILENT, Progress
from slimsight.compress.surgery import ChannelGraph, ProofCache, differences, shake_

from .channel_scores import rank_by_weights
from .run_dir import read_run
from .steps import choose_plan, find_groups, prove_slim, slim_copy, to_cost_model

Shape = tuple[int, int, int]

_IMAGES = 2
_LIMITED = ("macs", "params", "size")
_SEED = 0


@dataclass(frozen=True)
class InspectedLayer:
    """A layer and its MACs for one image."""

    name: str
    macs: int


@dataclass(frozen=True)
class PlanProof:
    """A plan by magnitude and the proof that it can be applied. MACs per image, seconds of surgery and proof.

    ``max_rel`` (float64) and ``max_rel_float32``: largest difference between closed gates and the slim model, relative
    to the largest value of the output, with random statistics in every batch normalisation. ``outputs``: ``max_rel`` of
    each output by its name.
    """

    macs: int
    macs_kept: float
    params: int
    max_rel: float
    max_rel_float32: float
    cost_model_macs: int
    fvcore_macs: int
    seconds: float
    outputs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Inspection:
    """See ``inspect_model``. ``seconds``: for tracing and proving the groups; ``layers``: largest MACs first.

    ``changes``: what of the network is not as it was given (``adopt``), a sentence each. ``outputs``: the shape of each
    tensor that the model returns, by its name. ``attention_macs``: products of activations with each other, which hold
    no weights, by operator; they are in none of the other figures.
    """

    model: str
    input: Shape
    macs: int
    params: int
    size_bytes: int
    groups: int
    frozen_groups: tuple[dict[str, str], ...]
    smallest_macs: int
    layers: tuple[InspectedLayer, ...]
    seconds: float
    plan: PlanProof | None = None
    changes: tuple[str, ...] = ()
    outputs: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    attention_macs: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``plan`` is null where no budget was given."""
        value = asdict(self)
        return {**value, "input": "x".join(map(str, self.input))}


def read_limits(texts: Sequence[str]) -> BudgetConfig:
    """``macs=50%``, ``params=1.2M``, ``size=2MB``: what a plan may cost at most.

    Raises:
        ConfigError: not of this form, another resource (latency would have to be measured), or another unit.
    """
    limits: dict[str, object] = {}
    for text in texts:
        name, equals, amount = (part.strip() for part in text.partition("="))
        if not equals or name not in _LIMITED:
            raise ConfigError(f"the budget is '{text}': give macs=50%, macs=900M, params=1.2M or size=2MB")
        limits[name] = amount
    return read_budget(**limits)


def load_model(name: str, classes: int, *, allow_code: bool = False) -> nn.Module:
    """Build the network called ``name`` with random weights; for a run directory, its original.

    Args:
        name: ``torchvision:NAME``, ``timm:NAME``, ``path/to/file.py:factory``, one of ours, or a run directory.
        allow_code: build a run's model from its file although that was not run here (see ``allowed_code``).

    Raises:
        ConfigError, ModelError, RunError: there is no such model, or it cannot be built.
    """
    if Path(name).is_dir():
        from .report import read_report
        from .run_dir.allowed_code import load_run_recipe

        run = read_run(Path(name))
        recipe = load_run_recipe(run, allow_code=allow_code)
        data = read_report(run.report_json).data if run.report_json.is_file() else None
        return build_net(recipe.model.model_copy(update={"weights": None}), data.classes if data else classes)
    return build_net(ModelConfig(name=name), classes)


def inspect_model(
    name: str,
    net: nn.Module,
    shape: Shape,
    *,
    budget: BudgetConfig | None = None,
    align: int = 1,
    limit: float = 300.0,
    proofs: ProofCache | None = None,
    progress: Progress = SILENT,
) -> Inspection:
    """Trace ``net``, prove its groups, count its costs; with a budget, apply a magnitude plan to a copy and prove it.

    Nothing of it depends on what the weights have learned. ``net`` is not changed.

    Args:
        shape: (C, H, W) of one image.
        budget: limits on MACs, parameters and bytes (``read_limits``).
        limit: seconds for the proof of the groups; what is not proven by then is frozen.
        proofs: where proofs are kept and looked up.

    Raises:
        ModelError: the model cannot be traced on such images (``check_outputs``).
        PruningError: its channels cannot be followed, or the budget is out of reach; the message says what is frozen.
    """
    started = time.monotonic()
    adopted = adopt(net)
    net = adopted.model.eval()
    for change in adopted.changes:
        progress.note(change)
    generator = torch.Generator().manual_seed(_SEED)
    images = torch.rand(_IMAGES, *shape, generator=generator)
    outputs = check_outputs(net, images)
    with one_thread():
        counted = count_macs(net, images[:1])
    graph = find_groups(net, images, limit=limit, progress=progress, announce=True, proofs=proofs)
    cost = to_cost_model(net, images, graph, counted=counted.total)
    dearest = sorted(counted.layers.items(), key=lambda item: -item[1])
    found = Inspection(
        model=name,
        input=shape,
        macs=counted.total,
        params=count_params(net),
        size_bytes=size_bytes(net),
        groups=len(graph.groups),
        frozen_groups=tuple({"name": group.name, "reason": group.reason} for group in graph.frozen),
        smallest_macs=smallest_macs(cost, align) if graph.groups else counted.total,
        layers=tuple(InspectedLayer(layer, macs) for layer, macs in dearest),
        seconds=time.monotonic() - started,
        changes=adopted.changes,
        outputs={output: (None, *shape[1:]) for output, shape in outputs.items()},
        attention_macs=counted.attention,
    )
    if budget is None:
        return found
    return replace(found, plan=_prove_plan(net, graph, cost, images, budget, align))


@one_thread()
def _prove_plan(
    net: nn.Module, graph: ChannelGraph, cost: CostModel, images: Tensor, budget: BudgetConfig, align: int
) -> PlanProof:
    """Apply a plan by magnitude to a copy and compare it with closed gates."""
    started = time.monotonic()
    limits = counted_limits(budget, cost)
    scores = rank_by_weights(net, graph, "magnitude")
    plan = choose_plan(cost, scores, limits, align=align, frozen=graph.frozen).plan
    wide = images.double()
    with double_precision():
        shaken = shake_(copy_of(net), wide, torch.Generator().manual_seed(_SEED)).requires_grad_(False)
        exact = differences(shaken, slim_copy(shaken, plan, wide), graph.groups, plan, wide)
    shaken = to_precision_(shaken, torch.float32)
    proof = prove_slim(shaken, slim_copy(shaken, plan, images), graph, cost, plan, images)
    return PlanProof(
        macs=cost.of_plan(plan),
        macs_kept=cost.of_plan(plan) / cost.total,
        params=proof.slim.params,
        max_rel=max(exact.values()),
        max_rel_float32=proof.max_rel,
        cost_model_macs=cost.of_plan(plan),
        fvcore_macs=proof.slim.macs,
        seconds=time.monotonic() - started,
        outputs=exact,
    )
