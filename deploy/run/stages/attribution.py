"""What original and slim model look at, by an explainer that steers nothing, beside its chance level."""

from __future__ import annotations

from typing import Any, Final

import torch

from slimsight.compress.errors import DataError, ModelError
from slimsight.compress.explain.attribution.references import GradCam
from slimsight.compress.explain.fidelity.chance import DriftAgainstChance, drift_against_chance
from slimsight.compress.models import Classifier
from slimsight.compress.training import Learning

from ...report.units import as_percent, plural
from ..session import Session

ATTRIBUTED_IMAGES: Final = 256
"""Validation images, spread over the classes, whose maps are compared; at most."""

_BATCH = 32


def attribution(original: Classifier, slim: Classifier, session: Session, learning: Learning) -> dict[str, Any]:
    """How far Grad-CAM's maps moved, which steer nothing, and how far those of different images are apart.

    Of the class that the original predicts; the reason, where the models have no feature maps or maps cannot be
    compared.
    """
    images = session.some_images(ATTRIBUTED_IMAGES).to(learning.device)
    name = GradCam.name
    if len(images) < 2:
        return {"explainer": name, "reason": "there is one validation image"}
    original, slim = original.to(learning.device), slim.to(learning.device)
    with torch.inference_mode():
        labels = torch.cat([original(part).argmax(1) for part in torch.split(images, _BATCH)])
    try:
        found = drift_against_chance(
            GradCam(original), GradCam(slim), images, labels.clone(), progress=learning.progress
        )
    except (ModelError, DataError) as error:
        learning.progress.note(f"what the models look at was not compared: {error}")
        return {"explainer": name, "reason": str(error)}
    drift, chance = found.drift, found.chance
    if drift.region_iou.mean is not None and chance.mean is not None:
        learning.progress.note(
            f"Grad-CAM's maps of {plural(drift.images, 'image')}: overlap {as_percent(drift.region_iou.mean)}, maps of "
            f"different images {as_percent(chance.mean)}"
        )
    return drift_figures(found)


def drift_figures(found: DriftAgainstChance) -> dict[str, Any]:
    """Figures of ``AttributionFigures`` in report.json."""
    drift = found.drift
    estimates = {"region_iou": drift.region_iou, "spearman": drift.spearman, "moved": drift.moved}
    estimates |= {"chance": found.chance, "share": found.share}
    figures = {key: estimate.to_dict() for key, estimate in estimates.items()}
    return {"explainer": drift.explainer, "images": drift.images, **figures}
