"""What a run's two models look at in images of anyone's: explanations side by side, and the pictures of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimsight.compress.errors import ConfigError, RunError
from slimsight.compress.explain import (
    EXPLAINERS,
    STEERING,
    AmortizedExplainer,
    ExplainedClassifier,
    Explainer,
    make_explainer,
    needs_weights,
)
from slimsight.compress.explain.fidelity.drift import ImageDrifts, compare_maps
from slimsight.compress.models import Classifier
from slimsight.compress.registry import nearest

from ..report.canvas import WRONG_MARK
from ..report.panels import DrawableMaps, PanelRow, draw_panel
from ..run.report_pictures import to_drawable
from ..run.session import Session
from .inputs import class_of_folder, picture_files, read_images

_CLASSES_SHOWN: Final = 3  # classes named with their probabilities
_BATCH: Final = 32


@dataclass(frozen=True)
class ModelPair:
    """A finished run's two classifiers, each with the explainer that it was slimmed with, if it has one."""

    original: Classifier
    slim: Classifier
    original_explained: ExplainedClassifier | None
    slim_explained: ExplainedClassifier | None

    @classmethod
    def of(cls, session: Session) -> ModelPair:
        """From the run's files.

        Raises:
            RunError: the run has not got that far.
        """
        run = session.run
        if run.record("finetune") is None:
            raise RunError(f"{run.root} has no finished slim model yet; run 'slimsight run' again to complete it")
        slim, slim_explained = session.slim()
        explained = session.explained() if slim_explained is not None else None
        return cls(session.classifier() if explained is None else explained.classifier, slim, explained, slim_explained)

    @property
    def own(self) -> str | None:
        """Name of the explainer that the run trained."""
        return self.slim_explained.selector.head.kind if self.slim_explained is not None else None

    def explainers(self, name: str) -> tuple[Explainer, Explainer]:
        """The explainer ``name`` of the original and of the slim model.

        Raises:
            ConfigError: this run has no such explainer; those it has are named.
        """
        if name == self.own:
            assert self.original_explained is not None
            assert self.slim_explained is not None
            return AmortizedExplainer(self.original_explained), AmortizedExplainer(self.slim_explained)
        choices = [*([self.own] if self.own else []), *(other for other in EXPLAINERS if not needs_weights(other))]
        if name not in choices:
            learned = name in STEERING or (name in EXPLAINERS and needs_weights(name))
            what = f"explainer '{name}' is learned, and this run has none" if learned else f"unknown explainer '{name}'"
            hint = "" if learned else nearest(name, choices)
            raise ConfigError(f"{what}{hint} (choose from: {', '.join(choices)})")
        return make_explainer(name, self.original), make_explainer(name, self.slim)


@dataclass(frozen=True)
class ExplainerDrift:
    """One explainer on one image: how far it moved."""

    explainer: str
    center_px: float | None
    region_iou: float | None
    spearman: float | None
    moved: bool | None


@dataclass(frozen=True)
class ImageComparison:
    """One image as both models see it.

    Args:
        truth: its class, where somebody said so; ``explained``: the class that the maps are of.
        original: probability of each class (C,); ``slim`` the same.
        picture: the panel's file.
    """

    path: Path
    truth: str | None
    explained: str
    original: NDArray[np.float64]
    slim: NDArray[np.float64]
    compared: tuple[ExplainerDrift, ...]
    picture: Path


def compare_images(
    session: Session, models: ModelPair, paths: Sequence[Path], names: Sequence[str], *, truth: int | None, out: Path
) -> Iterator[ImageComparison]:
    """A panel per image in ``out``, one after the other.

    The class explained, to both models alike, is the image's own: ``truth``, else the one that its folder is called
    by; where neither says it, the one that the original predicts.

    Args:
        names: explainers, each of which ``models`` has.

    Raises:
        DataError: an image cannot be read.
    """
    classes = session.splits.classes
    pairs = [models.explainers(name) for name in names]
    images = read_images(paths, session.splits.image_size)
    known = [truth if truth is not None else class_of_folder(path, classes) for path in paths]
    files = picture_files(paths, out)
    for start in range(0, len(paths), _BATCH):
        part = slice(start, start + _BATCH)
        yield from _compare_batch(models, images[part], paths[part], known[part], files[part], pairs, classes)


