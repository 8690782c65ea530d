"""Stages that make the slim model: selection and surgery with its proof, then finetuning."""

from __future__ import annotations

import copy
import math
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from slimsight.compress.explain import ExplainedClassifier
from slimsight.compress.files.atomic import atomic_path, read_tensors
from slimsight.compress.finetune import Steering, train_classifier
from slimsight.compress.gates import Selection, check_budget, select_fast
from slimsight.compress.models import Classifier
from slimsight.compress.parallel.processes import rank
from slimsight.compress.surgery import PrunePlan
from slimsight.compress.training import (
    Learning,
    StatisticsScores,
    evaluate,
    following_statistics,
    keep_better_statistics_,
    recalibrate_bn,
)

from ...report.units import as_error, as_macs, as_percent, plural
from ...steps import choose_plan, classifier_of, prove_slim
from ...timing.plan_latency import select_timed
from ..session import Outcome, Session
from .preflight import fixed_align

EXACTNESS_IMAGES = 64


def surgery(session: Session, learning: Learning) -> Outcome:
    """Choose a plan from scores and budgets, remove the channels, prove the result."""
    scores = read_tensors(session.stage_file("gates", "scores.safetensors"))
    selection = _select(session, scores)
    plan = selection.plan
    if selection.gap > 0.01:
        session.progress.note(
            f"the plan is {as_percent(selection.gap, 1)} below its budget: whole channels in the multiples allowed "
            "come no nearer"
        )
    original, network = session.network(), session.slimmed(plan)
    images = session.some_images(EXACTNESS_IMAGES)
    proof = prove_slim(original, network, session.graph, session.cost, plan, images)
    dense, slim = proof.original.macs, proof.slim.macs
    score = evaluate(classifier_of(network).to(learning.device), session.plain(session.splits.val, learning.flow))
    learning.progress.note(
        f"MACs: {as_macs(dense)} -> {as_macs(slim)} ({as_percent(slim / dense)} kept); logits differ from closed gates "
        f"by {as_error(proof.max_rel)}; {session.score_text} before finetuning {as_percent(score.accuracy)}"
    )
    plan_path = session.stage_file("surgery", "plan.json")
    plan.save(plan_path)
    kept = [{"group": name, "total": plan.widths[name], "kept": len(channels)} for name, channels in plan.kept.items()]
    return Outcome(
        {
            "original": asdict(proof.original),
            "slim": asdict(proof.slim),
            "limits": session.limits,
            f"gated_val_{session.score}": score.accuracy,
            "gated_vs_slim_max_rel": proof.max_rel,
            "cost_model_macs": session.cost.of_plan(plan),
            "fvcore_macs": slim,
            "channels": kept,
            "frozen_groups": [{"name": g.name, "reason": g.reason} for g in session.graph.frozen],
            "frozen_channels": [{"group": g.name, "total": g.channels} for g in session.graph.frozen],
        },
        [plan_path],
    )


def _select(session: Session, scores: dict[str, Tensor]) -> Selection:
    """Choose the plan, by layer times if the budget asks for it; under a latency limit its model is exported, timed."""
    budget, limits = session.recipe.budget, session.limits
    if not budget.timed:
        fixed = fixed_align(budget)
        return choose_plan(session.cost, scores, limits, align=fixed, rank_weight=budget.rank_weight)
    with session.timer() as timer:
        cost, liked = timer.timed_cost(session.cost)
        if budget.align == "auto":
            session.progress.note(f"align: {_plan_text(liked)}")
        align = liked if budget.align == "auto" else fixed_align(budget)
        aim = None
        if budget.latency_aware and limits.get("macs", math.inf) < cost.total:
            check_budget(cost, limits, fixed_align(budget), frozen=session.graph.frozen)
            fast = select_fast(cost, scores, budget=limits, align=align, rank_weight=budget.rank_weight)
            aim = fast.used["latency"]
            session.progress.note(
                f"chosen by layer times: {as_percent(fast.used['macs'] / cost.total, 1)} of the MACs, "
                f"{as_percent(aim / cost.totals['latency'], 1)} of the time by the layers' times"
            )
            if budget.latency is None:
                return fast
        if budget.latency is None:
            return choose_plan(session.cost, scores, limits, align=align, rank_weight=budget.rank_weight)
        timed = select_timed(
            cost,
            scores,
            limits,
            budget.latency,
            timer,
            align=align,
            rank_weight=budget.rank_weight,
            most=aim,
            precision_ratio=timer.precision_ratio(),
            progress=session.progress,
        )
    return timed.selection


