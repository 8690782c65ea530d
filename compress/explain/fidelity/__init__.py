"""The papers' tests of whether an explanation can be trusted.

They take maps (N, H, W) of the classes that the classifier predicts (``explain_images``, and its ``importance``), so
that every explainer, and the control ``random``, goes through the same: only the sanity check remakes explainers.
Removed pixels are zero after normalisation (mean grey). Ties are broken by a seeded draw (``to_ranks``).
"""

from .boxes import BoxScore, box_score
from .drift import ImageDrift, ImageDrifts, MapDrift, compare_maps, drift_by, drift_of_numbers
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
from .ranking import constant, explain_images, predicted, to_ranks
from .roar import Roar, RoarPoint, roar
from .sanity import LIKENESS, Sanity, SanityStep, sanity_check

__all__ = [
    "LIKENESS",
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
    "constant",
    "drift_by",
    "drift_of_numbers",
    "explain_images",
    "insertion_deletion",
    "paired",
    "pixel_perturbation",
    "predicted",
    "roar",
    "sanity_check",
    "tile_degradation",
    "to_ranks",
]
