"""The Python API: slim a model of your own with loaders of your own.

    import slimsight

    traced = slimsight.trace(model, example)                      # channel groups, each proven
    traced = slimsight.explain(traced, train_loader, val_loader)  # optional: gates are then steered by explanations
    scores = slimsight.learn_gates(traced, train_loader, macs=0.5)
    plan = slimsight.select(traced, scores, macs=0.5, align=8, latency_aware=True)
    slimmed = slimsight.slim(traced, plan, train_loader)          # with batch-norm statistics of its own
    ...                                                           # finetune slimmed.model in your own loop
    slimsight.recalibrate(slimmed, train_loader)                  # the statistics of the weights that were learned
    slimsight.save(slimmed, "slim")
    model = slimsight.load("slim")                                # needs torch only, not the code of the model

The model is never changed: every step works on copies; only ``recalibrate`` changes what it is given. Loaders yield
(images, labels), the images as the model takes them (normalised, if it was trained so). Images alone do for gates,
which then learn from what the model itself predicts, and for batch-norm statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimsight.compress.config import ExplainerConfig, GatesConfig
from slimsight.compress.data import LoaderBatches, TensorBatches, first_images
from slimsight.compress.errors import ConfigError, PruningError
from slimsight.compress.explain import STEERING, ExplainedClassifier, find_targets
from slimsight.compress.gates import check_budget, counted_limits, read_budget, select_fast
from slimsight.compress.gates.importance import needs_gradients
from slimsight.compress.gates.scope import inner_groups
from slimsight.compress.inputs import Example, Packing, check_example, first_rows
from slimsight.compress.models import Classifier, check_outputs
from slimsight.compress.models.adopt import adopt
from slimsight.compress.modules import copy_of
from slimsight.compress.outputs import ROOT
from slimsight.compress.progress import SILENT, Progress
from slimsight.compress.surgery import PrunePlan
from slimsight.compress.training import Learning, logits_of, make_fabric

from .channel_scores import rank_by_weights, score_channels
from .host import default_cache
from .recalibrate import RECALIBRATE_BATCHES, check_count, recalibrate, refuse_several_inputs
from .settings.latency import LatencyConfig
from .slim_folder import Slimmed, load, save
from .steps import (
    JOINED,
    PROOF_IMAGES,
    choose_plan,
    classifier_of,
    find_groups,
    join_explainer,
    learn_predictor,
    learn_selector,
    prove_slim,
    slim_copy,
    to_cost_model,
)
from .timing.plan_latency import PlanTimer
from .traced_model.traced import Traced

__all__ = [
    "Scores",
    "Slimmed",
    "Traced",
    "explain",
    "learn_gates",
    "load",
    "recalibrate",
    "save",
    "select",
    "slim",
    "trace",
]

Scores = Mapping[str, Tensor]
"""What each channel is worth: (channels,) for every group, comparable across groups."""

_JOINED_NET = JOINED + "net."
"""Prefix of the model's layers in the network that also explains it."""

_EXACT = 1e-4


def trace(
    model: nn.Module, example: Example, *, scope: Literal["all", "inner"] = "all", progress: Progress = SILENT
) -> Traced:
    """Find the channel groups of ``model`` and prove each by a dry run.

    Args:
        model: images (N, C, H, W) -> logits (N, classes), or any nest of tensors; ``adopt`` makes our copy of it, in
            eval mode, on the CPU.
        example: (N, C, H, W) a few real images, as the model takes them; of a model with several inputs a tuple (by
            place) or a dict (by keyword) of tensors with a row for each image.
        scope: ``inner`` leaves residual streams (what blocks add to) whole; ``all`` lets them shrink too.

    Raises:
        ConfigError: another scope.
        ModelError: the example is none, or the model cannot be traced on it (``check_outputs``).
        PruningError: its channels cannot be followed.
    """
    if scope not in ("all", "inner"):
        raise ConfigError(f"the scope is '{scope}'; allowed: 'all' and 'inner'")
    given = first_rows(check_example(example), PROOF_IMAGES)
    adopted = adopt(model)
    model = adopted.model.eval().requires_grad_(False)
    for change in adopted.changes:
        progress.note(change)
    packing = None if isinstance(given, Tensor) else Packing.of(given)
    images = given if isinstance(given, Tensor) else Packing.of(given).pack(given)
    if packing is not None:
        packing.attach_(model)
    outputs = check_outputs(model, images)
    logits = outputs.get(ROOT, ())
    graph = find_groups(model, images, progress=progress)
    if scope == "inner":
        graph = inner_groups(graph)
    return Traced(
        model,
        images,
        graph,
        to_cost_model(model, images, graph),
        logits[1] if len(logits) == 2 else None,
        scope,
        changes=adopted.changes,
        outputs=outputs,
        packing=packing,
    )


