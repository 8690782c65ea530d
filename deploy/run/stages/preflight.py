"""Checks before anything is trained: model, groups, budget, explainer, export. A run fails here, not after hours."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from slimsight.compress.config import BudgetConfig
from slimsight.compress.errors import ExportError
from slimsight.compress.explain import find_scales
from slimsight.compress.gates import (
    CostModel,
    as_amount,
    check_budget,
    counted_limits,
    smallest_macs,
    steps_needed,
)
from slimsight.compress.models import Classifier
from slimsight.compress.surgery import ChannelGraph
from slimsight.export.int8.calibration import spread_rows
from slimsight.export.int8.control import check_control_images
from slimsight.export.int8.qat import check_trainable
from slimsight.export.pt2.export import trace
from slimsight.export.runners import import_onnxruntime
from slimsight.export.to_onnx import export_onnx

from ...host import check_batches_fit
from ...report.units import as_macs, as_ms, as_percent
from ...settings.recipe import Recipe
from ...steps import to_cost_model
from ...timing.plan_latency import check_timing
from ..processes import batch_sizes
from ..session import Session
from .int8 import control_rows


@dataclass(frozen=True)
class Preflight:
    """Result of the preflight. ``limits``: the budget by resource; ``classifier``: untrained.

    ``gate_steps``: about how many steps the gates need to come to the budget; None: none are learned.
    """

    macs: int
    smallest: int
    groups: int
    limits: Mapping[str, float]
    classifier: Classifier
    proof_seconds: float
    gate_steps: int | None = None


def preflight(session: Session) -> Preflight:
    """Build the classifier and check what later stages need: groups, budget, feature maps, an exportable graph.

    None of it depends on trained weights.

    Raises:
        ModelError: the model or its weights do not fit, or it has no feature maps for an explainer.
        ConfigError, DataError: a batch does not fit into memory, the explainer's settings do not fit the images, or a
            test image is broken.
        PruningError: nothing can shrink, or the budget is out of reach.
        ExportError: the model cannot be traced, or the INT8 files that are asked for cannot be made.
        RuntimeMissing: ONNX Runtime, or the runtime that times models, is missing or cannot be imported.
    """
    recipe = session.recipe
    import_onnxruntime()  # every run compares its files in it, in the end
    check_timing(recipe.latency, plans=recipe.budget.timed)
    side, most = session.opened.image_size, len(session.opened.train)
    sizes = {name: min(size, most) for name, size in batch_sizes(recipe).items()}  # as batches are made
    qat = recipe.export.int8.qat
    if recipe.export.quantised and qat.epochs:
        sizes["export.int8.qat.batch_size"] = min(qat.batch_size, most)
    check_batches_fit(sizes | {"latency.batch": recipe.latency.batch}, (3, side, side))
    if recipe.data.decode == "once":
        session.opened.decode_test()  # only the judgement opens them
    classifier = session.new_classifier()[0].eval()
    for change in classifier.changes:
        session.progress.note(change)
    started = time.monotonic()
    graph = session.find_groups(classifier)
    proof_seconds = time.monotonic() - started
    cost = to_cost_model(classifier, session.example, graph)
    limits, align = counted_limits(recipe.budget, cost), fixed_align(recipe.budget)
    check_countable_limits(recipe.budget, cost, graph)
    if recipe.explainer.enabled:
        find_scales(classifier, session.example)
        session.explainer.check(recipe.explainer, session.opened.image_size)
    trace(classifier, session.example)
    if recipe.export.quantised:
        check_int8(session, classifier)
    smallest = smallest_macs(cost, align)
    shares = [
        f"{as_amount(name, limit)} ({as_percent(limit / cost.totals[name], 1)})" for name, limit in limits.items()
    ]
    if (latency := recipe.budget.latency) is not None:
        shares.append(f"{as_percent(latency.value, 1)} of the latency" if latency.relative else as_ms(latency.value))
    session.progress.note(
        f"model: {as_macs(cost.total)} MACs, {len(graph.groups)} channel groups that can shrink, down to "
        f"{as_macs(smallest)}; the budget is {' and '.join(shares)}"
    )
    needed = _gate_steps(recipe, limits, cost)
    if needed is not None and (warning := few_gate_steps(recipe.gates.steps, needed)):
        session.progress.note(f"WARNING: {warning}")
    return Preflight(cost.total, smallest, len(graph.groups), limits, classifier, proof_seconds, needed)


def check_int8(session: Session, classifier: Classifier) -> None:
    """Check that the recipe's INT8 files can be made.

    Raises:
        ExportError: too few training images, a model without a convolution, or one with operators that are not
            trained with rounding where that is asked for.
    """
    total, config = len(session.opened.train), session.recipe.export.int8
    calibrated = spread_rows(total, config.images)
    if config.accuracy_control.limits:
        check_control_images(len(control_rows(total, calibrated, config.accuracy_control.images)))
    if not any(isinstance(module, nn.Conv2d) for module in classifier.modules()):
        raise ExportError(
            f"model '{session.recipe.model.name}' has no convolution, and export.precision has int8: INT8 files are "
            "made of convolutional networks; take int8 out of export.precision"
        )
    if session.recipe.dynamic.enabled:
        session.progress.note(
            "the dynamic variant stays in FP32: onnxruntime.quantization leaves the branches of its routed form alone; "
            "INT8 files are of the slim model"
        )
    if config.qat.epochs:
        with TemporaryDirectory(prefix="slimsight-qat-") as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(classifier, session.example, path, opset=session.recipe.export.opset)
            check_trainable(path, session.recipe.model.name)


def _gate_steps(recipe: Recipe, limits: Mapping[str, float], cost: CostModel) -> int | None:
    """About how many steps the gates need; None: none are learned. A latency budget alone counts as half the MACs."""
    if not recipe.gates.learned:
        return None
    binding = {"macs": limits["macs"]} if "macs" in limits else limits
    share = min((limit / cost.totals[name] for name, limit in binding.items()), default=0.5)
    return steps_needed(recipe.gates, share) if share < 1 else None


def few_gate_steps(steps: int, needed: int) -> str:
    """A warning that ``gates.steps`` may not be enough; empty where it is."""
    if steps >= needed:
        return ""
    return (
        f"gates.steps is {steps:,}, and about {needed:,} are needed to bring this network's gates to its budget: raise "
        "it; else they go on for up to as many steps again, and are then selected by their scores as they are"
    )


def fixed_align(budget: BudgetConfig) -> int:
    """The recipe's channel multiple; 1 for ``auto``, where it is measured later."""
    return 1 if budget.align == "auto" else budget.align


def check_countable_limits(budget: BudgetConfig, cost: CostModel, graph: ChannelGraph) -> None:
    """Check that the countable limits (all but latency) are within reach.

    Raises:
        PruningError: nothing can shrink or would, or a limit is out of reach.
    """
    limits = counted_limits(budget, cost)
    if budget.latency is not None:  # the others need not bind
        limits = {name: limit for name, limit in limits.items() if limit < cost.totals[name]}
    if limits:
        check_budget(cost, limits, fixed_align(budget), frozen=graph.frozen)
