"""Stages that learn: classifier, predictor, selector, targets, gates."""

from __future__ import annotations

import hashlib
import random
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimsight.compress.data import Batches
from slimsight.compress.errors import ExplainerRefused, TrainingError
from slimsight.compress.explain import explanations, to_targets
from slimsight.compress.finetune import train_classifier
from slimsight.compress.gates import select
from slimsight.compress.gates.widths import Align
from slimsight.compress.models import Classifier
from slimsight.compress.parallel.processes import on_leader
from slimsight.compress.training import (
    Learning,
    Score,
    evaluate,
    following_statistics,
    keep_better_statistics_,
)

from ...channel_scores import rank_by_weights, score_channels
from ...report.units import as_percent
from ...steps import learn_predictor, learn_selector
from ...timing.plan_latency import AIM
from ..refusal import Refusal
from ..session import PREDICTIONS, Outcome, Session
from .preflight import check_countable_limits, fixed_align

_BACKBONE_STATISTICS = 50
"""Batches that exact statistics of a trained backbone are taken from."""


def classifier(session: Session, learning: Learning) -> Outcome:
    """The original classifier: from given weights, trained here, or trained from a backbone's weights."""
    recipe = session.recipe
    model, backbone = session.new_classifier()
    model.to(learning.device)
    if not session.labelled:
        return _without_labels(session, learning, model)
    val = session.plain(session.splits.val, learning.flow)
    metrics: dict[str, Any] = {}
    if backbone is not None:
        session.progress.note(f"backbone: {backbone.in_words()}")
        metrics["backbone"] = asdict(backbone)
        score = _train_on_backbone(session, learning, model, val)
    else:
        if recipe.model.trained:
            train_classifier(model, _training_batches(session, learning), learning, config=recipe.model.train)
        score = evaluate(model, val, device=learning.device)
    session.progress.note(f"original: validation accuracy {as_percent(score.accuracy)}")
    path = session.stage_file("classifier", "model.safetensors")
    session.write(path, model.state_dict())
    return Outcome({"val_accuracy": score.accuracy, "val_loss": score.loss, **metrics}, [path])


def _without_labels(session: Session, learning: Learning, model: Classifier) -> Outcome:
    """The original as it was given, and what it predicts of training and validation images."""
    opened = session.opened
    train, val = (session.predicted(model, images, learning.flow) for images in (opened.train, opened.val))
    counts = np.bincount(val.labels, minlength=len(session.classes))
    session.progress.note(
        f"original: predicts {np.count_nonzero(counts):,} of its {len(session.classes):,} classes on "
        f"{len(val):,} validation images, the most frequent on {as_percent(counts.max() / len(val))} of them; these "
        "predictions take the place of labels"
    )
    path = session.stage_file("classifier", "model.safetensors")
    session.write(path, model.state_dict())
    predictions = session.stage_file("classifier", PREDICTIONS)
    session.write(predictions, {"train": torch.from_numpy(train.labels), "val": torch.from_numpy(val.labels)})
    return Outcome({}, [path, predictions])


def _training_batches(session: Session, learning: Learning) -> Batches:
    batch_size = session.recipe.model.train.batch_size
    return session.shuffled(session.splits.train, batch_size, learning.flow, crop=True, flip=True)


def _train_on_backbone(session: Session, learning: Learning, model: Classifier, val: Batches) -> Score:
    """Train a backbone under its new head; the better batch-norm statistics stay.

    Backbones come with momenta for schedules of millions of steps: in a short training their running statistics would
    still be those of other images.
    """
    config, batches = session.recipe.model.train, _training_batches(session, learning)
    with following_statistics(model, config.epochs * len(batches) * session.recipe.accumulate):
        train_classifier(model, batches, learning, config=config)
    return keep_better_statistics_(model, batches, _BACKBONE_STATISTICS, val).better


def predictor(session: Session, learning: Learning) -> Outcome:
    """Train q_pred on randomly masked images (ISP Eq. 7)."""
    config, splits = session.recipe.explainer, session.splits
    original = session.classifier().to(learning.device)
    train = session.shuffled(session.explainer_images(), config.predictor.batch_size, learning.flow, flip=True)
    val = session.plain(splits.val, learning.flow)
    try:
        trained = learn_predictor(session.explainer, original, train, val, learning, config)
    except (ExplainerRefused, TrainingError) as error:
        return Outcome(Refusal.of("predictor", error).to_metrics(), [])
    assert trained is not None, "there is no such stage otherwise"
    model, history = trained
    path = session.stage_file("predictor", "predictor.safetensors")
    session.write(path, model.state_dict())
    return Outcome({"val_kl": history.best, "epochs": len(history.epochs)}, [path])


