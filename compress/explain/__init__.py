"""Amortized explanations: where in an image the classifier's evidence lies, in one forward pass."""

from .base import Explainer, Saliency
from .drift import Drift, drift_between, explanations
from .learn import SelectorQuality, judge_selector, refuse_collapsed, train_selector
from .predictor import Predictor, new_predictor, train_predictor
from .pyramid import Capture, Scale, find_scales
from .rbf import REFERENCE_SIDE, rbf_map
from .selector import ExplainedClassifier, Selector

__all__ = [
    "REFERENCE_SIDE",
    "Capture",
    "Drift",
    "ExplainedClassifier",
    "Explainer",
    "Predictor",
    "Saliency",
    "Scale",
    "Selector",
    "SelectorQuality",
    "drift_between",
    "explanations",
    "find_scales",
    "judge_selector",
    "new_predictor",
    "rbf_map",
    "refuse_collapsed",
    "train_predictor",
    "train_selector",
]
