"""Assemble report.json from the stages' metrics, and draw the pictures of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from slimsight.compress.config import BudgetConfig, GatesConfig
from slimsight.compress.data.lists import read_skip
from slimsight.compress.explain.varsal import VarSalHead
from slimsight.compress.files.untrusted import printable

from ..budget import run_checks
from ..device import kept_figures
from ..machine import device_name, versions
from ..report import Report
from ..report.canvas import draw_strip
from ..report.files import Strip, write_strips
from ..report.inputs import DataFigures, PreprocessingFigures
from ..report.markdown import CHANNELS_PICTURE, SALIENCY_PICTURE
from ..report.parts import (
    BackboneFigures,
    DynamicFigures,
    ExplainerFigures,
    GateHistoryFigures,
    ModelInfo,
    RankingFigures,
    SelectorFigures,
    SigmaPx,
    StatisticsFigures,
    TrainingFigures,
)
from ..report.parts_explained import AttributionFigures
from ..report.pictures import draw_channels, draw_row, draw_saliency
from ..report.schema import (
    BudgetFigures,
    ChannelsKept,
    Exactness,
    FrozenGroupFigures,
    GatedFigures,
    GatesFigures,
    LatencyFigures,
    ModelFigures,
    ParityRow,
    SaliencyFigures,
    StageFigures,
)
from ..run_dir import StageRecord
from .judged import accuracy_facts, agreement_facts, agreement_figures, int8_figures
from .session import Session

PICTURED = 12
_NAMED_SKIPPED = 10


def assemble_report(session: Session, name: str, records: Mapping[str, StageRecord], reused: Sequence[str]) -> Report:
    """Build the report from the ``records`` of finished stages; ``name`` is the recipe's file name."""
    recipe, splits = session.recipe, session.splits
    metrics: dict[str, Mapping[str, Any]] = {stage: record.metrics for stage, record in records.items()}
    cut, judged = metrics["surgery"], metrics["judgement"]
    original = ModelFigures(
        **cut["original"],
        val_accuracy=metrics["classifier"].get("val_accuracy"),
        test_accuracy=judged.get("original_test_accuracy"),
    )
    slim = ModelFigures(
        **cut["slim"],
        val_accuracy=metrics["finetune"].get("val_accuracy"),
        test_accuracy=judged.get("slim_test_accuracy"),
    )
    exactness = Exactness(
        gated_vs_slim_max_rel=cut["gated_vs_slim_max_rel"],
        cost_model_macs=cut["cost_model_macs"],
        fvcore_macs=cut["fvcore_macs"],
        groups=len(cut["channels"]),
        frozen_groups=tuple(FrozenGroupFigures(**group) for group in cut["frozen_groups"]),
    )
    dynamic = _dynamic(metrics)
    written = [metrics[stage]["parity"] for stage in ("export", "dynamic_export") if stage in metrics]
    parity = tuple(ParityRow(**row) for rows in written for row in rows)
    latency = tuple(LatencyFigures(**row) for row in metrics["latency"]["latency"])
    budget = _budget(recipe.budget, cut["limits"], slim)
    skipped = () if recipe.data.skip is None else tuple(sorted(read_skip(recipe.data.skip)))
    gates = _gates(metrics["gates"], recipe.gates, slim.macs)
    explainer, int8 = _explainer(session), int8_figures(metrics)
    agreement = agreement_figures(session, metrics)
    return Report(
        recipe=name,
        created=datetime.now(UTC),
        versions=versions(),
        device=device_name(),
        seed=recipe.seed,
        model=_model(session, metrics["classifier"]),
        data=DataFigures(
            source=recipe.data.source,
            train=len(splits.train),
            val=len(splits.val),
            test=judged["test_images"],
            classes=len(splits.classes),
            image_size=splits.image_size,
            skipped=len(skipped),
            skipped_names=tuple(printable(path, 500) for path in skipped[:_NAMED_SKIPPED]),
            preprocessing=_preprocessing(session),
            val_majority=judged["val_majority"] if session.labelled else None,
            labels=None if session.labelled else "none",
        ),
        original=original,
        slim=slim,
        agreement=agreement,
        gated=GatedFigures(val_accuracy=cut["gated_val_accuracy"]) if session.labelled else None,
        statistics=_statistics(metrics["finetune"]),
        gates=gates,
        explainer=explainer,
        budget=budget,
        exactness=exactness,
        channels=(*(ChannelsKept(**row) for row in cut["channels"]), *_frozen_channels(cut)),
        dynamic=dynamic,
        parity=parity,
        latency=latency,
        int8=int8,
        devices=kept_figures(session.run, session.progress) or None,
        saliency=_saliency(metrics),
        attribution=AttributionFigures(**judged["attribution"]) if "attribution" in judged else None,
        stages=tuple(
            StageFigures(name=stage, seconds=record.seconds, reused=stage in reused)
            for stage, record in records.items()
        ),
        verdict=run_checks(
            slim=slim,
            budget=budget,
            exactness=exactness,
            accuracy=accuracy_facts(session, metrics, (original, slim), gates),
            agreement=agreement_facts(session, metrics, (original, slim), gates, agreement),
            labelled=session.labelled,
            dynamic=dynamic,
            parity=parity,
            latency=latency,
            int8=None if int8 is None else int8.slim,
            notes=tuple(_notes(gates, explainer, metrics["gates"])),
        ),
    )