def _plan_text(align: Mapping[str, int]) -> str:
    """``multiples of 16 in 12 groups, of 8 in 1 group``."""
    counts = Counter(align.values())
    listed = [f"of {multiple} in {plural(count, 'group')}" for multiple, count in sorted(counts.items(), reverse=True)]
    return f"multiples {', '.join(listed)}"


def finetune(session: Session, learning: Learning) -> Outcome:
    """Recalibrate batch normalisation, finetune, recalibrate again; the better statistics go into the slim model.

    Without labels the model before finetuning goes into it, if that agrees more: few images may teach it nothing.
    """
    config, splits = session.recipe.finetune, session.splits
    plan_path = session.stage_file("surgery", "plan.json")
    network = session.slimmed(PrunePlan.load(plan_path)).to(learning.device)
    slim = classifier_of(network)
    batches = session.shuffled(splits.train, config.batch_size, learning.flow, crop=True, flip=True)
    validation = session.plain(splits.val, learning.flow)
    if session.labelled:
        recalibrate_bn(slim, batches, config.recalibrate_batches)
        score = evaluate(slim, validation)
    else:  # a few hundred images may give worse statistics than those that the original's channels came with
        score = keep_better_statistics_(slim, batches, config.recalibrate_batches, validation).better
    metrics: dict[str, Any] = {f"recalibrated_val_{session.score}": score.accuracy}
    begun, before = score, None if session.labelled else copy.deepcopy(slim.state_dict())
    if config.epochs:
        teacher = session.classifier().to(learning.device) if config.distill else None
        steering = _steering(session, network)
        updates = config.epochs * len(batches) * session.recipe.accumulate
        with following_statistics(slim, updates) as raised:
            train_classifier(
                slim,
                batches,
                learning,
                config=config,
                teacher=teacher,
                steering=steering,
                what="finetune",
                score=session.score,
            )
        found = keep_better_statistics_(slim, batches, config.recalibrate_batches, validation)
        score = found.better
        metrics["statistics"] = _figures(found, raised, session.score)
        learning.progress.note(_statistics_text(found, session.score_text))
        if before is not None and (score.accuracy, -score.loss) < (begun.accuracy, -begun.loss):
            slim.load_state_dict(before)
            learning.progress.note(
                f"finetuning lowered it from {as_percent(begun.accuracy)} to {as_percent(score.accuracy)} and is taken "
                "back: give more images, or lower finetune.lr"
            )
            score, metrics["taken_back"] = begun, True
    metrics[f"val_{session.score}"] = score.accuracy
    learning.progress.note(f"slim model: {session.score_text} {as_percent(score.accuracy)}")
    run = session.run
    session.write(run.slim_model, slim.state_dict())
    if rank() == 0:
        with atomic_path(run.plan) as part:
            shutil.copyfile(plan_path, part)
    files = [run.slim_model, run.plan]
    if isinstance(network, ExplainedClassifier):
        session.write(run.slim_explainer, network.selector.state_dict(), network.selector.head.metadata)
        files.append(run.slim_explainer)
    return Outcome(metrics, files)


def _figures(found: StatisticsScores, momentum: float | None, score: str) -> dict[str, Any]:
    """``momentum``: given meanwhile to batch normalisations whose own is too small for the schedule."""
    exact = found.recalibrated
    figures = {f"running_val_{score}": found.running.accuracy, "running_val_loss": found.running.loss}
    if exact is not None:
        figures |= {f"recalibrated_val_{score}": exact.accuracy, "recalibrated_val_loss": exact.loss}
    return {**figures, "kept": found.kept} | ({} if momentum is None else {"momentum": momentum})


def _statistics_text(found: StatisticsScores, score: str) -> str:
    running = f"{score} {as_percent(found.running.accuracy)} with the running statistics of finetuning"
    if found.recalibrated is None:
        return running
    return f"{running}, {as_percent(found.recalibrated.accuracy)} with exact ones: the {found.kept} ones are kept"


def _steering(session: Session, network: ExplainedClassifier | Classifier) -> Steering | None:
    weight = session.recipe.finetune.steer_weight
    if not weight:
        return None
    if session.refusal is not None:
        session.progress.note("finetune: not steered, the run goes on without its explainer")
        return None
    assert isinstance(network, ExplainedClassifier), "the recipe was refused otherwise"
    targets = session.targets()
    original = session.explained().to(session.fabric.device)
    return Steering(original, network, weight, None if targets is None else targets.unit)
