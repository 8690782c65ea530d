"""Explanations: where in an image the classifier's evidence lies; amortized ones in one forward pass."""

from .amortized import RbfExplainer, rbf_saliency
from .base import Explainer, Saliency
from .checked import CheckedExplainer, check_images, check_labels, explaining, signed_max_abs, to_inputs
from .drift import Drift, drift_between, explanations
from .learn import SelectorQuality, judge_selector, refuse_collapsed, train_selector
from .members import MEMBERS, Member, make_explainer, needs_weights
from .predictor import Predictor, new_predictor, train_predictor
from .prunegrad import PruneGrad, PrunePGD, Pruning, calibrate_percent
from .pyramid import Capture, Scale, find_scales
from .rbf import REFERENCE_SIDE, rbf_map
from .selector import ExplainedClassifier, Selector

__all__ = [
    "MEMBERS",
    "REFERENCE_SIDE",
    "Capture",
    "CheckedExplainer",
    "Drift",
    "ExplainedClassifier",
    "Explainer",
    "Member",
    "Predictor",
    "PruneGrad",
    "PrunePGD",
    "Pruning",
    "RbfExplainer",
    "Saliency",
    "Scale",
    "Selector",
    "SelectorQuality",
    "calibrate_percent",
    "check_images",
    "check_labels",
    "drift_between",
    "explaining",
    "explanations",
    "find_scales",
    "judge_selector",
    "make_explainer",
    "needs_weights",
    "new_predictor",
    "rbf_map",
    "rbf_saliency",
    "refuse_collapsed",
    "signed_max_abs",
    "to_inputs",
    "train_predictor",
    "train_selector",
]