def selector(session: Session, learning: Learning) -> Outcome:
    """Train f_sel at the target area (ISP Eq. 8). One that explains nothing is refused: the record says why."""
    if (refusal := session.refusal_before("selector")) is not None:
        return Outcome(refusal.to_metrics(), [])
    config, splits, explainer = session.recipe.explainer, session.splits, session.explainer
    network, predictor = session.new_explained().to(learning.device), session.predictor()
    if predictor is not None:
        predictor.to(learning.device)
    train = session.shuffled(session.explainer_images(), explainer.batch_size(config), learning.flow, flip=True)
    val = session.plain(splits.val, learning.flow)
    try:
        quality, history = learn_selector(explainer, network, predictor, train, val, learning, config)
    except (ExplainerRefused, TrainingError) as error:
        return Outcome(Refusal.of("selector", error).to_metrics(), [])
    path = session.stage_file("selector", "selector.safetensors")
    session.write(path, network.selector.state_dict(), network.selector.head.metadata)
    return Outcome({**quality.to_dict(), "epochs": len(history.epochs)}, [path])


def targets(session: Session, learning: Learning) -> Outcome:
    """Compute C_x of every image that gates learn on, from the unpruned network; refused if all are the same."""
    if (refusal := session.refusal_before("targets")) is not None:
        return Outcome(refusal.to_metrics(), [])
    path = session.stage_file("targets", "targets.safetensors")
    network = session.explained().to(learning.device)
    batches = session.plain(session.gate_images(), learning.flow)
    found = explanations(network, batches, stored=True, progress=learning.progress)
    try:
        to_targets(network.selector.head, found)
    except ExplainerRefused as error:
        return Outcome(Refusal.of("targets", error).to_metrics(), [])
    session.write(path, {session.explainer.head.kind: found})
    return Outcome({"images": batches.count}, [path])


def gates(session: Session, learning: Learning) -> Outcome:
    """Score every channel, by learned gates or by the weights; gates are not steered by an explainer that was refused.

    Gates that do not reach the budget are kept as they are: ``surgery`` selects down to it by their scores.
    """
    config = session.recipe.gates
    if config.explainer is not None and session.refusal is not None:
        config = config.model_copy(update={"steer": "none"})
    cost = session.cost
    check_countable_limits(session.recipe.budget, cost, session.graph)  # joining the explainer may have frozen groups
    path = session.stage_file("gates", "scores.safetensors")
    scores = score_channels(
        session.network().to(learning.device) if config.learned else session.network(),
        session.graph,
        cost,
        session.shuffled(session.gate_images(), config.batch_size, learning.flow),
        learning,
        config=config,
        budget=_macs_target(session) if config.learned else cost.total,
        targets=session.targets(),
        from_labels=session.labelled,
    )
    session.write(path, scores.of)
    if scores.learned is None:
        return Outcome({"steer": config.steer}, [path])
    found = scores.learned
    if not found.converged:
        session.progress.note("channels are selected by the gates' scores as they are, down to the budget")
    learned = {**found.to_dict(), "converged": found.converged, "history": found.history}
    if not found.converged:
        learned["why"] = found.in_words()
    return Outcome({"steer": config.steer, "learned": learned}, [path])


def _macs_target(session: Session) -> float:
    """The MACs budget of the recipe; without one, the MACs of a magnitude plan within its other budgets."""
    budget, limits = session.recipe.budget, session.limits
    if "macs" in limits:
        return limits["macs"]
    scores = rank_by_weights(session.network(), session.graph, "magnitude")
    if budget.latency is None:
        align = fixed_align(budget)
        return float(select(session.cost, scores, budget=limits, align=align, rank_weight=budget.rank_weight).macs)
    return on_leader(lambda: _timed_macs_target(session, scores))


def _timed_macs_target(session: Session, scores: dict[str, Tensor]) -> float:
    """The MACs of a magnitude plan within the latency budget too, by layer times measured here."""
    budget = session.recipe.budget
    assert budget.latency is not None
    with session.timer() as timer:
        cost, liked = timer.timed_cost(session.cost)
        total = cost.totals["latency"]
        allowed = budget.latency.of(total / timer.precision_ratio())
        if budget.precision == "int8":  # INT8 alone may hold the limit already
            allowed = min(allowed, AIM * total)
        every = {**session.limits, "latency": allowed}
        align: Align = liked if budget.align == "auto" else fixed_align(budget)
        return float(select(cost, scores, budget=every, align=align, rank_weight=budget.rank_weight).macs)


def seed_stage(seed: int, stage: str) -> None:
    """Seed all random generators from the recipe's seed and the stage's name, whatever ran before in this process.

    No stage draws from numpy's and Python's own generators, but a user's model may.
    """
    digest = hashlib.sha256(f"{seed} {stage}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big"))
    np.random.seed(int.from_bytes(digest[8:12], "big"))  # noqa: NPY002
    random.seed(digest)
