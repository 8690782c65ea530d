"""``slimsight explain``: explanations of a run's original and slim model on given images, side by side."""

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

from ..report.canvas import WRONG_MARK, refuse_foreign_pictures
from ..report.panels import DrawableMaps, PanelRow, draw_panel
from ..run.report_pictures import to_drawable
from ..run.session import Session
from .inputs import class_of_folder, picture_files, read_images

_CLASSES_SHOWN: Final = 3  # classes named with their probabilities
_BATCH: Final = 32


@dataclass(frozen=True)
class ModelPair:
    """The original and the slim classifier of a finished run, each with its trained explainer, if it has one."""

    original: Classifier
    slim: Classifier
    original_explained: ExplainedClassifier | None
    slim_explained: ExplainedClassifier | None

    @classmethod
    def of(cls, session: Session) -> ModelPair:
        """Load both models from the run's files.

        Raises:
            RunError: the run has no finished slim model.
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
    """Drift of an explainer's map of one image, from the original to the slim model; None where it is not defined."""

    explainer: str
    center_px: float | None
    region_iou: float | None
    spearman: float | None
    moved: bool | None


@dataclass(frozen=True)
class ImageComparison:
    """Predictions of both models for one image, and the drift of each explainer's map.

    Args:
        truth: the image's class, where it is known; ``explained``: the class that the maps explain.
        original: probability of each class (C,) by the original model; ``slim``: by the slim model.
        drifts: one for each explainer.
        picture: file of the panel.
    """

    path: Path
    truth: str | None
    explained: str
    original: NDArray[np.float64]
    slim: NDArray[np.float64]
    drifts: tuple[ExplainerDrift, ...]
    picture: Path


def compare_images(
    session: Session, models: ModelPair, paths: Sequence[Path], names: Sequence[str], *, truth: int | None, out: Path
) -> Iterator[ImageComparison]:
    """Draw a panel for each image in ``out``, and yield its comparison.

    Both models explain the same class: ``truth``, else the class that the image's folder is named after, else the
    original's prediction.

    Args:
        names: explainers that ``models`` has.

    Raises:
        DataError: an image cannot be read.
        ConfigError: a picture's file exists, and slimsight did not draw it.
    """
    classes = session.splits.classes
    pairs = [models.explainers(name) for name in names]
    files = picture_files(paths, out)
    refuse_foreign_pictures(files)
    images = read_images(paths, session.preprocessing)
    known = [truth if truth is not None else class_of_folder(path, classes) for path in paths]
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
    targets = torch.tensor(labels)
    maps = [(original.explain(images, targets), slim.explain(images, targets)) for original, slim in pairs]
    batch_drifts = [compare_maps(original, slim) for original, slim in maps]
    drawable = [(to_drawable(original), to_drawable(slim)) for original, slim in maps]
    for row, path in enumerate(paths):
        drifts = tuple(
            _explainer_drift(pair[0].name, drift, row) for pair, drift in zip(pairs, batch_drifts, strict=True)
        )
        truth = known[row]
        comparison = ImageComparison(
            path=path,
            truth=None if truth is None else classes[truth],
            explained=classes[labels[row]],
            original=before[row],
            slim=after[row],
            drifts=drifts,
            picture=files[row],
        )
        rows = [
            PanelRow(drift.explainer, a[row], b[row], drift_text(drift) + _uncertainty_text(a[row], b[row]))
            for drift, (a, b) in zip(drifts, drawable, strict=True)
        ]
        pixels = (images[row] * 255).round().byte().numpy()
        draw_panel(files[row], pixels, path.name, _panel_header(comparison, classes), rows)
        yield comparison


def drift_text(drift: ExplainerDrift) -> list[str]:
    """The figures of a drift, line by line."""
    if drift.region_iou is None:
        return ["both maps are constant"]
    if drift.center_px is None:
        return ["one of the maps is constant:", "the explanation is lost"]
    return [
        f"centre moved {drift.center_px:.1f} px",
        f"overlap of regions {100 * drift.region_iou:.0f} %",
        f"rank correlation {drift.spearman:.2f}",
        "top region moved" if drift.moved else "top region stayed",
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


def _panel_header(image: ImageComparison, classes: Sequence[str]) -> list[str]:
    lines = [f"true class: {image.truth or 'not known'}"]
    for name, probabilities in (("original", image.original), ("slim", image.slim)):
        wrong = image.truth is not None and classes[int(probabilities.argmax())] != image.truth
        lines.append(f"{WRONG_MARK if wrong else ''}{name}: {top_classes(probabilities, classes)}")
    return [*lines, f"explained: {image.explained}"]