def _notes(gates: GatesFigures, explainer: ExplainerFigures | None, metrics: Mapping[str, Any]) -> Iterator[str]:
    """What was not done as the recipe asks: a sentence each, for the verdict."""
    if explainer is not None and not explainer.used:
        asked = f"gates.steer {gates.steer_asked} was asked for" if gates.steer_asked else "no drift was measured"
        what = "The gates were NOT steered by explanations" if gates.steer_asked else "Explanations were NOT compared"
        yield f"{what}: {asked}, and {explainer.reason}."
    if gates.converged is False:
        yield (
            f"The gates did NOT reach the budget by themselves ({metrics['learned']['why']}): channels were selected "
            "by their scores as they were, down to the budget."
        )


def _explainer(session: Session) -> ExplainerFigures | None:
    """The explainer and why it is not used; None: the recipe asks for none."""
    if not session.recipe.explainer.enabled:
        return None
    kind, refusal = session.explainer.head.kind, session.refusal
    if refusal is None:
        return ExplainerFigures(kind=kind, used=True)
    return ExplainerFigures(
        kind=kind,
        used=False,
        reason=refusal.why,
        stage=refusal.stage,
        stopped_after=refusal.step,
        planned_steps=refusal.steps,
        seconds_saved=refusal.seconds_saved,
    )


def _preprocessing(session: Session) -> PreprocessingFigures:
    """As the session preprocesses; mean and std are those of the classifier: weights may bring their own."""
    made, normalize = session.preprocessing, session.classifier().normalize
    mean, std = (tuple(float(f"{value:.7g}") for value in part.flatten()) for part in (normalize.mean, normalize.std))
    return PreprocessingFigures(
        resize=made.resize,
        crop=made.side,
        stretch=made.stretch,
        interpolation=made.interpolation,
        mean=mean,
        std=std,
        words=made.words,
    )