def explain(
    traced: Traced,
    train: Iterable[Any],
    val: Iterable[Any],
    *,
    kind: str = "rbf",
    config: ExplainerConfig | None = None,
    progress: Progress = SILENT,
) -> Traced:
    """Train an amortized explainer of the model; gates learned from here on are steered by it.

    Args:
        train, val: loaders of (images, labels); square images, one size.
        kind: ``rbf`` (ISP Eq. 7 and 8), ``realx`` (REAL-X) or ``varsal`` (VarSal).

    Raises:
        ConfigError: no such explainer, a target area that ``rbf`` cannot cover, or the prior of ``varsal`` cannot be
            on images of this size.
        DataError: ``varsal`` and images of less than 8 pixels.
        ModelError: the model has no feature maps to explain with.
        ExplainerRefused: a PruningError: the explainer collapsed, or is no better than centred masks of the same area.
        TrainingError: its training diverged.
    """
    explainer, config = STEERING.get(kind), config or ExplainerConfig()
    classes = traced.logits
    classifier = Classifier(copy_of(traced.model), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).eval()
    network = join_explainer(classifier, traced.example, classes, explainer.head)
    explainer.check(config, traced.example.shape[-1])
    learning = Learning(make_fabric(), progress=progress)
    network.to(learning.device)
    batches, validation = LoaderBatches(train, traced.expected), LoaderBatches(val, traced.expected)
    trained = learn_predictor(explainer, classifier, batches, validation, learning, config)
    predictor = None if trained is None else trained[0]
    learn_selector(explainer, network, predictor, batches, validation, learning, config)
    network.cpu().to(memory_format=torch.contiguous_format)
    graph = find_groups(network, traced.example, prefix=_JOINED_NET, progress=progress)
    if traced.scope == "inner":
        graph = inner_groups(graph)
    cost = to_cost_model(traced.model, traced.example, graph, prefix=_JOINED_NET)
    return replace(traced, graph=graph, cost=cost, explained=network)