def _compare_batch(
    models: ModelPair,
    images: Tensor,
    paths: Sequence[Path],
    known: Sequence[int | None],
    files: Sequence[Path],
    pairs: Sequence[tuple[Explainer, Explainer]],
    classes: Sequence[str],
) -> Iterator[ImageComparison]:
    with torch.inference_mode():
        before, after = (model.eval()(images).double().softmax(1).numpy() for model in (models.original, models.slim))
    labels = [int(row.argmax()) if label is None else label for row, label in zip(before, known, strict=True)]
    asked = torch.tensor(labels)
    said = [(ours.explain(images, asked), theirs.explain(images, asked)) for ours, theirs in pairs]
    drifts = [compare_maps(ours, theirs) for ours, theirs in said]
    looks = [(to_drawable(ours), to_drawable(theirs)) for ours, theirs in said]
    for row, path in enumerate(paths):
        compared = tuple(_explainer_drift(pair[0].name, drift, row) for pair, drift in zip(pairs, drifts, strict=True))
        truth = known[row]
        found = ImageComparison(
            path=path,
            truth=None if truth is None else classes[truth],
            explained=classes[labels[row]],
            original=before[row],
            slim=after[row],
            compared=compared,
            picture=files[row],
        )
        rows = [
            PanelRow(
                each.explainer,
                pair[0][row],
                pair[1][row],
                drift_text(each) + _uncertainty_text(pair[0][row], pair[1][row]),
            )
            for each, pair in zip(compared, looks, strict=True)
        ]
        pixels = (images[row] * 255).round().byte().numpy()
        draw_panel(files[row], pixels, path.name, _panel_header(found, classes), rows)
        yield found


def drift_text(found: ExplainerDrift) -> list[str]:
    """The figures of one explainer, line by line."""
    if found.region_iou is None:
        return ["neither map says anything"]
    if found.center_px is None:
        return ["one of the maps says nothing:", "the explanation is lost"]
    return [
        f"centre moved {found.center_px:.1f} px",
        f"overlap of regions {100 * found.region_iou:.0f} %",
        f"rank correlation {found.spearman:.2f}",
        "top region moved" if found.moved else "top region stayed",
    ]


def _uncertainty_text(original: DrawableMaps, slim: DrawableMaps) -> list[str]:
    if original.uncertainty is None or slim.uncertainty is None:
        return []
    return [f"std up to {original.uncertainty.max():.2g} (original), {slim.uncertainty.max():.2g} (slim)"]


def _explainer_drift(name: str, drift: ImageDrifts, row: int) -> ExplainerDrift:
    def number(values: Tensor) -> float | None:
        return None if values[row].isnan() else float(values[row])

    moved = number(drift.moved)
    return ExplainerDrift(
        name,
        number(drift.center_px),
        number(drift.region_iou),
        number(drift.spearman),
        None if moved is None else moved > 0,
    )


def top_classes(probabilities: NDArray[np.float64], classes: Sequence[str], count: int = _CLASSES_SHOWN) -> str:
    """``cat 0.93, dog 0.05``: the most probable classes."""
    best = np.argsort(-probabilities, kind="stable")[:count]
    return ", ".join(f"{classes[index]} {probabilities[index]:.2f}" for index in best)


def _panel_header(found: ImageComparison, classes: Sequence[str]) -> list[str]:
    lines = [f"true class: {found.truth or 'not known'}"]
    for name, probabilities in (("original", found.original), ("slim", found.slim)):
        wrong = found.truth is not None and classes[int(probabilities.argmax())] != found.truth
        lines.append(f"{WRONG_MARK if wrong else ''}{name}: {top_classes(probabilities, classes)}")
    return [*lines, f"explained: {found.explained}"]
