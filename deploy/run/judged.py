"""What a run's verdict judges accuracy by, and where images have no labels agreement with the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..budget import AccuracyFacts, AgreementFacts, SlimmingFacts
from ..report.int8 import SLIM_INT8, Int8Figures
from ..report.parts import AgreementFigures, TestAgreementFigures
from ..report.schema import GatesFigures, ModelFigures
from ..report.shares import wilson
from .session import Session


def accuracy_facts(
    session: Session,
    metrics: Mapping[str, Mapping[str, Any]],
    models: tuple[ModelFigures, ModelFigures],
    gates: GatesFigures,
) -> AccuracyFacts | None:
    """What accuracy is judged by; None where the recipe leaves it unjudged."""
    recipe, (original, slim) = session.recipe, models
    if recipe.checks.accuracy_drop is None or not session.labelled:
        return None
    judged = metrics["judgement"]
    return AccuracyFacts(
        original=original.val_accuracy,
        slim=slim.val_accuracy,
        images=judged["val_images"],
        classes=len(session.splits.classes),
        majority=judged["val_majority"],
        drop_max=recipe.checks.accuracy_drop,
        made=_made(session, metrics, models, gates),
    )


def agreement_facts(
    session: Session,
    metrics: Mapping[str, Mapping[str, Any]],
    models: tuple[ModelFigures, ModelFigures],
    gates: GatesFigures,
    found: AgreementFigures,
) -> AgreementFacts | None:
    """What agreement is judged by; None with labels, or where the recipe leaves it unjudged."""
    least = session.recipe.checks.agreement
    if least is None or session.labelled:
        return None
    return AgreementFacts(found, least, _made(session, metrics, models, gates))


def _made(
    session: Session,
    metrics: Mapping[str, Mapping[str, Any]],
    models: tuple[ModelFigures, ModelFigures],
    gates: GatesFigures,
) -> SlimmingFacts:
    """How the slim model was made."""
    recipe, finetune, (original, slim) = session.recipe, session.recipe.finetune, models
    return SlimmingFacts(
        kept=slim.macs / original.macs,
        limits=tuple(recipe.budget.limits),
        epochs=finetune.epochs,
        steps=finetune.epochs * -(-len(session.splits.train) // finetune.batch_size),
        lr=finetune.lr,
        recalibrated=metrics["finetune"][f"recalibrated_val_{session.score}"],
        distill=finetune.distill,
        steer=gates.steer,
        gate_steps=None if gates.steps is None else recipe.gates.steps,
        converged=gates.converged,
        taken_back="taken_back" in metrics["finetune"],
    )


def agreement_figures(session: Session, metrics: Mapping[str, Mapping[str, Any]]) -> AgreementFigures:
    judged = metrics["judgement"]
    top1, images = judged["val_same_top1"], judged["val_images"]
    low, high = wilson(top1, images)
    if session.labelled:
        return AgreementFigures(top1=top1, images=images, low=low, high=high)
    share, count = judged["test_agreement"], judged["test_images"]
    test_low, test_high = wilson(share, count)
    return AgreementFigures(
        top1=top1,
        images=images,
        low=low,
        high=high,
        chance=judged["val_majority"],
        gated=metrics["surgery"]["gated_val_agreement"],
        test=TestAgreementFigures(top1=share, images=count, low=test_low, high=test_high),
    )


def int8_figures(metrics: Mapping[str, Mapping[str, Any]]) -> Int8Figures | None:
    """INT8 files and their proofs, with what the judgement found on test images; None: no INT8 file was asked for."""
    if "int8" not in metrics["export"]:
        return None
    made, test = metrics["export"]["int8"], metrics["judgement"].get("int8_test")
    files = [row | {"test": test} if row["artifact"] == SLIM_INT8 and test else row for row in made["files"]]
    return Int8Figures(**{**made, "files": files})