def _model(session: Session, metrics: Mapping[str, Any]) -> ModelInfo:
    model, backbone = session.recipe.model, None
    if "backbone" in metrics:
        found = metrics["backbone"]
        backbone = BackboneFigures(taken=len(found["taken"]), made=tuple(found["made"]), left=tuple(found["left"]))
    training = None
    if model.trained:
        images = len(session.splits.train)
        steps = model.train.epochs * (images // min(model.train.batch_size, images))
        training = TrainingFigures(epochs=model.train.epochs, steps=steps, optimizer=model.train.optimizer)
    weights = model.weights.name if isinstance(model.weights, Path) else model.weights
    return ModelInfo(
        name=_short(model.name),
        weights=None if weights is None else printable(weights, 500),
        backbone=backbone,
        training=training,
    )


def _budget(budget: BudgetConfig, limits: Mapping[str, float], slim: ModelFigures) -> BudgetFigures:
    macs, latency = limits.get("macs"), budget.latency
    return BudgetFigures(
        macs_max=macs,
        macs_used=None if macs is None else slim.macs / macs,
        params_max=limits.get("params"),
        size_max=limits.get("size"),
        latency_ms_max=latency.value if latency is not None and not latency.relative else None,
        latency_ratio_max=latency.value if latency is not None and latency.relative else None,
        latency_precision=budget.precision,
    )


def _statistics(metrics: Mapping[str, Any]) -> StatisticsFigures | None:
    """None: nothing was finetuned, finetuning was taken back, or an earlier version finetuned."""
    if "statistics" not in metrics or "taken_back" in metrics:
        return None
    return StatisticsFigures(**{"running_val_accuracy": None, **metrics["statistics"]})


def _short(model: str) -> str:
    """Strip folders from a model's name: ``nets/mine.py:factory`` -> ``mine.py:factory``."""
    return Path(model).name if ".py:" in model else model


def _frozen_channels(cut: Mapping[str, Any]) -> Iterator[ChannelsKept]:
    for row in cut["frozen_channels"]:
        yield ChannelsKept(group=row["group"], total=row["total"], kept=row["total"])


def _gates(metrics: Mapping[str, Any], config: GatesConfig, macs: int) -> GatesFigures:
    """``macs``: of the plan that was selected."""
    asked = None if metrics["steer"] == config.steer else config.steer
    if "learned" not in metrics:
        return GatesFigures(steer=metrics["steer"], hard_macs=macs)
    learned = metrics["learned"]
    # An earlier version's stage kept no history, and was refused where the gates did not converge.
    history = GateHistoryFigures(**learned["history"]) if "history" in learned else None
    return GatesFigures(
        steer=metrics["steer"],
        steer_asked=asked,
        steps=learned.get("steps", config.steps),
        extension=learned.get("extension") or None,
        soft_macs=learned["soft_macs"],
        hard_macs=macs,
        converged=learned.get("converged", True),
        history=history,
    )


def _dynamic(metrics: Mapping[str, Mapping[str, Any]]) -> DynamicFigures | None:
    if "dynamic" not in metrics:
        return None
    learned, written = metrics["dynamic"], metrics["dynamic_export"]
    names = ("macs_max", "macs_mean", "val_accuracy", "verification")
    return DynamicFigures(
        **{name: learned[name] for name in names},
        **{name: written[name] for name in ("masks", "branches", "route_agreement")},
        test_accuracy=metrics["judgement"]["dynamic_test_accuracy"],
    )


def _saliency(metrics: Mapping[str, Mapping[str, Any]]) -> SaliencyFigures | None:
    if "saliency" not in metrics["judgement"]:
        return None
    found, quality = metrics["judgement"]["saliency"], metrics["selector"]
    if found["explainer"] == VarSalHead.kind:
        figures = RankingFigures(**{name: quality[name] for name in RankingFigures.model_fields})
        return SaliencyFigures(**found, ranking=figures)
    names = SelectorFigures.model_fields.keys() & quality.keys()  # an earlier version measured fewer
    sigma = SigmaPx(p10=quality["sigma_p10"], median=quality["sigma_median"], p90=quality["sigma_p90"])
    selector = SelectorFigures(**{name: quality[name] for name in names}, sigma_px=sigma)
    return SaliencyFigures(**found, selector=selector)


def draw_pictures(session: Session, cut: Mapping[str, Any]) -> None:
    """channels.png, and where the run has an explainer saliency.png and its strips, into the run directory.

    Args:
        cut: the surgery stage's metrics.
    """
    root = session.run.root
    reasons = {group["name"]: group["reason"] for group in cut["frozen_groups"]}
    bars: list[tuple[str, int, int, str | None]] = [
        (row["group"], row["total"], row["kept"], None) for row in cut["channels"]
    ]
    bars += [(row["group"], row["total"], row["total"], reasons[row["group"]]) for row in cut["frozen_channels"]]
    draw_channels(root / CHANNELS_PICTURE, bars)
    _, slim = session.slim()
    if slim is None:
        return
    original = session.explained()
    images, head = session.some_images(PICTURED), slim.selector.head
    with torch.inference_mode():
        logits, before = original(images)
        labels = logits.argmax(1)
        slim_logits, after = slim(images, labels)
        maps_before, maps_after = head.to_maps(before), head.to_maps(after)
        grey = slim.classifier.normalize.mean.view(1, -1, 1, 1)
        remains = images * maps_after + grey * (1 - maps_after)
    pictures = (
        _bytes(images),
        maps_before[:, 0].numpy(),
        maps_after[:, 0].numpy(),
        _bytes(remains),
    )
    predicted, truth = slim_logits.argmax(1).tolist(), session.some_labels(PICTURED).tolist()
    classes = session.splits.classes
    names, wrong = [classes[label] for label in predicted], [p != t for p, t in zip(predicted, truth, strict=True)]
    draw_saliency(root / SALIENCY_PICTURE, *pictures, names, wrong=wrong)
    strips = []
    for row, name in enumerate(names):
        label = "true class" if session.labelled else "original's class"
        lines = [f"{label}: {classes[truth[row]]}"] if wrong[row] else []
        strip = Strip(
            file=f"explained-{row + 1:02d}.webp",
            title=f"predicted: {name}",
            lines=tuple(lines),
            wrong=wrong[row],
            columns=("image", "original", "slim", "what remains"),
        )
        draw = partial(_draw_cells, [part[row] for part in pictures])
        strips.append((strip, draw_strip(4, (images.shape[2], images.shape[3]), draw)))
    write_strips(root, "explained", strips)


def _draw_cells(pictures: Sequence[Any], cells: Sequence[Axes]) -> None:
    draw_row(cells, *pictures)


def _bytes(images: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray((images * 255).round().clamp(0, 255).byte().numpy())
