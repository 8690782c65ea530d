"""Published tests of the fidelity of explanations: perturbation, insertion and deletion, sanity checks, ROAR, boxes.

They take maps (N, H, W) of the predicted classes (``explain_images``, and its ``importance``), so that all explainers
and the controls are tested alike; only the sanity check rebuilds explainers. Removed pixels are zero after
normalisation (mean grey). Ties are broken by a seeded draw (``to_ranks``).
"""

from .boxes import BoxScore, box_score
from .drift import ImageDrift, ImageDrifts, MapDrift, compare_maps, drift_of_numbers, explainer_drift
from .estimate import Curve, Estimate, paired
from .perturbation import (
    SIDES,
    STEPS,
    InsertionDeletion,
    Perturbation,
    TileDegradation,
    insertion_deletion,
    pixel_perturbation,
    tile_degradation,
)
from .ranking import explain_images, is_constant, predicted_classes, to_ranks
from .roar import Roar, RoarPoint, roar
from .sanity import MAX_SIMILARITY, Sanity, SanityStep, sanity_check

__all__ = [
    "MAX_SIMILARITY",
    "SIDES",
    "STEPS",
    "BoxScore",
    "Curve",
    "Estimate",
    "ImageDrift",
    "ImageDrifts",
    "InsertionDeletion",
    "MapDrift",
    "Perturbation",
    "Roar",
    "RoarPoint",
    "Sanity",
    "SanityStep",
    "TileDegradation",
    "box_score",
    "compare_maps",
    "drift_of_numbers",
    "explain_images",
    "explainer_drift",
    "insertion_deletion",
    "is_constant",
    "paired",
    "pixel_perturbation",
    "predicted_classes",
    "roar",
    "sanity_check",
    "tile_degradation",
    "to_ranks",
]