def learn_gates(
    traced: Traced,
    loader: Iterable[Any],
    *,
    macs: float | str = 0.5,
    images: int = 2500,
    config: GatesConfig | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Learn what each channel is worth under a budget (ISP Eq. 10); steered if ``traced`` has an explainer.

    Args:
        loader: gives the images that gates learn on: the first ``images`` of it are kept in memory. Of a loader without
            labels (images, or (images,)) the gates keep the model's own predictions, by KL in place of cross entropy.
        macs: the budget: a share to keep (0.5 or "50%") or a number of MACs (20e6 or "20M").

    Raises:
        DataError: the loader gives something else than images or (images, labels).
        PruningError: the budget is out of reach, or the gates did not converge.
    """
    budget = counted_limits(read_budget(macs=macs), traced.cost)["macs"]
    check_budget(traced.cost, budget, frozen=traced.graph.frozen)
    config = config or GatesConfig.model_validate({"steer": _kind(traced) or "none"})
    if config.learned or needs_gradients(config.steer):
        traced.check_learnable()
    if config.scope != "all":
        raise ConfigError(f"gates.scope is {config.scope}: give it to trace(model, example, scope='inner') instead")
    if not config.learned and not needs_gradients(config.steer):
        torch.manual_seed(seed)
        return rank_by_weights(_joint(traced), traced.graph, config.steer)
    if config.explainer is not None and config.explainer != _kind(traced):
        there = f"the explainer is {_kind(traced)}" if traced.explained is not None else "there is no explainer"
        raise ConfigError(
            f"gates.steer is {config.steer} and {there}: call explain(kind='{config.steer}') first, "
            "or take steer='none'"
        )
    learning = Learning(make_fabric(), progress=progress)
    network = _joint(traced).to(learning.device)
    pixels, given = first_images(loader, images, traced.expected)
    labels = _predictions(network, pixels, config.batch_size) if given is None else given
    targets = None
    if config.explainer is not None:
        assert isinstance(network, ExplainedClassifier)
        ordered = TensorBatches(pixels, labels, config.batch_size, shuffle=False)
        targets = find_targets(network, ordered, progress=progress)
    torch.manual_seed(seed)
    train = TensorBatches(pixels, labels, config.batch_size, seed=seed)
    scored = score_channels(
        network,
        traced.graph,
        traced.cost,
        train,
        learning,
        config=config,
        budget=budget,
        targets=targets,
        from_labels=given is not None,
    )
    if scored.learned is not None and not scored.learned.converged:
        raise PruningError(
            f"{scored.learned.in_words()}; raise gates.steps (now {config.steps}) or gates.cost_weight (now "
            f"{config.cost_weight:g})"
        )
    return scored.of


def _predictions(network: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """(N,) the classes that the classifier of ``network`` predicts."""
    unlabelled = TensorBatches(images, torch.zeros(len(images), dtype=torch.int64), batch_size, shuffle=False)
    return logits_of(classifier_of(network), unlabelled).argmax(1)


def select(
    traced: Traced,
    scores: Scores,
    *,
    macs: float | str | None = 0.5,
    params: float | str | None = None,
    size: float | str | None = None,
    align: int = 1,
    latency_aware: bool = False,
) -> PrunePlan:
    """The channels that budgets keep: never above any of them, widths in multiples of ``align``.

    Args:
        macs, params, size: at least one: a share to keep (0.5 or "50%") or an amount ("20M", "1.2MB"); None: no limit.
        latency_aware: within ``macs``, choose by layer times, measured here in ONNX Runtime on one thread of the CPU.

    Raises:
        ConfigError: no budget, or one that means nothing.
        PruningError: nothing can shrink, or a budget is out of reach (the message names the smallest).
    """
    given = read_budget(macs=macs, params=params, size=size, latency_aware=latency_aware or None)
    limits = counted_limits(given, traced.cost)
    if not latency_aware:
        return choose_plan(traced.cost, scores, limits, align=align, frozen=traced.graph.frozen).plan
    check_budget(traced.cost, limits, align, frozen=traced.graph.frozen)
    timer = PlanTimer(
        traced.model,
        lambda plan: slim_copy(traced.model, plan, traced.example),
        traced.example,
        LatencyConfig(),
        default_cache(),
    )
    with timer:
        cost, _ = timer.timed_cost(traced.cost)
    return select_fast(cost, scores, budget=limits, align=align).plan


def slim(
    traced: Traced, plan: PrunePlan, loader: Iterable[Any] | None = None, *, batches: int = RECALIBRATE_BATCHES
) -> Slimmed:
    """Remove what ``plan`` does not keep from a copy of the model (and of its explainer), and prove it.

    The slim model comes in eval mode, on the CPU, all its parameters ready to be trained.

    Args:
        loader: shuffled training images, with labels or without: the model's batch-norm statistics, which are still
            those of the original, are taken anew from the first ``batches`` of it (``recalibrate``). None: they stay.

    Raises:
        ConfigError, DataError: see ``recalibrate``.
        PruningError: the plan does not fit the model, or the slim model does not compute what closed gates do.
    """
    check_count(batches)
    if loader is not None:
        refuse_several_inputs(traced.packing)
    network = _joint(traced)
    prefix = "" if traced.explained is None else _JOINED_NET
    twin = slim_copy(network, plan, traced.example, prefix=prefix)
    proof = prove_slim(network, twin, traced.graph, traced.cost, plan, traced.example)
    if not proof.max_rel <= _EXACT:
        raise PruningError(
            f"the slim model's outputs differ by {proof.max_rel:.1e} (relative) from the original's with closed gates, "
            f"{_EXACT:.0e} is allowed: please report this model"
        )
    explained = twin if isinstance(twin, ExplainedClassifier) else None
    model = twin.classifier.net if isinstance(twin, ExplainedClassifier) else twin
    model.requires_grad_(True)  # it was traced frozen
    example: Example = traced.example[:1]
    if traced.packing is not None:
        model, example = traced.packing.detach_(model), traced.packing.unpack(traced.example[:1])
    slimmed = Slimmed(model, plan, example, proof.slim.macs, proof.max_rel, explained, proof.outputs)
    if loader is not None:
        recalibrate(slimmed, loader, batches=batches)
    return slimmed


def _kind(traced: Traced) -> str | None:
    """The name of its explainer, if it has one."""
    return traced.explained.selector.head.kind if traced.explained is not None else None


def _joint(traced: Traced) -> nn.Module:
    """A private copy of what is traced together."""
    return copy_of(traced.explained if traced.explained is not None else traced.model).eval()
