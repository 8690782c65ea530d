"""Explanations: where in an image the classifier's evidence lies; amortized ones in one forward pass."""

from .amortized.heads import Head, RbfHead, RealXHead, rbf_saliency
from .amortized.learn import rbf_objective, train_selector
from .amortized.predictor import (
    Predictor,
    PredictorQuality,
    judge_predictor,
    new_predictor,
    rbf_masks,
    refuse_constant,
    train_predictor,
)
from .amortized.pyramid import Capture, FeatureScale, find_scales
from .amortized.quality import SelectorQuality, judge_selector, refuse_collapsed
from .amortized.rbf import REFERENCE_SIDE, rbf_map
from .amortized.realx import pixel_masks, realx_objective, realx_sample
from .amortized.selector import AmortizedExplainer, ExplainedClassifier, RbfExplainer, RealXExplainer, Selector
from .amortized.targets import (
    Drift,
    DriftChance,
    Targets,
    drift_chance,
    explanations,
    find_targets,
    head_drift,
    rbf_drift,
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
    eval_with_gradients,
    signed_max_abs,
    to_inputs,
)
from .members import EXPLAINERS, ExplainerFactory, make_explainer, needs_weights
from .steering import STEERING, Quality, SteeringExplainer

__all__ = [
    "EXPLAINERS",
    "REFERENCE_SIDE",
    "STEERING",
    "AmortizedExplainer",
    "Capture",
    "CheckedExplainer",
    "Drift",
    "DriftChance",
    "ExplainedClassifier",
    "Explainer",
    "ExplainerFactory",
    "FeatureScale",
    "Head",
    "Predictor",
    "PredictorQuality",
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
    "drift_chance",
    "eval_with_gradients",
    "explanations",
    "find_scales",
    "find_targets",
    "head_drift",
    "judge_predictor",
    "judge_selector",
    "make_explainer",
    "needs_weights",
    "new_predictor",
    "pixel_masks",
    "rbf_drift",
    "rbf_map",
    "rbf_masks",
    "rbf_objective",
    "rbf_saliency",
    "realx_objective",
    "realx_sample",
    "refuse_collapsed",
    "refuse_constant",
    "signed_max_abs",
    "squared_distance",
    "to_inputs",
    "to_targets",
    "train_predictor",
    "train_selector",
]
