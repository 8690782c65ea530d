"""Explanations: where in an image the classifier's evidence lies; amortized ones in one forward pass."""

from .amortized import AmortizedExplainer, RbfExplainer, RealXExplainer
from .base import Explainer, Saliency
from .checked import CheckedExplainer, check_images, check_labels, explaining, signed_max_abs, to_inputs
from .drift import Drift, drift_between, drift_of, explanations
from .heads import Head, RbfHead, RealXHead, rbf_saliency
from .learn import rbf_objective, train_selector
from .members import MEMBERS, Member, make_explainer, needs_weights
from .predictor import Predictor, new_predictor, rbf_masks, train_predictor
from .prunegrad import PruneGrad, PrunePGD, Pruning, calibrate_percent
from .pyramid import Capture, Scale, find_scales
from .quality import SelectorQuality, judge_selector, refuse_collapsed
from .rbf import REFERENCE_SIDE, rbf_map
from .realx import pixel_masks, realx_objective, realx_sample
from .selector import ExplainedClassifier, Selector
from .steering import STEERING, Quality, SteeringExplainer
from .targets import Targets, find_targets, squared_distance, to_targets

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
    "Scale",
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
