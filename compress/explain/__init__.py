"""Explanations: where in an image the classifier's evidence lies; amortized ones in one forward pass."""

from .amortized.explainers import AmortizedExplainer, RbfExplainer, RealXExplainer
from .amortized.heads import Head, RbfHead, RealXHead, rbf_saliency
from .amortized.learn import rbf_objective, train_selector
from .amortized.predictor import Predictor, new_predictor, rbf_masks, train_predictor
from .amortized.pyramid import Capture, FeatureScale, find_scales
from .amortized.quality import SelectorQuality, judge_selector, refuse_collapsed
from .amortized.rbf import REFERENCE_SIDE, rbf_map
from .amortized.realx import pixel_masks, realx_objective, realx_sample
from .amortized.selector import ExplainedClassifier, Selector
from .amortized.targets import (
    Drift,
    Targets,
    drift_between,
    drift_of,
    explanations,
    find_targets,
    squared_distance,
    to_targets,
)
from .attribution.prunegrad import PruneGrad, PrunePGD, Pruning, calibrate_percent
from .base import (
    CheckedExplainer,
    Explainer,
    Saliency,
    check_images,
    check_labels,
    explaining,
    signed_max_abs,
    to_inputs,
)
from .members import MEMBERS, Member, make_explainer, needs_weights
from .steering import STEERING, Quality, SteeringExplainer

__all__ = [
    "MEMBERS",
    "REFERENCE_SIDE",
    "STEERING",
    "AmortizedExplainer",
    "Capture",
    "CheckedExplainer",
    "Drift",
    "ExplainedClassifier",
    "Explainer",
    "FeatureScale",
    "Head",
    "Member",
    "Predictor",
    "PruneGrad",
    "PrunePGD",
    "Pruning",
    "Quality",
    "RbfExplainer",
    "RbfHead",
    "RealXExplainer",
    "RealXHead",
    "Saliency",
    "Selector",
    "SelectorQuality",
    "SteeringExplainer",
    "Targets",
    "calibrate_percent",
    "check_images",
    "check_labels",
    "drift_between",
    "drift_of",
    "explaining",
    "explanations",
    "find_scales",
    "find_targets",
    "judge_selector",
    "make_explainer",
    "needs_weights",
    "new_predictor",
    "pixel_masks",
    "rbf_map",
    "rbf_masks",
    "rbf_objective",
    "rbf_saliency",
    "realx_objective",
    "realx_sample",
    "refuse_collapsed",
    "signed_max_abs",
    "squared_distance",
    "to_inputs",
    "to_targets",
    "train_predictor",
    "train_selector",
]
